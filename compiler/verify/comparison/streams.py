"""Every stream of a target, step by step, in float64 and in the order in which one depends on the other.

The interpreter gives the equations and states of a spec; of another class there are the states that it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import references
from optforge.compiler.ir.names import EquationName
from optforge.compiler.oracle.interpreter import OracleParameter, run_step
from optforge.compiler.verify.comparison.runs import Run
from optforge.compiler.verify.comparison.trials import Array, Trial


@dataclass(frozen=True, order=True)
class Stream:
    """``kind`` is "equation", "state" or "weight"; an equation and a state may share a name."""

    kind: str
    name: str

    def __str__(self) -> str:
        return "the weight" if self.kind == "weight" else f"{self.kind} `{self.name}`"


Values = dict[Stream, Array]
WEIGHT = Stream("weight", "weight")


def streams_of_run(run: Run, names: Mapping[str, str]) -> Iterator[Values]:
    """What a class shows of itself after each step; ``names`` renames its states."""
    for weight, states in zip(run.weights[1:], run.states, strict=True):
        yield {**{Stream("state", names.get(name, name)): value for name, value in states.items()}, WEIGHT: weight}


def streams_of_spec(spec: ir.Optimizer, trial: Trial, hypers: Mapping[str, Any]) -> Iterator[Values]:
    """What the interpreter computes in each step of the rule for matrices."""
    rule = next(rule for rule in spec.rules if "matrix" in rule.roles)
    parameter = OracleParameter(trial.weight, rule)
    for grad in trial.grads:
        yield interpret_step(parameter, grad.reshape(parameter.shape), hypers)


def interpret_step(parameter: OracleParameter, grad: Array, hypers: Mapping[str, Any]) -> Values:
    """One step of one parameter that tells what it has computed on the way."""
    rule = parameter.rule
    (evaluation,) = run_step([parameter], [grad], [hypers])
    return {**ordered_streams(rule, evaluation.known, parameter.kept), WEIGHT: parameter.value}


def ordered_streams(rule: ir.Rule, known: Mapping[EquationName, Any], states: Mapping[str, Array]) -> Values:
    """Equations as they were computed, each state right after the last equation that it reads."""
    order = {name: place for place, name in enumerate(known)}
    written = {name: Stream("equation", name.shown) for name in known if name.is_written}
    places = {stream: (order[name], 0) for name, stream in written.items()}
    values = {stream: as_float(known[name]) for name, stream in written.items()}
    for output in rule.update.outputs:
        if output.name != "weight":
            stream = Stream("state", output.name)
            last = max((order[name] for name in references(output.value) if name in order), default=-1)
            places[stream], values[stream] = (last, 1), states[output.name]
    return {stream: values[stream] for stream in sorted(places, key=places.__getitem__)}


def as_float(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)
