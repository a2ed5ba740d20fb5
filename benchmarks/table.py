"""Measurements as markdown. In: the data of the JSON file. Out: text; nothing is measured or judged here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Data = Mapping[str, Any]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """In significant digits, large ones written out; a dash if there is nothing to say."""
    if value is None:
        return "–"
    if value == 0 or value != value or abs(value) == float("inf"):
        return f"{value:g}"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e+" in text else text


def spread(found: Mapping[str, float]) -> str:
    """A ratio with its quartiles."""
    return f"{found['median']:.3f} ({found['q1']:.3f}–{found['q3']:.3f})"


def race_section(race: Data) -> str:
    """A heading and the contestants in the order of their times."""
    size = (
        f"{race['tensors']} tensors, {race['parameters'] / 1e6:.2f} million parameters, {race['rounds']} rounds or more"
    )
    flops = any(row["orthogonalizes"] for row in race["rows"])
    host = any(row["host_seconds"] is not None for row in race["rows"])
    rate = "TFLOP/s, standard form" if flops else "GB/s"
    head = ["contestant", "ms", "spread of ms", f"over {race['baseline']}", rate, "extra memory, MB"]
    rows = [_contestant(row, race, flops, host) for row in sorted(race["rows"], key=lambda row: row["seconds"])]
    table = markdown_table([*head, *(["host ms"] if host else [])], rows)
    text = f"### {race['race']}, {race['model']}\n\n{size}\n\n{table}"
    failed = [f"- {name} failed: {reason}" for name, reason in race["failed"].items()]
    return "\n".join([text, "", *failed]).rstrip() + "\n"


def _contestant(row: Data, race: Data, flops: bool, host: bool) -> list[str]:
    low, high = min(row["all_seconds"]), max(row["all_seconds"])
    rate = row["bytes_per_second"] and row["bytes_per_second"] / 1e9
    if flops:
        rate = race["iteration_flops"] / row["seconds"] / 1e12 if row["orthogonalizes"] else None
    cells = [
        row["contestant"],
        number(row["seconds"] * 1e3, 4),
        f"{number(low * 1e3)}–{number(high * 1e3)}",
        spread(row["ratio"]),
        number(rate),
        number(row["peak_extra_bytes"] / 1e6),
    ]
    return [*cells, number(row["host_seconds"] and row["host_seconds"] * 1e3)] if host else cells


def targets_section(verdicts: Sequence[Data]) -> str:
    rows = []
    for found in verdicts:
        sign, unit = ("≥" if found["least"] else "≤"), f" {found['unit']}" if found["unit"] else ""
        quartiles = f" ({found['spread'][0]:.3f}–{found['spread'][1]:.3f})" if found["spread"] else ""
        measured = f"{number(found['found'])}{unit}{quartiles}"
        rows.append(
            [
                found["what"],
                found["model"],
                f"{sign} {found['target']:g}{unit}",
                measured,
                "yes" if found["met"] else "no",
            ]
        )
    met = sum(found["met"] for found in verdicts)
    table = markdown_table(["target", "model", "asked", "measured", "met"], rows)
    return f"## Targets\n\n{met} of {len(rows)} are met.\n\n{table}\n"


def cold_section(cold: Sequence[Data]) -> str:
    """Compilation from empty caches, in a process of its own."""
    head = [
        "class",
        "model",
        "seconds beyond steady steps",
        "steady ms",
        "graphs",
        "when hypers change",
        "between groups",
    ]
    rows = [_cold_row(found) for found in cold]
    if not rows:
        return ""
    return f'## Compilation (`backend="compile"`), cold\n\n{markdown_table(head, rows)}\n'


def _cold_row(found: Data) -> list[str]:
    if "error" in found:
        return [found["method"], found["model"], found["error"].replace("|", "/"), *["–"] * 4]
    counts = (found["graphs"], found["recompilations"], found["recompilations_between_groups"])
    seconds, steady = number(found["seconds"]), number(found["steady_seconds"] * 1e3)
    return [found["method"], found["model"], seconds, steady, *map(str, counts)]


def machine_section(machine: Data, limits: Data) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    variables = ", ".join(
        f"`{name}={'' if value is None else value}`" for name, value in machine["environment"].items()
    )
    lines = [
        f"- {machine.get('gpu') or machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['instructions']}, {machine['system']}",
        f"- Python {machine['python']}, {versions}, commit {machine['commit']}",
        f"- {variables} (empty: not set); transparent huge pages: {machine['transparent_hugepages'] or 'unknown'}",
        f"- load average at the start: {', '.join(map(str, machine['load_average']))}",
        f"- measured limits: {limits['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"{limits['gemm_flops_per_second'] / 1e9:,.0f} GFLOP/s ({limits['iteration_dtype']} products)",
    ]
    return "\n".join(lines) + "\n"


NOTES = """How it is measured: all contestants of a table take turns in one process, each round beginning with another
one; gradients are written anew before each step. Those whose weights and states do not fit in 6 GB together take
turns in groups, each with the one that all are divided by. Times are medians. A ratio is the median over the rounds of
the ratio within a round, with its quartiles. Everyone's Newton-Schulz runs in {dtype}: the published code where it
says bfloat16 runs with that one word changed on processors that multiply bfloat16 slowly. Contestants of a method have
the same hypers, and `tests/examples/test_bench.py` holds them to the same steps. GB/s counts what a step must at least
move (28 bytes of float32 per parameter for AdamW, 24 for Sophia, 20 for one momentum), TFLOP/s the operations of the
standard form of the iteration, also for who gets by with fewer. Extra memory is the most that torch's allocator holds
during a step beyond what it held before.
"""


def document(data: Data) -> str:
    """The whole page."""
    sections = [
        f"# Benchmarks: {data['machine'].get('gpu', 'CPU')}\n\nWritten by `{data['command']}`; do not edit.\n",
        machine_section(data["machine"], data["limits"]),
        NOTES.format(dtype=data["limits"]["iteration_dtype"]),
        targets_section(data["targets"]),
        "## Steps\n",
        *map(race_section, data["races"]),
        cold_section(data["cold"]),
    ]
    if data.get("huge_pages"):
        sections.append("## The same with `THP_MEM_ALLOC_ENABLE=1`\n")
        sections += map(race_section, data["huge_pages"])
    return "\n".join(section for section in sections if section)
