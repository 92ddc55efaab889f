"""Testbench of the receiver in hw/board/uart.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.serial_line import LineSender
from spatten.sim.verify.stream import Bench

PARAMETERS = parameters()
BYTES: int = PARAMETERS["bytes"]


class Events:
    """What the receiver says, in order: a byte, or None for one without a stop bit."""

    def __init__(self, bench: Bench) -> None:
        self._signals = {name: bench.signal(name) for name in ("received", "byte", "framing_error")}
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self.events: list[int | None] = []

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        received, error = (int(str(self._signals[name].value)) for name in ("received", "framing_error"))
        assert not (received and error), f"a byte and an error, cycle {cycle}"
        if received:
            self.events.append(int(str(self._signals["byte"].value), 2))
        if error:
            self.events.append(None)


@cocotb.test()
@cocotb.parametrize(divisor=[4, 5, 27], skew=[-0.04, 0.0, 0.04], idle=[0.0, 0.5], seed=PARAMETERS["seeds"])
async def bytes_come_as_they_were_sent(dut: HierarchyObject, divisor: int, skew: float, idle: float, seed: int) -> None:
    """A line of 4 or 5 cycles a bit has no cycle to spare, so that its sender must have the same clock."""
    bench = Bench(dut, seed=seed)
    source = bench.random("bytes")
    events = Events(bench)
    sender = LineSender(bench, "rx", divisor=divisor * (1 + (skew if divisor > 5 else 0.0)))
    bench.signal("divisor").value = divisor
    await bench.reset()
    await bench.step(4)
    wanted: list[int | None] = []
    for _ in range(BYTES):
        byte = source.choice([0, 0xFF, source.getrandbits(8), source.getrandbits(8)])
        sender.send(bytes([byte]))
        wanted.append(byte)
        if source.random() < idle:
            sender.hold(1, source.randint(1, 20 * divisor))
    await bench.until(lambda: not sender.busy, what="end", limit=20 * 40 * BYTES * 30)
    await bench.step(2 * divisor + 8)
    assert events.events == wanted


@cocotb.test()
@cocotb.parametrize(divisor=[4, 27], seed=PARAMETERS["seeds"])
async def what_is_no_byte_is_none(dut: HierarchyObject, divisor: int, seed: int) -> None:
    """Bytes without a stop bit, breaks, and pulses that are gone in the middle of the start bit."""
    bench = Bench(dut, seed=seed)
    source = bench.random("bytes")
    events = Events(bench)
    sender = LineSender(bench, "rx", divisor=divisor)
    bench.signal("divisor").value = divisor
    await bench.reset()
    await bench.step(4)
    wanted: list[int | None] = []
    for _ in range(BYTES):
        what = source.choice(["byte", "byte", "no stop", "break", "pulse"])
        if what == "byte":
            wanted.append(source.getrandbits(8))
            sender.send(bytes([wanted[-1] or 0]))
        elif what == "no stop":
            sender.send(bytes([source.getrandbits(8)]), stop=0)
            wanted.append(None)
            sender.hold(1, 2 * divisor)
        elif what == "break":
            sender.hold(0, source.randint(11, 40) * divisor)
            wanted.append(None)
            sender.hold(1, 2 * divisor)
        else:
            sender.hold(0, source.randint(1, divisor // 2))
            sender.hold(1, 2 * divisor)
    await bench.until(lambda: not sender.busy, what="end", limit=50 * 40 * BYTES * 30)
    await bench.step(2 * divisor + 8)
    assert events.events == wanted
