"""The model of what sharded steps cost: its page is up to date, and its bytes are those of formulas."""

from __future__ import annotations

import math

import pytest

from optforge.runtime.exchange.owners import _flops_of_whole
from tools import sharding_costs
from tools.sharding_costs import (
    ELEMENT,
    MODELS,
    crossing,
    gather,
    gram,
    holders,
    imbalance,
    owner,
    plan,
    replicas_apart,
    replicas_together,
    rows_on,
    work_at_once,
    work_in_turn,
)

GPT2 = MODELS["GPT-2 small"]
ELEMENTS = sum(map(math.prod, GPT2))


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert sharding_costs.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_is_out_of_date_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding_costs, "MODELS", {"GPT-2 small": GPT2})
    assert sharding_costs.main(["--check"]) == 1


def test_models_are_of_their_sizes() -> None:
    sizes = [sum(map(math.prod, shapes)) for shapes in MODELS.values()]
    assert sizes[0] == 84_934_656
    assert sizes[1] == 32 * (4 * 4096**2 + 3 * 11008 * 4096)
    assert 29e9 < sizes[2] < 31e9


@pytest.mark.parametrize("ranks", [2, 4])
def test_balanced_owners_send_what_the_formula_says(ranks: int) -> None:
    """Twice B N e (W - 1) / W², where each rank owns as many of each shape."""
    one_way = ELEMENTS * ELEMENT * (ranks - 1) / ranks**2
    assert crossing(plan(GPT2, ranks)) == [(one_way, one_way)] * ranks


def test_rows_are_cut_as_torch_cuts_them() -> None:
    import torch

    for rows, ranks in [(7, 3), (8, 3), (3, 8), (9, 4)]:
        pieces = torch.empty(rows, 1).chunk(ranks)
        assert [rows_on(rank, rows, ranks) for rank in range(len(pieces))] == [len(piece) for piece in pieces]
        assert sum(rows_on(rank, rows, ranks) for rank in range(ranks)) == rows
        assert holders(rows, ranks) == len(pieces)


def test_one_matrix_has_one_owner() -> None:
    found = plan([(16, 4)], 4)
    quarter = 4 * 4 * ELEMENT
    assert crossing(found) == [(0, 3 * quarter), *[(quarter, 0)] * 3]
    assert imbalance(work_at_once(found), found) == imbalance(work_in_turn(found), found) == 4


def test_batches_under_way_together_are_waited_for() -> None:
    """Four batches of one huge matrix each on four ranks: three are computed at once, and then the fourth."""
    shape = (1 << 14, 1 << 13)
    found = plan([shape] * 4, 4)
    assert [len(bucket) for bucket in found.buckets] == [1] * 4
    assert work_at_once(found) == _flops_of_whole(*shape)
    assert work_in_turn(found) == 2 * _flops_of_whole(*shape)
    assert work_in_turn(plan([shape] * 4, 1)) == 4 * _flops_of_whole(*shape)


def test_gram_sends_grams_of_tall_matrices_and_wide_ones_to_owners() -> None:
    found = plan([(16, 64)], 4)
    wide = owner(found, work_at_once(found))
    assert gram([(16, 64)], 4) == wide
    both = gram([(64, 16), (16, 64)], 4)
    assert both.sent - wide.sent == 8 * 16 * 16 * 3 / 4


def test_gather_sends_everything() -> None:
    assert gather(plan(GPT2, 4)).sent == ELEMENTS * ELEMENT * 3 / 4


def test_replicas_that_share_owners_send_less_and_compute_less() -> None:
    shapes = [(4096, 4096)] * 64
    apart, together = replicas_apart(shapes), replicas_together(shapes, 2)
    elements = sum(map(math.prod, shapes))
    assert together.sent == pytest.approx(ELEMENT * elements * (7 / 64 + 1 / 16))  # (R + 1) / R within the node's 7 / 8
    assert apart.sent == 2 * elements * ELEMENT * 7 / 64
    assert together.seconds < apart.seconds
