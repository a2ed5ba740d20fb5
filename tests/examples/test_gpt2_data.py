"""Where the GPT-2 driver's tokens come from: texts and their split, binary formats, batches, and every bad file."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
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
    binary,
    draw_batch,
    encoded,
    load_corpus,
    share_batch,
    spread_batches,
    tokenizer,
)
from examples.gpt2.data.texts import Document, Text, is_held_out

ROOT = Path(__file__).parents[2]
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
    corpus, characters = load(tmp_path), load(tmp_path, "characters")
    assert text_of(corpus.validation) == characters.decode(characters.validation[:].tolist()).encode()
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


def test_a_part_must_hold_one_window_and_its_last_target(text: Path) -> None:
    length = len(load(text).validation)
    corpus = load(text, context=length - 1)
    assert draw_batch(corpus.validation, seed=0, step=0, batch=1, context=length - 1).inputs.shape == (1, length - 1)
    with pytest.raises(TextError, match=f"expected at least {length + 1} bytes in the validation part"):
        load(text, context=length)


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
        with pytest.raises(IndexError, match=rf"tokens {start} to {start + length} of 10"):
            tokens.windows(np.array([start]), length)
    with pytest.raises(ValueError, match="without gaps"):
        tokens[::2]


def test_a_token_outside_of_the_vocabulary_is_named() -> None:
    tokens = as_tokens([1, 2, 3], [4, 49, 50, 6], vocab_size=50)
    assert tokens[:5].tolist() == [1, 2, 3, 4, 49]
    with pytest.raises(
        TextError, match="part1: expected tokens below the vocabulary size 50, found 50 as token number 2"
    ):
        tokens.windows(np.array([0, 4]), 3)


# characters


def test_characters_are_numbered_in_order_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("zürich\r\n" + "𝔘a\n" * 20, newline="")
    corpus = load(path, "characters", context=2)
    assert corpus.vocab_size == len("\n\rachirzü𝔘") and corpus.unit == "character"
    assert corpus.train[:8].tolist() == ["\n\rachirzü𝔘".index(letter) for letter in "zürich\r\n"]
    assert corpus.decode([*corpus.train[:].tolist(), *corpus.validation[:].tolist()]).encode() == path.read_bytes()
    held_out = corpus.decode(corpus.validation[:].tolist())
    assert corpus.bytes_per_token == len(held_out.encode()) / len(held_out) > 1.5


def test_characters_are_counted_where_a_file_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ü" * 50 + "a" * 41 + "ü" * 9)
    corpus = load(path, "characters")
    assert len(corpus.train) == 90 and corpus.decode(corpus.validation[:].tolist()) == "a" + "ü" * 9


def test_a_vocabulary_is_that_of_both_parts(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab" * 50 + "z" * 10)
    assert load(path, "characters").vocab_size == 3


def test_files_of_characters_end_in_a_zero(tmp_path: Path) -> None:
    names = write_files(tmp_path, 40)
    corpus, plain = load(tmp_path, "characters"), load(tmp_path)
    for part in ("train", "validation"):
        shown = corpus.decode(getattr(corpus, part)[:].tolist())
        assert shown.encode() == text_of(getattr(plain, part))
    assert corpus.vocab_size == len(set("".join(names))) + 2


def test_a_digest_sees_where_documents_and_parts_end() -> None:
    a, b, ab = (Document(Path(name), np.frombuffer(name.encode(), dtype=np.uint8)) for name in ("a", "b", "ab"))
    texts = [((a, b), (ab,)), ((a,), (b, ab)), ((ab,), (ab,)), ((a, b), (a, b))]
    digests = {Text("text", train, validation, ends).digest() for train, validation in texts for ends in (True, False)}
    assert len(digests) == 8


def test_a_fingerprint_tells_contents_and_tokenizers_apart(tmp_path: Path) -> None:
    fingerprints = set()
    for content in (FOX, FOX + "!", FOX.upper()):
        path = tmp_path / "text.txt"
        path.write_text(content)
        for kind in ("bytes", "characters"):
            fingerprints.add(load(path, kind).fingerprint)
            assert load(path, kind).fingerprint in fingerprints
    assert len(fingerprints) == 6


# what is kept between runs


def test_kept_tokens_are_mapped_and_used_again(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    fresh, first = load(text, "characters"), load(text, "characters", cache=cache)
    monkeypatch.setattr("examples.gpt2.data.encoded.find_tokenizer", None)
    again = load(text, "characters", cache=cache)
    for kept in (first, again):
        assert same_tokens(kept, fresh) and kept.fingerprint == fresh.fingerprint
        assert isinstance(kept.train.parts[0].base, np.memmap)
        assert kept.decode(kept.train[:9].tolist()) == "the quick"
    assert len(list(cache.iterdir())) == 1


def test_other_content_or_another_tokenizer_is_kept_apart(text: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(text, "characters", cache=cache)
    text.write_text(FOX.upper())
    corpus = load(text, "characters", cache=cache)
    assert corpus.decode(corpus.train[:9].tolist()) == "THE QUICK" and len(list(cache.iterdir())) == 2


def test_tokens_are_kept_whole_or_not_at_all(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, write = tmp_path / "cache", encoded._write_tokens

    def fill_the_disk(path: Path, arrays: Any) -> int:
        if path.name == "validation.bin":
            raise OSError(28, "No space left on device")
        return write(path, arrays)

    monkeypatch.setattr(encoded, "_write_tokens", fill_the_disk)
    with pytest.raises(TextError, match=r"cache/characters-\w+: expected room to keep tokens in: No space left"):
        load(text, "characters", cache=cache)
    assert not list(cache.iterdir())


def test_of_two_processes_that_keep_the_same_tokens_one_wins(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, store, calls = tmp_path / "cache", encoded._store, []

    def store_twice(entry: Path, *arguments: Any) -> None:
        store(entry, *arguments)
        calls.append((entry / "train.bin").stat().st_mtime_ns)
        store(entry, *arguments)
        calls.append((entry / "train.bin").stat().st_mtime_ns)

    monkeypatch.setattr(encoded, "_store", store_twice)
    assert same_tokens(load(text, "characters", cache=cache), load(text, "characters"))
    assert calls[0] == calls[1] and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.bin", b"abc", r"train\.bin: expected the train tokens that an earlier run kept"),
        ("train.bin", b"abcd", r"train\.bin: expected \d+ tokens, found 2"),
        ("train.bin", bytes(1 << 14), r"train\.bin: expected \d+ tokens, found 8192"),
        ("validation.bin", b"", r"validation\.bin: .* found an empty file"),
        ("meta.json", b"{", r"characters-\w+: expected tokens kept by an earlier run \(delete the folder"),
        ("meta.json", b"{}", r"characters-\w+: expected tokens kept by an earlier run \(delete the folder"),
    ],
)
def test_damaged_tokens_are_named(text: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    cache = tmp_path / "cache"
    load(text, "characters", cache=cache)
    next(cache.glob(f"*/{name}")).write_bytes(content)
    with pytest.raises(TextError, match=message):
        load(text, "characters", cache=cache)


# nanoGPT's files


def write_nanogpt(folder: Path, train: Any, validation: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.asarray(train, dtype="<u2").tofile(folder / "train.bin")
    np.asarray(validation, dtype="<u2").tofile(folder / "val.bin")
    return folder


@pytest.mark.parametrize(
    ("largest", "vocab_size"), [(64, 65), (255, 256), (256, 50257), (50256, 50257), (50257, 50258), (65535, 65536)]
)
def test_the_vocabulary_of_nanogpt_follows_from_its_largest_token(
    tmp_path: Path, largest: int, vocab_size: int
) -> None:
    folder = write_nanogpt(tmp_path / "set", range(50), [*range(20), largest])
    corpus = load(folder)
    assert corpus.vocab_size == vocab_size and str(largest) in corpus.vocabulary
    assert corpus.train[:].tolist() == list(range(50)) and corpus.validation[-1:].tolist() == [largest]
    assert isinstance(corpus.train.parts[0].base, np.memmap) and corpus.unit == "token"
    assert corpus.bytes_per_token is None


def test_the_largest_token_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = write_nanogpt(tmp_path / "set", range(50), range(70)), tmp_path / "cache"
    monkeypatch.setattr(binary, "SCANNED_AT_ONCE", 7)
    assert load(folder, cache=cache).vocab_size == 70
    monkeypatch.setattr(binary, "SCANNED_AT_ONCE", None)
    assert load(folder, cache=cache).vocab_size == 70


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_beside_the_tokens_is_not_opened(tmp_path: Path) -> None:
    folder, crater = write_nanogpt(tmp_path / "set", range(50), range(50)), tmp_path / "crater"
    (folder / "meta.pkl").write_bytes(pickle.dumps(Bomb(crater)))
    load(folder, cache=tmp_path / "cache")
    assert not crater.exists()


def test_a_fingerprint_of_files_sees_sizes_starts_and_ends(tmp_path: Path) -> None:
    tokens = np.zeros(40_000)
    seen = set()
    for change in ((0, 7), (-1, 7), None, "longer"):
        changed = np.append(tokens, 0) if change == "longer" else tokens.copy()
        if isinstance(change, tuple):
            changed[change[0]] = change[1]
        seen.add(load(write_nanogpt(tmp_path / "set", changed, range(50))).fingerprint)
        assert load(tmp_path / "set").fingerprint in seen
    assert len(seen) == 4


# FineWeb shards


def write_shard(path: Path, tokens: Any, *, magic: int = 20240520, version: int = 1, count: int | None = None) -> None:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(header.tobytes() + np.asarray(tokens, dtype="<u2").tobytes())


def write_fineweb(folder: Path) -> Path:
    for i in range(3):
        write_shard(folder / f"fineweb_train_{i + 1:06}.bin", range(1000 * i, 1000 * i + 10 + i))
    write_shard(folder / "fineweb_val_000000.bin", range(5000, 5030))
    return folder


def test_shards_follow_each_other_and_are_mapped(tmp_path: Path) -> None:
    corpus = load(write_fineweb(tmp_path / "fineweb10B"))
    assert corpus.name == "fineweb10B" and (len(corpus.train), len(corpus.validation)) == (33, 30)
    assert corpus.train[8:23].tolist() == [8, 9, *range(1000, 1011), 2000, 2001]
    assert corpus.vocab_size == 50257 and corpus.unit == "token"
    assert all(isinstance(part.base, np.memmap) for part in corpus.train.parts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: write_shard(path, [1, 2], count=3),
            "expected 1030 bytes for the 3 tokens of its header, found 1028",
        ),
        (
            lambda path: write_shard(path, [1, 2], count=1),
            "expected 1026 bytes for the 1 tokens of its header, found 1028",
        ),
        (lambda path: write_shard(path, [1, 2], count=-1), "expected 1022 bytes"),
        (lambda path: write_shard(path, [1], magic=20240801), r"magic 20240520 .* found magic 20240801 and version 1"),
        (lambda path: write_shard(path, [1], version=7), r"version 1, .* found magic 20240520 and version 7"),
        (lambda path: path.write_bytes(bytes(1000)), "found 1000 bytes"),
        (lambda path: path.write_bytes(b""), "found an empty file"),
        (lambda path: (path.unlink(), path.mkdir()), "found a folder"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "No such file"),
    ],
)
def test_a_shard_that_is_not_one_is_named(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    folder = write_fineweb(tmp_path / "set")
    make(folder / "fineweb_train_000002.bin")
    with pytest.raises(
        TextError, match=rf"fineweb_train_000002\.bin: expected .*{message.removeprefix('expected ')}"
    ) as error:
        load(folder)
    assert "\n" not in str(error.value)


# every bad file


def in_nanogpt(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A folder of nanoGPT whose file ``name`` is replaced by what ``make`` makes."""

    def build(path: Path) -> None:
        write_nanogpt(path, range(50), range(50))
        (path / name).unlink()
        make(path / name)

    return build


