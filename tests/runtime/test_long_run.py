"""Long runs, threads and processes: no drift, no growth, and no optimizer that disturbs another."""

from __future__ import annotations

import copy
import gc
import math
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, multiprocessing, nn
from torch.utils._python_dispatch import TorchDispatchMode

import optforge.generated
from optforge.generated import SGD, UBA, AdamW, Muon
from optforge.runtime import iterate_in, orthogonalize
from optforge.runtime.execution.graphs import _forget_graphs
from tests.references import REFERENCES
from tests.runtime import hogwild
from tests.runtime.execution.test_faults import all_same, params_of, values
from tests.specs.test_agreement import program
from tests.support.classes import build, groups, parameters, set_gradients
from tests.support.handwritten import Blend
from tests.support.trials import Interpreted


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def few_objects():
    """What is there already is not looked at again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# -- what a step costs, counted ----------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def work_of_a_step(optimizer: Any) -> tuple[int, int]:
    """The operations of torch and the calls of Python functions in a step; both are the same on any machine."""
    with Operations() as operations:
        optimizer.step()
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    gc.disable()  # what it would call at some step belongs to no step
    sys.setprofile(count)
    try:
        optimizer.step()
    finally:
        sys.setprofile(None)
        gc.enable()
    return operations.count, calls


def held() -> tuple[int, int]:
    """How many objects there are, and how many bytes the tensors among them have, storages counted once."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [x for x in objects if type(x) in (Tensor, nn.Parameter)]
    storages: dict[int, int] = {}
    for storage in (x.untyped_storage() for x in tensors):  # those of states begin within that of their buffer
        storages[storage.data_ptr()] = max(storages.get(storage.data_ptr(), 0), storage.nbytes())
    return len(objects), sum(storages.values())


# -- drift -------------------------------------------------------------------------------------------------------------

LONG = 100_000
# Hypers that float32 holds exactly, with 1 - beta: rounded they would be other hypers, and a beta2 of 0.999 that is off
# by eps is one of 1 - beta2 that is off by 1000 eps, the same at every step. A weight decay would have errors decay,
# and its product with a weight that moves slowly is rounded the same way for hundreds of steps (in torch's AdamW too).
EXACT = {
    "AdamW": {"lr": 2.0**-10, "weight_decay": 0.0, "beta1": 1 - 2.0**-3, "beta2": 1 - 2.0**-10},
    "Nora": {"lr": 2.0**-10, "weight_decay": 0.0, "beta": 1 - 2.0**-4},
    "Muon": {"lr": 2.0**-10, "weight_decay": 0.0, "beta": 1 - 2.0**-4},
}


@pytest.mark.wide
@pytest.mark.parametrize(
    "name, dtype",
    [("AdamW", torch.float32), ("AdamW", torch.float64), ("Nora", torch.float32), ("Muon", torch.float64)],
)
def test_a_hundred_thousand_steps_do_not_drift_from_the_oracle(name, dtype):
    """And each step costs as many operations and calls at the end as at the beginning."""
    require_no_drift(name, dtype)


def require_no_drift(name: str, dtype: torch.dtype) -> None:
    """Roundings are as often up as down, so that their sum grows with the root of the number of steps.

    A step rounds the weight by eps of its norm and has itself an error of SENSITIVITY times eps. What is wrong at every
    step, be it in the last digit, grows with the number of steps instead: to 300 times as much.
    """
    eps, sensitivity = torch.finfo(dtype).eps, REFERENCES[name].SENSITIVITY
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    p, q = nn.Parameter(start.to(dtype, copy=True)), nn.Parameter(start.double())
    optimizer = getattr(optforge.generated, name)([p], **EXACT[name])
    oracle = Interpreted(program(name), [("matrix", [q])], **EXACT[name])
    generator = torch.Generator().manual_seed(1)
    size = longest = 0.0
    first_work, first_held = None, None
    for step in range(1, LONG + 1):
        grad = torch.randn(4, 3, generator=generator)
        p.grad, q.grad = grad.to(dtype), grad.double()
        before = q.detach().clone()
        optimizer.step()
        oracle.step()
        if step in (1000, 10_000, LONG):
            size = max(size, float(q.detach().norm()))
            longest = max(longest, float((q.detach() - before).norm()))
            bound = eps * (math.sqrt(step) * (size + sensitivity * longest) + sensitivity * size)
            assert float((p.detach().double() - q.detach()).norm()) <= bound, step
        if step == 1000:
            first_held, first_work = held(), work_of_a_step(copied_apart(optimizer))
    assert work_of_a_step(copied_apart(optimizer)) == first_work
    assert abs(held()[0] - first_held[0]) < 100 and held()[1] == first_held[1]
    assert float((q.detach() - start).norm()) > 100 * longest


