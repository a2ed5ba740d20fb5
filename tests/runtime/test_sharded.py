"""DTensor parameters on up to four processes: steps, states and checkpoints beside those of one process that has all.

Rules that need no values of other ranks give the same bits there, without one collective.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from optforge import GaussNewtonBartlett, Hutchinson, generated
from optforge.runtime import Kernel, Rule, SpecOptimizer, State
from tests.support.ranks import Pool

# Uneven rows, fewer rows than ranks, one row, many rows, a vector and a convolution.
SHAPES = {"uneven": (7, 5), "few": (3, 4), "one": (1, 6), "square": (8, 8), "bias": (9,), "conv": (6, 4, 2, 2)}

ROWS, COLUMNS, EVERYWHERE, HYBRID = (Shard(0),), (Shard(1),), (Replicate(),), (Replicate(), Shard(0))


@cache
def square_mesh() -> DeviceMesh:
    return DeviceMesh("cpu", torch.arange(4).view(2, 2), mesh_dim_names=("replicate", "shard"))


def mesh_of(group: Any, placements: Sequence[Any] = ROWS) -> DeviceMesh:
    return square_mesh() if len(placements) == 2 else DeviceMesh.from_group(group, "cpu")


def placed(x: Tensor, mesh: DeviceMesh, placements: Sequence[Any]) -> DTensor:
    """This rank's part of a tensor that all ranks have."""
    fitting = [Shard(min(p.dim, x.ndim - 1)) if isinstance(p, Shard) else p for p in placements]
    return distribute_tensor(x, mesh, fitting, src_data_rank=None)


def whole(x: Tensor) -> Tensor:
    return x.detach().full_tensor() if isinstance(x, DTensor) else x.detach()