def nothing(path: Path) -> None:
    """Leave the file missing."""


@pytest.mark.parametrize(
    ("make", "tokenizer", "message"),
    [
        (nothing, "bytes", "novel: expected a readable text file: No such file"),
        (lambda path: path.write_text(""), "bytes", "novel: expected a readable text file, found an empty file"),
        (lambda path: path.write_text("short"), "bytes", "novel: expected at least 17 bytes in the training part"),
        (lambda path: path.write_text("a" * 100), "bytes", r"at least 17 bytes in the validation part .* found 10"),
        (lambda path: path.write_text("ü" * 90), "characters", r"at least 17 characters in the validation .* found 9"),
        (lambda path: path.mkdir(), "bytes", "novel: expected a folder with text files, found none"),
        (os.mkfifo, "bytes", "novel: expected a readable text file, found neither a file nor a folder"),
        (
            lambda path: (path.mkdir(), (path / "a.txt").write_bytes(b"\0" * 99)),
            "bytes",
            "novel: expected a folder with text files, found a zero byte in each of 1 files",
        ),
        (
            lambda path: (path.mkdir(), (path / "a.txt").symlink_to("nowhere")),
            "bytes",
            r"a\.txt: expected a readable text file: No such file",
        ),
        (
            lambda path: path.write_bytes(b"abc\xff" * 100),
            "characters",
            "novel: expected text in UTF-8, found invalid start byte at byte 3; tokenizer bytes takes any file",
        ),
        (
            lambda path: (path.mkdir(), (path / "b.txt").write_bytes(b"\xff" * 400)),
            "characters",
            r"b\.txt: expected text in UTF-8",
        ),
        (lambda path: path.write_text(FOX), "words", "tokenizer words: expected bytes, characters, bpe:SIZE or gpt2"),
        (lambda path: path.write_text(FOX), "bpe", "tokenizer bpe: expected bpe:SIZE with a whole number"),
        (lambda path: path.write_text(FOX), "bpe:256", "tokenizer bpe:256: .* at least 257"),
        (lambda path: path.write_text(FOX), "bpe:1e3", "tokenizer bpe:1e3: .* at least 257"),
        (in_nanogpt("val.bin", nothing), "bytes", r"val\.bin: expected tokens of 16 bits .*: No such file"),
        (in_nanogpt("train.bin", nothing), "bytes", r"train\.bin: expected tokens of 16 bits .*: No such file"),
        (in_nanogpt("val.bin", Path.touch), "bytes", r"val\.bin: expected tokens .* found an empty file"),
        (in_nanogpt("val.bin", Path.mkdir), "bytes", r"val\.bin: expected tokens .* found a folder"),
        (
            in_nanogpt("val.bin", lambda path: path.write_bytes(b"odd")),
            "bytes",
            r"val\.bin: expected tokens .* found 3 bytes, not a whole number of tokens",
        ),
        (in_nanogpt("val.bin", lambda path: path.write_bytes(b"abcd")), "bytes", r"at least 17 tokens .* found 2"),
        (lambda path: write_nanogpt(path, range(50), range(50)), "characters", "novel: expected no tokenizer besides"),
        (lambda path: write_nanogpt(path, range(50), range(50)), "gpt2", "novel: expected no tokenizer besides"),
        (
            lambda path: write_shard(path / "x_train_1.bin", range(99)),
            "bytes",
            r"novel: expected shards of both parts, found none called \*_val_\*\.bin",
        ),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], Any], tokenizer: str, message: str
) -> None:
    path = tmp_path / "novel"
    make(path)
    with pytest.raises(TextError, match=message) as error:
        load(path, tokenizer, context=16)
    assert "\n" not in str(error.value)


