"""Operators that torch does not look into while it traces: compiled programs do exactly what eager ones do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch


def _define_operator(
    namespace: str, wanted: str, schema: str, run: Callable[..., Any], traced: Callable[..., Any]
) -> tuple[torch.library.Library, torch._ops.OpOverload]:
    """A new operator, and the library whose life it shares; `traced` gives the form of what `run` does.

    Several copies of a module may be loaded, under different names, or under one name after another: each gets an
    operator of its own, numbered where the name is taken, so that programs compiled with an earlier one stay valid.
    """
    library = torch.library.Library("optforge_" + re.sub(r"\W", "_", namespace), "FRAGMENT")  # type: ignore[no-untyped-call]
    taken = getattr(torch.ops, library.ns)
    name, number = wanted, 1
    while hasattr(taken, name):
        number += 1
        name = f"{wanted}_{number}"
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
    library.define(f"{name}{schema}", tags=tags)  # type: ignore[no-untyped-call]
    library.impl(name, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{library.ns}::{name}", traced, lib=library)
    return library, getattr(taken, name).default
