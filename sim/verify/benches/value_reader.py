"""Testbench of hw/control/value_reader.py; tests/hw/control/test_value_reader.py runs it.

Rows of both kinds come at random; their windows follow from the formats of their jobs' values, and each is read in the
first cycle in which its probabilities, its values and a place for its result are there.
"""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job_slots import row_layout
from spatten.hw.control.row.row_layouts import prob_beat
from spatten.hw.control.value_reader import ValueReader
from spatten.sim.verify.benches.row_models import Buffer, Jobs, Queue, windows_record
from spatten.sim.verify.benches.value_windows import windows_of_beat
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.row_format import value_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
PLACES: int = PARAMETERS["places"]
READER = ValueReader(config=CONFIG, places=PLACES)
NARROW, WIDE = CONFIG.softmax_lanes, CONFIG.topk_lanes
LANES = {"whole": NARROW, "pruned": WIDE}
PORTS = {"whole": "i", "pruned": "i_pruned"}
GROUPS = -(-CONFIG.tokens_max // WIDE)
ROWS_MAX = 2 * -(-CONFIG.tokens_max // NARROW)
ANY_ROW = Anything(row_layout(CONFIG))
ANY_BEAT = {kind: Anything(prob_beat(CONFIG, lanes)) for kind, lanes in LANES.items()}


class Kind:
    """The rows of one kind on their way to the windows: two queues, and the next beat as wide as softmax."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.coming: list[dict[str, Any]] = []
        """Beats of the row that is being sent."""
        self.is_shown = False
        self.begins = True
        self.rows = Queue(ROWS_MAX)
        self.beats = Queue(2 * -(-CONFIG.tokens_max // lanes))
        self.part = 0
        self.next = Buffer()

    @property
    def ready(self) -> bool:
        return self.rows.ready and self.beats.ready

    def clock(self, *, takes_row: bool, takes_beat: bool) -> None:
        """Go to the next cycle: a row is chosen, the next narrow beat is used up."""
        goes = self.is_shown and self.ready
        beat = self.coming[0] if goes else None
        narrow = None
        last_part = False
        if self.beats.valid and self.next.ready:
            wide = self.beats.first
            start = self.part * NARROW
            count = min(NARROW, wide["count"] - start)
            last_part = start + count == wide["count"]
            narrow = {
                "probs": wide["probs"][start : start + NARROW],
                "count": count,
                "last": int(wide["last"] and last_part),
            }
            self.part = 0 if last_part else self.part + 1
        self.next.clock(pushes=narrow is not None, entry=narrow, pops=takes_beat)
        self.rows.clock(pushes=goes and self.begins, entry=beat["row"] if beat else None, pops=takes_row)
        self.beats.clock(pushes=goes, entry=beat, pops=last_part)
        if goes:
            self.begins = bool(self.coming.pop(0)["last"])
            self.is_shown = False


class Reads(Twin):
    """Rows of two jobs, others after each reset; values come, and results leave, in phases of different paces."""

    goals = {
        "whole": 60,
        "pruned": 60,
        "turns": 30,
        "values are late": 50,
        "no place": 30,
        "row without a pause": 10,
        "full speed": 200,
        "two longest rows": 1,
        "several parts": 50,
    }

    def reset(self) -> None:
        self.jobs = Jobs(CONFIG, self.source)
        self.in_slot = [self.jobs.start()[1] for _ in range(CONFIG.jobs_in_flight)]
        self.kinds = {kind: Kind(lanes) for kind, lanes in LANES.items()}
        self.bases = [self.source.randrange(value_ring_sectors(CONFIG)) for _ in range(CONFIG.blocks)]
        self.block: int | None = None
        self.blocks = Queue(CONFIG.blocks)
        self.last = "pruned"
        self.chosen: dict[str, Any] | None = None
        self.placed = Buffer()
        self.row: dict[str, Any] | None = None
        self.steps: list[dict[str, Any]] | None = None
        self.done = self.windows_done = 0
        self.probs = Queue(8)
        self.window: dict[str, Any] | None = None
        self.arrived = [0] * CONFIG.blocks
        self.under_way = 0
        self.used: dict[str, Any] = {"valid": 0}
        self.went = False
        self.pace = {"rows": 0.5, "values": 1.0, "results": 0.5, "probs": 1.0, "blocks": 0.5}

    def _make_row(self, kind: Kind, any_beat: Anything) -> None:
        source = self.source
        slot = source.randrange(len(self.in_slot))
        row = ANY_ROW(source) | {"slot": slot, "head": source.choice(self.in_slot[slot].heads)}
        count = source.choice([CONFIG.tokens_max, source.randint(1, CONFIG.tokens_max), source.randint(1, NARROW)])
        for start in range(0, count, kind.lanes):
            mine = min(kind.lanes, count - start)
            kind.coming.append(any_beat(source) | {"count": mine, "last": int(start + mine == count), "row": row})

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.02:
            self.pace = {
                "rows": source.choice([0.1, 0.5, 1]),
                "values": source.choice([0.4, 1]),
                "results": source.choice([0.05, 0.5, 1]),
                "probs": source.choice([0.1, 1]),
                "blocks": source.choice([0, 0.1, 1]),
            }
        for name, kind in self.kinds.items():
            if not kind.coming:
                self._make_row(kind, ANY_BEAT[name])
            kind.is_shown |= source.random() < self.pace["rows"]
        if self.block is None and source.random() < self.pace["blocks"]:
            self.block = source.randrange(CONFIG.blocks)
        self.before = self.arrived
        self.arrived = [
            GROUPS if source.random() < self.pace["values"] else source.randrange(GROUPS + 1)
            for _ in range(CONFIG.blocks)
        ]
        self.leaves = self.under_way > 0 and source.random() < self.pace["results"]
        self.takes_probs = source.random() < self.pace["probs"]
        rows = {
            PORTS[name]: {"valid": 1, "payload": kind.coming[0]} if kind.is_shown else {"valid": 0}
            for name, kind in self.kinds.items()
        }
        return {
            "slots": self.jobs.records,
            **rows,
            "i_block": {"valid": 0} if self.block is None else {"valid": 1, "payload": self.block},
            "arrived": self.arrived,
            "bases": self.bases,
            "left": self.leaves,
            "o_prob": {"ready": self.takes_probs},
        }

    def outputs(self) -> Values:
        window = self.window
        self.goes = False
        wanted: dict[str, Any] = {
            **{PORTS[name]: {"ready": kind.ready} for name, kind in self.kinds.items()},
            "i_block": {"ready": self.blocks.ready},
            "o_prob": {"valid": 1, "payload": self.probs.first} if self.probs.valid else {"valid": 0},
            "used": self.used,
        }
        if window is not None:
            has_values = self.before[window["entry"]] > window["group"]
            has_place = self.under_way < PLACES or not window["fills"]
            self.goes = has_values and has_place
            self.saw("values are late", not has_values)
            self.saw("no place", has_values and not has_place)
        wanted["o_read"] = {"valid": 1, "payload": window["request"]} if self.goes and window else {"valid": 0}
        return wanted

    def clock(self) -> None:
        self.saw("full speed", self.goes and self.went)
        self.saw("two longest rows", len(self.kinds["pruned"].beats) >= 2 * GROUPS)
        self.went = self.goes
        self.under_way -= self.leaves
        self.used = {"valid": 0}
        free = self.window is None or self.goes
        if self.goes and self.window is not None:
            self.under_way += bool(self.window["fills"])
            if self.window["ends_row"]:
                self.used = {"valid": 1, "entry": self.window["entry"]}
            self.window = None
        kind, ends_beat, ends_row = self._make_window(free)
        chosen = self._choose()
        for name, queues in self.kinds.items():
            queues.clock(takes_row=chosen == name, takes_beat=ends_beat and name == kind)
        enters = self.block is not None and self.blocks.ready
        self.blocks.clock(pushes=enters, entry=self.block, pops=chosen == "pruned")
        if enters:
            self.block = None
        if self.row is None or ends_row:
            self.saw("row without a pause", self.row is not None and self.next_row is not None)
            self.row = self.next_row
            self.done = self.windows_done = 0

    def _make_window(self, free: bool) -> tuple[str | None, bool, bool]:
        """Makes the next window if there is something to make it of and a register is `free`: the kind of its row, and
        whether it ends its beat and its row."""
        weights = None
        kind = None if self.row is None else "pruned" if self.row["is_pruned"] else "whole"
        ends_beat = ends_row = False
        queue = self.kinds[kind].next if kind else None
        if self.row is not None and queue is not None and queue.valid and free and self.probs.ready:
            beat, record = queue.first, self.row["windows"]
            if self.steps is None:
                self.steps = windows_of_beat(self.row, beat, done=self.done, windows_done=self.windows_done)
                self.saw("several parts", record["beats"] > 1)
                weights = beat | {"dim": self.row["dim"], "group": record["log_keys"], "header": self.row["row"]}
            self.window = self.steps.pop(0)
            if not self.steps:
                self.steps = None
                self.done += beat["count"]
                self.windows_done += -(-beat["count"] // record["window_keys"])
                ends_beat, ends_row = True, bool(beat["last"])
        self.probs.clock(pushes=weights is not None, entry=weights, pops=self.probs.valid and self.takes_probs)
        takes = self.row is None or ends_row
        self.next_row = self.placed.first if takes and self.placed.valid else None
        pushes = self.chosen is not None and self.placed.ready
        self.has_room = self.chosen is None or pushes
        self.placed.clock(pushes=pushes, entry=self.chosen, pops=self.next_row is not None)
        if pushes:
            self.chosen = None
        return kind, ends_beat, ends_row

    def _choose(self) -> str | None:
        """Chooses the row that is looked up next, in turns where rows of both kinds can go."""
        can_go = [name for name, kind in self.kinds.items() if kind.rows.valid]
        if "pruned" in can_go and not self.blocks.valid:
            can_go.remove("pruned")
        if not self.has_room or not can_go:
            return None
        self.saw("turns", len(can_go) == 2)
        name = next((kind for kind in can_go if kind != self.last), can_go[0])
        row = self.kinds[name].rows.first
        job = self.in_slot[row["slot"]]
        entry = self.blocks.first if name == "pruned" else row["values"]
        self.chosen = {
            "is_pruned": int(name == "pruned"),
            "row": row,
            "entry": entry,
            "base": self.bases[entry],
            "dim": HEAD_DIMS.index(job.head_dim),
            "windows": windows_record(CONFIG, job.values, int(job.values.heads == 2 and row["head"] % 2)),
        }
        self.last = name
        self.saw(name)
        return name


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def values_are_read_when_they_can_be(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, READER, Reads, seed=seed, cycles=PARAMETERS["cycles"], resets=9)
