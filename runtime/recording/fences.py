"""Recorded graphs in a form in which a compiler cannot confuse what a tensor was with what it becomes.

torch's compilers move all that a graph writes in place to its end, one tensor after another in the order of the
arguments, and leave out copies and what else changes nothing. What is to hold another tensor's old value, as in
`b.copy_(w)` before `w.copy_(n)`, is then copied from a tensor that holds its new value already. So no value that is
stored may be another stored tensor, nor anything that could be found out to be one.

They also take a product with a 0 that they can see for 0, while it is NaN where the other factor is infinite or NaN.
"""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten

# Operations that read the form of a tensor, and none of its elements.
_OF_FORM = {
    _ATEN.empty_like.default,
    _ATEN.full_like.default,
    _ATEN.new_empty.default,
    _ATEN.new_full.default,
    _ATEN.new_ones.default,
    _ATEN.new_zeros.default,
    _ATEN.ones_like.default,
    _ATEN.sym_size.int,
    _ATEN.zeros_like.default,
}

_PRODUCTS = (_ATEN.mul.Tensor, _ATEN.mul_.Tensor)


def _fence(module: GraphModule) -> GraphModule:
    """The graph, in which each stored value that follows from one tensor alone is multiplied by 1, and no 0 is seen.

    The 1 is the last element of the vector of numbers, the first argument: nothing shows before the graph runs that it
    changes nothing, and it does not, whatever it is multiplied by. A factor 0 is one less than that.
    """
    graph = torch.fx.Graph()
    copies: dict[Node, Node] = {}
    graph.output(graph.graph_copy(module.graph, copies))
    vector = next(node for node in graph.nodes if node.op == "placeholder")
    for write in graph.find_nodes(op="call_function", target=_ATEN.copy_.default):
        value = write.args[1]
        if len(_sources(value) - {vector}) == 1:
            with graph.inserting_before(write):
                one = graph.call_function(_ATEN.select.int, (vector, 0, -1))
                write.update_arg(1, graph.call_function(_ATEN.mul.Tensor, (value, one)))
    for product in [node for target in _PRODUCTS for node in graph.find_nodes(op="call_function", target=target)]:
        for place, factor in enumerate(product.args):
            if isinstance(factor, (int, float)) and factor == 0:
                with graph.inserting_before(product):
                    product.update_arg(place, _hidden_zero(vector, math.copysign(1.0, factor)))
    return GraphModule(module, graph)


def _hidden_zero(vector: Node, sign: float) -> Node:
    """A 0 of this sign, which no compiler can know of."""
    graph = vector.graph
    one = graph.call_function(_ATEN.select.int, (vector, 0, -1))
    zero = graph.call_function(_ATEN.rsub.Scalar, (one, 1))
    return zero if sign > 0 else graph.call_function(_ATEN.neg.default, (zero,))


def _sources(node: Node) -> set[Node]:
    """The arguments of the graph whose elements the node is computed from."""
    found: set[Node] = set()
    seen: set[Node] = set()
    open_ = [node]
    while open_:
        node = open_.pop()
        if node.op == "placeholder":
            found.add(node)
        elif node not in seen and node.target not in _OF_FORM:
            seen.add(node)
            open_.extend(node.all_input_nodes)
    return found
