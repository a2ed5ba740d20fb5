"""Torch's own optimizer tests on our classes: `test/test_optim.py`, written anew against the same kind of database.

Tests have torch's names where torch has the test; the docstring says what is asked of our classes, and
`tests/TORCH_SUITE.md` lists them all, with those of torch's that have no meaning here. `optims` runs a test for each
class with each of its inputs (see `torch_suite_database.py`). Errors are relative to the size of the step.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from tests.runtime import torch_suite
from tests.runtime.torch_suite_database import SCHEDULERS, optims, optims_by_default, second_values, torchs, values_of
from tests.support.classes import generated_classes, is_untouched

STEPS = 3
RECOMBINE = ("Muown", "ScheduleFreeAdamW", "ScheduleFreeSGD")  # make the weights anew from states, and so round them
NAMINGS = ((True, True), (True, False), (False, True), (False, False))  # in the one that saves, that loads
DECAYS = ("weight_decay", "lambd")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Problem:
    """The usual one of torch's tests: the mean square of weight x + bias for a matrix (10, 5) and a vector (10)."""

    def __init__(self, contiguous: bool = True, seed: int = 0, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(seed)
        extra = () if contiguous else (2,)
        weight = torch.randn(10, 5, *extra, generator=generator)
        bias = torch.randn(10, *extra, generator=generator)
        self.weight = nn.Parameter((weight if contiguous else weight[..., 0]).to(device))
        self.bias = nn.Parameter((bias if contiguous else bias[..., 0]).to(device))
        self.input = 0.5 * torch.randn(5, generator=generator).to(device)  # so that no lr of 1 diverges

    @property
    def params(self) -> list[Tensor]:
        return [self.weight, self.bias]

    def loss(self) -> Tensor:
        return (self.weight.mv(self.input) + self.bias).square().mean()

    def closure(self, optimizer: Any) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        return evaluate

    def train(self, optimizer: Any, steps: int = STEPS, schedulers: list[Any] | tuple[()] = ()) -> None:
        for _ in range(steps):
            loss = optimizer.step(self.closure(optimizer)).detach()
            for scheduler in schedulers:
                step_scheduler(scheduler, loss)

    def copy_from(self, other: Problem) -> None:
        with torch.no_grad():
            for own, theirs in zip(self.params, other.params, strict=True):
                own.copy_(theirs)


def step_scheduler(scheduler: Any, loss: Tensor) -> None:
    scheduler.step(loss) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()


def constants(optimizer: Any) -> dict[str, Any]:
    """What a test may compare between two optimizers: their `state_dict` without the parameters' names."""
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        group.pop("param_names", None)
    return saved


def same(a: Any, b: Any) -> bool:
    """Equal structure, types and values, bit by bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def clones(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def matrices(count: int = 2, requires_grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, generator=generator, requires_grad=requires_grad) for _ in range(count)]


def set_gradients(params: list[Tensor], seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype).to(p.device)


def named(params: list[Tensor], has_names: bool) -> list[Any]:
    return [(f"name{i}", p) for i, p in enumerate(params)] if has_names else params


# -- the database and errors -------------------------------------------------------------------------------------------


@optims_by_default
def test_optim_infos_do_not_specify_global_cliquey_kwargs(info):
    """Inputs set hypers alone, every hyper of the constructor is in some input, and the spec allows each of them."""
    inputs = info.optim_inputs_func(device="cpu")
    set_somewhere = {name for each in inputs for name in each.kwargs}
    own = set(values_of(info.optim_cls).defaults)
    assert set_somewhere == own and own <= set(info.optim_cls(matrices()).param_groups[0])
    for name, wanted in second_values(info.optim_cls).items():
        assert wanted[name] != values_of(info.optim_cls).defaults[name]


@optims_by_default
def test_errors(info):
    """Torch's invalid inputs, and each hyper at a value that is none of its kind, are errors that name the reason."""
    errors = info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert len(errors) == 6 + len(values_of(info.optim_cls).defaults)
    for each in errors:
        assert each.error_on is torchs().OptimizerErrorEnum.CONSTRUCTION_ERROR
        given = each.optimizer_error_input
        with pytest.raises(each.error_type, match=each.error_regex):
            info.optim_cls(given.params, **given.kwargs)


@optims_by_default
def test_complex(info):
    """Complex parameters are refused when the optimizer is made or a group is added, and leave it as it was."""
    complex_param = torch.zeros(5, 5, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"complex64.*only dense real parameters"):
        info.optim_cls([complex_param])
    optimizer = info.optim_cls(matrices())
    with pytest.raises(RuntimeError, match=r"complex64.*only dense real parameters"):
        optimizer.add_param_group({"params": [complex_param]})
    assert len(optimizer.param_groups) == 1


@optims_by_default
def test_rosenbrock_sparse(info):
    """Sparse gradients are refused before anything changes; dense ones, a coordinate at a time, descend Rosenbrock."""
    param = nn.Parameter(torch.tensor([1.5, 1.5], dtype=torch.float64))
    optimizer = info.optim_cls([param])
    param.grad = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (2,), dtype=torch.float64, check_invariants=True)
    with pytest.raises(RuntimeError, match="must be dense and real"):
        optimizer.step()
    assert param.tolist() == [1.5, 1.5] and is_untouched(optimizer, param)

    def rosenbrock() -> Tensor:
        return 1e-4 * (1 - param[0]) ** 2 + 1e-2 * (param[1] - param[0] ** 2) ** 2  # its slope is not above 1

    start = rosenbrock().item()
    for t in range(20):
        optimizer.zero_grad()
        rosenbrock().backward()
        param.grad[t % 2] = 0
        optimizer.step()
    assert rosenbrock().item() < start


