"""What people give to constructors and functions, or the one sentence that says what was expected.

In: a value. Out: the same in one form, or a TypeError that names what takes it, what it takes, and what it got. What
values of the right kind may be is checked where they are used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor

from .hypers import _plain_hyper, _require_scalar

MEMBERS = "tensors, or pairs of a name and a tensor"


def _kind_of(value: Any) -> str:
    """What something is, for messages."""
    return (
        f"the class {value.__qualname__}" if isinstance(value, type) else f"a value of type {type(value).__qualname__}"
    )


def _require_kind(what: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """TypeError unless the value is of one of these kinds."""
    if not isinstance(value, kinds):
        raise TypeError(f"{what} takes {expected}, not {_kind_of(value)}")


def _require_callable(what: str, value: object, expected: str) -> None:
    """TypeError unless the value can be called; a class, which would only make another one, is no function."""
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{what} takes {expected}, not {_kind_of(value)}")


def _as_list(what: str, given: object, expected: str) -> list[Any]:
    """What can be gone through in an order of its own, as a list; a text, a mapping or a tensor is one thing."""
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping, set, frozenset, Tensor, type)):
        return list(given)
    raise TypeError(f"{what} takes {expected}, not {_kind_of(given)}")


def _is_named(member: object) -> bool:
    """Whether this is a pair of a name and a tensor."""
    if not isinstance(member, tuple) or len(member) != 2:
        return False
    return isinstance(member[0], str) and isinstance(member[1], Tensor)


def _members(what: str, given: object) -> list[Any]:
    """Parameters as a list, be they tensors or pairs of a name and a tensor; a tensor alone is a list of one."""
    members = [given] if isinstance(given, Tensor) else _as_list(what, given, MEMBERS)
    for member in members:
        if not isinstance(member, Tensor) and not _is_named(member):
            raise TypeError(f"{what} takes {MEMBERS}, not {_describe_value(member)}")
    return members


def _describe_value(value: object) -> str:
    """A value as a message shows it: tuples by what is in them, all else by its kind."""
    if isinstance(value, tuple):
        return f"a tuple of {' and '.join(map(_describe_value, value)) or 'nothing'}"
    return _kind_of(value)


def _require_arguments(
    method: Callable[..., object] | None, arguments: Mapping[str, object], numbers: Mapping[str, object]
) -> None:
    """TypeError unless these are the arguments of the method, if there is one; ValueError unless numbers are."""
    try:
        if method is not None:
            inspect.signature(method).bind(**arguments)
    except TypeError as problem:
        raise TypeError(f"{getattr(method, '__qualname__', method)}: {problem}") from None
    for name, value in numbers.items():
        if isinstance(value, Tensor):
            _require_scalar(name, value)
        else:
            _plain_hyper(name, value, "float")


def _number_in(value: object) -> float | None:
    """The number that an argument is, or has in a tensor of one; None for what is none, which is an error elsewhere."""
    try:
        plain = value.item() if hasattr(value, "item") else value
        return float(plain) if isinstance(plain, Real) else None
    except (RuntimeError, ValueError, OverflowError):  # of several numbers, or of too large ones
        return None
