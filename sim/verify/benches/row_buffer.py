"""Testbench of hw/datapath/select/row_buffer.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.row_buffer import RowBuffer
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
LANES: int = PARAMETERS["lanes"]
N_MAX: int = PARAMETERS["n_max"]
COMPACTS: bool = PARAMETERS["compacts"]
BUFFER = RowBuffer(width=WIDTH, lanes=LANES, n_max=N_MAX, compacts=COMPACTS)
BEATS_MAX = -(-N_MAX // LANES)

Beat = tuple[list[int], int]
"""The values of a beat, and how many of them are live."""


class Beats(Twin):
    """The beats of a row by number, in the order in which they were written."""

    goals = {
        "filled": 30,
        "full row": 5,
        "freed": 30,
        "read": 200,
        "held": 100,
        **({"shortened": 20, "shortened to one beat": 5, "read beside a rewrite": 20} if COMPACTS else {}),
    }

    def reset(self) -> None:
        self.beats: dict[int, Beat] = {}
        self.length = 0
        self.is_full = False
        self.last: tuple[int, int] | None = None
        """Number of the last beat and how many values of it are live; None while a row is written."""
        self.written = self.rewritten = self.rewrites_left = 0
        self.shown: list[int] | None = None

    def _beat(self, count: int) -> Beat:
        return [self.source.getrandbits(WIDTH) for _ in range(LANES)], count

    def inputs(self) -> Values:
        self.write: tuple[int, Beat, bool] | None = None
        self.rewrite: tuple[int, Beat, bool] | None = None
        self.frees = False
        if not self.is_full:
            if not self.length:
                self.length = self.source.choice([1, self.source.randint(1, BEATS_MAX), BEATS_MAX])
                self.written = 0
            if self.source.random() < 0.7:
                last = self.written == self.length - 1
                count = self.source.randint(1, LANES) if last else LANES
                self.write = self.written, self._beat(count), last
        elif self.rewrites_left:
            if self.source.random() < 0.5:
                last = self.rewrites_left == 1
                count = self.source.randint(0, LANES) if last else LANES
                self.rewrite = self.rewritten, self._beat(count), last
        elif self.source.random() < 0.2:
            self.frees = True
        elif COMPACTS and self.source.random() < 0.1:
            self.rewrites_left = self.source.randint(1, self.length)
            self.rewritten = 0
            self.saw("shortened to one beat", self.rewrites_left == 1 and self.length > 1)
        # A beat is not read in the cycle in which it is written.
        busy = [entry[0] for entry in (self.write, self.rewrite) if entry]
        readable = [number for number in self.beats if number not in busy]
        self.read = self.source.choice(readable) if readable and self.source.random() < 0.6 else None
        return self._ports()

    def _ports(self) -> Values:
        ports: dict[str, Any] = {
            "writes": self.write is not None,
            "fills": self.write is not None and self.write[2],
            "frees": self.frees,
            "reads": self.read is not None,
        }
        if self.read is not None:
            ports["read_beat"] = self.read
        if self.write is not None:
            number, (values, count), _ = self.write
            ports |= {"write_beat": number, "values": values, "count": count}
        if COMPACTS:
            ports["rewrites"] = self.rewrite is not None
        if self.rewrite is not None:
            number, (values, count), last = self.rewrite
            ports |= {"rewrite_beat": number, "rewritten": {"lanes": values, "count": count, "last": last}}
        return ports

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {"is_full": self.is_full, "read_values": self.shown}
        if self.is_full and self.last is not None:
            wanted["last_beat"], wanted["last_count"] = self.last
        return wanted

    def clock(self) -> None:
        self.saw("held", self.read is None and self.shown is not None and (self.write or self.rewrite))
        if self.read is not None:
            self.shown = self.beats[self.read][0]
            self.saw("read")
            self.saw("read beside a rewrite", self.rewrite)
        if self.write is not None:
            number, beat, is_last = self.write
            self.beats[number] = beat
            self.written += 1
            if is_last:
                self.is_full = True
                self.last = number, beat[1]
                self.saw("filled")
                self.saw("full row", self.length == BEATS_MAX)
        if self.rewrite is not None:
            number, beat, is_last = self.rewrite
            self.beats[number] = beat
            self.rewritten += 1
            self.rewrites_left -= 1
            if is_last:
                self.last = number, beat[1]
                self.length = number + 1
                self.saw("shortened")
        if self.frees:
            self.is_full = False
            self.length = 0
            self.saw("freed")


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def beats_are_kept(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, BUFFER, Beats, seed=seed, cycles=PARAMETERS["cycles"])
