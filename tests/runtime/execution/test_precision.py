"""What parameters of 16 bits keep of their steps: measured against a float32 run, and against the laws of rounding."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.runtime.test_contract import has_totals, same, snapshot, weights
from tests.support.classes import (
    SEEDS,
    build,
    class_parameters,
    generated_classes,
    optimizer_classes,
    parameters,
    roles,
)
from tests.support.handwritten import Curvature, Descent, Lookback

every_class = pytest.mark.parametrize("cls", class_parameters())
both_halves = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
PRECISIONS = ("plain", "kahan", "stochastic", "master")

# A linear loss has no bottom, so that an optimizer which estimates the distance to it from below has no last step.
UNBOUNDED = {"DAdaptAdam", "DoWG", "Prodigy"}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unit_roundoff(dtype: torch.dtype) -> float:
    """The largest relative error of rounding to nearest."""
    return torch.finfo(dtype).eps / 2


def one_per_rule(cls: type[Any], dtype: torch.dtype, rows: int = 8, cols: int = 6) -> list[dict[str, Any]]:
    """One parameter for each rule of the class; equal in every dtype, as bfloat16 and float16 both hold its values."""
    generator = torch.Generator().manual_seed(0)
    groups: dict[str, dict[str, Any]] = {}
    for role in roles(cls):
        rule = next(rule for rule in cls.RULES if role in rule.roles)
        shape = (rows * cols,) if role == "vector" else (rows, cols)
        weight = (32 * torch.randn(shape, generator=generator)).round().clamp(-120, 120) / 32
        groups.setdefault(rule.name, {"params": [nn.Parameter(weight.to(dtype))], "rule": role})
    return list(groups.values())


def eager(cls: type[Any], params: Any, **options: Any) -> Any:
    """By the kernels as they are written: those that torch has fused for float32 round a little differently."""
    optimizer = build(cls, params, **options)
    optimizer.backend = "eager"
    return optimizer


def gradients(shapes: list[torch.Size], steps: int) -> list[list[Tensor]]:
    """For each step a fixed direction and as much noise, in numbers of few bits that every dtype holds."""
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(shape, generator=generator) for shape in shapes]
    noisy = [[d + torch.randn(d.shape, generator=generator) for d in direction] for _ in range(steps)]
    return [[(16 * g).round().clamp(-120, 120) / 16 for g in gs] for gs in noisy]


def follow(optimizer: Any, params: list[Tensor], grads: list[list[Tensor]]) -> None:
    for gs in grads:
        for p, g in zip(params, gs, strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()


# -- 1,000 steps beside a float32 run ----------------------------------------------------------------------------------


class Track(NamedTuple):
    """The weights as seen by the model, and as kept with what the precision adds; all in float64, in one vector."""

    seen: Tensor
    kept: Tensor


def track(cls: type[Any], dtype: torch.dtype, precision: str, steps: int) -> Track:
    made = one_per_rule(cls, dtype)
    params = parameters(made)
    optimizer = eager(cls, made, precision=precision)
    follow(optimizer, params, gradients([p.shape for p in params], steps))
    kept = []
    for p in params:
        extra = optimizer.state[p].get(precision)
        kept.append(p if extra is None else extra if precision == "master" else p.double() + extra.double())
    return Track(*(torch.cat([x.detach().double().flatten() for x in xs]) for xs in (params, kept)))


LONG_RUNS = [
    pytest.param(cls, dtype, steps, id=f"{cls.__name__}-{steps}-{dtype}".replace("torch.", ""), marks=marks)
    for cls in optimizer_classes()
    if cls.__name__ not in UNBOUNDED
    for dtype in (torch.bfloat16, torch.float16)
    for steps in [1000 if cls.__name__ in SEEDS and dtype == torch.bfloat16 else 100]
    for marks in [() if cls.__name__ == "AdamW" and dtype == torch.bfloat16 else pytest.mark.wide]
]


@pytest.mark.parametrize(("cls", "dtype", "steps"), LONG_RUNS)
def test_master_and_kahan_track_a_float32_run(cls, dtype, steps):
    """After n steps with weights below w: master is the float32 run bit for bit; Kahan's error is below n u² w.

    A weight and its compensation hold it to u² of itself, where u is the unit roundoff (in float16 to no less than half
    the smallest number, 2^-25); each step rounds once; and the rules do not magnify what a step rounded. "plain" is
    there to show that the bound says something: it must be ten times worse than Kahan.
    """
    start = track(cls, torch.float32, "plain", 0).seen
    single = track(cls, torch.float32, "plain", steps).seen
    moved = (single - start).abs()
    assert (moved > 0).float().mean() > 0.9
    master = track(cls, dtype, "master", steps)
    assert torch.equal(master.kept, single) and torch.equal(master.seen, single.to(dtype).double())

    kahan = track(cls, dtype, "kahan", steps)
    u, largest = unit_roundoff(dtype), float(single.abs().max())
    least = 2.0**-25 if dtype == torch.float16 else 0.0
    errors = (kahan.kept - single).abs()
    assert float(errors.max()) <= steps * (u * u * largest + least)
    assert ((kahan.seen - kahan.kept).abs() <= u * kahan.kept.abs() * (1 + u)).all()

    plain = track(cls, dtype, "plain", steps)
    lost = float((plain.seen - single).abs().sum() / moved.sum())
    assert lost >= 10 * float(errors.sum() / moved.sum())
    if cls.__name__ == "AdamW" and dtype == torch.bfloat16:  # most of its steps are below half a unit in the last place
        assert lost > 0.8 and float(errors.sum() / moved.sum()) < 1e-3


@both_halves
def test_training_reaches_the_minimum_where_plain_stalls(dtype):
    """Descent on |w - target|² / 2, with gradients taken where the model sees the weights.

    "plain" stops where lr times the gradient is below half a unit in the last place, half a unit / lr away; the others
    stop when no rounded weight is nearer, half a unit away and, as what is rounded may lie on either side, at most one.
    """
    lr, generator = 0.1, torch.Generator().manual_seed(0)
    target = 1 + torch.rand(500, generator=generator)
    start = (target + 0.5 * torch.randn(500, generator=generator)).to(dtype)
    distances = {}
    for precision in PRECISIONS:
        p = nn.Parameter(start.clone())
        optimizer = Descent([p], lr=lr, precision=precision)
        for _ in range(300):
            p.grad = (p.detach().float() - target).to(dtype)
            optimizer.step()
        distances[precision] = (p.detach().float() - target).abs() / torch.finfo(dtype).eps  # in units of [1, 2)
    assert distances["master"].max() <= 1 and distances["kahan"].max() <= 1
    assert distances["stochastic"].mean() <= 1
    assert distances["plain"].mean() > 2


# -- stochastic rounding -----------------------------------------------------------------------------------------------


def spacing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of the two numbers of `dtype` between which x lies, in float64."""
    bits, least = (8, -133) if dtype == torch.bfloat16 else (11, -24)
    exponent = (torch.frexp(x).exponent - bits).clamp_min(least)
    return torch.ldexp(torch.ones_like(x, dtype=torch.float64), exponent)


