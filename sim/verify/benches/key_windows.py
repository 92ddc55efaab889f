"""Testbench of hw/control/row/key_windows.py; tests/hw/control/test_row_parts.py runs it.

All windows of a segment are known from the format of its block rows when it comes: window w of a row has the keys from
w x `window_keys` on, and the block rows of each lane that these lie in.
"""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.key_windows import KeyWindows
from spatten.hw.control.segments import key_segment
from spatten.hw.datapath.progressive import Kind
from spatten.sim.verify.benches.row_models import any_format, windows_record
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.row_format import CODE_BITS, key_ring_sectors, lsb_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = KeyWindows(config=CONFIG)
ANY_SEGMENT = Anything(key_segment(CONFIG))
RING, BEHIND = key_ring_sectors(CONFIG), lsb_sectors(CONFIG)
LANES, WIDE = CONFIG.softmax_lanes, CONFIG.topk_lanes


def any_segment(source: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A segment at random, as a `placed_segment`, and its windows in their order."""
    row, head, is_lsb = any_format(CONFIG, source, is_key=True)
    record = windows_record(CONFIG, row, head, is_lsb=is_lsb)
    keys_of_window, step = record["window_keys"], record["step"]
    # Behind the ring there is room for some groups, at most for as many as fit.
    group_sectors = WIDE // CONFIG.slices * row.stride
    groups = source.randint(2, BEHIND // group_sectors)
    linear = int(source.random() < 0.4)
    base = RING if linear else source.randrange(RING)
    limit = RING + groups * group_sectors if linear else 0
    causal = int(not linear and source.random() < 0.5)
    rows = 1 if linear else source.choice([1, 2, source.randint(1, WIDE)])
    keys = source.choice([1, CONFIG.tokens_max, *(source.randint(1, CONFIG.tokens_max) for _ in range(3))])
    if causal:
        keys = min(keys, CONFIG.tokens_max - rows + 1)
    segment: dict[str, Any] = ANY_SEGMENT(source) | {
        "dim": HEAD_DIMS.index(row.head_dim),
        "bits": CODE_BITS.index(row.bits),
        "joined": int(row.joined),
        "odd_head": head,
        "lsb": int(is_lsb),
        "linear": linear,
        "base": base,
        "limit": limit,
        "causal": causal,
        "rows": rows,
        "keys": keys,
    }
    scores = {name: segment[name] for name in ("row", "kind", "stash_slot", "mantissa", "shift", "flat_limit")}
    found = []
    for number in range(rows):
        count = keys + number * causal
        starts = range(0, count, keys_of_window)
        for start in starts:
            is_last = start == starts[-1]
            mine = min(keys_of_window, count - start)
            lane_rows = -(-mine // CONFIG.slices)
            place = start // keys_of_window * step
            first = RING + place % (limit - RING) if linear else base + place
            for beat in range(row.beats):
                part = record["parts"][beat]
                ends = beat == row.beats - 1
                ends_row = ends and is_last
                ends_segment = ends_row and number == rows - 1
                sector = first + part["start"]
                found.append(
                    {
                        "request": {
                            "sector": sector if linear else sector % RING,
                            "sectors": (lane_rows - 1) * row.stride + part["sectors"],
                            "header": {
                                "part": part["part"],
                                "count": mine,
                                "group": record["log_keys"],
                                "dim": segment["dim"],
                                "last": ends_row,
                                "scores": scores,
                            },
                        },
                        "entry": segment["entry"],
                        "linear": linear,
                        "group": start // WIDE,
                        "fills": ends and (is_last or (start + mine) % LANES == 0),
                        "ends_row": ends_row,
                        "ends_block": ends_segment and segment["ends_block"] and not linear,
                        "again_read": ends and linear and (is_last or (start + mine) % WIDE == 0),
                        "again_done": ends_segment and linear,
                        "freed": (
                            1 << segment["stash_slot"]
                            if ends_segment and linear and segment["kind"] == Kind.SINGLE
                            else 0
                        ),
                    }
                )
    return {"segment": segment, "windows": record}, found


class Windows(Twin):
    """Segment after segment at random, offered and taken at random."""

    goals = {
        "segment": 40,
        "behind the ring": 15,
        "frees": 3,
        "causal": 10,
        "full speed": 100,
        "segment without a pause": 5,
        "pause": 5,
        "wraps": 5,
        "wraps behind the ring": 5,
    }

    def reset(self) -> None:
        self.offer: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
        self.segment: dict[str, Any] = {}
        self.unmade: list[dict[str, Any]] = []
        self.window: dict[str, Any] | None = None
        self.sector = 0
        self.pace = 1.0
        self.offers = 0.5

    def inputs(self) -> Values:
        if self.source.random() < 0.05:
            self.pace = self.source.choice([0.3, 1, 1])
            self.offers = self.source.choice([0.02, 0.5])
        if self.offer is None and self.source.random() < self.offers:
            self.offer = any_segment(self.source)
        self.ready = self.source.random() < self.pace
        offer = {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer[0]}
        return {"i": offer, "o": {"ready": self.ready}}

    def outputs(self) -> Values:
        self.begins = bool(self.unmade) and (self.window is None or self.ready)
        self.takes = not self.unmade or (self.begins and len(self.unmade) == 1)
        shown = {"valid": 0} if self.window is None else {"valid": 1, "payload": self.window}
        wanted: dict[str, Any] = {"i": {"ready": self.takes}, "o": shown, "begins": self.begins}
        if self.begins:
            wanted |= {
                "next_entry": self.segment["entry"],
                "next_group": self.unmade[0]["group"],
                "next_linear": self.segment["linear"],
            }
        return wanted

    def clock(self) -> None:
        goes = self.window is not None and self.ready
        self.saw("full speed", goes and self.begins)
        self.saw("pause", goes and not self.unmade)
        if goes and self.window is not None:
            self.saw("frees", self.window["freed"])
            self.window = None
        if self.begins:
            self.window = self.unmade.pop(0)
            sector = self.window["request"]["sector"]
            self.saw("wraps", not self.window["linear"] and sector < self.segment["base"])
            self.saw("wraps behind the ring", self.window["linear"] and sector < self.sector)
            self.sector = 0 if self.window["ends_row"] else sector
        if self.takes and self.offer is not None:
            self.saw("segment")
            self.saw("segment without a pause", self.begins)
            placed, self.unmade = self.offer
            self.segment = placed["segment"]
            self.saw("behind the ring", self.segment["linear"])
            self.saw("causal", self.segment["causal"])
            self.offer = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def windows_come_in_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Windows, seed=seed, cycles=PARAMETERS["cycles"])
