"""Parts of a picture side by side: as many at a time as PyTorch has threads, each with one thread of its own.

A layer's threads wait for each other and for all that is serial, the range coder first of all; parts do not.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A pool of threads for work on tensors, as a context; what has not begun when it ends is dropped.

    Attributes:
        threads: how many there are.
    """

    def __init__(self) -> None:
        import torch

        self._torch, self.threads = torch, torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.threads, "kodim", torch.set_num_threads, (1,))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._torch.set_num_threads(self.threads)  # a worker's choice is the default of all threads to come

    def submit(self, function: Callable[[T], R], item: T) -> "Future[R]":
        """Begin `function(item)` as soon as a worker is free, after all that was submitted before.

        Whether it computes gradients is the caller's choice, as in a call.
        """
        return self._pool.submit(self._run, self._torch.is_grad_enabled(), function, item)

    def _run(self, gradients: bool, function: Callable[[T], R], item: T) -> R:
        with self._torch.set_grad_enabled(gradients):
            return function(item)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results in order; no more are on their way or waiting to be taken than there are workers, and one."""
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(self.submit(function, item))
            if len(pending) > self.threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
