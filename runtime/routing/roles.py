"""Roles: what a parameter is, and how it is read as matrices.

In: a parameter and where it stands in the tree of a model. Out: its role, its view, and the reason in words. What a
parameter is follows from the type of its module; where that is not known from its shape beside those of its
neighbours, and from its name last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from .places import View
from .trees import WEIGHTS, ModuleNode, _has_head_type, _heads_in, _is_table, _layer_at, _telling_name
from .words import _find_named_role, _is_generic, _is_named_as_head, _is_named_as_lookup, _words_of

RECURRENT = re.compile(r"weight_[ih]h(_l\d+)?(_reverse)?")


class Ruling(NamedTuple):
    """What a parameter is."""

    role: str
    view: View
    reason: str


@dataclass(frozen=True)
class Surroundings:
    """A tree and what follows from all of it."""

    root: ModuleNode
    heads: Mapping[ModuleNode, str]
    stem: ModuleNode | None  # the first convolution, which may read a single channel
    by_inputs: bool  # whether the matrices whose biases tell are all stored by inputs, where types do not

    @classmethod
    def of(cls, root: ModuleNode) -> Surroundings:
        layers = [layer for node in root.below() if (layer := _layer_at(node)) is not None]
        stems = [layer.node for layer in layers if layer.is_conv and not layer.node.is_in_block]
        told = [turned for node in root.below() if (turned := _is_turned(node, "weight")) is not None]
        is_told = root.module is None and bool(told) and all(told)
        return cls(root, _heads_in(root), stems[0] if stems else None, is_told)


@dataclass(frozen=True)
class Occurrence:
    """The parameter `name` of the module at `node`."""

    parameter: Tensor
    node: ModuleNode
    name: str
    model: Surroundings

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)

    @property
    def kind(self) -> str:
        return self.node.kind

    @property
    def is_flat(self) -> bool:
        return sum(size > 1 for size in self.shape) < 2


def _role(use: Occurrence) -> Ruling:
    """What the parameter is, by the first of RULINGS that knows."""
    if nn.parameter.is_lazy(use.parameter):
        name = f"{use.node.path}.{use.name}".removeprefix(".")
        raise ValueError(f"{name} has no shape yet: run the model once before its optimizer is made")
    return next(found for ruling in RULINGS if (found := ruling(use)) is not None)


def _vector(reason: str) -> Ruling:
    return Ruling("vector", View(), reason)


def _of_few_dimensions(use: Occurrence) -> Ruling | None:
    return _vector(f"{use.parameter.ndim}-D") if use.parameter.ndim < 2 else None


def _of_parametrization(use: Occurrence) -> Ruling | None:
    """`parametrizations.weight.original1` is what `weight` of the module above is made of."""
    holder = use.node.parent
    if use.kind != "ParametrizationList" or holder is None or holder.parent is None:
        return None
    return None if use.is_flat else _role(Occurrence(use.parameter, holder.parent, use.node.name, use.model))


def _of_embedding(use: Occurrence) -> Ruling | None:
    if hasattr(use.node.module, "num_embeddings") and use.name in WEIGHTS:
        return Ruling("embedding", View(), use.kind)
    return None


def _of_convolution(use: Occurrence) -> Ruling | None:
    module = use.node.module
    if not isinstance(module, nn.modules.conv._ConvNd) or use.name not in WEIGHTS:
        return None
    role, reason = _head_or("conv", use)
    turned = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if module.groups == 1:
        view = View(transposed=turned)
        return Ruling(role, view, f"{reason}, stored by inputs" if turned else reason)
    if module.groups == module.in_channels:
        return _vector(f"{use.kind}, a filter for each channel")
    rows = ", a row for each input" if turned else ""  # whose groups lie one below the other, as split needs them
    return Ruling(role, View(split=module.groups), f"{reason}, {module.groups} groups{rows}")


def _of_linear_by_inputs(use: Occurrence) -> Ruling | None:
    if use.kind == "Conv1D" and hasattr(use.node.module, "nf") and use.name == "weight":
        role, reason = _head_or("matrix", use)
        return Ruling(role, View(transposed=True), f"{reason}, stored by inputs")
    return None


def _of_linear(use: Occurrence) -> Ruling | None:
    if not hasattr(use.node.module, "out_features") or use.name not in WEIGHTS:
        return None
    if _words_of(use.node.name)[-1:] in (["bias"], ["biases"]):
        return Ruling("embedding", View(transposed=True), f"{use.kind}, named as a table of biases")
    role, reason = _head_or("matrix", use)
    return Ruling(role, View(), reason)


def _of_attention(use: Occurrence) -> Ruling | None:
    """`in_proj_weight` holds the matrices of queries, keys and values, one below the other."""
    if use.name == "in_proj_weight" and use.parameter.ndim == 2 and use.shape[0] == 3 * use.shape[1]:
        return Ruling("matrix", View(split=3), f"{use.kind or 'attention'}, 3 matrices in one")
    return None


def _of_recurrence(use: Occurrence) -> Ruling | None:
    """The matrices of an LSTM's four gates, or a GRU's three, lie one below the other."""
    if not RECURRENT.fullmatch(use.name) or use.parameter.ndim != 2:
        return None
    size = getattr(use.node.module, "hidden_size", None)
    if size is None:
        projection = use.node.own.get(use.name.replace("ih", "hr").replace("hh", "hr"))
        inner = projection if projection is not None else use.node.own.get(use.name.replace("ih", "hh"), use.parameter)
        size = inner.shape[1]
    gates = use.shape[0] // size
    many = gates > 1 and use.shape[0] == gates * size
    return Ruling(
        "matrix", View(split=gates if many else None), f"{use.kind or 'recurrence'}" + f", {gates} gates" * many
    )


def _of_affine(use: Occurrence) -> Ruling | None:
    """A norm over several dimensions: its weight and bias have one shape."""
    weight, bias = use.node.own.get("weight"), use.node.own.get("bias")
    if use.name in ("weight", "bias") and weight is not None and bias is not None and weight.shape == bias.shape:
        return _vector(f"{use.kind or 'a norm'}, elementwise")
    if use.kind.endswith("Norm") and use.name == "weight":
        return _vector(f"{use.kind}, elementwise")
    return None


def _of_one_dimension(use: Occurrence) -> Ruling | None:
    """What is spread out to be added or multiplied; a layer's weight of one row or column remains a matrix."""
    is_layer = use.node.module is None and use.name in WEIGHTS and use.parameter.ndim == 2
    return _vector("one dimension above 1") if use.is_flat and not is_layer else None


