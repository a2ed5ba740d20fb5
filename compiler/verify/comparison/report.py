"""A comparison as a table for people or as JSON for programs.

Takes rows, gives text; computes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from optforge.compiler.verify.comparison.compare import Row
from optforge.compiler.verify.comparison.divergence import Divergence
from optforge.compiler.verify.comparison.measures import Measures

COLUMNS = {"rms/lr": 10, "ratio": 11, "cosine": 10, "difference": 12, "spectral/lr": 13}  # and their widths
LEGEND = (
    "rms/lr and spectral/lr: root mean square and largest singular value of the step, per unit of lr\n"
    "ratio, cosine, difference: norm, direction and distance of the step, relative to the first optimizer's"
)


def render_table(rows: Iterable[Row]) -> str:
    """A block for each trial, and below it where the others part from the first."""
    blocks = [list(block) for _, block in groupby(rows, key=lambda row: id(row.trial))]
    return "\n\n".join([*map(render_block, blocks), LEGEND])


def render_block(rows: Sequence[Row]) -> str:
    first, *others = rows
    margin = max(len(first.trial.title), *(len(row.target.label) + 2 for row in rows))
    steps = [f"step {step}".rjust(COLUMNS["rms/lr"]).ljust(sum(COLUMNS.values())) for step in first.measures]
    names = "".join(name.rjust(width) for name, width in COLUMNS.items()) * len(steps)
    lines = [f"{'':{margin}}{''.join(steps)}", f"{first.trial.title:{margin}}{names}"]
    for row in rows:
        numbers = "".join(render_measures(each) for each in row.measures.values())
        lines.append(f"  {row.target.label:{margin - 2}}{numbers}")
    if first.trial.dtype == "float64":
        lines += [f"  {row.target.label}: {render_divergence(row.divergence)}" for row in others]
    return "\n".join(line.rstrip() for line in lines)


def render_measures(measures: Measures) -> str:
    values = (
        shown(measures.rms, "#.4g"),
        shown(measures.ratio, ".6f"),
        shown(measures.cosine, ".6f"),
        shown(measures.difference, ".1e"),
        shown(measures.spectral, "#.4g"),
    )
    return "".join(value.rjust(width) for value, width in zip(values, COLUMNS.values(), strict=True))


def shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def render_divergence(divergence: Divergence | None) -> str:
    if divergence is None:
        return "no difference, in the weight and in what both keep under the same name"
    where = f"first differs in {divergence.stream} at step {divergence.step}"
    sizes = [math.prod(shape) for shape in divergence.shapes]
    if sizes[0] != sizes[1]:
        first, other = ("x".join(map(str, shape)) or "1" for shape in divergence.shapes)
        return f"{where} ({other} instead of {first})"
    numbers = f"ratio {shown(divergence.ratio, '.6f')}, cosine {shown(divergence.cosine, '.6f')}"
    size = f"difference {shown(divergence.difference, '.1e')}"
    return f"{where} ({numbers}, {size})"


# JSON


def render_json(rows: Iterable[Row]) -> str:
    """A list of rows; a number that is not finite is null."""
    return json.dumps([json_row(row) for row in rows], indent=2)


def json_row(row: Row) -> dict[str, Any]:
    return {
        "target": row.target.label,
        "shape": list(row.trial.shape),
        "dtype": row.trial.dtype,
        "lr": row.lr,
        "steps": {str(step): json_measures(each) for step, each in row.measures.items()},
        "largest_difference": json_number(row.worst),
        "first_divergence": row.divergence and json_divergence(row.divergence),
    }


def json_measures(measures: Measures) -> dict[str, float | None]:
    return {
        "rms_per_lr": json_number(measures.rms),
        "ratio": json_number(measures.ratio),
        "cosine": json_number(measures.cosine),
        "difference": json_number(measures.difference),
        "spectral_per_lr": json_number(measures.spectral),
    }


def json_divergence(divergence: Divergence) -> dict[str, Any]:
    return {
        "step": divergence.step,
        "kind": divergence.stream.kind,
        "name": divergence.stream.name,
        "ratio": json_number(divergence.ratio),
        "cosine": json_number(divergence.cosine),
        "difference": json_number(divergence.difference),
    }


def json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
