"""The harness itself: that it notices circuits that are wrong, simulators that fail, and initial values that matter."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

import spatten.sim.verify.build
import spatten.sim.verify.cosim
from spatten.hw.emit.payload import Payload
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import SimulatorError, build, lint, require_tools
from spatten.sim.verify.cosim import CosimulationError, _judge, cosimulate, seeds
from spatten.sim.verify.stream import _check_share
from spatten.sim.verify.transformations import strip_initial_values
from tests.checkout import ROOT

LAYOUT = data.StructLayout({"tag": 8, "lanes": data.ArrayLayout(signed(4), 3)})
SIGNATURE = {"i": In(stream.Signature(LAYOUT)), "o": Out(stream.Signature(LAYOUT))}


class Passer(wiring.Component):
    """One register with valid and ready; `fault` at row `at` makes it wrong."""

    def __init__(self, fault: str = "none", at: int = 5) -> None:
        self._fault = fault
        self._at = at
        super().__init__(SIGNATURE)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fault = self._fault
        row = Signal(8)
        held = Signal(LAYOUT, reset_less=True)
        full = Signal()
        never_reset = Signal(4, reset_less=True)
        repeated = Signal()
        here = row == self._at
        taken = self.o.valid & self.o.ready
        m.d.comb += [
            self.o.valid.eq(full),
            self.o.payload.eq(held),
            self.i.ready.eq(~full | self.o.ready),
        ]
        with m.If(self.i.ready):
            m.d.sync += full.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += Value.cast(held).eq(Value.cast(self.i.payload))
        with m.If(taken):
            m.d.sync += row.eq(row + 1)
        match fault:
            case "wrong value":
                m.d.comb += self.o.payload.lanes[1].eq(Mux(here, held.lanes[1] ^ 1, held.lanes[1]))
            case "dropped row":
                with m.If(here & self.i.valid & self.i.ready):
                    m.d.sync += [full.eq(0), row.eq(row + 1)]
            case "repeated row":
                with m.If(here & taken & ~repeated):
                    m.d.sync += [full.eq(1), repeated.eq(1), Value.cast(held).eq(Value.cast(held))]
                    m.d.comb += self.i.ready.eq(0)
            case "payload changes":
                with m.If(here & ~self.o.ready):
                    m.d.sync += held.lanes[2].eq(held.lanes[2] ^ 2)
            case "valid falls":
                with m.If(here & full & ~self.o.ready & ~repeated):
                    m.d.sync += [full.eq(0), repeated.eq(1)]
            case "hang":
                with m.If(row >= self._at):
                    m.d.comb += [self.o.valid.eq(0), self.i.ready.eq(0)]
            case "valid waits for ready":
                m.d.comb += self.o.valid.eq(full & self.o.ready)
            case "valid without reset":
                # Never set, but nothing resets it either.
                with m.If(row == 255):
                    m.d.sync += never_reset.eq(~never_reset)
                m.d.comb += self.o.valid.eq(full | never_reset[0])
            case "payload without reset":
                m.d.sync += never_reset.eq(never_reset + 1)
                m.d.comb += self.o.payload.lanes[0].eq(held.lanes[0] ^ Mux(here, never_reset, 0))
        return m


def _pass(component: wiring.Component, scenario: str = "pass", **options: Any) -> list[str]:
    settings: dict[str, Any] = {"simulator": "icarus", "test_module": "tests.sim.verify.cocotb_harness"}
    settings |= {"parameters": {"scenario": scenario, **options.pop("parameters", {})}, **options}
    return cosimulate(component, **settings)


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed runs are kept, and most of these fail."""
    monkeypatch.setattr(spatten.sim.verify.cosim, "runs", lambda: tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPATTEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sim"


# -- Wrong circuits are noticed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["pass", "stall", "patient"])
def test_a_right_circuit_passes(scenario: str) -> None:
    assert _pass(Passer(), scenario, strip_initial=True) == ["scenario"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "at", "scenario", "message"),
    [
        ("wrong value", 5, "pass", r"o row 5: lanes\[1\] is -0x6, not -0x5, cycle \d+, seed 1"),
        ("dropped row", 5, "pass", r"o row 6: tag is 0x7, not 0x6; lanes\[0\] is 0x7, not 0x6; .*, cycle \d+, seed 1"),
        ("dropped row", 38, "pass", r"no output for 50 cycles: got 39 of 40 rows on o, seed 1"),
        ("repeated row", 5, "pass", r"o row 6: tag is 0x5, not 0x6; .*, cycle \d+, seed 1"),
        ("repeated row", 39, "pass", r"o row 40 came but only 40 were expected: \{'tag': 39, .*\}, cycle \d+, seed 1"),
        (
            "payload changes",
            5,
            "patient",
            r"o\.payload changed while row 5 was stalled: lanes\[2\] is 0x2, not 0x0 as before, cycle \d+, seed 1",
        ),
        ("valid falls", 5, "patient", r"o\.valid fell from 1 to 0 before row 5 was taken, cycle \d+, seed 1"),
        ("hang", 12, "pass", r"no output for 50 cycles: got 12 of 40 rows on o, seed 1"),
        ("valid waits for ready", 0, "patient", r"no output for 50 cycles: got 0 of 40 rows on o, seed 1"),
    ],
)
def test_a_wrong_circuit_fails(fault: str, at: int, scenario: str, message: str) -> None:
    with pytest.raises(CosimulationError) as caught:
        _pass(Passer(fault, at), scenario)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("payload without reset", r"o row 5: lanes\[0\] is XXXX while valid, cycle \d+, seed 1"),
        ("valid without reset", r"o\.valid is X, cycle \d+, seed 1"),
    ],
)
def test_a_register_without_reset_shows_as_x(fault: str, message: str) -> None:
    if fault == "payload without reset":
        # The initial values hide it, or give another wrong result than X.
        with pytest.raises(CosimulationError, match=r"lanes\[0\] is -?0x"):
            _pass(Passer(fault))
    else:
        assert _pass(Passer(fault))
    with pytest.raises(CosimulationError) as caught:
        _pass(Passer(fault), strip_initial=True)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.slow
