"""Measurements as plain data: what the JSON file holds and the tables are made from.

Ratios are taken round by round, of steps that ran right after one another, so that a machine that slows down for a
while slows down both; their median and quartiles are what is reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import Result, Timing
from benchmarks.races import BYTES, ORTHOGONALIZING
from benchmarks.shapes import entries, iteration_flops, largest_bucket_bytes

SCHEMA = 1
Row = dict[str, Any]


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of equal rounds; ValueError unless there are as many of both."""
    paired = sorted(mine / theirs for mine, theirs in zip(seconds, baseline, strict=True))
    low, middle, high = quartiles(paired)
    return {"median": middle, "q1": low, "q3": high}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, between neighbours if need be."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def race_rows(result: Result, cuda: bool = False) -> dict[str, Any]:
    """One race as data."""
    chosen = entries(result.model, result.race.scope)
    return {
        "race": result.race.name,
        "model": result.model,
        "scope": result.race.scope,
        "tensors": result.tensors,
        "parameters": result.parameters,
        "baseline": result.race.baseline,
        "rounds": min(len(timing.seconds) for timing in result.timings),
        "bucket_bytes": largest_bucket_bytes(chosen),
        "iteration_flops": iteration_flops([entry for entry in chosen if entry.role == "matrix"]),
        "rows": [_row(timing, result.parameters, cuda) for timing in result.timings],
        "failed": result.failed,
    }


def _row(timing: Timing, parameters: int, cuda: bool) -> Row:
    contestant, seconds = timing.contestant, statistics.median(timing.seconds)
    moved = BYTES.get(contestant.method)
    return {
        "contestant": contestant.name,
        "package": contestant.package,
        "method": contestant.method,
        "seconds": seconds,
        "all_seconds": timing.seconds,
        "ratio": ratios(timing.seconds, timing.base),
        "bytes_per_second": moved * parameters / seconds if moved else None,
        "orthogonalizes": contestant.method in ORTHOGONALIZING,
        "peak_extra_bytes": timing.peak_bytes,
        "host_seconds": statistics.median(timing.host_seconds) if cuda else None,
    }


def row_of(race: Mapping[str, Any], method: str, package: str = "generated") -> Row | None:
    """The row that stands for a method: of ours the one that its user gets, without choosing a backend."""
    found = [row for row in race["rows"] if row["method"] == method and row["package"] == package]
    names = {row["contestant"]: row for row in found}
    preferred = (f"{package} {method} auto", f"{package} {method}")
    return next((names[name] for name in preferred if name in names), None)
