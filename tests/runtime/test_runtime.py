"""The torch runtime on hand-written modules: what is not in the contract of every class, and functions for kernels."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optforge import runtime
from optforge.runtime import (
    Communication,
    Event,
    Kernel,
    Options,
    Rule,
    SpecOptimizer,
    State,
    cholesky,
    det,
    eigenbasis,
    eigenvalues,
    explain_routing,
    inverse_root,
    logdet,
    mpower,
    orthogonalize,
    param_groups,
    power,
    qr,
    quantiles,
    ranks,
    round_stochastically,
    route,
    solve,
    trace,
)
from optforge.runtime.batching import buckets
from optforge.runtime.contract import interface
from optforge.runtime.execution import calls
from optforge.runtime.steps.sums import _sums
from tests.support.classes import is_untouched, set_gradients
from tests.support.handwritten import (
    Blend,
    Curvature,
    Descent,
    Gram,
    Lookback,
    Ramp,
    Sphere,
    Spread,
    blend_matrix,
    blend_rest,
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype))


def twin(p: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(p.detach().clone())


def steps(optimizer, params, count, first=0):
    for t in range(first, first + count):
        set_gradients(params, t)
        optimizer.step()


@pytest.mark.parametrize("path", sorted(Path(runtime.__path__[0]).rglob("*.py")), ids=lambda path: path.stem)
def test_the_package_needs_only_torch(path):
    """It is copied beside generated modules."""
    tree = ast.parse(path.read_text())
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    assert {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) <= {"torch"}


# -- what a generated class says ---------------------------------------------------------------------------------------


def test_a_kernel_is_read_from_the_signature_of_its_function():
    def step(weight, grad, m, *, t, lr): ...

    kernel = Kernel(step, "elementwise")
    assert (kernel.inputs, kernel.scalars, kernel.outputs) == (("weight", "grad", "m"), ("t", "lr"), ("weight", "m"))
    kernel = Kernel(step, "elementwise", inputs=("weight", "grad", "m.s"), outputs=("m.s",))
    assert (kernel.inputs, kernel.scalars, kernel.outputs) == (("weight", "grad", "m.s"), ("t", "lr"), ("m.s",))


def test_constructors_show_the_options_that_they_take():
    base = inspect.signature(SpecOptimizer.__init__).parameters
    options = {name: each for name, each in base.items() if each.kind is each.KEYWORD_ONLY}
    assert list(Options.__annotations__) == list(options)
    shown = inspect.signature(Descent).parameters
    assert list(shown) == ["params", "lr", *options]
    assert all(shown[name] == each for name, each in options.items())
    with pytest.raises(TypeError, match=r"Descent has no argument 'backed': did you mean 'backend'\?"):
        Descent([nn.Parameter(torch.ones(2))], backed="eager")


# -- other functions of kernels ----------------------------------------------------------------------------------------


def test_inverse_root():
    a = torch.randn(4, 6, 6, dtype=torch.float64)
    s = a @ a.mT
    for p in (1, 2, 4):
        root = inverse_root(s, p, 1e-3)
        torch.testing.assert_close(torch.linalg.matrix_power(root, p), torch.linalg.inv(s + 1e-3 * torch.eye(6)))
    half = inverse_root(s.float(), 2, 1e-3)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), inverse_root(s, 2, 1e-3), rtol=1e-3, atol=1e-3)
    assert inverse_root(s.bfloat16(), 2, 1e-3).dtype == torch.bfloat16
    indefinite = torch.diag(torch.tensor([-1.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(inverse_root(indefinite, 2, 0.25).diagonal(), torch.tensor([2.0, 4.25**-0.5]).double())
    skew = torch.tensor([[4.0, 1.0], [-1.0, 9.0]], dtype=torch.float64)
    torch.testing.assert_close(inverse_root(skew, 2, 0.0), torch.diag(torch.tensor([0.5, 1 / 3]).double()))


def test_eigenbasis_has_a_fixed_order_and_sign():
    a = torch.randn(5, 7, 7, dtype=torch.float64)
    s = (a + a.mT) / 2
    v = eigenbasis(s)
    diagonal = v.mT @ s @ v
    values = diagonal.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(diagonal, torch.diag_embed(values), atol=1e-12, rtol=0)
    assert (values.diff() > 0).all()
    assert (v.gather(-2, v.abs().argmax(-2, keepdim=True)) > 0).all()
    torch.testing.assert_close(eigenbasis(a), v)


def test_qr_has_a_positive_triangular_diagonal():
    x = torch.randn(5, 6, 6, dtype=torch.float64)
    q = qr(x)
    r = q.mT @ x
    torch.testing.assert_close(q @ q.mT, torch.eye(6, dtype=torch.float64).expand(5, 6, 6))
    assert (r.diagonal(dim1=-2, dim2=-1) > 0).all() and r.tril(-1).abs().max() < 1e-12


@pytest.mark.parametrize(
    "function", [lambda s: inverse_root(s, 2, 1e-6), eigenbasis, eigenvalues, qr, cholesky, lambda s: solve(s, s)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrix_functions_propagate_nonfinite_per_matrix(function, dtype):
    s = torch.eye(4).repeat(3, 1, 1).to(dtype)
    s[1, 0, 0], s[2, 1, 1] = math.nan, math.inf
    out = function(s)
    assert out.dtype == dtype and out[0].isfinite().all() and out[1].isnan().all() and out[2].isnan().all()


def test_systems_without_a_solution_are_nan_and_stay_apart():
    s = torch.eye(3, dtype=torch.float64).repeat(3, 1, 1)
    s[1, 2] = 0
    b = torch.randn(3, 3, 2, dtype=torch.float64)
    b[2, 0, 0] = math.inf
    found = solve(s, b)
    assert torch.equal(found[0], b[0]) and found[1:].isnan().all() and found.is_contiguous()
    assert cholesky(s)[1].isnan().all() and torch.equal(cholesky(s)[::2], s[::2])
    assert cholesky(-s).isnan().all() and solve(s.bfloat16(), b.bfloat16()).dtype == torch.bfloat16
    skew = torch.tensor([[4.0, 9.0], [-9.0, 9.0]])
    torch.testing.assert_close(cholesky(skew), torch.diag(torch.tensor([2.0, 3.0])))


def test_ranks_of_equal_elements_follow_their_places():
    x = torch.tensor([[2.0, 0.0, 2.0], [math.nan, -0.0, -1.0]])
    assert ranks(x, dim=-1).tolist() == [[1, 0, 2], [2, 1, 0]]
    assert ranks(x, dim=-2).tolist() == [[0, 0, 1], [1, 1, 0]]
    assert ranks(x, dim=(-2, -1)).tolist() == [[3, 1, 4], [5, 2, 0]]
    assert quantiles(x, 0.25, dim=-1)[0].item() == 1.0 and quantiles(x, 0.25, dim=-1)[1].isnan()
    assert quantiles(torch.tensor([[math.inf, 1.0, -math.inf]]), 0.5, dim=-1).item() == 1.0


def test_orthogonal_factors_keep_rows_of_zeros():
    x = torch.randn(4, 6, dtype=torch.float64)
    x[1] = 0
    found = orthogonalize(x, method="svd")
    kept = [0, 2, 3]
    torch.testing.assert_close(found[kept], orthogonalize(x[kept], method="svd"))
    assert not found[1].any() and not orthogonalize(x.mT, method="svd")[:, 1].any()


def test_trace_and_det():
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    assert trace(x).shape == det(x).shape == (3, 2, 1, 1)
    np.testing.assert_allclose(trace(x).numpy()[..., 0, 0], np.trace(x.numpy(), axis1=-2, axis2=-1))
    np.testing.assert_allclose(det(x).numpy()[..., 0, 0], np.linalg.det(x.numpy()))
    assert det(x.bfloat16()).dtype == torch.bfloat16


def test_logdet_holds_what_det_cannot():
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    assert logdet(x).shape == (3, 2, 1, 1) and logdet(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(logdet(x), det(x).abs().log())
    small = 1e-3 * torch.eye(200)
    assert det(small).item() == 0.0
    assert logdet(small).item() == pytest.approx(200 * math.log(1e-3), rel=1e-6)
    assert logdet(torch.zeros(2, 2)).item() == -math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_power_does_not_depend_on_the_position(dtype, threads):
    torch.set_num_threads(threads)
    x = (torch.rand(70001) * 30 + 1e-3).to(dtype)
    cases = [lambda a: power(a, 0.37), lambda a: power(a, -0.25), lambda a: power(0.37, a), lambda a: power(a, a)]
    cases += [lambda a, y=y: power(a, y) for y in (-2, -1, -0.5, 0, 0.5, 1, 2, 3, 5, -4)]
    for function in cases:
        whole = function(x)
        for first, size in ((0, 1), (3, 7), (5, 64), (1, 33), (7, 40000)):
            assert torch.equal(function(x[first : first + size].clone()), whole[first : first + size])


def test_power_agrees_with_numpy():
    """To two places of float32, as x³ rounds twice; in float64 to what log and exp lose where |y log x| is about 70."""
    x = torch.tensor([0.0, -0.0, 0.3, 1.0, 2.0, 70.0, -1.5, -2.0, -1.0, math.inf, -math.inf, math.nan])
    for dtype, tolerance in ((torch.float32, 2.0**-22), (torch.float64, 300 * 2.0**-52)):
        wide = x.to(dtype).double().numpy()
        for y in (0.37, -0.25, 2.0, 3, 5, -3, 4, 0.0, 1.0, 1e-3, 12.5):
            tensor_y = torch.tensor(y, dtype=dtype)
            for exponent in (y, tensor_y):
                with np.errstate(all="ignore"):
                    expected = np.power(wide, float(exponent))
                found = power(x.to(dtype), exponent)
                np.testing.assert_allclose(found.double().numpy(), expected, rtol=tolerance, err_msg=f"{y}")
        with np.errstate(all="ignore"):
            of_number = np.power(0.37, wide)
        np.testing.assert_allclose(power(0.37, x.to(dtype)).double().numpy(), of_number, rtol=tolerance)
        assert power(x.to(dtype), 0.37).dtype == power(0.37, x.to(dtype)).dtype == dtype
    roots = x[2:6].double()
    np.testing.assert_allclose(power(roots, -0.5).numpy(), roots.numpy() ** -0.5, rtol=1e-15)
    assert power(2.0, 3) == 8.0 and math.isclose(power(10, -0.8), 10**-0.8, rel_tol=1e-15)
    assert math.isnan(power(-1.0, 0.5))


TRACED = {
    "newton_schulz": orthogonalize,
    "polar_express": lambda s: orthogonalize(s, method="polar_express"),
    "svd": lambda s: orthogonalize(s, method="svd"),
    "inverse_root": lambda s: inverse_root(s, 4, 1e-3),
    "eigenbasis": eigenbasis,
    "qr": qr,
    "mpower": lambda s: mpower(s, -0.25, ridge=0.5),
    "eigenvalues": eigenvalues,
    "ranks": lambda s: ranks(s, dim=-1),
    "quantiles": lambda s: quantiles(s, 0.3, dim=(-2, -1)),
    "solve": lambda s: solve(s, s.mT @ s),
    "cholesky": lambda s: cholesky(s @ s.mT + torch.eye(5)),
    "power": lambda s: power(s.abs(), 0.37),
}


@pytest.mark.parametrize("name", TRACED)
def test_functions_compile_without_graph_breaks(name):
    x = torch.randn(2, 5, 5)
    torch._dynamo.reset()
    compiled = torch.compile(TRACED[name], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), TRACED[name](x))


# -- stochastic rounding -----------------------------------------------------------------------------------------------

TWO_NUMBERS = {
    torch.bfloat16: [1.001, -3.7, 1e-30, 1e30, 1e-40],
    torch.float16: [1.0003, -3.7001, 6.2e-5, 3.3e-6, 2.1e-8, -1e-9, 65001.0],
}


def counted(x: Tensor) -> Tensor:
    """The simplest noise: different numbers."""
    return torch.arange(x.numel(), dtype=torch.int32).view(x.shape)


@pytest.mark.parametrize("dtype", TWO_NUMBERS)
def test_stochastic_rounding_is_unbiased_between_the_two_neighbours(dtype):
    for value in TWO_NUMBERS[dtype]:
        x = torch.full((40000,), value)
        rounded = round_stochastically(x, dtype, counted(x))
        assert rounded.dtype == dtype
        neighbours = rounded.double().unique()
        assert len(neighbours) == 2 or value == -1e-9, value
        gap = float(neighbours.max() - neighbours.min())
        nearest = x[:1].to(dtype)
        other = torch.nextafter(nearest, torch.where(nearest.float() < x[:1], math.inf, -math.inf).to(dtype))
        assert set(neighbours.tolist()) <= {nearest.double().item(), other.double().item()}, value
        error = abs(float(rounded.double().mean()) - float(x[0].double()))
        assert error < 5 * gap * 0.5 / math.sqrt(len(x)), value


@pytest.mark.parametrize("dtype", TWO_NUMBERS)
def test_stochastic_rounding_keeps_what_the_dtype_has(dtype):
    exact = torch.tensor([0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, torch.finfo(dtype).max, torch.finfo(dtype).tiny])
    smallest = torch.tensor([torch.finfo(dtype).smallest_normal / 4, -torch.finfo(dtype).smallest_normal / 4])
    for x in (exact, smallest):
        assert torch.equal(round_stochastically(x, dtype, counted(x)), x.to(dtype))
    nans = torch.tensor([0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    assert round_stochastically(nans, dtype, counted(nans)).isnan().all()


def drift(precision: str, dtype: torch.dtype) -> float:
    """How far 200 steps of 1e-4, each below half a unit in the last place, carry a weight of 1."""
    p = nn.Parameter(torch.ones(2000, dtype=dtype))
    optimizer = Descent([p], lr=1e-4, precision=precision)
    for _ in range(200):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return 1 - p.float().mean().item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_updates_are_lost_in_plain_precision_only(dtype):
    assert drift("plain", dtype) == 0.0
    for precision in ("kahan", "stochastic", "master"):
        assert abs(drift(precision, dtype) - 0.02) < 0.002, precision


def test_precision_is_an_option_of_a_group():
    low, single = parameter(6, 4, dtype=torch.bfloat16), parameter(6, 4)
    optimizer = Lookback([{"params": [low], "precision": "master"}, {"params": [single], "precision": "kahan"}])
    steps(optimizer, [low, single], 1)
    assert "master" in optimizer.state[low] and set(optimizer.state[single]) == {"last", "before", "step"}
    with pytest.raises(ValueError, match="invalid precision='mater'; did you mean 'master'"):
        Lookback([low], precision="mater")


# -- one step against the kernels called by hand -----------------------------------------------------------------------

BLEND = {"lr": 1e-2, "mu1": 0.95, "mu2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "nesterov": True}


def blend_by_hand(weight: Tensor, grads: list[Tensor]) -> tuple[Tensor, ...]:
    """Steps of the matrix rule on one (rows, cols) weight: weight, m, v, row, col."""
    rows, cols = weight.shape
    shapes = [(1, rows, cols), (1, 1, 1), (1, rows, 1), (1, 1, cols)]
    state = [weight.detach().clone()[None], *(torch.zeros(shape, dtype=weight.dtype) for shape in shapes)]
    for t, grad in enumerate(grads, 1):
        state = list(blend_matrix(state[0], grad[None].contiguous(), *state[1:], t=t, **BLEND))
    return tuple(x[0] for x in state)


def with_random_gradients(optimizer, p: Tensor, count: int = 3) -> list[Tensor]:
    grads = [torch.randn_like(p) for _ in range(count)]
    for grad in grads:
        p.grad = grad
        optimizer.step()
    return grads


def test_matrix_rule_is_the_kernel():
    p = parameter(5, 7)
    start = p.detach().clone()
    optimizer = Blend([p])
    grads = with_random_gradients(optimizer, p)
    weight, m, v, row, col = blend_by_hand(start, grads)
    state = optimizer.state[p]
    assert torch.equal(p, weight) and torch.equal(state["m"], m)
    assert torch.equal(state["v"], v) and state["v"].shape == (1, 1)
    assert torch.equal(state["row"], row) and state["row"].shape == (5, 1)
    assert torch.equal(state["col"], col) and state["col"].shape == (1, 7)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolutions_are_matrices_of_outputs_and_everything_else(memory_format):
    p = nn.Parameter(torch.randn(6, 3, 2, 2).to(memory_format=memory_format))
    start = p.detach().clone()
    optimizer = Blend([{"params": [p], "rule": "conv"}])
    grads = with_random_gradients(optimizer, p)
    weight, m, *_ = blend_by_hand(start.flatten(1), [g.flatten(1) for g in grads])
    assert torch.equal(p, weight.view_as(start)) and torch.equal(optimizer.state[p]["m"], m.view_as(start))
    assert optimizer.state[p]["row"].shape == (6, 1) and optimizer.state[p]["col"].shape == (1, 12)


@pytest.mark.parametrize("shape", [(7, 5), (4, 6, 3)])
def test_transposed_parameters_are_viewed_with_rows_first(shape):
    p = parameter(*shape)
    start = p.detach().clone()
    optimizer = Blend([{"params": [p], "transposed": True}])
    grads = with_random_gradients(optimizer, p)
    weight, m, *_ = blend_by_hand(start.transpose(0, 1).flatten(1), [g.transpose(0, 1).flatten(1) for g in grads])
    swapped = (shape[1], shape[0], *shape[2:])
    assert torch.equal(p, weight.view(swapped).transpose(0, 1))
    assert torch.equal(optimizer.state[p]["m"], m.view(swapped).transpose(0, 1))
    assert optimizer.state[p]["m"].shape == p.shape and optimizer.state[p]["row"].shape == (shape[1], 1)


@pytest.mark.parametrize("split, parts", [(3, (4, 4, 4)), ((6, 3, 3), (6, 3, 3)), ((3, 9), (3, 9)), (1, (12,))])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("precision", ["plain", "kahan", "master"])
def test_split_parameters_are_separate_matrices(split, parts, transposed, precision):
    dtype = torch.float32 if precision == "plain" else torch.bfloat16
    p, other = parameter(5, 12, dtype=dtype), parameter(5, 12, dtype=dtype)
    if not transposed:
        p, other = (nn.Parameter(x.detach().t().contiguous()) for x in (p, other))
    pieces = [nn.Parameter(x.detach().clone()) for x in (p.t() if transposed else p).split(parts)]
    optimizer = Blend([{"params": [p, other], "split": split, "transposed": transposed}], precision=precision)
    separate = Blend(pieces, precision=precision)
    for t in range(4):
        set_gradients([p, other], t)
        for piece, grad in zip(pieces, (p.grad.t() if transposed else p.grad).split(parts), strict=True):
            piece.grad = grad.clone()
        optimizer.step()
        separate.step()
        if t == 1:  # a checkpoint of split states loads
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if t == 2:  # and so does one of before values of rows lay as the rows do
            older = copy.deepcopy(optimizer.state_dict())
            for entry in older["state"].values():
                entry["row"] = entry["row"].reshape((split, 12 // split, 1)[split == 1 :] if split in (1, 3) else (12,))
            optimizer.load_state_dict(older)
    joined = torch.cat([piece.detach() for piece in pieces])
    assert torch.equal(p, joined.t() if transposed else joined)
    state, states = optimizer.state[p], [separate.state[piece] for piece in pieces]
    m = torch.cat([s["m"] for s in states])
    assert torch.equal(state["m"], m.t() if transposed else m) and state["m"].shape == p.shape
    assert torch.equal(state["row"], torch.cat([s["row"] for s in states]))
    if split == 3:
        for name in ("v", "col"):
            assert torch.equal(state[name], torch.stack([s[name] for s in states]))
    elif split != 1:
        for name in ("v", "col"):
            assert torch.equal(state[name], torch.cat([s[name].flatten() for s in states]))


@pytest.mark.parametrize("options", [{}, {"transposed": True}, {"split": 2}, {"split": (1, 3)}], ids=str)
@pytest.mark.parametrize("precision", ["plain", "kahan", "master"])
def test_batches_are_separate_matrices(options, precision):
    """Weights, states of every shape, and a checkpoint in the middle; next to a matrix of the same shape."""
    dtype = torch.float64 if precision == "plain" else torch.bfloat16
    shape = (5, 4) if "transposed" in options else (4, 5)
    p, single = parameter(3, *shape, dtype=dtype), parameter(*shape, dtype=dtype)
    pieces = [nn.Parameter(x.detach().clone()) for x in p]
    optimizer = Blend([{"params": [p], "batch": 1, **options}, {"params": [single], **options}], precision=precision)
    separate = Blend([{"params": pieces, **options}], precision=precision)
    for t in range(4):
        set_gradients([p, single], t)
        for piece, grad in zip(pieces, p.grad, strict=True):
            piece.grad = grad.clone()
        optimizer.step()
        separate.step()
        if t == 1:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    parts = 2 if "split" in options else 1
    state, states = optimizer.state[p], [separate.state[piece] for piece in pieces]
    assert state["m"].shape == p.shape and all(s["m"].shape == shape for s in states)
    torch.testing.assert_close(p, torch.stack([*pieces]), rtol=1e-12 if precision == "plain" else 1e-2, atol=0)
    torch.testing.assert_close(state["m"], torch.stack([s["m"] for s in states]))
    if options.get("split") != (1, 3):
        assert state["row"].shape == (3, 4, 1) and state["v"].shape == (3 * parts, 1, 1)
    for name in ("v", "row", "col"):
        expected = torch.stack([s[name].flatten() for s in states])
        if options.get("split") == (1, 3):  # the short parts of all matrices lie before the long ones
            short = 1 if name in ("v", "row") else 5
            expected = torch.cat([expected[:, :short].flatten(), expected[:, short:].flatten()])
        torch.testing.assert_close(state[name].flatten(), expected.flatten())


@pytest.mark.parametrize("batch", [-1, True, 1.0, None])
def test_invalid_batches_are_errors(batch):
    with pytest.raises(ValueError, match="invalid batch="):
        Blend([{"params": [parameter(2, 3, 4)], "batch": batch}])


def test_a_batch_that_leaves_no_matrix_is_an_error():
    with pytest.raises(ValueError, match=r"batch=2 leaves no matrix of the shape \(2, 3, 4\)"):
        Blend([{"params": [parameter(2, 3, 4)], "batch": 2}])


def test_square_states_and_unequal_parts():
    p = parameter(9, 4)
    optimizer = Gram([{"params": [p], "split": (5, 4)}])
    grads = with_random_gradients(optimizer, p)
    upper = sum(g[:5] @ g[:5].mT for g in grads)
    lower = sum(g[5:] @ g[5:].mT for g in grads)
    torch.testing.assert_close(optimizer.state[p]["gram"], torch.cat([upper.flatten(), lower.flatten()]))


@pytest.mark.parametrize("split", [5, (3, 3), (12, 0), (13, -1), 0, -1])
def test_split_that_does_not_fit_is_an_error(split):
    with pytest.raises(ValueError, match="split"):
        Blend([{"params": [parameter(12, 3)], "split": split}])


def test_tensor_rule_is_the_kernel_on_any_shape():
    params = [parameter(3, 4), parameter(12), parameter(2, 3, 2), parameter()]
    radii = [p.detach().norm() for p in params]
    optimizer = Sphere(params, lr=0.1)
    steps(optimizer, params, 3)
    for p, radius in zip(params, radii, strict=True):
        torch.testing.assert_close(p.detach().norm(), radius)
        torch.testing.assert_close(optimizer.state[p]["radius"], radius.view(1, 1))


def test_outputs_may_be_inputs():
    """The gradient becomes a state and one state the other, whichever is written first."""
    for shapes in ([(4, 3)], [(4, 3), (5,), (4, 3)], [(300, 300)]):
        params = [parameter(*shape) for shape in shapes]
        optimizer = Lookback(params)
        history = []
        for t in range(4):
            set_gradients(params, t)
            history.append([p.grad.clone() for p in params])
            optimizer.step()
        for i, p in enumerate(params):
            assert torch.equal(optimizer.state[p]["last"], history[-1][i])
            assert torch.equal(optimizer.state[p]["before"], history[-2][i])
            assert optimizer.state[p]["last"].data_ptr() != p.grad.data_ptr()


# -- blocks and batches ------------------------------------------------------------------------------------------------


def test_large_elementwise_parameters_are_walked_in_blocks(monkeypatch):
    sizes = []

    def watched(weight, grad, m, v, **scalars):
        sizes.append(weight.shape)
        return blend_rest(weight, grad, m, v, **scalars)

    watched_kernel = Kernel(
        watched, *[getattr(Blend.RULES[1].step, n) for n in ("layout", "inputs", "scalars", "outputs")]
    )
    rule = Rule("rest", ("vector",), Blend.RULES[1].states, watched_kernel)
    monkeypatch.setattr(Blend, "RULES", (Blend.RULES[0], rule))
    for dtype, precision in ((torch.float32, "plain"), (torch.bfloat16, "plain"), (torch.bfloat16, "kahan")):
        sizes.clear()
        p = parameter(buckets.CPU_BLOCK * 2 + 5, dtype=dtype)
        weight, m, v = p.detach().float(), torch.zeros(p.shape), torch.zeros(p.shape)
        optimizer = Blend([p], precision=precision)
        p.grad = torch.randn(p.shape).to(dtype)
        optimizer.step()
        assert sizes == [(buckets.CPU_BLOCK,), (buckets.CPU_BLOCK,), (5,)]
        hypers = {name: optimizer.defaults[name] for name in ("lr", "rest_beta1", "eps")}
        weight, m, v = blend_rest(weight, p.grad.float(), m, v, t=1, **hypers)
        assert torch.equal(p, weight.to(dtype))
        assert torch.equal(optimizer.state[p]["m"], m) and torch.equal(optimizer.state[p]["v"], v)


@pytest.mark.parametrize("limit", [1, 40, 100, 10000])
def test_results_do_not_depend_on_the_size_of_blocks_and_batches(monkeypatch, limit):
    def trajectory():
        torch.manual_seed(1)
        shapes = [(6, 4)] * 5 + [(40,), (3,), (), (200,), (5, 8), (4, 6)]
        params = [parameter(*shape) for shape in shapes]
        optimizer = Blend(params)
        steps(optimizer, params, 3)
        return [(p.detach(), *(optimizer.state[p][m] for m in sorted(optimizer.state[p]))) for p in params]

    expected = trajectory()
    for name in ("CPU_ALONE", "CPU_BATCH", "CPU_BLOCK"):
        monkeypatch.setattr(buckets, name, limit)
    for a, b in zip(trajectory(), expected, strict=True):
        assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_the_batch_with_threads(threads):
    """Sums of large matrices use several threads when alone; so the runtime never batches those on the CPU."""

    def step(weight, grad, *, lr):
        return (weight - lr * (weight * grad).sum((-2, -1), keepdim=True) * (grad @ (grad.mT @ weight)),)

    class Summing(Descent):
        RULES = (Rule("matrix", ("matrix",), (), Kernel(step, "matrix", ("weight", "grad"), ("lr",), ("weight",))),)

    torch.set_num_threads(threads)
    shapes = [(100, 50)] * 6 + [(256, 300)] * 3
    params = [parameter(*shape) for shape in shapes]
    others = [twin(p) for p in params]
    optimizer, singles = Summing(params), [Summing([p]) for p in others]
    for t in range(2):
        set_gradients(params, t)
        set_gradients(others, t)
        optimizer.step()
        for single in singles:
            single.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def counting(cls, calls):
    """The class with kernels that record the shape of what they are given."""

    def watch(kernel):
        def function(*inputs, **scalars):
            calls.append(tuple(inputs[0].shape))
            return kernel.function(*inputs, **scalars)

        return replace(kernel, function=function, fused=None)

    rules = tuple(replace(rule, step=watch(rule.step)) for rule in cls.RULES)
    return type(cls.__name__, (cls,), {"RULES": rules})


def test_units_of_one_shape_run_as_one_call():
    calls = []
    model = [parameter(6, 4), parameter(4, 6), parameter(6, 4), parameter(5), parameter(7), parameter(6, 4)]
    optimizer = counting(Blend, calls)(model)
    steps(optimizer, model, 1)
    assert sorted(calls) == [(1, 4, 6), (3, 6, 4), (12,)]


def test_batches_are_limited_and_large_units_run_alone_without_a_copy(monkeypatch):
    calls = []
    small, large = [parameter(6, 4) for _ in range(5)], [parameter(200, 200) for _ in range(2)]
    monkeypatch.setattr(buckets, "CPU_BATCH", 50)
    optimizer = counting(Blend, calls)([*small, *large])
    steps(optimizer, [*small, *large], 1)
    assert sorted(calls) == [(1, 6, 4), (1, 200, 200), (1, 200, 200), (2, 6, 4), (2, 6, 4)]
    bucket = optimizer._arrangement.owners[large[0]]
    assert bucket.gather(bucket.params).data_ptr() == large[0].data_ptr()


def test_views_of_one_shape_share_a_call():
    calls = []
    a, b, c = parameter(6, 4), parameter(4, 6), parameter(18, 4)
    groups = [{"params": [a]}, {"params": [b], "transposed": True}, {"params": [c], "split": 3}]
    optimizer = counting(Blend, calls)(groups)
    steps(optimizer, [a, b, c], 1)
    assert calls == [(5, 6, 4)]


def test_groups_with_equal_hypers_share_a_call_and_others_do_not():
    calls = []
    params = [parameter(6, 4) for _ in range(4)]
    optimizer = counting(Blend, calls)([{"params": [p]} for p in params], lr=0.1)
    steps(optimizer, params, 1)
    assert calls == [(4, 6, 4)]
    calls.clear()
    optimizer.param_groups[1]["lr"] = 0.2
    steps(optimizer, params, 1)
    assert sorted(calls) == [(1, 6, 4), (3, 6, 4)]


def test_states_stay_pieces_of_one_buffer():
    """No copies of states from step to step; each is saved as if it were alone."""
    params = [parameter(6, 4) for _ in range(3)]
    optimizer = Blend(params)
    steps(optimizer, params, 1)
    before = [optimizer.state[p]["m"] for p in params]
    steps(optimizer, params, 2)
    assert all(optimizer.state[p]["m"] is m for p, m in zip(params, before, strict=True))
    assert [m.data_ptr() - before[0].data_ptr() for m in before] == [0, 96, 192]
    assert all(m.untyped_storage().nbytes() == 96 and m.untyped_storage().data_ptr() == m.data_ptr() for m in before)
    large = parameter(400, 300)
    optimizer = Blend([large])
    steps(optimizer, [large], 1)
    held = optimizer.state[large]["m"].data_ptr()
    steps(optimizer, [large], 1)
    assert optimizer.state[large]["m"].data_ptr() == held


def test_replaced_states_and_weights_are_seen():
    params = [parameter(6, 4) for _ in range(3)]
    optimizer = Blend(params)
    steps(optimizer, params, 2)
    copied = copy.deepcopy(optimizer)
    others = copied.param_groups[0]["params"]
    for p in params:  # equal values in new storage, for weights and states
        optimizer.state[p] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()}
        p.data = p.data.clone()
    kept = [optimizer.state[p]["m"] for p in params]
    steps(optimizer, params, 2, first=2)
    steps(copied, others, 2, first=2)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    assert not any(torch.equal(m, optimizer.state[p]["m"]) for m, p in zip(kept, params, strict=True))
    optimizer.state[params[0]]["m"] = torch.full((6, 4), 5.0)
    params[0].grad = torch.zeros(6, 4)
    optimizer.step()
    assert (optimizer.state[params[0]]["m"] > 4).all()


def test_states_left_behind_do_not_hold_the_buffers_of_others():
    params = [parameter(6, 4) for _ in range(3)]
    optimizer = Blend(params)
    steps(optimizer, params, 1)
    params[0].grad = None
    optimizer.step()
    assert optimizer.state[params[0]]["m"].untyped_storage().nbytes() == 6 * 4 * 4


def test_models_may_change_dtype_between_steps():
    params = [parameter(6, 4), parameter(5)]
    optimizer = Blend(params)
    steps(optimizer, params, 1)
    for p in params:
        p.grad = None
        p.data = p.data.double()
    steps(optimizer, params, 1)
    assert all(optimizer.state[p]["m"].dtype == torch.float64 for p in params)


def test_the_number_of_kept_buckets_is_bounded():
    params = [parameter(2, 2) for _ in range(12)]
    optimizer = Descent(params)
    for mask in range(1, 2**11, 2):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if mask >> i & 1 else None
        optimizer.step()
    assert len(optimizer._arrangement) <= 1001


# -- groups, names, hypers ---------------------------------------------------------------------------------------------


def test_params_may_be_named_grouped_or_a_module():
    model = nn.Linear(4, 3)
    for params in (model.named_parameters(), [{"params": model.named_parameters(), "lr": 0.5}]):
        optimizer = Blend(params)
        assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    by_role = Blend(model).param_groups
    assert [(g["rule"], g["param_names"]) for g in by_role] == [("matrix", ["weight"]), ("vector", ["bias"])]
    assert "param_names" in Blend(model.named_parameters()).state_dict()["param_groups"][0]
    for wrong, error in ((model.weight, TypeError), ([], ValueError), ({model.weight}, None)):
        with pytest.raises(error) if error else pytest.raises(Exception):
            Blend([{"params": wrong}] if error is None else wrong)
    named = Blend(model.named_parameters())
    named.load_state_dict(Blend(model.parameters()).state_dict())
    assert named.param_groups[0]["param_names"] == ["weight", "bias"]
    group = {"params": [model.weight]}
    Blend([group])
    assert set(group) == {"params"}  # the caller's group is not filled in


def test_messages_name_hyper_condition_and_value():
    p = parameter(3, 2)
    with pytest.raises(ValueError) as error:
        Blend([p], mu1=1.2)
    assert str(error.value) == "invalid mu1=1.2: the condition is 0 <= mu1 <= mu2 < 1"
    with pytest.raises(ValueError) as error:
        Blend([p], lr="0.1")
    assert str(error.value) == "invalid lr='0.1': a real number is expected"
    with pytest.raises(ValueError, match=r"invalid nesterov=1: a bool is expected"):
        Blend([p], nesterov=1)
    with pytest.raises(
        ValueError, match=r"unknown key 'weight_dcay' in a parameter group; did you mean 'weight_decay'"
    ):
        Blend([{"params": [p], "weight_dcay": 0.1}])


def test_numpy_numbers_and_integers_are_numbers():
    p, q = parameter(3, 2), parameter(3, 2)
    optimizer = Blend([p, q], lr=np.float32(0.5), weight_decay=1, mu1=np.float64(0.5))
    steps(optimizer, [p, q], 1)
    assert p.isfinite().all()


def test_hypers_are_checked_only_when_they_change():
    calls = []

    class Counting(Descent):
        @staticmethod
        def check_hypers(lr):
            calls.append(lr)

    p = parameter(3)
    optimizer = Counting([p])
    steps(optimizer, [p], 1)
    calls.clear()
    steps(optimizer, [p], 3)
    assert calls == []
    optimizer.param_groups[0]["lr"] = 0.5
    steps(optimizer, [p], 2)
    assert calls == [0.5]


def test_a_failed_group_leaves_the_optimizer_unchanged():
    p = parameter(3, 2)
    optimizer = Blend([p])
    for bad in ({"lr": -1}, {"rule": "nothing"}, {"split": 2}, {"precision": "x"}, {"transposed": 1}, {"lrr": 1}):
        with pytest.raises(ValueError):
            optimizer.add_param_group({"params": [parameter(3, 2)], **bad})
        assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError):
        optimizer.add_param_group([parameter(3, 2)])


def test_parameters_below_two_dimensions_are_no_matrices():
    for p in (parameter(), parameter(4)):
        for make in (lambda p=p: Blend([{"params": [p], "rule": "matrix"}]), lambda p=p: Gram([p])):
            with pytest.raises(ValueError, match=r"not a matrix|no rule"):
                make()
        Blend([p])
        Sphere([{"params": [p], "rule": "matrix"}])  # its rule takes every shape
        rows = Kernel(lambda w: (w,), "matrix", ("weight",), (), ("weight",))
        flat = Kernel(lambda w: (w,), "elementwise", ("weight",), (), ("weight",))
        for rule in (Rule("all", ("matrix", "vector"), (), rows), Rule("some", ("matrix",), (), flat)):
            one_rule = type("OneRule", (Descent,), {"RULES": (rule,)})
            with pytest.raises(ValueError, match=f"not a matrix, as the rule '{rule.name}' needs"):
                one_rule([{"params": [p], "rule": "matrix"}])


def test_a_role_without_rule_is_an_error_that_names_the_parameter():
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"Gram has no rule 'vector' for 0.bias of shape \(3,\)"):
        Gram(model)
    Gram(nn.Sequential(nn.Linear(4, 3, bias=False)))


def test_rule_may_be_a_role_or_the_name_of_a_rule():
    params = [parameter(4, 3) for _ in range(3)]
    rules = ("rest", "embedding", "matrix")
    optimizer = Blend([{"params": [p], "rule": rule} for p, rule in zip(params, rules, strict=True)])
    steps(optimizer, params, 1)
    assert ["row" in optimizer.state[p] for p in params] == [False, False, True]


def test_a_distributed_tensor_of_which_one_rank_has_all_steps_as_any_other():
    dist = pytest.importorskip("torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh, whole = init_device_mesh("cpu", (1,)), parameter(4, 3)
        sharded = nn.Parameter(distribute_tensor(whole.detach().clone(), mesh, [Shard(0)]))
        one, other = Blend([whole]), Blend([sharded])
        for _ in range(3):
            whole.grad = torch.randn(4, 3)
            sharded.grad = distribute_tensor(whole.grad, mesh, [Shard(0)])
            one.step()
            other.step()
        assert torch.equal(whole, sharded.to_local())
        assert torch.equal(one.state[whole]["row"], other.state[sharded]["row"].to_local())
    finally:
        dist.destroy_process_group()


def test_distributed_checkpoints_know_the_state():
    state_dict = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    optimizer, resumed = Blend(model), Blend(other)
    steps(optimizer, list(model.parameters()), 2)
    optimizer.zero_grad()
    saved = state_dict.get_optimizer_state_dict(model, optimizer)
    assert set(saved["state"]["weight"]) == {"m", "v", "row", "col", "step"}
    state_dict.set_optimizer_state_dict(other, resumed, saved)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert resumed.state[q]["step"] == 2 and torch.equal(resumed.state[q]["m"], optimizer.state[p]["m"])


# -- init, totals, events ----------------------------------------------------------------------------------------------


def test_initial_values_are_taken_once_at_the_first_step():
    params = [parameter(4, 3), parameter(5), parameter(4, 3), parameter(2, 2, 3)]
    start = [p.detach().square().mean() for p in params]
    optimizer = Curvature(params)
    params[2].requires_grad_(False)
    steps(optimizer, params[:2] + params[3:], 2)
    for i in (0, 1, 3):
        torch.testing.assert_close(optimizer.state[params[i]]["h"], start[i].expand(params[i].shape))
    assert is_untouched(optimizer, params[2])


def test_a_failing_initial_value_leaves_no_state(monkeypatch):
    def failing(weight, *, t):
        raise RuntimeError("out of memory")

    rule = Curvature.RULES[0]
    bad = Kernel(failing, "tensor", ("weight",), ("t",), ("h",))
    monkeypatch.setattr(Curvature, "RULES", (replace(rule, init=bad),))
    p = parameter(4)
    optimizer = Curvature([p])
    p.grad = torch.ones(4)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    assert is_untouched(optimizer, p)


def test_totals_range_over_every_parameter_with_gradient():
    """Against the formula; and a total is the same in any order of parameters."""
    params = [parameter(4, 3), parameter(5), parameter(2, 3, 2), parameter(50, 70), parameter(3)]
    start = [p.detach().clone() for p in params]
    optimizer = Curvature(params)
    set_gradients(params, 0)
    params[-1].grad = None
    total = sum(p.grad.double().square().sum() for p in params[:-1])
    optimizer.step()
    for p, old in zip(params[:-1], start, strict=False):
        m = 0.1 * p.grad / (1 + total.sqrt())
        h = old.square().mean().clamp(min=1e-6)
        torch.testing.assert_close(p.detach(), (old - 0.01 * (m / h).clamp(-1, 1)).float())


def test_totals_are_shared_by_the_rules_of_an_optimizer():
    """Clipping by the global norm in one rule sees the gradients of the other."""

    def clipped(weight, grad, *, lr, total_1):
        return (weight - lr * grad / total_1.sqrt(),)

    def squared(grad):
        return (grad.square().sum((-2, -1), keepdim=True),)

    def largest(grad, *, total_1):
        return (grad.abs().amax((-2, -1), keepdim=True) / total_1,)

    def plain(weight, grad, *, lr):
        return (weight - lr * grad,)

    sums = (
        Kernel(squared, "matrix", ("grad",), (), ("total_1",)),
        Kernel(largest, "tensor", ("grad",), ("total_1",), ("total_2",)),
    )
    step = Kernel(clipped, "elementwise", ("weight", "grad"), ("lr", "total_1"), ("weight",), sums=sums)

    class Clipped(Descent):
        RULES = (
            Rule("matrix", ("matrix",), (), step),
            Rule("rest", ("vector",), (), Kernel(plain, "elementwise", ("weight", "grad"), ("lr",), ("weight",))),
        )

    params = [parameter(4, 3), parameter(5), parameter(4, 3)]
    start = [p.detach().clone() for p in params]
    optimizer = Clipped([{"params": [params[0]], "lr": 0.5}, {"params": params[1:], "lr": 0.25}])
    set_gradients(params, 0)
    norm = torch.cat([p.grad.flatten() for p in params]).norm()
    works = optimizer._collect("step", lambda rule, p: True)
    slots = optimizer._roster.slots
    found = _sums({"matrix": step}, works, {}, optimizer._arrangement, slots, optimizer.state, Communication())[
        "matrix"
    ]
    expected = sum(p.grad.abs().max() for p in params) / norm.square()
    torch.testing.assert_close(found["total_2"].float(), expected)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), start[0] - 0.5 * params[0].grad / norm)
    torch.testing.assert_close(params[1].detach(), start[1] - 0.25 * params[1].grad)
    torch.testing.assert_close(params[2].detach(), start[2] - 0.25 * params[2].grad / norm)


def test_totals_may_read_states_and_split_units():
    def step(weight, grad, m, *, lr, total_1):
        return weight - lr * total_1 * grad, m + grad

    def seen(m, weight):
        return (m.abs().amax((-2, -1), keepdim=True) + 0 * weight.sum((-2, -1), keepdim=True),)

    class Reading(Descent):
        RULES = (
            Rule(
                "all",
                interface.ROLES,
                (State("m", ("rows", "cols")),),
                Kernel(
                    step,
                    "matrix",
                    ("weight", "grad", "m"),
                    ("lr", "total_1"),
                    ("weight", "m"),
                    sums=(Kernel(seen, "tensor", ("m", "weight"), (), ("total_1",)),),
                ),
            ),
        )

    a, b = parameter(6, 4), parameter(5, 4)
    optimizer = Reading([{"params": [a], "split": 2}, {"params": [b], "split": (2, 3)}], lr=1.0)
    steps(optimizer, [a, b], 1)
    first = [p.grad for p in (a, b)]
    before = [p.detach().clone() for p in (a, b)]
    parts = [*first[0].split(3), *first[1].split((2, 3))]
    total = sum(part.abs().max() for part in parts)
    steps(optimizer, [a, b], 1, first=1)
    for p, old in zip((a, b), before, strict=True):
        torch.testing.assert_close(p.detach(), old - total * p.grad)


def test_ordered_sum_does_not_depend_on_the_order():
    values = [torch.randn(1, 1, 1) * 10.0 ** (4 * (i % 9)) for i in range(50)]
    forward = calls._sum_in_order(values)
    assert forward.shape == () and torch.equal(forward, calls._sum_in_order(values[::-1]))
    assert torch.equal(forward, calls._sum_in_order([torch.cat(values[7:]), torch.cat(values[:7])]))


def test_events_advance_their_states_and_their_own_count():
    params = [parameter(4, 3), parameter(5), parameter(4, 3)]
    optimizer = Curvature(params, beta=0.5)
    set_gradients(params, 0)
    params[2].grad = None
    start = [p.detach().clone() for p in params]
    h0 = [p.square().mean() for p in start]
    optimizer.curvature(8.0)
    assert all(torch.equal(p, q) for p, q in zip(params, start, strict=True))
    for i in (0, 1):
        state = optimizer.state[params[i]]
        torch.testing.assert_close(state["h"], 8.0 * params[i].grad.square())
        assert state["curvature_step"] == 1 and state["step"] == 0 and (state["m"] == 0).all()
    assert is_untouched(optimizer, params[2])
    first = [8.0 * p.grad.square() for p in params[:2]]
    steps(optimizer, params, 2)
    optimizer.curvature(2.0)
    for i in (0, 1):
        state = optimizer.state[params[i]]
        torch.testing.assert_close(state["h"], first[i].lerp(2.0 * params[i].grad.square(), 0.5 / 0.75))
        assert state["curvature_step"] == 2 and state["step"] == 2
    state = optimizer.state[params[2]]
    torch.testing.assert_close(state["h"], 2.0 * params[2].grad.square())
    assert state["curvature_step"] == 1 and h0[2] != 0
    with pytest.raises(ValueError, match="no event 'curvatur'"):
        optimizer.fire("curvatur")


def test_events_may_have_totals():
    """The ascent of sharpness-aware minimization, by the norm of all gradients; it counts states not yet there."""

    def ascend(weight, grad, *, radius, total_1):
        return (weight + radius * grad / total_1.sqrt(),)

    def squared(grad, m):
        return (grad.square().sum((-2, -1), keepdim=True) + m.sum((-2, -1), keepdim=True),)

    sums = (Kernel(squared, "tensor", ("grad", "m"), (), ("total_1",)),)
    kernel = Kernel(ascend, "elementwise", ("weight", "grad"), ("radius", "total_1"), ("weight",), sums=sums)
    rule = Lookback.RULES[0]
    kept_states = (*rule.states, State("m", ("rows", "cols")))

    class Ascending(Lookback):
        RULES = (Rule("all", rule.roles, kept_states, rule.step, events=(Event("ascend", kernel),)),)

    params = [parameter(4, 3), parameter(5), parameter(2)]
    start = [p.detach().clone() for p in params]
    optimizer = Ascending(params)
    set_gradients(params, 0)
    params[2].grad = None
    norm = torch.cat([p.grad.flatten() for p in params[:2]]).norm()
    optimizer.fire("ascend", radius=0.5)
    for p, old in zip(params[:2], start[:2], strict=True):
        torch.testing.assert_close(p.detach(), old + 0.5 * p.grad / norm)
    assert torch.equal(params[2], start[2]) and is_untouched(optimizer, params[2])


@pytest.mark.parametrize("precision", ["plain", "kahan", "master"])
@pytest.mark.parametrize("stepped", [False, True])
def test_events_may_move_weights_and_need_no_gradient(precision, stepped):
    params = [parameter(4, 3, dtype=torch.bfloat16), parameter(5, dtype=torch.bfloat16), parameter(4, 3)]
    optimizer = Curvature(params, precision=precision)
    if stepped:
        steps(optimizer, params, 2)
    for p in params:
        p.grad = None
    start = [p.detach().clone() for p in params]
    optimizer.ascend(0.25)
    for p, old in zip(params, start, strict=True):
        torch.testing.assert_close(p.detach(), old + 0.25, rtol=1e-2, atol=1e-2)
        assert optimizer.state[p]["ascend_step"] == 1
    optimizer.ascend(-0.25)
    for p, old in zip(params, start, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=1e-2, atol=1e-2)


def test_events_see_replaced_states():
    params = [parameter(4, 3), parameter(4, 3)]
    optimizer = Curvature(params)
    steps(optimizer, params, 2)
    before = [p.detach().clone() for p in params]
    optimizer.state[params[0]]["h"] = torch.full((4, 3), -1.0)
    optimizer.ascend(0.5)
    assert torch.equal(params[0], before[0] - 0.5) and torch.equal(params[1], before[1] + 0.5)


def test_events_between_steps_do_not_disturb_batches():
    params = [parameter(4, 3), parameter(4, 3), parameter(5)]
    optimizer = Curvature(params)
    set_gradients(params, 0)
    params[1].grad = None
    optimizer.step()
    optimizer.ascend(0.5)
    optimizer.curvature(2.0)
    steps(optimizer, params, 1, first=1)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert saved["state"][0]["ascend_step"] == 1 and saved["state"][1]["step"] == 1


# -- routing -----------------------------------------------------------------------------------------------------------


class Conv1D(nn.Module):
    """Has the name, attribute and storage of the layer of Hugging Face."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