def copied_apart(optimizer: Any) -> Any:
    """A copy of the optimizer and of its parameters, all of which have gradients."""
    other = copy.deepcopy(optimizer)
    set_gradients(params_of(other), 0)
    return other


# -- memory ------------------------------------------------------------------------------------------------------------

CYCLE = 420  # steps after which everything that happens to an optimizer here happens again


def live(optimizer: Any, schedule: Any, t: int) -> None:
    """What may happen around a step: gradients and groups come and go, a checkpoint is saved and loaded."""
    params = params_of(optimizer)
    set_gradients(params, 0)
    for i in range(len(params)):
        if (i + 1) * t % 7 == 1:
            params[i].grad = None
    if t % 20 == 0:
        late = nn.Parameter(torch.ones(3, 3))
        late.grad = torch.full_like(late, 0.5)
        optimizer.add_param_group({"params": [late]})
    optimizer.step()
    if len(optimizer.param_groups) == len(schedule.base_lrs):  # schedules know the groups they began with
        schedule.step()
    if t % 20 == 2:
        for p in optimizer.param_groups.pop()["params"]:
            optimizer.state.pop(p, None)
    if t % 60 == 3:
        optimizer.load_state_dict(optimizer.state_dict())


def lived(cls: type[Any], steps: int) -> list[tuple[int, int, int]]:
    """The objects, the bytes of tensors and, if they are traced, of Python at the end of every cycle but the first."""
    made = groups(cls)
    optimizer = build(cls, [{**group, "params": group["params"][:2]} for group in (made[0], made[-1])])
    schedule = UBA(optimizer, total=10**6, warmup=10)
    levels = []
    for t in range(1, steps + 1):
        live(optimizer, schedule, t)
        if t % CYCLE == 5 and t > CYCLE:
            levels.append((*held(), tracemalloc.get_traced_memory()[0]))
    return levels


@pytest.mark.parametrize("cls", [AdamW, Muon])
def test_memory_returns_to_its_level(cls):
    """A tensor kept per step, or per thing that has come and gone, would be hundreds, or tens, in a cycle."""
    (objects, tensors, _), (objects_later, tensors_later, _) = lived(cls, 2 * CYCLE + 5)
    assert tensors_later == tensors and abs(objects_later - objects) < 15


@pytest.mark.wide
def test_memory_is_at_its_level_after_ten_thousand_steps():
    """What Python keeps for reuse grows by some kilobytes in all; one object kept per step would be 28 bytes a step."""
    tracemalloc.start()
    try:
        levels = lived(Muon, 24 * CYCLE + 5)
    finally:
        tracemalloc.stop()
    objects, tensors, python = zip(*levels, strict=True)
    assert len(levels) == 24 and len(set(tensors)) == 1
    assert max(objects) - min(objects) < 15
    assert python[-1] - python[0] < 8 * 23 * CYCLE


@pytest.mark.wide
def test_ever_new_sets_of_gradients_are_not_all_remembered():
    params = [nn.Parameter(torch.ones(2, 2) * i) for i in range(14)]
    optimizer = AdamW(params)
    levels = []
    for t in range(1, 3001):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if (t * 2654435761 >> i) % 2 else None
        optimizer.step()
        if t % 1000 == 0:
            assert 14 < len(optimizer._arrangement) < 1020
            optimizer._arrangement._buckets.clear()
            levels.append(held())
    objects, tensors = zip(*levels, strict=True)
    assert max(objects) - min(objects) < 300  # as some parameters are alone in their buckets, and some are not
    assert max(tensors) < 1.1 * min(tensors)


