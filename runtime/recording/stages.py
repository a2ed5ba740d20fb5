"""A recorded graph in the form in which inductor's loops for the CPU read each tensor as seldom as they can.

Inductor stores what a graph writes in place after all that reads it, and computes it anew for each reader. A momentum
whose rows are reduced is computed in each reduction, in the loop that writes the weights and in one that stores it.
And what follows elementwise from a reduction, as the root of a sum of squares, is computed anew for each element that
it is broadcast to. So states that follow elementwise from stored tensors move in a stage of their own, before the
rest; and the small tensors that larger ones are computed from become results of the graph, which inductor stores.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterable

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

_SIMPLE = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.fill_.Tensor}

_SMALL = 8  # a tensor is small beside one of so many times its elements


def _stages(module: GraphModule) -> list[GraphModule]:
    """Graphs of the same arguments which, one after another, do the operations of `module` on the same values.

    The last one returns what `module` returns and after that the small tensors; an earlier one returns nothing.
    """
    graph = module.graph
    if not all(isinstance(n.target, OpOverload) or _is_view(n) for n in graph.nodes if n.op == "call_function"):
        return [module]
    moved = _find_moved(graph)
    rest = _find_needed(_list_left(graph, moved), moved)
    last = _part(module, rest, moved, [*_results(graph), *_list_small(graph, rest)])
    return [_part(module, _find_needed(moved), (), ()), last] if moved else [last]


def _is_single(module: GraphModule) -> bool:
    """Whether the graph is one operation at most, which a compiler would make no faster."""
    return len([n for n in module.graph.nodes if n.op == "call_function" and not _is_view(n)]) <= 1


def _find_moved(graph: torch.fx.Graph) -> set[Node]:
    """The writes of stored tensors that come first: all writes of a tensor or none."""
    moved: set[Node] = set()
    for stored in graph.nodes:
        if stored.op == "placeholder":
            writes = {node for node in graph.nodes for target in _list_written(node) if _origin(target) is stored}
            if writes and _may_move(graph, moved | writes):
                moved |= writes
    rest = _find_needed(_list_left(graph, moved), moved)
    return set() if all(map(_is_elementwise, rest)) else moved


def _may_move(graph: torch.fx.Graph, moved: Collection[Node]) -> bool:
    """Whether all nodes read what they did if `moved`, and what that follows from elementwise, come first."""
    first, rest = _find_needed(moved), _find_needed(_list_left(graph, moved), moved)
    if not all(map(_is_elementwise, first)):
        return False
    to_move = Counter(_origin(target) for node in moved for target in _list_written(node))
    written: Counter[Node] = Counter()
    written_first: Counter[Node] = Counter()
    for node in graph.nodes:
        read = set() if _is_view(node) else {_origin(x) for x in node.all_input_nodes}
        if node in first and any(written[x] != written_first[x] for x in read):
            return False
        if node in rest and any(written_first[x] != to_move[x] for x in read):
            return False
        for target in map(_origin, _list_written(node)):
            written[target] += 1
            written_first[target] += node in moved
    return True


def _list_left(graph: torch.fx.Graph, moved: Collection[Node]) -> list[Node]:
    """What the rest is there for: the results and the other writes."""
    return [*_results(graph), *(node for node in graph.nodes if _list_written(node) and node not in moved)]


def _find_needed(nodes: Iterable[Node], done: Collection[Node] = ()) -> set[Node]:
    """The nodes and those that they follow from; what a write that is `done` has written stands for it."""
    found: set[Node] = set()
    open_ = list(nodes)
    while open_:
        node = open_.pop()
        if node in done:
            open_.extend(_list_written(node))
        elif node not in found:
            found.add(node)
            open_.extend(node.all_input_nodes)
    return found


def _part(module: GraphModule, kept: Collection[Node], done: Collection[Node], results: Iterable[Node]) -> GraphModule:
    """A graph of the same arguments and only the nodes `kept`, after those that are `done`."""
    graph = torch.fx.Graph()
    copies: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder" or node in kept:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        elif node in done and (target := _list_written(node)[0]) in copies:
            copies[node] = copies[target]
    graph.output(tuple(copies[node] for node in results))
    return GraphModule(module, graph)


def _list_small(graph: torch.fx.Graph, nodes: Collection[Node]) -> list[Node]:
    """The small tensors among what the nodes compute, in their order."""
    read: dict[Node, int] = {}
    for node in nodes:
        if node.op == "call_function" and not _is_view(node):
            for x in map(_base, node.all_input_nodes):
                read[x] = max(read.get(x, 0), _size(node))
    computed = (node for node in graph.nodes if node in read and node.op == "call_function" and not _list_written(node))
    return [node for node in computed if 0 < _SMALL * _size(node) <= read[node]]


# -- nodes -------------------------------------------------------------------------------------------------------------


def _results(graph: torch.fx.Graph) -> list[Node]:
    (results,) = graph.output_node().args
    return [node for node in results if isinstance(node, Node)]  # type: ignore[union-attr]


def _list_written(node: Node) -> list[Node]:
    """The arguments that the node writes in place."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return []
    found: list[Node] = []
    for i, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            found.extend(x for x in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(x, Node))
    return found


def _is_view(node: Node) -> bool:
    """Whether the result shares memory with the first argument, of which nothing is read."""
    if node.op != "call_function" or node.target is operator.getitem:
        return node.op == "call_function"
    arguments = node.target._schema.arguments if isinstance(node.target, OpOverload) else []
    return bool(arguments) and arguments[0].alias_info is not None and not arguments[0].alias_info.is_write


def _base(node: Node) -> Node:
    """The node that made the tensor of which this is a view."""
    while _is_view(node):
        node = node.all_input_nodes[0]
    return node


def _origin(node: Node) -> Node:
    """The node that made the memory in which the result lies."""
    while _is_view(node) or _list_written(node):
        node = node.all_input_nodes[0] if _is_view(node) else _list_written(node)[0]
    return node


def _is_elementwise(node: Node) -> bool:
    if node.op != "call_function" or _is_view(node) or node.target in _SIMPLE:
        return True
    return isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags


def _size(node: Node) -> int:
    value = node.meta.get("val")
    return value.numel() if isinstance(value, Tensor) else 0
