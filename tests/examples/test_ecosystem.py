"""Examples of generated optimizers in other people's loops: each ends at the weights of a plain loop, to the last bit.

The loops are run for a few steps on the examples' own model and rows. Where a loop rounds on its own, as compiled
graphs do, the test says how far it may be.
"""

from __future__ import annotations

import importlib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from examples.ecosystem.problem import BATCH, CLIP, SHAPE, make_model, make_rows
from examples.gpt2.huggingface import to_state
from examples.gpt2.model import GPT
from optforge.generated import NAMO, NAMOD, RMNP, UBA, AdamW, Muon, Nora, NorMuon

ROOT = Path(__file__).parents[2]
STEPS = 8
LR = 2e-2

Loss = Callable[[], Tensor]


def losses_of(model: GPT) -> list[Loss]:
    """The loss of every batch in order."""
    return [partial(model.loss, batch[:, :-1], batch[:, 1:]) for batch in make_rows(STEPS).split(BATCH)]


def train_plainly(
    model: nn.Module,
    optimizer: Optimizer,
    losses: Sequence[Loss],
    schedule: LRScheduler | None = None,
    *,
    accumulate: int = 1,
    clipped: Sequence[nn.Parameter] | None = None,
) -> None:
    """The loop that every other is compared with; gradients of ``accumulate`` losses make one step.

    ``clipped`` is the order in which gradients are added up to their norm, if it is not the model's.
    """
    parameters = list(model.parameters()) if clipped is None else clipped
    for index, loss in enumerate(losses, start=1):
        (loss() / accumulate).backward()
        if index % accumulate == 0:
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad()
            if schedule is not None:
                schedule.step()


