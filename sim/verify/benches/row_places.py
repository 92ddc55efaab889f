"""Testbench of hw/datapath/select/row_places.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

from collections import deque

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.row_places import RowPlaces
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
PLACES: int = PARAMETERS["places"]
WIDTH: int = PARAMETERS["width"]
N_MAX: int = PARAMETERS["n_max"]
HEADER: int | None = PARAMETERS["header"]
ROWS = RowPlaces(places=PLACES, width=WIDTH, n_max=N_MAX, header=HEADER)


class Queue(Twin):
    """Two queues: of rows without a result, and of rows with one."""

    goals = {"crowded": 100, "crowded and leaves": 20, "all finished": 20, "empty": 20, "all at once": 20}

    def reset(self) -> None:
        self.waiting: deque[int] = deque()
        """The headers of rows without a result."""
        self.finished: deque[dict[str, int]] = deque()
        self.phase = 0.5

    def inputs(self) -> Values:
        if self.source.random() < 0.05:
            self.phase = self.source.choice([0.2, 0.5, 0.9])
        self.enters = len(self.waiting) + len(self.finished) < PLACES and self.source.random() < self.phase
        self.finishes = bool(self.waiting) and self.source.random() < 0.6
        self.ready = self.source.random() < 1 - self.phase / 1.5
        self.header = self.source.getrandbits(HEADER or 1)
        self.result = {"threshold": self.source.getrandbits(WIDTH), "equals": self.source.randint(1, N_MAX)}
        ports: dict[str, object] = {"enters": self.enters, "finishes": self.finishes, "o": {"ready": self.ready}}
        if self.enters and HEADER is not None:
            ports["header"] = self.header
        if self.finishes:
            ports |= {"threshold": self.result["threshold"], "rank": self.result["equals"] - 1}
        return ports

    def outputs(self) -> Values:
        inside = len(self.waiting) + len(self.finished)
        payload = self.finished[0] if self.finished else None
        self.saw("crowded", inside == PLACES)
        self.saw("crowded and leaves", inside == PLACES and payload and self.ready)
        self.saw("all finished", len(self.finished) == PLACES)
        self.saw("empty", not inside)
        self.saw("all at once", self.enters and self.finishes and payload and self.ready)
        return {"is_crowded": inside == PLACES, "o": {"valid": bool(self.finished), "payload": payload}}

    def clock(self) -> None:
        if self.finished and self.ready:
            self.finished.popleft()
        if self.finishes:
            header = self.waiting.popleft()
            self.finished.append(self.result if HEADER is None else {**self.result, "header": header})
        if self.enters:
            self.waiting.append(self.header)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def rows_leave_in_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, ROWS, Queue, seed=seed, cycles=PARAMETERS["cycles"])