def test_a_register_without_reset_starts_at_random_in_verilator() -> None:
    values = set()
    for seed in seeds(5):
        with pytest.raises(CosimulationError) as caught:
            _pass(Passer("payload without reset"), simulator="verilator", strip_initial=True, seed=seed)
        values |= set(re.findall(r"lanes\[0\] is (-?0x.)", str(caught.value)))
    assert len(values) > 1, f"always {values}"
    assert _pass(Passer(), simulator="verilator", strip_initial=True)


@pytest.mark.slow
def test_simulated_time_is_limited() -> None:
    with pytest.raises(CosimulationError, match="the test ran for 21 cycles, above its limit, seed 1"):
        _pass(Passer(), parameters={"max_cycles": 20})


def test_waiting_is_limited() -> None:
    with pytest.raises(CosimulationError, match="no grant for 20 cycles, seed 1"):
        _pass(Passer(), "wait")


@pytest.mark.slow
def test_wrong_use_of_the_bench_is_named() -> None:
    signals = "clk, full, held, i__payload, i__ready, i__valid, .*o__payload, o__ready, o__valid"
    with pytest.raises(CosimulationError, match=f"the circuit has no signal 'k__payload'; it has {signals}"):
        _pass(Passer(), "no such signal")
    with pytest.raises(CosimulationError, match="i__payload has 20 bits, its shape 7"):
        _pass(Passer(), "wrong shape")
    with pytest.raises(TypeError, match="idle must be a number, not '1'"):
        _check_share("idle", "1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"stall must be at least 0 and below 1, not 1\.0"):
        _check_share("stall", 1.0)


# -- Failing simulators are noticed -----------------------------------------------------------------------------------


def test_a_crash_is_not_a_pass() -> None:
    with pytest.raises(SimulatorError, match="and without results"):
        _pass(Passer(), "crash")


def test_a_module_without_tests_is_not_a_pass() -> None:
    # cocotb itself ends well then, with exit status 0.
    with pytest.raises(SimulatorError, match="ended with status 0 and without results"):
        cosimulate(Passer(), test_module="json", simulator="icarus")


def test_a_module_that_cannot_be_imported_is_not_a_pass() -> None:
    with pytest.raises((SimulatorError, CosimulationError), match="no_such_module"):
        cosimulate(Passer(), test_module="tests.no_such_module", simulator="icarus")


@pytest.mark.slow
def test_wall_clock_time_is_limited() -> None:
    start = time.monotonic()
    with pytest.raises(SimulatorError, match="icarus did not finish to run top within 4 s"):
        _pass(Passer(), "sleep", timeout_seconds=4)
    assert time.monotonic() - start < 30


def test_results_are_judged_by_xml_and_exit_status(tmp_path: Path) -> None:
    def write(text: str) -> Path:
        (tmp_path / "results.xml").write_text(text, encoding="utf-8")
        return tmp_path / "results.xml"

    def suite(cases: str) -> str:
        return f"<testsuites><testsuite>{cases}</testsuite></testsuites>"

    log = tmp_path / "run.log"
    log.write_text("line\n" * 100 + "no errors, 0 failed, all PASSED\n")
    judge = functools.partial(_judge, log=log, what="x")
    assert judge(write(suite("<testcase name='a'/><testcase name='b'><skipped/></testcase>")), 0) == ["a"]
    with pytest.raises(SimulatorError, match="without results"):
        judge(tmp_path / "absent.xml", 0)
    with pytest.raises(SimulatorError, match="broken results"):
        judge(write("<testsuites><testsuite>"), 0)
    with pytest.raises(SimulatorError, match="no cocotb test ran"):
        judge(write(suite("<testcase name='b'><skipped/></testcase>")), 0)
    with pytest.raises(SimulatorError, match="tests passed, but the simulator ended with status 139"):
        judge(write(suite("<testcase name='a'/>")), 139)
    failed = "<testcase name='b'><failure message='row 3'/></testcase><testcase name='c'><error/></testcase>"
    with pytest.raises(CosimulationError, match=r"2 of 3 tests failed (?s:.*)\nb: row 3\nc: failed without a message$"):
        judge(write(suite("<testcase name='a'/>" + failed)), 0)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"simulator": "vcs"}, ValueError, "simulator must be one of verilator, icarus, not 'vcs'"),
        ({"test_module": 3}, TypeError, "test_module must be a string, not 3"),
        ({"seed": "1"}, TypeError, "seed must be an integer, not '1'"),
        ({"seed": -1}, ValueError, "seed must be at least 0, not -1"),
        ({"timeout_seconds": 0}, ValueError, "timeout_seconds must be above 0, not 0"),
        ({"parameters": {"a": {1}}}, TypeError, "parameters must be what JSON can hold, not {'a': {1}}"),
        ({"top": "1top"}, ValueError, "name must be a Verilog identifier, not '1top'"),
    ],
)
def test_parameters_are_validated(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        cosimulate(Passer(), **{"test_module": "tests.sim.verify.cocotb_harness", "simulator": "icarus", **options})
    assert str(caught.value) == text


def test_component_is_validated() -> None:
    with pytest.raises(TypeError, match=r"component must be a wiring\.Component, not 'top'"):
        cosimulate("top", test_module="tests.sim.verify.cocotb_harness", simulator="icarus")  # type: ignore[arg-type]


def test_seeds_are_fixed_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEED", raising=False)
    assert seeds() == [1, 2]
    assert len(set(seeds(8))) == 8
    with pytest.raises(ValueError, match="count must be 1 to 8, not 9"):
        seeds(9)
    monkeypatch.setenv("SEED", "0x10")
    assert seeds(5) == [16]
    monkeypatch.setenv("SEED", "x")
    with pytest.raises(ValueError, match="SEED must be an integer, not 'x'"):
        seeds()


# -- Builds -----------------------------------------------------------------------------------------------------------


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SimulatorError, match=r"icarus needs iverilog, not found: install it \(Debian: apt-get install iver"
    ):
        require_tools("icarus")
    with pytest.raises(SimulatorError, match=r"verilator needs g\+\+, make, perl, not found: install it"):
        require_tools("verilator")


