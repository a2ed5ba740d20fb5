"""A step on shards: cut where ranks must exchange values, by the placement that serves rows and columns alike.

In: a function after all passes. Out: stages of functions of what a rank has. Local reductions become requests; what is
placed with the owner becomes functions of whole matrices, as few as there are times that its results go there and back.
Conditions of equations and writes in place are dropped: each function is to be scheduled anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from optforge.compiler.analysis.sharding.placement import EITHER, Cut, Side, place
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of, slice_function
from optforge.compiler.ir.names import EquationName, Task, free_name_among, name_text, read_name
from optforge.compiler.ir.operators import OPERATORS, Across
from optforge.compiler.ir.printer import apply
from optforge.compiler.ir.shards import Owned, Reduced, Request, ShardStage
from optforge.compiler.ir.types import SCALAR


def shard_stages(function: ir.Function, cut: Cut = EITHER) -> tuple[ShardStage, ...]:
    """The stages of a function on shards; one where no element needs another."""
    return Cutting(function, cut).stages()


class Cutting:
    """One function while it is cut: `turn` tells the owner's functions apart, `level` the stages."""

    def __init__(self, function: ir.Function, cut: Cut) -> None:
        self.function = replace(
            function, equations=tuple(replace(each, when=None, in_place=False) for each in function.equations)
        )
        self.placement = place(self.function, cut)
        self.values = self.placement.dataflow.values
        self.nodes = dict(self.placement.dataflow.nodes)  # by identity, so what is made here is kept
        self.made: list[ir.Ref] = []
        inputs = inputs_of(function)
        self.given_names = {EquationName.of(n.name) for n in inputs if n.source is ir.InputSource.COMBINED}
        self.taken = {each.name for each in function.equations} | {EquationName.of(node.name) for node in inputs}
        self.names: dict[int, str] = {}
        self.turns = self._turns()
        written = [output.name for output in function.outputs if output.name in self.placement.owned]
        self.kept = {name: self._turn_of_state(name) for name in (*written, *sorted(self.placement.owned - {*written}))}
        self.given_names |= set(map(read_name, self.kept))  # what comes back is not called as what stays
        self.shown = [n for n in range(len(self.values)) if self._is_kept_input(n) and self._is_read_by_ranks(n)]
        self.calls = sorted({self.turns[n] for n in (*self._owned_values(), *self.shown)} | set(self.kept.values()))
        self.sent = {turn: self._sent(turn) for turn in self.calls}
        self.carried = {turn: self._carried(turn) for turn in self.calls}
        for number in (n for sent in self.sent.values() for n in sent if isinstance(self.values[n].expr, ir.Input)):
            self.name(number)  # before an equation takes it
        self.levels: dict[int, int] = {}
        self.call_levels: dict[int, int] = {}

    # What is where

    def is_owned(self, number: int) -> bool:
        """Whether the owner computes the value; constants are computed by whoever reads them."""
        return self.placement.sides[number] is Side.OWNER and not self.values[number].is_constant

    def is_local(self, number: int) -> bool:
        return self.placement.sides[number] is Side.LOCAL and not self.values[number].is_constant

    def is_requested(self, number: int) -> bool:
        """Whether the value is a reduction of what is cut, by rows or by columns."""
        value = self.values[number]
        if not self.is_local(number) or not isinstance(value.expr, ir.Apply):
            return False
        reduces = OPERATORS[value.expr.operator].reduces
        return reduces and any(self.values[each].shape != SCALAR for each in value.reads)

    def _owned_values(self) -> list[int]:
        return [n for n in range(len(self.values)) if self.is_owned(n) and not self._is_kept_input(n)]

    def _is_kept_input(self, number: int) -> bool:
        expr = self.values[number].expr
        return isinstance(expr, ir.Input) and expr.source is ir.InputSource.STATE and self.is_owned(number)

    # When

    def _turns(self) -> list[int]:
        """How often what a value is made of has been with the owner and come back."""
        turns: list[int] = []
        for number, value in enumerate(self.values):
            came_back = [turns[each] + (self.is_owned(each) and not self.is_owned(number)) for each in value.reads]
            turns.append(max(came_back, default=0))
        return turns

    def _turn_of_state(self, name: str) -> int:
        """The last of the owner's functions that read or write the state, which gives its new value."""
        readers = [n for n, value in enumerate(self.values) if any(self._is_state(each, name) for each in value.reads)]
        written = [self.placement.dataflow.outputs[name]] if name in self.placement.dataflow.outputs else []
        return max((self.turns[n] for n in (*readers, *written)), default=0)

    def _is_state(self, number: int, name: str) -> bool:
        expr = self.values[number].expr
        return isinstance(expr, ir.Input) and expr.key == ir.stored(name)

    def _read(self, turn: int) -> list[int]:
        """What one of the owner's functions reads."""
        read = {each for n in self._owned_values() if self.turns[n] == turn for each in self.values[n].reads}
        read |= {n for n in self.shown if self.turns[n] == turn}
        outputs = self.placement.dataflow.outputs
        return sorted(read | {outputs[name] for name, when in self.kept.items() if when == turn and name in outputs})

    def _sent(self, turn: int) -> list[int]:
        """What of it comes from the ranks, and has not been sent before."""
        before = {n for earlier in self.calls if earlier < turn for n in self._read(earlier)}
        return [n for n in self._read(turn) if self.is_local(n) and n not in before]

    def _carried(self, turn: int) -> list[int]:
        """What of it an earlier one has been sent or has computed, which stays with the owner until then."""
        read = [n for n in self._read(turn) if not self._is_kept_input(n) and not self.values[n].is_constant]
        return [n for n in read if n not in self.sent[turn] and (self.is_local(n) or self.turns[n] < turn)]

    def level(self, number: int) -> int:
        """After how many rounds of requests a rank has the value."""
        if self.is_owned(number):
            return self.call_level(self.turns[number])
        if number not in self.levels:
            ready = max((self.level(each) for each in self.values[number].reads), default=0)
            self.levels[number] = ready + self.is_requested(number)
        return self.levels[number]

    def call_level(self, turn: int) -> int:
        if turn not in self.call_levels:
            read = (*self.sent[turn], *self.carried[turn])
            self.call_levels[turn] = 1 + max((self.level(each) for each in read), default=0)
        return self.call_levels[turn]

    # The functions

    def name(self, number: int) -> str:
        """What the value is called where it is given: as its equation, which is then computed elsewhere."""
        value = self.values[number]
        if isinstance(value.expr, ir.Input) and value.expr.source is ir.InputSource.COMBINED:
            return value.expr.name
        if number not in self.names:
            name = free_name_among(self.given_names, value.name or self._name_of(value.expr))
            self.given_names.add(name)
            self.taken.add(name)
            self.names[number] = name_text(name)
        return self.names[number]

    def _name_of(self, expr: ir.Expr) -> EquationName:
        """A name for what is no equation's value: that of the input, or of the operator."""
        if isinstance(expr, ir.Input):
            return EquationName.of(expr.name)
        return free_name_among(self.taken, EquationName.of(expr.operator if isinstance(expr, ir.Apply) else "value"))

    def given(self, number: int) -> ir.Input:
        """The value as an input of a function that does not compute it."""
        value = self.values[number]
        return ir.Input(self.name(number), ir.InputSource.COMBINED, type=value.expr.type, span=value.expr.span)

    def referred(self, number: int) -> ir.Expr:
        """The value by its name, so that it is computed once."""
        value = self.values[number]
        if not value.name or isinstance(value.expr, ir.Input):
            return value.expr
        found = ir.Ref(value.name, type=value.expr.type, span=value.expr.span)
        self.nodes[id(found)] = number
        self.made.append(found)
        return found

    def rewritten(self, is_given: Callable[[int], bool]) -> Callable[[ir.Expr], ir.Expr]:
        """Puts inputs in the place of values that are given."""

        def change(expr: ir.Expr) -> ir.Expr:
            number = self.nodes.get(id(expr))
            if number is not None and is_given(number):
                return self.given(number)
            return expr if isinstance(expr, ir.Ref) else ir.map_children(change, expr)

        return change

    def part(self, outputs: Iterable[tuple[str, ir.Expr]], is_given: Callable[[int], bool]) -> ir.Function:
        """What of the function gives these outputs, when some values are given."""
        change = self.rewritten(is_given)
        made = tuple(ir.Output(name, change(value)) for name, value in outputs)
        equations = tuple(replace(each, value=change(each.value)) for each in self.function.equations)
        return slice_function(replace(self.function, equations=equations), made)

    def stages(self) -> tuple[ShardStage, ...]:
        outputs = {output.name: output.value for output in self.function.outputs}
        results = [(name, value) for name, value in outputs.items() if name not in self.kept]
        wanted = [n for n in range(len(self.values)) if self.is_requested(n)]
        levels = [self.level(n) for n in wanted]
        last = max([*levels, *(self.call_level(turn) for turn in self.calls)], default=0)
        found = []
        for level in range(1, last + 1):
            reduced = [n for n, found_level in zip(wanted, levels, strict=True) if found_level == level]
            calls = [turn for turn in self.calls if self.call_level(turn) == level]
            requests: list[Request] = [self.reduced(n) for n in reduced]
            requests += [self.owned(turn, outputs) for turn in calls]
            sent = {n: None for turn in calls for n in self.sent[turn]}
            operands = [(self.name(n), self.operand(n)) for n in reduced]
            operands += [(self.name(n), self.referred(n)) for n in sent]
            found.append(ShardStage(self.part(operands, self._is_answer), tuple(requests)))
        return (*found, ShardStage(self.part(results, self._is_answer)))

    def _is_answer(self, number: int) -> bool:
        return self.is_requested(number) or self.is_owned(number)

    def reduced(self, number: int) -> Reduced:
        expr = self.values[number].expr
        assert isinstance(expr, ir.Apply) and isinstance(expr.arguments[-1], ir.Literal)
        operator = "sum" if OPERATORS[expr.operator].across is Across.SUM else expr.operator
        return Reduced(self.name(number), operator, str(expr.arguments[-1].value), expr.type)

    def operand(self, number: int) -> ir.Expr:
        """What is reduced: of an inner product the products."""
        expr = self.values[number].expr
        assert isinstance(expr, ir.Apply)
        *arguments, _ = expr.arguments
        if len(arguments) == 1:
            return arguments[0]
        return apply("mul", *arguments)

    def owned(self, turn: int, outputs: Mapping[str, ir.Expr]) -> Owned:
        """The owner's function of a turn: what ranks or later ones read of it, and the new values of its states."""
        given = {*self.sent[turn], *self.carried[turn]}
        own = [n for n in (*self._owned_values(), *self.shown) if self.turns[n] == turn]
        back = [n for n in own if self._is_read_by_ranks(n)]
        left = [n for n in (*self.sent[turn], *own) if any(n in carried for carried in self.carried.values())]
        kept = tuple(name for name, when in self.kept.items() if when == turn)
        made = [(self.name(n), self.referred(n)) for n in dict.fromkeys((*back, *left))]
        made += [(name, outputs[name]) for name in kept if name in outputs]
        function = self.part(made, lambda n: n in given)
        name = replace(self.function.name, task=Task.WHOLE, number=turn + 1)
        read = {node.name for node in inputs_of(function) if node.source is ir.InputSource.STATE}
        reads = tuple(each for each in self.kept if each in read and each not in kept)
        sent, carried, shown, stays = (
            tuple(map(self.name, each)) for each in (self.sent[turn], self.carried[turn], back, left)
        )
        return Owned(replace(function, name=name), sent, shown, kept, reads, carried, stays)

    def _is_read_by_ranks(self, number: int) -> bool:
        readers = [n for n, value in enumerate(self.values) if number in value.reads]
        results = [n for name, n in self.placement.dataflow.outputs.items() if name not in self.kept]
        return number in results or not all(map(self.is_owned, readers))
