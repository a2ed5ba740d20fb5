"""The noise of stochastic rounding: random to the eye, and the same bits wherever an element is rounded."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optforge.generated import NAMO, SGD, AdamW, ScheduleFreeSGD
from optforge.runtime.batching.buckets import Bucket
from optforge.runtime.batching.noise import Mark, Noise
from optforge.runtime.linalg.hashing import _mix, _mix_
from optforge.runtime.routing.places import View, _places

ELEMENTS = 1 << 20


def numbers(entries: list[tuple[Tensor, Any, Mark]], seed: int = 0, t: Any = 1, counter: str = "step") -> Tensor:
    """What the elements of a bucket of these parameters, places and marks get."""
    marks = {p: mark for p, _, mark in entries}
    return Noise(seed, counter, t, marks).numbers(Bucket([(p, place) for p, place, _ in entries]))


PLAIN = View()


def of_whole(shape: tuple[int, ...], number: int = 0, layout: str = "elementwise", view: View = PLAIN) -> Tensor:
    """The noise of one parameter, in its shape."""
    p, found = torch.empty(shape), torch.empty(shape, dtype=torch.int32)
    for place in _places(layout, p.shape, view):
        part = numbers([(p, place, Mark(number))])
        place.window(found).copy_(part.view(place.window(found).shape))
    return found


def bits(number: int = 0, **options: Any) -> Tensor:
    """The 16 bits by which bfloat16 is rounded, in float64 with mean 0 and variance 1."""
    p = torch.empty(ELEMENTS)
    x = _mix_(numbers([(p, *_places("elementwise", p.shape, View()), Mark(number))], **options))
    return (((x >> 16) & 0xFFFF).double() + 0.5).div(65536).sub(0.5).mul(math.sqrt(12))


# -- as good as random -------------------------------------------------------------------------------------------------


def test_noise_is_uniform():
    """Each of a million bits, and each of 4096 intervals, within five standard deviations of what is to be expected."""
    for seed in range(3):
        noise = bits(seed=seed)
        assert abs(noise.mean()) < 5e-3 and abs(noise.var() - 1) < 5e-3
        level = (noise / math.sqrt(12) + 0.5).mul(65536).long()
        for k in range(16):
            assert abs(((level >> k) & 1).double().mean() - 0.5) < 5 * 0.5 / math.sqrt(ELEMENTS)
        counts, expected = torch.bincount(level >> 4, minlength=4096).double(), ELEMENTS / 4096
        surplus = ((counts - expected).square() / expected).sum() - 4095
        assert abs(surplus) < 5 * math.sqrt(2 * 4095)


def correlation(one: Tensor, two: Tensor) -> float:
    """In standard deviations of what there is by chance."""
    return abs(float((one * two).mean())) * math.sqrt(len(one))


@pytest.mark.parametrize("square", [False, True], ids=["itself", "its square"])
def test_neighbours_have_nothing_in_common(square):
    """Steps, parameters, seeds, counters and elements that are one apart, or as far as in the next row."""

    def seen(**options: Any) -> Tensor:
        noise = bits(**options)
        return (noise.square() - 1) * math.sqrt(5) / 2 if square else noise

    noise = seen(t=5, number=3)
    for other in ({"t": 6}, {"t": 7}, {"number": 2}, {"number": 4}, {"seed": 1}, {"counter": "eval_step"}):
        assert correlation(noise, seen(**{"t": 5, "number": 3, **other})) < 4, other
    for lag in (1, 2, 3, 64, 768, 1024, 3072, 4096, 50257):
        assert correlation(noise[lag:], noise[:-lag]) < 4, lag
        assert correlation(noise[lag:], seen(t=6, number=3)[:-lag]) < 4, lag


def test_steps_of_one_element_have_nothing_in_common():
    """An element over 1000 steps: no drift of its own, and none together with its neighbour."""
    p = torch.empty(64)
    (place,) = _places("elementwise", p.shape, View())
    steps = torch.stack([_mix_(numbers([(p, place, Mark(0))], t=t)) >> 16 for t in range(1, 1001)]).double() / 32768
    assert (steps.mean(0).abs() * math.sqrt(3000) < 5).all()
    together = (steps.T @ steps).div(1000 / 3).fill_diagonal_(0)
    assert (together.abs() < 5.5 / math.sqrt(1000)).all()


def test_no_noise_is_that_of_another_step_or_parameter_further_on():
    """As it would be if all counted with the same distance between neighbours."""
    p = torch.empty(3)
    (place,) = _places("elementwise", p.shape, View())
    some = torch.stack([numbers([(p, place, Mark(i))], t=t) for i in range(10) for t in range(1, 11)])
    distances = some.diff(dim=1)
    assert torch.equal(distances[:, 0], distances[:, 1]) and len(distances[:, 0].unique()) == 100
    assert (distances % 2 == 1).all()


def test_different_numbers_stay_different():
    assert len(_mix_(torch.arange(-ELEMENTS, ELEMENTS, dtype=torch.int32)).unique()) == 2 * ELEMENTS
    assert len(_mix(torch.arange(-ELEMENTS, ELEMENTS)).unique()) == 2 * ELEMENTS


# -- wherever an element is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["elementwise", "tensor", "matrix"])
@pytest.mark.parametrize(
    "view", [View(), View(True), View(False, 3), View(False, (2, 7)), View(True, (1, 3)), View(False, None, 1)], ids=str
)
def test_every_layout_and_view_gives_an_element_the_same(layout, view):
    shape = (9, 4, 5)
    assert torch.equal(of_whole(shape, 2, layout, view), of_whole(shape, 2))


def test_buckets_give_what_each_parameter_alone_gets():
    for layout, shapes in {"elementwise": [(5,), (3, 4), (1,), (), (7, 2)], "matrix": [(6, 4)] * 3}.items():
        params = [torch.empty(shape) for shape in shapes]
        together = numbers([(p, *_places(layout, p.shape, View()), Mark(i)) for i, p in enumerate(params)])
        alone = [of_whole(p.shape, i).flatten() for i, p in enumerate(params)]
        assert torch.equal(together.flatten(), torch.cat(alone))
    mixed = [(torch.empty(4, 6), View(True)), (torch.empty(6, 4), View()), (torch.empty(12, 4), View(False, 2))]
    together = numbers([(p, *_places("matrix", p.shape, view), Mark(i)) for i, (p, view) in enumerate(mixed)])
    alone = [of_whole((4, 6), 0).T.flatten(), of_whole((6, 4), 1).flatten(), of_whole((12, 4), 2).flatten()]
    assert torch.equal(together.flatten(), torch.cat(alone))


@pytest.mark.parametrize("layout", ["elementwise", "matrix"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("view", [View(), View(True)], ids=["as it is", "transposed"])
def test_shards_get_what_is_theirs_in_the_whole(layout, axis, view):
    """Uneven ones, along any dimension, together in a bucket where their shapes are equal."""
    shape = (5, 7, 3)
    whole = of_whole(shape, 4)
    for start, size in {0: [(0, 2), (2, 2), (4, 1)], 1: [(0, 3), (3, 4)], 2: [(0, 2), (2, 1)]}[axis]:
        expected = whole.narrow(axis, start, size)
        shard, other = torch.empty(expected.shape), torch.empty(expected.shape)
        (place,) = _places(layout, shard.shape, view)
        first = tuple(start if i == axis else 0 for i in range(3))
        found = numbers([(other, place, Mark(0)), (shard, place, Mark(4, shape, first))])[-shard.numel() :]
        window = place.window(expected)
        assert torch.equal(found.flatten()[-shard.numel() :], window.flatten())


def test_shards_of_large_parameters_count_on():
    """Beyond 2^31 elements, and with the same numbers again 2^32 elements on, where a whole has so many."""
    rows, cols = 3 << 20, 1 << 12
    p = torch.empty(1, 5)
    (place,) = _places("elementwise", p.shape, View())

    def at(row: int, col: int = 0) -> list[int]:
        return numbers([(p, place, Mark(0, (rows, cols), (row, col)))]).tolist()

    beyond = 1 << 19  # rows of 2^31 elements
    factor = (at(0)[1] - at(0)[0]) % 2**32
    assert all((b - a) % 2**32 == factor for a, b in zip(at(beyond)[:-1], at(beyond)[1:], strict=True))
    assert (at(beyond)[0] - at(beyond - 1, cols - 5)[-1]) % 2**32 == factor
    assert at(1 << 20) == at(0)


def test_a_count_on_the_device_is_a_count():
    p = torch.empty(6)
    entry = (p, *_places("elementwise", p.shape, View()), Mark(1))
    assert torch.equal(numbers([entry], t=torch.tensor(7.0, dtype=torch.float64)), numbers([entry], t=7))


# -- whole optimizers --------------------------------------------------------------------------------------------------


def halves(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Weights from which a step of 2^-8 leads between two numbers of bfloat16: nothing but the noise decides."""
    return [nn.Parameter(torch.ones(shape, dtype=torch.bfloat16)) for shape in shapes]


