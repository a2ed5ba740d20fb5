"""One run from its configuration to its result, in a folder of its own: built, resumed, trained, logged.

In: a ``RunConfig``, a folder, and the processes. Out: the log and the checkpoints in the folder, and a
``ResultRecord``. Starting a run again continues it from its newest checkpoint; a run that is finished is left as it is.
Whatever cannot go on is a ``RunError`` (or the error of the part it concerns), one sentence that says what to do.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from examples.gpt2.checkpoints import Checkpoint, find_checkpoints, read_checkpoint, write_checkpoint
from examples.gpt2.config import ModelConfig, RunConfig, describe_changes, write_config
from examples.gpt2.curvature import wants_hessian
from examples.gpt2.data import Corpus, load_corpus, share_batch
from examples.gpt2.logs import (
    CONFIG_FILE,
    LOG_FILE,
    ResultRecord,
    RunLog,
    RunRecord,
    is_done,
    read_config_file,
    read_run,
    summarize,
)
from examples.gpt2.loop import Observer, Training, train, wrap_loss
from examples.gpt2.model import build_model
from examples.gpt2.optimizers import build_optimizer, build_schedule, find_spec_text
from examples.gpt2.processes import Processes
from examples.gpt2.sharding import cut_model_state, cut_optimizer_state, gather, shard_model


class RunError(Exception):
    """A run that cannot start or go on; the message is one sentence."""


def run(
    config: RunConfig, folder: Path, processes: Processes, *, cache: Path, observers: Sequence[Observer] = ()
) -> ResultRecord:
    """Train as ``config`` says, from the newest checkpoint in ``folder`` if there is one; ``cache`` keeps tokens.

    A loss that is not finite ends the run: its result says that it diverged, and the last checkpoint is from before.
    """
    require_same_config(config, folder)
    require_shares(config, processes)
    if is_done(folder):
        return _result(folder)
    newest = _newest_checkpoint(folder)
    corpus = load_together(config, processes, cache)
    training = build_training(config, corpus, processes)
    if newest:
        _resume(training, newest, corpus)
    _train_in(folder, training, config, newest, observers)
    return _result(folder)


def load_together(config: RunConfig, processes: Processes, cache: Path) -> Corpus:
    """The corpus, encoded by the first process while the others wait."""
    if processes.is_first:
        corpus = load_corpus(config.data, context=config.model.context, cache=cache)
    processes.wait()
    return corpus if processes.is_first else load_corpus(config.data, context=config.model.context, cache=cache)


def build_training(config: RunConfig, corpus: Corpus, processes: Processes) -> Training:
    """Model, optimizer and schedule as they are before the first step."""
    model = build_model(fit_vocabulary(config.model, corpus), seed=config.loop.seed)
    if processes.mesh is None:
        model.to(processes.device)
    else:
        shard_model(model, processes.mesh)
    optimizer = build_optimizer(config.optimizer, model)
    if processes.mesh is not None and wants_hessian(optimizer):
        reason = "wants products with the Hessian, and a loss of shards is differentiated once alone"
        raise RunError(f"{config.optimizer.name} {reason}: train it without --shard")
    schedule = build_schedule(config.optimizer.schedule, optimizer, steps=config.loop.steps)
    loss = wrap_loss(model, config.loop, processes)
    return Training(model, loss, optimizer, schedule, corpus, config.loop, processes)


def require_shares(config: RunConfig, processes: Processes) -> None:
    """Refuse a batch that the processes cannot share evenly."""
    try:
        share_batch(config.loop.batch, world=processes.world, pieces=config.loop.accumulate)
    except ValueError as error:
        raise RunError(str(error)) from error


def fit_vocabulary(config: ModelConfig, corpus: Corpus) -> ModelConfig:
    """``config`` with room for the tokens of ``corpus``: its own vocabulary, or that of the corpus."""
    if config.vocab_size and config.vocab_size < corpus.vocab_size:
        raise RunError(
            f"{corpus.name} has {corpus.vocab_size} kinds of tokens, but the model only {config.vocab_size}: "
            "leave vocab_size at 0 to take that of the data"
        )
    return config if config.vocab_size else replace(config, vocab_size=corpus.vocab_size)


def count_state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors that ``optimizer`` keeps from step to step, in all processes that share them."""
    tensors = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def describe_machine(processes: Processes) -> dict[str, object]:
    """Where the run takes place, as far as it bears on its speed."""
    device = processes.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes.world,
        "mesh": "x".join(map(str, processes.mesh.shape)) if processes.mesh is not None else None,
        "system": platform.system(),
    }


