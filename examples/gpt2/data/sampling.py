"""Which windows of the tokens a step sees.

In: ``Tokens``, a seed and a step. Out: ``Batch``es of int64 CPU tensors. The windows of a step are a pure function of
(length, seed, step, batch, context) and never of the number of processes: each draws all starts and reads the windows
of its own ``part``, so that every optimizer sees the same batches, a run can continue anywhere, and four processes
together see what one would. Keeps no state and opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.gpt2.data.tokens import Tokens

WHOLE = slice(None)
"""The part of a batch that a process on its own works on."""


class Batch(NamedTuple):
    """Token numbers and the tokens that follow them, both int64 of shape (batch, context)."""

    inputs: Tensor
    targets: Tensor


def share_batch(batch: int, *, rank: int = 0, world: int = 1, piece: int = 0, pieces: int = 1) -> slice:
    """The rows of a global batch that process ``rank`` of ``world`` sees in part ``piece`` of its accumulation.

    All shares are equally large, so that the mean of their means is the mean over the batch.
    """
    if not (0 <= rank < world and 0 <= piece < pieces):
        raise ValueError(f"there is no process {rank} of {world} with part {piece} of {pieces}")
    size, rest = divmod(batch, world * pieces)
    if rest or not size:
        raise ValueError(f"a batch of {batch} cannot be shared by {world} processes in {pieces} parts each")
    start = (rank * pieces + piece) * size
    return slice(start, start + size)


def draw_batch(tokens: Tokens, *, seed: int, step: int, batch: int, context: int, part: slice = WHOLE) -> Batch:
    """The windows of ``part`` of a global batch of ``batch`` windows at random places of ``tokens``."""
    starts = np.random.default_rng((seed, step)).integers(0, len(tokens) - context, size=batch)
    return _read(tokens, starts[part], context)


def spread_batches(tokens: Tokens, *, batches: int, batch: int, context: int, part: slice = WHOLE) -> Iterator[Batch]:
    """The fixed validation set: ``batches`` batches of windows at even distances over all of ``tokens``.

    Of every batch only the windows of ``part`` are read.
    """
    count = batches * batch
    last = len(tokens) - context - 1
    starts = np.arange(count, dtype=np.int64) * last // max(count - 1, 1)
    for chunk in starts.reshape(batches, batch):
        yield _read(tokens, chunk[part], context)


def _read(tokens: Tokens, starts: NDArray[np.int64], context: int) -> Batch:
    window = torch.from_numpy(tokens.windows(starts, context + 1))
    return Batch(window[:, :-1], window[:, 1:])
