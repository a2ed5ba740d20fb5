"""What the generated optimizers, schedules and penalties share; depends on torch alone.

A generated class says what one step does to one parameter, as pure functions (`Kernel`) collected in `RULES`. This
package decides everything around them: which rule a parameter gets (routing), which parameters run as one call
(buckets), where their memories live (state), in what precision they compute, and what a checkpoint holds. It knows no
particular optimizer.

Reading order, in which each module imports only those before it: interface, hypers, ieee, numbers, matrices, symmetric,
orthogonal, places, words, trees, roles, routing, readings, groups, computations, buffers, buckets, fused, tracing,
stages, fences, probes, counters, graphs, calls, states, arrangement, strategies, checkpoints, matching, parameters,
roster, loading, optimizer, schedules. Names with an underscore are private to the package.
"""

from __future__ import annotations

from .checkpoints import Spec, Was
from .fused import fused_adagrad, fused_adam, fused_adamw, fused_sgd
from .hypers import require
from .ieee import ieee
from .interface import Event, Kernel, Memory, Rule
from .matrices import det, eigenbasis, inverse_root, logdet, qr, trace
from .numbers import power, round_stochastically
from .optimizer import SpecOptimizer
from .orthogonal import explain_orthogonalize, iterate_in, orthogonalize
from .places import View
from .routing import Route, explain_routing, param_groups, route
from .schedules import SpecPenalty, SpecSchedule
from .strategies import explain_schedule
from .symmetric import symmetric_products

__all__ = [
    "Event",
    "Kernel",
    "Memory",
    "Route",
    "Rule",
    "Spec",
    "SpecOptimizer",
    "SpecPenalty",
    "SpecSchedule",
    "View",
    "Was",
    "det",
    "eigenbasis",
    "explain_orthogonalize",
    "explain_routing",
    "explain_schedule",
    "fused_adagrad",
    "fused_adam",
    "fused_adamw",
    "fused_sgd",
    "ieee",
    "inverse_root",
    "iterate_in",
    "logdet",
    "orthogonalize",
    "param_groups",
    "power",
    "qr",
    "require",
    "round_stochastically",
    "route",
    "symmetric_products",
    "trace",
]