# In the folder


def require_same_config(config: RunConfig, folder: Path) -> None:
    """Refuse a folder that belongs to a run of another configuration."""
    if not (folder / CONFIG_FILE).exists():
        if (folder / LOG_FILE).exists() or find_checkpoints(folder):
            raise RunError(f"{folder} holds a log or checkpoints without {CONFIG_FILE}: choose another folder")
        return
    changes = describe_changes(read_config_file(folder / CONFIG_FILE), config)
    if changes:
        raise RunError(f"{folder} holds another run ({'; '.join(changes)}): choose another folder, or empty this one")


def _newest_checkpoint(folder: Path) -> Checkpoint | None:
    found = find_checkpoints(folder)
    return read_checkpoint(found[-1]) if found else None


def _resume(training: Training, checkpoint: Checkpoint, corpus: Corpus) -> None:
    if checkpoint.corpus != corpus.fingerprint:
        raise RunError(f"{corpus.name} is not what it was when the checkpoint of step {checkpoint.step} was written")
    training.model.load_state_dict(cut_model_state(checkpoint.model, training.model))
    training.optimizer.load_state_dict(cut_optimizer_state(checkpoint.optimizer, training.optimizer))
    training.schedule.load_state_dict(dict(checkpoint.schedule))


def _train_in(
    folder: Path, training: Training, config: RunConfig, newest: Checkpoint | None, observers: Sequence[Observer]
) -> None:
    """Train and write log, checkpoints and result, in the first process; the others train and give it their shards."""
    after, elapsed_s = (newest.step, newest.elapsed_s) if newest else (0, 0.0)

    def keep(step: int, elapsed_s: float) -> None:
        checkpoint = _checkpoint(training, config, step, elapsed_s)
        if training.processes.is_first and all(bool(value.isfinite().all()) for value in checkpoint.model.values()):
            write_checkpoint(folder, checkpoint)

    if not training.processes.is_first:
        train(training, after=after, elapsed_s=elapsed_s, keep=keep)
        training.processes.wait()
        return
    with RunLog.resume(folder, after) if newest else RunLog.create(folder, _header(training, config)) as log:
        train(training, after=after, elapsed_s=elapsed_s, observers=(*observers, log), keep=keep)
        so_far = read_run(folder)
        log.write_result(
            summarize(
                so_far.steps,
                so_far.validations,
                tokens_per_step=so_far.header.tokens_per_step,
                optimizer_state_bytes=count_state_bytes(training.optimizer),
            )
        )
    training.processes.wait()


def _checkpoint(training: Training, config: RunConfig, step: int, elapsed_s: float) -> Checkpoint:
    return Checkpoint(
        step=step,
        elapsed_s=elapsed_s,
        config=write_config(config),
        corpus=training.corpus.fingerprint,
        model=gather(training.model.state_dict(), training.processes),
        optimizer=gather(training.optimizer.state_dict(), training.processes),
        schedule=training.schedule.state_dict(),
    )


def _header(training: Training, config: RunConfig) -> RunRecord:
    return RunRecord(
        name=config.optimizer.name,
        config=config,
        spec=find_spec_text(config.optimizer),
        parameters=training.model.config.count_parameters(),
        tokens_per_step=config.loop.batch * config.model.context,
        unit=training.corpus.unit,
        corpus=training.corpus.name,
        machine=describe_machine(training.processes),
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )


def _result(folder: Path) -> ResultRecord:
    result = read_run(folder).result
    assert result is not None, folder
    return result