@optims_by_default
def test_flags_of_torch_are_refused(info):
    """What would change a step is an error, in groups as well; what asks for speed alone is taken, and asks nothing."""
    assert info.optim_cls(matrices(), foreach=True, fused=True).defaults.keys().isdisjoint({"foreach", "fused"})
    for flag in ("differentiable", "maximize"):
        with pytest.raises(TypeError, match=flag):
            info.optim_cls(matrices(), **{flag: True})
        with pytest.raises(ValueError, match=flag):
            info.optim_cls([{"params": matrices(), flag: True}])


@optims_by_default
def test_non_leaf_parameters_are_refused(info):
    """As in torch, what is no leaf of the graph, or no tensor, cannot be optimized."""
    (leaf,) = matrices(1)
    with pytest.raises(ValueError, match="non-leaf"):
        info.optim_cls([leaf * 2])
    with pytest.raises(TypeError, match=r"can only optimize Tensors|takes tensors, .* not a value of type str"):
        info.optim_cls(["weight"])


# -- directions --------------------------------------------------------------------------------------------------------


@optims
def test_forloop_goes_right_direction(info, kwargs):
    """The loss falls, for contiguous and strided parameters."""
    for contiguous in (True, False):
        problem = Problem(contiguous)
        start = problem.loss().item()
        problem.train(info.optim_cls(problem.params, **kwargs))
        assert problem.loss().item() < start


@optims_by_default
def test_forloop_goes_right_direction_with_lrsched(info):
    """The loss falls under schedules that decay, grow and wait for a plateau, with a number and with a tensor as lr."""
    for schedulers in SCHEDULERS:
        for lr in (values_of(info.optim_cls).defaults["lr"], torch.tensor(values_of(info.optim_cls).defaults["lr"])):
            problem = Problem()
            start = problem.loss().item()
            optimizer = info.optim_cls(problem.params, lr=lr)
            problem.train(optimizer, schedulers=[make(optimizer) for make in schedulers])
            assert problem.loss().item() < start


@optims_by_default
def test_param_group_with_lrscheduler_goes_right_direction(info):
    """The loss falls under each schedule when the groups have different lr, and the ratio of their lr stays."""
    half = second_values(info.optim_cls)["lr"]["lr"]
    for schedulers in SCHEDULERS:
        problem = Problem()
        start = problem.loss().item()
        optimizer = info.optim_cls([{"params": [problem.weight]}, {"params": [problem.bias], "lr": half}])
        ratio = optimizer.param_groups[0]["lr"] / half
        problem.train(optimizer, schedulers=[make(optimizer) for make in schedulers])
        assert problem.loss().item() < start
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first != values_of(info.optim_cls).defaults["lr"] or len(schedulers) == 1
        assert first / second == pytest.approx(ratio)


@optims
def test_tensor_lr(info, kwargs):
    """A tensor as lr gives bitwise the steps of the number, also after it has changed in place."""
    lr = 2.0**-9
    problem, other = Problem(), Problem()
    optimizer = info.optim_cls(problem.params, **{**kwargs, "lr": lr})
    tensor = torch.tensor(lr)
    twin = info.optim_cls(other.params, **{**kwargs, "lr": tensor})
    for _ in range(2):
        problem.train(optimizer, 1)
        other.train(twin, 1)
        assert same(clones(problem.params), clones(other.params))
        optimizer.param_groups[0]["lr"] = lr / 2
        tensor.mul_(0.5)
    assert twin.param_groups[0]["lr"] is tensor


@optims
def test_param_groups_weight_decay(info, kwargs):
    """Two groups, one without decay, go down, and are bitwise what an optimizer for each of them makes."""
    if "weight_decay" not in values_of(info.optim_cls).defaults:
        pytest.skip("the class has no weight decay")
    problem, other = Problem(), Problem()
    start = problem.loss().item()
    decays = {**kwargs, "weight_decay": kwargs.get("weight_decay") or 0.1}
    does_not = {**kwargs, "weight_decay": 0.0}
    groups = [{"params": [problem.weight], **decays}, {"params": [problem.bias], **does_not}]
    problem.train(info.optim_cls(groups))
    assert problem.loss().item() < start
    if not has_totals(info.optim_cls):
        alone = [{"params": [other.weight], **decays}, {"params": [other.bias], **does_not}]
        optimizers = [info.optim_cls([group]) for group in alone]
        for _ in range(STEPS):
            other.closure(optimizers[0])()
            for optimizer in optimizers:
                optimizer.step()
            other.weight.grad = other.bias.grad = None
        assert same(clones(problem.params), clones(other.params))


