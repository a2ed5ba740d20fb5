"""What the samples of the language page mean, each against a few lines of plain torch."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor, nn

import optforge
from optforge.generated import UBA
from tests.references import REFERENCES
from tests.references.newton_schulz import newton_schulz
from tests.support.samples import load, path_of, randn, stepped
from tests.support.trials import hidden_matrices, network, reference_groups, run, worst_error

SHAPES = [(4, 6), (6, 4)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def gradients(shape: tuple[int, ...], count: int = 5) -> list[Tensor]:
    return [randn(*shape, seed=10 + t) for t in range(count)]


def require_close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


# -- the methods of the page -------------------------------------------------------------------------------------------


# The page's NAMO and NAMO-D add eps after the bias correction, the paper and the shipped specs before it.
VANISHING = {"NAMO": {"eps": 1e-30}, "NAMOD": {"eps": 1e-30}}


def test_namo_in_ten_lines_is_namo():
    eps = VANISHING["NAMO"]
    found = run(lambda model: load("NAMO")(model, **eps))
    expected = run(lambda model: REFERENCES["NAMO"](reference_groups(model), **eps))
    assert worst_error(found.history, expected.history) <= 1e-10


@pytest.mark.parametrize("name", ["NAMOD", "Nora", "NorMuon"])
def test_rule_alone_is_the_method(name):
    eps = VANISHING.get(name, {})
    found = run(lambda model: load(name)(hidden_matrices(model), **eps))
    expected = run(lambda model: REFERENCES[name](hidden_matrices(model), **eps))
    assert worst_error(found.history, expected.history) <= 1e-10


@pytest.mark.parametrize("name, states", [("Nora", {"d"}), ("NorMuon", {"o", "v"}), ("NAMOD", {"m", "v"})])
def test_states_have_the_names_of_the_bindings_they_stand_in(name, states):
    p = nn.Parameter(randn(4, 6))
    optimizer = load(name)([p])
    p.grad = randn(4, 6, seed=1)
    optimizer.step()
    assert set(optimizer.state_dict()["state"][0]) == {"step", *states}


@every_shape
def test_cautious_muon_steps_only_where_the_gradient_agrees(shape):
    grads, m = gradients(shape), torch.zeros(shape, dtype=torch.float64)
    steps = stepped(load("CautiousMuon"), randn(*shape), grads, lr=0.1, weight_decay=0.0)
    for grad, (before, after) in zip(grads, steps, strict=True):
        m = 0.95 * m + 0.05 * grad
        update = newton_schulz(0.05 * grad + 0.95 * m)
        masked = torch.where(update * grad > 0, update, 0.0)
        assert 0 < int((masked == 0).sum()) < masked.numel()
        require_close(before - after, 0.1 * max(1, shape[0] / shape[1]) ** 0.5 * masked)


@every_shape
def test_hyperball_keeps_the_norm(shape):
    weight, grads = randn(*shape), gradients(shape)
    radius = weight.norm()
    for grad, (before, after) in zip(grads, stepped(load("Hyperball"), weight, grads, lr=0.3), strict=True):
        moved = before - 0.3 * radius * grad / grad.norm()
        require_close(after, moved * radius / moved.norm(), 1e-14)
        assert abs(float(after.norm() / radius) - 1) <= 1e-15 * 4


def test_sophia_advances_its_curvature_only_when_the_event_is_called():
    p, h, m = nn.Parameter(randn(4, 6)), torch.zeros(4, 6).double(), torch.zeros(4, 6).double()
    optimizer = load("SophiaG")([p], lr=0.1, rho=2.0, weight_decay=0.2)
    limited = []
    for t, grad in enumerate(gradients((4, 6), 8)):
        if t in (2, 5):
            p.grad = 2 * grad  # the estimate has a gradient of its own
            optimizer.curvature(batch_size=3)
            h = 0.99 * h + 0.01 * 3 * (2 * grad).square()
        m = 0.965 * m + 0.035 * grad
        before, p.grad = p.detach().clone(), grad
        optimizer.step()
        update = (m / (2.0 * h).clamp(min=1e-12)).clamp(-1, 1)
        require_close(p.detach(), before * (1 - 0.1 * 0.2) - 0.1 * update)
        require_close(optimizer.state[p]["h"].view(4, 6) if t >= 2 else h, h)
        limited.append(float((update.abs() == 1).double().mean()))
    assert limited[0] == 1 and 0 < limited[-1] < 1


@pytest.mark.parametrize("phi", [0.5, 2.0])
def test_schedule_is_the_shipped_one(phi):
    for t in range(1, 31):
        hypers = {"total": 30.0, "warmup": 4.0, "phi": phi}
        assert load("UBA").factor(t, **hypers) == pytest.approx(UBA.factor(t, **hypers), rel=0, abs=1e-15)
    with pytest.raises(TypeError):
        load("UBA")(load("Clipped")([nn.Parameter(torch.zeros(2))]))  # total has no default


# -- functions ---------------------------------------------------------------------------------------------------------


def test_prelude_written_out_is_the_prelude():
    text = path_of("OwnPrelude").read_text(encoding="utf-8")
    shipped = optforge.compile_source(text[text.index("optimizer OwnPrelude") :]).OwnPrelude
    pairs = [stepped(cls, randn(4, 6), gradients((4, 6))) for cls in (load("OwnPrelude"), shipped)]
    for (_, found), (_, expected) in zip(*pairs, strict=True):
        assert torch.equal(found, expected)


def test_replaced_function_is_the_files_own():
    for grad, (before, after) in zip(
        gradients((4, 6)), stepped(load("MeanScaled"), randn(4, 6), gradients((4, 6))), strict=True
    ):
        require_close(before - after, 0.1 * grad / grad.abs().mean())


# -- choices -----------------------------------------------------------------------------------------------------------


def test_branch_not_taken_is_not_computed(monkeypatch):
    cls, calls = load("LeftShampoo"), []
    namespace = cls.RULES[0].step.function.__globals__
    compute = namespace["inverse_root"]
    monkeypatch.setitem(namespace, "inverse_root", lambda s, p: calls.append(s) or compute(s, p))
    weight, grads = randn(4, 6), gradients((4, 6), 8)
    l, p = weight @ weight.T, torch.zeros(4, 4).double()
    for t, (before, after) in enumerate(stepped(cls, weight, grads, every=3), start=1):
        l = l + grads[t - 1] @ grads[t - 1].T
        if t in (1, 4, 7):
            values, vectors = torch.linalg.eigh(l)
            p = vectors @ torch.diag(values**-0.25) @ vectors.T
        require_close(before - after, 0.1 * p @ grads[t - 1], 1e-11)
        assert len(calls) == (t + 2) // 3


POLAR_EXPRESS = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    *[(1.875, -1.25, 0.375)] * 3,
]
SAFE = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in POLAR_EXPRESS]
TABLES = {
    "newton_schulz": lambda steps: [(3.4445, -4.7750, 2.0315)] * steps,
    "exact": lambda steps: [(2.0, -1.5, 0.5)] * steps,
    "polar_express": lambda steps: [*SAFE[: steps - 1], POLAR_EXPRESS[steps - 1]],
}


def on_singular_values(x: Tensor, triples: list[tuple[float, float, float]], margin: float = 1.0) -> Tensor:
    """What the quintic iteration does, on the singular values themselves."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / (margin * x.norm())
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


