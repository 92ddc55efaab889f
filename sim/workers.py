"""Processes that share work, and end with whoever started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from types import FrameType

from hw.errors import SpattenError

__all__ = ["WorkersError", "require_jobs", "workers"]


class WorkersError(SpattenError, ValueError):
    """A number of processes that cannot be."""


def require_jobs(jobs: int) -> None:
    """Raise `WorkersError` unless so many things can be done side by side."""
    if jobs < 1:
        raise WorkersError(f"jobs must be at least 1, not {jobs}")


@contextlib.contextmanager
def workers(jobs: int, tasks: int) -> Iterator[ProcessPoolExecutor]:
    """Up to `jobs` fresh processes for `tasks` tasks, until the block ends.

    If it ends with an exception, an interrupt too, tasks that wait are dropped and those under way interrupted: the
    first failure is enough, and nobody waits for the rest.
    """
    require_jobs(jobs)
    context = multiprocessing.get_context("spawn")
    size = max(1, min(jobs, tasks))
    with ProcessPoolExecutor(size, mp_context=context, initializer=_end_quietly) as pool:
        try:
            # All processes start with the first task. An interrupt meanwhile would end them in the middle of an import.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                pool.submit(int)
            finally:
                signal.signal(signal.SIGINT, before)
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
            raise


def _end_quietly() -> None:
    """Have an interrupt end this process, and what it is doing, without a traceback on everybody's terminal."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, end)
