"""The flow of synthesis for an ECP5: what it counts, what it merges, and what it keeps apart."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.fifo import Fifo
from spatten.sim.board.ecp5 import CELLS, Flow, count_cells, count_units, map_verilog
from spatten.sim.verify import yosys
from spatten.sim.verify.yosys import SynthesisError

FIFO = convert(Fifo(shape=20, depth=12), name="fifo")


class FewEnables(wiring.Component):
    """Flip-flops in groups of 3 with an enable each, and one group of 16."""

    def __init__(self) -> None:
        super().__init__({"enables": In(9), "data": In(16), "o": Out(40)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for group in range(8):
            with m.If(self.enables[group]):
                m.d.sync += self.o[3 * group : 3 * group + 3].eq(self.data)
        with m.If(self.enables[8]):
            m.d.sync += self.o[24:].eq(self.data)
        return m


class TwoFifos(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"i": In(20), "o": Out(20)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.first = first = Fifo(shape=20, depth=12)
        m.submodules.second = second = Fifo(shape=20, depth=12)
        wiring.connect(m, first.o, second.i)
        m.d.comb += [first.i.payload.eq(self.i), first.i.valid.eq(1), second.o.ready.eq(1), self.o.eq(second.o.payload)]
        return m


def test_a_netlist_has_the_cells_that_are_counted() -> None:
    netlist = map_verilog(FIFO, top="fifo")
    counts = netlist.counts()
    assert counts.keys() == CELLS.keys()
    assert counts == count_cells(Fifo(shape=20, depth=12), name="fifo")
    assert counts["lut_rams"] == 5
    instances = re.findall(r"^  (LUT4|TRELLIS_FF|TRELLIS_DPR16X4) ", netlist.verilog, re.MULTILINE)
    assert len(instances) == counts["lut4"] + counts["flip_flops"] + counts["lut_rams"]
    cells = json.loads(netlist.json_file.read_text(encoding="utf-8"))["modules"]["fifo"]["cells"].values()
    assert sum(cell["type"] == "LUT4" for cell in cells) == counts["lut4"]
    assert netlist.ports["clk"] == ("input", 1)
    assert netlist.ports["o__payload"] == ("output", 20)


def test_steps_and_versions_are_told() -> None:
    told: list[str] = []
    netlist = map_verilog(FIFO + f"// {id(told)}\n", top="fifo", tell=told.append)
    assert told[0] == netlist.tools["yosys"]
    assert told[0].startswith("Yosys ")
    assert told[1:] == [
        "begin", "coarse", "map_ram", "map_ffram", "map_gates", "map_ffs", "map_luts", "map_cells", "check"
    ]  # fmt: skip
    told.clear()
    assert map_verilog(FIFO, top="fifo", tell=told.append).folder.is_dir()
    assert len(told) == 1, "it was there already"


def _control_sets(flow: Flow) -> int:
    netlist = map_verilog(convert(FewEnables(), name="top"), top="top", flow=flow)
    cells = json.loads(netlist.json_file.read_text(encoding="utf-8"))["modules"]["top"]["cells"].values()
    registers = [cell["connections"] for cell in cells if cell["type"] == "TRELLIS_FF"]
    return len({(*pins["CLK"], *pins["LSR"], *pins.get("CE", ())) for pins in registers})


def test_enables_of_few_flip_flops_become_logic() -> None:
    assert _control_sets(Flow(sharing=0)) == 9
    assert _control_sets(Flow()) == 2


def test_cells_are_counted_by_unit() -> None:
    source = convert(TwoFifos(), name="top")
    rows = count_units(source, top="top", depth=1)
    assert [(name, times) for name, times, _ in rows] == [("top", 1), ("top_fifo", 2)]
    assert [counts["lut_rams"] for _, _, counts in rows] == [10, 5]
    with pytest.raises(ValueError, match="top must be a module of the text, not 'other'"):
        count_units(source, top="other")


@pytest.mark.slow
def test_the_packaged_yosys_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yosys, "program", lambda: str(yosys.YOSYS))
    netlist = map_verilog(FIFO, top="fifo")
    assert "Yosys 0.66" in netlist.tools["yosys"]
    assert netlist.counts()["lut_rams"] == 5


def test_what_cannot_be_mapped_is_said() -> None:
    with pytest.raises(SynthesisError, match="other: yosys: ERROR: Module `other' not found"):
        map_verilog(FIFO, top="other")


@pytest.mark.parametrize(
    ("sharing", "error", "text"),
    [
        (-1, ValueError, "sharing must be at least 0, not -1"),
        ("12", TypeError, "sharing must be an integer, not '12'"),
    ],
)
def test_flows_are_refused(sharing: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Flow(sharing=sharing)
