"""Testbench of hw/control/row/query_windows.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.query_windows import QueryWindows
from spatten.hw.control.segments import query_segment
from spatten.hw.datapath.converter import part_code
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.row_format import BANKS, CODE_BITS, query_ring_sectors, row_format, row_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = QueryWindows(config=CONFIG)
ANY_SEGMENT = Anything(query_segment(CONFIG))
SECTORS = query_ring_sectors(CONFIG)


def any_segment(source: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A segment at random, and what is asked for in its cycles: a read, or a stashed query."""
    head_dim = source.choice(CONFIG.head_dims)
    bits = source.choice(CONFIG.query_bits)
    row = row_format(head_dim=head_dim, slice_width=CONFIG.slice_width, bits=bits)
    head = source.randrange(row.heads)
    again = int(source.random() < 0.25)
    stashes = int(not again and source.random() < 0.25)
    rows = 1 if again or stashes else source.randint(1, CONFIG.topk_lanes)
    segment: dict[str, Any] = ANY_SEGMENT(source) | {
        "dim": HEAD_DIMS.index(head_dim),
        "bits": CODE_BITS.index(bits),
        "odd_head": head,
        "again": again,
        "stashes": stashes,
        "rows": rows,
        "base": source.randrange(SECTORS),
    }
    asked = {name: segment[name] for name in ("offset", "again", "row")}
    if again:
        stashed = {"valid": 1, "stash_slot": segment["stash_slot"]}
        return segment, [{"stashed": stashed, "asked": {"valid": 1, "place": 0, **asked}}]
    found = []
    for place in range(rows):
        for beat in range(row.beats):
            part = row.parts[head, beat]
            is_last = beat == row.beats - 1
            request = {
                "sector": (segment["base"] + place * row_sectors(head_dim, bits) + part.start) % SECTORS,
                "sectors": part.sectors,
                "header": {
                    "part": part_code(row, head, beat, banks=BANKS),
                    "beat": beat,
                    "last": is_last,
                    "stashes": stashes,
                    "stash_slot": segment["stash_slot"],
                },
            }
            step: dict[str, Any] = {"o_read": {"valid": 1, "payload": request}}
            if is_last:
                step["asked"] = {"valid": 1, "place": place, **asked}
            if is_last and place == rows - 1:
                step["used"] = {"valid": 1, "entry": segment["entry"]}
            found.append(step)
    return segment, found


class Reads(Twin):
    """Segments at random, whose blocks are there sooner or later, with or without room for their queries."""

    goals = {"segment": 100, "again": 30, "stashes": 20, "block is late": 40, "no room": 100, "odd head": 20}

    def reset(self) -> None:
        self.offer: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
        self.segment: dict[str, Any] | None = None
        self.steps: list[dict[str, Any]] = []
        self.waits = False

    def inputs(self) -> Values:
        if self.offer is None and self.source.random() < 0.5:
            self.offer = any_segment(self.source)
        self.arrived = [int(self.source.random() < 0.6) for _ in range(CONFIG.blocks)]
        self.has_room = self.source.random() < 0.8
        offer = {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer[0]}
        return {"i": offer, "arrived": self.arrived, "has_room": self.has_room}

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {
            "i": {"ready": self.segment is None},
            **{name: {"valid": 0} for name in ("o_read", "stashed", "asked", "used")},
            "looks_up": self.waits,
        }
        self.goes = self.segment is not None and not self.waits and self.has_room
        if self.segment is not None:
            wanted["entry"] = self.segment["entry"]
        return wanted | self.steps[0] if self.goes else wanted

    def clock(self) -> None:
        if self.segment is None:
            if self.offer is not None:
                self.segment, self.steps = self.offer
                self.offer, self.waits = None, True
                self.saw("segment")
                for name in ("again", "stashes"):
                    self.saw(name, self.segment[name])
                self.saw("odd head", self.segment["odd_head"] and not self.segment["again"])
        elif self.waits:
            self.waits = not (self.segment["again"] or self.arrived[self.segment["entry"]])
            self.saw("block is late", self.waits)
        elif self.goes:
            self.steps.pop(0)
            if not self.steps:
                self.segment = None
        else:
            self.saw("no room")


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def queries_are_asked_for(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Reads, seed=seed, cycles=PARAMETERS["cycles"])
