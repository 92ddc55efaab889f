"""Testbench of the transmitter in hw/board/uart.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.serial_line import LineListener
from spatten.sim.verify.stream import Bench, StreamDriver

PARAMETERS = parameters()
BYTES: int = PARAMETERS["bytes"]


@cocotb.test()
@cocotb.parametrize(divisor=[4, 7, 27], idle=[0.0, 0.95], seed=PARAMETERS["seeds"])
async def bytes_go_as_they_were_given(dut: HierarchyObject, divisor: int, idle: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    driver = StreamDriver(bench, "i", 8, idle=idle)
    listener = LineListener(bench, "tx", divisor=divisor)
    source = bench.random("bytes")
    bench.signal("divisor").value = divisor
    await bench.reset()
    sent = bytes(source.getrandbits(8) for _ in range(BYTES))
    driver.send(sent)
    await bench.until(lambda: len(listener.received) == BYTES, what="end", limit=BYTES * 20 * divisor + 4000)
    await bench.step(20 * divisor)
    assert listener.received == sent
    assert listener.starts[0] == driver.cycles[0] + 2
    if not idle:
        steps = {after - before for before, after in zip(listener.starts, listener.starts[1:], strict=False)}
        assert steps == {10 * divisor + 1}
