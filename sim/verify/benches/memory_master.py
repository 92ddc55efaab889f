"""Testbench of hw/board/memory_master.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.axi_checker import AxiChecker
from spatten.sim.verify.axi_memory import AxiMemory
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench

PARAMETERS = parameters()
TRANSFERS: int = PARAMETERS["transfers"]
BEAT_BYTES = PARAMETERS["data_bits"] // 8
ADDRESS_BITS = PARAMETERS["address_bits"]
BLOCK = PARAMETERS["block"]


class Requester:
    """Gives and takes the bytes of transfers, and counts their ends."""

    def __init__(self, bench: Bench, *, idle: float) -> None:
        names = ("start", "address", "size", "is_write", "stop", "given", "given_byte")
        answers = ("wants", "got", "got_byte", "idle", "done", "response")
        self.signals = {name: bench.signal(f"access__{name}") for name in (*names, *answers)}
        self._source = bench.random("requester")
        self._idle = idle
        self._bench = bench
        for name in names:
            self.signals[name].value = 0
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self.to_give = bytearray()
        self.got = bytearray()
        self.done = 0
        self.response: int | None = None
        self._wants = False

    def value(self, name: str) -> int:
        return int(str(self.signals[name].value), 2)

    def drive(self) -> None:
        # Wants is a register of the circuit, and what was seen before the clock's edge is out of date after a byte.
        gives = self._wants and bool(self.to_give) and self._source.random() >= self._idle
        self.signals["given"].value = int(gives)
        self.signals["given_byte"].value = self.to_give.pop(0) if gives else self._source.getrandbits(8)
        self._gives = gives

    def sample(self, cycle: int) -> None:
        assert not self._gives or self.value("wants"), f"a byte that is not wanted, cycle {cycle}"
        self._wants = bool(self.value("wants")) and not self._gives
        if self.value("got"):
            self.got.append(self.value("got_byte"))
        if self.value("done"):
            self.done += 1
            self.response = self.value("response")

    async def start(self, address: int, size: int, is_write: bool) -> None:
        for name, value in (("address", address), ("size", size), ("is_write", int(is_write)), ("start", 1)):
            self.signals[name].value = value
        await self._bench.step()
        self.signals["start"].value = 0
        for name in ("address", "size", "is_write"):
            self.signals[name].value = self._source.getrandbits(len(self.signals[name]))


def contents(memory: AxiMemory, size: int = 1 << ADDRESS_BITS) -> bytes:
    """Every byte of the memory, or the first ones."""
    words = (memory.read(address) for address in range(0, size, BEAT_BYTES))
    return b"".join(word.to_bytes(BEAT_BYTES, "little") for word in words)


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.5], idle=[0.0, 0.5], seed=PARAMETERS["seeds"])
async def bytes_are_read_and_written(dut: HierarchyObject, pause: float, idle: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("transfers")
    requester = Requester(bench, idle=idle)
    memory = AxiMemory(
        bench,
        "bus__",
        masks=True,
        latency=3,
        ar=pause,
        r=pause,
        aw=pause,
        w=pause,
        b=pause,
        respond=lambda _channel, _number: responses.pop(0) if responses else 0,
    )
    responses: list[int] = []
    checker = AxiChecker(bench, "bus__")
    await bench.reset()
    wanted = bytearray(contents(memory))
    errors = 0
    for number in range(TRANSFERS):
        address = source.choice([source.randrange(len(wanted)), source.randrange(64), len(wanted) - 1])
        size = min(source.choice([0, 1, 2, 3, source.randint(1, 300)]), len(wanted) - address)
        is_write = bool(source.getrandbits(1))
        responses[:] = [source.choice([0, 0, 2, 3]) for _ in range(3)] if number % 8 == 7 else []
        planned = [*responses]
        data = source.randbytes(size)
        if is_write:
            requester.to_give[:] = data
            wanted[address : address + size] = data
        requester.got.clear()
        done = requester.done
        await requester.start(address, size, is_write)
        await bench.until(lambda: requester.done > done, what="end", limit=40_000)  # noqa: B023 - called at once
        await bench.step()
        assert requester.done == done + 1
        assert requester.value("idle")
        assert not requester.to_give
        if not is_write:
            assert requester.got == wanted[address : address + size], f"transfer {number}, seed {seed}"
        used = planned[: len(planned) - len(responses)]
        first = next((response for response in used if response), 0)
        assert requester.response == first, f"transfer {number}, seed {seed}"
        errors += bool(first)
    checker.finish()
    assert contents(memory) == wanted
    assert errors > 3
    for burst in (*checker.reads.bursts, *checker.writes.bursts):
        assert burst.address // BLOCK == (burst.address + burst.bytes - 1) // BLOCK, "a burst leaves its block"


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def a_stopped_transfer_is_completed_without_effect(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("transfers")
    requester = Requester(bench, idle=0.3)
    memory = AxiMemory(bench, "bus__", masks=True, latency=3, w=0.3, r=0.3)
    checker = AxiChecker(bench, "bus__")
    await bench.reset()
    for _ in range(TRANSFERS // 2):
        address, size, is_write = source.randrange(1000), source.randint(20, 200), bool(source.getrandbits(1))
        before, data = contents(memory, 1400), source.randbytes(size)
        requester.to_give[:] = data
        requester.got.clear()
        await requester.start(address, size, is_write)
        memory.frozen = {"aw", "ar"} if source.random() < 0.3 else set()
        await bench.step(source.randint(1, 200))
        requester.to_give.clear()
        if not requester.value("idle"):
            requester.signals["stop"].value = 1
            got = bytes(requester.got)
            await bench.step(5)
            memory.frozen = set()
            await bench.until(lambda: bool(requester.value("idle")), what="end", limit=2000)
            assert requester.got == got
        memory.frozen = set()
        requester.signals["stop"].value = 0
        await bench.step()
        checker.finish()
        after = contents(memory, 1400)
        changed = [place for place in range(len(after)) if after[place] != before[place]]
        wanted = before[:address] + data + before[address + size :] if is_write else before
        assert all(after[place] == wanted[place] for place in changed), f"seed {seed}"
