"""An optimizer that draws in every shape: in its steps, for the first values of states, and in an event."""

from __future__ import annotations

from functools import cache
from typing import Any

import optforge

EVERYWHERE = """
optimizer Everywhere:
    hyper lr = 0.5 where lr >= 0

    for matrix, conv:
        r = uniform(of=norm(grad, per=row), stream=3) * normal(of=norm(grad, per=col))
        k = prev(k, normal(stream=1)) + sign_noise() * uniform(of=lr)
        weight <- weight + lr * (r + k + normal(of=grad')')

    for rest:
        m = 0.5 * prev(m, uniform()) + normal() * sign_noise(of=norm(grad))
        weight <- weight - lr * m

    on shake():
        weight <- weight + 0.25 * normal(stream=7)
"""


@cache
def everywhere() -> Any:
    return optforge.compile_source(EVERYWHERE).Everywhere
