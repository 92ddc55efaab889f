"""Shared components: one module for equal ones in Verilog, and the same circuit as without sharing."""

import re
from typing import Any

import pytest
from amaranth.hdl import DomainRenamer, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.shared import Shared
from spatten.sim.verify.build import lint


class Delay(Shared):
    """`cycles` registers."""

    def __init__(self, *, width: int, cycles: int = 1) -> None:
        self.cycles = cycles
        super().__init__({"i": In(width), "o": Out(width)})

    def build(self, platform: Any) -> Elaboratable:
        m = Module()
        if self.cycles > 1:
            m.submodules.first = first = Delay(width=len(self.i), cycles=1)
            m.submodules.rest = rest = Delay(width=len(self.i), cycles=self.cycles - 1)
            m.d.comb += [first.i.eq(self.i), rest.i.eq(first.o), self.o.eq(rest.o)]
        else:
            register = Signal.like(self.i)
            m.d.sync += register.eq(self.i)
            m.d.comb += self.o.eq(register)
        return m


class Chain(wiring.Component):
    """Delays one behind the other."""

    def __init__(self, *cycles: int) -> None:
        self._cycles = cycles
        super().__init__({"i": In(4), "o": Out(4)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        value = self.i
        for n, cycles in enumerate(self._cycles):
            m.submodules[f"delay{n}"] = delay = Delay(width=4, cycles=cycles)
            m.d.comb += delay.i.eq(value)
            value = delay.o
        m.d.comb += self.o.eq(value)
        return m


def modules(text: str) -> list[str]:
    return re.findall(r"^module (\S+)\(", text, re.MULTILINE)


def test_equal_parameters_are_one_module_and_others_are_numbered() -> None:
    text = convert(Chain(1, 1, 3, 2, 1, 3), name="chain")
    assert modules(text) == ["chain", "chain_delay", "chain_delay_2", "chain_delay_3"]
    chain = text[: text.index("endmodule")]
    assert re.findall(r"^ *chain_delay (delay\d) ", chain, re.MULTILINE) == ["delay0", "delay1", "delay4"]
    lint(text, top="chain")


def test_a_shared_component_can_be_the_top() -> None:
    text = convert(Delay(width=4, cycles=2), name="delay")
    assert modules(text) == ["delay", "delay_delay"]
    assert convert(Delay(width=4, cycles=2), name="delay") == text


def test_without_emission_it_is_a_component_like_any_other() -> None:
    chain = Chain(2, 1)

    async def bench(context: Any) -> None:
        seen = []
        for value in range(1, 8):
            context.set(chain.i, value)
            await context.tick()
            seen.append(context.get(chain.o))
        assert seen == [0, 0, 1, 2, 3, 4, 5]

    simulator = Simulator(chain)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_an_instance_follows_its_domain() -> None:
    class Renamed(wiring.Component):
        i: In(4)
        o: Out(4)

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            m.submodules.delay = delay = Delay(width=4)
            m.d.comb += [delay.i.eq(self.i), self.o.eq(delay.o)]
            return DomainRenamer("fast")(m)

    text = convert(Renamed())
    assert re.search(r"\.clk\(fast_clk\)", text)
    assert re.search(r"\.rst\(fast_rst\)", text)


class Sum(Shared):
    """No register."""

    def __init__(self, *, width: int) -> None:
        super().__init__({"i": In(width), "o": Out(width)})

    def build(self, platform: Any) -> Elaboratable:
        m = Module()
        m.d.comb += self.o.eq(self.i + 1)
        return m


def test_a_shared_component_without_registers_has_clock_and_reset_too() -> None:
    class Outer(wiring.Component):
        i: In(4)
        o: Out(4)

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            m.submodules.sum = sum_ = Sum(width=4)
            m.submodules.delay = delay = Delay(width=4)
            m.d.comb += [sum_.i.eq(self.i), delay.i.eq(sum_.o), self.o.eq(delay.o)]
            return m

    text = convert(Outer())
    lint(text)
    assert re.search(r"^module top_sum\((?=.*\bclk\b)(?=.*\brst\b)", text, re.MULTILINE)


def test_a_parameter_without_a_value_is_refused() -> None:
    class Odd(Shared):
        def __init__(self, *, what: object) -> None:
            super().__init__({"o": Out(1)})

        def build(self, platform: Any) -> Elaboratable:
            return Module()

    with pytest.raises(TypeError, match="Odd has a parameter that is known by its address only"):
        convert(Odd(what=object()))


def test_parameters_are_keywords() -> None:
    with pytest.raises(TypeError, match="Delay takes keyword parameters only"):
        Delay(4)  # type: ignore[misc]
