"""Tokens that were prepared elsewhere: nanoGPT's ``train.bin`` and ``val.bin``, and FineWeb shards of modded-nanogpt.

In: a folder. Out: ``Shards``: the mapped arrays of both parts, their vocabulary and a fingerprint. A header is
checked against the size of its file. nanoGPT's ``meta.pkl`` is never opened, since unpickling runs whatever code it
contains. Contents are not read, but for nanoGPT's largest token, which is looked for once and kept in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.gpt2.data.errors import TextError
from examples.gpt2.data.files import appearing_whole, map_file, require_file
from examples.gpt2.data.tokenizer import Gpt2
from examples.gpt2.data.tokens import Tokens

GPT2_VOCABULARY = Gpt2.vocab_size
BYTE_VOCABULARY = 256

HEADER_ITEMS = 256
"""int32 numbers before the tokens of a FineWeb shard: magic, version, number of tokens, and zeros."""

MAGIC = 20240520
VERSION = 1

SAMPLES = 16
"""Stretches of a file, evenly spread from its start to its end, that its fingerprint sees."""

SAMPLE_BYTES = 4096
SCANNED_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """Both parts, the size of the vocabulary, why it is that, and a hash of sizes and samples of the files."""

    train: Tokens
    validation: Tokens
    vocab_size: int
    vocabulary: str
    fingerprint: str


def is_binary(folder: Path) -> bool:
    """Whether ``folder`` holds one of the two formats, be it incomplete."""
    return _is_nanogpt(folder) or any(_shard_paths(folder, part) for part in ("train", "val"))


def read_binary(folder: Path, cache: Path | None) -> Shards:
    """The tokens in ``folder``; ``cache`` is a folder that may remember the largest one."""
    return _read_nanogpt(folder, cache) if _is_nanogpt(folder) else _read_fineweb(folder)


def _is_nanogpt(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("train.bin", "val.bin"))


def _shard_paths(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"*_{part}_*.bin"))


def _read_nanogpt(folder: Path, cache: Path | None) -> Shards:
    paths = [folder / "train.bin", folder / "val.bin"]
    arrays = [map_file(path, "<u2", "tokens of 16 bits as nanoGPT writes them") for path in paths]
    fingerprint = _fingerprint("nanogpt", paths)
    largest = _find_largest(arrays, cache and cache / f"largest-{fingerprint[:20]}")
    vocab_size = largest + 1
    vocabulary = f"the largest token of train.bin and val.bin is {largest}"
    if BYTE_VOCABULARY <= largest < GPT2_VOCABULARY:
        vocab_size = GPT2_VOCABULARY
        vocabulary += ", so that the vocabulary is taken to be GPT-2's"
    train, validation = (
        Tokens([array], vocab_size=vocab_size, names=[str(path)]) for array, path in zip(arrays, paths, strict=True)
    )
    return Shards(train, validation, vocab_size, vocabulary, fingerprint)


def _find_largest(arrays: Sequence[NDArray[Any]], entry: Path | None) -> int:
    """The largest token, from ``entry`` if an earlier run kept it there; gigabytes take seconds to minutes."""
    if entry is not None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return int(json.loads((entry / "largest.json").read_text(encoding="utf-8")))
    largest = max(
        int(array[start : start + SCANNED_AT_ONCE].max())
        for array in arrays
        for start in range(0, len(array), SCANNED_AT_ONCE)
    )
    if entry is not None:
        with appearing_whole(entry) as draft:
            (draft / "largest.json").write_text(json.dumps(largest), encoding="utf-8")
    return largest


def _read_fineweb(folder: Path) -> Shards:
    parts = {}
    for part in ("train", "val"):
        paths = _shard_paths(folder, part)
        if not paths:
            raise TextError(f"{folder}: expected shards of both parts, found none called *_{part}_*.bin")
        names = [str(path) for path in paths]
        parts[part] = Tokens([_map_shard(path) for path in paths], vocab_size=GPT2_VOCABULARY, names=names)
    fingerprint = _fingerprint("fineweb", [*_shard_paths(folder, "train"), *_shard_paths(folder, "val")])
    return Shards(parts["train"], parts["val"], GPT2_VOCABULARY, "the shards hold GPT-2's tokens", fingerprint)


def _map_shard(path: Path) -> NDArray[Any]:
    header_bytes = 4 * HEADER_ITEMS
    expected = f"a FineWeb shard: {header_bytes} bytes of header with magic {MAGIC} and version {VERSION}, then tokens"
    size = require_file(path, expected)
    if size < header_bytes:
        raise TextError(f"{path}: expected {expected}, found {size} bytes")
    try:
        magic, version, count = np.fromfile(path, dtype="<i4", count=3).tolist()
    except OSError as error:
        raise TextError(f"{path}: expected {expected}: {error.strerror or error}") from error
    if (magic, version) != (MAGIC, VERSION):
        raise TextError(f"{path}: expected {expected}, found magic {magic} and version {version}")
    whole = header_bytes + 2 * count
    if size != whole:
        raise TextError(f"{path}: expected {whole} bytes for the {count} tokens of its header, found {size}")
    return map_file(path, "<u2", expected, offset=header_bytes)


def _fingerprint(format_name: str, paths: Sequence[Path]) -> str:
    """A hash of the format, and of the size, the start, the end and samples of each file."""
    state = hashlib.sha256(format_name.encode())
    for path in paths:
        content = map_file(path, "u1", "a file of tokens")
        state.update(f"file of {len(content)}".encode())
        last = max(len(content) - SAMPLE_BYTES, 0)
        for index in range(SAMPLES):
            start = last * index // (SAMPLES - 1)
            state.update(content[start : start + SAMPLE_BYTES].data)
    return state.hexdigest()