@every_class
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.wide)])
def test_stochastic_rounding_is_unbiased_in_whole_steps(cls, dtype):
    """Given what came before, the expected weight after each step is what float32 computes from the same weights.

    The residuals, in units of the spacing, are differences of a martingale whose variances f (1 - f) are known, where f
    is how far between its neighbours the exact weight lies. Each of the sums, weighted with 1, the sign of the weight,
    the sign of the step and f - 1/2 (which rounding to nearest, truncation, and noise of too few bits each make large),
    is within five standard deviations of 0; so is the sum of their squares from what it must be. The seed is fixed.
    """
    low, single = (one_per_rule(cls, kind, rows=40, cols=32) for kind in (dtype, torch.float32))
    params, twins = parameters(low), parameters(single)
    optimizer, twin = build(cls, low, precision="stochastic"), eager(cls, single)
    residuals, fractions, signs, directions = [], [], [], []
    for grads in gradients([p.shape for p in params], 6):
        with torch.no_grad():
            for p, q in zip(params, twins, strict=True):
                q.copy_(p)
        before = [q.detach().clone() for q in twins]
        follow(optimizer, params, [grads])
        follow(twin, twins, [grads])
        for p, q, old in zip(params, twins, before, strict=True):
            unit = spacing(q.detach(), dtype)
            exact = q.detach().double() / unit
            residuals.append((p.detach().double() / unit - exact).flatten())
            fractions.append((exact - exact.floor()).flatten())
            signs.append(exact.sign().flatten())
            directions.append((q.detach() - old).sign().double().flatten())
    for p, q in zip(params, twins, strict=True):
        assert same(dict(optimizer.state[p]), dict(twin.state[q])), "the noise must not reach the states"
    r, f, sign, direction = (torch.cat(x) for x in (residuals, fractions, signs, directions))
    assert (r.abs() < 1).all()
    variance = f * (1 - f)
    assert variance.sum() > 10
    for weight in (torch.ones_like(f), sign, direction, f - 0.5):
        z = (weight * r).sum() / (weight.square() * variance).sum().sqrt()
        assert abs(float(z)) < 5
    fourth = f * (1 - f) * ((1 - f) ** 3 + f**3)
    assert abs(float((r.square() - variance).sum() / (fourth - variance.square()).sum().sqrt())) < 5