@optims
def test_param_groups_lr(info, kwargs):
    """The loss falls with the lr of a group, and a group whose lr is almost zero stays where it is, up to rounding."""
    problem = Problem()
    start = problem.loss().item()
    generator = torch.Generator().manual_seed(2)
    still = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((2,), (3, 2))]
    before = clones(still)
    kwargs.setdefault("lr", values_of(info.optim_cls).defaults["lr"])
    # Rprop's lr is but the first step, and these have smallest steps of their own.
    least = {"Rprop": {"least": 1e-28}, "AdaBound": {"final": 1e-28}, "AdaGO": {"eps": 0.0}}.get(info.name, {})
    states = [kept for rule in info.optim_cls.RULES for kept in rule.states]
    alike = {name: kwargs[name] for kept in states for name in kept.shared or () if name in kwargs}  # in all groups
    optimizer = info.optim_cls([{"params": problem.params, **kwargs}, {"params": still, **least}], lr=1e-28, **alike)
    for t in range(STEPS):
        problem.closure(optimizer)()
        set_gradients(still, t)
        optimizer.step()
    assert problem.loss().item() < start
    for p, old in zip(still, before, strict=True):
        assert ((p - old).abs() <= STEPS * torch.finfo(p.dtype).eps * old.norm()).all()


def has_totals(cls: type[Any]) -> bool:
    """Whether a parameter's step depends on the other parameters."""
    return any(kernel.sums for rule in cls.RULES for kernel in rule.kernels)


# -- one optimizer for all, and one for each ---------------------------------------------------------------------------


@optims
def test_foreach_matches_forloop(info, kwargs):
    """A step for all parameters is bitwise one for each, through missing gradients and a layer frozen for a while."""

    def make() -> tuple[nn.Module, list[Tensor]]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Sigmoid(), nn.Linear(2, 2), nn.Sigmoid()).double()
        scalar = torch.full((), 0.3, dtype=torch.float64, requires_grad=True)
        return model, [*model.parameters(), scalar]

    (model, params), (other, others) = make(), make()
    batched = info.optim_cls(params, **kwargs)
    if has_totals(info.optim_cls):  # parameters depend on each other, so that one optimizer has them in groups
        singles = [info.optim_cls([{"params": [p]} for p in others], **kwargs)]
    else:
        singles = [info.optim_cls([p], **kwargs) for p in others]
    inputs = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=torch.float64)
    for t in range(4):
        for network, scalar, optimizers in ((model, params[-1], [batched]), (other, others[-1], singles)):
            network.zero_grad()
            scalar.grad = torch.full_like(scalar, 0.5)
            network[2].requires_grad_(t != 2)
            if t != 1:
                network(inputs).sum().backward()
            for optimizer in optimizers:
                optimizer.step()
        assert same(clones(params), clones(others))
    states = {p: state for single in singles for p, state in single.state.items()}
    for p, q in zip(params, others, strict=True):
        assert same(dict(batched.state[p]), dict(states[q]))
    assert batched.state[params[0]]["step"] == 3 and batched.state[params[1]]["step"] == 2


@optims_by_default
def test_mixed_device_dtype(info):
    """Four dtypes on the CPU, and one on the meta device, step in one optimizer bitwise as in one for each."""
    kinds = [(torch.float64, "cpu"), (torch.float32, "cpu"), (torch.float16, "cpu"), (torch.bfloat16, "cpu")]
    kinds.append((torch.float32, "meta"))
    if has_totals(info.optim_cls):
        pytest.skip("parameters depend on each other")

    def make() -> list[list[Tensor]]:
        values = clones(matrices(2))
        return [[v.to(device, dtype, copy=True).requires_grad_() for v in values] for dtype, device in kinds]

    mixed, apart = make(), make()
    params = [p for pair in zip(*mixed, strict=True) for p in pair]
    optimizers = [info.optim_cls(params), *(info.optim_cls(kind) for kind in apart)]
    for each in (*mixed, *apart):
        set_gradients(each)
    for optimizer in optimizers:
        optimizer.step()
    for ours, theirs in zip(mixed[:4], apart[:4], strict=True):
        assert same(clones(ours), clones(theirs))
        assert all(p.isfinite().all() for p in ours)
    for p in params:
        state = optimizers[0].state[p]
        assert all(value.device == p.device for name, value in state.items() if not name.endswith("step"))
        assert state["step"].device.type == "cpu"


@optims_by_default
def test_set_default_dtype_works_with_foreach(info):
    """Steps do not depend on torch's default dtype."""
    results = []
    for dtype in (torch.float32, torch.float64, torch.float16):
        problem = Problem()
        torch.set_default_dtype(dtype)
        try:
            optimizer = info.optim_cls(problem.params)
            problem.train(optimizer, 2)
        finally:
            torch.set_default_dtype(torch.float32)
        results.append((clones(problem.params), constants(optimizer)))
    assert same(results[0], results[1]) and same(results[0], results[2])