def _of_name(use: Occurrence) -> Ruling | None:
    """By the words of its name, or of its module's where its own is generic."""
    is_listed = use.kind in ("ParameterList", "ParameterDict") or not _words_of(use.name)
    own = _telling_name(use.node) if is_listed else use.name
    if _is_generic(own):
        return _of_module_name(use)
    found = _find_named_role(own)
    if found is None:
        return None
    role, what = found
    return Ruling(role, _table_view(use.shape) if role == "embedding" else View(), f"named as {what}")


def _of_module_name(use: Occurrence) -> Ruling | None:
    """Of a module whose type is known to hold no weight of another kind, the name of the module decides."""
    node, name = use.node, _telling_name(use.node)
    if node.module is None:
        is_table = _is_table(node)
    else:
        is_leaf = node.parent is not None and not node.children and not node.is_in_block
        if is_leaf and (_is_named_as_head(name) or _has_head_type(node)):
            return Ruling("head", _batch_view(use), f"{use.kind}, by its name")
        is_table = _is_named_as_lookup(name)
    return Ruling("embedding", _table_view(use.shape), "rows of features, by its name") if is_table else None


def _of_features(use: Occurrence) -> Ruling | None:
    """A leading 1 is the samples of a batch: such a parameter is added to features, or put beside them."""
    is_conv = use.node.module is None and use.name in WEIGHTS
    if use.parameter.ndim > 2 and use.shape[0] == 1 and not is_conv:
        return Ruling("embedding", _table_view(use.shape), "one for all samples")
    return None


def _of_unknown_convolution(use: Occurrence) -> Ruling | None:
    """What is called weight, has three dimensions or more, and a kernel smaller than its channels."""
    is_named = _words_of(use.kind)[-1:] in (["conv"], ["convolution"])
    is_conv = is_named or hasattr(use.node.module, "kernel_size")
    if is_named and use.parameter.ndim == 2:
        return _vector(f"{use.kind}, a filter for each channel")
    if use.name not in WEIGHTS or use.parameter.ndim < 3 or (use.node.module is not None and not is_conv):
        return None
    if use.node.module is None and use.parameter.ndim == 3 and use.shape[2] > use.shape[0]:
        return None
    if use.shape[1] == 1 and use.node is not use.model.stem:
        return _vector("a filter for each channel, by its shape")
    role, reason = _head_or("conv", use)
    bias = use.node.own.get("bias")
    turned = bias is not None and use.shape[0] != use.shape[1] == bias.shape[0]
    reason = reason or "a convolution by its shape"
    return Ruling(role, View(transposed=turned), reason + ", stored by inputs" * turned)


def _of_matrices(use: Occurrence) -> Ruling | None:
    """Of more than two dimensions the last two are matrices, unless the others only write out the columns."""
    if use.parameter.ndim < 3 or use.shape[0] == math.prod(use.shape[1:]):
        return None
    view, count = _batch_view(use), f"{math.prod(use.shape[:-2])} matrices"
    role, reason = _head_or("matrix", use) if use.name in WEIGHTS else ("matrix", use.kind)
    where = f", in {use.kind}" if role == "matrix" and use.kind else f", {reason}" if role == "head" else ""
    return Ruling(role, view, count + where + ", stored by inputs" * view.transposed)


