"""Testbench of hw/board/axi_drain.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.axi_checker import AxiChecker
from spatten.sim.verify.axi_memory import AxiMemory
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, _Gate

PARAMETERS = parameters()
BURSTS: int = PARAMETERS["bursts"]
OPEN_BURSTS: int = PARAMETERS["open_bursts"]
_BYTES = 2


class Master:
    """An AXI4 master that reads and writes at random, and can be reset at any time; an agent of the bench.

    Writes go to addresses that it never uses twice, so that what must be in the memory is known: `written` are the
    beats that were taken, by address.
    """

    def __init__(self, bench: Bench, prefix: str, *, pause: float) -> None:
        payloads = {
            "aw": ("id", "addr", "len", "size", "burst", "cache", "prot"),
            "w": ("data", "strb", "last"),
            "b": ("id", "resp"),
            "ar": ("id", "addr", "len", "size", "burst", "cache", "prot"),
            "r": ("id", "data", "resp", "last"),
        }
        self._signals: dict[str, Any] = {
            f"{channel}{name}": bench.signal(f"{prefix}{channel}{name}")
            for channel, names in payloads.items()
            for name in (*names, "valid", "ready")
        }
        self._source = bench.random("master")
        self._gates = {channel: _Gate(bench.random(f"master {channel}"), pause) for channel in payloads}
        self.written: dict[int, int] = {}
        self.read: list[tuple[int, int]] = []
        self._next_address = 0
        self.stopped = False
        self.ends = False
        """No burst begins any more."""
        for prefix_ in ("aw", "ar"):
            for name, value in (("id", 0), ("size", 1), ("burst", 1), ("cache", 3), ("prot", 0)):
                self._signals[prefix_ + name].value = value
        self._signals["wstrb"].value = (1 << _BYTES) - 1
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self._shown: dict[str, tuple[int, ...] | None] = dict.fromkeys(("aw", "w", "ar"))
        self._beats: deque[tuple[int, int, int]] = deque()  # of W: address, data, last
        self._to_come: deque[int] = deque()  # of R: addresses
        self._answers = 0
        self.begun = 0

    @property
    def busy(self) -> bool:
        return bool(self._answers or self._to_come or self._beats or any(self._shown.values()))

    def _burst(self, channel: str) -> tuple[int, int]:
        beats = self._source.choice([1, 2, 16, 16, self._source.randint(1, 40)])
        if channel == "ar":
            return self._source.randrange(0, 4096 - 2 * beats, 2), beats - 1
        if self._next_address % 4096 + 2 * beats > 4096:
            self._next_address += 4096 - self._next_address % 4096
        address = self._next_address
        self._next_address = (self._next_address + 2 * beats) % (1 << 14)
        return address, beats - 1

    def drive(self) -> None:
        source = self._source
        for channel in ("aw", "w", "ar"):
            if self._shown[channel] is None and not self.stopped and self._gates[channel]():
                if channel == "w":
                    self._shown["w"] = self._beats.popleft() if self._beats else None
                elif not self.ends and self._answers < 12 and len(self._to_come) < 400:
                    shown = self._shown[channel] = self._burst(channel)
                    if channel == "aw":
                        # Its beats may be shown at once, so before their address has been taken.
                        address, more = shown
                        self._beats += [
                            (address + 2 * beat, source.getrandbits(16), int(beat == more)) for beat in range(more + 1)
                        ]
                        self._answers += 1
            shown_ = self._shown[channel]
            self._signals[f"{channel}valid"].value = int(shown_ is not None)
            names = ("data", "last") if channel == "w" else ("addr", "len")
            for number, name in enumerate(names):
                signal = self._signals[channel + name]
                offset = number + (channel == "w")
                signal.value = source.getrandbits(len(signal)) if shown_ is None else shown_[offset]
        for channel in ("b", "r"):
            self._signals[f"{channel}ready"].value = int(self._gates[channel]())

    def _value(self, name: str) -> int:
        return int(str(self._signals[name].value), 2)

    def sample(self, cycle: int) -> None:
        for channel in ("aw", "w", "ar"):
            shown = self._shown[channel]
            if shown is None or not self._value(f"{channel}ready"):
                continue
            self._shown[channel] = None
            if channel == "w":
                self.written[shown[0]] = shown[1]
            else:
                self.begun += 1
                if channel == "ar":
                    self._to_come += [shown[0] + 2 * beat for beat in range(shown[1] + 1)]
        if self._value("bvalid") and self._value("bready"):
            assert self._answers, f"a response to nothing, cycle {cycle}"
            self._answers -= 1
        if self._value("rvalid") and self._value("rready"):
            assert self._to_come, f"a beat that nothing asked for, cycle {cycle}"
            self.read.append((self._to_come.popleft(), self._value("rdata")))


async def _isolate(bench: Bench, master: Master, source: random.Random) -> None:
    """Reset the master while it is isolated, as a board does."""
    isolate, drained = bench.signal("isolate"), bench.signal("drained")
    isolate.value = 1
    # The master's outputs in the first cycle of its reset are still those of before.
    await bench.step()
    master.clear()
    master.stopped = True
    waited = 0
    await bench.step(2)
    while not int(str(drained.value)):
        await bench.step()
        waited += 1
        assert waited < 5000, f"not drained, seed {bench.seed}"
    await bench.step(source.randint(0, 3))
    isolate.value = 0
    master.clear()
    master.stopped = False


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.5], order=["any", "aw first", "w first"], seed=PARAMETERS["seeds"])
async def a_reset_leaves_nothing_open(dut: HierarchyObject, pause: float, order: str, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("resets")
    bench.signal("isolate").value = 0
    master = Master(bench, "master__", pause=pause)
    memory = AxiMemory(
        bench, "memory__", ar=pause, r=pause, aw=pause, w=pause, b=pause, latency=5, masks=True, order=order
    )
    checker = AxiChecker(bench, "memory__")
    await bench.reset()
    bursts = resets = open_at_reset = 0
    while bursts < BURSTS:
        await bench.step(source.randint(20, 200))
        bursts += master.begun
        open_at_reset += bool(checker.reads.open_bursts or checker.writes.open_bursts)
        await _isolate(bench, master, source)
        resets += 1
        checker.finish()
        for address in memory.data.keys() | master.written.keys():
            wanted = master.written.get(address, memory.content(address))
            assert memory.read(address) == wanted, f"at {address:#x}, seed {seed}"
    assert open_at_reset > 3, f"{resets} resets, {open_at_reset} with something open"
    assert max(checker.reads.peak_bursts, checker.writes.peak_bursts) == OPEN_BURSTS


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.5], seed=PARAMETERS["seeds"])
async def it_is_transparent(dut: HierarchyObject, pause: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    bench.signal("isolate").value = 0
    master = Master(bench, "master__", pause=pause)
    memory = AxiMemory(bench, "memory__", latency=5, masks=True, ar=pause, w=pause, r=pause)
    outer = AxiChecker(bench, "master__")
    checker = AxiChecker(bench, "memory__")
    await bench.reset()
    await bench.step(4000)
    master.ends = True
    await bench.until(lambda: not master.busy, what="end", limit=4000)
    checker.finish()
    outer.finish()
    assert len(master.read) == outer.reads.beats == checker.reads.beats > 500
    assert outer.writes.beats == checker.writes.beats > 500
    for address, data in master.written.items():
        assert memory.read(address) == data
    # A read beside a write may see the word of before or of after.
    for address, data in master.read:
        assert data in (memory.content(address), master.written.get(address))
    assert not int(str(bench.signal("drained").value))
    if not pause:
        assert checker.reads.beats > 3000, "a beat in nearly every cycle"
