"""Graphs compiled as far as inductor rewrites them, and then run operation by operation.

What inductor does to a graph before it writes loops — taking copies out, moving writes to the end — can change its
meaning as much as a wrong loop, and takes a twentieth of the time of compiling one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.fx import GraphModule

from optforge.runtime.execution import graphs


@contextmanager
def compile_by_rewriting() -> Iterator[None]:
    """Within, what the runtime compiles are graphs that inductor has rewritten, without loops of its own."""

    def compiled(module: GraphModule, options: dict[str, Any]) -> Callable[..., Any]:
        return rewrite(module, [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"])

    def compiled_when_run(module: GraphModule, dynamic: bool, options: dict[str, Any]) -> Callable[..., Any]:
        return torch.compile(module, fullgraph=True, dynamic=dynamic, backend=rewrite)

    with mock.patch.multiple(graphs, _compile=compiled, _compile_when_run=compiled_when_run):
        yield


def rewrite(module: GraphModule, examples: list[Any]) -> Callable[..., Any]:
    """The graph as inductor would make loops of it."""
    from torch._inductor.compile_fx import compile_fx

    return compile_fx(module, examples, inner_compile=rewrite_last)  # type: ignore[arg-type, return-value]


def rewrite_last(module: GraphModule, examples: Any, **options: Any) -> Callable[[list[Any]], Any]:
    """In place of the part of inductor that writes loops: the last rewriting that it does, and the graph itself."""
    from torch._inductor.fx_passes.post_grad import post_grad_passes

    post_grad_passes(module, is_inference=True)

    def run(arguments: list[Any]) -> Any:
        return module.forward(*arguments)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run