def weights_of(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def require_same_bits(found: nn.Module, expected: nn.Module, start: Sequence[Tensor]) -> None:
    """Equal weights, every one of which has moved."""
    for name, mine, other, before in zip(
        dict(expected.named_parameters()), weights_of(found), weights_of(expected), start, strict=True
    ):
        assert torch.equal(mine, other), name
        assert not torch.equal(other, before), f"{name} did not move"


def scheduled(make: Callable[..., Optimizer], model: nn.Module, steps: int = STEPS) -> tuple[Optimizer, LRScheduler]:
    optimizer = make(model, lr=LR)
    return optimizer, UBA(optimizer, total=steps, warmup=2)


every_class = pytest.mark.parametrize("make", [NAMO, Muon, AdamW], ids=lambda make: make.__name__)


# plain torch


def scale_by_hand(model: GPT, optimizer: Optimizer, losses: Sequence[Loss], scale: float) -> int:
    """What a GradScaler is for, without one; returns how many steps were left out."""
    skipped = 0
    for loss in losses:
        with torch.autocast("cpu", torch.float16):
            value = loss()
        (value * scale).backward()
        for parameter in model.parameters():
            parameter.grad.mul_(1 / scale)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if all(parameter.grad.isfinite().all() for parameter in model.parameters()):
            optimizer.step()
        else:
            skipped, scale = skipped + 1, scale / 2
        optimizer.zero_grad()
    return skipped


@every_class
def test_mixed_precision_with_a_scaler(make: type[Optimizer]) -> None:
    """A scale at which float16 overflows first, so that steps are left out; then it is halved until they are made."""
    from examples.ecosystem.amp import train

    start, model, plain = weights_of(make_model()), make_model(), make_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    found = train(model, make(model, lr=LR), scaler, make_rows(STEPS))
    skipped = scale_by_hand(plain, make(plain, lr=LR), losses_of(plain), scale=2.0**22)
    assert 0 < skipped < STEPS and scaler.get_scale() == 2.0 ** (22 - skipped)
    assert len(found) == STEPS and found[-1] < found[0]
    require_same_bits(model, plain, start)


def compiled_and_plain(make: Callable[..., Optimizer], backend: str) -> tuple[GPT, GPT, list[Tensor]]:
    """Two models trained alike, one of them under ``torch.compile``, and the weights from which both started."""
    from examples.ecosystem.compiled import train

    torch._dynamo.reset()
    start, model, plain = weights_of(make_model()), make_model(), make_model()
    found = train(model, make(model, lr=LR), make_rows(STEPS), backend=backend)
    assert len(found) == STEPS and found[-1] < found[0]
    train_plainly(plain, make(plain, lr=LR), losses_of(plain))
    return model, plain, start


@pytest.mark.wide
@every_class
def test_a_step_in_graphs(make: type[Optimizer]) -> None:
    """The operations of the graphs are run as they are."""
    require_same_bits(*compiled_and_plain(make, "aot_eager"))


@pytest.mark.wide
def test_a_step_in_compiled_graphs() -> None:
    """Compiled graphs sum in another order: 5e-5 of the way of all weights together was measured.

    Single weights say nothing: the gradient of the keys' bias is zero but for rounding, which AdamW makes large.
    """
    model, plain, start = compiled_and_plain(partial(Muon, backend="compile"), "inductor")
    lists = (weights_of(model), weights_of(plain), start)
    found, expected, before = (torch.cat([weight.flatten() for weight in weights]) for weights in lists)
    assert (found - expected).norm() <= 2e-4 * (expected - before).norm()


# frameworks


@pytest.mark.peers
@every_class
def test_hugging_face_trainer(make: type[Optimizer]) -> None:
    """The batches are those that Trainer drew; it divides the sum of their losses by the tokens, and so do we."""
    pytest.importorskip("transformers")
    from examples.ecosystem.trainer import make_gpt2, train

    model, plain = make_gpt2(), make_gpt2()
    plain.load_state_dict(model.state_dict())
    start, seen = weights_of(model), []
    hook = model.register_forward_pre_hook(lambda _, args, inputs: seen.append((args, dict(inputs))), with_kwargs=True)
    found = train(model, *scheduled(make, model), make_rows(STEPS))
    hook.remove()
    losses = [partial(lambda args, inputs: plain(*args, **inputs).loss, *each) for each in seen]
    optimizer, schedule = scheduled(make, plain)
    train_plainly(plain, optimizer, losses, schedule)
    assert len(found) == len(seen) == STEPS and found[-1] < found[0]
    require_same_bits(model, plain, start)


@pytest.mark.peers
@every_class
def test_hugging_face_trainer_resumes(make: type[Optimizer], tmp_path: Path) -> None:
    """From its checkpoint of the fourth step, with everything else made anew."""
    pytest.importorskip("transformers")
    from examples.ecosystem.trainer import make_gpt2, make_trainer

    saving: dict[str, Any] = {"folder": str(tmp_path), "save_strategy": "steps", "save_steps": STEPS // 2}
    start, whole, resumed = weights_of(make_gpt2()), make_gpt2(), make_gpt2()
    make_trainer(whole, *scheduled(make, whole), make_rows(STEPS), **saving).train()
    trainer = make_trainer(resumed, *scheduled(make, resumed), make_rows(STEPS), **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    assert trainer.state.global_step == STEPS
    require_same_bits(resumed, whole, start)


@pytest.mark.peers
@every_class
def test_lightning(make: type[Optimizer], tmp_path: Path) -> None:
    """Lightning adds up the gradients to be clipped group by group."""
    pytest.importorskip("lightning")
    from examples.ecosystem.lightning_loop import train

    start, model, plain = weights_of(make_model()), make_model(), make_model()
    schedule = partial(UBA, total=STEPS, warmup=2)
    quiet = {"enable_progress_bar": False, "default_root_dir": tmp_path}
    found = train(model, partial(make, lr=LR), schedule, make_rows(STEPS), **quiet)
    optimizer, schedule = scheduled(make, plain)
    by_group = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    train_plainly(plain, optimizer, losses_of(plain), schedule, clipped=by_group)
    assert len(found) == STEPS and found[-1] < found[0]
    require_same_bits(model, plain, start)


@pytest.mark.peers
def test_a_trainer_that_makes_the_optimizer(tmp_path: Path) -> None:
    """A class gets tensors without names, and warns of the table in front; a function gets the model."""
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(vocab_size=1000, n_positions=32, n_layer=2, n_embd=32, n_head=2)

    def made(first: Any) -> Optimizer:
        settings = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
        trainer = transformers.Trainer(
            transformers.GPT2LMHeadModel(shape), settings, optimizer_cls_and_kwargs=(first, {"lr": 0.5})
        )
        return trainer.create_optimizer()

    with pytest.warns(UserWarning, match=r"also those of shape \(1000, 32\), which look like tables"):
        by_shape = made(Muon)
    assert len(by_shape.param_groups) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_role = made(lambda: Muon)
    assert {group["rule"]: group["lr"] for group in by_role.param_groups} == dict.fromkeys(
        ("matrix", "embedding", "vector"), 0.5
    )
    assert next(group["transposed"] for group in by_role.param_groups if group["rule"] == "matrix")


@pytest.mark.peers
@every_class
def test_accelerate(make: type[Optimizer]) -> None:
    pytest.importorskip("accelerate")
    from examples.ecosystem.accelerate_loop import ACCUMULATE, train

    start, model, plain = weights_of(make_model()), make_model(), make_model()
    found = train(model, *scheduled(make, model, STEPS // ACCUMULATE), make_rows(STEPS))
    optimizer, schedule = scheduled(make, plain, STEPS // ACCUMULATE)
    train_plainly(plain, optimizer, losses_of(plain), schedule, accumulate=ACCUMULATE)
    assert len(found) == STEPS
    require_same_bits(model, plain, start)


@pytest.mark.peers
@pytest.mark.parametrize("make", [Muon, NAMO, NAMOD, NorMuon, Nora, RMNP, AdamW], ids=lambda make: make.__name__)
def test_conv1d_steps_as_the_linear_layer_does(make: type[Optimizer]) -> None:
    """Three steps of GPT-2 in ``transformers`` (inputs x outputs) and of ours (nn.Linear), both in float64.

    Products of the transposed are summed in another order: 1e-13 of the size of the step was measured.
    """
    pytest.importorskip("transformers")
    from examples.ecosystem.trainer import make_gpt2

    theirs, ours = make_gpt2().double(), GPT(SHAPE).double()
    ours.load_state_dict(in_our_layout(theirs))
    optimizers = [make(theirs, lr=LR), make(ours, lr=LR)]
    for batch in make_rows(3).split(BATCH):
        before = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
        logits = [theirs(input_ids=batch[:, :-1]).logits, ours(batch[:, :-1])]
        for model_logits, optimizer in zip(logits, optimizers, strict=True):
            nn.functional.cross_entropy(model_logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        found = in_our_layout(theirs)
        for name, parameter in ours.named_parameters():
            step = (parameter.detach() - before[name]).norm()
            print(name, (found[name] - parameter).norm().item() / step)
            assert step > 0 and (found[name] - parameter).norm() <= 1e-6 * step, name


def in_our_layout(theirs: nn.Module) -> dict[str, Tensor]:
    weights = {name.removeprefix("transformer."): tensor.detach() for name, tensor in theirs.state_dict().items()}
    return to_state(weights, SHAPE)


# as programs


@pytest.mark.parametrize(
    "name",
    [
        "amp",
        pytest.param("compiled", marks=pytest.mark.wide),
        *(pytest.param(name, marks=pytest.mark.peers) for name in ("trainer", "lightning_loop", "accelerate_loop")),
    ],
)
def test_the_example_runs_and_learns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    importlib.import_module(f"examples.ecosystem.{name}").main()
    first, last = re.search(
        r"loss ([\d.]+) at the first of 60 steps, ([\d.]+) at the last", capsys.readouterr().out
    ).groups()
    assert float(first) == pytest.approx(math.log(SHAPE.vocab_size), abs=0.2)
    assert float(last) < 1.5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "ecosystem").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 100
