"""``benchmarks/SHARDING_COSTS.md``: what sharded steps would cost on many ranks, written or (``--check``) compared.

In: the shapes of three models, and what is assumed of machines. Out: Markdown, the same bytes always. Owners, batches
and how many are under way come from the runtime's own functions; times are a model, of which nothing is measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path

from optforge.compiler.commands.generated_files import sync_files
from optforge.runtime.batching.crossing import DEVICE_CROSSING, _runs_up_to
from optforge.runtime.exchange.drive import WINDOW
from optforge.runtime.exchange.owners import _flops_of_whole, _owners

COMMAND = "python -m tools.sharding_costs"
PAGE = Path("benchmarks/SHARDING_COSTS.md")

Shape = tuple[int, int]

# What is assumed of a machine.
NODE = 8  # ranks
INSIDE, BETWEEN = 350e9, 50e9  # bytes per second that leave a rank, inside a node and between nodes
START = 20e-6  # seconds of a collective
PEER = 1e-6  # and of each other rank that has rows, in an all_to_all
HOP = 5e-6  # and of each doubling of the ranks in any other collective
RATE = 400e12  # floating point operations per second of a rank in products of matrices
ELEMENT = 4  # bytes of what travels: momenta and updates are float32

WORLDS = (2, 8, 64, 512, 4096)
REPLICAS = (2, 8, 64, 512)  # of 8 ranks each


def gpt2_small() -> list[Shape]:
    return [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12


def llama_7b() -> list[Shape]:
    return [*repeat((4096, 4096), 4), (11008, 4096), (11008, 4096), (4096, 11008)] * 32


def experts_30b() -> list[Shape]:
    attention = [(4096, 2048), (512, 2048), (512, 2048), (2048, 4096)]
    return [*attention, *chain.from_iterable(repeat([(768, 2048), (768, 2048), (2048, 768)], 128))] * 48


MODELS = {
    "GPT-2 small": gpt2_small(),
    "Llama-like 7B": llama_7b(),
    "Mixture of experts, 30B (48 layers of width 2048, 128 experts of 768, each a parameter of its own)": experts_30b(),
}

# Tall ones, of which there are few: name, shapes.
TALL = {
    "64 factors of 4096×16 (LoRA)": [(4096, 16)] * 64,
    "one 11008×4096": [(11008, 4096)],
    "one vocabulary of 50257×768": [(50257, 768)],
    "two vocabularies of 128256×4096": [(128256, 4096)] * 2,
}


@dataclass(frozen=True)
class Cost:
    """Of one step: bytes that leave the rank that sends most, collectives, and seconds."""

    sent: float
    calls: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Who owns which matrix, and the batches in which matrices travel, as indices into the shapes."""

    shapes: Sequence[Shape]
    ranks: int
    owners: Sequence[int]
    buckets: Sequence[Sequence[int]]


