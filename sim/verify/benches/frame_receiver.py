"""Testbench of the receiver in hw/board/frames.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, PulseCounter
from spatten.spec.link_protocol import PAYLOAD_MAX, SYNC_REQUEST, FrameReader, encode_frame

PARAMETERS = parameters()
FRAMES: int = PARAMETERS["frames"]
BYTE_CYCLES = 12


class Frames:
    """Keeps the memory that the receiver writes to, and the frames that it reports."""

    def __init__(self, bench: Bench) -> None:
        names = ("write_enable", "write_address", "write_data", "frame", "sequence", "length")
        self._signals = {name: bench.signal(name) for name in names}
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self.found: list[tuple[int, bytes]] = []
        self._memory = bytearray(PAYLOAD_MAX + 1)

    def drive(self) -> None:
        pass

    def _value(self, name: str) -> int:
        return int(str(self._signals[name].value), 2)

    def sample(self, cycle: int) -> None:
        if self._value("write_enable"):
            self._memory[self._value("write_address")] = self._value("write_data")
        if self._value("frame"):
            self.found.append((self._value("sequence"), bytes(self._memory[: self._value("length")])))


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def good_frames_are_found_and_no_others(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("frames")
    frames = Frames(bench)
    bad = PulseCounter(bench, "bad")
    reference = FrameReader(SYNC_REQUEST, rescans=False)
    received, byte = bench.signal("received"), bench.signal("byte")
    events = {name: bench.signal(name) for name in ("framing_error", "gap", "listen")}
    received.value = 0
    byte.value = 0
    for name, signal in events.items():
        signal.value = int(name == "listen")
    await bench.reset()
    wanted: list[tuple[int, bytes]] = []

    async def send(data: bytes) -> None:
        for value in data:
            byte.value, received.value = value, 1
            await bench.step()
            received.value = 0
            byte.value = source.getrandbits(8)
            await bench.step(BYTE_CYCLES - 1)
            wanted.extend(reference.feed(bytes([value])))

    async def interrupt(name: str) -> None:
        events[name].value = int(name != "listen")
        await bench.step(source.randint(1, 3))
        events[name].value = int(name == "listen")
        await bench.step(2)
        reference.gap()

    good = 0
    for number in range(FRAMES):
        size = source.choice([0, 1, 2, source.randint(3, 40)]) if number != 5 else 300
        frame = bytearray(encode_frame(SYNC_REQUEST, source.getrandbits(8), source.randbytes(size)))
        what = source.choice(["good", "good", "flip", "drop", "insert", "stop", "long", "noise"])
        place = source.randrange(len(frame))
        if what == "flip":
            frame[place] ^= 1 << source.randrange(8)
        elif what == "drop":
            del frame[place]
        elif what == "insert":
            frame.insert(place, source.getrandbits(8))
        elif what == "long":
            frame[2] |= source.choice([0x10, 0x80])
        elif what == "noise":
            frame[:0] = source.randbytes(5)
        if what == "stop":
            await send(bytes(frame[:place]))
            await interrupt(source.choice(["framing_error", "gap", "listen"]))
        else:
            await send(bytes(frame))
        if what != "good":
            await interrupt(source.choice(["framing_error", "gap"]))
        good += what == "good"
    await bench.step(BYTE_CYCLES)
    assert frames.found == wanted
    assert len(wanted) >= good
    assert bad.count == reference.bad > FRAMES // 4


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"][:1])
async def the_longest_frame_fits(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    frames = Frames(bench)
    for name in ("received", "byte", "framing_error", "gap"):
        bench.signal(name).value = 0
    bench.signal("listen").value = 1
    await bench.reset()
    payload = bench.random("payload").randbytes(PAYLOAD_MAX)
    for value in encode_frame(SYNC_REQUEST, 7, payload):
        bench.signal("byte").value, bench.signal("received").value = value, 1
        await bench.step()
        bench.signal("received").value = 0
        await bench.step(10)
    await bench.step(10)
    assert frames.found == [(7, payload)]