@every_class
def test_stochastic_rounding_is_reproducible_by_its_seed(cls):
    """Also from the middle on, by a checkpoint, which has the seed, and in copies."""

    def fresh(seed: int) -> tuple[Any, list[Tensor]]:
        made = one_per_rule(cls, torch.bfloat16)
        return build(cls, made, precision="stochastic", seed=seed), parameters(made)

    optimizer, params = fresh(0)
    grads = gradients([p.shape for p in params], 8)
    follow(optimizer, params, grads[:4])
    at, saved = weights(params), copy.deepcopy(optimizer.state_dict())
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    torch.rand(3)
    follow(optimizer, params, grads[4:])
    expected = snapshot(optimizer)

    for seed in (0, 1):
        other, others = fresh(seed)
        follow(other, others, grads)
        assert same(snapshot(other), expected) == (seed == 0)
    for other in copies:
        follow(other, [p for group in other.param_groups for p in group["params"]], grads[4:])
        assert same(snapshot(other), expected)
    other, others = fresh(1)
    with torch.no_grad():
        for p, old in zip(others, at, strict=True):
            p.copy_(old)
    other.load_state_dict(saved)
    assert all(group["seed"] == 0 for group in other.param_groups)
    follow(other, others, grads[4:])
    assert same(snapshot(other), expected)


def test_checkpoints_from_before_there_were_seeds_keep_the_one_given():
    made = one_per_rule(Descent, torch.bfloat16)
    saved = Descent(made, precision="stochastic").state_dict()
    for group in saved["param_groups"]:
        del group["seed"]
    other = Descent(made, precision="stochastic", seed=5)
    other.load_state_dict(saved)
    assert other.param_groups[0]["seed"] == 5


# -- recorded and compiled kernels ----------------------------------------------------------------------------------


GRAPHED = [
    pytest.param(cls, how, precision, id=f"{cls.__name__}-{how}-{precision}", marks=marks)
    for cls in generated_classes()
    for how in ("recorded", *(["compiled"] if cls.__name__ in ("AdamW", "NAMO") else []))
    for precision in (PRECISIONS if cls.__name__ in SEEDS else ("kahan", "master"))
    for marks in [() if (cls.__name__, how, precision) == ("AdamW", "recorded", "master") else pytest.mark.wide]
]


