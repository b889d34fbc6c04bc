"""One function over many tasks, in this process or in several, on one thread each."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from kodim.errors import BadRequest

Task = TypeVar("Task")
Result = TypeVar("Result")


def run(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Each task with what `function` makes of it, in the order they are done, `jobs` at once.

    With one job tasks run here and in order; with more, `function` and the tasks travel to fresh processes.
    `progress` is called with a task's text before it is begun (one job) or when it is done.

    Raises BadRequest when a process is killed from outside, most likely for want of memory.
    """
    tell = progress or (lambda _: None)
    if jobs == 1 or len(tasks) < 2:
        with one_thread():
            for task in tasks:
                tell(str(task))
                yield task, function(task)
        return
    # "spawn": a fork of a process that has used PyTorch's threads may hang
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), get_context("spawn"), initializer=_start)
    try:
        futures = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            tell(str(futures[future]))
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise BadRequest(
            "a process of --jobs was killed, most likely for want of memory; the same command goes on, with fewer jobs"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: seconds of all codecs compare, and files do not depend on the number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start() -> None:
    """Prepare a process: one thread, the parent alone answers Ctrl-C, and nobody outlives the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when PyTorch is imported, which costs seconds and may not be needed
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
