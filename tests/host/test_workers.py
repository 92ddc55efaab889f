"""Processes that share work: how many there are, and that they end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spatten.host.workers import WorkersError, require_jobs, workers
from tests.checkout import ROOT

_PROGRAM = """
import sys, time, typer
from pathlib import Path
from spatten.cli.main import run_app
from spatten.host.workers import workers
from tests.host.test_workers import work

app = typer.Typer(add_completion=False)

@app.command()
def main(place: Path):
    with workers(2, 3) as pool:
        for name in "abc":
            pool.submit(work, place / name)
        while len(list(place.iterdir())) < 2:
            time.sleep(0.01)
        print("ready", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    run_app(app, "python -m program")
"""


def work(path: Path) -> None:
    """Begin something long."""
    path.write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("jobs", [0, -1])
def test_fewer_than_one(jobs: int) -> None:
    with pytest.raises(WorkersError, match=f"^jobs must be at least 1, not {jobs}$"):
        require_jobs(jobs)
    with pytest.raises(WorkersError), workers(jobs, 1):
        pass


def test_there_are_no_more_than_tasks() -> None:
    with workers(10**9, 2) as pool:
        pids = {one.result() for one in [pool.submit(os.getpid) for _ in range(20)]}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_a_failure_ends_all_of_them(capfd: pytest.CaptureFixture[str]) -> None:
    def divide_and_wait() -> None:
        with workers(2, 3) as pool:
            for one in [pool.submit(divmod, 1, 0), pool.submit(time.sleep, 60), pool.submit(time.sleep, 60)]:
                one.result()

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        divide_and_wait()
    assert time.monotonic() - began < 30
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("everybody", [True, False])
def test_an_interrupt_ends_all_of_them_in_one_line(everybody: bool, tmp_path: Path) -> None:
    """Whether the terminal interrupts them, too, or only the process that started them is told."""
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    place = tmp_path / "place"
    place.mkdir()
    with subprocess.Popen(
        [sys.executable, str(program), str(place)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if everybody:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"interrupted\n")
    assert len(list(place.iterdir())) == 2, "the third task was not begun"
    for path in place.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
