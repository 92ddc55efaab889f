"""Testbench of hw/board/crc.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import zlib

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.crc import RESIDUE, Crc32
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()


class Messages(Twin):
    """Messages, and behind each the four bytes of its CRC."""

    goals = {"message": 50, "empty message": 5}

    def reset(self) -> None:
        self.message: bytes | None = None
        self.size = 3
        self.left = 0
        self.start = self.clear = False
        self.byte = 0

    def inputs(self) -> Values:
        self.start = self.clear = False
        if self.left == 0 and self.source.random() < 0.7:
            if self.message is None or len(self.message) == self.size + 4:
                self.clear = True
            elif len(self.message) < self.size:
                self.start, self.byte = True, self.source.getrandbits(8)
            else:
                check = zlib.crc32(self.message[: self.size]).to_bytes(4, "little")
                self.start, self.byte = True, check[len(self.message) - self.size]
        values = {"clear": self.clear, "start": self.start}
        return values | {"byte": self.byte} if self.start else values

    def outputs(self) -> Values:
        busy = self.left > 0
        if busy or self.message is None:
            return {"busy": busy}
        if len(self.message) == self.size + 4:
            return {"busy": busy, "value": RESIDUE}
        return {"busy": busy, "value": 0xFFFF_FFFF ^ zlib.crc32(self.message)}

    def clock(self) -> None:
        self.left = max(self.left - 1, 0)
        if self.clear:
            self.saw("message", self.message)
            self.saw("empty message", self.size == 0)
            self.message, self.size = b"", self.source.randint(0, 6)
        if self.start:
            assert self.message is not None
            self.message += bytes([self.byte])
            self.left = 8


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_is_that_of_zlib(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, Crc32(), Messages, seed=seed, cycles=PARAMETERS["cycles"])


class Shifts(Twin):
    """The register's own low byte moves the register on by a byte: that is how a CRC is sent."""

    goals = {"moved": 200, "not moved": 200}

    def reset(self) -> None:
        self.value: int | None = None
        self.left = 0

    def inputs(self) -> Values:
        self.start = self.clear = self.own = False
        if self.left == 0:
            self.clear = self.value is None or self.source.random() < 0.05
            self.start = not self.clear
            self.own = self.start and self.source.random() < 0.5
            self.byte = self.source.getrandbits(8)
            if self.own and self.value is not None:
                self.byte = self.value & 0xFF
        return {"clear": self.clear, "start": self.start, "byte": self.byte if self.start else None}

    def outputs(self) -> Values:
        busy = self.left > 0
        return {"busy": busy} if busy or self.value is None else {"busy": busy, "value": self.value}

    def clock(self) -> None:
        self.left = max(self.left - 1, 0)
        if self.clear:
            self.value = 0xFFFF_FFFF
        if self.start:
            assert self.value is not None
            self.left = 8
            after = 0xFFFF_FFFF ^ zlib.crc32(bytes([self.byte]), 0xFFFF_FFFF ^ self.value)
            self.saw("moved" if self.own else "not moved")
            self.value = self.value >> 8 if self.own else after


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def its_own_byte_moves_it_on(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, Crc32(), Shifts, seed=seed, cycles=PARAMETERS["cycles"])
