"""Longest paths of netlists whose logic is known."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.ram import Ram
from spatten.sim.board.ecp5 import Netlist, map_verilog
from spatten.sim.board.paths import Path, _Timing, by_unit, longest_paths


class Parity(wiring.Component):
    """The parity of a register in another one: of 4**levels bits it is a tree of so many LUTs."""

    def __init__(self, bits: int) -> None:
        super().__init__({"i": In(bits), "o": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        held = Signal.like(self.i, name="held", reset_less=True)
        odd = Signal(reset_less=True)
        m.d.sync += [held.eq(self.i), odd.eq(held.xor())]
        m.d.comb += self.o.eq(odd)
        return m


class Counter(wiring.Component):
    """A counter, whose last bit follows from the first by way of all carries."""

    def __init__(self, bits: int) -> None:
        super().__init__({"o": Out(bits)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.sync += self.o.eq(self.o + 1)
        return m


class Lookup(wiring.Component):
    """A word of a block RAM in a register."""

    def __init__(self) -> None:
        super().__init__({"address": In(9), "o": Out(36)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.ram = ram = Ram(shape=36, depth=512)
        held = Signal(36, reset_less=True)
        m.d.comb += [
            ram.read_enable.eq(1),
            ram.read_address.eq(self.address),
            ram.write_enable.eq(self.address[0]),
            ram.write_address.eq(self.address),
            ram.write_data.eq(self.address),
            self.o.eq(held),
        ]
        m.d.sync += held.eq(ram.read_data)
        return m


def mapped(component: wiring.Component) -> Netlist:
    return map_verilog(convert(component, name="unit"), top="unit")


def to_registers(paths: list[Path]) -> Path:
    """The longest of those that end in a register."""
    return next(path for path in paths if ".DI" in path.end)


@pytest.mark.parametrize(("bits", "levels"), [(4, 1), (16, 2), (64, 3)])
def test_a_tree_of_luts(bits: int, levels: int) -> None:
    path = to_registers(longest_paths(mapped(Parity(bits)), wire_ns=1))
    assert path.levels == levels
    assert path.delay_ns == pytest.approx(0.52 + levels * (1 + 0.24) + 1)
    assert path.start.startswith("held")
    assert path.end == "o_TRELLIS_FF_Q.DI"


def test_a_carry_chain_has_no_wires() -> None:
    path = to_registers(longest_paths(mapped(Counter(32)), wire_ns=1))
    # Two bits a cell: 15 that only pass the carry on lie between the first and the last one.
    assert path.levels in (16, 17)
    assert path.delay_ns == pytest.approx(0.52 + 1 + 0.45 + 15 * 0.07 + 0.44 + 1, abs=0.6)


def test_behind_a_block_ram() -> None:
    path = to_registers(longest_paths(mapped(Lookup()), wire_ns=1))
    assert path.delay_ns == pytest.approx(5.6 + 1)
    assert path.start.startswith("ram")


def test_counts_by_unit() -> None:
    paths = [
        Path(start="a", end=end, delay_ns=ns, levels=1)
        for end, ns in (("core.qk.x.DI", 11), ("core.qk.y.DI", 9), ("core.pv.x.CE", 12), ("top.DI", 13))
    ]
    assert by_unit(paths, above_ns=10) == {"core.qk": 1, "core.pv": 1, "top.DI": 1}
    assert by_unit(paths, above_ns=8, depth=1) == {"core": 3, "top": 1}


def test_a_loop_is_an_error() -> None:
    lut = {"type": "LUT4", "port_directions": {"A": "input", "Z": "output"}}
    cells = {"one": {**lut, "connections": {"A": [1], "Z": [2]}}, "two": {**lut, "connections": {"A": [2], "Z": [1]}}}
    module = {"cells": cells, "ports": {"o": {"direction": "output", "bits": [1]}}}
    with pytest.raises(ValueError, match="the netlist has a loop of logic through"):
        _Timing(module, 1.0).paths()
