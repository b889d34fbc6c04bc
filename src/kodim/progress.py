"""Long work says how far it is; whoever shows a bar listens. Neither has to know the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("kodim progress", default=None)


@contextmanager
def listening(callback: Callable[[float], None]) -> Iterator[None]:
    """Call `callback` with the share (0..1) of the picture at hand that is done, whenever work inside reports one."""
    token = _listener.set(callback)
    try:
        yield
    finally:
        _listener.reset(token)


def report(share: float) -> None:
    """Say that `share` (0..1) of the picture at hand is done."""
    listener = _listener.get()
    if listener is not None:
        listener(share)
