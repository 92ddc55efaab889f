"""Testbench of hw/lib/ram.py; tests/hw/lib/test_ram.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
DEPTH: int = PARAMETERS["depth"]
SEEDS: list[int] = PARAMETERS["seeds"]
CYCLES = 40 * DEPTH + 400


class Model:
    """Writes and reads at random and knows every word; what is not enabled is X where the simulator has it."""

    def __init__(self, bench: Bench, *, writing: float, reading: float, close: float) -> None:
        self._bench = bench
        self._source = bench.random("accesses")
        self._shares = writing, reading, close
        self._words: dict[int, int] = {}
        self._read_data: int | None = None
        self._next: int | None = None
        names = ("write_enable", "write_address", "write_data", "read_enable", "read_address", "read_data")
        self._ports = {name: bench.signal(name) for name in names}
        self.counts = dict.fromkeys(("reads", "collisions", "held", "behind"), 0)
        self._last_write: int | None = None
        bench.agents.append(self)

    def _set(self, name: str, value: int | None) -> None:
        port = self._ports[name]
        width = len(port)
        if value is None:
            four_state = self._bench.four_state
            port.value = LogicArray("X" * width) if four_state else self._source.getrandbits(width)
        else:
            port.value = value

    def drive(self) -> None:
        writing, reading, close = self._shares
        source = self._source
        writes = source.random() < writing
        write_address = source.randrange(DEPTH)
        read_address = write_address if source.random() < close else source.randrange(DEPTH)
        if source.random() < 0.2 and self._last_write is not None:
            read_address = self._last_write
        # A word that was never written is not read.
        reads = source.random() < reading and (read_address in self._words)
        write_data = source.choice([0, (1 << WIDTH) - 1, source.getrandbits(WIDTH), source.getrandbits(WIDTH)])
        self._set("write_enable", int(writes))
        # A simulator ignores a write to X: only a real address shows a write that was not asked for.
        self._set("write_address", write_address if writes or source.random() < 0.5 else None)
        self._set("write_data", write_data if writes else None)
        self._set("read_enable", int(reads))
        self._set("read_address", read_address if reads else None)

        self._next = self._read_data
        if reads:
            if writes and read_address == write_address:
                self.counts["collisions"] += self._read_data != write_data
            else:
                self._next = self._words[read_address]
                self.counts["reads"] += 1
                self.counts["behind"] += read_address == self._last_write
        else:
            self.counts["held"] += 1
        self._last_write = write_address if writes else None
        if writes:
            self._words[write_address] = write_data

    def sample(self, cycle: int) -> None:
        if self._read_data is not None:
            text = str(self._ports["read_data"].value)
            assert text == f"{self._read_data:0{WIDTH}b}", (
                f"read_data is {text}, not {self._read_data:0{WIDTH}b}, cycle {cycle}, seed {self._bench.seed}"
            )
        self._read_data = self._next

    def clear(self) -> None:
        self._set("write_enable", 0)
        self._set("read_enable", 0)
        self._last_write = None


@cocotb.test
@cocotb.parametrize(writing=[0.3, 0.9], reading=[0.3, 0.9], close=[0.1, 0.5], seed=SEEDS)
async def words_are_what_was_written(
    dut: HierarchyObject, writing: float, reading: float, close: float, seed: int
) -> None:
    bench = Bench(dut, seed=seed)
    model = Model(bench, writing=writing, reading=reading, close=close)
    await bench.step(CYCLES)
    assert all(count > CYCLES // 1000 for count in model.counts.values()), model.counts


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def every_word_is_its_own(dut: HierarchyObject, seed: int) -> None:
    """All words are written before the first is read, at full rate."""
    bench = Bench(dut, seed=seed)
    ports = {name: bench.signal(name) for name in ("write_enable", "write_address", "write_data", "read_enable")}
    read_address, read_data = bench.signal("read_address"), bench.signal("read_data")
    source = bench.random("words")
    for flip in (0, (1 << WIDTH) - 1):
        words = [source.getrandbits(WIDTH) ^ flip for _ in range(DEPTH)]
        ports["read_enable"].value = 0
        ports["write_enable"].value = 1
        for address, word in enumerate(words):
            ports["write_address"].value = address
            ports["write_data"].value = word
            await bench.step()
        ports["write_enable"].value = 0
        ports["read_enable"].value = 1
        for address, word in enumerate(words):
            read_address.value = address
            await bench.step()
            assert str(read_data.value) == f"{word:0{WIDTH}b}", f"word {address}, seed {seed}"