class Everything(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 6)
        self.position_embeddings = nn.Parameter(torch.randn(1, 9, 6))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 6))
        self.layers = nn.ModuleList([nn.ModuleDict({"output": nn.Linear(6, 11), "c_attn": Conv1D(18, 6)})])
        self.conv = nn.Conv2d(3, 6, 2)
        self.up = nn.ConvTranspose1d(3, 6, 2, bias=False)
        self.attention = nn.MultiheadAttention(6, 2, bias=False)
        self.rnn = nn.GRU(6, 4, bias=False)
        self.mixing = nn.Parameter(torch.randn(6, 6))
        self.norm = nn.LayerNorm(6)
        self.lm_head = nn.Linear(6, 11, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


TABLE = """\
parameter                  shape    role       rule    view             why
position_embeddings        1×9×6    embedding  rest    9×6              named as rows for places
cls_token                  1×1×6    vector     rest                     one dimension above 1
mixing                     6×6      matrix     matrix  6×6              2-D, in Everything
wte.weight                 11×6     embedding  rest    11×6             Embedding, tied to lm_head.weight
layers.0.output.weight     11×6     matrix     matrix  11×6             Linear
layers.0.output.bias       11       vector     rest                     1-D
layers.0.c_attn.weight     6×18     matrix     matrix  18×6 transposed  Conv1D, stored by inputs
layers.0.c_attn.bias       18       vector     rest                     1-D
conv.weight                6×3×2×2  conv       matrix  6×12             Conv2d
conv.bias                  6        vector     rest                     1-D
up.weight                  3×6×2    conv       matrix  6×6 transposed   ConvTranspose1d, stored by inputs
attention.in_proj_weight   18×6     matrix     matrix  3 of 6×6         MultiheadAttention, 3 matrices in one
attention.out_proj.weight  6×6      matrix     matrix  6×6              NonDynamicallyQuantizableLinear
rnn.weight_ih_l0           12×6     matrix     matrix  3 of 4×6         GRU, 3 gates
rnn.weight_hh_l0           12×4     matrix     matrix  3 of 4×4         GRU, 3 gates
norm.weight                6        vector     rest                     1-D
norm.bias                  6        vector     rest                     1-D"""


def test_explain_routing():
    model = Everything(tied=True)
    assert explain_routing(model, Blend) == TABLE
    assert "rule" not in explain_routing(model).splitlines()[0]
    assert "none" in explain_routing(model, Gram)


def test_untied_heads_are_known_by_name_or_size():
    def role(model, name):
        return next(r.role for r in route(model) if r.name == name)

    assert role(Everything(tied=False), "lm_head.weight") == "head"
    assert role(nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11)), "1.weight") == "head"
    assert role(nn.Sequential(nn.Linear(6, 11)), "0.weight") == "matrix"
    for name, expected in (("classifier", "head"), ("head", "head"), ("output", "head"), ("hidden", "matrix")):
        assert role(nn.ModuleDict({name: nn.Linear(3, 5)}), f"{name}.weight") == expected