def _of_stack(use: Occurrence) -> Ruling | None:
    """Experts one below the other: the module says how many there are."""
    if use.parameter.ndim != 2 or use.node.module is None:
        return None
    numbers = {key: value for key, value in vars(use.node.module).items() if type(value) is int and value > 1}
    counts = {value for key, value in numbers.items() if "num" in key and "expert" in key}
    for count in counts:
        if use.shape[0] % count == 0 and use.shape[0] // count in numbers.values():
            return Ruling("matrix", View(split=count), f"{use.kind}, {count} experts one below the other")
    return None


def _of_two_dimensions(use: Occurrence) -> Ruling:
    role, reason = _head_or("matrix", use)
    turned = False
    if use.node.module is None and use.parameter.ndim == 2:
        told = _is_turned(use.node, use.name)
        turned = use.model.by_inputs and not use.node.own.keys().isdisjoint({"bias"}) if told is None else told
    if role == "matrix":
        reason = f"{use.parameter.ndim}-D, in {use.kind}" if use.kind else f"{use.parameter.ndim}-D"
    return Ruling(role, View(transposed=turned), reason + ", stored by inputs" * turned)


RULINGS: tuple[Callable[[Occurrence], Ruling | None], ...] = (
    _of_few_dimensions,
    _of_parametrization,
    _of_embedding,
    _of_convolution,
    _of_linear_by_inputs,
    _of_linear,
    _of_attention,
    _of_recurrence,
    _of_affine,
    _of_one_dimension,
    _of_name,
    _of_features,
    _of_unknown_convolution,
    _of_matrices,
    _of_stack,
    _of_two_dimensions,
)
"""In order: what the module's type says, then shapes beside other shapes, then names, then the shape alone."""


def _head_or(role: str, use: Occurrence) -> tuple[str, str]:
    """The role and the reason of the weight of a layer, which may be a head."""
    reason = use.model.heads.get(use.node)
    return ("head", f"{use.kind}, {reason}".removeprefix(", ")) if reason else (role, use.kind)


def _table_view(shape: tuple[int, ...]) -> View:
    """The last dimension holds the features, unless the last two are places on a square, and features come before."""
    if len(shape) == 4 and shape[0] == 1 and shape[2] == shape[3] != shape[1]:
        return View(batch=1)
    return View(batch=max(len(shape) - 2, 0))


def _batch_view(use: Occurrence) -> View:
    return View(batch=max(use.parameter.ndim - 2, 0), transposed=bool(_is_turned(use.node, use.name)))


# Which of the last two dimensions are the inputs


def _is_turned(node: ModuleNode, name: str) -> bool | None:
    """Whether a weight is stored (inputs, outputs); None where neither its module nor a neighbour's shape tells."""
    weight = node.own.get(name)
    if weight is None or weight.ndim < 2:
        return None
    flag = getattr(node.module, "is_transposed", None)
    if isinstance(flag, bool):
        return flag
    first, second = weight.shape[-2:]
    bias = node.own.get("bias" if name == "weight" else f"{name}_bias")
    if bias is not None and bias.ndim == weight.ndim - 1 and first != second:
        return True if bias.shape[-1] == second else False if bias.shape[-1] == first else None
    for inputs, outputs in (("in_features", "out_features"), ("input_size", "output_size")):
        sizes = getattr(node.module, inputs, None), getattr(node.module, outputs, None)
        if first != second and {first, second} == {*sizes}:
            return sizes == (first, second)
    return _is_turned_in_chain(node, weight) if weight.ndim > 2 else None


def _is_turned_in_chain(node: ModuleNode, weight: Tensor) -> bool | None:
    """Of several batches of matrices, the first takes what the last gives; a gated one gives twice what is taken."""
    chain = [p.shape[-2:] for p in node.own.values() if p.ndim == weight.ndim and p.shape[:-2] == weight.shape[:-2]]
    if len(chain) < 2:
        return None
    a, b = chain[0]
    c, d = next((shape for shape in chain if shape != chain[0]), chain[0])
    by_outputs = b == c and a % d == 0
    by_inputs = a == d and b % c == 0
    if by_inputs is not by_outputs:
        return by_inputs
    widths = next((found for each in node.line if (found := _widths_at(each))), set())
    return a in widths if (a in widths) is not (b in widths) else None


def _widths_at(node: ModuleNode) -> set[int]:
    """The numbers of features that norms beside the children of a module see."""
    layers = [layer for child in node.children.values() if (layer := _layer_at(child)) is not None]
    return {layer.gives for layer in layers if not layer.holds_matrix}
