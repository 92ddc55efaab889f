"""Testbench of the transmitter in hw/board/frames.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, PulseCounter, StreamMonitor
from spatten.spec.link_protocol import SYNC_REPLY, encode_frame

PARAMETERS = parameters()
FRAMES: int = PARAMETERS["frames"]


class Words:
    """The memory that the transmitter reads from."""

    def __init__(self, bench: Bench) -> None:
        self.content = b""
        self._enable, self._address, self._data = (
            bench.signal(f"read_{name}") for name in ("enable", "address", "data")
        )
        self._next: int | None = None
        bench.agents.append(self)

    def clear(self) -> None:
        self._next = None

    def drive(self) -> None:
        if self._next is not None:
            self._data.value = self._next
            self._next = None

    def sample(self, cycle: int) -> None:
        if int(str(self._enable.value)):
            address = int(str(self._address.value), 2)
            self._next = self.content[address] if address < len(self.content) else 0


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.6], seed=PARAMETERS["seeds"])
async def replies_are_sent(dut: HierarchyObject, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("frames")
    words = Words(bench)
    sink = StreamMonitor(bench, "o", 8, stall=stall)
    done = PulseCounter(bench, "done")
    start, sequence, length = (bench.signal(name) for name in ("start", "sequence", "length"))
    start.value = 0
    await bench.reset()
    for number in range(FRAMES):
        payload = source.randbytes(source.choice([0, 1, 2, source.randint(3, 60), 300 if number == 3 else 5]))
        words.content = payload
        sequence.value, length.value, start.value = number, len(payload), 1
        sink.expect(encode_frame(SYNC_REPLY, number, payload))
        await bench.step()
        start.value = 0
        assert done.count == number
        await bench.until(lambda: done.count > number, what="end", limit=20000)  # noqa: B023 - called at once
        assert sink.count == sink.expected
        await bench.step(source.randint(0, 3))
    await bench.drain()
    assert done.count == FRAMES