@pytest.mark.parametrize("steps", [1, 5, 9])
@pytest.mark.parametrize("method", TABLES)
@every_shape
def test_method_of_orthogonalization(shape, method, steps):
    grads = gradients(shape, 2)
    margin = 1.01 if method == "polar_express" else 1.0
    chosen = stepped(load("Chosen"), randn(*shape), grads, lr=1.0, method=method, steps=steps)
    for grad, (before, after) in zip(grads, chosen, strict=True):
        require_close(before - after, on_singular_values(grad, TABLES[method](steps), margin), 1e-11)


@every_shape
def test_orthogonalization_by_svd_and_by_own_coefficients(shape):
    (grad,) = gradients(shape, 1)
    ((before, after),) = stepped(load("Chosen"), randn(*shape), [grad], lr=1.0)
    u, _, vh = torch.linalg.svd(grad, full_matrices=False)
    require_close(before - after, u @ vh)
    ((before, after),) = stepped(load("TwoSteps"), randn(*shape), [grad], lr=1.0)
    require_close(before - after, on_singular_values(grad, [(3, -3.2, 1.2), (2, -1.5, 0.5)]))


def test_choice_is_from_a_closed_set():
    with pytest.raises(ValueError, match="method"):
        load("Chosen")([nn.Parameter(randn(4, 6))], method="cubic")


# -- roles and delegates -----------------------------------------------------------------------------------------------


