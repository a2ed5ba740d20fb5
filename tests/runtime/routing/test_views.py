"""How parameters are read as matrices, seen from outside: by module, by role, split, transposed, flattened."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optforge.compiler.load import compile_source
from optforge.generated import ASGO, NAMO, NAMOD, AdamW, Muon, Nora, NorMuon
from tests.references.adamw import AdamW as ReferenceAdamW
from tests.support.trials import network

TOLERANCE = 1e-12
CLASSES = [NAMO, NAMOD, Muon, Nora, NorMuon, ASGO]  # the last one sees all matrices as wide
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(make: Any, initial: list[Tensor], gradients: list[list[Tensor]]) -> list[Tensor]:
    """The weights after one step per list of gradients."""
    params = [nn.Parameter(weight.clone()) for weight in initial]
    optimizer = make(params)
    for at_one_step in gradients:
        for p, gradient in zip(params, at_one_step, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    return [p.detach() for p in params]


def require_same_steps(found: Tensor, expected: Tensor, start: Tensor) -> None:
    assert float((found - expected).norm() / (expected - start).norm()) <= TOLERANCE


@pytest.mark.parametrize("split, rows", [(3, (4, 4, 4)), ((2, 7, 3), (2, 7, 3)), ((3, 3, 6), (3, 3, 6))], ids=str)
@every_class
def test_a_split_parameter_is_several_matrices(cls, split, rows):
    weight, gradients = randn(12, 5), [randn(12, 5, seed=t) for t in range(1, 6)]
    (fused,) = trained(lambda p: cls([{"params": p, "split": split}], lr=0.1), [weight], [[g] for g in gradients])
    parts = trained(lambda p: cls(p, lr=0.1), list(weight.split(rows)), [list(g.split(rows)) for g in gradients])
    require_same_steps(fused, torch.cat(parts), weight)


@every_class
def test_splitting_matters(cls):
    """Nora, whose rows are independent, is the one that need not see it."""
    weight, gradient = randn(12, 5), randn(12, 5, seed=1)
    (fused,) = trained(lambda p: cls([{"params": p, "split": 3}], lr=0.1), [weight], [[gradient]])
    (whole,) = trained(lambda p: cls(p, lr=0.1), [weight], [[gradient]])
    assert (float((fused - whole).norm()) < 1e-12) is (cls is Nora)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (1, 6)], ids=str)
@every_class
def test_a_transposed_parameter_steps_as_its_transpose(cls, shape):
    weight, gradients = randn(*shape), [randn(*shape, seed=t) for t in range(1, 6)]
    (found,) = trained(lambda p: cls([{"params": p, "transposed": True}], lr=0.1), [weight], [[g] for g in gradients])
    (expected,) = trained(lambda p: cls(p, lr=0.1), [weight.T], [[g.T] for g in gradients])
    require_same_steps(found, expected.T, weight)


@pytest.mark.parametrize("shape", [(4, 3, 2), (2, 6, 2, 2), (5, 1, 3, 3)], ids=str)
@every_class
def test_more_dimensions_are_flattened_behind_the_first(cls, shape):
    weight, gradients = randn(*shape), [randn(*shape, seed=t) for t in range(1, 6)]
    (found,) = trained(lambda p: cls(p, lr=0.1), [weight], [[g] for g in gradients])
    (expected,) = trained(lambda p: cls(p, lr=0.1), [weight.flatten(1)], [[g.flatten(1)] for g in gradients])
    require_same_steps(found, expected.view(shape), weight)


@pytest.mark.parametrize("options", [{}, {"transposed": True}, {"split": 2}, {"split": (1, 3)}], ids=str)
@pytest.mark.parametrize("leading", [(3,), (2, 3)], ids=str)
@every_class
def test_a_batch_steps_as_separate_matrices(cls, leading, options):
    """Experts that are one parameter, also with rows and columns swapped in storage, or several matrices in each."""
    shape = (5, 4) if "transposed" in options else (4, 5)
    weight, gradients = randn(*leading, *shape), [randn(*leading, *shape, seed=t) for t in range(1, 6)]
    group = {"batch": len(leading), **options}
    (found,) = trained(lambda p: cls([{"params": p, **group}], lr=0.1), [weight], [[g] for g in gradients])
    apart = [[*g.flatten(0, -3)] for g in gradients]
    parts = trained(lambda p: cls([{"params": p, **options}], lr=0.1), [*weight.flatten(0, -3)], apart)
    require_same_steps(found, torch.stack(parts).view_as(weight), weight)


@every_class
def test_a_batch_matters(cls):
    """The last dimension of one matrix is not that of several; rows of Nora are independent, but not of one length."""
    weight, gradient = randn(3, 4, 5), randn(3, 4, 5, seed=1)
    (batch,) = trained(lambda p: cls([{"params": p, "batch": 1}], lr=0.1), [weight], [[gradient]])
    (whole,) = trained(lambda p: cls(p, lr=0.1), [weight], [[gradient]])
    assert float((batch - whole).norm() / (whole - weight).norm()) > 1e-3


class Conv1D(nn.Module):
    """As in Hugging Face's GPT-2: the weight is (inputs, outputs)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(randn(inputs, outputs))