def test_a_build_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []
    launch = spatten.sim.verify.build.launch

    def counted(action: str, *arguments: Any, **options: Any) -> int:
        launches.append(action)
        return launch(action, *arguments, **options)

    monkeypatch.setattr(spatten.sim.verify.build, "launch", counted)
    verilog = convert(Passer())
    first = build(verilog, simulator="icarus")
    assert {file.name for file in first.folder.glob("[!.]*")} == {"sim.vvp", "top.v", "build.log"}
    assert build(verilog, simulator="icarus") == first
    assert launches == ["build"]
    # Anything that changes the program makes another build.
    assert build(verilog + "\n", simulator="icarus").folder != first.folder
    assert build(verilog, simulator="icarus", build_args=["-DX"]).folder != first.folder
    assert launches == ["build"] * 3
    assert not list(cache.glob("work-*"))


@pytest.mark.needs("iverilog")
def test_two_processes_can_ask_for_the_same_build(cache: Path) -> None:
    program = (
        "import sys\nfrom spatten.sim.verify.build import build\n"
        "print(build(sys.stdin.read(), simulator='icarus').folder)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    verilog = convert(Passer())
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(verilog)
        process.stdin.close()
    folders = set()
    for process in processes:
        assert process.stdout is not None
        folders.add(process.stdout.read().strip())
        assert process.wait(timeout=60) == 0
    (folder,) = folders
    assert (Path(folder) / "sim.vvp").is_file()
    assert {entry.name for entry in cache.iterdir()} - {"links"} == {Path(folder).name, "locks"}


def test_a_build_that_fails_leaves_nothing_and_says_why(cache: Path) -> None:
    with pytest.raises(SimulatorError, match=r"icarus could not compile top \(exit status 1\)(?s:.*)syntax error"):
        build("module top(; endmodule", simulator="icarus")
    assert {entry.name for entry in cache.iterdir()} - {"links"} == {"locks"}


def test_lint_complains() -> None:
    lint("module top(input wire a, output wire b);\n  assign b = a;\nendmodule\n")
    with pytest.raises(SimulatorError, match="WIDTHTRUNC"):
        lint("module top(input wire [3:0] a, output wire b);\n  assign b = a;\nendmodule\n")
    with pytest.raises(SimulatorError, match="LATCH"):
        lint("module top(input wire a, output reg b);\n  always @* if (a) b = 1;\nendmodule\n")


@pytest.mark.slow
def test_waves_are_kept_when_asked_for(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WAVES", "1")
    _pass(Passer())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("waveform: ")]
    wave = Path(line.removeprefix("waveform: "))
    assert wave.stat().st_size > 0
    wave.unlink()


# -- Verilog ----------------------------------------------------------------------------------------------------------


class Memories(wiring.Component):
    """A ROM read by the tag, and a memory that must be written before it is read."""

    def __init__(self, *, written: bool) -> None:
        self._written = written
        super().__init__(SIGNATURE)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # row % 5 for every row, looked up
        m.submodules.table = table = Memory(shape=3, depth=64, init=[row % 5 for row in range(64)])
        m.submodules.store = store = Memory(shape=8, depth=4, init=[])
        lookup = table.read_port(domain="comb")
        write, read = store.write_port(), store.read_port(domain="comb")
        age = Signal(3)
        full = Signal()
        tag = Signal(8, init=3, reset_less=True)
        m.d.comb += [
            lookup.addr.eq(tag),
            write.addr.eq(age),
            write.en.eq(age < 4 if self._written else age == 7),
            read.addr.eq(tag),
            self.i.ready.eq(~full & (age == 4)),
            self.o.valid.eq(full),
            self.o.payload.tag.eq(tag ^ read.data),
            self.o.payload.lanes[0].eq(tag[:3]),
            self.o.payload.lanes[1].eq(-(tag % 7)),
            self.o.payload.lanes[2].eq(lookup.data),
        ]
        with m.If(age < 4):
            m.d.sync += age.eq(age + 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [full.eq(1), tag.eq(self.i.payload.tag)]
        with m.Elif(self.o.ready):
            m.d.sync += full.eq(0)
        return m


def test_initial_values_are_stripped_and_nothing_else() -> None:
    before = convert(Memories(written=True)).splitlines()
    after = strip_initial_values("\n".join(before)).splitlines()
    removed = [line for line in before if line not in after]
    added = [line for line in after if line not in before]
    registers = [line for line in removed if line.lstrip().startswith("reg ")]
    assert sorted(line.split()[-3] for line in registers) == ["age", "o__valid", "tag"]
    assert added == [line.split(" = ")[0] + ";" for line in registers]
    words = [line for line in removed if line not in registers]
    assert len(words) == 4
    assert all(re.fullmatch(r"\s+store\[\d\] = 8'h00;", line) for line in words)
    assert sum(line.lstrip().startswith("\\table [") for line in after) == 64


def test_stripping_understands_every_form_or_refuses() -> None:
    text = "\n".join(
        [
            "module a(x);",
            "  output reg [3:0] x = 4'h3;",
            "  reg signed [3:0] s = 4'sh3;",
            "  reg \\odd=[name] = 1'h0;",
            "  reg [7:0] m [1:0];",
            "  initial begin",
            "    m[0] = 8'h01;",
            "    m[1] = 8'h02;",
            "  end",
            "  always @(posedge clk) begin",
            "    if (e)",
            "      m[a][3:0] <= d;",
            "  end",
            "endmodule",
            "module b(x);",
            "  reg [7:0] m [1:0];",
            "  initial begin",
            "    m[0] = 8'h01;",
            "    m[1] = 8'h02;",
            "  end",
            "endmodule",
        ]
    )
    stripped = strip_initial_values(text)
    assert "output reg [3:0] x;" in stripped
    assert "reg signed [3:0] s;" in stripped
    assert "reg \\odd=[name] ;" in stripped
    first, second = stripped.split("module b")
    assert "initial" not in first
    assert "m[0] = 8'h01;" in second
    for line in ("  initial x = 1'h0;", "  initial begin\n    x = 1'h0;\n  end", "  reg x = 1'h0, y = 1'h1;"):
        with pytest.raises(ValueError, match="cannot strip the initial value"):
            strip_initial_values(f"module a(x);\n{line}\nendmodule")


@pytest.mark.slow
def test_a_rom_keeps_its_contents_and_a_memory_does_not() -> None:
    assert _pass(Memories(written=True), strip_initial=True)
    assert _pass(Memories(written=False))
    with pytest.raises(CosimulationError, match=r"o row 0: tag is XXXXXXXX while valid"):
        _pass(Memories(written=False), strip_initial=True)


def test_verilog_is_the_same_under_another_hash_seed() -> None:
    program = (
        "from tests.sim.verify.test_harness import Passer\nfrom spatten.hw.emit.verilog import convert\n"
        "print(convert(Passer()), end='')"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert texts == {convert(Passer())}
    assert str(ROOT) not in texts.pop()


# -- Payloads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds())
def test_payloads_agree_with_amaranth(seed: int) -> None:
    layout = data.StructLayout(
        {"a": 5, "rows": data.ArrayLayout(data.StructLayout({"x": signed(3), "y": 1}), 3), "z": signed(40), "none": 0}
    )
    payload = Payload(layout)
    source = random.Random(seed)
    for _ in range(50):
        rows = [{"x": source.randint(-4, 3), "y": source.randint(0, 1)} for _ in range(3)]
        value = {"a": source.randrange(32), "rows": rows, "z": source.randint(-(1 << 39), (1 << 39) - 1)}
        bits = payload.pack(value)
        assert bits == layout.const(value).as_bits()
        assert payload.unpack(bits) == {**value, "none": 0}
    assert payload.differences(
        0, payload.pack({"a": 1, "rows": [{"x": 0, "y": 0}] * 2 + [{"x": -1, "y": 0}], "z": 0})
    ) == [
        "a is 0x0, not 0x1",
        "rows[2].x is 0x0, not -0x1",
    ]


def test_payloads_refuse_what_does_not_fit() -> None:
    payload = Payload(LAYOUT)
    with pytest.raises(ValueError, match=r"lanes\[2\] must be -8 to 7, not 8"):
        payload.pack({"tag": 0, "lanes": [0, 0, 8]})
    with pytest.raises(ValueError, match="payload must be 0 to 15, not -1"):
        Payload(4).pack(-1)
    with pytest.raises(KeyError, match="lanes"):
        payload.pack({"tag": 0})
    with pytest.raises(ValueError, match=r"lanes must have 3 elements, not 4"):
        payload.pack({"tag": 0, "lanes": [0, 0, 0, 0]})
    with pytest.raises(TypeError, match="payload must be made of StructLayout, ArrayLayout and plain shapes"):
        Payload(data.UnionLayout({"a": 1, "b": 2}))
    assert json.dumps(payload.unpack(0)) == '{"tag": 0, "lanes": [0, 0, 0]}'
