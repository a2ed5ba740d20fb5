"""The training loop: steps over the global batch, validations, telemetry, and the moments to write a checkpoint.

In: a ``Training`` (model, optimizer, schedule, corpus, processes) and the step to start after. Out: records, told to
observers as they appear. Everything random in a step follows from the seed and the number of the step, so a loop that
starts at step 100 does what one that came there would do. Times are wall-clock seconds of training alone; validation
is left out of them. No file is written here and nothing printed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from examples.gpt2.config import LoopConfig
from examples.gpt2.curvature import find_estimator
from examples.gpt2.data import Batch, Corpus, draw_batch, share_batch, spread_batches
from examples.gpt2.inputs import find_activations, find_clip, show_loss
from examples.gpt2.logs import CommunicationRecord, StepRecord, TelemetryRecord, ValidationRecord
from examples.gpt2.model import GPT
from examples.gpt2.processes import Processes
from examples.gpt2.sharding import measure_communication, reshard, whole
from examples.gpt2.telemetry import StepProbe

WHOLE_STEP = 1_000_003
"""In place of a piece's number: the random numbers that all processes share in a step."""


class Observer:
    """What a run tells while it goes on; the methods do nothing until overridden."""

    def on_step(self, record: StepRecord) -> None:
        """Called after each step."""

    def on_validation(self, record: ValidationRecord) -> None:
        """Called after each validation."""

    def on_telemetry(self, record: TelemetryRecord) -> None:
        """Called after a step whose update was measured."""

    def on_communication(self, record: CommunicationRecord) -> None:
        """Called after a validation where the optimizer has parameters in shards."""


class Loss(nn.Module):
    """The model's mean loss as a module of its own, which is what DDP and torch.compile wrap."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(inputs, targets)


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """Everything that a step touches; ``loss`` is ``Loss`` of ``model``, wrapped for processes and compiled."""

    model: GPT
    loss: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    corpus: Corpus
    config: LoopConfig
    processes: Processes


def wrap_loss(model: GPT, config: LoopConfig, processes: Processes) -> nn.Module:
    """The module that computes ``model``'s loss in all processes; DDP averages its gradients over them.

    A model in shards does so by itself, at each part of a step, so that no gradient is ever kept whole.
    """
    loss: nn.Module = Loss(model)
    if processes.world > 1 and processes.mesh is None:
        loss = DistributedDataParallel(loss, device_ids=None if processes.device.type == "cpu" else [processes.device])
    if config.compile:
        loss.compile()
    return loss


def train(
    training: Training,
    *,
    after: int,
    elapsed_s: float,
    observers: Sequence[Observer] = (),
    keep: Callable[[int, float], None] = lambda step, elapsed_s: None,
) -> bool:
    """Take the steps that follow step ``after``, ``elapsed_s`` seconds into the run; whether all losses were finite.

    Validates at the start, every so often, and at the end. ``keep`` is called with the step and the seconds when a
    checkpoint is due. A loss that is not finite ends the run after it was recorded.
    """
    config = training.config
    held_out = _validation_batches(training)

    def validate_now(step: int) -> bool:
        record = ValidationRecord(step, validate(training, held_out), elapsed_s)
        sent = measure_communication(training.optimizer, step, training.processes) if step else None
        for observer in observers:
            observer.on_validation(record)
            if sent:
                observer.on_communication(sent)
        return math.isfinite(record.loss)

    if not after and not validate_now(0):
        return False
    for step in range(after + 1, config.steps + 1):
        record, telemetry = take_step(training, step, elapsed_s)
        elapsed_s = record.elapsed_s
        for observer in observers:
            observer.on_step(record)
            if telemetry:
                observer.on_telemetry(telemetry)
        if not math.isfinite(record.loss):
            return False
        is_last = step == config.steps
        if (step % config.validate_every == 0 or is_last) and not validate_now(step):
            return False
        if step % config.checkpoint_every == 0 or is_last:
            keep(step, elapsed_s)
    return True


def take_step(training: Training, step: int, started_s: float) -> tuple[StepRecord, TelemetryRecord | None]:
    """Step number ``step``, which begins ``started_s`` into the run; clipping is timed as backward."""
    config, optimizer, processes = training.config, training.optimizer, training.processes
    lr = float(optimizer.param_groups[0]["lr"])
    start = _now(processes)
    optimizer.zero_grad(set_to_none=True)
    loss = _differentiate(training, step)
    norm = whole(nn.utils.clip_grad_norm_(training.model.parameters(), config.clip))
    middle = _now(processes)
    is_due = config.telemetry_every > 0 and step % config.telemetry_every == 0
    probe = StepProbe(training.model) if is_due and (processes.is_first or processes.mesh) else None
    before_optimizer = _now(processes) if probe else middle
    _seed(config.seed, step, WHOLE_STEP)
    _update_curvature(training, step)
    _show_inputs(training, step)
    show_loss(optimizer, loss)
    optimizer.step()
    _clip_logits(training, step)
    end = _now(processes)
    telemetry = probe.measure(step) if probe else None
    training.schedule.step()
    total_s = _now(processes) - start
    record = StepRecord(
        step=step,
        loss=processes.mean(loss),
        lr=lr,
        gradient_norm=norm.item(),
        forward_backward_s=middle - start,
        optimizer_s=end - before_optimizer,
        elapsed_s=started_s + total_s,
    )
    return record, telemetry


def _differentiate(training: Training, step: int) -> float:
    """Gradients of the mean loss over the global batch, in every process; the mean loss of this one's share."""
    config, processes = training.config, training.processes
    losses = []
    for piece in range(config.accumulate):
        part = share_batch(
            config.batch, rank=processes.rank, world=processes.world, piece=piece, pieces=config.accumulate
        )
        batch = _draw(training, step, part)
        place = processes.rank * config.accumulate + piece
        is_last = piece == config.accumulate - 1
        _seed(config.seed, step, place)
        with _quiet(training.loss, is_last):
            with _autocast(config, processes):
                loss = training.loss(batch.inputs, batch.targets)
            (loss / config.accumulate).backward()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def _update_curvature(training: Training, step: int) -> None:
    """Let an optimizer that wants it see the curvature on the first sequences of the global batch."""
    config = training.config
    estimate = find_estimator(training.model, training.optimizer)
    if estimate is None or (step - 1) % config.curvature_every:
        return
    batch = _shown(training, step)
    generator = torch.Generator(training.processes.device).manual_seed(_mix(config.seed, step, WHOLE_STEP))
    with _autocast(config, training.processes):
        estimate(batch, generator)