@pytest.mark.parametrize(("cls", "how", "precision"), GRAPHED)
def test_graphs_keep_what_rounding_takes_off(cls, precision, how):
    """Compilers leave out casts to 16 bits and back, and with them what "kahan" keeps and what "master" looks for.

    Whatever rounds differently in the compiled float32 computation is a hundredth of the steps at most; what the casts
    are for is half of them.
    """
    recorded = {"backend": "eager", "capturable": True}
    results = []
    for options in ({"backend": "eager"}, {"backend": "compile"} if how == "compiled" else recorded):
        made = one_per_rule(cls, torch.bfloat16)
        params = parameters(made)
        optimizer = build(cls, made, precision=precision, **options)
        start = torch.cat([p.detach().double().flatten() for p in params])
        follow(optimizer, params, gradients([p.shape for p in params], 6))
        extras = [optimizer.state[p].get(precision, torch.zeros_like(p)).detach().double().flatten() for p in params]
        seen = torch.cat([p.detach().double().flatten() for p in params])
        results.append((seen, torch.cat(extras)))
    for ours, theirs in zip(*results, strict=True):
        assert float((ours - theirs).abs().sum()) <= 0.01 * float((results[0][0] - start).abs().sum())
    if precision in ("kahan", "master"):
        assert (results[1][1] != 0).any()


