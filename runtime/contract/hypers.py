"""Hyperparameters: their kinds, their conditions, and messages that name them."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from numbers import Real
from typing import Any

from torch import Tensor

LARGEST = sys.float_info.max


def require(name: str, value: object, condition: str, holds: bool) -> None:
    """Raises ValueError naming the hyper, its condition and its value, unless the condition holds."""
    if not holds:
        raise ValueError(f"invalid {name}={value!r}: the condition is {condition}")


@cache
def _hyper_kinds(owner: type) -> dict[str, str]:
    """The annotation of each constructor argument: "bool" and "str" are flags and choices, all else is a number."""
    constructors = [vars(base)["__init__"] for base in reversed(owner.__mro__) if "__init__" in vars(base)]
    arguments = [a for constructor in constructors for a in inspect.signature(constructor).parameters.values()]
    return {a.name: getattr(a.annotation, "__name__", a.annotation) for a in arguments}


def _require_scalar(name: str, value: Tensor) -> None:
    if value.ndim:
        raise ValueError(f"invalid {name}: a tensor hyper has no dimensions, this one has shape {tuple(value.shape)}")


def _plain_hyper(name: str, value: object, kind: str) -> Any:
    """A hyper's value as Python number, bool or str; ValueError if it is not of its kind."""
    if isinstance(value, Tensor):
        _require_scalar(name, value)
    plain = value if isinstance(value, (int, float, str)) else getattr(value, "item", lambda: value)()
    if kind in ("bool", "str"):
        if type(plain).__name__ != kind:
            raise ValueError(f"invalid {name}={value!r}: a {kind} is expected")
    elif isinstance(plain, bool) or not isinstance(plain, Real) or plain != plain:
        raise ValueError(f"invalid {name}={value!r}: a real number is expected")
    elif isinstance(plain, int) and abs(plain) > LARGEST:
        raise ValueError(f"invalid {name}: a float is expected, and none is as large")
    return plain


def _as_scalar(value: Any) -> Any:
    """A scalar as specs compute with it: a number as the float that it means; flags, strings and tensors as they are.

    Python's whole numbers have no -0, no largest number, and more digits than the tensors that they meet.
    """
    return value if isinstance(value, (float, bool, str, Tensor)) else float(value)


def _check_hypers(owner: Any, hypers: Mapping[str, object]) -> dict[str, Any]:
    """The hypers as plain Python values that satisfy the kinds and conditions of `owner`; ValueError otherwise."""
    kinds = _hyper_kinds(owner)
    plain = {name: _plain_hyper(name, value, kinds.get(name, "float")) for name, value in hypers.items()}
    owner.check_hypers(**plain)
    return plain


def _suggest(name: object, known: Iterable[str]) -> str:
    """The end of an error message: the known names, and the nearest of them if it is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _distinguish(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values that a dictionary can tell apart; tensors, which only a capturable optimizer has here, by identity."""
    return tuple([id(value) if isinstance(value, Tensor) else value for value in values])


def _plain(name: str, value: Any) -> Any:
    """A hyper's value as the Python number that it is; ValueError for a tensor of several."""
    if isinstance(value, Tensor):
        _require_scalar(name, value)
    return value.item() if hasattr(value, "item") else value
