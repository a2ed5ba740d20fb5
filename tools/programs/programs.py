"""Random well-typed specs: optimizers, schedules and penalties with all that they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from optforge.compiler.ir.types import FULL, SCALAR, Dim, Phase, Universe
from optforge.compiler.verify.shared.dice import Dice, dice_of
from optforge.dsl import ast
from optforge.dsl.printer import print_file
from tools.programs.blocks import (
    NAMES,
    foreign,
    grow_bindings,
    grow_function,
    grow_shared,
    grow_turns,
    grow_update,
    grower_of,
    plan_variables,
)
from tools.programs.events import grow_event
from tools.programs.grower import Aside, FunctionPlan, Grower, Scope, data_variables
from tools.programs.hypers import DOCS, SETTINGS, HyperPlan, HyperSet, Setting, grow_hypers
from tools.programs.matrices import grow_sketch
from tools.programs.terms import Variable, call_node, name, squared_mean
from tools.programs.uses import Made, grow_delegate, names_inside
from tools.programs.wrappers import wrap, wrap_adamw

SKETCHED = frozenset({"r", "tall", "low", "sketch"})
ORIENTATIONS = ("wide", "tall")
TRAIL = "trail"
FORMS = ((9, "matrix"), (6, "tensor"), (6, "used"), (3, "two"), (1, "roles"), (2, "whole"))


@dataclass(frozen=True)
class Trial:
    """How one declaration is run: the hypers of each parameter group, and the arguments of events."""

    name: str
    kind: str
    groups: tuple[dict[str, Setting], ...]
    events: dict[str, dict[str, Setting]] = field(default_factory=dict)


@dataclass(frozen=True)
class RandomProgram:
    tree: ast.File
    trials: tuple[Trial, ...]
    seed: int

    @property
    def text(self) -> str:
        return print_file(self.tree)

    def __repr__(self) -> str:
        return f"RandomProgram({self.trials}, seed={self.seed})\n{self.text}"


@dataclass
class FileGrower:
    dice: Dice
    functions: list[ast.Function] = field(default_factory=list)
    plans: list[FunctionPlan] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)

    def add_function(self, text: str) -> None:
        node, plan = grow_function(self.dice, text, SETTINGS, self.plans)
        self.functions.append(node)
        self.plans.append(plan)

    def scope(self, universe: Universe, hypers: HyperSet, data: tuple[Variable, ...] | None = None) -> Scope:
        return Scope(
            universe, tuple(hypers.variables), data=data or data_variables("grad", "weight"),
            functions=tuple(self.plans), settings=hypers.settings, choices=tuple(hypers.choices),
            taken=frozenset(plan.name for plan in hypers.plans),
        )  # fmt: skip

    # Optimizers

    def optimizer(self, text: str, form: str = "", event: int = 22) -> Made:
        """An optimizer of this form, or any; ``event`` is how likely it has one, in percent.

        A "shared" one is a "tensor" one that others may use beside rules of their own.
        """
        inside = names_inside(self.made)
        hypers = grow_hypers(self.dice, self.dice.below(5) + (2 if inside else 0), inside)
        form = form or self.dice.weighted(FORMS)
        if form == "whole":
            return self.user(text, hypers)
        universe = Universe.TENSOR if form in ("tensor", "shared") else Universe.MATRIX
        words = {"tensor": ("tensor",), "shared": ("tensor",), "roles": ("matrix", "embedding", "head")}.get(
            form, ("matrix",)
        )
        scope = self.scope(universe, hypers)
        members, planned, events = self.main_rule(scope, words, form, event)
        if form in ("used", "roles"):
            members.append(grow_delegate(self.dice, self.made, hypers))
        if form == "two":
            block, _ = self.block(self.scope(Universe.TENSOR, hypers), "rest", 1, is_alone=False)
            members.append(ast.Rule((ast.Identifier("rest"),), block))
        node = ast.Optimizer(ast.Identifier(text), None, (*(plan.node for plan in hypers.plans), *members), self.doc())
        return Made(node, hypers, universe, planned, scope.data, form == "shared", events)

    def user(self, text: str, hypers: HyperSet) -> Made:
        """An optimizer that uses another one for every parameter."""
        members: tuple[ast.OptimizerMember, ...] = (
            *(plan.node for plan in hypers.plans),
            grow_delegate(self.dice, self.made, hypers, "tensor"),
        )
        node = ast.Optimizer(ast.Identifier(text), None, members, self.doc())
        return Made(node, hypers, Universe.TENSOR, [], (), True, {}, is_whole=True)

    def main_rule(
        self, scope: Scope, words: tuple[str, ...], form: str, likely: int
    ) -> tuple[list[ast.OptimizerMember], list[Variable], dict[str, dict[str, Setting]]]:
        """The rule that says most, with its event if it has one."""
        count = 1 + self.dice.weighted(((4, 0), (3, 1), (2, 2), (1, 3)))
        orientation = self.dice.pick(ORIENTATIONS) if scope.is_matrix and self.dice.chance(25) else None
        if form == "two" or not self.dice.chance(likely):
            block, planned = self.block(scope, words[0], count, is_alone=form in ("matrix", "tensor"))
            return [rule_of(words, block, orientation)], planned, {}
        base = grower_of(self.dice, scope)
        seen = plan_variables(base, 1 + self.dice.below(2), ("h", "curvature", "y"))
        planned = plan_variables(base, count, NAMES)
        is_alone = form in ("matrix", "tensor")
        event, arguments = grow_event(self.dice, scope, seen, planned, is_alone)
        event = replace(event, doc=self.doc())
        inside = replace(scope, variables=(*foreign(seen), *scope.variables))
        block, _ = self.block(inside, words[0], count, is_alone, planned)
        members: list[ast.OptimizerMember] = [rule_of(words, block, orientation), event]
        return self.dice.shuffled(members), planned, {event.name.name: arguments}

    def block(
        self, scope: Scope, word: str, count: int, is_alone: bool, planned: list[Variable] | None = None
    ) -> tuple[tuple[ast.Statement, ...], list[Variable]]:
        """The equations of a rule, in any order."""
        base = grower_of(self.dice, scope)
        planned = plan_variables(base, count, NAMES) if planned is None else planned
        aside = Aside(["ramp", "share", "length"])
        scope = replace(scope, aside=aside)
        if self.dice.chance(30):
            own = (word, scope.summed(True))
            scope = replace(scope, total_scope=scope.summed(is_alone), own_total=own)
        remembered = [variable for variable in planned if not variable.is_boolean]
        bindings = grow_bindings(grower_of(self.dice, scope), planned, remembered)
        if self.dice.chance(15):
            added, turns = grow_turns(grower_of(self.dice, scope), planned)
            bindings, planned = [*bindings, *added], [*planned, *turns]
            remembered += turns
        sketch: list[ast.Statement] = []
        if scope.is_matrix and scope.data and not SKETCHED & scope.taken and self.dice.chance(20):
            sketch, variable = grow_sketch(grower_of(self.dice, scope))
            planned = [*planned, variable]
        base = grower_of(self.dice, scope)
        common, shared = grow_shared(base, is_alone) if self.dice.chance(10) else ([], [])
        inside = replace(scope, variables=(*shared, *planned[::-1], *scope.variables), remembered=tuple(remembered))
        needed, value = grow_update(grower_of(self.dice, inside), planned)
        if TRAIL not in scope.taken and self.dice.chance(8):
            trail, value = trailing(value)
            bindings = [*bindings, trail]
        update = ast.Update(ast.Identifier("weight"), value)
        more = (*common, *aside.bindings, *sketch, *needed)
        statements: list[ast.Statement] = [*bindings, *more, update, *self.claims(planned)]
        return tuple(self.dice.shuffled(statements)), planned

    def claims(self, planned: Sequence[Variable]) -> list[ast.Claim]:
        """Promises that nothing here checks: they must not change what is generated."""
        numbers = [variable for variable in planned if not variable.is_boolean]
        if not numbers or not self.dice.chance(10):
            return []
        value = call_node("norm", name(self.dice.pick(numbers).name))
        promises: tuple[ast.Expression, ...] = (
            call_node("scale_free", name("grad")),
            ast.Comparison(value, ((">=", ast.Number("0")),)),
        )
        return [ast.Claim(self.dice.pick(promises))]

    def extension(self, text: str, base: Made) -> Made:
        """An optimizer that replaces an equation, the result or a default of another."""
        hypers = replace(base.hypers, plans=list(base.hypers.plans))
        members: list[ast.OptimizerMember] = []
        if self.dice.chance(40):
            plan = HyperPlan(replace(base.hypers.plans[0].node, default=ast.Number("0.07")), (0.06,))
            hypers.plans[0] = plan
            members.append(plan.node)
        scope = self.scope(base.universe, hypers, base.data)
        statements: list[ast.Statement] = []
        # First values may read what is pure, and what replaces it may look back at these.
        numbers = [v for v in base.planned if not v.is_boolean and v.phase is Phase.STREAM and not v.is_pure]
        grower = grower_of(self.dice, scope)
        if numbers and self.dice.chance(60):
            changed = self.dice.pick(numbers)
            other = grower.small(grower.number(changed.shape, 1))
            value = ast.Binary("+", ast.Binary("*", ast.Number("0.5"), ast.Name("super")), other.node)
            statements.append(ast.Binding(ast.Identifier(changed.name), value))
        if not statements or self.dice.chance(40):
            below = [v for v in numbers if v.shape[0] in (Dim.ONE, Dim.ROWS) and v.shape[1] in (Dim.ONE, Dim.COLS)]
            moved = grower.small(grower.exact(FULL, 1)).node
            if below and self.dice.chance(50):
                inherited = ast.Super(ast.Identifier(self.dice.pick(below).name))
                moved = ast.Binary("+", moved, call_node("tanh", inherited))
            step = ast.Binary("*", ast.Number("0.02"), moved)
            statements.append(ast.Update(ast.Identifier("weight"), ast.Binary("-", ast.Name("super"), step)))
        scaled = [v.name for v in hypers.variables if not v.is_boolean and v.name not in kept_as_they_are(hypers)]
        if scaled and self.dice.chance(40):
            value = ast.Binary("*", ast.Number("0.75"), ast.Name("super"))
            statements.append(ast.Binding(ast.Identifier(self.dice.pick(scaled)), value))
        words = ("tensor",) if base.universe is Universe.TENSOR else ("matrix",)
        members.append(rule_of(words, tuple(statements)))
        node = ast.Optimizer(ast.Identifier(text), base.node.name, tuple(members), self.doc())
        return Made(node, hypers, base.universe, base.planned, base.data, base.is_for_all, base.events)

    # Schedules and penalties

    def schedule(self) -> tuple[ast.Schedule, HyperSet]:
        hypers = grow_hypers(self.dice, self.dice.below(3))
        aside = Aside(["share", "length"])
        scope = replace(self.scope(Universe.TENSOR, hypers), data=(), has_state=False, aside=aside)
        grower = grower_of(self.dice, scope)
        planned = [
            Variable(text, SCALAR, Phase.STEP) for text in free_names(scope, ("s", "ramp"))[: self.dice.below(3)]
        ]
        bindings = grow_bindings(grower, planned, ())
        inside = grower.within(replace(scope, variables=(*planned, *scope.variables)).steps())
        factor = ast.Update(ast.Identifier("factor"), inside.number(SCALAR, 3).node)
        statements: list[ast.Statement] = [*bindings, *aside.bindings, factor]
        members = (*(plan.node for plan in hypers.plans), *self.dice.shuffled(statements))
        return ast.Schedule(ast.Identifier("Wave"), members, self.doc()), hypers

    def penalty(self) -> tuple[ast.Penalty, HyperSet]:
        """Smooth everywhere, so that its gradient can be checked by differences."""
        hypers = grow_hypers(self.dice, self.dice.below(3))
        universe = self.dice.pick((Universe.MATRIX, Universe.TENSOR))
        aside = Aside(["share", "length"])
        scope = replace(
            self.scope(universe, hypers), data=data_variables("weight"), has_state=False, has_steps=False,
            is_smooth=True, functions=(), aside=aside,
        )  # fmt: skip
        grower = grower_of(self.dice, scope)
        planned = [Variable(text, FULL) for text in free_names(scope, ("u", "s"))[: self.dice.below(3)]]
        bindings = grow_bindings(grower, planned, ())
        inside = grower.within(replace(scope, variables=(*planned, *scope.variables)))
        loss = ast.Update(ast.Identifier("loss"), squared_mean(inside.exact(FULL, 2)).node)
        words = ("matrix",) if universe is Universe.MATRIX else ("tensor",)
        statements: list[ast.Statement] = [*bindings, *aside.bindings, loss]
        rule = rule_of(words, tuple(self.dice.shuffled(statements)))
        members: tuple[ast.Hyper | ast.Rule, ...] = (*(plan.node for plan in hypers.plans), rule)
        return ast.Penalty(ast.Identifier("Ridge"), members, self.doc()), hypers

    def doc(self) -> ast.Text | None:
        text = self.dice.pick(DOCS) if self.dice.chance(15) else None
        return None if text is None else ast.Text(text)

    # Trials

    def trial(self, text: str, kind: str, hypers: HyperSet, events: dict[str, dict[str, Setting]]) -> Trial:
        groups = [self.values(hypers) for _ in range(1 + self.dice.chance(25) * (kind == "optimizer"))]
        return Trial(text, kind, tuple(groups), events)

    def values(self, hypers: HyperSet) -> dict[str, Setting]:
        """What the constructor is given: all that is required, and some of the rest."""
        chosen = [plan for plan in hypers.plans if plan.is_required or self.dice.chance(30)]
        return {plan.name: self.dice.pick(plan.values) for plan in chosen}


def free_names(scope: Scope, names: Sequence[str]) -> list[str]:
    return [text for text in names if text not in scope.taken]


def kept_as_they_are(hypers: HyperSet) -> set[str]:
    """The hypers that stand where only some numbers can: counts, roots, periods."""
    return {
        each.name
        for kind, values in hypers.settings.items()
        for each in values
        if kind != "decay" and isinstance(each, ast.Name)
    }


def trailing(value: ast.Expression) -> tuple[ast.Binding, ast.Expression]:
    """An average of the weights after the step, and the step with a pull towards that of the step before."""
    half = [ast.Binary("*", ast.Number("0.5"), each) for each in (call_node("prev", name(TRAIL)), ast.Name("next"))]
    pull = ast.Binary("*", ast.Number("0.01"), call_node("tanh", call_node("prev", name(TRAIL))))
    return ast.Binding(ast.Identifier(TRAIL), ast.Binary("+", *half)), ast.Binary("-", value, pull)


def rule_of(words: Sequence[str], statements: tuple[ast.Statement, ...], orientation: str | None = None) -> ast.Rule:
    seen = None if orientation is None else ast.Identifier(orientation)
    return ast.Rule(tuple(ast.Identifier(word) for word in words), statements, orientation=seen)


def grow_file(dice: Dice) -> RandomProgram:
    """A file with functions, one optimizer or two, and now and then a schedule and a penalty."""
    grower = FileGrower(dice)
    for text in ("blend", "fold")[: dice.weighted(((6, 0), (3, 1), (1, 2)))]:
        grower.add_function(text)
    second = dice.weighted(((13, "none"), (3, "extension"), (1, "other"), (5, "user")))
    first = grower.optimizer("First", "shared", event=75) if second == "user" else grower.optimizer("First")
    grower.made.append(first)
    trials = [grower.trial("First", "optimizer", first.hypers, first.events)]
    items: list[ast.Item] = [*grower.functions, first.node]
    if second != "none":
        is_user = second == "user" or first.is_whole
        form = dice.pick(("whole", "used")) if is_user else ""
        made = (
            grower.extension("Second", first)
            if second == "extension" and not is_user
            else grower.optimizer("Second", form)
        )
        items.append(made.node)
        trials.append(grower.trial("Second", "optimizer", made.hypers, made.events))
    if dice.chance(10):
        schedule, hypers = grower.schedule()
        items.append(schedule)
        trials.append(grower.trial("Wave", "schedule", hypers, {}))
    if dice.chance(12):
        penalty, hypers = grower.penalty()
        items.append(penalty)
        trials.append(grower.trial("Ridge", "penalty", hypers, {}))
    tree, seed = ast.File(grower.doc(), tuple(items)), dice.below(1000)
    if dice.chance(20):
        scope, is_own = grower.scope(Universe.TENSOR, HyperSet()), dice.chance(50)
        around = wrap(dice, scope, first) if is_own else wrap_adamw(dice, scope)
        tree = replace(tree, items=(*items, around.wrapper, around.optimizer))
        hypers, events = (first.hypers, first.events) if is_own else (HyperSet(), {})
        trial = grower.trial("Around", "optimizer", hypers, events)
        trials.append(replace(trial, groups=tuple({**group, "ahead_lr": 0.3} for group in trial.groups)))
    return RandomProgram(tree, tuple(trials), seed)


def random_programs(seed: int, count: int) -> Iterator[RandomProgram]:
    """That many programs, each drawn independently of those before."""
    return (grow_file(dice_of(seed, number)) for number in range(count))


__all__ = ["Grower", "RandomProgram", "Trial", "grow_file", "random_programs"]
