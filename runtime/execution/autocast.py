"""Steps outside autocast: what a step computes does not depend on the region from which it is called.

In: the devices of the parameters. Out: a context in which torch.autocast, which would lower the dtype of matrix
products, is off for them. It says nothing about gradients and losses, which autocast is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch


def _without_autocast(devices: Iterable[torch.device]) -> AbstractContextManager[object]:
    """The context; where autocast is off it costs a question per device."""
    kinds = {device.type for device in devices}
    active = [kind for kind in sorted(kinds - {"meta"}) if torch.is_autocast_enabled(kind)]
    if not active:
        return nullcontext()
    stack = ExitStack()
    for kind in active:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