# -- checkpoints -------------------------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("precision", PRECISIONS)
def test_states_keep_their_dtype_in_files(cls, precision):
    """Through a file read with weights_only: dtypes, values and what follows; the group says the precision."""
    made = one_per_rule(cls, torch.bfloat16)
    params = parameters(made)
    grads = gradients([p.shape for p in params], 6)
    optimizer = build(cls, made, precision=precision)
    follow(optimizer, params, grads[:3])
    file = io.BytesIO()
    torch.save({"model": [p.detach() for p in params], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    fresh = one_per_rule(cls, torch.bfloat16)
    other, others = build(cls, fresh), parameters(fresh)  # of precision "plain" until the checkpoint says otherwise
    with torch.no_grad():
        for p, old in zip(others, loaded["model"], strict=True):
            p.copy_(old)
    other.load_state_dict(loaded["optimizer"])
    assert same(snapshot(other), snapshot(optimizer))
    for p in others:
        for name, value in other.state[p].items():
            assert name == "step" or value.dtype == (torch.bfloat16 if name == "kahan" else torch.float32), name
    assert (precision in other.state[others[0]]) == (precision in ("kahan", "master"))
    follow(optimizer, params, grads[3:])
    follow(other, others, grads[3:])
    assert same(snapshot(other), snapshot(optimizer))


def test_a_file_of_one_precision_does_not_load_as_another():
    made = one_per_rule(Lookback, torch.bfloat16)
    optimizer = Lookback(made, precision="master")
    follow(optimizer, parameters(made), gradients([p.shape for p in parameters(made)], 2))
    plain, saved = Lookback(one_per_rule(Lookback, torch.bfloat16)), copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["precision"] = "kahan"
    with pytest.raises(ValueError, match="lacks kahan"):
        plain.load_state_dict(saved)
    with pytest.raises(ValueError, match="has master, which its rule does not"):
        Lookback(one_per_rule(Lookback, torch.float32)).load_state_dict(optimizer.state_dict())


# -- groups ------------------------------------------------------------------------------------------------------------


@every_class
def test_each_group_has_its_own_precision(cls):
    """Groups of one class and dtype that differ in precision alone move as they do in optimizers of their own."""
    if has_totals(cls):
        pytest.skip("parameters depend on each other")
    precisions = ("plain", "kahan", "master")
    made = [{**group, "precision": name} for name in precisions for group in one_per_rule(cls, torch.bfloat16)]
    params = parameters(made)
    together = build(cls, made)
    each = len(params) // len(precisions)
    grads = gradients([p.shape for p in params[:each]], 5)
    follow(together, params, [gs * len(precisions) for gs in grads])
    for i, name in enumerate(precisions):
        alone = one_per_rule(cls, torch.bfloat16)
        optimizer = build(cls, alone, precision=name)
        follow(optimizer, parameters(alone), grads)
        for p, q in zip(params[i * each : (i + 1) * each], parameters(alone), strict=True):
            assert torch.equal(p, q) and same(dict(together.state[p]), dict(optimizer.state[q]))


@pytest.mark.parametrize("target", ["kahan", "master", "stochastic"])
def test_changing_the_precision_of_a_group_keeps_its_states(target):
    """From then on it is what a run would be that had kept its float32 weight, or nothing, until then."""
    p, q = (nn.Parameter(torch.full((40,), 1.5, dtype=torch.bfloat16)) for _ in range(2))
    optimizer, plain = Lookback([p], lr=1e-3), Lookback([q], lr=1e-3)
    grads = gradients([p.shape], 6)
    follow(optimizer, [p], grads[:3])
    follow(plain, [q], grads[:3])
    optimizer.param_groups[0]["precision"] = target
    follow(optimizer, [p], grads[3:4])
    follow(plain, [q], grads[3:4])
    for name in ("last", "before", "step"):
        assert same(optimizer.state[p][name], plain.state[q][name]), name
    optimizer.param_groups[0]["precision"] = "mater"
    with pytest.raises(ValueError, match="invalid precision='mater'; did you mean 'master'"):
        optimizer.step()


@pytest.mark.parametrize("precision", ["kahan", "master"])
def test_what_a_precision_kept_is_dropped_when_a_group_leaves_it(precision):
    """It would be stale on return; and a checkpoint in between must load."""
    p = nn.Parameter(torch.full((8,), 1.5, dtype=torch.bfloat16))
    optimizer = Descent([p], lr=2.0**-10, precision=precision)
    follow(optimizer, [p], [[torch.ones(8)]])
    optimizer.param_groups[0]["precision"] = "plain"
    follow(optimizer, [p], [[torch.zeros(8)]])
    assert precision not in optimizer.state[p]
    Descent([nn.Parameter(p.detach().clone())]).load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["precision"] = precision
    follow(optimizer, [p], [[torch.zeros(8)]])
    kept = optimizer.state[p][precision]
    assert torch.equal(kept, torch.zeros_like(p) if precision == "kahan" else p.detach().float())
    p.data = p.data.float()
    follow(optimizer, [p], [[torch.zeros(8)]])
    assert precision not in optimizer.state[p]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_set_from_outside_are_the_weights(precision):
    """A model whose weights are loaded, clipped, pruned or averaged goes on from there in every precision."""
    p = nn.Parameter(torch.linspace(1, 2, 40).to(torch.bfloat16))
    optimizer = Descent([p], lr=2.0**-6, precision=precision)
    follow(optimizer, [p], gradients([p.shape], 5))
    with torch.no_grad():
        p[:20] = 0.25
    kept = p.detach()[20:].clone()
    p.grad = torch.zeros_like(p)
    optimizer.step()
    half_a_unit_of_old_weights = 2.0**-8
    assert ((p[:20] - 0.25).abs() <= (half_a_unit_of_old_weights if precision == "kahan" else 0)).all()
    assert torch.equal(p[20:], kept)
    if precision == "master":
        assert torch.equal(optimizer.state[p]["master"][:20], torch.full((20,), 0.25))
        assert not torch.equal(optimizer.state[p]["master"][20:], kept.float())


# -- numbers that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_skip_nonfinite_holds_for_events_that_read_gradients(bad):
    """A curvature taken from a NaN would outlast the batch it came from; an event without gradients always runs."""
    p, q = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3))
    optimizer = Curvature([p, q], skip_nonfinite=True)
    follow(optimizer, [p, q], [[torch.ones(4), torch.ones(3)]])
    optimizer.curvature(batch_size=1.0)
    p.grad = torch.full((4,), bad)
    before = snapshot(optimizer)
    optimizer.curvature(batch_size=1.0)
    assert same(snapshot(optimizer), before)
    optimizer.ascend(by=0.5)
    assert torch.equal(p, before[1][0] + 0.5) and optimizer.state[p]["ascend_step"] == 1
    optimizer.skip_nonfinite = False
    optimizer.curvature(batch_size=1.0)
    assert not optimizer.state[p]["h"].isfinite().any() and optimizer.state[q]["h"].isfinite().all()