class Live(TorchDispatchMode):
    """The bytes of the storages made since it was entered that still live: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, tuple[Any, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        given = {self.key(x) for x in leaves if isinstance(x, Tensor)}
        given |= {x._cdata for x in leaves if isinstance(x, torch.UntypedStorage)}
        out = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(out):
            if isinstance(value, Tensor) and self.key(value) not in given:
                storage = value.untyped_storage()
                self.sizes[self.key(value)] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, self.bytes())
        return out

    @staticmethod
    def key(x: Tensor) -> int:
        return x.untyped_storage()._cdata

    def bytes(self) -> int:
        self.sizes = {key: each for key, each in self.sizes.items() if not each[0].expired()}
        return sum(size for _, size in self.sizes.values())


@optims_by_default
def test_peak_memory_foreach(info):
    """A second step leaves nothing behind, and a batch needs 2 copies (weights, gradients) more than its members."""
    peaks = {}
    size = 16 * 8 * 4
    for count in (1, 10):
        params: list[Tensor] = [nn.Parameter(torch.randn(16, 8)) for _ in range(count)]
        optimizer = info.optim_cls(params)
        for t in range(2):
            set_gradients(params, t)
            with Live() as live:
                optimizer.step()
        peaks[count] = live.most
        assert live.bytes() == 0
    assert peaks[1] > 0
    assert peaks[10] <= 10 * (peaks[1] + 2 * size)


@optims_by_default
def test_fused_does_not_step_if_foundinf(info):
    """A `GradScaler` that finds an infinity leaves weights and state as they are; at a finite gradient they step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    params = matrices()
    optimizer = info.optim_cls(params)
    before = clones(params)
    for is_finite in (False, True):
        for _ in range(1 + is_finite):  # some methods only take a statistic at their first step
            optimizer.zero_grad()
            scaler.scale(sum(p.square().sum() for p in params)).backward()
            if not is_finite:
                params[0].grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
        assert same(clones(params), before) != is_finite
        assert all(is_untouched(optimizer, p) != is_finite for p in params)


# -- no gradients, no elements, no parameters --------------------------------------------------------------------------


@optims
def test_step_is_noop_when_params_have_no_grad(info, kwargs):
    """Without gradients a step returns the closure's loss and changes neither parameters nor state."""
    params = matrices(requires_grad=False)
    before = clones(params)
    optimizer = info.optim_cls(params, **kwargs)
    assert optimizer.step(lambda: torch.tensor([1.0])).tolist() == [1.0]
    assert same(clones(params), before) and not optimizer.state  # as no parameter is to be trained


@optims
def test_step_is_noop_for_zero_grads(info, kwargs):
    """Where nothing decays, zero gradients leave all parameters bitwise where they are, and the state finite."""
    kwargs = {**kwargs, **{name: 0.0 for name in DECAYS if name in values_of(info.optim_cls).defaults}}
    kwargs |= {"gamma": 0.0} if info.name == "FOCUS" else {}  # its pull to where the weights were
    generator = torch.Generator().manual_seed(3)
    params = [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((5, 1), (5,), (3, 4), ())]
    before = clones(params)
    optimizer = info.optim_cls(params, **kwargs)
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        rounding = torch.finfo(p.dtype).eps * old.norm() if info.name in RECOMBINE else 0.0
        assert ((p - old).abs() <= rounding).all()
    for state in optimizer.state.values():
        assert all(value.isfinite().all() for value in state.values() if isinstance(value, Tensor))


@optims_by_default
def test_parameters_without_elements(info):
    """A parameter of no elements is left alone, and does not change the steps of the others."""
    (p,), (q,) = matrices(1), matrices(1)
    nothing = [torch.empty(shape, requires_grad=True) for shape in ((0, 3), (3, 0), (0,))]
    optimizer, alone = info.optim_cls([p, *nothing]), info.optim_cls([q])
    for t in range(2):
        set_gradients([p, *nothing], t)
        set_gradients([q], t)
        optimizer.step()
        alone.step()
    assert torch.equal(p, q) and all(is_untouched(optimizer, each) for each in nothing)
    reloaded = info.optim_cls([p, *nothing])
    reloaded.load_state_dict(optimizer.state_dict())
    assert same(reloaded.state_dict(), optimizer.state_dict())


@optims_by_default
def test_no_parameters(info):
    """As in torch: no parameters at all are an error, an empty group is none, and steps with the others."""
    with pytest.raises(ValueError, match="empty parameter list"):
        info.optim_cls([])
    params = matrices()
    optimizer = info.optim_cls([{"params": []}, {"params": params}])
    before = clones(params)
    set_gradients(params)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert not same(clones(params), before)


@optims_by_default
def test_zero_grad(info):
    """`zero_grad` drops the gradients, or with `set_to_none=False` zeroes them in place."""
    params = matrices()
    optimizer = info.optim_cls(params)
    set_gradients(params)
    grads = [p.grad for p in params]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is grad and not grad.any() for p, grad in zip(params, grads, strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@optims_by_default
def test_closures(info):
    """A closure runs with gradients enabled, also within `no_grad`; its loss is returned, and the mode is as before."""
    problem, other = Problem(), Problem()
    optimizer, twin = info.optim_cls(problem.params), info.optim_cls(other.params)
    expected = problem.loss().item()
    with torch.no_grad():
        assert optimizer.step(problem.closure(optimizer)).item() == expected
        assert not torch.is_grad_enabled()
    other.closure(twin)()
    assert twin.step() is None and torch.is_grad_enabled()
    assert same(clones(problem.params), clones(other.params))


@optims_by_default
def test_add_param_group(info):
    """A group added during training starts as new, leaves the others alone, and cannot bring what is there already."""
    params, others = matrices(3), matrices(3)
    optimizer, first, second = info.optim_cls(params[:2]), info.optim_cls(others[:2]), info.optim_cls(others[2:])
    for t in range(4):
        if t == 2:
            optimizer.add_param_group({"params": params[2:]})
            with pytest.raises(ValueError, match="more than one parameter group"):
                optimizer.add_param_group({"params": params[:1]})
        set_gradients(params, t)
        set_gradients(others, t)
        optimizer.step()
        first.step()
        if t >= 2:
            second.step()
    assert len(optimizer.param_groups) == 2
    assert [optimizer.state[p]["step"] for p in params] == [4, 4, 2]
    if not has_totals(info.optim_cls):
        assert same(clones(params), clones(others))


# -- schedulers --------------------------------------------------------------------------------------------------------

EVERY_SCHEDULER: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.5 + t / 4),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.75),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.5)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="max", patience=0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, 2, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.01, total_steps=6, cycle_momentum=False),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 3),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.0625, anneal_epochs=3),
}