def step(optimizer: Any, params: list[Tensor], missing: tuple[int, ...] = ()) -> list[Tensor]:
    for i, p in enumerate(params):
        p.grad = None if i in missing else torch.full_like(p, -1)
    optimizer.step()
    return [p.detach().clone() for p in params]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(map(torch.equal, one, two))


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "eager", "capturable": True},
        pytest.param({"backend": "compile"}, marks=pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")),
    ],
    ids=["recorded", "compiled"],
)
def test_graphs_round_as_the_function_does(options):
    """Bitwise, where the weight before it is rounded is."""
    found = []
    for given in (options, {"backend": "eager"}):
        params = halves((40, 32), (5,), (7, 3), (3000,))
        optimizer = SGD(params, lr=2**-8, precision="stochastic", **given)
        step(optimizer, params)
        found.append(step(optimizer, params))
        assert len(torch.cat([x.flatten() for x in found[-1]]).unique()) > 1
    assert same(*found)


@pytest.mark.parametrize("cls", [AdamW, NAMO, SGD])
def test_what_other_parameters_do_changes_no_bit(cls):
    """Others without gradients, in other buckets, and torch's own generator."""
    shapes = ((16, 12), (5,), (16, 12), (16, 12))
    params, others = halves(*shapes), halves(*shapes)
    optimizer, other = (cls(x, lr=2**-8, precision="stochastic") for x in (params, others))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    step(optimizer, params)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    step(other, others, missing=(0, 3))
    assert torch.equal(params[1], others[1]) and torch.equal(params[2], others[2])
    assert len(params[2].unique()) > 1 and not torch.equal(params[2], params[3])