def plan(shapes: Sequence[Shape], ranks: int) -> Plan:
    """As the runtime has it for parameters of these shapes, in this order, on a device."""
    alike: dict[Shape, list[int]] = {}
    for index, shape in enumerate(shapes):
        alike.setdefault(shape, []).append(index)
    buckets = [
        indices[start:end]
        for shape, indices in alike.items()
        for start, end in _runs_up_to([math.prod(shape) // ranks] * len(indices), DEVICE_CROSSING)
    ]
    return Plan(shapes, ranks, _owners([_flops_of_whole(*shape) for shape in shapes], shapes, ranks), buckets)


def rows_on(rank: int, rows: int, ranks: int) -> int:
    """Of a matrix that is cut as FSDP2 cuts it, where the last ranks may have none."""
    piece = -(-rows // ranks)
    return max(0, min(piece, rows - rank * piece))


def holders(rows: int, ranks: int) -> int:
    """The ranks that have any."""
    piece = -(-rows // ranks)
    return -(-rows // piece)


# -- arithmetic --------------------------------------------------------------------------------------------------------


def slowest(costs: Iterable[tuple[int, int]]) -> int:
    """The most that one rank has to do; costs with their ranks."""
    loads: Counter[int] = Counter()
    for rank, cost in costs:
        loads[rank] += cost
    return max(loads.values(), default=0)


def work_of(found: Plan, indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    return ((found.owners[i], _flops_of_whole(*found.shapes[i])) for i in indices)


def work_at_once(found: Plan) -> int:
    """That of the slowest rank, if nothing waited."""
    return slowest(work_of(found, range(len(found.shapes))))


def work_in_turn(found: Plan) -> int:
    """When the slowest rank is done, where a batch begins when all of the one `WINDOW` before it has come back.

    Ranks compute batch after batch, so that who owns little of one may have to wait for the next.
    """
    busy: Counter[int] = Counter()  # until when each rank is
    back: list[int] = []  # when each batch is
    for number, bucket in enumerate(found.buckets):
        start = back[number - WINDOW] if number >= WINDOW else 0
        costs: Counter[int] = Counter()
        for rank, cost in work_of(found, bucket):
            costs[rank] += cost
        for rank, cost in costs.items():
            busy[rank] = max(busy[rank], start) + cost
        back.append(max([busy[rank] for rank in costs] + back[-1:]))
    return max(back, default=0)


def total_work(shapes: Iterable[Shape]) -> int:
    return sum(_flops_of_whole(*shape) for shape in shapes)


def imbalance(work: float, found: Plan) -> float:
    """Work of the slowest rank over that of the mean one."""
    return work * found.ranks / total_work(found.shapes)


# -- what is sent ------------------------------------------------------------------------------------------------------


def crossing(found: Plan) -> list[tuple[int, int]]:
    """Of each rank the bytes that go to owners and those that come to it as an owner; on the way back the reverse."""
    total, owned = Counter(found.shapes), Counter(zip(found.owners, found.shapes, strict=True))

    def elements(rank: int, shape: Shape) -> tuple[int, int]:
        (rows, cols), own = shape, owned[rank, shape]
        mine = rows_on(rank, rows, found.ranks)
        return cols * mine * (total[shape] - own), cols * (rows - mine) * own

    each = [[elements(rank, shape) for shape in total] for rank in range(found.ranks)]
    return [(ELEMENT * sum(x for x, _ in pairs), ELEMENT * sum(y for _, y in pairs)) for pairs in each]


def pairwise_seconds(sent: float, ranks: int) -> float:
    """Of bytes that go from each rank to each other one alike; inside and between nodes at the same time."""
    inside = min(NODE - 1, ranks - 1) / max(1, ranks - 1)
    return max(sent * inside / INSIDE, sent * (1 - inside) / BETWEEN)


def ring_seconds(sent: float, ranks: int) -> float:
    """Of bytes that all ranks get: those of a node share the links to the next one."""
    return max(sent / INSIDE, sent / (NODE * BETWEEN) if ranks > NODE else 0)


# -- strategies --------------------------------------------------------------------------------------------------------


def owner(found: Plan, work: int) -> Cost:
    """What the runtime does: shards to the owners, the slowest of which has so much to do, and back."""
    each, calls = crossing(found), 2 * len(found.buckets)
    others = sum(holders(found.shapes[bucket[0]][0], found.ranks) - 1 for bucket in found.buckets)
    latency = calls * START + 2 * others * PEER
    sending = 2 * pairwise_seconds(max(map(max, each)), found.ranks)  # or receiving, which takes as long
    return Cost(max(map(sum, each)), calls, latency + sending + work / RATE)


def gather(found: Plan) -> Cost:
    """Every rank gets and computes everything."""
    calls = len(found.buckets)
    sent = ELEMENT * sum(map(math.prod, found.shapes)) * (found.ranks - 1) / found.ranks
    latency = calls * (START + HOP * math.log2(found.ranks))
    return Cost(sent, calls, latency + ring_seconds(sent, found.ranks) + total_work(found.shapes) / RATE)


def gram(shapes: Sequence[Shape], ranks: int) -> Cost:
    """Gram matrices of tall matrices are added up over ranks, their polynomials are computed by owners and come back.

    A wide matrix, whose rows are its short side, goes to an owner.
    """
    tall = [shape for shape in shapes if shape[0] >= shape[1]]
    wide = [shape for shape in shapes if shape[0] < shape[1]]
    rest = owner(apart := plan(wide, ranks), work_at_once(apart))
    products = [4 * cols * cols * rows_on(0, rows, ranks) for rows, cols in tall]
    polynomials = [_flops_of_whole(*shape) - 4 * shape[1] * math.prod(shape) for shape in tall]
    work = sum(products) + slowest(zip(_owners(polynomials, tall, ranks), polynomials, strict=True))
    calls = 3 * len(set(tall))  # norms, a reduce-scatter and an all_gather
    sent = 2 * 4 * sum(cols * cols for _, cols in tall) * (ranks - 1) / ranks
    seconds = calls * (START + HOP * math.log2(ranks)) + ring_seconds(sent, ranks) + work / RATE
    return Cost(rest.sent + sent, rest.calls + calls, rest.seconds + seconds)


def replicas_apart(shapes: Sequence[Shape]) -> Cost:
    """HSDP as the runtime has it: each replica, a node, does all matrices."""
    found = plan(shapes, NODE)
    return owner(found, work_at_once(found))


def replicas_together(shapes: Sequence[Shape], replicas: int) -> Cost:
    """Each matrix has one owner in all replicas; updates go to its replica and on to the others."""
    here = plan(shapes, NODE)
    owners = _owners([_flops_of_whole(*shape) for shape in shapes], shapes, NODE * replicas)
    of_a_node = slowest((rank // NODE, math.prod(shape)) for rank, shape in zip(owners, shapes, strict=True))
    inside = 2 * ELEMENT * of_a_node * (NODE - 1) / NODE**2
    between = ELEMENT * sum(map(math.prod, shapes)) / NODE * (replicas - 1) / replicas
    calls = 3 * len(here.buckets)
    latency = calls * START + len(here.buckets) * (2 * PEER * (NODE - 1) + HOP * math.log2(replicas))
    work = work_at_once(replace(here, ranks=NODE * replicas, owners=owners))
    return Cost(inside + between, calls, latency + inside / INSIDE + between / BETWEEN + work / RATE)


# -- the page ----------------------------------------------------------------------------------------------------------

INTRODUCTION = f"""\
# What sharded steps would cost

Written by `{COMMAND}`; do not edit. A model, of which nothing is measured;
[SHARDED.md](SHARDED.md) has measurements of small worlds.

Matrices are sharded by rows, as FSDP2 shards them, and stepped by Muon or another rule that orthogonalizes. Assumed:

- nodes of {NODE} ranks; {INSIDE / 1e9:.0f} GB/s leave a rank inside its node, {BETWEEN / 1e9:.0f} GB/s between nodes;
- a collective takes {START * 1e6:.0f} µs, and {PEER * 1e6:.0f} µs more for each other rank that has rows in an
  all_to_all, or {HOP * 1e6:.0f} µs for each doubling of ranks in any other;
- a rank computes {RATE / 1e12:.0f} TFLOP/s in products of matrices;
- {ELEMENT} bytes an element travel, as momenta and updates are float32, and a Gram matrix is added up in float32;
- nothing overlaps: times are sums of latency, sending and arithmetic.

The strategies:

- *owner* is what the runtime does: each matrix goes to an owner and back, in batches of one shape;
- *gather*: every rank gets all matrices and computes all of them;
- *Gram*: partial Gram matrices of tall matrices are added up, their polynomials computed by owners and sent to all;
  wide matrices, whose rows are the short side, go to owners. Its results differ by rounding, which it amplifies.

MB are those of the rank that sends most in a step. *Slowest over mean* is the work of the busiest owner over that of
the mean rank, which is large where there are fewer matrices than ranks. *In turn* are the same and the time where
{WINDOW} batches are under way and the next one begins when the first of these is back, as the runtime has it; other
times are those of all batches at once."""

GRAM_INTRODUCTION = """\
## Where the Gram form would pay

Where matrices are tall and fewer than ranks: the owner receives all of a matrix, and computes alone."""

REPLICAS_INTRODUCTION = f"""\
## Where replicas would share owners

HSDP with replicas of {NODE} ranks, each in a node of its own. *Apart* is what the runtime does: each replica steps all
matrices. *Together*: each matrix has one owner in all replicas, and updates go on to the other replicas."""


def costs_text() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, shapes in MODELS.items():
        parts += [f"## {name}", f"{len(shapes):,} matrices, {sum(map(math.prod, shapes)) / 1e6:,.0f} million elements."]
        parts.append(table(STRATEGY_HEAD, (strategies(shapes, ranks) for ranks in WORLDS)))
    few = (tall(name, shapes, ranks) for name, shapes in TALL.items() for ranks in (8, 64, 512))
    shared = (replicated(name.partition(",")[0], shapes, r) for name, shapes in MODELS.items() for r in REPLICAS)
    parts += [GRAM_INTRODUCTION, table(GRAM_HEAD, few), REPLICAS_INTRODUCTION, table(REPLICAS_HEAD, shared)]
    return "\n\n".join(parts) + "\n"


STRATEGY_HEAD = [
    *("ranks", "owner, calls", "slowest over mean", "in turn", "in turn, ms"),
    *("owner, MB", "ms", "gather, MB", "ms", "Gram, MB", "ms", "least"),
]
GRAM_HEAD = ["matrices", "ranks", "owner, MB", "ms", "Gram, MB", "ms", "least"]
REPLICAS_HEAD = ["model", "replicas", "apart, MB", "ms", "together, MB", "ms", "least"]


def strategies(shapes: Sequence[Shape], ranks: int) -> list[str]:
    found = plan(shapes, ranks)
    at_once, in_turn = work_at_once(found), work_in_turn(found)
    costs = {"owner": owner(found, at_once), "gather": gather(found), "Gram": gram(shapes, ranks)}
    balance = [number(imbalance(work, found)) for work in (at_once, in_turn)]
    seconds = number(owner(found, in_turn).seconds * 1e3)
    return [f"{ranks:,}", f"{costs['owner'].calls:,}", *balance, seconds, *cells(costs)]


def tall(name: str, shapes: Sequence[Shape], ranks: int) -> list[str]:
    found = plan(shapes, ranks)
    return [name, f"{ranks}", *cells({"owner": owner(found, work_at_once(found)), "Gram": gram(shapes, ranks)})]


def replicated(name: str, shapes: Sequence[Shape], replicas: int) -> list[str]:
    costs = {"apart": replicas_apart(shapes), "together": replicas_together(shapes, replicas)}
    return [name, f"{replicas}", *cells(costs)]


def cells(costs: dict[str, Cost]) -> list[str]:
    """Megabytes and milliseconds of each, and which takes the least time."""
    listed = [number(x) for cost in costs.values() for x in (cost.sent / 1e6, cost.seconds * 1e3)]
    return [*listed, min(costs, key=lambda name: costs[name].seconds)]


def number(value: float) -> str:
    """In three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = ["---" if title in ("matrices", "model") else "--:" for title in head]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` compare it; 1 when it is out of date."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the table of what sharded steps would cost.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the table is out of date")
    check = parser.parse_args(arguments).check
    different = sync_files({PAGE: costs_text()}, check, COMMAND)
    if check and different:
        print(f"{PAGE} is not what the model says\nrun: {COMMAND}", file=sys.stderr)
    return int(check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