def test_skip_nonfinite_sees_every_dtype():
    params = [nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.float16, torch.float64, torch.bfloat16)]
    optimizer = Descent(params, lr=0.5, skip_nonfinite=True)
    ones = [torch.ones(3)] * 3
    follow(optimizer, params, [ones])
    assert all(torch.equal(p, torch.full_like(p, 0.5)) for p in params)
    for i in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        params[i].grad[1] = math.inf
        optimizer.step()
    params[1].grad = torch.full_like(params[1], 1e300)  # finite, though no float32
    params[2].grad = torch.zeros_like(params[2])
    assert all(torch.equal(p, torch.full_like(p, 0.5)) for p in params)
    optimizer.step()
    assert torch.equal(params[1], torch.full_like(params[1], 0.5 - 0.5e300))


# -- automatic mixed precision -----------------------------------------------------------------------------------------


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)
    return (model(x) - y).square().mean()


@every_class
def test_grad_scaler_gives_the_unscaled_run_and_skips_overflows(cls):
    """Scales are powers of two, so that scaled and unscaled gradients differ in nothing, clipped or not."""
    scaled, unscaled = small_model(), small_model()
    try:
        optimizer, other = build(cls, scaled), build(cls, unscaled)
    except ValueError as error:
        assert "has no rule" in str(error)
        pytest.skip("takes no vectors")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for t in range(6):
        overflows, clips = t == 3, t % 2 == 1
        optimizer.zero_grad()
        scaler.scale(loss_of(scaled, t)).backward()
        if overflows:
            scaled[2].weight.grad[0, 0] = math.inf
        if clips:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(scaled.parameters(), 0.5)
        before, scale = snapshot(optimizer), scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if overflows:
            assert same(snapshot(optimizer), before) and scaler.get_scale() == scale / 2
            continue
        other.zero_grad()
        loss_of(unscaled, t).backward()
        if clips:
            torch.nn.utils.clip_grad_norm_(unscaled.parameters(), 0.5)
        other.step()
    assert scaler.get_scale() == 2.0**11  # doubled after steps 1 and 5, halved at step 3
    assert same(weights(list(scaled.parameters())), weights(list(unscaled.parameters())))
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {5}


def test_grad_scaler_skips_the_optimizer_that_overflowed_alone():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    first, second = Descent([p], lr=0.5), Descent([q], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(p.sum() * math.inf + q.sum()).backward()
    for optimizer in (first, second):
        scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, torch.ones(3)) and torch.equal(q, torch.full((3,), 0.5)) and scaler.get_scale() == 2.0


@every_class
def test_autocast_training_reaches_float32_parameters(cls):
    """Autocast around the loss: gradients arrive in float32, and the loss falls about as it does without."""
    losses = {}
    for enabled in (True, False):
        model = small_model()
        try:
            optimizer = build(cls, model)
        except ValueError as error:
            assert "has no rule" in str(error)
            pytest.skip("takes no vectors")
        for _ in range(12):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = loss_of(model, 0)
            loss.backward()
            assert all(p.grad.dtype == torch.float32 for p in model.parameters())
            optimizer.step()
            losses.setdefault(enabled, []).append(loss.item())
    assert all(map(math.isfinite, losses[True])) and len(set(losses[True])) > 6
    fall = losses[False][0] - losses[False][-1]
    assert abs(losses[True][-1] - losses[False][-1]) <= 0.2 * abs(fall) + 0.02


@every_class
def test_a_step_inside_autocast_is_the_step_outside(cls):
    """Autocast would compute matrix products in bfloat16, and so make a step depend on where it is called."""
    results = []
    for enabled in (True, False):
        made = one_per_rule(cls, torch.float32, rows=24, cols=32)
        params = parameters(made)
        optimizer = build(cls, made)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            follow(optimizer, params, gradients([p.shape for p in params], 2))
        results.append(snapshot(optimizer))
    assert same(*results)
