"""Testbench of hw/datapath/head_importance.py; tests/hw/datapath/test_head_importance.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden import IntArray
from spatten.golden.head_importance import HeadScores
from spatten.hw.datapath.head_importance import entry_access, entry_value, weighted_beat
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import HEAD_DIMS, PAPER, Config

PARAMETERS = parameters()
SIZE: dict[str, int] = PARAMETERS["size"]
LANES, B, SLOTS, HEADS, BITS = (SIZE[name] for name in ("lanes", "operand_bits", "slots", "heads", "bits"))
DIM_MAX = SIZE["head_dim_max"]
DIMS = [dim for dim in HEAD_DIMS if dim <= DIM_MAX]
LATENCY: int = PARAMETERS["latency"]
ROWS: int = PARAMETERS["rows"]
SEEDS: list[int] = PARAMETERS["seeds"]
NUMBERS: Config = PAPER.replace(operand_bits=B, head_dim_max=DIM_MAX, qk_multipliers=64, pv_multipliers=64)
LOW, HIGH = -(1 << (B - 1)), (1 << (B - 1)) - 1
ONE = 1 << 15
READ_LATENCY = 5
Entry = tuple[int, int]


class Reference:
    """Replays what the circuit does in its order, which `done` and the transfers of `i_access` show, on golden scores.

    It expects an answer for every read, and checks that `done` names the slots of the rows in their order.
    """

    def __init__(self, bench: Bench, access: StreamDriver, answers: StreamMonitor) -> None:
        self.scores = HeadScores(NUMBERS, SLOTS, HEADS, BITS)
        self.saturations = 0
        self.values_read: set[int] = set()
        self._done = bench.signal("done")
        self._access = access
        self._answers = answers
        self.clear()
        bench.agents.append(self)

    def queue(self, rows: list[tuple[Entry, IntArray, int]], accesses: list[dict[str, int]]) -> None:
        """Note what has been given to the drivers."""
        self._rows.extend(rows)
        self._accesses.extend(accesses)

    def clear(self) -> None:
        self._rows: list[tuple[Entry, IntArray, int]] = []
        self._accesses: list[dict[str, int]] = []
        self.done_cycles: list[int] = []
        self._accessed = 0

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        bits = str(self._done.value)
        assert bits[-1] in "01", f"done.valid is {bits[-1]} in cycle {cycle}"
        if bits[-1] == "1":
            (slot, head), row, multiplier = self._rows[len(self.done_cycles)]
            assert int(bits[:-1], 2) == slot, f"done names slot {bits[:-1]}, not {slot}"
            self.done_cycles.append(cycle)
            before = self.scores.saturated[slot, head]
            self.scores.add(slot, head, row, multiplier)
            self.saturations += int(self.scores.saturated[slot, head] and not before)
        if self._access.count > self._accessed:
            access = self._accesses[self._accessed]
            self._accessed += 1
            if access["write"]:
                self.scores.write(access["slot"], access["head"], access["value"])
            else:
                value, saturated = self.scores.read(access["slot"], access["head"])
                self._answers.expect([{"value": value, "saturated": int(saturated)}])
                self.values_read.add(int(value))


class Setup:
    """A bench with its agents."""

    def __init__(
        self,
        dut: HierarchyObject,
        seed: int,
        idle: float = 0.0,
        stall: float = 0.0,
        access_idle: float = 0.0,
        patient: bool = False,
    ) -> None:
        self.bench = Bench(dut, seed=seed)
        beat = weighted_beat(lanes=LANES, operand_bits=B, slots=SLOTS, heads=HEADS)
        self.beats = StreamDriver(self.bench, "i", beat, idle=idle)
        layout = entry_access(slots=SLOTS, heads=HEADS, bits=BITS)
        self.access = StreamDriver(self.bench, "i_access", layout, idle=access_idle)
        # The reference comes before this monitor, so that an answer is expected when it comes.
        self.answers = StreamMonitor(self.bench, "o_access", entry_value(BITS), stall=stall, patient=patient)
        self.bench.agents.remove(self.answers)
        self.reference = Reference(self.bench, self.access, self.answers)
        self.bench.agents.append(self.answers)
        self.source = np.random.default_rng(seed)
        self.rows_sent = 0
        self.beats_sent = 0
        self.accesses_sent = 0
        self.ends: list[int] = []

    def send_rows(self, count: int, *, dims: list[int] | None = None, entries: list[Entry] | None = None) -> None:
        """Random rows; entries repeat at every distance a pipeline could be sensitive to."""
        source = self.source
        rows: list[tuple[Entry, IntArray, int]] = []
        beats: list[dict[str, Any]] = []
        recent: list[Entry] = [(0, 0)]
        for _ in range(count):
            if source.random() < 0.5:
                entry = recent[-int(source.integers(1, min(6, len(recent)) + 1))]
            else:
                entry = (int(source.integers(SLOTS)), int(source.integers(HEADS)))
            if entries:
                entry = entries[len(rows) % len(entries)]
            recent.append(entry)
            dim = int(source.choice(dims or DIMS))
            row = source.integers(LOW, HIGH + 1, dim)
            if source.random() < 0.3:
                row = source.choice([LOW, HIGH, LOW], dim)
            if source.random() < 0.1:
                row[:] = LOW
            multiplier = int(source.choice([ONE, ONE, 0, 1, ONE - 1, int(source.integers(ONE))]))
            rows.append((entry, row, multiplier))
            parts = max(1, dim // LANES)
            padded = np.zeros(parts * LANES, np.int64)
            padded[:dim] = row
            for part in range(parts):
                last = part == parts - 1
                # Only a row's last beat says where the row belongs.
                about = {"slot": entry[0], "head": entry[1], "multiplier": multiplier}
                if not last:
                    about = {
                        "slot": int(source.integers(SLOTS)),
                        "head": int(source.integers(HEADS)),
                        "multiplier": int(source.integers(ONE + 1)),
                    }
                beats.append({"lanes": padded[part * LANES : (part + 1) * LANES].tolist(), "last": int(last), **about})
            self.ends.append(self.beats_sent + len(beats) - 1)
        self.beats_sent += len(beats)
        self.rows_sent += count
        self.beats.send(beats)
        self.reference.queue(rows, [])

    def send_accesses(self, accesses: list[dict[str, int]]) -> None:
        """Accesses as they are."""
        self.access.send(accesses)
        self.accesses_sent += len(accesses)
        self.reference.queue([], accesses)

    def write_all(self, spread: float = 0.5) -> None:
        """Give every entry a value, many of them close to their end."""
        limit = (1 << BITS) - 1
        values = [
            limit - int(self.source.integers(1 << 17)) % limit
            if self.source.random() < spread
            else int(self.source.integers(limit + 1))
            for _ in range(SLOTS * HEADS)
        ]
        self.send_accesses(
            [
                {"write": 1, "slot": slot, "head": head, "value": values.pop()}
                for slot in range(SLOTS)
                for head in range(HEADS)
            ]
        )

    def read_all(self) -> None:
        """Read every entry."""
        self.send_accesses(
            [{"write": 0, "slot": slot, "head": head, "value": 0} for slot in range(SLOTS) for head in range(HEADS)]
        )

    def random_accesses(self, count: int) -> None:
        """Reads and writes of any entries, while rows come."""
        limit = (1 << BITS) - 1
        self.send_accesses(
            [
                {
                    "write": int(self.source.random() < 0.3),
                    "slot": int(self.source.integers(SLOTS)),
                    "head": int(self.source.integers(HEADS)),
                    "value": limit - int(self.source.integers(1 << 16)),
                }
                for _ in range(count)
            ]
        )

    async def until_accessed(self) -> None:
        """Wait until all accesses have been taken."""
        total = self.accesses_sent
        await self.bench.until(lambda: self.access.count == total, what="access", limit=20 * total + 200)

    async def until_done(self) -> None:
        """Wait until all rows have been accumulated."""
        limit = 12 * self.beats_sent + 200
        await self.bench.until(
            lambda: len(self.reference.done_cycles) == self.rows_sent, what="last row's done", limit=limit
        )

    async def finish(self) -> None:
        """Read everything back, and see that nothing else comes."""
        await self.until_done()
        self.read_all()
        await self.until_accessed()
        await self.bench.drain()
        assert len(self.reference.done_cycles) == self.rows_sent
        assert self.beats.count == self.beats_sent


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def scores_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    """Rows and accesses at once, of the same entries."""
    test = Setup(dut, seed, idle, stall, access_idle=0.7)
    await test.bench.reset()
    test.write_all()
    await test.until_accessed()
    test.send_rows(ROWS)
    test.random_accesses(ROWS)
    await test.until_accessed()
    await test.finish()
    assert test.reference.saturations > ROWS // 40, "hardly an entry saturates"
    assert len(test.reference.values_read) > ROWS // 20, "hardly two reads differ"


@cocotb.test
async def rows_alone_lose_no_cycle(dut: HierarchyObject) -> None:
    """One beat per cycle, also for rows of a single entry, and `done` LATENCY cycles behind each row."""
    for dims, entries in [(DIMS, None), (DIMS[:1], [(0, 0)]), (DIMS[-1:], [(0, HEADS - 1), (SLOTS - 1, 0)])]:
        test = Setup(dut, SEEDS[0])
        await test.bench.reset()
        test.write_all(0)
        await test.until_accessed()
        test.send_rows(3 * LATENCY + 20, dims=dims, entries=entries)
        await test.finish()
        first = test.beats.cycles[0]
        assert test.beats.cycles == list(range(first, first + test.beats_sent)), "i.ready fell"
        assert test.reference.done_cycles == [test.beats.cycles[end] + LATENCY for end in test.ends]
        record("latency", test.reference.done_cycles[0] - test.beats.cycles[test.ends[0]], unit="cycles")
        record("cycles_per_beat", (test.beats.cycles[-1] - first) / (test.beats.count - 1))


@cocotb.test
async def an_access_costs_one_cycle(dut: HierarchyObject) -> None:
    """Accesses go at one per cycle and come back READ_LATENCY later; rows of one beat lose only those cycles."""
    test = Setup(dut, SEEDS[0])
    await test.bench.reset()
    test.write_all()
    await test.until_accessed()
    count = 4 * LATENCY
    test.send_rows(count, dims=DIMS[:1])
    await test.bench.step(LATENCY + 4)
    accesses = [{"write": 0, "slot": n % SLOTS, "head": n % HEADS, "value": 0} for n in range(12)]
    before = test.access.count
    test.send_accesses(accesses)
    await test.until_accessed()
    taken = test.access.cycles[before:]
    assert taken == list(range(taken[0], taken[0] + len(accesses)))
    await test.until_done()
    assert test.answers.cycles == [cycle + READ_LATENCY for cycle in taken]
    assert test.beats.cycles[-1] - test.beats.cycles[0] == count - 1 + len(accesses)
    await test.finish()


@cocotb.test
async def answers_wait_for_their_taker(dut: HierarchyObject) -> None:
    """Stalled answers stop reads after READ_LATENCY + 1 of them, but not rows."""
    test = Setup(dut, SEEDS[0])
    await test.bench.reset()
    test.write_all()
    await test.until_accessed()
    before = test.access.count
    test.answers.stop()
    test.send_accesses([{"write": 0, "slot": 0, "head": n % HEADS, "value": 0} for n in range(20)])
    test.send_rows(30)
    await test.until_done()
    assert test.access.count - before == READ_LATENCY + 1
    test.answers.start()
    await test.until_accessed()
    await test.finish()


@cocotb.test
async def valid_does_not_wait_for_ready(dut: HierarchyObject) -> None:
    test = Setup(dut, SEEDS[0], patient=True)
    await test.bench.reset()
    test.write_all()
    await test.until_accessed()
    test.send_rows(10)
    await test.finish()


@cocotb.test
async def reset_drops_the_rows_inside(dut: HierarchyObject) -> None:
    for taken in range(2 * LATENCY):
        test = Setup(dut, SEEDS[0] + taken, stall=0.5)
        await test.bench.reset()
        test.write_all()
        test.send_rows(40)
        await test.bench.step(taken)
        test.random_accesses(20)
        await test.bench.step(taken)
        await test.bench.reset(1)
        await test.bench.step(2 * LATENCY)
        assert test.answers.count == 0
        assert not test.reference.done_cycles
        # A new bench begins the next round with entries written anew.
        test = Setup(dut, SEEDS[0] + taken)
        await test.bench.step(2)
        test.write_all()
        await test.until_accessed()
        test.send_rows(5)
        await test.finish()
