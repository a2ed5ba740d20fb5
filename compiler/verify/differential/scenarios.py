"""Random scenarios for a spec.

Hypers keep the spec's conditions and lie on their edges often. Runs nothing, and leaves it to `shrink.py` to make a
scenario smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optforge.compiler.ir import nodes as ir
from optforge.compiler.verify.differential.plan import GRADIENTS, WEIGHTS, Gradient, Group, Scenario, Shape, Step
from optforge.compiler.verify.shared.dice import Dice
from optforge.compiler.verify.shared.hyper_values import Hyper, HyperValues

# What an optimizer can be said not to do; "changes" are those of hypers other than lr.
ABILITIES = (
    "missing", "strided", "inf", "nan", "closure", "saved", "order", "groups", "lr_changes", "changes", "kept_gradients"
)  # fmt: skip

MATRICES: tuple[Shape, ...] = ((2, 3), (3, 2), (3, 3), (1, 4), (4, 1), (2, 5), (5, 2), (1, 1))
VECTORS: tuple[Shape, ...] = ((3,), (1,), (5,), ())
TENSORS: tuple[Shape, ...] = (*VECTORS, (2, 3), (3, 2), (1, 4), (4, 1), (2, 2, 3))
SHAPES: Mapping[str, tuple[Shape, ...]] = {
    "matrix": MATRICES,
    "embedding": MATRICES,
    "head": MATRICES,
    "conv": ((2, 2, 2), (3, 1, 2, 2)),
    "vector": VECTORS,
    "any": TENSORS,
}
# Powers of two: twice over float64's and float32's ranges of what their fourth powers keep.
EXPONENTS: Mapping[str, tuple[int, ...]] = {
    "float64": (0, 3, -4, -10, -20, -27, -34, -41, -60, 12, 30),
    "float32": (0, 3, -4, -10, -20, 8),
    "bfloat16": (0, 3, -4, -10),
    "float16": (0, 2, -4),
}
DEVIATIONS = (0, 0, 0, 1, -1, 2, -2)
MOST_STEPS = 8
MOST_PARAMETERS = 3


@dataclass(frozen=True)
class Space:
    """What scenarios may hold. ``roles`` are those of the parameters, "any" where one rule takes every shape.

    ``told`` says whether the groups name their roles; ``without`` are abilities that the other does not have.
    """

    values: HyperValues
    roles: tuple[str, ...]
    told: bool = False
    dtypes: tuple[str, ...] = ("float64", "float32")
    most_groups: int = 2
    without: frozenset[str] = frozenset()
    events: Mapping[str, tuple[ir.Hyper, ...]] = field(default_factory=dict)

    def has(self, ability: str) -> bool:
        return ability not in self.without


def draw_scenario(dice: Dice, space: Space) -> Scenario:
    return Maker(dice, space).scenario()


class Maker:
    """Draws one scenario, part by part; ``current`` are the hypers of each group after the steps drawn so far."""

    def __init__(self, dice: Dice, space: Space) -> None:
        self.dice, self.space = dice, space
        self.current: list[dict[str, Hyper]] = []
        self.exponents: tuple[int, ...] = (0,)
        self.base = self.count = 0
        self.stepped = False

    def scenario(self) -> Scenario:
        dtype = self.dice.pick(self.space.dtypes)
        most = self.space.most_groups if self.space.has("groups") else 1
        groups = [self.group() for _ in range(1 + self.dice.below(most))]
        seed = self.dice.below(2**16)
        self.count = sum(len(group.shapes) for group in groups)
        self.exponents = EXPONENTS[dtype]
        self.base = self.dice.pick(self.exponents)
        self.current = [dict(group.hypers) for group in groups]
        steps = [self.step() for _ in range(1 + self.dice.below(MOST_STEPS))]
        return Scenario(tuple(groups), tuple(steps), dtype, seed, tuple(self.order(group) for group in groups))

    def group(self) -> Group:
        role = self.dice.pick(self.space.roles)
        hypers = self.hypers()
        weights = self.dice.pick(WEIGHTS) if self.dice.chance(30) else "normal"
        shapes = [self.dice.pick(SHAPES[role]) for _ in range(1 + self.dice.below(MOST_PARAMETERS))]
        shapes = shapes[:1] * len(shapes) if self.dice.chance(40) else shapes
        return Group(tuple(shapes), hypers, weights, role if self.space.told and role != "any" else None)

    def hypers(self) -> dict[str, Hyper]:
        wanted = {
            name: self.dice.pick(values)
            for name, values in self.space.values.by_name.items()
            if len(values) > 1 and self.dice.chance(50)
        }
        return self.space.values.allowed(wanted)

    def order(self, group: Group) -> tuple[int, ...]:
        simplest = tuple(range(len(group.shapes)))
        if len(simplest) == 1 or not self.space.has("order") or not self.dice.chance(50):
            return simplest
        return tuple(self.dice.shuffled(simplest))

    def step(self) -> Step:
        is_later = self.stepped
        self.stepped = True
        return Step(
            gradients=tuple(self.gradient() for _ in range(self.count)),
            changes=self.changes() if is_later else (),
            saved=is_later and self.space.has("saved") and self.dice.chance(10),
            closure=self.space.has("closure") and self.dice.chance(10),
            events=tuple(
                (name, self.arguments(given)) for name, given in self.space.events.items() if self.dice.chance(40)
            ),
        )

    def events(self) -> tuple[tuple[str, Mapping[str, Hyper]], ...]:
        """Now and then each event, before the step."""
        return tuple((name, self.arguments(given)) for name, given in self.space.events.items() if self.dice.chance(40))

    def gradient(self) -> Gradient:
        exponent = self.dice.pick(self.exponents) if self.dice.chance(10) else self.base + self.dice.pick(DEVIATIONS)
        if not self.dice.chance(40):
            return Gradient("normal", exponent)
        kinds = [kind for kind in GRADIENTS[1:] if self.space.has(kind)]
        last = kinds.index("strided") + 1 if "strided" in kinds else len(kinds)
        rare = self.dice.chance(20)  # what is not finite ends the comparison of a parameter
        return Gradient(self.dice.pick(kinds if rare else kinds[:last]), exponent)

    def changes(self) -> tuple[Mapping[str, Hyper], ...]:
        """Now and then new hypers for some groups, mostly of the lr; the conditions hold before and after."""
        changeable = [name for name, values in self.space.values.by_name.items() if len(values) > 1]
        names = [name for name in changeable if self.space.has("lr_changes" if name == "lr" else "changes")]
        if not names or not self.dice.chance(30):
            return ()
        return tuple(self.change(hypers, names) if self.dice.chance(70) else {} for hypers in self.current)

    def change(self, hypers: dict[str, Hyper], names: Sequence[str]) -> dict[str, Hyper]:
        name = "lr" if "lr" in names and self.dice.chance(60) else self.dice.pick(names)
        value = self.dice.pick(self.space.values.by_name[name])
        if not self.space.values.holds({**hypers, name: value}):
            return {}
        hypers[name] = value
        return {name: value}

    def arguments(self, wanted: Sequence[ir.Hyper]) -> dict[str, Hyper]:
        return {
            each.name: each.default.value if each.default else self.dice.pick((1.0, 2.0, 0.5))  # type: ignore[misc]
            for each in wanted
        }
