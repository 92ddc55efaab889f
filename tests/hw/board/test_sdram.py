"""The SDRAM controller behind its pads, with the part's model: words, rates, and every rule of the part."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from spatten.hw.board.sdram import Sdram
from spatten.hw.board.sdram_cutter import BurstCutter
from spatten.hw.board.sdram_order import PieceOrder
from spatten.hw.board.sdram_timing import AS4C16M16, SdramPart, SdramTiming
from spatten.hw.emit.verilog import convert
from spatten.sim.measure.synth import ecp5
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.records import read
from spatten.sim.verify.runs.sdram import BREACHES, cutter_run, model_run, part_run, run_arguments
from spatten.sim.verify.sdram_part import MODEL, RULES

TIMING = SdramTiming.of(AS4C16M16, clock_mhz=80)
TRAFFIC_TESTS = 4 + 3
RATES = {
    "streaming reads, 32 bytes a burst": 0.985,
    "streaming reads, 512 bytes a burst": 0.985,
    "random reads of 32 bytes": 0.90,
    "streaming writes, 32 bytes a burst": 0.985,
    "random writes of 32 bytes": 0.89,
    "random reads of 64 bytes": 0.94,
}
"""Words in a cycle, each a little below what docs/board.md says."""


# -- Words, rates, rules -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_words_are_what_was_written() -> None:
    run = run_arguments(tests="traffic", operations=300, row_bits=6)
    assert len(cosimulate(**run)) == TRAFFIC_TESTS


@pytest.mark.slow
def test_words_in_icarus_without_initial_values() -> None:
    run = run_arguments(tests="traffic", operations=40, row_bits=6, strip_initial=True)
    assert len(cosimulate(**run, simulator="icarus")) == TRAFFIC_TESTS


@pytest.mark.parametrize(
    ("columns", "latency"),
    [(9, 3), pytest.param(10, 3, marks=pytest.mark.slow), pytest.param(9, 2, marks=pytest.mark.slow)],
)
def test_a_little_traffic(columns: int, latency: int) -> None:
    sizes = {"row_bits": 6, "column_bits": columns, "cas_latency": latency}
    run = run_arguments(tests="brief", operations=25, strip_initial=True, **sizes)
    assert len(cosimulate(**run, simulator="icarus")) == 1


@pytest.mark.slow
def test_rates(tmp_path: Path) -> None:
    records = tmp_path / "records"
    cosimulate(**run_arguments(tests="rates", operations=1_500), measured=records)
    rates = {record["of"]: record["value"] for record in read(records)}
    print(rates)
    assert rates.keys() == RATES.keys()
    for what, least in RATES.items():
        assert rates[what] >= least, f"{what}: {rates[what]:.3f} words a cycle"


@pytest.mark.parametrize(
    "rule", [rule if rule == "T_RCD" else pytest.param(rule, marks=pytest.mark.slow) for rule in BREACHES]
)
def test_the_part_sees_a_timing_that_is_too_short(rule: str) -> None:
    run = run_arguments(tests="breach", wanted=rule, settings=BREACHES[rule], row_bits=4, operations=40)
    assert len(cosimulate(**run, simulator="icarus")) == 1


@pytest.mark.parametrize("cas_latency", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_the_models_rules_at_their_limits(cas_latency: int) -> None:
    assert len(cosimulate(**model_run(cas_latency), simulator="icarus")) == 3


@pytest.mark.slow
def test_the_models_rules_in_verilator() -> None:
    assert len(cosimulate(**model_run())) == 3


def test_the_models_rules_have_their_names() -> None:
    text = MODEL.read_text(encoding="utf-8")
    for number, rule in enumerate(RULES):
        assert f"{rule} = {number}" in text.replace("localparam [7:0] ", "")


# -- Parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timing", ["board", "fast"])
@pytest.mark.parametrize(("bench", "cycles"), [("sdram_bank", 2_000), ("sdram_upkeep", 20_000)])
def test_a_part_agrees_with_its_twin(bench: str, cycles: int, timing: str) -> None:
    assert cosimulate(**part_run(bench, timing, cycles), simulator="icarus") == ["it_agrees_with_its_twin/seed=1"]


def test_bursts_are_cut_where_rows_end() -> None:
    assert len(cosimulate(**cutter_run(), simulator="icarus", strip_initial=True)) == 4


@pytest.mark.slow
def test_verilog_is_lint_clean() -> None:
    lint(convert(Sdram(timing=TIMING)))


@pytest.mark.slow
@pytest.mark.needs("yosys")
def test_what_it_takes_of_an_ecp5() -> None:
    cells = ecp5(Sdram(timing=TIMING))
    print(cells)
    assert cells["lut4"] <= 600
    assert (cells["block_rams"], cells["multipliers"], cells["lut_rams"]) == (2, 0, 0)


# -- Sizes -------------------------------------------------------------------------------------------------------------


def test_timings_in_cycles() -> None:
    """Of the board's part at 80 MHz, by hand: 12.5 ns a cycle."""
    found = {name: getattr(TIMING, name) for name in ("t_rcd", "t_rp", "t_ras", "t_wr", "t_rfc", "t_mrd", "power_up")}
    assert found == {"t_rcd": 2, "t_rp": 2, "t_ras": 4, "t_wr": 2, "t_rfc": 6, "t_mrd": 2, "power_up": 16_000}
    assert TIMING.mode == 0x31
    assert TIMING.t_turn == 6
    # Eight rows in less than 8 / 8192 of 64 ms, 5,000 cycles.
    assert 4_990 < TIMING.refresh_period < 5_000