def test_every_scheduler_of_torch_is_here():
    """The schedulers of the tests below are all that torch exports."""
    assert EVERY_SCHEDULER.keys() == {*lr_scheduler.__all__, "SWALR"} - {"LRScheduler"}


@optims_by_default
def test_every_scheduler(info):
    """Under each scheduler the lr goes as in `torch.optim.SGD`, as tensor too, and steps are those of that lr."""
    # A tensor stays in place where SGD's own one does: ReduceLROnPlateau of torch 2.9 puts a number there instead, and
    # some schedulers of that release make other values of tensors than of numbers.
    for make in EVERY_SCHEDULER.values():
        first, twins = [[torch.linspace(-1, 1, 3).requires_grad_()] for _ in range(2)]
        lr = values_of(info.optim_cls).defaults["lr"]
        tensor, their_tensor = torch.tensor(lr, dtype=torch.float64), torch.tensor(lr, dtype=torch.float64)
        theirs, theirs_in_place = torch.optim.SGD(matrices(1), lr=lr), torch.optim.SGD(matrices(1), lr=their_tensor)
        ours, by_hand = info.optim_cls(first), info.optim_cls(twins)
        in_place = info.optim_cls(matrices(1), lr=tensor)
        schedulers = [make(each) for each in (theirs, theirs_in_place, ours, in_place)]
        seen = set()
        for t in range(4):
            by_hand.param_groups[0]["lr"] = theirs.param_groups[0]["lr"]
            for optimizer in (ours, by_hand):
                set_gradients(optimizer.param_groups[0]["params"], t)
            for optimizer in (ours, by_hand, theirs, theirs_in_place, in_place):
                optimizer.step()
            for scheduler in schedulers:
                step_scheduler(scheduler, torch.tensor(0.0))
            assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
            kept = theirs_in_place.param_groups[0]["lr"] is their_tensor
            assert (in_place.param_groups[0]["lr"] is tensor) == kept
            expected = float(theirs_in_place.param_groups[0]["lr"])
            assert float(in_place.param_groups[0]["lr"]) == pytest.approx(expected, rel=1e-6)
            assert same(clones(first), clones(twins))
            seen.add(ours.param_groups[0]["lr"])
        assert len(seen) > 1


@optims_by_default
def test_schedulers_resume(info):
    """Optimizer and scheduler, loaded from their states before or after the other is made, go on bitwise as before."""
    for make in EVERY_SCHEDULER.values():
        params = matrices(1)
        optimizer = info.optim_cls(params)
        scheduler = make(optimizer)
        for t in range(4):
            if t == 2:
                others = [p.detach().clone().requires_grad_() for p in params]
                resumed = info.optim_cls(others)
                resumed.load_state_dict(optimizer.state_dict())
                other = make(resumed)  # which sets the lr of its beginning
                resumed.load_state_dict(optimizer.state_dict())
                other.load_state_dict(scheduler.state_dict())
            set_gradients(params, t)
            optimizer.step()
            step_scheduler(scheduler, torch.tensor(0.0))
            if t >= 2:
                set_gradients(others, t)
                resumed.step()
                step_scheduler(other, torch.tensor(0.0))
        assert same(clones(params), clones(others))
        assert same(optimizer.state_dict(), resumed.state_dict())


@optims_by_default
def test_schedulers_cycle_momentum(info):
    """The hypers that play the momentum are cycled as torch's is; without any torch says that there is none."""
    (p,), (q,) = matrices(1), matrices(1)
    cycles = {"base_lr": 1e-4, "max_lr": 1e-3, "step_size_up": 2, "base_momentum": 0.5, "max_momentum": 0.75}
    optimizer = info.optim_cls([p])
    names = info.optim_cls.MOMENTUM or ("momentum",)
    if not set(names) <= set(values_of(info.optim_cls).defaults):
        with pytest.raises(ValueError, match="must support momentum"):
            lr_scheduler.CyclicLR(optimizer, **cycles)
        return
    scheduler = lr_scheduler.CyclicLR(optimizer, **cycles)
    by_hand = info.optim_cls([q], lr=1e-4)
    for t, momentum in enumerate((0.75, 0.625, 0.5, 0.625)):
        by_hand.param_groups[0].update(dict.fromkeys(names, momentum), lr=optimizer.param_groups[0]["lr"])
        assert all(optimizer.param_groups[0][name] == momentum for name in names)
        set_gradients([p], t)
        set_gradients([q], t)
        optimizer.step()
        by_hand.step()
        scheduler.step()
    assert torch.equal(p, q)