def test_a_parameter_tied_in_any_order_is_an_embedding():
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    routes = route(nn.ModuleDict({"lm_head": head, "tokens": embedding}))
    assert [(r.name, r.role) for r in routes] == [("lm_head.weight", "embedding")]


def test_unmaterialized_and_integer_parameters():
    with pytest.raises(ValueError, match="no shape yet"):
        route(nn.Sequential(nn.LazyLinear(3)))
    model = nn.Linear(3, 2)
    model.quantized = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
    assert [r.name for r in route(model)] == ["weight", "bias"]


def test_param_groups_cover_the_model_once():
    model = Everything(tied=True)
    groups = param_groups(model)
    assert sorted(map(id, (p for g in groups for p in g["params"]))) == sorted(map(id, model.parameters()))
    assert {(g["rule"], g.get("transposed", False)) for g in groups} == {
        ("matrix", False), ("matrix", True), ("conv", False), ("conv", True), ("embedding", False), ("vector", False)
    }  # fmt: skip
    names = dict(model.named_parameters())
    assert all(names[n] is p for g in groups for n, p in zip(g["param_names"], g["params"], strict=True))
    optimizer = Blend(groups)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    weight = model.layers[0]["c_attn"].weight
    assert optimizer.state[weight]["row"].shape == (18, 1) and optimizer.state[weight]["m"].shape == (6, 18)


