"""Placements: those of every shipped spec, in a golden file, and that no cheaper one exists, by trying all.

With ``OPTFORGE_UPDATE=1`` the golden file is written anew.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from optforge.compiler.analysis.sharding.placement import (
    ELEMENT,
    ROUND,
    STATE,
    Cut,
    Interactions,
    Placement,
    Placing,
    Side,
    Weight,
    place,
    place_as_run,
    size,
)
from optforge.compiler.analysis.sharding.report import report_of
from optforge.compiler.driver import Workspace, check_source, run_passes
from optforge.compiler.frontend.files import SPECS
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import FULL, GRAMS, Dim, Universe
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.source import Source
from tools.programs.programs import random_programs

GOLDEN = Path(__file__).parents[1] / "cases" / "placements.txt"
CUTS = {"rows": Cut(Dim.ROWS), "cols": Cut(Dim.COLS), "split": Cut(Dim.ROWS, split=True)}
TRIED = 10  # as many values may be on either side where all placements are tried


def rules_of(program: ir.Program) -> Iterator[tuple[str, ir.Rule]]:
    ready = run_passes(program, TORCH.rewrites)
    for declaration in ready.declarations:
        if isinstance(declaration, ir.Optimizer):
            yield from ((f"{declaration.name}.{rule.name}", rule) for rule in declaration.rules)


def rule_of(text: str) -> ir.Rule:
    ((_, rule),) = rules_of(check_source(Source("case.opt", text)).require())
    return rule


@pytest.fixture(scope="module")
def shipped() -> dict[str, ir.Rule]:
    workspace = Workspace()
    snapshots = [workspace.snapshot(path) for path in sorted(SPECS.glob("*.opt"))]
    return dict(each for snapshot in snapshots if snapshot.program for each in rules_of(snapshot.program))


def lines_of(name: str, rule: ir.Rule) -> Iterator[str]:
    """One line for each way to cut, or one for all where nothing is sent. A tensor is one column, of one matrix."""
    cuts = CUTS if rule.universe is Universe.MATRIX else {"rows": CUTS["rows"]}
    shown = {key: str(report_of(place_as_run(rule.update, cut))) for key, cut in cuts.items()}
    if set(shown.values()) == {"local"}:
        yield f"{name}: local"
        return
    for key, text in shown.items():
        yield f"{name}, {key}: {text}"


def test_placements_of_shipped_specs(shipped: dict[str, ir.Rule]) -> None:
    text = "\n".join(line for name, rule in shipped.items() for line in lines_of(name, rule)) + "\n"
    if os.environ.get("OPTFORGE_UPDATE"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "run with OPTFORGE_UPDATE=1 and look at the difference"


def test_most_rules_send_nothing(shipped: dict[str, ir.Rule]) -> None:
    kinds = Counter(report_of(place(rule.update, Cut(Dim.ROWS))).kind for rule in shipped.values())
    assert kinds["local"] > 0.55 * kinds.total() and kinds["whole"] < 0.35 * kinds.total()


def test_momenta_go_down_and_updates_up(shipped: dict[str, ir.Rule]) -> None:
    for name in ("Muon", "NAMO", "NAMOD", "NorMuon", "Scion", "Aurora", "SWAN"):
        report = report_of(place(shipped[f"{name}.matrix"].update, Cut(Dim.ROWS)))
        assert report.sent in (("m",), ("s",)) and not report.owned, name
    for name in ("SOAP", "Shampoo"):
        report = report_of(place(shipped[f"{name}.matrix"].update, Cut(Dim.ROWS)))
        assert report.sent == ("grad",) and len(report.returned) == 1 and report.owned, name


def test_elements_interact_along(shipped: dict[str, ir.Rule]) -> None:
    wanted = {"AdamW.tensor": (), "Nora.matrix": (Dim.COLS,), "RMNP.matrix": (Dim.COLS,)}
    wanted |= {"Muon.matrix": (Dim.ROWS, Dim.COLS), "LAMB.tensor": (Dim.ROWS, Dim.COLS)}
    found = {name: Interactions(shipped[name].update).along(shipped[name].update) for name in wanted}
    assert found == wanted


# No placement is cheaper


def cost(placing: Placing, sides: dict[int | str | Weight, Side]) -> int | None:
    """What a placement costs by the sentence at the top of the module; None where it is none."""
    total = 0
    for number, value in enumerate(placing.values):
        side = sides[number]
        is_given = isinstance(value.expr, ir.Input) and value.expr.source is not ir.InputSource.STATE
        if (side is Side.OWNER and is_given) or (side is Side.LOCAL and placing.is_whole(number)):
            return None
        if isinstance(value.expr, ir.Input) and not is_given and side is not sides[value.expr.name]:
            return None
        away = any(sides[reader] is not side for reader in placing.readers[number])
        if side is Side.LOCAL:
            total += 2 * ELEMENT * size(value.shape) + ROUND if placing.is_reduced(value) else 0
            total += placing.down_cost(value) if away else 0
        else:
            total += 1 + (placing.up_cost(value) if away else 0)
    for name, shape in placing.states.items():
        is_whole = shape in GRAMS or (placing.cut.split and placing.cut.dim not in shape)
        may_be = (Side.OWNER,) if is_whole else tuple(Side) if shape == FULL else (Side.LOCAL,)
        if sides[name] not in may_be:
            return None
        if sides[name] is Side.OWNER and not is_whole:
            total += ELEMENT * size(shape) // STATE
    return total


def choices(placing: Placing) -> Iterator[dict[int | str | Weight, Side]]:
    """All ways to place what is not given."""
    inputs = {value.expr.name: n for n, value in enumerate(placing.values) if isinstance(value.expr, ir.Input)}
    nodes = [*range(len(placing.values)), *(name for name in placing.states if name not in inputs)]
    given = [number for name, number in inputs.items() if name not in placing.states]
    free = [node for node in nodes if isinstance(node, str) or not (placing.is_whole(node) or node in given)]
    for sides in product(Side, repeat=len(free)):
        found: dict[int | str | Weight, Side] = dict.fromkeys(nodes, Side.OWNER)
        found |= dict.fromkeys(given, Side.LOCAL)
        found |= dict(zip(free, sides, strict=True))
        found |= {name: found[inputs[name]] for name in placing.states if name in inputs}
        yield found | {Weight.NEW: Side.LOCAL}


def chosen(placing: Placing, placement: Placement) -> dict[int | str | Weight, Side]:
    found: dict[int | str | Weight, Side] = dict(enumerate(placement.sides))
    found |= {name: Side.OWNER if name in placement.owned else Side.LOCAL for name in placing.states}
    return found | {Weight.NEW: Side.LOCAL}


def free_values(placing: Placing) -> int:
    return sum(not placing.is_whole(number) for number in range(len(placing.values)))


def test_no_placement_is_cheaper() -> None:
    tried: Counter[str] = Counter()
    for program in random_programs(7, 60):
        for name, rule in rules_of(check_source(Source("random.opt", program.text)).require()):
            for cut in CUTS.values():
                placing = Placing(rule.update, cut, None)
                if free_values(placing) > TRIED:
                    continue
                placement = placing.placement()
                found = cost(placing, chosen(placing, placement))
                costs = [each for sides in choices(placing) if (each := cost(placing, sides)) is not None]
                assert found == min(costs), (name, cut, str(report_of(placement)), program.text)
                tried[report_of(placement).kind] += 1
    assert all(tried[kind] > 5 for kind in ("local", "sums", "whole")), tried


NUMBERED = """
optimizer Numbered:
    hyper lr = 0.1 where lr > 0
    for matrix:
        weight <- weight - lr * (grad if index(%s) < 2 else 0)
"""


@pytest.mark.parametrize("per", ["row", "col"])
def test_a_rank_cannot_number_the_rows_of_a_whole_matrix(per: str) -> None:
    """Its first row is not the first one, so the owner computes what depends on that."""
    update = rule_of(NUMBERED % per).update
    assert Interactions(update).along(update) == (Dim.ROWS, Dim.COLS)