# -- states ------------------------------------------------------------------------------------------------------------


@optims
def test_state_dict_deterministic(info, kwargs):
    """An optimizer that loads a state goes on bitwise like the one it is from, with parameters named in both or one."""
    for has_names, gets_names in NAMINGS[2:3] if kwargs else NAMINGS:
        problem, other = Problem(), Problem()
        optimizer = info.optim_cls(named(problem.params, has_names), **kwargs)
        problem.train(optimizer, 1)
        other.copy_from(problem)
        loaded = info.optim_cls(named(other.params, gets_names), **kwargs)
        saved = copy.deepcopy(optimizer.state_dict())
        before = copy.deepcopy(saved)
        loaded.load_state_dict(saved)
        problem.train(optimizer, 1)
        other.train(loaded, 1)
        assert same(saved, before)
        assert same(clones(problem.params), clones(other.params))
        assert same(constants(optimizer), constants(loaded))
        loaded.param_groups.extend(loaded.param_groups)
        assert same(constants(optimizer)["param_groups"][-1], constants(loaded)["param_groups"][-1])


@optims_by_default
def test_can_load_from_to_named_state_dict(info):
    """Names of parameters survive whenever the saving or the loading optimizer has them, and steps go on."""
    for has_names, gets_names in NAMINGS:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(4, 2, 1, stride=2), nn.BatchNorm2d(2))
        optimizer = info.optim_cls(model.named_parameters() if has_names else model.parameters())
        set_gradients(list(model.parameters()))
        optimizer.step()
        loaded = info.optim_cls(model.named_parameters() if gets_names else model.parameters())
        loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        before = clones(list(model.parameters()))
        loaded.step()
        assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        (group,) = loaded.state_dict()["param_groups"]
        names = [name for name, _ in model.named_parameters()] if has_names or gets_names else None
        assert group.get("param_names") == names


@optims_by_default
def test_can_load_older_state_dict(info):
    """A state without what schedulers and names add loads; one without a hyper is refused by name, and changes none."""
    problem = Problem()
    optimizer = info.optim_cls(named(problem.params, True))
    lr_scheduler.StepLR(optimizer, 1)
    problem.train(optimizer, 2)
    old = copy.deepcopy(optimizer.state_dict())
    for key in ("param_names", "initial_lr"):
        del old["param_groups"][0][key]
    before = constants(optimizer)
    for hyper in values_of(info.optim_cls).defaults:
        lacking = copy.deepcopy(old)
        del lacking["param_groups"][0][hyper]
        with pytest.raises(ValueError, match=repr(hyper)):
            optimizer.load_state_dict(lacking)
        assert same(constants(optimizer), before)
    optimizer.load_state_dict(old)
    assert same(constants(optimizer)["state"], before["state"])
    weights = clones(problem.params)
    problem.train(optimizer, 1)
    assert not same(clones(problem.params), weights)


@optims
def test_save_load_equality_with_weights_only(info, kwargs):
    """What `torch.save` writes of a state `torch.load` reads back bitwise, also with `weights_only`, as by default."""
    problem = Problem()
    optimizer = info.optim_cls(named(problem.params, not kwargs), **kwargs)
    problem.train(optimizer, 2)
    saved = optimizer.state_dict()
    for options in ({"weights_only": True}, {"weights_only": False}):
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        read = torch.load(file, **options)
        assert same(read, saved) and read["state"]
        optimizer.load_state_dict(read)
        assert same(optimizer.state_dict(), saved)


@optims_by_default
def test_load_nontensor_step(info):
    """The step is a 0-d tensor, as torch's; states that have it as a number load as well and go on bitwise alike."""
    params, others = matrices(), matrices()
    optimizer, loaded = info.optim_cls(params), info.optim_cls(others)
    for t in range(4):
        if t == 2:
            with torch.no_grad():
                for p, q in zip(params, others, strict=True):
                    q.copy_(p)
            saved = copy.deepcopy(optimizer.state_dict())
            for state in saved["state"].values():
                assert state["step"].dtype == torch.float32 and state["step"].shape == ()
                state["step"] = int(state["step"])
            loaded.load_state_dict(saved)
            assert same(loaded.state_dict(), optimizer.state_dict())
        set_gradients(params, t)
        set_gradients(others, t)
        optimizer.step()
        if t >= 2:
            loaded.step()
    assert same(clones(params), clones(others))


@optims_by_default
def test_state_dict_with_cuda_params(info):
    """A state saved from one device loads on another (here the meta device), where it then lives and takes steps."""
    problem, other = Problem(), Problem(device="meta")
    optimizer = info.optim_cls(problem.params)
    problem.train(optimizer, 1)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    loaded = info.optim_cls(other.params)
    loaded.load_state_dict(saved)
    set_gradients(other.params)
    loaded.step()
    assert same(saved, before)
    for p, q in zip(problem.params, other.params, strict=True):
        assert loaded.state[q].keys() == optimizer.state[p].keys() and loaded.state[q]["step"] == 2
        for name, value in optimizer.state[p].items():
            if not name.endswith("step"):
                moved = loaded.state[q][name]
                assert moved.device.type == "meta" and (moved.dtype, moved.shape) == (value.dtype, value.shape)


