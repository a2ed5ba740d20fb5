"""Loaded classes, and optimizers of them, where pickle takes them: each keeps the spec that it is of."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optforge
from optforge.compiler.load import compile_source
from optforge.compiler.modules import module_of
from tests.runtime.test_contract import same
from tests.support.classes import set_gradients

DOWN = """
optimizer Way:
    hyper lr = 0.1
    for tensor:
        m = ema(grad, 0.9)
        weight <- weight - lr * m
"""
UP = DOWN.replace("weight - lr", "weight + lr")
EXTENDED = "optimizer Far extends Way:\n    for tensor:\n        m = 2 * super\n"


def parameters() -> list[Tensor]:
    return [nn.Parameter(torch.arange(float(n)) - 1) for n in (3, 4)]


def stepped(optimizer: Any, steps: range) -> Any:
    params = optimizer.param_groups[0]["params"]
    for t in steps:
        set_gradients(params, t)
        optimizer.step()
    return optimizer


def test_a_class_is_one_object_for_one_text_however_it_travels():
    cls = compile_source(DOWN).Way
    assert pickle.loads(pickle.dumps(cls)) is cls is copy.deepcopy(cls)
    assert compile_source(UP).Way is not cls and compile_source(DOWN, "elsewhere.opt").Way is not cls
    assert type(optforge.load("AdamW")(parameters())).__name__ == "AdamW"


class Mine(compile_source(DOWN).Way):  # type: ignore[misc]
    """A class that extends a loaded one in Python."""


def test_what_extends_a_loaded_class_in_python_is_found_by_its_name():
    assert pickle.loads(pickle.dumps(Mine)) is Mine
    assert b"optimizer" not in pickle.dumps(Mine)


def test_optimizers_of_loaded_classes_are_copied_pickled_and_saved_whole():
    optimizer = stepped(compile_source(DOWN).Way(parameters()), range(2))
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), torch.load(file, weights_only=False)]
    stepped(optimizer, range(2, 4))
    for other in others:
        assert type(other) is type(optimizer)
        assert same(stepped(other, range(2, 4)).state_dict(), optimizer.state_dict())


RESTORE = """
import pickle, sys
import torch
import optforge
sys.path.insert(0, {root!r})
from tests.load.test_modules import stepped
others = [optforge.load({up!r})]  # which a class that is found by its number would be taken for
optimizer, cls, far = pickle.load(open({path!r}, "rb"))
assert cls is type(optimizer) and cls not in others and far is not cls
torch.save(stepped(optimizer, range(2, 4)).state_dict(), {result!r})
"""


def test_a_process_that_has_loaded_another_spec_restores_the_one_that_was_pickled(tmp_path):
    """Also if the files of the spec are gone."""
    down, up, far = (tmp_path / f"{name}.opt" for name in ("down", "up", "far"))
    down.write_text(DOWN, encoding="utf-8")
    up.write_text(UP.replace("Way", "Other"), encoding="utf-8")
    far.write_text(EXTENDED, encoding="utf-8")
    optimizer = stepped(optforge.load(down)(parameters()), range(2))
    path, result = tmp_path / "pickled", tmp_path / "result"
    path.write_bytes(pickle.dumps((optimizer, type(optimizer), optforge.load(far))))
    down.unlink()
    far.unlink()
    program = RESTORE.format(root=str(Path(__file__).parents[2]), up=str(up), path=str(path), result=str(result))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(torch.load(result), stepped(optimizer, range(2, 4)).state_dict())


def train_in_a_process(optimizer: Any, results: Any) -> None:
    state = stepped(optimizer, range(2, 4)).state_dict()
    results.put(pickle.dumps(state))


def test_a_live_optimizer_is_sent_to_a_spawned_process():
    """What sends tensors moves them to shared memory; this process goes on with the state that it has."""
    optimizer = stepped(compile_source(DOWN).Way(parameters()), range(2))
    expected = stepped(copy.deepcopy(optimizer), range(2, 4)).state_dict()
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=train_in_a_process, args=(optimizer, results))
    process.start()
    found = pickle.loads(results.get(timeout=120))
    process.join()
    assert process.exitcode == 0 and same(found, expected)
    assert same(stepped(optimizer, range(2, 4)).state_dict()["state"], expected["state"])


def test_a_text_that_cannot_run_leaves_no_module():
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            module_of("1 / 0\n", "broken")
    assert not [name for name in set(sys.modules) - before if "_loaded_" in name]
