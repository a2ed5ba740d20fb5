"""Specs of published methods beside trajectories that hand-written float64 references took.

`manifest.json` has a line for each spec: the optimizer, its hypers, and the shapes; `SPEC_RxC.npz` holds `weight0`,
`grads` and `weights`. What agrees less than to 1e-9 of a step says so. Specs without a line there take what comes by
events or from several parameters; they compile.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optforge
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import check_spec
from tests.support.trials import History, Interpreted, worst_error

FOLDER = Path(__file__).parent
ROWS: list[dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
OTHERS = sorted({path.stem for path in FOLDER.glob("*.opt")} - {row["spec"] for row in ROWS})
TOLERANCE = 1e-9


@cache
def trajectory(spec: str, shape: str) -> tuple[list[torch.Tensor], History]:
    """Gradients, and the weights before and after each step."""
    with np.load(FOLDER / f"{spec}_{shape}.npz") as data:
        weights = [data["weight0"], *data["weights"]]
        return [torch.from_numpy(g) for g in data["grads"]], [{"w": torch.from_numpy(w)} for w in weights]


def steps(optimizer: Any, grads: list[torch.Tensor]) -> History:
    (p,) = optimizer.param_groups[0]["params"]
    history = [{"w": p.detach().clone()}]
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
        history.append({"w": p.detach().clone()})
    return history


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["spec"])
def test_steps_of_interpreter_and_class_are_those_of_the_reference(row: dict[str, Any]) -> None:
    path, hypers = FOLDER / f"{row['spec']}.opt", row.get("hypers", {})
    cls = optforge.load(path, row["optimizer"])
    whole = check_spec(path).require()
    program = ir.Program("", tuple(each for each in whole.declarations if each.name == row["optimizer"]))
    for shape in row["shapes"]:
        grads, expected = trajectory(row["spec"], shape)
        ours, theirs = (nn.Parameter(expected[0]["w"].clone()) for _ in range(2))
        found = {
            "class": steps(cls([{"params": [ours], "rule": "matrix"}], **hypers), grads),
            "oracle": steps(Interpreted(program, [("matrix", [theirs])], **hypers), grads),
        }
        for who, history in found.items():
            assert worst_error(history, expected) <= row.get("agrees_to", TOLERANCE), (who, shape)


@pytest.mark.parametrize("spec", OTHERS)
def test_others_compile(spec: str) -> None:
    snapshot = check_spec(FOLDER / f"{spec}.opt")
    assert not [each for each in snapshot.diagnostics if each.severity == "error"]


def test_every_trajectory_is_looked_at() -> None:
    named = {f"{row['spec']}_{shape}.npz" for row in ROWS for shape in row["shapes"]}
    assert {path.name for path in FOLDER.glob("*.npz")} == named