@optims_by_default
def test_checkpoint_helpers(info):
    """`get_optimizer_state_dict` and `set_optimizer_state_dict` of torch.distributed carry a run over, bitwise."""
    carry_over(info, StateDictOptions())


@optims_by_default
def test_checkpoint_helpers_flattened(info):
    """The same with a key for each value of each parameter."""
    carry_over(info, StateDictOptions(flatten_optimizer_state_dict=True))


def carry_over(info: Any, options: StateDictOptions) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = info.optim_cls(model.parameters())
    set_gradients(list(model.parameters()))
    optimizer.step()
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other = copy.deepcopy(model)
    fresh = info.optim_cls(other.parameters())
    set_optimizer_state_dict(other, fresh, saved, options=options)
    other.load_state_dict(model.state_dict())  # torch makes states by a step, in which some methods round weights
    for each, optimizing in ((model, optimizer), (other, fresh)):
        set_gradients(list(each.parameters()), 1)
        optimizing.step()
    assert same(clones(list(other.parameters())), clones(list(model.parameters())))
    assert same(fresh.state_dict(), optimizer.state_dict())


@optims_by_default
def test_cpu_load_state_dict(info):
    """A state of an optimizer that is not `capturable` loads into one that is, and back, and goes on bitwise alike."""
    params, others = matrices(), matrices()
    ours, captured = (
        info.optim_cls(each, backend="eager", capturable=flag) for each, flag in ((params, False), (others, True))
    )
    for t, (source, target) in enumerate(((ours, captured), (captured, ours))):
        set_gradients(params, t)
        set_gradients(others, t)
        source.step()
        with torch.no_grad():
            for p, q in zip(*((each.param_groups[0]["params"]) for each in (source, target)), strict=True):
                q.copy_(p)
        target.load_state_dict(copy.deepcopy(source.state_dict()))
        for optimizer in (source, target):
            optimizer.step()
        assert same(clones(params), clones(others))
        assert {int(state["step"]) for state in target.state.values()} == {2 * t + 2}


@optims_by_default
def test_non_empty_state(info):
    """Every parameter that has stepped has a state, if only the count of its steps."""
    problem = Problem()
    optimizer = info.optim_cls(problem.params)
    problem.train(optimizer, 1)
    assert optimizer.state.keys() == set(problem.params)
    for state in optimizer.state.values():
        assert state["step"] == 1


@optims_by_default
def test_deepcopy_copies_all_public_attrs(info):
    """A deep copy and a pickle have all public attributes, and go on bitwise alike, apart from the original."""
    problem = Problem()
    optimizer = info.optim_cls(problem.params, skip_nonfinite=True)
    problem.train(optimizer, 2)
    set_gradients(problem.params)
    before = constants(optimizer)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert public(other) == public(optimizer) and other.skip_nonfinite
        assert same(constants(other), before)
        params = other.param_groups[0]["params"]
        set_gradients(params)
        other.step()
        again = copy.deepcopy(optimizer)
        set_gradients(again.param_groups[0]["params"])
        again.step()
        assert same(clones(params), clones(again.param_groups[0]["params"]))
        assert same(constants(other), constants(again)) and same(constants(optimizer), before)


def public(optimizer: Any) -> set[str]:
    return {name for name in vars(optimizer) if not name.startswith("_")}


# -- hooks -------------------------------------------------------------------------------------------------------------


@optims
def test_state_dict_pre_hook(info, kwargs):
    """A hook before `state_dict` sees the optimizer, and what it puts into the state is saved."""
    optimizer = info.optim_cls(matrices(1), **kwargs)
    handle = optimizer.register_state_dict_pre_hook(leave_a_mark)
    assert optimizer.state_dict()["state"]["mark"] == 1
    handle.remove()
    del optimizer.state["mark"]
    assert "mark" not in optimizer.state_dict()["state"]


@optims
def test_state_dict_post_hook(info, kwargs):
    """A hook after `state_dict` may replace what it returns."""
    optimizer = info.optim_cls(matrices(1), **kwargs)
    handle = optimizer.register_state_dict_post_hook(take_the_mark)
    assert optimizer.state_dict()["was_marked"] is False
    handle.remove()
    assert "was_marked" not in optimizer.state_dict()


@optims
def test_state_dict_pre_post_hook(info, kwargs):
    """Hooks before and after `state_dict` run in this order."""
    optimizer = info.optim_cls(matrices(1), **kwargs)
    optimizer.register_state_dict_pre_hook(leave_a_mark)
    optimizer.register_state_dict_post_hook(take_the_mark)
    saved = optimizer.state_dict()
    assert saved["was_marked"] is True and "mark" not in saved["state"]


def leave_a_mark(optimizer: Any) -> None:
    optimizer.state["mark"] = 1