def _show_inputs(training: Training, step: int) -> None:
    """Let an optimizer that wants them see the inputs of layers, in the rhythm of the curvature."""
    show = find_activations(training.model, training.optimizer)
    if show is not None and (step - 1) % training.config.curvature_every == 0:
        with _autocast(training.config, training.processes):
            show(_shown(training, step))


def _clip_logits(training: Training, step: int) -> None:
    """Let an optimizer that limits attention logits see those after its step."""
    show = find_clip(training.model, training.optimizer)
    if show is not None:
        with _autocast(training.config, training.processes):
            show(_shown(training, step))


def _shown(training: Training, step: int) -> Batch:
    """The first sequences of the global batch, the same on every process."""
    return _draw(training, step, slice(0, min(training.config.curvature_batch, training.config.batch)))


@torch.no_grad()
def validate(training: Training, batches: Sequence[Batch]) -> float:
    """Mean loss in nats per token over equally large ``batches`` of every process; the model's mode is restored."""
    model = training.model
    was_training = model.training
    model.eval()
    with _autocast(training.config, training.processes):
        losses = [model.loss(batch.inputs, batch.targets).item() for batch in batches]
    model.train(was_training)
    reshard(model)
    return training.processes.mean(statistics.fmean(losses))


def _validation_batches(training: Training) -> list[Batch]:
    config, processes = training.config, training.processes
    part = share_batch(config.batch, rank=processes.rank, world=processes.world)
    batches = spread_batches(
        training.corpus.validation,
        batches=config.validation_batches,
        batch=config.batch,
        context=training.model.config.context,
        part=part,
    )
    pieces = (piece for batch in batches for piece in _split(batch, config.accumulate))
    return [_moved(piece, processes) for piece in pieces]


def _split(batch: Batch, pieces: int) -> Iterator[Batch]:
    """``batch`` in as many parts as a training batch is accumulated from, for the memory that validation needs."""
    for inputs, targets in zip(batch.inputs.chunk(pieces), batch.targets.chunk(pieces), strict=True):
        yield Batch(inputs, targets)


def _draw(training: Training, step: int, part: slice) -> Batch:
    config, context = training.config, training.model.config.context
    tokens = training.corpus.train
    drawn = draw_batch(tokens, seed=config.seed, step=step, batch=config.batch, context=context, part=part)
    return _moved(drawn, training.processes)


def _moved(batch: Batch, processes: Processes) -> Batch:
    return Batch(batch.inputs.to(processes.device), batch.targets.to(processes.device))


def _autocast(config: LoopConfig, processes: Processes) -> AbstractContextManager[object]:
    if config.dtype == "float32":
        return nullcontext()
    return torch.autocast(processes.device.type, getattr(torch, config.dtype))


def _quiet(loss: nn.Module, is_last: bool) -> AbstractContextManager[object]:
    """All but the last part of a step leave gradients alone in their process; the last one averages them."""
    return loss.no_sync() if isinstance(loss, DistributedDataParallel) and not is_last else nullcontext()


def _seed(seed: int, step: int, place: int) -> None:
    """Let random numbers (dropout) depend on the step and the place in it alone."""
    torch.manual_seed(_mix(seed, step, place))


def _mix(seed: int, step: int, place: int) -> int:
    """A seed for torch that differs wherever one of the three does."""
    return int(np.random.SeedSequence((seed, step, place)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _now(processes: Processes) -> float:
    processes.synchronize()
    return time.perf_counter()
