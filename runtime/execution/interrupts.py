"""Interrupts: Ctrl-C waits until what a step writes is whole.

In: SIGINT while parameters and states are being written. Out: the same signal, passed on to the handler that was
installed before. What is written is not known here, and no other signal is touched.
"""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, cast

import torch


class _DeferredInterrupts:
    """Within this context Ctrl-C (SIGINT) is noted; it is passed on at the end, and a second one at the next `pause`.

    What receives it then is the handler that was installed when the context was entered, once for each Ctrl-C: Python's
    own raises KeyboardInterrupt, a user's may do anything. Contexts nest: the inner one passes on to the outer one.
    Nothing is changed where no Python code would run at a Ctrl-C: outside the main thread, which alone runs handlers,
    and where the signal is ignored, kills the process or belongs to a program that embeds Python. Entering and leaving
    takes about ten microseconds. `torch.compile` leaves all of it out.
    """

    def __init__(self) -> None:
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._noted = 0

    def __enter__(self) -> _DeferredInterrupts:
        if not torch.compiler.is_compiling() and threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._noted += 1

    def pause(self) -> None:
        """To be called where everything is whole: passes on what was noted if there is more than one Ctrl-C."""
        if self._noted > 1:
            self._pass_on()

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)  # runs `_note` first if a signal is waiting
            self._pass_on()

    def _pass_on(self) -> None:
        count, self._noted = self._noted, 0
        for _ in range(count):
            cast(Any, self._handler)(signal.SIGINT, inspect.currentframe())
