"""Names of equations and functions: their texts read back, differ where the names do, and become identifiers."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optforge.compiler.ir.names import (
    EquationName,
    FunctionName,
    Segment,
    Task,
    free_name_among,
    function_text,
    name_text,
    one_word,
    read_function_name,
    read_name,
)

words = st.sampled_from(["m", "s", "step", "first", "m_s", "s2", "_2"])
machines = st.sampled_from(["", "step", "first", "sums", "average"])  # an event may be called like a task
functions = st.builds(FunctionName, machines, st.sampled_from(Task), st.sampled_from([1, 1, 2, 12]))
states = st.lists(words, min_size=1, max_size=2).map(".".join)  # as checkpoints have them: a word of its own each
segments = st.builds(Segment, words | states, st.sampled_from([1, 1, 2, 12]))
names = st.builds(
    EquationName, st.lists(segments, min_size=1, max_size=3).map(tuple), st.just("") | words, st.just("") | words
)


@settings(max_examples=60, deadline=None)
@given(names, names)
@example(EquationName.of("m", "s"), EquationName.of("m.s"))
@example(EquationName.of("m", scope="step"), EquationName.of("step", "m"))
@example(EquationName((Segment("m"),), layer="s"), EquationName.of("s", "m"))
@example(EquationName.of("s").numbered(2), EquationName.of("s2"))
def test_texts_read_back_and_differ_where_names_do(one: EquationName, other: EquationName) -> None:
    assert read_name(name_text(one)) == one
    assert (name_text(one) == name_text(other)) is (one == other)
    assert one_word(one).isidentifier()


@settings(max_examples=60, deadline=None)
@given(functions, functions)
@example(FunctionName("sums"), FunctionName(task=Task.SUMS))
def test_names_of_functions_read_back_and_differ(one: FunctionName, other: FunctionName) -> None:
    assert read_function_name(function_text(one)) == one
    assert (function_text(one) == function_text(other)) is (one == other)
    with pytest.raises(ValueError, match="no name of a function"):
        read_function_name(f"{function_text(one)} for")


@settings(max_examples=30, deadline=None)
@given(st.lists(names, max_size=12))
def test_names_that_are_taken_are_numbered(wanted: list[EquationName]) -> None:
    taken: list[EquationName] = []
    for name in wanted:
        taken.append(free_name_among(taken, name))
        assert taken[-1].inside("x").root.path[0].word == name.path[0].word and taken[-1].word == name.word
    assert len(set(taken)) == len(wanted)


def test_what_the_spec_wrote_is_told_from_what_is_inside() -> None:
    written = EquationName.of("m")
    inner = written.inside("s").numbered(2).inside("x")
    assert written.is_written and not inner.is_written
    assert not EquationName.of("m.s").is_written and not written.numbered(2).is_written
    assert inner.root == written and inner.word == "x"
    assert (written.length, inner.length) == (1, 4)
    assert name_text(inner) == "m.s.2.x" and one_word(inner) == "m_s_2_x"
