"""Long work says how far it is; whoever shows a bar listens. Neither has to know the other.

Work that can end early with a good result asks now and then whether that is wanted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("kodim progress", default=None)
_reader: ContextVar[Callable[[str], None] | None] = ContextVar("kodim progress in words", default=None)
_stop: ContextVar[Callable[[], bool] | None] = ContextVar("kodim stop", default=None)


@contextmanager
def listening(callback: Callable[[float], None], words: Callable[[str], None] | None = None) -> Iterator[None]:
    """Call `callback` with the share (0..1) of the picture at hand that is done, whenever work inside reports one.

    `words` gets what it says of the result so far.
    """
    tokens = _listener.set(callback), _reader.set(words)
    try:
        yield
    finally:
        _listener.reset(tokens[0])
        _reader.reset(tokens[1])


def report(share: float, words: str = "") -> None:
    """Say that `share` (0..1) of the picture at hand is done, and perhaps how good it is so far."""
    listener, reader = _listener.get(), _reader.get()
    if listener is not None:
        listener(share)
    if reader is not None and words:
        reader(words)


@contextmanager
def part(index: int, count: int) -> Iterator[None]:
    """What is reported inside is the progress of part `index` of `count` equal ones."""
    listener, reader = _listener.get(), _reader.get()
    if listener is None or count == 1:
        yield
    else:
        with listening(lambda share: listener((index + share) / count), reader):
            yield


@contextmanager
def stoppable(asked: Callable[[], bool]) -> Iterator[None]:
    """Work inside ends early, with the best result so far, once `asked` says so."""
    token = _stop.set(asked)
    try:
        yield
    finally:
        _stop.reset(token)


def stop_wanted() -> bool:
    """Whether to end now."""
    asked = _stop.get()
    return asked is not None and asked()
