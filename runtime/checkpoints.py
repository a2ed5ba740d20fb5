"""What a checkpoint says of the spec that it comes from.

Each group has the key "spec": a string in JSON, which every tool that saves groups keeps. It holds the version of this
format, the hash of the spec, the names of its hypers and, for each rule, its roles and the fingerprint and the equation
of each state. States of equal fingerprint mean the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .contract.interface import Rule

SPEC_KEY = "spec"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Was:
    """`target` of a rule (or a hyper, where `rule` is "") as a function of an older checkpoint.

    `function(*states, **scalars)` gets the old states of these names; for a state the scalars are today's hypers
    and `t`, for a hyper they are the old hypers.
    """

    rule: str
    target: str
    function: Callable[..., Any]
    states: tuple[str, ...]
    scalars: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """What the checkpoints of a generated class say of its spec.

    `states` has, for each rule and each of its states, the fingerprint of what it means and its equation, in parts.
    `before` has other fingerprints of the same states: what they were when the hypers of a set were not there, and
    what these `was` stood in their place.
    """

    hash: str
    states: Mapping[str, Mapping[str, tuple[str, ...]]]
    was: tuple[Was, ...] = ()
    before: Mapping[str, Mapping[str, Mapping[tuple[str, ...], str]]] = field(default_factory=dict)

    def means(self, rule: str, told: frozenset[str]) -> dict[str, tuple[str, str]]:
        """Fingerprint and equation of each state of the rule, in a checkpoint in which the `told` hypers were others.

        Of the sets of hypers that a state was fingerprinted for, the largest that is told holds all of them it reads.
        """
        found = {}
        for name, (mark, *parts) in self.states[rule].items():
            older = {k: v for k, v in self.before.get(rule, {}).get(name, {}).items() if told.issuperset(k)}
            found[name] = (older[max(older, key=len)] if older else mark, " ".join(parts))
        return found


@dataclass(frozen=True)
class _Origin:
    """The spec of a checkpoint; for each rule its roles, and the fingerprint and equation of each state."""

    hash: str
    hypers: tuple[str, ...]
    roles: dict[str, tuple[str, ...]] = field(compare=False)
    states: dict[str, dict[str, tuple[str, str]]] = field(compare=False)

    def rule(self, role: str) -> str | None:
        """The name of the rule that a parameter of this role (or with this rule) had."""
        if role in self.roles:
            return role
        return next((name for name, roles in self.roles.items() if role in roles), None)


def _description(owner: Any, hypers: tuple[str, ...]) -> str:
    """What groups of a generated class have under `SPEC_KEY`; read by `_origin_told_by`."""
    spec: Spec = owner.SPEC
    rules: tuple[Rule, ...] = owner.RULES
    described = {
        rule.name: {
            "roles": rule.roles,
            "memories": {name: [mark, " ".join(parts)] for name, (mark, *parts) in spec.states[rule.name].items()},
        }
        for rule in rules
    }
    return json.dumps({"version": SCHEMA_VERSION, "hash": spec.hash, "hypers": list(hypers), "rules": described})


def _origin_told_by(description: object) -> _Origin:
    """The spec that a group describes; ValueError for a description that is damaged or of a newer version."""
    if not isinstance(description, str):
        raise ValueError(f"the description of the spec in the loaded state dict is damaged: it is {description!r}")
    return _origin_of(description)


@lru_cache(maxsize=64)
def _origin_of(text: str) -> _Origin:
    try:
        told = json.loads(text)
        version = told["version"]
        if version == SCHEMA_VERSION:
            roles = {name: tuple(rule["roles"]) for name, rule in told["rules"].items()}
            states = {
                name: {kept: (str(mark), str(equation)) for kept, (mark, equation) in rule["memories"].items()}
                for name, rule in told["rules"].items()
            }
            return _Origin(str(told["hash"]), tuple(told["hypers"]), roles, states)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"the description of the spec in the loaded state dict is damaged: {error!r}") from error
    raise ValueError(
        f"the loaded state dict has version {version!r} of the checkpoint format; {SCHEMA_VERSION} is known"
    )


def _of_same_spec(name: str, spec: Spec | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """What was pickled, without its hash; ValueError for that of another spec, as no description could convert it."""
    if spec is not None and state.get("_spec", spec.hash) != spec.hash:
        raise ValueError(
            f"this {name} was pickled with another version of its spec ({state['_spec']}, now {spec.hash}); "
            "between versions save its `state_dict()`"
        )
    return {key: value for key, value in state.items() if key != "_spec"}