def take_the_mark(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    marked = "mark" in state_dict["state"]
    state = {key: value for key, value in state_dict["state"].items() if key != "mark"}
    return {**state_dict, "state": state, "was_marked": marked}


@optims
def test_load_state_dict_pre_hook_and_prepend(info, kwargs):
    """Hooks before loading change the state in place or replace it, in order, or earlier with `prepend`."""
    optimizer = info.optim_cls(matrices(1), **kwargs)
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(set_lr_in_place)
    optimizer.load_state_dict(copy.deepcopy(saved))
    assert optimizer.param_groups[0]["lr"] == 0.002
    handle = optimizer.register_load_state_dict_pre_hook(replace_lr, prepend=True)
    optimizer.load_state_dict(copy.deepcopy(saved))
    assert optimizer.param_groups[0]["lr"] == 0.002
    handle.remove()
    optimizer.register_load_state_dict_pre_hook(replace_lr)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.003


@optims
def test_load_state_dict_post_hook(info, kwargs):
    """A hook after loading sees the optimizer as loaded."""
    optimizer = info.optim_cls(matrices(1), **kwargs)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 0.004
    seen = []
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    optimizer.load_state_dict(saved)
    assert seen == [0.004]


@optims
def test_load_state_dict_pre_post_hook(info, kwargs):
    """Hooks before and after loading run in this order; `prepend` puts one first among those after it too."""
    optimizer = info.optim_cls(matrices(1), **kwargs)
    seen = []
    optimizer.register_load_state_dict_pre_hook(replace_lr)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(("last", o.param_groups[0]["lr"])))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(("first", 0)), prepend=True)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [("first", 0), ("last", 0.003)]


def set_lr_in_place(optimizer: Any, state_dict: dict[str, Any]) -> None:
    state_dict["param_groups"][0]["lr"] = 0.002


def replace_lr(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    other = copy.deepcopy(state_dict)
    other["param_groups"][0]["lr"] = 0.003
    return other


@optims
def test_step_pre_hook(info, kwargs):
    """A hook before steps runs before each, with the arguments of the step, which it may replace, until removed."""
    optimizer = info.optim_cls(matrices(1), **kwargs)
    calls = []
    handle = optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append((o, args, kwargs)))
    optimizer.step()
    optimizer.step(closure=None)
    assert calls == [(optimizer, (optimizer,), {}), (optimizer, (optimizer,), {"closure": None})]
    handle.remove()
    other = optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 5), {}))
    assert optimizer.step() == 5 and len(calls) == 2
    other.remove()
    assert optimizer.step() is None


@optims
def test_step_post_hook(info, kwargs):
    """A hook after steps runs after each, when parameters have changed, until removed."""
    params = matrices(1)
    optimizer = info.optim_cls(params, **kwargs)
    set_gradients(params)
    steps = []
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: steps.append(int(o.state[params[0]]["step"])))
    optimizer.step()
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert steps == [1, 2]


@optims
def test_step_all_hooks(info, kwargs):
    """Global hooks are outside those of an optimizer, for ours and torch's together, until removed."""
    optimizer, torchs_own = info.optim_cls(matrices(1), **kwargs), torch.optim.SGD(matrices(1))
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    handles = [register_optimizer_step_pre_hook(note("all before"))]
    handles.append(register_optimizer_step_post_hook(note("all after")))
    try:
        for each in (optimizer, torchs_own):
            handles.append(each.register_step_pre_hook(note("before")))
            handles.append(each.register_step_post_hook(note("after")))
        once = ["all before", "before", "after", "all after"]
        for count, each in enumerate((optimizer, torchs_own, optimizer), 1):
            each.step()
            assert calls == once * count
    finally:
        for handle in handles:
            handle.remove()
    optimizer.step()
    assert calls == once * 3


@optims_by_default
def test_profile_hook_step(info):
    """The profiler shows steps and `zero_grad` under the names that torch gives those of its own."""
    params = matrices(1)
    optimizer = info.optim_cls(params)
    set_gradients(params)
    with torch.autograd.profiler.profile(use_cpu=True) as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = {event.name for event in profile.function_events}
    assert {f"Optimizer.{call}#{info.name}.{call}" for call in ("step", "zero_grad")} <= names


@optims
def test_optimizer_can_be_printed(info, kwargs):
    """`repr` shows the class, each group, and every hyper with its value."""
    first, second = matrices()
    optimizer = info.optim_cls([{"params": [first]}, {"params": [second]}], **kwargs)
    text = repr(optimizer)
    assert text.startswith(f"{info.name} (\nParameter Group 0\n") and "\nParameter Group 1\n" in text
    for name, value in {**values_of(info.optim_cls).defaults, **kwargs}.items():
        assert optimizer.defaults[name] == value
        assert text.count(f"    {name}: {optimizer.defaults[name]}\n") == 2


# -- the report --------------------------------------------------------------------------------------------------------


def test_report_lists_the_tests_that_exist():
    """The table has every test of torch's, and of this module, in order, with what it asks."""
    own = {name: function.__doc__ for name, function in globals().items() if name.startswith("test_")}
    rows = torch_suite.read_table()
    assert list(rows.items()) == [(name, doc) for name, doc in torch_suite.described(own).items()]
    assert not own.keys() & torch_suite.DOES_NOT_APPLY.keys()
    assert set(torch_suite.NAMES) <= own.keys() | torch_suite.DOES_NOT_APPLY.keys()
    assert f"{len(generated_classes())} classes" in torch_suite.FILE.read_text(encoding="utf-8")


def test_report_knows_the_names_in_torchs_database():
    """Torch's database names tests where it skips or decorates one for an optimizer: the report has all of these."""
    found = {
        each.test_name
        for info in torchs().optim_db
        for each in info.decorators
        if getattr(each, "cls_name", None) == "TestOptimRenewed" and each.test_name
    }
    assert len(found) > 10 and found <= set(torch_suite.NAMES)