def test_what_is_taken_out_of_an_optimizer_is_forgotten():
    """Methods that split and prune put new parameters in the place of old ones, and drop the state of these."""
    optimizer = Muon([nn.Parameter(torch.ones(3, 2)) for _ in range(3)])
    gone = []
    for t in range(6):
        set_gradients(params_of(optimizer), t)
        optimizer.step()
        (group,) = optimizer.param_groups
        old = group["params"][0]
        optimizer.state.pop(old)
        gone.append(weakref.ref(old))
        group["params"][0] = nn.Parameter(torch.ones(4 + t, 2))
    del old
    for t in range(7, 9):
        set_gradients(params_of(optimizer), t)
        optimizer.step()
    gc.collect()
    assert all(ref() is None for ref in gone)
    assert all(value["weight"].isfinite().all() for value in values(optimizer))


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def eager_switches():
    """Python changes between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*functions: Callable[[], Any]) -> list[Any]:
    """What the functions return, each run in a thread of its own, from the same moment on."""
    barrier = threading.Barrier(len(functions))
    results: list[Any] = [None] * len(functions)

    def run(i: int) -> None:
        torch.set_num_threads(1)
        barrier.wait()
        results[i] = functions[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def trained(cls: type[Any], seed: int, **options: Any) -> list[dict[str, Any]]:
    dtype = torch.bfloat16 if options.get("precision") == "stochastic" else torch.float32
    made = groups(cls, dtype, seed=seed)
    optimizer = build(cls, made, seed=seed, **options)
    for t in range(25):
        set_gradients(parameters(made), 100 * seed + t)
        optimizer.step()
    return values(optimizer)


@pytest.mark.parametrize(
    "cls, options",
    [(Blend, {}), (Muon, {}), (Muon, {"capturable": True}), (AdamW, {"precision": "stochastic"})],
    ids=["Blend", "Muon", "graphs", "stochastic"],
)
def test_optimizers_in_two_threads_do_what_each_does_alone(eager_switches, cls, options):
    jobs = [partial(trained, cls, 1, **options), partial(trained, cls, 2, **options), partial(trained, SGD, 3)]
    side_by_side = together(*jobs)
    for found, job in zip(side_by_side, jobs, strict=True):
        assert all_same(found, job())


def test_graphs_recorded_in_a_thread_do_not_disturb_a_model_in_another(eager_switches):
    """While torch records a graph it looks at every module's calls."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.ones(5, 3)
    expected, done = model(x), threading.Event()

    def record() -> None:
        _forget_graphs()
        trained(Muon, 1, capturable=True)
        done.set()

    def forward() -> list[bool]:
        same = []
        while not done.is_set():
            y = model(x)
            same.append(type(y) is Tensor and torch.equal(y, expected))
        return same

    _, same = together(record, forward)
    assert same and all(same)


def test_the_dtype_of_an_iteration_is_that_of_its_own_thread():
    started, ended = threading.Event(), threading.Event()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def elsewhere() -> None:
        with iterate_in(torch.bfloat16):
            started.set()
            ended.wait(60)

    def here() -> Tensor:
        started.wait(60)
        try:
            return orthogonalize(x)
        finally:
            ended.set()

    _, found = together(elsewhere, here)
    assert torch.equal(found, orthogonalize(x))
    with iterate_in(torch.bfloat16):
        assert not torch.equal(found, orthogonalize(x))


LOAD_AT_ONCE = """
import sys, threading
sys.setswitchinterval(1e-6)
import optforge.generated as generated
barrier, found = threading.Barrier(4), []
def load():
    barrier.wait()
    found.append((generated.Muon, generated.AdamW, generated.Muon.RULES))
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 4 and all(each == found[0] for each in found), found
"""


@pytest.mark.wide
def test_modules_may_be_loaded_in_several_threads_at_once():
    subprocess.run([sys.executable, "-c", LOAD_AT_ONCE], check=True, timeout=120)


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_processes_may_train_shared_weights_without_locks(name):
    """Hogwild: two processes see what the other writes, and together come near to where the loss is least."""
    weights = [torch.zeros(4, 3).share_memory_(), torch.zeros(12).share_memory_()]
    seen = torch.zeros(2, dtype=torch.int64).share_memory_()
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    workers = [context.Process(target=hogwild.train, args=(weights, seen, ready, rank, name)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(280)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (seen > 0).all()
    for weight in weights:
        assert weight.is_shared()
        assert float((weight.view(4, 3) - hogwild.TARGET).norm()) < 0.05 * float(hogwild.TARGET.norm())
