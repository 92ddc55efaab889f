"""Testbench of hw/control/row/value_rows.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job_slots import row_layout
from spatten.hw.control.row.value_rows import ValueRows
from spatten.sim.verify.benches.row_models import Buffer, Jobs, Queue, windows_record
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.row_format import value_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = ValueRows(config=CONFIG)
ANY_ROW = Anything(row_layout(CONFIG))


class Rows(Twin):
    """Rows of both kinds at random, of jobs that all stand."""

    goals = {
        "whole": 100,
        "pruned": 100,
        "both can go": 100,
        "block is late": 20,
        "no room": 50,
        "odd head": 20,
        "full speed": 20,
    }

    def reset(self) -> None:
        self.jobs = Jobs(CONFIG, self.source)
        self.in_slot = [self.jobs.start()[1] for _ in range(CONFIG.jobs_in_flight)]
        self.bases = [self.source.randrange(value_ring_sectors(CONFIG)) for _ in range(CONFIG.blocks)]
        self.offers: dict[str, Any] = dict.fromkeys(("whole", "pruned", "block"))
        self.blocks = Queue(CONFIG.blocks)
        self.chosen: dict[str, Any] | None = None
        self.buffer = Buffer()
        self.last = "pruned"
        self.pace = 0.5

    def _row(self) -> dict[str, Any]:
        slot = self.source.randrange(len(self.in_slot))
        return ANY_ROW(self.source) | {"slot": slot, "head": self.source.choice(self.in_slot[slot].heads)}

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.03:
            self.pace = source.choice([0.2, 0.6, 1])
        for name, make in (
            ("whole", self._row),
            ("pruned", self._row),
            ("block", lambda: source.randrange(CONFIG.blocks)),
        ):
            if self.offers[name] is None and source.random() < 0.4:
                self.offers[name] = make()
        # The base of a block that is looked up stays.
        moved = source.randrange(CONFIG.blocks)
        if self.chosen is None or self.chosen["entry"] != moved:
            self.bases[moved] = source.randrange(value_ring_sectors(CONFIG))
        # Nobody asks for the job of a slot that has no row here.
        slot = source.randrange(len(self.in_slot))
        shown = [offer for name, offer in self.offers.items() if name != "block" and offer is not None]
        if source.random() < 0.2 and all(row["slot"] != slot for row in shown):
            while self.jobs.started % len(self.in_slot) != slot:
                self.jobs.started += 1
            self.in_slot[slot] = self.jobs.start()[1]
        self.takes = source.random() < self.pace
        streams = {"i": "whole", "i_pruned": "pruned", "i_block": "block"}
        offers = {
            port: {"valid": 0} if self.offers[name] is None else {"valid": 1, "payload": self.offers[name]}
            for port, name in streams.items()
        }
        return {"slots": self.jobs.records, "bases": self.bases, **offers, "o": {"ready": self.takes}}

    def outputs(self) -> Values:
        can_go = [name for name in ("whole", "pruned") if self.offers[name] is not None]
        if "pruned" in can_go and not self.blocks.valid:
            can_go.remove("pruned")
            self.saw("block is late")
        self.moves = self.chosen is None or self.buffer.ready
        self.saw("both can go", len(can_go) == 2 and self.moves)
        self.saw("no room", can_go and not self.moves)
        # In turns, where both could go.
        others = [name for name in can_go if name != self.last] or can_go
        self.goes = others[0] if others and self.moves else None
        shown = {"valid": 1, "payload": self.buffer.first} if self.buffer.valid else {"valid": 0}
        return {
            "i": {"ready": self.goes == "whole"},
            "i_pruned": {"ready": self.goes == "pruned"},
            "i_block": {"ready": self.blocks.ready},
            "o": shown,
        }

    def clock(self) -> None:
        self.saw("full speed", self.goes and self.buffer.valid and self.takes)
        pushes = self.chosen is not None and self.buffer.ready
        placed = {**self.chosen, "base": self.bases[self.chosen["entry"]]} if self.chosen else None
        self.buffer.clock(pushes=pushes, entry=placed, pops=self.buffer.valid and self.takes)
        if pushes:
            self.chosen = None
        if self.goes:
            self.saw(self.goes)
            row = self.offers[self.goes]
            job = self.in_slot[row["slot"]]
            second = int(job.values.heads == 2 and row["head"] % 2)
            self.saw("odd head", second)
            self.chosen = {
                "is_pruned": self.goes == "pruned",
                "row": row,
                "entry": self.blocks.first if self.goes == "pruned" else row["values"],
                "dim": HEAD_DIMS.index(job.head_dim),
                "windows": windows_record(CONFIG, job.values, second),
            }
            self.last = self.goes
            self.offers[self.goes] = None
        block = self.offers["block"]
        enters = block is not None and self.blocks.ready
        self.blocks.clock(pushes=enters, entry=block, pops=self.goes == "pruned")
        if enters:
            self.offers["block"] = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def rows_take_turns(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Rows, seed=seed, cycles=PARAMETERS["cycles"])
