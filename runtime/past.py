"""What is made of a checkpoint's older states and hypers, as the spec says: `m was exp_avg`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .batching.states import _require_state
from .checkpoints import Was
from .contract.precision import _compute_dtype


def _hyper_of(was: Was, old: Mapping[str, Any]) -> Any:
    """A hyper made of older ones."""
    try:
        return was.function(**old)
    except (ArithmeticError, ValueError, TypeError) as error:
        given = _commas(f"{name}={value!r}" for name, value in old.items())
        raise ValueError(
            f"the hyperparameter {was.target} cannot be made of the checkpoint's {given}: {error}"
        ) from error


def _apply_past(
    was: Was, entry: Mapping[str, Any], group: Mapping[str, Any], p: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """A state made of older ones, in their dtype and on their device.

    Raises:
        ValueError: they cannot be what the spec says it was made of, or that is not finite.
    """
    known = {"t": entry.get("step", 0), **group}
    scalars = {name: known[name].item() if isinstance(known[name], Tensor) else known[name] for name in was.scalars}
    for name in was.states:
        _require_data(entry[name], f"loaded state {name}", tuple(getattr(entry[name], "shape", ())), p)
    given = [entry[name].detach().clone() for name in was.states]
    read = _commas((*was.states, *(f"{name}={value!r}" for name, value in scalars.items()))) or "a constant"
    try:
        value = was.function(*given, **scalars)
        like = given[0] if given else torch.empty(0, dtype=_compute_dtype(p.dtype), device=p.device)
        made = torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(given[0].shape if given else shape)
    except (ArithmeticError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"the state {was.target} cannot be made of the checkpoint's {read}: {error}") from error
    if not made.is_meta and not made.isfinite().all() and all(bool(x.isfinite().all()) for x in given):
        raise ValueError(f"the state {was.target}, made of the checkpoint's {read}, is not finite")
    return made


def _require_data(x: object, what: str, shape: tuple[int, ...], p: Tensor) -> None:
    """ValueError unless x can be copied into a state of p of this shape."""
    _require_state(x, what, shape)
    if getattr(x, "is_meta", False) and not p.is_meta:
        raise ValueError(f"{what} is on the device meta, and has no data")


def _commas(names: Iterable[str]) -> str:
    return ", ".join(names)
