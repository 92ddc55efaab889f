"""Processes that share work, and end with the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from types import FrameType
from typing import Any

from spatten.spec.errors import SpattenError

__all__ = ["Workers", "WorkersError", "require_jobs", "workers"]

_interrupted = threading.Event()
"""Whether this worker process was interrupted."""


class WorkersError(SpattenError, ValueError):
    """An impossible number of processes."""


def require_jobs(jobs: int) -> None:
    """Raise `WorkersError` unless `jobs` things can be done side by side."""
    if jobs < 1:
        raise WorkersError(f"jobs must be at least 1, not {jobs}")


class Workers:
    """Takes tasks, and hands them to worker processes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a worker call `function`, which must be one that can be imported."""
        # A worker may start now. It inherits the blocked interrupt, which waits until it can end without a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(_work, function, arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def workers(jobs: int, tasks: int) -> Iterator[Workers]:
    """Up to `jobs` fresh processes for `tasks` tasks, until the block ends.

    If the block ends with an exception, such as an interrupt, waiting tasks are dropped and running ones interrupted:
    the first failure is enough, and nobody waits for the rest.
    """
    require_jobs(jobs)
    context = multiprocessing.get_context("spawn")
    size = max(1, min(jobs, tasks))
    with ProcessPoolExecutor(size, mp_context=context, initializer=_end_quietly) as pool:
        try:
            yield Workers(pool)
        except BaseException:
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _work(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    if _interrupted.is_set():  # a task that this process had been given before the interrupt
        sys.exit(128 + signal.SIGINT)
    return function(*arguments)


def _end_quietly() -> None:
    """Have an interrupt end what this process does, without a traceback on everybody's terminal."""

    def end(number: int, frame: FrameType | None) -> None:
        if not _interrupted.is_set():  # only once: a task that has begun to clean up is left alone
            _interrupted.set()
            sys.exit(128 + number)

    signal.signal(signal.SIGINT, end)
    with contextlib.suppress(SystemExit):  # an interrupt that has waited: the first task sees that it came
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
