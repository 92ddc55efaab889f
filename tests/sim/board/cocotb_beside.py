"""Gives a circuit anything in every cycle; `sim.board.models.beside` compares what it shows with its netlist."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench

PARAMETERS = parameters()
INPUTS: dict[str, int] = PARAMETERS["inputs"]
CYCLES: int = PARAMETERS["cycles"]


class Anything:
    """Random inputs: often zero, all ones, or what they were, and two that are alike are often the same."""

    def __init__(self, bench: Bench) -> None:
        self._source = bench.random("inputs")
        self._ports = {name: (bench.signal(name), width) for name, width in INPUTS.items()}
        bench.agents.append(self)

    def drive(self) -> None:
        source = self._source
        before: dict[int, int] = {}
        for port, width in self._ports.values():
            everything = (1 << width) - 1
            anything = source.getrandbits(width)
            near = anything & 15 if source.random() < 0.5 else anything | everything & ~15
            value = source.choice([0, everything, anything, anything, near, near, before.get(width, anything)])
            port.value = before[width] = value if width > 1 else anything

    def sample(self, cycle: int) -> None:
        pass

    def clear(self) -> None:
        pass


@cocotb.test()
async def the_netlist_shows_what_the_circuit_shows(dut: HierarchyObject) -> None:
    bench = Bench(dut, seed=PARAMETERS["seed"])
    Anything(bench)
    await bench.reset()
    await bench.step(CYCLES)
    await bench.reset(1)
    await bench.step(CYCLES)