@pytest.mark.parametrize("clock_mhz", [25, 50, 62.5, 80, 100, 133, 143, 166])
def test_cycles_are_no_shorter_than_the_times(clock_mhz: float) -> None:
    timing = SdramTiming.of(AS4C16M16, clock_mhz=clock_mhz)
    period = 1000 / clock_mhz
    for name in ("t_rcd", "t_rp", "t_ras", "t_wr", "t_rfc"):
        assert getattr(timing, name) * period >= getattr(AS4C16M16, name) - 1e-6
    assert (timing.t_ras + timing.t_rp) * period >= AS4C16M16.t_rc - 1e-6
    assert timing.t_rcd * period >= AS4C16M16.t_rrd - 1e-6
    assert timing.refresh_period * period * 8192 / timing.batch < 64e6
    assert timing.refresh_period * period < AS4C16M16.t_ras_most


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"row_bits": 14}, ValueError, "row_bits must be 3 to 13, not 14"),
        ({"column_bits": 8}, ValueError, "column_bits must be 9 to 10, not 8"),
        ({"cas_latency": 4}, ValueError, "cas_latency must be 2 to 3, not 4"),
        ({"mode_cycles": 0}, ValueError, "mode_cycles must be 1 to 15, not 0"),
        ({"t_rcd": -1}, ValueError, "t_rcd must be at least 0, not -1"),
        ({"t_rp": "21"}, TypeError, "t_rp must be a number, not '21'"),
    ],
)
def test_a_part_is_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        dataclasses.replace(AS4C16M16, **changes)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: SdramTiming.of(None, clock_mhz=80), TypeError, "part must be an SdramPart, not None"),  # type: ignore[arg-type]
        (lambda: SdramTiming.of(AS4C16M16, clock_mhz=0), ValueError, "clock_mhz must be at least 1, not 0"),
        (lambda: SdramTiming.of(AS4C16M16, clock_mhz=80, batch=0), ValueError, "batch must be 1 to 64, not 0"),
        (
            lambda: SdramTiming.of(AS4C16M16, clock_mhz=80, batch=16),
            ValueError,
            "batch must be smaller: a row may be open for 100000 ns, and with 16 it would be for 131388 ns",
        ),
        (
            lambda: SdramTiming.of(dataclasses.replace(AS4C16M16, refresh_window=4e6), clock_mhz=80),
            ValueError,
            "refresh_window must leave time for accesses at 80 MHz, not be 320000 cycles",
        ),
        (lambda: Sdram(timing=None), TypeError, "timing must be an SdramTiming, not None"),  # type: ignore[arg-type]
        (lambda: Sdram(timing=TIMING, address_bits=24), ValueError, "address_bits must be 25 to 64, not 24"),
        (
            lambda: BurstCutter(part=AS4C16M16, address_bits=40, id_bits=0),
            ValueError,
            "id_bits must be 1 to 32, not 0",
        ),
        (
            lambda: PieceOrder(part=AS4C16M16, id_bits=1, room=256),
            ValueError,
            "room must be a power of two, at least 512, not 256",
        ),
    ],
)
def test_parameters_are_validated(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


def test_a_part_holds_what_it_says() -> None:
    assert AS4C16M16.byte_bits == 25
    assert SdramPart(**{**dataclasses.asdict(AS4C16M16), "column_bits": 10}).byte_bits == 26
