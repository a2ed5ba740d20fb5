"""Examples in other people's loops evaluate the averages of a Schedule-Free method, not the weights that it trains.

Beside each runs a plain loop with the reference, in which the average is a sequence of its own.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples.ecosystem.problem import BATCH, CLIP, make_held_out, make_model, make_rows
from optforge.generated import Constant, ScheduleFreeAdamW
from tests.examples.test_ecosystem import require_same_bits, weights_of
from tests.references.schedule_free_adamw import ScheduleFreeAdamW as Reference

STEPS = 8
EVALUATIONS = 4
HYPERS = {"lr": 2e-2, "warmup": 3}
ROUNDING = 1e-5
"""Of a loss: the reference sums in another order than kernels do, in float32."""

Loss = Callable[[], Tensor]


@torch.no_grad()
def mean_of(losses: Sequence[Loss]) -> float:
    return sum(loss().item() for loss in losses) / len(losses)


def replayed(model: nn.Module, steps: Sequence[Loss], held_out: Sequence[Loss]) -> tuple[Reference, list[list[float]]]:
    """The reference after the steps, and at each evaluation the losses of the averages and of what is trained."""
    reference, found = Reference(model.parameters(), **HYPERS), []
    for count, loss in enumerate((None, *steps)):
        if loss is not None:
            loss().backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            reference.step()
            reference.zero_grad()
        if count % (STEPS // EVALUATIONS) == 0:
            trained = mean_of(held_out), weights_of(model)
            put(model, [reference.mean[p] for p in model.parameters()])
            found.append([mean_of(held_out), trained[0]])
            put(model, trained[1])
    return reference, found


@torch.no_grad()
def put(model: nn.Module, weights: Sequence[Tensor]) -> None:
    for p, weight in zip(model.parameters(), weights, strict=True):
        p.copy_(weight)


def require_averages(found: Sequence[float], expected: Sequence[Sequence[float]]) -> None:
    """Each loss is that of the averages; after the first steps, these are far from what is trained."""
    assert len(found) == len(expected) == EVALUATIONS + 1
    for loss, (averaged, _) in zip(found, expected, strict=True):
        assert loss == pytest.approx(averaged, rel=ROUNDING)
    assert all(abs(averaged - trained) > 100 * ROUNDING * averaged for averaged, trained in expected[2:])


def losses_of(model: Any, rows: Tensor) -> list[Loss]:
    return [partial(model.loss, batch[:, :-1], batch[:, 1:]) for batch in rows.split(BATCH)]


@pytest.mark.peers
@pytest.mark.parametrize("framework", ["accelerate", "lightning"])
def test_evaluations_see_the_averages(framework: str, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    train = importlib.import_module(f"examples.ecosystem.schedule_free_{framework}").train
    model, plain, held_out = make_model(), make_model(), make_held_out()
    if framework == "lightning":
        options = {"enable_progress_bar": False, "default_root_dir": tmp_path}
        optimizer: Any = partial(ScheduleFreeAdamW, **HYPERS)
    else:
        optimizer, options = ScheduleFreeAdamW(model, **HYPERS), {}
    _, found = train(model, optimizer, make_rows(STEPS), held_out, steps=STEPS, **options)
    _, expected = replayed(plain, losses_of(plain, make_rows(STEPS)), losses_of(plain, held_out))
    require_averages(found, expected)


@pytest.mark.peers
def test_the_trainer_evaluates_and_saves_the_averages(tmp_path: Path) -> None:
    """The batches are those that Trainer drew."""
    pytest.importorskip("transformers")
    from examples.ecosystem.schedule_free_trainer import train
    from examples.ecosystem.trainer import make_gpt2

    model, plain = make_gpt2(), make_gpt2()
    seen: dict[bool, list[Loss]] = {True: [], False: []}  # in training and in evaluations

    def note(module: nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        seen[module.training].append(lambda: plain(**inputs).loss)

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    optimizer = ScheduleFreeAdamW(model, **HYPERS)
    _, found = train(model, optimizer, make_rows(STEPS), make_held_out(), steps=STEPS, folder=tmp_path)
    hook.remove()
    assert len(seen[True]) == STEPS and len(seen[False]) == 4 * (EVALUATIONS + 1)
    reference, expected = replayed(plain, seen[True], seen[False][:4])
    require_averages(found, expected)
    saved = type(model).from_pretrained(tmp_path)
    for p, q in zip(saved.parameters(), plain.parameters(), strict=True):
        mean = reference.mean[q]
        assert (p - mean).norm() <= 0.01 * (mean - q).norm()


@pytest.mark.peers
def test_the_trainer_goes_on_from_a_checkpoint_of_averages(tmp_path: Path) -> None:
    """Written after an evaluation, which the optimizer's state says; everything else is made anew."""
    pytest.importorskip("transformers")
    from examples.ecosystem.trainer import make_gpt2, make_trainer

    every = {"save_strategy": "steps", "save_steps": STEPS // 2, "eval_strategy": "steps", "eval_steps": STEPS // 2}
    start, whole, resumed = weights_of(make_gpt2()), make_gpt2(), make_gpt2()
    for model, origin in ((whole, None), (resumed, str(tmp_path / f"checkpoint-{STEPS // 2}"))):
        optimizer = ScheduleFreeAdamW(model, **HYPERS)
        schedule, held_out = Constant(optimizer), make_held_out()
        trainer = make_trainer(model, optimizer, schedule, make_rows(STEPS), held_out, folder=str(tmp_path), **every)
        trainer.train(resume_from_checkpoint=origin)
        assert all(state["eval_step"] == state["train_step"] + 1 for state in optimizer.state.values())
        optimizer.train()
    require_same_bits(resumed, whole, start)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["trainer", "lightning", "accelerate"])
def test_the_example_runs_and_its_averages_learn(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    importlib.import_module(f"examples.ecosystem.schedule_free_{name}").main()
    (found,) = re.findall(r"held out, with averaged weights: loss (.*)", capsys.readouterr().out)
    losses = list(map(float, found.split(", ")))
    assert len(losses) == EVALUATIONS + 1 and losses == sorted(losses, reverse=True) and losses[-1] < 1.5
    assert not list(tmp_path.iterdir())
