"""FSDP2: parameters that are not what an optimizer should be given.

`fully_shard` puts DTensors in the place of a module's parameters, and between a forward and its backward whole tensors
in the place of these. An optimizer that was given the former, or the latter, would move nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

# An attribute of parameters in whose place FSDP2 has put others.
_REPLACED = "_fsdp_orig_uid"


def _require_resharded(params: Iterable[Tensor], name: Callable[[Tensor], str]) -> None:
    """RuntimeError if FSDP2 has made one of the parameters for the time of a forward and backward alone."""
    passing = {id(p) for p in _find_unsharded()}
    for p in params:
        if id(p) in passing:
            raise RuntimeError(
                f"{name(p)} is what FSDP has put in the place of a sharded parameter until the backward pass: call "
                "model.reshard() first"
            )


def _require_in_place(params: Iterable[Tensor], name: Callable[[Tensor], str]) -> None:
    """RuntimeError if FSDP2 has put another parameter in the place of one, which so gets no gradient."""
    for p in params:
        if p.grad is None and p.requires_grad and hasattr(p, _REPLACED):
            raise RuntimeError(
                f"{name(p)} is no parameter of its model any more: fully_shard() has put another in its place, after "
                "the optimizer was made. Make the optimizer after fully_shard()"
            )


def _find_sharded() -> Iterator[Tensor]:
    """The parameters that FSDP2 has put in the place of those of modules; only `backward` gives them gradients."""
    return (each.sharded_param for each in _managed())


def _find_unsharded() -> Iterator[Tensor]:
    """The parameters that FSDP2 has made for the time of a forward and backward."""
    return (each._unsharded_param for each in _managed() if hasattr(each, "_unsharded_param"))


def _managed() -> Iterator[Any]:
    """What FSDP2 keeps of each parameter, of all modules that there are."""
    if "torch.distributed.fsdp" not in sys.modules:
        return
    composable: Any = sys.modules.get("torch.distributed._composable_state")
    for found in list(getattr(composable, "_module_state_mapping", {}).values()):
        state = found()
        for group in getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]:
            yield from getattr(group, "fsdp_params", ())
