"""The soak's command line, on a stand-in for the machine; tests/hw/test_spatten.py runs campaigns."""

from __future__ import annotations

from typing import Any

import pytest

import spatten.cli.soak
from spatten.sim.machine.campaigns import DifferenceError
from spatten.sim.machine.soak import conditions
from tests.cli.command_line import Nothing, run_spatten


def soak(monkeypatch: pytest.MonkeyPatch, *arguments: str, wrong: int | None = None) -> tuple[int, str, list[Any]]:
    """Exit status and output, and the campaigns that ran; that of seed `wrong` differs."""
    ran = []

    def soak_one(_: Any, seed: int, jobs: int, *, done: Any) -> None:
        ran.append((seed, jobs))
        if seed == wrong:
            raise DifferenceError("rows is 1, not 2: Task(tag=3)")
        for _ in range(jobs):
            done()

    for name in ("Machine", "SimulatedTransport", "Device"):
        monkeypatch.setattr(spatten.cli.soak, name, Nothing)
    monkeypatch.setattr(spatten.cli.soak, "accelerator_verilog", lambda *_, **__: "")
    monkeypatch.setattr(spatten.cli.soak, "require_tools", lambda simulator: None)
    monkeypatch.setattr(spatten.cli.soak, "machine_of", lambda _: Nothing())
    monkeypatch.setattr(spatten.cli.soak, "soak_one", soak_one)
    result = run_spatten("soak", *arguments)
    return result.status, " ".join((result.output + result.errors).split()), ran


def test_jobs_are_shared_out_to_campaigns(monkeypatch: pytest.MonkeyPatch) -> None:
    status, output, ran = soak(monkeypatch, "--jobs", "120", "--seed", "7")
    assert status == 0
    assert ran == [(7, 50), (8, 50), (9, 20)]
    assert "the first with seed 7" in output
    assert "120 jobs as in the golden model" in output


def test_a_difference_ends_it_with_what_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    status, output, ran = soak(monkeypatch, "--jobs", "0", "--seed", "7", "--set", "topk_lanes=4", wrong=9)
    assert status == 1
    assert ran[-1] == (9, 50)
    assert "rows is 1, not 2: Task(tag=3)" in output
    assert "spatten soak --config tiny --set topk_lanes=4 --seed 9 --jobs 50 --campaign-jobs 50" in output


def test_a_configuration_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    status, output, ran = soak(monkeypatch, "--config", "huge")
    assert status == 2
    assert "configuration must be one of" in output
    assert not ran


def test_conditions_follow_the_seed() -> None:
    some = [conditions(seed) for seed in range(40)]
    assert some == [conditions(seed) for seed in range(40)]
    assert {one.memory["model"] for one in some} == {"ideal", "hbm2"}
    assert len({one.stall for one in some}) == 5
