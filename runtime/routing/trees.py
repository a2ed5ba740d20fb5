"""The tree of a model: its modules, what each layer takes and gives, which are repeated, and which are its heads.

Made of a module, whose types are known, or of names such as those of `named_parameters()`, of which the dots tell the
tree. Knows no roles but that of heads, which follows from a layer's place among the others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from .words import (
    BRIDGES,
    HEAD_TYPES,
    LASTS,
    PLACES,
    _has_word,
    _is_generic,
    _is_named_as_head,
    _is_named_as_lookup,
    _words_of,
)

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
WEIGHTS = ("weight", "weight_v", "weight_orig")  # as older reparametrizations call them
REPARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original1?$")
LEAST_WIDTH = 16  # of what tokens are; tables of fewer columns hold coordinates
CHUNKS = range(1, 7)  # one output may be several inputs: 2 of a gated unit, 3 of attention, 6 of an adaptive norm


@dataclass(eq=False)
class ModuleNode:
    """A module, or what the names say of one; `own` are the parameters that are its attributes."""

    path: str
    name: str
    parent: ModuleNode | None
    module: nn.Module | None = None
    own: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, ModuleNode] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The name of the module's type."""
        return type(self.module).__name__ if self.module is not None else ""

    @property
    def line(self) -> Iterator[ModuleNode]:
        """The node and those around it, from the inside."""
        node: ModuleNode | None = self
        while node is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator[ModuleNode]:
        """The node and those below it, in the order of registration."""
        yield self
        for child in self.children.values():
            yield from child.below()

    @cached_property
    def is_block(self) -> bool:
        """Whether it is one of several alike, such as the layers of a transformer."""
        if self.parent is None or not self.children or _is_named_as_head(self.name) or _has_head_type(self):
            return False
        if _is_named_as_head(self.parent.name):
            return False  # heads for several scales or tasks
        is_plain = type(self.module) in CONTAINERS if self.module is not None else _is_pipeline(self)
        if is_plain and any(_is_named_as_head(node.name) for node in self.line):
            return False
        if isinstance(self.parent.module, nn.ModuleList) or (self.module is None and self.name.isdigit()):
            return True
        others = [other for other in self.parent.children.values() if other is not self and other.children]
        alike = [other for other in others if _is_numbered_like(other.name, self.name)]
        if self.module is not None and type(self.module) not in CONTAINERS:
            return any(type(other.module) is type(self.module) for other in alike)
        return any(other._signature == self._signature for other in alike)

    @cached_property
    def _signature(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        start = len(self.path)
        return tuple((f"{n.path[start:]}.{k}", tuple(p.shape)) for n in self.below() for k, p in n.own.items())

    @cached_property
    def is_in_block(self) -> bool:
        return self.parent is not None and (self.parent.is_block or self.parent.is_in_block)


def _is_numbered_like(name: str, other: str) -> bool:
    """Whether names differ in nothing but what follows a number: `layer1` and `layer2`, `mixed_5b` and `mixed_6a`."""
    one, two = (re.match(r"(\D*)\d", each) for each in (name, other))
    return one is not None and two is not None and one[1] == two[1]


def _has_head_type(node: ModuleNode) -> bool:
    return node.module is not None and _words_of(node.kind)[-1:] != [] and _words_of(node.kind)[-1] in HEAD_TYPES


def _tree_of(model: nn.Module) -> ModuleNode:
    """The tree of a module; one that stands in several places is taken where it stands first."""
    seen: set[nn.Module] = set()

    def grow(module: nn.Module, path: str, name: str, parent: ModuleNode | None) -> ModuleNode:
        seen.add(module)
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        node = ModuleNode(path, name, parent, module, dict(own))
        for key, child in module.named_children():
            if child not in seen:
                node.children[key] = grow(child, f"{path}.{key}" if path else key, key, node)
        return node

    return grow(model, "", "", None)


def _tree_of_names(named: Iterable[tuple[str, Tensor]]) -> tuple[ModuleNode, dict[Tensor, tuple[ModuleNode, str]]]:
    """The tree that names with dots tell, and where in it each parameter is; `original`s are what they make."""
    root, places = ModuleNode("", "", None), {}
    for name, parameter in named:
        *parents, own = REPARAMETRIZED.sub(r"\1", name).split(".")
        node = root
        for key in parents:
            path = f"{node.path}.{key}" if node.path else key
            node = node.children.setdefault(key, ModuleNode(path, key, node))
        node.own.setdefault(own, parameter)
        places[parameter] = (node, own)
    return root, places


@dataclass(frozen=True)
class Layer:
    """What takes any of `reads` features and gives `gives`; norms take and give, but hold no matrix."""

    node: ModuleNode
    reads: tuple[int, ...]
    gives: int
    holds_matrix: bool = True

    @property
    def can_be_head(self) -> bool:
        has_weight = "parametrizations" in self.node.children or not self.node.own.keys().isdisjoint(WEIGHTS)
        return self.holds_matrix and has_weight and not self.node.is_in_block

    @property
    def is_conv(self) -> bool:
        return hasattr(self.node.module, "out_channels") or self.node.own.get("weight", torch.empty(0)).ndim > 2


WIDTHS = (("in_features", "out_features"), ("in_channels", "out_channels"), ("nx", "nf"), ("input_size", "hidden_size"))


def _layer_at(node: ModuleNode) -> Layer | None:
    """The layer that a module is by itself, without those inside of it."""
    if not node.own and "parametrizations" not in node.children:
        return None
    if _is_table(node) or node.kind == "ParametrizationList":
        return None
    for sides in WIDTHS:
        reads, gives = (getattr(node.module, side, None) for side in sides)
        if isinstance(reads, int) and isinstance(gives, int):
            return Layer(node, (reads,), gives)
    weight = node.own.get("weight")
    if weight is not None and weight.ndim:
        return Layer(node, tuple(weight.shape[1:2] or weight.shape), weight.shape[0], weight.ndim > 1)
    matrices = [p.shape[-2:] for p in node.own.values() if p.ndim > 1]
    return Layer(node, tuple(size for shape in matrices for size in shape), 0) if matrices else None


def _is_table(node: ModuleNode) -> bool:
    """Whether a module looks up rows; where only its name is known: one without a bias."""
    if node.module is not None:
        return hasattr(node.module, "num_embeddings")
    is_one = _is_named_as_lookup(_telling_name(node)) and not _is_named_as_head(node.name)
    return is_one and "bias" not in node.own and "weight" in node.own and node.own["weight"].ndim == 2


def _telling_name(node: ModuleNode) -> str:
    """The name of the module, or of the nearest around it whose name says something."""
    return next((each.name for each in node.line if not _is_generic(each.name)), "")


def _vocabularies(root: ModuleNode) -> dict[tuple[int, ...], ModuleNode]:
    """The tables of tokens by their shapes; tables of places and types are none, nor is a single row."""
    tables = [node for node in root.below() if _is_table(node) and "weight" in node.own]
    named = {tuple(t.own["weight"].shape): t for t in tables if not _has_word(f"{_telling_name(t)}.{t.kind}", PLACES)}
    return {shape: table for shape, table in named.items() if len(shape) == 2 and shape[0] > 1}


def _heads_in(root: ModuleNode) -> dict[ModuleNode, str]:
    """The layers that give what the model is asked for, and how each is known."""
    layers = [layer for node in root.below() if (layer := _layer_at(node)) is not None]
    vocabularies, outputs = _vocabularies(root), _outer_layers(root)
    heads: dict[ModuleNode, str] = {}
    later: set[int] = set()
    for i, layer in reversed([*enumerate(layers)]):
        if layer.can_be_head:
            others = layers[:i]
            is_last = not any(other.holds_matrix for other in layers[i + 1 :])
            if reason := (
                _judge_by_name(layer, others, later, max(vocabularies, default=(0, 0))[1])
                or _judge_by_vocabulary(layer, vocabularies)
                or _judge_by_place(layer, others, later, is_last, outputs)
            ):
                heads[layer.node] = reason
        later.update(layer.reads)
    return heads


def _judge_by_name(layer: Layer, before: Sequence[Layer], later: Collection[int], token_width: int) -> str:
    """Heads have the name of one, or end a module that has, unless they return to the width of features or tokens."""
    scope = [node for node in layer.node.line if node.parent is not None and _is_named_as_head(node.name)]
    if not scope or layer.gives in later:
        return ""
    if scope[-1] is layer.node:
        return "by its name"
    inside = [other for other in (*before, layer) if scope[-1] in other.node.line]
    leads_to_tokens = layer.gives == token_width >= LEAST_WIDTH  # the table of tokens is the head
    is_inner = leads_to_tokens or any(layer.gives in other.reads for other in inside)
    return "" if is_inner else f"the last of {scope[-1].path}"


def _judge_by_vocabulary(layer: Layer, vocabularies: Mapping[tuple[int, ...], ModuleNode]) -> str:
    """An untied head has the shape of the table of tokens."""
    table = vocabularies.get((layer.gives, *layer.reads))
    return f"of the shape of {table.path}" if table and not layer.is_conv and layer.gives not in layer.reads else ""


def _judge_by_place(
    layer: Layer, before: Sequence[Layer], later: Collection[int], is_last: bool, outputs: Collection[ModuleNode]
) -> str:
    """The last layer of the model, or one beside it, unless it gives back the width of a layer inside."""
    is_outer = layer.node in outputs
    hidden = [other for other in before if other.holds_matrix]
    if not hidden or not (is_last or (is_outer and not layer.is_conv)):
        return ""
    if any(layer.gives == chunks * size for size in later for chunks in CHUNKS):
        return ""
    if any(_has_word(node.name, BRIDGES) for node in layer.node.line):
        return ""
    returns = any(layer.gives in other.reads for other in (*hidden[1:], layer))
    is_so_named = is_last and is_outer and _has_word(_telling_name(layer.node), LASTS)
    return "the last layer" if is_so_named or not returns else ""


def _outer_layers(root: ModuleNode) -> set[ModuleNode]:
    """What may give outputs beside the last layer: the children of a model that is no pipeline, or the ends of some."""
    while not root.own and len(root.children) == 1:
        root = next(iter(root.children.values()))
    children = _find_filled_children(root)
    if _is_pipeline(root):
        children = children[-1:]
    ends = set()
    for child in children:
        while _is_pipeline(child) and (filled := _find_filled_children(child)):
            child = filled[-1]
        ends.add(child)
    return ends


def _is_pipeline(node: ModuleNode) -> bool:
    """Whether the children follow each other; where only names are known: if these are numbers."""
    if node.module is not None:
        return isinstance(node.module, nn.Sequential)
    return bool(node.children) and all(name.isdigit() for name in node.children)


def _find_filled_children(node: ModuleNode) -> list[ModuleNode]:
    """The children in which there are parameters."""
    return [child for child in node.children.values() if any(below.own for below in child.below())]
