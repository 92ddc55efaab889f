"""Testbench of `ReadWriteRam` in hw/lib/ram.py; tests/hw/lib/test_ram.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.lib.ram import ReadWriteRam
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
DEPTH: int = PARAMETERS["depth"]
WIDTH: int = PARAMETERS["width"]
RAM = ReadWriteRam(shape=WIDTH, depth=DEPTH)


class Words(Twin):
    """Every word, and what each port read last; a word that was never written is not read."""

    goals = {"written": 200, "read by both": 50, "collides": 20, "both ports at once": 50, "held": 200}

    def reset(self) -> None:
        self.words: dict[int, int] = {}
        self.shown: dict[str, int | None] = {"access_read_data": None, "read_data": None}

    def inputs(self) -> Values:
        source = self.source
        address = source.randrange(DEPTH)
        kind = source.choice(["write", "read", "none"])
        self.write = (address, source.getrandbits(WIDTH)) if kind == "write" else None
        self.access = address if kind == "read" and address in self.words else None
        other = source.choice([address, source.randrange(DEPTH)])
        self.read = other if source.random() < 0.6 and other in self.words else None
        given = {
            "write_enable": self.write is not None,
            "access_read_enable": self.access is not None,
            "read_enable": self.read is not None,
            "read_address": self.read,
        }
        if self.write is not None:
            given |= {"access_address": address, "write_data": self.write[1]}
        elif self.access is not None:
            given["access_address"] = address
        return given

    def outputs(self) -> Values:
        return {name: word for name, word in self.shown.items() if word is not None}

    def clock(self) -> None:
        self.saw("held", self.read is None and self.access is None)
        self.saw("both ports at once", self.read is not None and self.access is not None)
        self.saw("read by both", self.read is not None and self.read == self.access)
        if self.access is not None:
            self.shown["access_read_data"] = self.words[self.access]
        if self.read is not None and self.write is not None and self.write[0] == self.read:
            self.saw("collides")
        elif self.read is not None:
            self.shown["read_data"] = self.words[self.read]
        if self.write is not None:
            self.saw("written")
            self.words[self.write[0]] = self.write[1]


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def both_ports_read_what_was_written(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, RAM, Words, seed=seed, cycles=PARAMETERS["cycles"], resets=0)