@every_class
def test_a_module_whose_weight_is_stored_by_inputs_is_viewed_transposed(cls):
    module, gradient = Conv1D(7, 3), randn(3, 7, seed=1)
    start = module.weight.detach().clone()
    module.weight.grad = gradient
    cls(module, lr=0.1).step()
    (expected,) = trained(lambda p: cls(p, lr=0.1), [start.T], [[gradient.T]])
    require_same_steps(module.weight.detach(), expected.T, start)


@every_class
def test_a_group_may_choose_the_rule_of_the_rest(cls):
    weight, gradients = randn(4, 5), [randn(4, 5, seed=t) for t in range(1, 6)]
    given = [[g] for g in gradients]
    (found,) = trained(lambda p: cls([{"params": p, "rule": "rest"}], lr=0.1), [weight], given)
    ratio = {Muon: 0.015, Nora: 0.2}.get(cls, 1.0)
    hypers = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-10 if cls in (Muon, Nora) else 1e-8, "weight_decay": 0.0}
    (expected,) = trained(lambda p: ReferenceAdamW(p, lr=0.1 * ratio, **hypers), [weight], given)
    require_same_steps(found, expected, weight)


@pytest.mark.parametrize("cls", [*CLASSES, AdamW], ids=lambda c: c.__name__)
def test_a_module_gives_every_parameter_once_with_the_hypers(cls):
    model = network()
    optimizer = cls(model, lr=0.125)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(params) == len(set(params)) and set(params) == set(model.parameters())
    assert all(group["lr"] == 0.125 for group in optimizer.param_groups)


# -- rules that see matrices as wide or tall ---------------------------------------------------------------------------

ORIENTED = """
optimizer Sided:
    hyper lr = 0.1 where lr >= 0
    for matrix{seen}:
        l = ema(grad @ grad', 0.9)
        d = norm(grad, per=row) * ema(grad, 0.8)
        weight <- weight - lr * (l @ grad + d) * outputs / (2 * inputs)
"""


def sided(seen: str = "", lr: float = 0.1) -> Any:
    cls = compile_source(ORIENTED.format(seen=seen)).Sided
    return lambda params: cls(params, lr=lr)


@pytest.mark.parametrize("seen", ["wide", "tall"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (6, 1), (4, 3, 2), (9, 2, 2)], ids=str)
def test_an_oriented_rule_steps_the_transpose_where_sides_are_the_other_way_round(seen, shape):
    """By hand: the plain rule on the transpose, whose outputs and inputs are those of the parameter."""
    weight, gradients = randn(*shape), [randn(*shape, seed=t) for t in range(1, 6)]
    (found,) = trained(sided(f" as {seen}"), [weight], [[g] for g in gradients])
    flat = weight.flatten(1)
    rows, cols = flat.shape
    turned = rows > cols if seen == "wide" else rows < cols
    lr = 0.1 * (rows / cols) ** 2 if turned else 0.1
    given = [[g.flatten(1).T if turned else g.flatten(1)] for g in gradients]
    (expected,) = trained(sided(lr=lr), [flat.T if turned else flat], given)
    require_same_steps(found, (expected.T if turned else expected).reshape(shape), weight)
    (plain,) = trained(sided(), [flat], [[g.flatten(1)] for g in gradients])
    assert turned == (float((plain.view(shape) - found).norm()) > 1e-3)


def test_states_of_the_parameters_shape_lie_as_it_does_and_others_as_the_rule_sees():
    cls = compile_source(ORIENTED.format(seen=" as wide")).Sided
    p = nn.Parameter(randn(9, 2, 2))
    p.grad = randn(9, 2, 2, seed=1)
    optimizer = cls([p])
    optimizer.step()
    shapes = {name: tuple(x.shape) for name, x in optimizer.state[p].items()}
    assert shapes == {"l": (4, 4), "d": (9, 2, 2), "step": ()}
    torch.testing.assert_close(optimizer.state[p]["d"], 0.2 * p.grad)
    again = cls([nn.Parameter(p.detach().clone())])
    again.load_state_dict(optimizer.state_dict())
    (q,) = again.param_groups[0]["params"]
    q.grad, p.grad = randn(9, 2, 2, seed=2), randn(9, 2, 2, seed=2)
    optimizer.step(), again.step()
    assert torch.equal(p, q)


def test_a_checkpoint_of_one_orientation_is_none_of_another():
    p = nn.Parameter(randn(4, 4))
    p.grad = randn(4, 4, seed=1)
    wide, tall = (compile_source(ORIENTED.format(seen=f" as {seen}")).Sided([p]) for seen in ("wide", "tall"))
    wide.step()
    with pytest.raises(ValueError, match="l = "):
        tall.load_state_dict(wide.state_dict())