# -- schedules and penalties -------------------------------------------------------------------------------------------


def test_schedule_multiplies_the_lr_of_every_group():
    a, b = parameter(3), parameter(4)
    optimizer = Descent([{"params": [a], "lr": 0.1}, {"params": [b], "lr": torch.tensor(0.4, dtype=torch.float64)}])
    schedule = Ramp(optimizer, warmup=4)
    seen = []
    for _ in range(6):
        seen.append([float(g["lr"]) for g in optimizer.param_groups])
        steps(optimizer, [a, b], 1)
        schedule.step()
    np.testing.assert_allclose(seen, [[0.1 * f, 0.4 * f] for f in (0.25, 0.5, 0.75, 1, 1, 1)], rtol=1e-15)
    with pytest.raises(ValueError, match=r"invalid warmup=0: the condition is warmup > 0"):
        Ramp(optimizer, warmup=0)


def test_schedules_resume():
    def make():
        optimizer = Descent([{"params": [parameter(3)], "lr": 0.1}])
        return optimizer, Ramp(optimizer, warmup=8)

    optimizer, schedule = make()
    for _ in range(3):
        optimizer.step()
        schedule.step()
    other, resumed = make()
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    late = Ramp(other, warmup=8, last_epoch=2)
    assert late.get_last_lr() == schedule.get_last_lr()
    for o, s in ((optimizer, schedule), (other, resumed)):
        o.step()
        s.step()
    assert resumed.get_last_lr() == schedule.get_last_lr() == [0.1 * 5 / 8]