def samples(seed: int, shapes: Iterable[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


class Counted(TorchDispatchMode):
    """The names of the collectives that are called within."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace in ("c10d", "_c10d_functional"):
            self.calls.append(str(function))
        return function(*args, **(kwargs or {}))


class Twins:
    """The same parameters whole and sharded, each with an optimizer of one class."""

    def __init__(
        self,
        cls: Any,
        group: Any,
        placements: Sequence[Any],
        shapes: dict[str, tuple[int, ...]] = SHAPES,
        dtype: torch.dtype = torch.float64,
        keys: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.mesh, self.placements, self.shapes, self.dtype = mesh_of(group, placements), placements, shapes, dtype
        values = samples(0, shapes.values(), dtype)
        self.one = [nn.Parameter(x.clone()) for x in values]
        self.parts = [nn.Parameter(placed(x, self.mesh, placements)) for x in values]
        self.optimizer, self.sharded = (
            cls([{"params": [*zip(shapes, params, strict=True)], **(keys or {})}], **options)
            for params in (self.one, self.parts)
        )

    def give(self, t: int, without: Iterable[int] = ()) -> None:
        """Gradients of step t for all but some parameters."""
        for i, grad in enumerate(samples(t, self.shapes.values(), self.dtype)):
            has_one = i not in without
            self.one[i].grad = grad if has_one else None
            self.parts[i].grad = placed(grad, self.mesh, self.placements) if has_one else None

    def run(self, act: Callable[[Any], Any]) -> None:
        """The same with both; the sharded one calls no collective."""
        act(self.optimizer)
        with Counted() as counted:
            act(self.sharded)
        assert counted.calls == []

    def step(self, t: int, without: Iterable[int] = ()) -> None:
        self.give(t, without)
        self.run(lambda optimizer: optimizer.step())

    def require_same_bits(self) -> None:
        for name, p, q in zip(self.shapes, self.one, self.parts, strict=True):
            assert torch.equal(p.detach(), whole(q)), name
            entry, other = self.optimizer.state[p], self.sharded.state[q]
            assert [*entry] == [*other], name
            for key in entry:
                assert entry[key].shape == other[key].shape, (name, key)
                assert torch.equal(entry[key], whole(other[key])), (name, key)
                assert isinstance(other[key], DTensor) is (entry[key].ndim > 0)


def steps_alike(group: Any, placements: Sequence[Any], cases: Sequence[tuple[Any, dict[str, Any]]]) -> None:
    for cls, options in cases:
        twins = Twins(getattr(generated, cls), group, placements, **options)
        for t in range(1, 4):
            twins.step(t, without=[t])  # the next one is behind by a step
            twins.require_same_bits()


ON_TWO = [(Shard(0), Shard(1)), (Shard(1), Shard(0)), (Shard(0), Shard(0))]
PLACEMENTS = [
    *((4, each) for each in ON_TWO),
    (4, ROWS),
    (3, ROWS),
    (2, ROWS),
    (2, COLUMNS),
    (4, COLUMNS),
    (4, HYBRID),
    (2, EVERYWHERE),
    (1, ROWS),
]


@pytest.mark.parametrize(("world", "placements"), PLACEMENTS, ids=str)
def test_rules_that_need_no_other_rank_give_the_bits_of_one_process(ranks: Pool, world: int, placements: Any) -> None:
    eager = {"backend": "eager"}  # torch's fused kernels round the last elements of a tensor otherwise
    cases: list[Any] = [
        ("AdamW", eager),
        ("Lion", {"dtype": torch.float32}),
        ("AdamW", {"dtype": torch.bfloat16, "precision": "kahan", **eager}),
        ("AdamW", {"dtype": torch.bfloat16, "precision": "master", **eager}),
        ("AdamW", {"dtype": torch.bfloat16, "precision": "stochastic", **eager}),
        ("Adagrad", eager),  # whose first values are not zero
    ]
    if placements in ON_TWO:
        cases += [("AdamW", {"shapes": {"conv": (6, 5, 2, 2), "few": (1, 3)}, "keys": {"rule": "conv"}, **eager})]
    if placements in (ROWS, HYBRID):
        matrices = {name: shape for name, shape in SHAPES.items() if len(shape) > 1}
        turned = {"shapes": {"a": (4, 8), "b": (6, 8)}, "keys": {"transposed": True, "rule": "matrix"}}
        cases += [("Nora", eager), ("NoraOfficial", eager), ("RMNP", {"shapes": matrices, "keys": {"rule": "matrix"}})]
        cases += [("SGD", turned)]
    if placements == COLUMNS:
        turned = {"shapes": {"a": (7, 8), "b": (6, 8)}, "keys": {"transposed": True, "rule": "matrix"}}
        cases += [("RMNP", turned)]
    if placements == EVERYWHERE:
        cases += [("NAMO", {}), ("SOAP", {}), ("Prodigy", {})]
    ranks.run(world, steps_alike, placements, cases)


def fused_and_compiled_steps(group: Any) -> None:
    """The fused kernels of torch and recorded graphs take parts, of which some are empty, as they take parameters."""
    twins = Twins(generated.AdamW, group, ROWS)
    for t in range(1, 4):
        twins.step(t)
    for p, q, x in zip(twins.one, twins.parts, samples(0, SHAPES.values()), strict=True):
        assert (p - whole(q)).norm() <= 1e-12 * (p - x).norm()
    twins = Twins(generated.RMNP, group, ROWS, capturable=True)  # which runs as recorded graphs
    for t in range(1, 3):
        twins.step(t)
        twins.require_same_bits()


def events_alike(group: Any) -> None:
    twins = Twins(generated.ScheduleFreeAdamW, group, ROWS)  # with one number for each parameter
    for t in range(1, 4):
        twins.step(t)
        if t == 2:
            twins.run(lambda optimizer: optimizer.eval())
            twins.require_same_bits()
            twins.run(lambda optimizer: optimizer.train())
    twins.require_same_bits()


def experts_alike(group: Any) -> None:
    """Matrices that are whole on their ranks, whatever interacts in them; of three experts one rank has none."""
    for shapes in ({"a": (4, 5, 3), "b": (3, 6, 4)}, {"c": (8, 4, 6)}):
        for name, keys in (("NAMO", {}), ("SOAP", {}), ("Muon", {"transposed": True}), ("NorMuon", {"split": 2})):
            if "split" in keys and "a" in shapes:
                continue
            twins = Twins(getattr(generated, name), group, ROWS, shapes, keys={"batch": 1, "rule": "matrix", **keys})
            for t in range(1, 4):
                twins.step(t)
                twins.require_same_bits()


def split_rows_alike(group: Any) -> None:
    """One value for each row, of a matrix that is split elsewhere than between ranks, in equal parts or not."""
    for split in (2, (3, 7)):
        twins = Twins(ByRows, group, ROWS, {"a": (10, 4), "b": (10, 3)}, keys={"split": split, "rule": "matrix"})
        for t in range(1, 4):
            twins.step(t)
            twins.require_same_bits()


def sizes_of_the_whole(group: Any) -> None:
    """What a rule reads of the sizes of a matrix is that of the whole, or of a part of the whole if it is split."""

    def by_sizes(weight: Tensor, grad: Tensor, *, rows: float, cols: float, lr: float) -> tuple[Tensor]:
        return (weight - lr * (rows + 100 * cols) * grad,)

    rule = generated.SGD.RULES[0]
    for keys in ({}, {"split": 2}):
        kernel = Kernel(by_sizes, layout="matrix", along=("cols",))
        cls = type("BySizes", (generated.SGD,), {"RULES": (replace(rule, step=kernel, states=()),)})
        twins = Twins(cls, group, ROWS, {"a": (6, 2), "b": (10, 3), "c": (10, 3)}, keys=keys, lr=1.0)
        twins.step(1)
        twins.require_same_bits()
        grad, start = samples(1, [(6, 2), (10, 3)])[1], samples(0, [(6, 2), (10, 3)])[1]
        expected = start - (10 / keys.get("split", 1) + 300) * grad
        assert torch.allclose(whole(twins.parts[1]), expected, rtol=1e-12)


def tied_and_appended(group: Any) -> None:
    """A parameter that stands in two modules steps once; one that comes later is checked and steps as the others."""
    mesh = mesh_of(group)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)).double()
    model[0].weight = nn.Parameter(placed(model[0].weight.detach(), mesh, ROWS))
    model[1].weight = model[0].weight
    optimizer = generated.AdamW(model, lr=0.5, weight_decay=0)
    added = nn.Parameter(placed(torch.ones(5, 3, dtype=torch.float64), mesh, ROWS))
    optimizer.add_param_group({"params": [("added", added)]})
    start = whole(model[0].weight)
    for p in (model[0].weight, added):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.allclose(start - whole(model[0].weight), torch.full((6, 4), 0.5, dtype=torch.float64))
    assert len(optimizer.state) == 2 and optimizer.state[added]["step"] == 1
    with pytest.raises(NotImplementedError, match="sums of shape"):
        optimizer.add_param_group({"params": [("sums", DTensor.from_local(torch.ones(2, 2), mesh, [Partial()]))]})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    "case",
    [fused_and_compiled_steps, events_alike, experts_alike, split_rows_alike, sizes_of_the_whole, tied_and_appended],
)
def test_everything_else_runs_on_parts_as_well(ranks: Pool, case: Any) -> None:
    ranks.run(4, case)


def skips_alike(group: Any) -> None:
    """A step with a NaN on one rank is none, also where ranks have no row of some parameters."""
    for cls in (generated.AdamW, generated.Muon):
        twins = Twins(cls, group, ROWS, skip_nonfinite=True, backend="eager")
        for t in range(3):
            twins.give(t)
            if t == 1:
                twins.one[0].grad[0, 0] = torch.nan
                if dist.get_rank(group) == 0:
                    twins.parts[0].grad.to_local()[0, 0] = torch.nan
            twins.optimizer.step()
            twins.sharded.step()
        assert {float(entry["step"]) for entry in twins.sharded.state.values()} == {2.0}
        for x, p, q in zip(samples(0, SHAPES.values()), twins.one, twins.parts, strict=True):
            assert (p - whole(q)).norm() <= 1e-9 * (p - x).norm()


def test_a_nan_skips_a_step_where_some_ranks_have_no_rows(ranks: Pool) -> None:
    ranks.run(3, skips_alike)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusals(group: Any) -> None:
    mesh, square = mesh_of(group), square_mesh()

    def refused(reason: str, p: Tensor, cls: Any = generated.AdamW, **keys: Any) -> None:
        for make in (lambda: cls([{"params": [("it", p)], **keys}]), lambda: extended(cls, p, keys)):
            with pytest.raises(NotImplementedError, match=f"(?s)^it of shape .*{reason}"):
                make()

    def extended(cls: Any, p: Tensor, keys: dict[str, Any]) -> None:
        optimizer = cls([("first", nn.Parameter(torch.ones(2, 2)))])
        try:
            optimizer.add_param_group({"params": [("it", p)], **keys})
        finally:
            assert len(optimizer.param_groups) == 1
            optimizer.step()

    matrix, conv = torch.ones(8, 8), torch.ones(4, 4, 4, 4)
    rows, columns = placed(matrix, mesh, ROWS), placed(matrix, mesh, COLUMNS)
    matrices, namo = {"rule": "matrix"}, generated.NAMO
    refused("summands", DTensor.from_local(matrix, mesh, [Partial()]))
    both = placed(matrix, square, [Shard(0), Shard(1)])
    refused("over 2 dimensions of its mesh, and the rule 'matrix' needs", both, namo, **matrices)
    refused("over 2 dimensions of its mesh, and the rule 'matrix' needs", both, generated.Nora, **matrices)
    refused("over 2 dimensions of its mesh, and the rule 'tensor' needs", both, generated.Prodigy)
    refused("lie in each other", strided(square))
    refused("rows, columns or experts", distribute_tensor(conv, mesh, [Shard(2)], src_data_rank=None), rule="conv")
    refused("columns, and has split=2", columns, namo, split=2, **matrices)
    refused("parts of unequal size, which the rule 'matrix' needs apart", rows, namo, split=(3, 5), **matrices)
    refused("state 'v' .* cannot be cut", rows, ByParts, split=2, **matrices)
    refused("no copy of 'd', which the parameters of the rule 'matrix' share", rows, Shared, split=2, **matrices)
    experts = placed(torch.ones(1, 4, 4), mesh, ROWS)
    refused("no copy of 'd', which the parameters of the rule 'matrix' share", experts, Shared, batch=1, **matrices)
    shape, part = torch.Size((10, 2)), torch.ones(5, 2)
    other = DTensor.from_local(part, mesh, ROWS, run_check=False, shape=shape, stride=(2, 1))
    refused("where torch would cut", other)


def strided(mesh: DeviceMesh) -> DTensor:
    """Rows of a column-parallel layer, of which FSDP has cut each part."""
    from torch.distributed.tensor.placement_types import _StridedShard

    placements, shape = [_StridedShard(0, split_factor=2), Shard(0)], torch.Size((8, 8))
    return DTensor.from_local(torch.ones(2, 8), mesh, placements, run_check=False, shape=shape, stride=(8, 1))


def gradients_of_other_placements(group: Any) -> None:
    mesh = mesh_of(group)
    p = nn.Parameter(placed(torch.ones(8, 8), mesh, ROWS))
    optimizer = generated.AdamW([("it", p)])
    before = copy.deepcopy(optimizer.state_dict()["state"])
    p.grad = placed(torch.ones(8, 8), mesh, COLUMNS)
    with pytest.raises(RuntimeError, match=r"^it of shape \(8, 8\).*placements.*redistribute"):
        optimizer.step()
    assert torch.equal(whole(p), torch.ones(8, 8)) and optimizer.state[p]["step"] == 0 == before[0]["step"]


@pytest.mark.parametrize("case", [refusals, gradients_of_other_placements])
def test_what_no_rule_can_run_on_is_an_error_that_names_the_parameter(ranks: Pool, case: Any) -> None:
    ranks.run(4, case)


# -- FSDP2 -------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A layer of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, bias=False, batch_first=True)
        self.up, self.down = nn.Linear(width, 3 * width + 1), nn.Linear(3 * width + 1, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(torch.tanh(self.up(x)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(Block(6) for _ in range(2))
        self.head = nn.Linear(6, 11, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def transformer() -> Transformer:
    torch.manual_seed(0)
    return Transformer().double()


def backward(model: nn.Module, t: int) -> None:
    tokens = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(t))
    nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten().roll(1)).backward()


def trains_alike(group: Any, placements: Sequence[Any], cls: Any) -> None:
    one, sharded = transformer(), transformer()
    for module in (*sharded.blocks, sharded):
        fully_shard(module, mesh=mesh_of(group, placements))
    optimizers = cls(one), cls(sharded)
    assert [g["param_names"] for g in optimizers[0].param_groups] == [
        g["param_names"] for g in optimizers[1].param_groups
    ]
    for t in range(4):
        for model, optimizer in zip((one, sharded), optimizers, strict=True):
            optimizer.zero_grad()
            backward(model, t)
            if t == 3:
                model.tokens.weight.grad = None
            optimizer.step()
    for (name, p), q, start in zip(
        one.named_parameters(), sharded.parameters(), transformer().parameters(), strict=True
    ):
        assert (p - whole(q)).norm() <= 1e-9 * (p - start).norm(), name
        for key, value in optimizers[0].state[p].items():
            other = whole(optimizers[1].state[q][key])
            assert (value - other).norm() <= 1e-9 * value.norm(), (name, key)


@pytest.mark.parametrize(("world", "placements"), [(4, ROWS), (3, ROWS), (4, HYBRID)], ids=str)
def test_a_transformer_of_fsdp_is_trained_as_one_process_trains_it(ranks: Pool, world: int, placements: Any) -> None:
    for cls in (generated.AdamW, generated.Nora):
        ranks.run(world, trains_alike, placements, cls)


def optimizers_at_the_wrong_time(group: Any) -> None:
    mesh = mesh_of(group)
    model = transformer()
    early = generated.AdamW(model)
    fully_shard(model, mesh=mesh)
    generated.AdamW(model)
    backward(model, 0)
    with pytest.raises(RuntimeError, match=r"^tokens.weight of shape .*after the optimizer was made"):
        early.step()
    generated.AdamW(model).step()
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.int64))
    for given in (model, [*model.named_parameters()]):
        with pytest.raises(RuntimeError, match=r"^tokens.weight of shape .*model.reshard\(\) first"):
            generated.AdamW(given)
    model.reshard()
    generated.AdamW(model)


def test_optimizers_that_are_made_too_early_or_during_a_forward_say_so(ranks: Pool) -> None:
    ranks.run(2, optimizers_at_the_wrong_time)


def curvature_apart_from_backward(group: Any) -> None:
    """Gradients would be none, and the estimates zeros."""
    model = transformer()
    fully_shard(model, mesh=mesh_of(group))
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    fisher = GaussNewtonBartlett(model, generated.SophiaG(model))
    hutchinson = Hutchinson(generated.SophiaH(model))
    start = r"by parameters of fully_shard\(\), which get gradients from backward\(\) alone: "
    with pytest.raises(RuntimeError, match=f"{start}let a backward.. of your own, of the loss on labels"):
        fisher(tokens)
    with pytest.raises(RuntimeError, match=f"{start}these are not differentiated, so that there are no products"):
        hutchinson(lambda: model(tokens).sum())


def test_estimates_of_curvature_say_that_fsdp_gives_them_no_gradients(ranks: Pool) -> None:
    ranks.run(2, curvature_apart_from_backward)


# -- checkpoints -------------------------------------------------------------------------------------------------------

SAVED = {"a": (7, 5), "b": (3, 4), "c": (9, 2), "d": (6, 4, 2, 2)}


class Held(nn.Module):
    """A module of parameters, of which each rank has a part; without a group whole ones."""

    def __init__(self, group: Any, placements: Sequence[Any] = ROWS) -> None:
        super().__init__()
        self.mesh, self.placements = group and mesh_of(group, placements), placements
        for name, x in zip(SAVED, samples(0, SAVED.values()), strict=True):
            self.register_parameter(name, nn.Parameter(self.place(x)))

    def place(self, x: Tensor) -> Tensor:
        return placed(x, self.mesh, self.placements) if self.mesh else x

    def train_with(self, optimizer: Any, steps: Iterable[int]) -> None:
        for t in steps:
            for p, grad in zip(self.parameters(), samples(t, SAVED.values()), strict=True):
                p.grad = self.place(grad)
            optimizer.step()
        optimizer.zero_grad()

    def values(self, optimizer: Any) -> list[Tensor]:
        states = [x for _, entry in sorted(optimizer.state_dict()["state"].items()) for x in entry.values()]
        return [whole(x) for x in (*self.parameters(), *states)]


def by_rows(weight: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, lr: float) -> tuple[Tensor, ...]:
    m = m.lerp_(grad, 0.1)
    v = v.lerp_(grad.square().mean(-1, keepdim=True), 0.1)
    return weight - lr * m / (v.sqrt() + 0.1), m, v


class ByRows(SpecOptimizer):
    """A state of one value for each row, and nothing between rows."""

    RULES = (
        Rule(
            name="matrix",
            roles=("matrix", "conv", "vector"),
            states=(State("m"), State("v", ("rows", 1))),
            step=Kernel(by_rows, layout="matrix", along=("cols",)),
        ),
    )

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})


def by_parts(weight: Tensor, grad: Tensor, v: Tensor, *, lr: float) -> tuple[Tensor, ...]:
    return weight - lr * grad, v + 1


class ByParts(ByRows):
    """One number for each part of a split matrix."""

    RULES = (
        Rule(
            name="matrix",
            roles=("matrix", "conv", "vector"),
            states=(State("v", (1, 1)),),
            step=Kernel(by_parts, layout="matrix", along=("cols",)),
        ),
    )


class Shared(ByRows):
    """One number for all parameters, of which each matrix in one has a copy."""

    RULES = (replace(ByParts.RULES[0], states=(State("d", (1, 1), shared=()), *ByParts.RULES[0].states)),)


OPTIMIZERS = {
    "AdamW": lambda model: generated.AdamW(model.named_parameters(), backend="eager"),
    "rows": lambda model: ByRows([{"params": [*model.named_parameters()], "rule": "matrix"}]),
    "numbers": lambda model: generated.ScheduleFreeAdamW(model.named_parameters()),
}


CROSSING = {  # rules whose values cross ranks: vectors of rows, what owners have, and numbers of parts
    "NorMuon": lambda model: generated.NorMuon([{"params": [*model.named_parameters()], "rule": "matrix"}]),
    "SOAP": lambda model: generated.SOAP([{"params": [*model.named_parameters()], "rule": "matrix"}]),
    "NAMO": lambda model: generated.NAMO(
        [{"params": [each], "split": SPLIT[each[0]], "rule": "matrix"} for each in model.named_parameters()]
    ),
}
SPLIT = {"a": 7, "b": 3, "c": 3, "d": 2}


def save(group: Any, name: str, folder: Path, full: bool, placements: Any = ROWS) -> list[Tensor]:
    """Three steps, written to the folder; returns what two more give, without having been saved."""
    model = Held(group, placements)
    optimizer = (OPTIMIZERS | CROSSING)[name](model)
    get_optimizer_state_dict(model, optimizer)  # makes no step, and so changes nothing
    model.train_with(optimizer, range(3))
    options = StateDictOptions(full_state_dict=full)
    saved = {"optimizer": get_optimizer_state_dict(model, optimizer, options=options), "model": model.state_dict()}
    if full:
        saved["model"] = {key: whole(x) for key, x in saved["model"].items()}
        if dist.get_rank(group) == 0:
            torch.save(saved, folder / "full.pt")
    else:
        dcp.save(saved, checkpoint_id=folder, process_group=group)
    dist.barrier(group)
    model.train_with(optimizer, range(3, 5))
    return model.values(optimizer)


def resume(group: Any, name: str, folder: Path, full: bool, placements: Any = ROWS) -> list[Tensor]:
    """What two steps more give; without a group on one process, with whole parameters."""
    is_alone = dist.get_world_size(group) == 1
    model = Held(None if is_alone else group, placements)
    optimizer = (OPTIMIZERS | CROSSING)[name](model)
    model.train_with(optimizer, [9])  # whatever has been there before
    options = StateDictOptions(full_state_dict=full)
    if full:
        read = torch.load(folder / "full.pt")
        model.load_state_dict({key: model.place(x) for key, x in read["model"].items()})
    else:
        read = {"optimizer": get_optimizer_state_dict(model, optimizer), "model": model.state_dict()}
        dcp.load(read, checkpoint_id=folder, process_group=group)
        model.load_state_dict(read["model"])
    set_optimizer_state_dict(model, optimizer, read["optimizer"], options=options)
    model.train_with(optimizer, range(3, 5))
    return model.values(optimizer)


@pytest.mark.parametrize("name", [*OPTIMIZERS, *CROSSING])
@pytest.mark.parametrize("full", [False, True], ids=["parts", "full"])
def test_runs_go_on_bitwise_on_other_numbers_of_ranks(ranks: Pool, tmp_path: Path, name: str, full: bool) -> None:
    for world, others in ((4, (4, 3, 2, 1)), (1, (2,))):
        folder = tmp_path / str(world)
        folder.mkdir()
        expected = ranks.run(world, save, name, folder, full)[0]
        for other in others:
            for found in ranks.run(other, resume, name, folder, full):
                assert all(map(torch.equal, found, expected)) and len(found) == len(expected), other


def plain_states(group: Any, folder: Path) -> None:
    """`state_dict` and `load_state_dict` themselves: the same parts, all of a state, or parts that lie otherwise."""
    model, one = Held(group), Held(None)
    for name in OPTIMIZERS:
        optimizer, alone, fresh = OPTIMIZERS[name](model), OPTIMIZERS[name](one), OPTIMIZERS[name](model)
        for p, q in zip(model.parameters(), one.parameters(), strict=True):  # before the first step, as later
            optimizer.state_dict(), alone.state_dict()
            for key, value in alone.state[q].items():
                assert torch.equal(whole(optimizer.state[p][key]), value), (name, key)
        model.train_with(optimizer, range(2))
        one.train_with(alone, range(2))
        torch.save(optimizer.state_dict(), folder / f"{name}{dist.get_rank()}.pt")
        parts = torch.load(folder / f"{name}{dist.get_rank()}.pt", weights_only=False)
        for saved in (optimizer.state_dict(), copy.deepcopy(optimizer).state_dict(), alone.state_dict(), parts):
            with Counted() as counted:
                fresh.load_state_dict(saved)
            assert counted.calls == []
            for p, q in zip(model.parameters(), one.parameters(), strict=True):
                for key, value in alone.state[q].items():
                    assert torch.equal(whole(fresh.state[p][key]), value), (name, key)
        with pytest.raises(ValueError, match=r"DTensor that does not lie.*set_optimizer_state_dict"):
            alone.load_state_dict(optimizer.state_dict())
        other = Held(group, COLUMNS if name == "AdamW" else EVERYWHERE)
        target = OPTIMIZERS[name](other)
        with pytest.raises(ValueError, match=r"DTensor that does not lie.*set_optimizer_state_dict"):
            target.load_state_dict(optimizer.state_dict())
        assert all(target.state[p]["step"] == 0 for p in other.parameters())


def test_states_are_those_of_one_process_in_parts(ranks: Pool, tmp_path: Path) -> None:
    ranks.run(3, plain_states, tmp_path)
