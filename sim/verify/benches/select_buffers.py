"""Testbench of hw/datapath/select/select_buffers.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.select_buffers import SelectBuffers
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
LANES: int = PARAMETERS["lanes"]
N_MAX: int = PARAMETERS["n_max"]
COMPACTS: bool = PARAMETERS["compacts"]
BUFFERS = SelectBuffers(width=WIDTH, lanes=LANES, n_max=N_MAX, compacts=COMPACTS)

BETWEEN_PASSES = 5
"""Cycles at least from the last read of a pass to the first read of the next one: as long as a digit takes."""
TO_COMPACTION = 3
"""Cycles from a read to when its beat is compacted."""


def beats_of(values: list[int]) -> list[list[int]]:
    """A row in beats; an empty row is an empty beat."""
    return [values[first : first + LANES] for first in range(0, len(values), LANES)] or [[]]


@dataclass
class Compaction:
    """A shorter row that comes back: its beats, and how many have come."""

    beats: list[list[int]]
    begins_at: int | None = None
    """The cycle in which the last beat of the pass is compacted; None while the pass is on."""
    back: int = 0

    @property
    def is_over(self) -> bool:
        return self.back == len(self.beats)


@dataclass
class Row:
    """A full row: its beats, and what a pass over it does."""

    beats: list[list[int]]
    read: int = 0
    """Beats read in this pass."""
    reads_at: list[int] = field(default_factory=list)
    """The cycles of these reads."""
    passes: int = 0
    compaction: Compaction | None = None

    def available(self) -> int:
        """Beats of this pass that are there."""
        if self.compaction is not None and self.compaction.begins_at is not None:
            return self.compaction.back
        return len(self.beats)


class Passes(Twin):
    """Two rows at most, as lists of beats; the first of them is read in passes, some of which leave a shorter row."""

    goals = {
        "both full": 100,
        "back to back": 20,
        "longest row": 5,
        **(
            {
                "shorter row": 20,
                "empty row": 5,
                "comes back during the pass": 10,
                "read while it comes back": 10,
                "waits for a beat": 20,
                "frees after a compaction": 10,
            }
            if COMPACTS
            else {}
        ),
    }

    def reset(self) -> None:
        self.now = 0
        self.entering: list[list[int]] = []
        """The beats of the row that enters: those that are still to come, and those that came."""
        self.entered: list[list[int]] = []
        self.rows: list[Row] = []
        self.passed: dict[int, dict[str, Any]] = {}
        self.pass_at = 0
        self.freed_at = -9

    # -- What comes ---------------------------------------------------------------------------------------------------

    def inputs(self) -> Values:
        self.enters: list[int] | None = None
        # The second row is the last for which there is a buffer.
        if len(self.rows) < 2 and self.source.random() < 0.7:
            if not self.entering:
                length = self.source.choice([1, self.source.randint(1, N_MAX), N_MAX])
                self.entering = beats_of([self.source.getrandbits(WIDTH) for _ in range(length)])
                self.entered = []
                self.saw("longest row", length == N_MAX)
            self.enters = self.entering[0]
        ports: dict[str, Any] = {"enters": self.enters is not None}
        if self.enters is not None:
            dead = [None] * (LANES - len(self.enters))
            ports |= {"values": [*self.enters, *dead], "count": len(self.enters), "last": len(self.entering) == 1}
        row = self.rows[0] if self.rows else None
        ports |= self._compact(row) if COMPACTS else {}
        self.reads = self.frees = False
        if row is not None:
            self._pass(row)
        return {**ports, "reads": self.reads, "frees": self.frees}

    def _compact(self, row: Row | None) -> Values:
        compaction = row.compaction if row is not None else None
        self.comes: list[int] | None = None
        if row is None or compaction is None:
            return {"compaction_begins": 0, "compacted": {"valid": 0}}
        last = compaction.back == len(compaction.beats) - 1
        if compaction.begins_at is None:
            # A full beat comes back when another beat behind those that fill it has been read and compacted.
            old = [at for at in row.reads_at if at + TO_COMPACTION < self.now]
            may_come = not last and len(old) >= compaction.back + 2
            self.saw("comes back during the pass", may_come)
        else:
            may_come = self.now > compaction.begins_at
        ports: dict[str, Any] = {"compaction_begins": self.now == compaction.begins_at, "compacted": {"valid": 0}}
        if may_come and not compaction.is_over and self.source.random() < 0.4:
            self.comes = compaction.beats[compaction.back]
            lanes = [*self.comes, *[None] * (LANES - len(self.comes))]
            payload = {"lanes": lanes, "count": len(self.comes), "last": last}
            ports["compacted"] = {"valid": 1, "payload": payload}
        return ports

    def _pass(self, row: Row) -> None:
        """Read a beat, if this pass may; or free the row."""
        compaction = row.compaction
        is_quiet = compaction is None or compaction.begins_at is None or compaction.is_over
        if row.read == 0 and self.now < self.pass_at:
            return
        if row.read == 0 and row.passes and is_quiet and self.source.random() < 0.3:
            self.frees = True
            self.saw("frees after a compaction", compaction)
            return
        begun = compaction is not None and compaction.begins_at is not None and self.now > compaction.begins_at
        if row.read < row.available() and self.source.random() < 0.8:
            self.reads = True
            self.saw("read while it comes back", begun and not is_quiet)
        else:
            self.saw("waits for a beat", begun and row.read >= row.available())
        if self.reads and not COMPACTS and self._reads_last(row) and self.source.random() < 0.5:
            self.frees = True

    # -- What is wanted -----------------------------------------------------------------------------------------------

    def _is_compacted(self, row: Row) -> bool:
        compaction = row.compaction
        if compaction is None or compaction.begins_at is None or self.now <= compaction.begins_at:
            return True
        return compaction.is_over

    def _reads_last(self, row: Row) -> bool:
        return self._is_compacted(row) and row.read == len(row.beats) - 1

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {
            "has_room": len(self.rows) < 2,
            "is_full": bool(self.rows),
            "is_first": not (self.entering and self.entered),
            "o": {"valid": self.now in self.passed, "payload": self.passed.pop(self.now, None)},
        }
        self.saw("both full", len(self.rows) == 2)
        if self.rows:
            row = self.rows[0]
            # Between two passes nothing has to be said of the next beat.
            if row.read or self.reads:
                wanted["reads_last"] = self._reads_last(row)
            if COMPACTS:
                wanted["is_compacted"] = self._is_compacted(row)
                if row.read or self.now >= self.pass_at:
                    wanted["is_stored"] = self._is_compacted(row) or row.read < row.available()
        elif COMPACTS:
            wanted["is_compacted"] = 1
        return wanted

    def clock(self) -> None:
        row = self.rows[0] if self.rows else None
        if row is not None and self.reads:
            self._read(row)
        if row is not None and COMPACTS and self.comes is not None:
            assert row.compaction is not None
            row.compaction.back += 1
        if row is not None and row.compaction is not None and self.now == row.compaction.begins_at:
            row.beats = row.compaction.beats
        if self.frees:
            del self.rows[0]
            self.pass_at = self.now + 1
            self.freed_at = self.now
        if self.enters is not None:
            self.entered.append(self.entering.pop(0))
            if not self.entering:
                self.rows.append(Row(self.entered))
                self.entered = []
        self.now += 1

    def _read(self, row: Row) -> None:
        is_last = self._reads_last(row)
        beat = row.beats[row.read]
        if row.read == 0:
            self.saw("back to back", self.freed_at == self.now - 1)
            row.reads_at = []
            row.compaction = self._any_compaction(row) if self._is_compacted(row) else row.compaction
        several = row.read > 0 or not is_last
        marks = {"first": row.read == 0, "last": is_last}
        if COMPACTS:
            marks["several"] = several
        values = [*beat, *[None] * (LANES - len(beat))]
        self.passed[self.now + 1] = {"values": values, "count": len(beat), **marks}
        row.reads_at.append(self.now)
        row.read += 1
        if is_last:
            row.read = 0
            row.passes += 1
            self.pass_at = self.now + (BETWEEN_PASSES if COMPACTS else 1)
            if row.compaction is not None and row.compaction.begins_at is None:
                row.compaction.begins_at = self.now + TO_COMPACTION

    def _any_compaction(self, row: Row) -> Compaction | None:
        """What this pass leaves of a row of several beats, if it leaves a shorter one."""
        if not COMPACTS or len(row.beats) < 2 or self.source.random() < 0.3:
            return None
        share = self.source.choice([0, 0.3, 0.7, 0.95])
        left = [value for beat in row.beats for value in beat if self.source.random() < share]
        self.saw("shorter row", len(beats_of(left)) < len(row.beats))
        self.saw("empty row", not left)
        return Compaction(beats_of(left))


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def rows_are_read_as_they_are(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, BUFFERS, Passes, seed=seed, cycles=PARAMETERS["cycles"])