def off_diagonal(weight: Tensor) -> Tensor:
    gram = weight.flatten(1) @ weight.flatten(1).mT
    return gram.square().sum() - gram.diagonal().square().sum()


def test_penalties_are_differentiable_sums_over_the_units():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 6), nn.Linear(3, 6), nn.Conv1d(6, 6, 3), nn.LayerNorm(3))
    penalty = Spread(model, strength=0.5)
    loss = penalty()
    weights = [model[i].weight for i in (1, 2, 3)]
    torch.testing.assert_close(loss, 0.5 * sum(off_diagonal(w) for w in weights))
    loss.backward()
    grads = [w.grad.clone() for w in weights]
    expected = torch.autograd.grad(0.5 * sum(off_diagonal(w) for w in weights), weights)
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, other)
    assert model[0].weight.grad is None and not list(penalty.parameters())
    torch.testing.assert_close(Spread(list(weights), strength=1.0)(), 2 * loss.detach())
    assert Spread(nn.LayerNorm(3))().item() == 0.0
    half = Spread(model.bfloat16(), strength=0.5)()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss, rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match="invalid strength=-1"):
        Spread(model, strength=-1)


def test_rules_refuse_states_that_states_cannot_hold():
    step = Kernel(lambda weight: (weight,), "elementwise", ("weight",), (), ("weight",))
    for name in ("step", "grad", "kahan", "master"):
        with pytest.raises(ValueError, match=f"reserved name '{name}'"):
            Rule("all", ("matrix",), (State(name, ("rows", "cols")),), step)
    with pytest.raises(ValueError, match="state 'v' of the elementwise rule 'all'"):
        Rule("all", ("matrix",), (State("v", ("rows", 1)),), step)


def test_base_class_is_an_optimizer_only_with_rules():
    assert issubclass(SpecOptimizer, torch.optim.Optimizer)
    with pytest.raises(ValueError, match="has no rule"):
        SpecOptimizer([parameter(2)], {})
