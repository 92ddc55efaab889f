"""Testbench of hw/control/local_values.py; tests/hw/control/test_local_values.py runs it.

The reference knows the live list of every job, and what of each row is marked: the ids and probabilities of these, in
order, `topk_lanes` a beat.
"""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.local_values import LocalValues
from spatten.hw.control.plan.plan_layouts import kept_ids, live_read
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
UNIT = LocalValues(config=CONFIG)
LANES, JOBS, TOKENS = CONFIG.topk_lanes, CONFIG.jobs_in_flight, CONFIG.tokens_max
LIVE_READ = Payload(live_read(CONFIG))
IDS = Payload(UNIT.live_ids.shape())
Beat = dict[str, Any]


def marked_row(source: random.Random, slot: int, ids: list[int]) -> tuple[list[Beat], list[int], list[int]]:
    """A row of probabilities of the tokens `ids`, some of which are marked: its beats, and what is marked."""
    share = source.choice([0.1, 0.5, 0.9, 1.0])
    is_marked = [source.random() < share for _ in ids]
    is_marked[source.randrange(len(ids))] = True
    probs = [source.randrange(1, 1 << CONFIG.prob_bits) for _ in ids]
    row = {
        "slot": slot,
        "head": source.randrange(CONFIG.heads_max),
        "number": source.randrange(TOKENS),
        "values": source.randrange(CONFIG.blocks),
        "accumulate": source.randrange(2),
        "prune": 1,
    }
    beats = []
    for start in range(0, len(ids), LANES):
        count = min(LANES, len(ids) - start)
        dead = [source.randrange(1 << CONFIG.prob_bits) for _ in range(LANES - count)]
        beats.append(
            {
                "values": probs[start : start + count] + dead,
                "mask": sum(is_marked[start + lane] << lane for lane in range(count)),
                "count": count,
                "last": int(start + LANES >= len(ids)),
                "header": row,
            }
        )
    kept = [n for n in range(len(ids)) if is_marked[n]]
    return beats, [ids[n] for n in kept], [probs[n] for n in kept]


def packed(values: list[int]) -> list[tuple[list[int], int, int]]:
    """Values in full beats: those of a beat, how many, and whether they are the last."""
    starts = range(0, len(values), LANES)
    beats = [values[start : start + LANES] for start in starts]
    return [(b + [0] * (LANES - len(b)), len(b), int(n == len(beats) - 1)) for n, b in enumerate(beats)]


class LiveLists:
    """The live list of each job's slot, as the planner answers reads of it: in the next cycle, and until the next read.

    Now and then a list is being written: none is read then.
    """

    def __init__(self, bench: Bench) -> None:
        self._read, self._ids = bench.signal("live_read"), bench.signal("live_ids")
        self._dense, self._busy = bench.signal("dense"), bench.signal("list_busy")
        self._source = bench.random("live lists")
        self._is_dense = [False] * JOBS
        self._shown = [0] * LANES
        self.ids: list[list[int]] = [[] for _ in range(JOBS)]
        self.reads = self.busy_cycles = 0
        bench.agents.append(self)

    def clear(self) -> None:
        self._is_busy = False
        self._busy.value = 0

    def drive(self) -> None:
        self._is_busy = self._source.random() < 0.2
        self._busy.value = self._is_busy
        self._ids.value = IDS.pack(self._shown)
        self.busy_cycles += self._is_busy

    def sample(self, cycle: int) -> None:
        # Slot and row are unknown while nothing is read.
        text = str(self._read.value)
        assert text[-1] in "01", f"live_read.enable is {text[-1]} in cycle {cycle}"
        if text[-1] == "0":
            return
        read = LIVE_READ.unpack(int(text, 2))
        assert not self._is_busy, f"a live list is read in cycle {cycle}, while one is written"
        self.reads += 1
        row = self.ids[read["slot"]][read["row"] * LANES :][:LANES]
        if self._is_dense[read["slot"]]:
            # The list of a dense job was not written: what is there must not matter.
            row = []
        self._shown = row + [self._source.randrange(TOKENS) for _ in range(LANES - len(row))]

    def begin(self, slot: int, *, dense: bool | None = None) -> None:
        """A new job in `slot`."""
        source = self._source
        self._is_dense[slot] = source.random() < 0.3 if dense is None else dense
        live = TOKENS if dense else source.randint(1, TOKENS)
        self.ids[slot] = list(range(live)) if self._is_dense[slot] else sorted(source.sample(range(TOKENS), live))
        self._dense.value = sum(is_dense << n for n, is_dense in enumerate(self._is_dense))


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.6], seed=PARAMETERS["seeds"])
async def marked_probabilities_get_their_tokens(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("rows")
    driver = StreamDriver(bench, "i", UNIT.i.payload.shape(), idle=idle)
    ids_out = StreamMonitor(bench, "o_ids", kept_ids(CONFIG), stall=stall)
    rows_out = StreamMonitor(bench, "o_pruned", UNIT.o_pruned.payload.shape(), stall=stall, steady=True)
    lists = LiveLists(bench)
    await bench.reset()
    for _ in range(PARAMETERS["rounds"]):
        for slot in range(JOBS):
            lists.begin(slot)
        for _ in range(PARAMETERS["rows"]):
            slot = source.randrange(JOBS)
            beats, ids, probs = marked_row(source, slot, lists.ids[slot])
            row = beats[0]["header"]
            driver.send(beats)
            ids_out.expect(
                {"ids": some, "count": count, "last": last, "slot": slot, "head": row["head"]}
                for some, count, last in packed(ids)
            )
            rows_out.expect(
                {"probs": some, "count": count, "last": last, "row": row} for some, count, last in packed(probs)
            )
        await bench.drain()
    assert ids_out.count == rows_out.count > PARAMETERS["rounds"] * PARAMETERS["rows"]
    assert lists.reads == driver.count
    assert lists.busy_cycles > 50


@cocotb.test()
async def two_rows_of_ids_wait_for_the_planner(dut: HierarchyObject) -> None:
    """The queue of ids holds two whole rows, so that the value reader gets the probabilities of both."""
    bench = Bench(dut, seed=PARAMETERS["seeds"][0])
    source = bench.random("rows")
    driver = StreamDriver(bench, "i", UNIT.i.payload.shape())
    ids_out = StreamMonitor(bench, "o_ids", kept_ids(CONFIG))
    rows_out = StreamMonitor(bench, "o_pruned", UNIT.o_pruned.payload.shape())
    lists = LiveLists(bench)
    await bench.reset()
    lists.begin(0, dense=True)
    ids_out.stop()
    row_beats = -(-TOKENS // LANES)
    for _ in range(3):
        beats, _, _ = marked_row(source, 0, lists.ids[0])
        for beat in beats:
            beat["mask"] = (1 << beat["count"]) - 1
        values = [value for beat in beats for value in beat["values"][: beat["count"]]]
        driver.send(beats)
        header = beats[0]["header"]
        ids_out.expect(
            {"ids": some, "count": count, "last": last, "slot": 0, "head": header["head"]}
            for some, count, last in packed(lists.ids[0])
        )
        rows_out.expect(
            {"probs": some, "count": count, "last": last, "row": header} for some, count, last in packed(values)
        )
    await bench.step(20 * row_beats)
    assert 2 * row_beats <= rows_out.count < 3 * row_beats
    ids_out.start()
    await bench.drain()