def test_a_file_of_tokens_is_not_read_as_text(tmp_path: Path) -> None:
    folder = write_nanogpt(tmp_path / "set", range(50), range(50))
    with pytest.raises(TextError, match=r"train\.bin: expected a text file; .* by naming their folder"):
        load(folder / "train.bin")


@pytest.mark.parametrize("name", ["text.txt", "train.bin", "x_train_1.bin", "folder/a.txt"])
def test_files_without_permission_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Permissions do not stop every user, so the refusal is the system's only in its kind."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_shard(tmp_path / "x_val_1.bin", range(99)) if name.startswith("x_") else None
    path.write_text(FOX)
    (tmp_path / "val.bin").write_text(FOX) if name == "train.bin" else None
    write_shard(path, range(99)) if name.startswith("x_") else None

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    for owner, attribute in ((np, "memmap"), (np, "fromfile"), (Path, "read_bytes")):
        monkeypatch.setattr(owner, attribute, refuse)
    with pytest.raises(TextError, match=rf"{path.name}: expected .*: Permission denied"):
        load(path if path.suffix == ".txt" and path.parent == tmp_path else path.parent)


# pairs of bytes


@pytest.mark.peers
@pytest.mark.parametrize("cached", [False, True])
def test_a_trained_vocabulary_encodes_and_comes_back(tmp_path: Path, cached: bool) -> None:
    names, cache = write_files(tmp_path / "set", 40), tmp_path / "cache"
    (tmp_path / "set" / "folder0" / "file0.txt").write_text(f"<|endoftext|> ü𝔘\r\n\n  x {'ab ' * 50}")
    for _ in range(1 + cached):
        corpus = load(tmp_path / "set", "bpe:300", cache=cache if cached else None)
    assert corpus.vocab_size == 300 and corpus.unit == "token"
    contents = {name: (tmp_path / "set" / name).read_bytes().decode() for name in sorted(names)}
    for part, is_validation in ((corpus.train, False), (corpus.validation, True)):
        expected = [content for name, content in contents.items() if is_held_out(name) == is_validation]
        assert corpus.decode(part[:].tolist()) == "".join(f"{content}<|endoftext|>" for content in expected)
        assert (part[:] == 299).sum() == len(expected) and part[-1:].tolist() == [299]
    held_bytes = sum(10 * len(f"{name}\n") + 1 for name in names if is_held_out(name))
    assert corpus.bytes_per_token == held_bytes / len(corpus.validation) > 1.5


