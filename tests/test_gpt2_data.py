"""Where the GPT-2 driver's tokens come from: texts and their split, binary formats, batches, and every bad file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.gpt2.config import DataConfig
from examples.gpt2.data import (
    Corpus,
    TextError,
    Tokens,
    draw_batch,
    load_corpus,
    share_batch,
    spread_batches,
)
from examples.gpt2.data.texts import is_held_out

FOX = "the quick brown fox jumps over the lazy dog\n" * 50


def load(path: Path | None, tokenizer: str = "bytes", *, context: int = 4, cache: Path | None = None) -> Corpus:
    return load_corpus(DataConfig(path and str(path), tokenizer), context=context, cache=cache)


def as_tokens(*parts: Any, vocab_size: int = 1 << 16) -> Tokens:
    arrays = [np.asarray(part, dtype=np.uint16) for part in parts]
    return Tokens(arrays, vocab_size=vocab_size, names=[f"part{i}" for i in range(len(arrays))])


def same_tokens(first: Corpus, second: Corpus) -> bool:
    return np.array_equal(first.train[:], second.train[:]) and np.array_equal(first.validation[:], second.validation[:])


def text_of(tokens: Tokens) -> bytes:
    return bytes(tokens[:].astype(np.uint8))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load(None)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(FOX)
    return path


# text files and their split


def write_files(root: Path, count: int) -> list[str]:
    """``count`` files below ``root`` whose content is their own path, repeated."""
    names = [f"folder{i % 3}/file{i}.txt" for i in range(count)]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n" * 10)
    return names


def test_a_folder_is_split_by_file(tmp_path: Path) -> None:
    names = write_files(tmp_path, 100)
    corpus = load(tmp_path)
    train_text, held_text = text_of(corpus.train), text_of(corpus.validation)
    for name in names:
        line = f"{name}\n".encode()
        counts = (train_text.count(line), held_text.count(line))
        assert counts == ((0, 10) if is_held_out(name) else (10, 0))
    assert 3 <= sum(map(is_held_out, names)) <= 25


def test_the_split_depends_on_relative_paths_only(tmp_path: Path) -> None:
    write_files(tmp_path / "here", 40)
    write_files(tmp_path / "there", 40)
    here, there = load(tmp_path / "here"), load(tmp_path / "there")
    assert same_tokens(here, there) and here.fingerprint == there.fingerprint


def test_the_order_of_a_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, 40)
    expected, walk = load(tmp_path), os.walk

    def backwards(root: Path, **options: Any) -> Any:
        return reversed([(here, [], names[::-1]) for here, _, names in walk(root, **options)])

    monkeypatch.setattr(os, "walk", backwards)
    assert same_tokens(load(tmp_path), expected)


def test_the_split_is_pinned() -> None:
    """A different split would make logs of before and after incomparable."""
    assert [i for i in range(40) if is_held_out(f"package{i % 3}/module{i}.py")] == [6, 15, 34]


def test_hidden_and_binary_files_are_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, 40)
    expected = load(tmp_path)
    (tmp_path / ".git").mkdir()
    for i in range(20):
        (tmp_path / ".git" / f"object{i}").write_text("hidden")
        (tmp_path / f"picture{i}").write_bytes(b"binary\0binary")
    assert same_tokens(load(tmp_path), expected)


def test_what_cannot_be_read_to_an_end_is_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, 40)
    expected = load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert same_tokens(load(tmp_path), expected)


def test_a_folder_too_small_for_a_split_by_file_is_split_inside_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("abcdefghij" * 10)
    (tmp_path / "c.txt").write_text("0123456789" * 10)
    assert [is_held_out(f"{name}.txt") for name in "abc"] == [True, False, False]
    corpus = load(tmp_path)
    assert sorted(text_of(corpus.validation).split(b"\0")) == [b"", b"", b"0123456789", b"abcdefghij"]
    assert len(corpus.train) == 2 * 90 + 3


@pytest.mark.parametrize("tokenizer", ["bytes", "characters"])
@pytest.mark.parametrize("length", [100, 999, 1001, 1013])
def test_the_first_nine_tenths_of_a_file_are_trained_on(tmp_path: Path, tokenizer: str, length: int) -> None:
    content = "".join(chr(97 + i % 26) for i in range(length))
    path = tmp_path / "text.txt"
    path.write_text(content)
    corpus = load(path, tokenizer)
    assert corpus.decode(corpus.train[:].tolist()) == content[: int(0.9 * length)]
    assert corpus.decode(corpus.validation[:].tolist()) == content[int(0.9 * length) :]


def test_the_standard_library_is_the_default_text() -> None:
    corpus = load(None, context=128)
    assert len(corpus.train) > 2_000_000
    assert 0.03 < len(corpus.validation) / len(corpus.train) < 0.25
    assert b"import os" in text_of(corpus.train)
    assert (corpus.vocab_size, corpus.unit, corpus.bytes_per_token) == (256, "byte", 1.0)


# batches


def test_targets_are_the_bytes_that_follow(corpus: Corpus) -> None:
    inputs, targets = draw_batch(corpus.train, seed=0, step=1, batch=4, context=16)
    assert inputs.shape == targets.shape == (4, 16) and inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    whole = text_of(corpus.train)
    for row, following in zip(inputs, targets, strict=True):
        assert bytes([*row.tolist(), following[-1].item()]) in whole


def test_batches_depend_on_seed_and_step_only(corpus: Corpus) -> None:
    def draw(seed: int, step: int) -> torch.Tensor:
        return draw_batch(corpus.train, seed=seed, step=step, batch=4, context=16).inputs

    first = draw(0, 1)
    torch.manual_seed(5)
    assert torch.equal(first, draw(0, 1))
    assert not torch.equal(first, draw(0, 2))
    assert not torch.equal(first, draw(1, 1))


def test_the_places_of_batches_are_pinned() -> None:
    """Other places would make runs of before and after incomparable."""
    batch = draw_batch(as_tokens(range(60_000)), seed=3, step=7, batch=6, context=4)
    assert batch.inputs[:, 0].tolist() == [31851, 40931, 58056, 36005, 12879, 30825]


def test_every_window_can_be_drawn() -> None:
    batch = draw_batch(as_tokens(range(6)), seed=0, step=0, batch=200, context=4)
    assert {tuple(row) for row in batch.inputs.tolist()} == {(0, 1, 2, 3), (1, 2, 3, 4)}
    assert batch.targets.max() == 5


def test_validation_batches_span_the_text() -> None:
    batches = list(spread_batches(as_tokens(range(100)), batches=3, batch=2, context=9))
    assert [batch.inputs.shape for batch in batches] == [(2, 9)] * 3
    starts = [start for batch in batches for start in batch.inputs[:, 0].tolist()]
    assert starts == [0, 18, 36, 54, 72, 90] and batches[-1].targets[-1, -1] == 99


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_processes_and_accumulation_share_what_one_process_sees(data: st.DataObject) -> None:
    world, pieces, size = (data.draw(st.integers(1, most)) for most in (4, 3, 3))
    batch, context = world * pieces * size, data.draw(st.integers(1, 9))
    seed, step = data.draw(st.integers(0, 2**40)), data.draw(st.integers(0, 2**40))
    tokens = as_tokens(*(range(100 * i, 100 * i + 50) for i in range(3)))
    parts = [
        share_batch(batch, rank=rank, world=world, piece=piece, pieces=pieces)
        for rank in range(world)
        for piece in range(pieces)
    ]
    whole = draw_batch(tokens, seed=seed, step=step, batch=batch, context=context)
    drawn = [draw_batch(tokens, seed=seed, step=step, batch=batch, context=context, part=part) for part in parts]
    assert {len(each.inputs) for each in drawn} == {size}
    assert torch.equal(torch.cat([each.inputs for each in drawn]), whole.inputs)
    assert torch.equal(torch.cat([each.targets for each in drawn]), whole.targets)
    held_out = list(spread_batches(tokens, batches=2, batch=batch, context=context))
    shared = [list(spread_batches(tokens, batches=2, batch=batch, context=context, part=part)) for part in parts]
    for index, expected in enumerate(held_out):
        assert torch.equal(torch.cat([each[index].targets for each in shared]), expected.targets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"world": 3}, "a batch of 8 cannot be shared by 3 processes in 1 parts each"),
        ({"world": 4, "pieces": 4}, "a batch of 8 cannot be shared by 4 processes in 4 parts each"),
        ({"world": 2, "rank": 2}, "there is no process 2 of 2"),
        ({"piece": 1}, "part 1 of 1"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        share_batch(8, **arguments)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any), st.data())
@settings(max_examples=100, deadline=None)
def test_tokens_read_across_shards_as_if_they_were_one(lengths: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(lengths), dtype=np.uint16)
    tokens = as_tokens(*np.split(whole, np.cumsum(lengths)[:-1]))
    start = data.draw(st.integers(-1, len(whole)))
    stop = data.draw(st.integers(-1, len(whole) + 3))
    assert len(tokens) == len(whole) and np.array_equal(tokens[start:stop], whole[start:stop])


def test_stretches_outside_of_the_tokens_or_with_gaps_are_refused() -> None:
    tokens = as_tokens(range(5), range(5))
    for start, length in ((-1, 2), (9, 2), (10, 1)):
        with pytest.raises(IndexError):
            tokens.windows(np.array([start]), length)
    with pytest.raises(ValueError, match="without gaps"):
        tokens[::2]


def test_a_token_outside_of_the_vocabulary_is_named() -> None:
    tokens = as_tokens([1, 2, 3], [4, 5, 99, 6], vocab_size=50)
    assert tokens[:5].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(
        TextError, match="part1: expected tokens below the vocabulary size 50, found 99 as token number 2"
    ):
        tokens.windows(np.array([0, 4]), 3)