def test_every_role_has_its_own_rule():
    model = network()
    optimizer = load("Roles")(model, lr=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for i, p in enumerate(model.parameters()):
        p.grad = randn(*p.shape, seed=i)
    optimizer.step()
    for name, p in model.named_parameters():
        matrix = p.grad.flatten(1) if p.ndim > 1 else p.grad
        if name in ("tokens.weight", "lm_head.weight"):
            expected = matrix / matrix.norm()
        elif p.ndim < 2:
            expected = p.grad.sign()
        else:
            expected = matrix / matrix.norm(dim=1 if p.ndim == 2 else 0, keepdim=True)
        require_close((before[name] - p.detach()).view_as(expected), 0.5 * expected)


def test_what_use_leaves_open_is_a_hyper_of_the_whole():
    cls = load("Exposed")
    arguments = inspect.signature(cls).parameters
    exposed = {name: arguments[name].default for name in arguments if "_" in name and name != "skip_nonfinite"}
    assert exposed == {"rest_lr": 1e-3, "rest_beta1": 0.9, "rest_eps": 1e-8}
    embedding, bias, other = (nn.Parameter(randn(*shape)) for shape in ((7, 4), (5,), (5,)))
    groups = [{"params": [embedding], "rule": "embedding"}, {"params": [bias]}, {"params": [other], "rest_lr": 0.5}]
    optimizer = cls(groups, lr=0.2, rest_lr=0.01)
    assert [group["rest_lr"] for group in optimizer.param_groups] == [0.01, 0.01, 0.5]
    copies = [nn.Parameter(p.detach().clone()) for p in (embedding, bias, other)]
    torchs = [
        torch.optim.SGD(copies[:1], lr=0.1, momentum=0.9, nesterov=True),
        torch.optim.AdamW([{"params": copies[1:2]}, {"params": copies[2:], "lr": 0.5}], 0.01, (0.9, 0.95), 1e-8, 0),
    ]
    for t in range(4):
        for p, copy in zip((embedding, bias, other), copies, strict=True):
            p.grad = copy.grad = randn(*p.shape, seed=t)
        for each in (optimizer, *torchs):
            each.step()
    for p, copy in zip((embedding, bias, other), copies, strict=True):
        require_close(p.detach(), copy.detach())


# -- events that change weights ----------------------------------------------------------------------------------------


def test_schedule_free_shows_the_mean_and_returns():
    p = nn.Parameter(randn(4, 6))
    optimizer = load("ScheduleFree")([p], lr=0.3, beta=0.8)
    z = x = p.detach().clone()
    for t, grad in enumerate(gradients((4, 6)), start=1):
        p.grad = grad
        optimizer.step()
        z = z - 0.3 * grad
        x = (1 - 1 / t) * x + z / t
        require_close(p.detach(), 0.2 * z + 0.8 * x)
        optimizer.eval()
        require_close(p.detach(), x)
        optimizer.train()
        require_close(p.detach(), 0.2 * z + 0.8 * x)


def test_sam_steps_from_where_the_climb_began():
    """All parameters climb as one, by rho in all; one without gradient stays where it is."""
    params = [nn.Parameter(randn(*shape)) for shape in ((4, 6), (5,), (3,))]
    optimizer = load("SAM")(params, lr=0.1, rho=0.5)
    for _ in range(4):
        before = [p.detach().clone() for p in params]
        for p in params[:2]:
            p.grad = p.detach() ** 3
        whole = math.sqrt(sum(float(p.grad.square().sum()) for p in params[:2]))
        climbed = [start + 0.5 * start**3 / whole for start in before[:2]]
        optimizer.ascend()
        for p, expected in zip(params[:2], climbed, strict=True):
            require_close(p.detach(), expected)
            p.grad = expected**3
        optimizer.step()
        for p, start, there in zip(params[:2], before, climbed, strict=False):
            require_close(p.detach(), start - 0.1 * there**3)
    assert torch.equal(params[2].detach(), randn(3))


def test_time_in_an_event_counts_its_firings():
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = load("Counting")([p], lr=1.0)
    p.grad = torch.ones(3, dtype=torch.float64)
    moved = []
    for arguments in ({}, None, {"weighing": 2}, {}):
        if arguments is not None:
            optimizer.mark(**arguments)
        before = p.detach().clone()
        optimizer.step()
        moved.append(float((before - p.detach())[0]))
    assert moved == [101 + 1, 101 + 2, 105 + 3, 108 + 4]


# -- across parameters, penalties, inheritance -------------------------------------------------------------------------


def test_clipping_is_by_the_norm_of_all_gradients_there_are():
    params = [nn.Parameter(randn(*shape)) for shape in ((4, 6), (5,), (3, 2, 2), (7,))]
    optimizer = load("Clipped")(params, lr=1.0, limit=2.5)
    before = [p.detach().clone() for p in params]
    for size, factor in ((0.01, 1.0), (10.0, None)):
        for i, p in enumerate(params[:3]):
            p.grad = size * randn(*p.shape, seed=i)
        whole = math.sqrt(sum(float(p.grad.square().sum()) for p in params[:3]))
        optimizer.step()
        for p, start in zip(params[:3], before, strict=False):
            require_close(start - p.detach(), (factor or 2.5 / whole) * p.grad, 1e-11)
        before = [p.detach().clone() for p in params]
    assert params[3].grad is None and torch.equal(params[3].detach(), randn(7))


def test_total_may_depend_on_what_is_remembered_of_another_total():
    params = [nn.Parameter(randn(*shape)) for shape in ((4, 6), (5,))]
    optimizer, usual = load("Surprised")(params, lr=1.0), 0.0
    for t in range(3):
        for p in params:
            p.grad = randn(*p.shape, seed=t)
        before = [p.detach().clone() for p in params]
        optimizer.step()
        square = sum(float(p.grad.square().sum()) for p in params)
        usual = 0.5 * usual + 0.5 * square
        for p, start in zip(params, before, strict=True):
            require_close(start - p.detach(), p.grad / (1 + square / (1 + usual)))


def test_penalty_is_differentiable_and_summed_over_matrices():
    matrices, vector = [nn.Parameter(randn(*shape)) for shape in ((4, 6), (6, 4))], nn.Parameter(randn(5))
    loss = load("Orthonormal")([*matrices, vector], strength=0.3)()
    distances = [(w @ w.T - torch.eye(len(w), dtype=torch.float64)).square().sum() for w in matrices]
    expected = 0.3 * (sum(distances) + vector.square().sum())
    require_close(loss.detach(), expected.detach())
    assert loss.shape == ()
    found = torch.autograd.grad(loss, [*matrices, vector])
    for ours, theirs in zip(found, torch.autograd.grad(expected, [*matrices, vector]), strict=True):
        require_close(ours, theirs)


def test_super_is_the_value_of_the_base():
    weight, grads = randn(4, 6), gradients((4, 6))
    halfway = stepped(load("Halfway"), weight, grads, momentum=0.9, weight_decay=0.1)
    quarterway = stepped(load("Quarterway"), weight, grads, momentum=0.9, weight_decay=0.1)
    for share, steps in ((0.5, halfway), (0.25, quarterway)):
        m = torch.zeros(4, 6).double()
        for grad, (before, after) in zip(grads, steps, strict=True):
            m = 0.9 * m + grad + 0.1 * before + 0.25 * grad.sign()
            require_close(before - after, share * 0.5 * m)


def test_super_with_a_name_is_the_base_of_that_equation_and_a_hyper_may_change_in_the_rules():
    weight, grads = randn(4, 6), gradients((4, 6))
    warming, doubled = (stepped(load(name), weight, grads, beta=0.6) for name in ("Warming", "Doubled"))
    m = n = torch.zeros(4, 6).double()
    for t, (grad, (before, after), (before_2, after_2)) in enumerate(zip(grads, warming, doubled, strict=True), 1):
        beta = 0.6 * min(t / 3, 1)
        m, n = beta * m + (1 - beta) * grad, beta / 2 * n + (1 - beta / 2) * grad
        require_close(before - after, 0.1 * m)
        require_close(before_2 - after_2, 0.1 * (n.sign() + n + beta))


def test_next_is_the_weight_after_the_step():
    weight, grads = randn(4, 6), gradients((4, 6))
    trail = weight
    for grad, (before, after) in zip(grads, stepped(load("Trailing"), weight, grads), strict=True):
        require_close(before - after, 0.1 * (grad + before - trail))
        trail = 0.5 * trail + 0.5 * after


def test_operators_bind_and_compute_as_in_mathematics():
    weight, grads, last = randn(4, 6), gradients((4, 6)), torch.zeros(6, 6).double()
    for grad, (before, after) in zip(grads, stepped(load("Operators"), weight, grads, lr=0.1), strict=True):
        ranges = ((grad >= 0) & (grad < 1) & ~(grad > 0.5)) | grad.isinf()
        gram = before.T @ before + grad.T @ grad
        basis = torch.linalg.eigh(gram).eigenvectors
        basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        q, r = torch.linalg.qr(grad @ grad.T + before @ before.T)
        waves = grad.tanh() + (math.pi * grad).sin() * grad.cos() + (-grad.abs()).exp() + (1 + grad**2).log()
        waves = waves + grad.floor() + (grad - 0.7 * (grad / 0.7).floor())
        scaled = (
            grad.amax(1, keepdim=True)
            + grad.amin(0)
            - grad.mean(0)
            + grad.sum(1, keepdim=True) / 4
            - (grad * before).sum(0) / 6
        )
        spread = grad.relu() - before.clamp(max=0.5) + grad.clamp(-0.5, 0.5) + before.sign() * before.abs().sqrt()
        plain = (
            -(grad**2) + 512 - grad + grad.abs() ** 1.5 + torch.where(ranges, grad, -before) + waves + scaled + spread
        )
        size = grad.square().sum() + torch.log1p(torch.linalg.det(gram + last).abs())
        require_close(before - after, 0.1 * (plain + size * (q * r.diagonal().sign()) @ grad @ basis), 1e-10)
        last = gram
