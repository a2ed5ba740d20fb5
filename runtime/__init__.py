"""What the generated optimizers, schedules and penalties share; depends on torch alone.

A generated class says what one step does to one parameter, as pure functions (`Kernel`) collected in `RULES`. This
package decides everything around them: which rule a parameter gets (routing), which parameters run as one call
(buckets), where their states live (state), in what precision they compute, and what a checkpoint holds. It knows no
particular optimizer.

Its rooms, each of which imports only those before it: contract, linalg, exchange, routing, placement, batching,
execution, steps; on top of them checkpoints, matching, loading, modes, fixed_points, optimizer, schedules and
penalties. README.md shows one step on its way through them. Names with an underscore are private to the package.
"""

from __future__ import annotations

from .checkpoints import Spec, Was
from .contract.generated import VERSION, Options
from .contract.hypers import require
from .contract.interface import Event, Kernel, Rank, Rule, State
from .exchange.communication import Communication
from .execution.fused import fused_adagrad, fused_adam, fused_adamw, fused_sgd
from .execution.strategies import communication, explain_schedule
from .linalg.draws import corner, normal, sign_noise, uniform
from .linalg.ieee import ieee
from .linalg.matrices import (
    cholesky,
    det,
    eigenbasis,
    eigenvalues,
    index,
    inverse_root,
    logdet,
    mpower,
    qr,
    solve,
    trace,
)
from .linalg.norms import norm
from .linalg.numbers import power, round_stochastically
from .linalg.order import quantiles, ranks
from .linalg.orthogonal import explain_orthogonalize, iterate_in, orthogonalize
from .linalg.symmetric import symmetric_products
from .optimizer import SpecOptimizer
from .penalties import SpecPenalty
from .routing.places import View
from .routing.routes import Route, explain_routing, param_groups, route
from .schedules import SpecSchedule

__all__ = [
    "VERSION",
    "Communication",
    "Event",
    "Kernel",
    "Options",
    "Rank",
    "Route",
    "Rule",
    "Spec",
    "SpecOptimizer",
    "SpecPenalty",
    "SpecSchedule",
    "State",
    "View",
    "Was",
    "cholesky",
    "communication",
    "corner",
    "det",
    "eigenbasis",
    "eigenvalues",
    "explain_orthogonalize",
    "explain_routing",
    "explain_schedule",
    "fused_adagrad",
    "fused_adam",
    "fused_adamw",
    "fused_sgd",
    "ieee",
    "index",
    "inverse_root",
    "iterate_in",
    "logdet",
    "mpower",
    "norm",
    "normal",
    "orthogonalize",
    "param_groups",
    "power",
    "qr",
    "quantiles",
    "ranks",
    "require",
    "round_stochastically",
    "route",
    "sign_noise",
    "solve",
    "symmetric_products",
    "trace",
    "uniform",
]
