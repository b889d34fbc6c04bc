"""Signals that end a run, turned into one exception so that `finally` blocks clean up.

Python already raises KeyboardInterrupt for SIGINT, but it kills the process on SIGTERM and SIGHUP, and an
exception raised while a library is inside a callback can be swallowed there. So the signal is also noted, and
`check` raises it again at the places where a run commits to something: before a rename, before the next file.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from kodim.progress import stoppable

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(BaseException):
    """The run was told to end. Not an Exception: code that carries on after errors must not carry on here."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def reason(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"


_received: int | None = None
_patient = _asked = False


def _handle(number: int, frame: FrameType | None) -> None:
    global _received, _asked
    if _patient and number == signal.SIGINT and not _asked:
        _asked = True
        return
    if _received is None:  # a second Ctrl-C must not interrupt the cleaning up that the first one started
        _received = number
        raise Stopped(number)


def check() -> None:
    """Raise Stopped if a signal came whose exception was lost on its way."""
    if _received is not None:
        raise Stopped(_received)


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Inside the block the first Ctrl-C only sets `asked`, for work that can end early with a result.

    It counts from the end of the block on: what `check` guards then does not begin.
    """
    global _patient, _asked, _received
    _patient, _asked = True, False
    try:
        with stoppable(lambda: _asked):
            yield
    finally:
        _patient = False
        if _asked and _received is None:
            _received = signal.SIGINT


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into Stopped inside the block; an ignored signal stays ignored."""
    global _received
    _received = None
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, _handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received = None
