"""A recorded graph cut where ranks exchange values: pieces that run one after another, and what travels between them.

An exchange is one opaque operation of the graph. Of what a piece computes later ones get tensors with memory of their
own; a view of one is made anew where it is read, and what was written in place is the tensor that was written.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from ..linalg.opaque import _define_operator
from .stages import _is_view, _list_written


@dataclass(frozen=True)
class Segment:
    """A graph of the tensors named `takes`, the vector of numbers first, that returns those named `gives`."""

    module: GraphModule
    takes: tuple[str, ...]
    gives: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return not any(node.op == "call_function" for node in self.module.graph.nodes)


@dataclass(frozen=True)
class Piece:
    """What is computed until ranks exchange values: what is sent then, and the names of what it becomes."""

    part: Segment
    sent: Segment | None = None
    arrives: tuple[str | None, ...] = ()  # none of what nobody reads


def _cut(module: GraphModule) -> list[Piece]:
    """The pieces of a graph, in their order; the last one sends nothing."""
    vector, *_ = module.graph.nodes
    own: list[Node] = []
    cuts: list[tuple[list[Node], Node | None]] = []
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is _exchange_operator:
            cuts.append((own, node))
            own = []
        elif node.op == "call_function" and not _is_made_anew(node) and not _has_arrived(node):
            own.append(node)
    cuts.append((own, None))
    # What is read of earlier pieces, by each piece and by what is sent after it.
    read = [_list_outside(nodes, [x for node in nodes for x in node.all_input_nodes]) for nodes, _ in cuts]
    sent = [[] if exchange is None else _list_outside((), _list_sent(exchange)) for _, exchange in cuts]
    needed = {node for listed in (*read, *sent) for node in listed}
    pieces = []
    for (nodes, exchange), from_before, travels in zip(cuts, read, sent, strict=True):
        part = _segment(module, vector, from_before, nodes, [node for node in nodes if node in needed])
        if exchange is None:
            pieces.append(Piece(part))
            continue
        names: dict[int, str] = {node.args[1]: node.name for node in exchange.users}  # type: ignore[misc]
        count = len(exchange.args[1])  # type: ignore[arg-type]
        arrives = tuple(names.get(place) for place in range(count))
        pieces.append(Piece(part, _segment(module, vector, travels, (), _list_sent(exchange)), arrives))
    return pieces


def _segment(
    module: GraphModule, vector: Node, takes: Iterable[Node], own: Collection[Node], gives: Sequence[Node]
) -> Segment:
    """A graph of the nodes `own` and what they read."""
    graph = torch.fx.Graph()
    copies: dict[Node, Node] = {}
    listed = [vector, *(node for node in takes if node is not vector)]
    for node in listed:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = {**node.meta}

    def copied(node: Node) -> Node:
        if node not in copies:
            written = _list_written(node)
            known = written and node not in own
            copies[node] = copied(written[0]) if known else graph.node_copy(node, copied)
        return copies[node]

    for node in own:
        copied(node)
    graph.output(tuple([copied(node) for node in gives]))
    return Segment(GraphModule(module, graph), tuple(node.name for node in listed), tuple(node.name for node in gives))


def _list_outside(own: Collection[Node], read: Iterable[Node]) -> list[Node]:
    """The tensors with memory of their own that nodes read and that are not computed among them."""
    inside = set(own)
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    open_ = list(read)[::-1]
    while open_:
        node = open_.pop()
        if node in inside or node in seen:
            continue
        seen.add(node)
        if _is_made_anew(node):
            open_.extend(node.all_input_nodes)
        elif written := _list_written(node):
            open_.append(written[0])
        else:
            found[node] = None
    return list(found)


def _is_made_anew(node: Node) -> bool:
    """Whether a piece that reads it makes it itself: a view, or a constant."""
    if node.op == "get_attr":
        return True
    if node.target is operator.getitem:
        return _is_made_anew(node.all_input_nodes[0])
    return isinstance(node.target, OpOverload) and _is_view(node)


def _has_arrived(node: Node) -> bool:
    return node.target is operator.getitem and node.all_input_nodes[0].target is _exchange_operator


def _list_sent(exchange: Node) -> list[Node]:
    return list(exchange.args[0])  # type: ignore[arg-type]


# -- the operator ------------------------------------------------------------------------------------------------------


def _run_exchange(sent: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """An exchange is not run but cut out."""
    raise NotImplementedError


def _form_exchange(sent: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """What arrives, for tracing."""
    return [torch.empty_like(x) for x in like]


_exchange_library, _exchange_operator = _define_operator(
    __name__, "exchange", "(Tensor[] sent, Tensor[] like) -> Tensor[]", _run_exchange, _form_exchange
)