@pytest.mark.peers
def test_a_vocabulary_is_trained_on_the_training_part_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "text.txt", tmp_path / "other.txt"
    path.write_text("ab ab abc abcd " * 90 + "zq zq" * 30)
    other.write_text("ab ab abc abcd " * 90 + "vw vw" * 30)
    first, second = load(path, "bpe:280"), load(other, "bpe:280")
    assert first.tokenizer.write() == second.tokenizer.write()
    assert first.vocab_size < 280 and "280 were asked for" in first.vocabulary


@pytest.mark.peers
def test_training_a_vocabulary_repeats_exactly_in_another_process(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom examples.gpt2.config import DataConfig\nfrom examples.gpt2.data import load_corpus\n"
        "print(load_corpus(DataConfig(sys.argv[1], 'bpe:600'), context=8).fingerprint)"
    )
    source = str(Path(os.__file__).parent / "json")
    prints = {
        subprocess.run(
            [sys.executable, "-c", program, source],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(prints) == 1


@pytest.mark.peers
@given(st.text(st.sampled_from("ab1.'\u00fc \n\r\t\u00a0\u2003\x1c"), max_size=60), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_pieces_are_encoded_as_the_whole_text_is(content: str, length: int) -> None:
    kind = tokenizer.parse_kind("bpe:290")
    model = tokenizer.find_tokenizer(kind, ["a b\n\nb a 'a.. ab\t\t ab\r\n\r\n  ab \n ab \u00fc\u00a0b " * 9], [])
    pieces = list(tokenizer.cut_into_pieces(content, length))
    assert "".join(pieces) == content and all(len(piece) >= length for piece in pieces[:-1])
    (whole,) = model.encode([content])
    assert [token for tokens in model.encode(pieces) for token in tokens] == whole
    assert model.decode(whole) == content


@pytest.mark.peers
def test_a_text_cut_into_pieces_has_the_tokens_of_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in "bc":
        lines = (f"{name} {i} of many,\n\n  and {i * i} more\n" for i in range(500))
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    whole = load(tmp_path, "bpe:300")
    monkeypatch.setattr(tokenizer.cut_into_pieces, "__defaults__", (7,))
    assert len(list(tokenizer.cut_into_pieces((tmp_path / "b.txt").read_text()))) > 1000
    assert same_tokens(load(tmp_path, "bpe:300"), whole)


@pytest.mark.peers
def test_vocabularies_of_two_sizes_are_kept_apart(text: Path, tmp_path: Path) -> None:
    small, large = (load(text, f"bpe:{size}", cache=tmp_path / "cache") for size in (258, 270))
    assert (small.vocab_size, large.vocab_size) == (258, 270) and small.fingerprint != large.fingerprint
    assert {corpus.train.parts[0].dtype for corpus in (small, large)} == {np.dtype("<u2")}


def test_a_missing_package_is_named(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, kind in (("tokenizers", "bpe:300"), ("tiktoken", "gpt2")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            TextError, match=rf"tokenizer {kind[:3]}.*: expected the package {package}, .* the extra `data`"
        ):
            load(text, kind)


class FakeEncoding:
    """Code points instead of GPT-2's vocabulary."""

    def encode_ordinary(self, text: str) -> list[int]:
        return [ord(letter) + 300 for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join("<|endoftext|>" if token == 50256 else chr(token - 300) for token in tokens)


def replace_tiktoken(monkeypatch: pytest.MonkeyPatch, get_encoding: Callable[[str], Any]) -> None:
    fake = types.ModuleType("tiktoken")
    vars(fake)["get_encoding"] = get_encoding
    monkeypatch.setitem(sys.modules, "tiktoken", fake)


def test_gpt2s_vocabulary_is_tiktokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_tiktoken(monkeypatch, {"gpt2": FakeEncoding()}.__getitem__)
    write_files(tmp_path / "set", 40)
    plain = load(tmp_path / "set")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        corpus = load(tmp_path / "set", "gpt2", cache=cache)
        assert corpus.vocab_size == 50257 and len(corpus.train) == len(plain.train)
        shown = corpus.decode(corpus.validation[:].tolist())
        assert shown.replace("<|endoftext|>", "\0").encode() == text_of(plain.validation)
    prepared = load(write_fineweb(tmp_path / "fineweb"))
    assert prepared.decode([ord("a") + 300]) == "a"


def test_kept_tokens_of_gpt2_need_no_tiktoken(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_tiktoken(monkeypatch, {"gpt2": FakeEncoding()}.__getitem__)
    first = load(text, "gpt2", cache=tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert same_tokens(load(text, "gpt2", cache=tmp_path / "cache"), first)


def test_a_vocabulary_that_cannot_be_downloaded_is_named(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_encoding(name: str) -> None:
        raise ConnectionError("no network here\nat all")

    replace_tiktoken(monkeypatch, get_encoding)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(TextError) as error:
        load(text, "gpt2")
    message = str(error.value)
    assert message.startswith("tokenizer gpt2: expected tiktoken to have or download its vocabulary (ConnectionError)")
    assert "vocab.bpe" in message and "encoder.json" in message and "\n" not in message
    assert f"TIKTOKEN_CACHE_DIR names (now: {tmp_path})" in message


@pytest.mark.peers
def test_the_named_files_are_those_that_tiktoken_asks_for(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_module = pytest.importorskip("tiktoken.load")
    asked: list[str] = []

    def refuse(address: str) -> bytes:
        asked.append(address)
        raise ConnectionError(address)

    monkeypatch.setattr(load_module, "read_file", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for url in tokenizer.GPT2_FILES:
        with pytest.raises(TextError, match=r"tokenizer gpt2: expected tiktoken to have or download") as error:
            load(text, "gpt2")
        assert asked[-1] == url and url in str(error.value)
        put_in_place(load_module, monkeypatch, str(error.value), tmp_path, url)


def put_in_place(load_module: Any, monkeypatch: pytest.MonkeyPatch, message: str, folder: Path, url: str) -> None:
    """Follow the advice of ``message`` for ``url``; what the file contains does not matter here."""
    name = message.split(f"{url} under the name ")[1].split()[0]
    (folder / name).write_text("#version\na b\n")
    monkeypatch.setattr(load_module, "check_hash", lambda content, expected: True)


def test_prepared_tokens_of_an_unknown_vocabulary_have_no_text(tmp_path: Path) -> None:
    corpus = load(write_nanogpt(tmp_path / "set", range(50), range(50)))
    with pytest.raises(TextError, match="set: expected a known vocabulary"):
        corpus.decode([1, 2])
