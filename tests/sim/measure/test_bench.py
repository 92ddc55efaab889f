"""The benchmark's arithmetic, and its page; the figures themselves come from the command."""

from pathlib import Path
from typing import Any

import pytest

from spatten.sim.measure.bench import Figure, Timing, write_page
from spatten.sim.measure.benchmarks import GPT2_KEPT
from spatten.spec.config import PAPER


def figure(**changes: Any) -> Figure:
    values = {"group": "summarization", "name": "a layer", "row": {}, "measured": 100.0, "unit": "cycles"}
    return Figure(**{**values, **changes})


def test_a_bound_holds_from_its_side() -> None:
    assert figure(limit=100.0).reached is True
    assert figure(limit=99.0).reached is False
    assert figure(limit=99.0, at_most=False).reached is True
    assert figure(limit=101.0, at_most=False).reached is False
    assert figure().reached is None


def test_the_model_s_error_is_relative_to_the_simulation() -> None:
    assert figure(predicted=103.0, cycles=100).model_error == pytest.approx(0.03)
    assert figure(cycles=100).model_error is None


def test_shares_of_multipliers_and_bandwidth() -> None:
    timing = Timing(cycles=1000, jobs=1, macs=512_000, read_bytes=200_000, written_bytes=56_000)
    assert timing.mac_utilization(PAPER) == 0.5
    assert timing.bandwidth_fraction(PAPER) == 0.5


def test_runs_are_joined_by_their_cycles() -> None:
    counts = {"counters": {"qk_beats": 3}, "dram": {"beats": 4}, "all_read_bytes": 90}
    short = Timing(cycles=100, jobs=1, macs=5, read_bytes=51_200, written_bytes=0, **counts)
    long = Timing(cycles=300, jobs=2, macs=7, read_bytes=50_000, written_bytes=1_200, **counts)
    joined = Timing.joined([short, long])
    assert (joined.cycles, joined.jobs, joined.macs) == (400, 3, 12)
    assert joined.counters == {"qk_beats": 6}
    assert joined.dram == {"beats": 8}
    assert joined.all_read_bytes == 180
    assert joined.bandwidth_fraction(PAPER) == 0.5


def test_the_trace_s_keep_counts() -> None:
    assert GPT2_KEPT == (893, 694, 197, 197, 197, 197, 98, 98, 98, 98, 98, 98)


def test_tables_go_between_their_markers(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    tables = "<!-- figures -->\nold\n<!-- end -->\nbetween\n<!-- counters -->\nold\n<!-- end -->\n"
    page.write_text(f"before\n{tables}after\n")
    counters = {"stalled_memory": 1, "stalled_topk": 2, "qk_beats": 3, "pv_beats": 4}
    row = {"name": "a layer", "memory_model": "ideal", "cycles": 1234, "measured": 1234.0, "unit": "cycles"}
    row |= {"limit": 1000.0, "at_most": True, "reached": False, "model_error": 0.012, "counters": counters}
    row |= {"dram": {"beats": 200, "activations": 10, "conflicts": 3}, "draws": []}
    other = {**row, "name": "cascade", "setting": "cascade", "useful_fraction": 0.95, "measured": 0.5, "unit": "of all"}
    other |= {
        "draws": [0.55, 0.41, 0.5],
        "limit": 0.4,
        "at_most": False,
        "reached": True,
        "model_error": None,
        "memory_model": "hbm2",
    }
    simulation = {"cycles_per_second": 5000.0, "build_seconds": 60.0}
    write_page(page, {"summarization": [row], "generation": [other], "simulation": simulation})
    text = page.read_text()
    assert "old" not in text
    assert "| a layer | ideal | at most 1,000 cycles | 1,234 cycles (**missed**) | +1.2 % |" in text
    assert "| cascade | hbm2 | at least 40.0 % of all | 50.0 % of all (3 runs: 41.0 to 55.0 %) |  |" in text
    assert "| a layer | ideal | 1,234 | 1 | 2 | 3 | 4 |  |" in text
    assert "| cascade | hbm2 | 1,234 | 1 | 2 | 3 | 4 | 5.0 (1.5) |" in text
    assert "95.0 % (hbm2 channels)" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    page.write_text("no markers")
    with pytest.raises(ValueError, match="no table figures"):
        write_page(page, {"summarization": [row], "generation": [other], "simulation": simulation})
