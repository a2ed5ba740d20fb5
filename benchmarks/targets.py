"""The targets of a measurement, and whether they are met.

In: races and cold starts as data. Out: one entry per target and model: what was asked, what was found, and the verdict.
Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.races import NORMALIZING, ORTHOGONALIZING
from benchmarks.results import ratios, row_of

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """The largest ratios, seconds and counts that are aimed at on a kind of device."""

    adamw: float  # of torch's fused AdamW
    orthogonalizing: float  # of torch.optim.Muon with the same iteration dtype
    extra: float  # over generated Muon
    normalizing: float  # of the memory limit
    compile_seconds: float
    gemm_share: float | None = None  # least share of the measured rate of products
    host_seconds: float | None = None


LIMITS = {
    "cpu": Limits(adamw=1.05, orthogonalizing=0.65, extra=1.03, normalizing=1.5, compile_seconds=20),
    "cuda": Limits(
        adamw=1.03,
        orthogonalizing=0.5,
        extra=1.03,
        normalizing=1.3,
        compile_seconds=40,
        gemm_share=0.7,
        host_seconds=2e-3,
    ),
}


@dataclass(frozen=True)
class Verdict:
    """One target: `found` must be at most `target`, or at least if `least`. `spread` are the quartiles of a ratio."""

    what: str
    model: str
    target: float
    found: float
    unit: str = ""
    least: bool = False
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        return self.found >= self.target if self.least else self.found <= self.target

    def as_data(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def verdicts(races: Sequence[Data], cold: Sequence[Data], device_type: str, gemm_rate: float) -> list[Verdict]:
    """Every target that the measurements say something about."""
    limits = LIMITS[device_type]
    found: list[Verdict] = []
    for race in races:
        if race["race"] == "AdamW":
            found += _ratio(race, "AdamW", "AdamW over torch's fused", limits.adamw)
        elif race["race"] == "orthogonalizing":
            found += _orthogonalizing(race, limits, gemm_rate)
        elif race["race"] == "normalizing":
            for method in NORMALIZING:
                found += _normalizing(race, method, limits, device_type)
        found += _of_every_step(race, limits)
    return [*found, *_cold(cold, limits)]


def _ratio(race: Data, method: str, what: str, target: float) -> Iterator[Verdict]:
    if row := row_of(race, method):
        found = row["ratio"]
        yield Verdict(what, race["model"], target, found["median"], spread=(found["q1"], found["q3"]))


def _orthogonalizing(race: Data, limits: Limits, gemm_rate: float) -> Iterator[Verdict]:
    muon = row_of(race, "Muon")
    for method in ORTHOGONALIZING:
        yield from _ratio(race, method, f"{method} over torch's Muon", limits.orthogonalizing)
        row = row_of(race, method)
        if row is None:
            continue
        if muon and row is not muon:
            extra = ratios(row["all_seconds"], muon["all_seconds"])
            spread = (extra["q1"], extra["q3"])
            yield Verdict(f"{method} over generated Muon", race["model"], limits.extra, extra["median"], spread=spread)
        if limits.gemm_share:
            share = race["iteration_flops"] / row["seconds"] / gemm_rate
            what = f"{method}: the standard form's operations per second, of the rate of products"
            yield Verdict(what, race["model"], limits.gemm_share, share, least=True)


def _normalizing(race: Data, method: str, limits: Limits, device_type: str) -> Iterator[Verdict]:
    """On the CPU over the memory limit; elsewhere over fused AdamW's time per byte."""
    row, adamw = row_of(race, method), _named(race, "torch AdamW fused")
    if device_type == "cpu" or row is None or adamw is None:
        yield from _ratio(race, method, f"{method} over the memory limit", limits.normalizing)
        return
    found = ratios(row["all_seconds"], adamw["all_seconds"])
    share = adamw["bytes_per_second"] * adamw["seconds"] / (row["bytes_per_second"] * row["seconds"])
    spread = (share * found["q1"], share * found["q3"])
    what = f"{method} over fused AdamW's time per byte"
    yield Verdict(what, race["model"], limits.normalizing, share * found["median"], spread=spread)


def _named(race: Data, contestant: str) -> Data | None:
    return next((row for row in race["rows"] if row["contestant"] == contestant), None)


def _of_every_step(race: Data, limits: Limits) -> Iterator[Verdict]:
    for row in race["rows"]:
        standing = row_of(race, row["method"])
        if standing is None or row["contestant"] != standing["contestant"]:
            continue
        buckets = row["peak_extra_bytes"] / race["bucket_bytes"]
        what = f"{row['method']} ({race['scope']}): extra memory of a step, in largest buckets"
        yield Verdict(what, race["model"], 1.0, buckets)
        if limits.host_seconds is not None and row["host_seconds"] is not None:
            what = f"{row['method']} ({race['scope']}): host time of a step"
            yield Verdict(what, race["model"], limits.host_seconds * 1e3, row["host_seconds"] * 1e3, "ms")


def _cold(cold: Sequence[Data], limits: Limits) -> Iterator[Verdict]:
    for found in cold:
        if "error" in found:
            yield Verdict(
                f"{found['method']}: compilation, cold", found["model"], limits.compile_seconds, float("inf"), "s"
            )
            continue
        name, model = found["method"], found["model"]
        yield Verdict(f"{name}: compilation, cold", model, limits.compile_seconds, found["seconds"], "s")
        yield Verdict(f"{name}: recompilations when hypers change", model, 0, found["recompilations"])
        yield Verdict(f"{name}: the same between groups", model, 0, found["recompilations_between_groups"])
