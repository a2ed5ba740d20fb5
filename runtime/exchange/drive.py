"""The drive: the functions of several batches, so that what one of them waits for travels while others compute.

The order in which calls are made depends on the numbers of rounds alone, which are the same on all ranks. What can be
done beside it is handed in as `meanwhile`, and runs once the first sends are under way. An error of what a rank
computes is kept until everything is done, and the others get NaN for what it cannot send. One of a call itself, or of
what is gathered before the first round, is raised at once, and what the others still wait for never comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from .collectives import _deliver
from .communication import Communication
from .over import Over, Request
from .packing import Message, _arriving, _of_nan

WINDOW = 3  # batches that are under way at a time: more would hold more copies, and overlap no better

Step = Generator[Any, Any, Any]  # the function of a rule for shards
Forms = Sequence[Sequence[Message]]  # the messages of each round, whose tensors have no values


@dataclass
class Run:
    """The function of a rule, begun for a batch, and what becomes of the values that it returns."""

    step: Step
    over: Over
    finish: Callable[[Any], None]
    record: Communication
    forms: Callable[[], Forms] | None = None  # what it sends in all rounds, for who could not compute it
    failure: Exception | None = None


def _drive(runs: Iterable[Run], sent: Communication, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Runs all functions to their ends, in the order of their batches, `WINDOW` of them at a time; adds to `sent`.

    A run is asked for when its turn comes, so that no more inputs are gathered than are needed. All that are under way
    at first have been begun before `meanwhile`, but the last of them takes its turns after the first has moved on.
    From then on no two are where they were together, and while one computes what the others wait for travels: whole
    matrices of the next one to their owners, and those of the one before back from there.
    """
    waiting = iter(runs)
    under_way: deque[tuple[Run, Generator[None, None, Any]]] = deque()
    failures: list[BaseException] = []

    def advance(run: Run, rounds: Generator[None, None, Any]) -> None:
        try:
            next(rounds)
            under_way.append((run, rounds))
        except StopIteration as done:
            sent.add(run.record)
            if run.failure is None:
                _keep(failures, partial(run.finish, done.value))
            failures.extend([run.over.failure] if run.over.failure else [])

    def fill() -> None:
        while len(under_way) < WINDOW and (run := next(waiting, None)) is not None:
            advance(run, _rounds(run))

    fill()
    _keep(failures, meanwhile)
    last = under_way.pop() if len(under_way) == WINDOW else None
    while under_way:
        advance(*under_way.popleft())
        if last is not None:
            under_way.append(last)
            last = None
        fill()
    if failures:
        raise failures[0]


def _keep(failures: list[BaseException], do: Callable[[], None]) -> None:
    try:
        do()
    except BaseException as problem:
        failures.append(problem)


def _rounds(run: Run) -> Generator[None, None, Any]:
    """Yields while something is under way, and returns what the function of the rule does; None if that fails.

    Then the other ranks get NaN in its place, until they have what they wait for.
    """
    local, arrived, done = _messages(run.step), None, 0
    while run.failure is None:
        try:
            messages = next(local) if arrived is None else local.send(arrived)
        except StopIteration as ended:
            return ended.value
        except Exception as problem:
            if run.forms is None:
                raise
            run.over.failure = run.failure = problem
        else:
            arrived = yield from _deliver(messages, run.over.sharding.ranks, run.record)
            done += 1
    for messages in _left_out(run, done):
        yield from _deliver(messages, run.over.sharding.ranks, run.record)
    return None


def _left_out(run: Run, done: int) -> list[list[Message]]:
    """What the function would have sent after so many rounds, of NaN; its error where nobody knows."""
    assert run.forms is not None and run.failure is not None
    try:
        return [[*map(_of_nan, messages)] for messages in run.forms()[done:]]
    except Exception:
        raise run.failure from None


def _answer_alone(step: Step, answer: Callable[[list[Message]], Sequence[Tensor]]) -> Any:
    """What the function of the rule returns where `answer` says what the messages of each round become."""
    local, arrived = _messages(step), None
    try:
        while True:
            arrived = answer(next(local) if arrived is None else local.send(arrived))
    except StopIteration as ended:
        return ended.value


def _list_forms(step: Step) -> Forms:
    """The messages of all rounds of a function of tensors that have no values."""
    listed: list[list[Message]] = []

    def answer(messages: list[Message]) -> list[Tensor]:
        listed.append(messages)
        return [*map(_arriving, messages)]

    _answer_alone(step, answer)
    return listed


def _messages(step: Step) -> Generator[list[Message], Sequence[Tensor], Any]:
    """The messages of each round of the function; it is sent what they have become, and returns what that does."""
    try:
        asked = next(step)
        while True:
            requests = asked if isinstance(asked, tuple) else (asked,)
            answers = yield from _answers(requests)
            asked = step.send(tuple(answers) if isinstance(asked, tuple) else answers[0])
    except StopIteration as ended:
        return ended.value


def _answers(requests: Sequence[Request]) -> Generator[list[Message], Sequence[Tensor], list[Any]]:
    """The answers to requests that were made together: the messages of each of their rounds share its calls."""
    answers: list[Any] = [None] * len(requests)
    pending: dict[int, Sequence[Tensor] | None] = dict.fromkeys(range(len(requests)))
    while pending:
        messages: dict[int, Sequence[Message]] = {}
        for index, arrived in pending.items():
            try:
                messages[index] = next(requests[index]) if arrived is None else requests[index].send(arrived)
            except StopIteration as ended:
                answers[index] = ended.value
        listed = [message for each in messages.values() for message in each]
        results = iter((yield listed) if listed else ())
        pending = {index: [next(results) for _ in each] for index, each in messages.items()}
    return answers
