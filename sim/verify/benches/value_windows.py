"""Testbench of hw/control/row/value_windows.py; tests/hw/control/test_row_parts.py runs it.

Where the windows of a beat of probabilities lie follows from the format of a block row, and from how many windows of
the row came before.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.row_layouts import prob_beat, value_row
from spatten.hw.control.row.value_windows import ValueWindows
from spatten.sim.verify.benches.row_models import Queue, any_format, windows_record
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.row_format import value_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = ValueWindows(config=CONFIG)
LANES, RING = CONFIG.softmax_lanes, value_ring_sectors(CONFIG)
ANY_ROW = Anything(value_row(CONFIG))
ANY_BEAT = Anything(prob_beat(CONFIG, LANES))
KINDS = ("i_beat", "i_pruned_beat")


def windows_of_beat(row: dict[str, Any], beat: dict[str, Any], *, done: int, windows_done: int) -> list[dict[str, Any]]:
    """The windows that a beat of a row's probabilities meets, after so many values and windows of the row."""
    windows = row["windows"]
    keys = windows["window_keys"]
    starts = range(0, beat["count"], keys)
    found = []
    for number, start in enumerate(starts):
        ends = beat["last"] and start == starts[-1]
        lane_rows = -(-min(keys, beat["count"] - start) // CONFIG.slices)
        for part_number in range(windows["beats"]):
            part = windows["parts"][part_number]
            place = row["base"] + (windows_done + number) * windows["step"] + part["start"]
            found.append(
                {
                    "request": {
                        "sector": place % RING,
                        "sectors": (lane_rows - 1) * windows["stride"] + part["sectors"],
                        "header": part["part"],
                    },
                    "entry": row["entry"],
                    "group": (done + start) // CONFIG.topk_lanes,
                    "fills": ends,
                    "ends_row": ends and part_number == windows["beats"] - 1,
                }
            )
    return found


class Windows(Twin):
    """Rows of both kinds at random, and their beats, each offered and taken at random."""

    goals = {
        "row": 100,
        "pruned": 40,
        "row without a pause": 10,
        "beat is late": 40,
        "no room for probabilities": 20,
        "several windows": 50,
        "several parts": 50,
        "wraps": 10,
        "full speed": 100,
    }

    def reset(self) -> None:
        self.offer: dict[str, Any] | None = None
        self.beats: dict[str, deque[dict[str, Any]]] = {name: deque() for name in KINDS}
        self.shown = dict.fromkeys(KINDS, False)
        self.row: dict[str, Any] | None = None
        self.done = 0
        self.windows_done = 0
        self.steps: list[dict[str, Any]] | None = None
        self.window: dict[str, Any] | None = None
        self.probs = Queue(8)
        self.pace = {"window": 1.0, "probs": 0.5, "beat": 0.8}

    def _make_row(self) -> None:
        source = self.source
        row, head, _ = any_format(CONFIG, source, is_key=False)
        is_pruned = int(source.random() < 0.4)
        self.offer = ANY_ROW(source) | {
            "is_pruned": is_pruned,
            "base": source.randrange(RING),
            "dim": HEAD_DIMS.index(row.head_dim),
            "windows": windows_record(CONFIG, row, head),
        }
        count = source.randint(1, CONFIG.tokens_max)
        for start in range(0, count, LANES):
            mine = min(LANES, count - start)
            beat = ANY_BEAT(source) | {"count": mine, "last": int(start + mine == count)}
            self.beats[KINDS[is_pruned]].append(beat)

    def _steps(self, beat: dict[str, Any]) -> list[dict[str, Any]]:
        assert self.row is not None
        found = windows_of_beat(self.row, beat, done=self.done, windows_done=self.windows_done)
        self.saw("several windows", beat["count"] > self.row["windows"]["window_keys"])
        self.saw("several parts", self.row["windows"]["beats"] > 1)
        self.saw("wraps", any(window["request"]["sector"] < self.row["base"] for window in found))
        return found

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.03:
            self.pace = {
                "window": source.choice([0.3, 1, 1]),
                "probs": source.choice([0.05, 0.5, 1]),
                "beat": source.choice([0.2, 1]),
            }
        if self.offer is None and source.random() < 0.3:
            self._make_row()
        for name in KINDS:
            self.shown[name] |= bool(self.beats[name]) and source.random() < self.pace["beat"]
        self.ready = source.random() < self.pace["window"]
        self.takes_probs = source.random() < self.pace["probs"]
        beats = {
            name: {"valid": 1, "payload": self.beats[name][0]} if self.shown[name] else {"valid": 0} for name in KINDS
        }
        offer = {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer}
        return {"i": offer, **beats, "o": {"ready": self.ready}, "o_prob": {"ready": self.takes_probs}}

    def outputs(self) -> Values:
        self.kind = None if self.row is None else KINDS[self.row["is_pruned"]]
        self.beat = self.beats[self.kind][0] if self.kind and self.shown[self.kind] else None
        if self.beat is not None and self.steps is None:
            self.steps = self._steps(self.beat)
            self.is_first = True
        window_free = self.window is None or self.ready
        self.begins = self.beat is not None and self.probs.ready and window_free
        self.ends_beat = self.begins and self.steps is not None and len(self.steps) == 1
        self.takes = self.row is None or (self.ends_beat and self.beat is not None and bool(self.beat["last"]))
        self.saw("beat is late", self.row is not None and self.beat is None)
        self.saw("no room for probabilities", self.beat is not None and not self.probs.ready)
        shown = {"valid": 0} if self.window is None else {"valid": 1, "payload": self.window}
        wanted: dict[str, Any] = {
            "i": {"ready": self.takes},
            "o": shown,
            "o_prob": {"valid": 1, "payload": self.probs.first} if self.probs.valid else {"valid": 0},
            "begins": self.begins,
        }
        for name in KINDS:
            if self.row is not None and (self.beat is not None or name != self.kind):
                wanted[name] = {"ready": self.ends_beat and name == self.kind}
        if self.begins and self.row is not None and self.steps is not None:
            wanted |= {"next_entry": self.row["entry"], "next_group": self.steps[0]["group"]}
        return wanted

    def clock(self) -> None:
        self.saw("full speed", self.begins and self.window is not None)
        if self.window is not None and self.ready:
            self.window = None
        weights = None
        if self.begins and self.steps is not None and self.row is not None and self.beat is not None:
            if self.is_first:
                weights = self.beat | {
                    "dim": self.row["dim"],
                    "group": self.row["windows"]["log_keys"],
                    "header": self.row["row"],
                }
            self.is_first = False
            self.window = self.steps.pop(0)
        self.probs.clock(pushes=weights is not None, entry=weights, pops=self.probs.valid and self.takes_probs)
        if self.ends_beat and self.kind is not None and self.beat is not None and self.row is not None:
            self.done += self.beat["count"]
            self.windows_done += -(-self.beat["count"] // self.row["windows"]["window_keys"])
            self.beats[self.kind].popleft()
            self.shown[self.kind] = False
            self.steps = None
        if self.takes:
            self.saw("row without a pause", self.row is not None and self.offer is not None)
            self.row, self.offer = self.offer, None
            self.done = self.windows_done = 0
            self.saw("row", self.row is not None)
            self.saw("pruned", self.row is not None and self.row["is_pruned"])


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def windows_meet_their_probabilities(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Windows, seed=seed, cycles=PARAMETERS["cycles"])