def test_events_round_with_noise_of_their_own(monkeypatch):
    """What shows the mean of the weights after a step is not rounded by what that step was."""
    (p,) = halves((1000,))
    optimizer = ScheduleFreeSGD([p], lr=2**-8, precision="stochastic")
    seen = []
    numbers = Noise.numbers
    monkeypatch.setattr(Noise, "numbers", lambda self, bucket: seen.append(numbers(self, bucket)) or seen[-1].clone())
    step(optimizer, [p])
    optimizer.eval()
    assert len(seen) == 2 and not torch.equal(*seen) and optimizer.state[p]["eval_step"] == 1
    assert len(p.unique()) > 1


@pytest.mark.parametrize("seed", [-1, 1 << 64, True, 1.0, None, "0"])
def test_a_seed_is_a_whole_number(seed):
    (p,) = halves((3,))
    with pytest.raises(ValueError, match="invalid seed="):
        SGD([p], lr=0.1, seed=seed)
    optimizer = SGD([p], lr=0.1, seed=2**64 - 1, precision="stochastic")
    step(optimizer, [p])
    optimizer.param_groups[0]["seed"] = seed
    before = p.detach().clone()
    with pytest.raises(ValueError, match="invalid seed="):
        step(optimizer, [p])
    assert torch.equal(p, before)


def test_groups_may_have_seeds_of_their_own():
    shapes = ((16, 12), (16, 12))
    alone = []
    for seed in (3, 4):
        params = halves(*shapes)
        alone.append(step(SGD(params, lr=2**-8, precision="stochastic", seed=seed), params))
    params = halves(*shapes)
    groups = [{"params": [params[0]], "seed": 3}, {"params": [params[1]], "seed": 4}]
    found = step(SGD(groups, lr=2**-8, precision="stochastic"), params)
    assert torch.equal(found[0], alone[0][0]) and torch.equal(found[1], alone[1][1])
    assert not torch.equal(alone[0][0], alone[1][0])


def test_a_group_that_is_gone_or_moved_renumbers_those_after_it():
    params = halves((50, 4), (50, 4))
    optimizer = SGD([{"params": [p]} for p in params], lr=2**-8, precision="stochastic")
    step(optimizer, params)
    optimizer.param_groups.reverse()
    for p in params:
        p.data.fill_(1)
        optimizer.state[p]["step"].zero_()
    moved = step(optimizer, params)
    fresh = halves((50, 4), (50, 4))
    assert same(moved, step(SGD(fresh[::-1], lr=2**-8, precision="stochastic"), fresh))
