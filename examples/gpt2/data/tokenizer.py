"""How characters become tokens and back.

In: the text of ``DataConfig.tokenizer`` and documents. Out: a ``Tokenizer``, found from the documents (``characters``,
``bpe:SIZE``) or fixed (``gpt2``), that encodes, decodes, and can be written down as text and restored. ``bytes``
needs none: its tokens are the content. Writes no file; tiktoken may download its vocabulary.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from examples.gpt2.data.errors import TextError

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

END_OF_FILE = "\0"
"""Stands after each file of a folder where tokens are bytes or characters; text has no zero byte."""

END_OF_TEXT = "<|endoftext|>"
"""How the token that stands after each file is shown where tokens are longer."""

SMALLEST_BPE = 257
"""The 256 bytes and the token that ends a text."""

PIECE = 1 << 18
"""About how many characters are encoded at once."""

GPT2_FILES = tuple(
    f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}" for name in ("vocab.bpe", "encoder.json")
)
"""Where tiktoken takes its vocabulary from; in its cache a file is called by the SHA-1 of its address."""


class Tokenizer(Protocol):
    """What all tokenizers can do."""

    unit: str
    vocab_size: int
    end: int  # the token that stands after each file of a folder

    def encode(self, pieces: Sequence[str]) -> Iterable[Sequence[int] | NDArray[Any]]:
        """The tokens of each of ``pieces``."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters of ``tokens``; bytes that make up no character become a replacement character."""

    def write(self) -> str:
        """What ``restore_tokenizer`` needs besides the kind."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A tokenizer as asked for: ``bytes``, ``characters``, ``bpe`` with a ``size``, or ``gpt2``."""

    name: str
    size: int = 0

    @property
    def identity(self) -> str:
        """What decides the tokens besides the text; another release of a library may train another vocabulary."""
        release = f" by tokenizers {_release_of('tokenizers')}" if self.name == "bpe" else ""
        return f"{self.name}:{self.size}{release}"


def parse_kind(text: str) -> Kind:
    """The kind that ``DataConfig.tokenizer`` names."""
    if text in ("bytes", "characters", "gpt2"):
        return Kind(text)
    name, _, size = text.partition(":")
    if name != "bpe":
        raise TextError(f"tokenizer {text}: expected bytes, characters, bpe:SIZE or gpt2")
    if not (size.isascii() and size.isdigit() and int(size) >= SMALLEST_BPE):
        raise TextError(f"tokenizer {text}: expected bpe:SIZE with a whole number of at least {SMALLEST_BPE}")
    return Kind(name, int(size))


def find_tokenizer(kind: Kind, train: Sequence[str], others: Sequence[str]) -> Tokenizer:
    """The tokenizer of ``kind``: ``characters`` are those of all texts, a BPE is trained on ``train`` alone."""
    if kind.name == "characters":
        return Characters("".join(sorted(set().union(*map(set, [*train, *others])))))
    if kind.name == "bpe":
        return _train_bpe(kind.size, train)
    return Gpt2()


def restore_tokenizer(kind: Kind, written: str) -> Tokenizer:
    """The tokenizer of ``kind`` whose ``write`` gave ``written``."""
    if kind.name == "characters":
        return Characters(written)
    if kind.name == "bpe":
        return BytePairs(_import_tokenizers().Tokenizer.from_str(written))
    return Gpt2()


def cut_into_pieces(text: str, length: int = PIECE) -> Iterator[str]:
    """``text`` in pieces of ``length`` characters or a little more, cut only where every tokenizer here cuts anyway.

    A byte-level BPE never joins what is before white space with the white space, and looks no further back.
    """
    start = 0
    while start < len(text):
        cut = re.compile(r"(?<=\S)(?=[ \n])").search(text, start + length)
        stop = cut.start() if cut else len(text)
        yield text[start:stop]
        start = stop


class Characters:
    """Every different character is a token, in the order of the code points."""

    unit = "character"

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet
        self.vocab_size = len(alphabet)
        self.end = alphabet.find(END_OF_FILE)
        self._codes = _code_points(alphabet)

    def encode(self, pieces: Sequence[str]) -> Iterator[NDArray[Any]]:
        """The place of each character in the alphabet."""
        for piece in pieces:
            yield np.searchsorted(self._codes, _code_points(piece))

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters themselves."""
        return "".join(self.alphabet[token] for token in tokens)

    def write(self) -> str:
        """The alphabet."""
        return self.alphabet


class BytePairs:
    """A byte-level BPE of Hugging Face ``tokenizers``; the last token ends a text and never stands for characters."""

    unit = "token"

    def __init__(self, model: tokenizers.Tokenizer) -> None:
        self._model = model
        self.end = model.get_vocab_size()
        self.vocab_size = self.end + 1

    def encode(self, pieces: Sequence[str]) -> Iterator[Sequence[int]]:
        """The tokens of each piece; the library uses several threads."""
        for encoding in self._model.encode_batch_fast(list(pieces), add_special_tokens=False):
            yield encoding.ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters, and ``END_OF_TEXT`` where a text ends."""
        parts: list[list[int]] = [[]]
        for token in tokens:
            if token == self.end:
                parts.append([])
            else:
                parts[-1].append(token)
        return END_OF_TEXT.join(self._model.decode(part) for part in parts)

    def write(self) -> str:
        """The library's own format."""
        return self._model.to_str()


class Gpt2:
    """GPT-2's own vocabulary, which tiktoken knows; it is opened when first needed."""

    unit = "token"
    vocab_size = 50257
    end = 50256

    def __init__(self) -> None:
        self._encoding: tiktoken.Encoding | None = None

    def encode(self, pieces: Sequence[str]) -> Iterator[Sequence[int]]:
        """The tokens of each piece; the mark of the end of a text is ordinary text where it is written out."""
        encoding = self._open()
        for piece in pieces:
            yield encoding.encode_ordinary(piece)

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters, and ``END_OF_TEXT`` where a text ends."""
        return self._open().decode(list(tokens))

    def write(self) -> str:
        """Nothing: the vocabulary is always the same."""
        return ""

    def _open(self) -> tiktoken.Encoding:
        if self._encoding is None:
            self._encoding = _open_gpt2()
        return self._encoding


def _train_bpe(size: int, train: Sequence[str]) -> BytePairs:
    library = _import_tokenizers()
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - 1,  # the token that ends a text is ours
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator((piece for text in train for piece in cut_into_pieces(text)), trainer)
    return BytePairs(model)


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise TextError(
            "tokenizer bpe: expected the package tokenizers, which is not installed; the extra `data` brings it"
        ) from error
    return tokenizers


def _open_gpt2() -> tiktoken.Encoding:
    try:
        import tiktoken
    except ImportError as error:
        raise TextError(
            "tokenizer gpt2: expected the package tiktoken, which is not installed; the extra `data` brings it"
        ) from error
    try:
        return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # those of the requests library are OSErrors
        files = " and ".join(f"{url} under the name {hashlib.sha1(url.encode()).hexdigest()}" for url in GPT2_FILES)
        folder = os.environ.get("TIKTOKEN_CACHE_DIR") or "is not set"
        raise TextError(
            f"tokenizer gpt2: expected tiktoken to have or download its vocabulary ({type(error).__name__}); "
            f"without a network, put {files} into the folder that TIKTOKEN_CACHE_DIR names (now: {folder})"
        ) from error


def _release_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown release"


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
