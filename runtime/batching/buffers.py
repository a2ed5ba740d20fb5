"""Buffers: memory in which the states of several parameters lie end to end, and which belongs to them alone.

In: a batch and the pieces that states are to be. Out: for each a tensor with a storage of its own over its piece of the
batch's memory, so that it is saved, copied, pickled and freed as any other; and the batch again, as long as the states
still are these tensors. Nothing here keeps memory alive: it is given back when the last of the tensors is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.dlpack import from_dlpack

# Where a tensor can have a storage over a piece of another's memory. Elsewhere states are views of the whole batch:
# steps are the same, but what is saved of one state is the batch.
_SHARING = ("cpu", "cuda")


def _set_apart(piece: Tensor) -> Tensor:
    """A tensor over the memory of a contiguous piece whose storage is that piece, and keeps all of the memory alive."""
    if type(piece) is not Tensor or piece.device.type not in _SHARING:
        return piece
    return from_dlpack(piece.view(-1).data).view(piece.shape)


class Buffer:
    """A contiguous batch that is known as long as the tensors live in it that states are made of."""

    def __init__(self, batch: Tensor, tensors: Sequence[Tensor]) -> None:
        self._storage = StorageWeakRef(batch.untyped_storage())  # type: ignore[no-untyped-call]
        self._form = batch.storage_offset(), batch.shape
        self._like = batch.new_empty(0)
        self._ids = [*map(id, tensors)]
        self._pointers = [x.data_ptr() for x in tensors]

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def batch(self) -> Tensor:
        """All of the memory, in the form in which kernels see it; to be asked for only while it is held."""
        storage = self._held()
        assert storage is not None
        return torch.empty_like(self._like).set_(storage, *self._form)  # type: ignore[call-overload, no-any-return]

    def is_made_of(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these still are the tensors it was cut into; anyone may have replaced them, or their data."""
        # List by list, as this is looked at in every step, of hundreds of tensors. As long as the memory is held, no
        # other tensor can have the address of one that lies in it.
        return (
            [*map(id, tensors)] == self._ids
            and [x.data_ptr() for x in tensors] == self._pointers
            and self._held() is not None
        )

    def holds(self, index: int, x: object) -> bool:
        """Whether x is what the tensor of this index was."""
        return self._held() is not None and isinstance(x, Tensor) and x.data_ptr() == self._pointers[index]

    def _held(self) -> torch.UntypedStorage | None:
        """The memory, if any tensor still keeps it."""
        return torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)


def _storage(x: Tensor) -> int:
    """The identity of the storage, which tensors without data have as well."""
    return int(x.untyped_storage()._cdata)
