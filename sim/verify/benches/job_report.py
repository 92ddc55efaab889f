"""Testbench of hw/control/job/job_report.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_report import JobReport
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.job import Flag, report_widths

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
REPORT = JobReport(config=CONFIG)
JOBS, CHANNELS = range(CONFIG.jobs_in_flight), range(CONFIG.channels)
MOST = CONFIG.tokens_max * CONFIG.heads_max
ANY_RECORD = Anything(REPORT.slots[0].shape())
ANY_OUTCOME = Anything(REPORT.outcomes[0].shape())
ROWS_BITS = report_widths(CONFIG)["rows"]
Cycles = Generator[None, None, None]
"""What happens in a cycle, and then in the next one."""


class Slot:
    """A job, and how far it is."""

    def __init__(self, source: Any) -> None:
        self.record = ANY_RECORD(source)
        self.record["live"] = source.randint(1, CONFIG.tokens_max)
        self.total = source.randint(1, MOST)
        self.written = self.total - min(self.total, source.choice([0, 1, 3]))
        self.outcome = ANY_OUTCOME(source)
        self.recomputed, self.saturated = source.getrandbits(16), source.getrandbits(32)
        self.is_prepared = self.is_chosen = False

    @property
    def stores(self) -> bool:
        return bool(self.record["flags"] >> Flag.STORE_STATE & 1)


class Report(Twin):
    """Jobs whose rows are written, whose output leaves the packer and is acknowledged, all of it after random times.

    Counters are numbers without end. What a report waits for is one thing after the other.
    """

    goals = {
        "stored": 20,
        "not stored": 20,
        "waits for rows": 30,
        "waits to be prepared": 30,
        "waits for a job": 30,
        "choice last": 10,
        "memory last": 20,
        "report stalled": 50,
        "store stalled": 50,
        "beats wrap": 2,
        "sectors wrap": 1,
        "another job's output follows": 20,
    }

    def reset(self) -> None:
        source = self.source
        self.slots: list[Slot | None] = [None for _ in JOBS]
        self.next_slot = self.next_prepared = self.next_choice = self.slot = 0
        # So near to the counters' ends that they get there.
        self.beats_in = self.beats_done = 256 - source.randint(1, 100)
        self.queued = [65536 - source.randint(1, 50) for _ in CHANNELS]
        self.acknowledged = list(self.queued)
        self.speed = self.row_speed = 0.5
        self.job_speed = 0.2
        self.offered = ""
        """What is offered: "store", "report" or nothing."""
        self.sequence = self._jobs()
        next(self.sequence)

    def _jobs(self) -> Cycles:
        """What is offered, job after job: each `yield` is a cycle."""
        while True:
            slot = yield from self._until_written()
            beats = self.beats_in
            yield
            while self.beats_done < beats:
                yield
            yield from self._until_acknowledged(slot)
            if slot.stores:
                yield from self._offer("store")
                yield from self._until_acknowledged(slot)
            self.saw("stored" if slot.stores else "not stored")
            yield from self._offer("report")
            self.slots[self.slot] = None
            self.slot = (self.slot + 1) % len(JOBS)
            yield

    def _until_written(self) -> Generator[None, None, Slot]:
        while True:
            slot = self.slots[self.slot]
            if slot is not None and slot.is_prepared and slot.written == slot.total:
                return slot
            self.saw("waits for a job", slot is None)
            self.saw("waits for rows", slot is not None and slot.is_prepared)
            self.saw("waits to be prepared", slot is not None and slot.written == slot.total)
            yield

    def _until_acknowledged(self, slot: Slot) -> Cycles:
        """What is queued now must be in memory, as it was a cycle ago."""
        sectors = list(self.queued)
        yield
        while True:
            in_memory = [have >= need for have, need in zip(self.acknowledged, sectors, strict=True)]
            yield
            if all(in_memory) and slot.is_chosen:
                return
            self.saw("choice last", all(in_memory))
            self.saw("memory last", slot.is_chosen)

    def _offer(self, what: str) -> Cycles:
        self.offered = what
        yield
        while not self.ready[what]:
            self.saw(f"{what} stalled")
            yield
        self.offered = ""

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.01:
            self.speed, self.row_speed = source.choice([0.1, 0.5, 0.9]), source.choice([0.1, 0.5, 0.9])
            self.job_speed = source.choice([0.03, 0.2])
        self.prepared = self._event(self.next_prepared, 0.15, lambda slot: not slot.is_prepared)
        self.chosen = self._event(self.next_choice, 0.1, lambda slot: slot.is_prepared and not slot.is_chosen)
        self.ready = {what: source.random() < 0.3 for what in ("report", "store")}
        slots = [slot for slot in self.slots if slot is not None]
        self.saw("another job's output follows", len(slots) > 1 and slots[-1].written and self.offered)

        def by_slot(value: Callable[[Slot], Any]) -> list[Any]:
            return [None if slot is None else value(slot) for slot in self.slots]

        return {
            "slots": by_slot(lambda slot: slot.record),
            "totals": by_slot(lambda slot: slot.total),
            "written": by_slot(lambda slot: slot.written),
            "outcomes": by_slot(lambda slot: slot.outcome),
            "recomputed_rows": by_slot(lambda slot: slot.recomputed),
            "saturated_elements": by_slot(lambda slot: slot.saturated),
            "prepared": {"valid": 0} if self.prepared is None else {"valid": 1, "slot": self.prepared},
            "choice": {"valid": 0} if self.chosen is None else {"valid": 1, "slot": self.chosen},
            "beats_in": self.beats_in % 256,
            "beats_done": self.beats_done % 256,
            "queued": [count % 65536 for count in self.queued],
            "acknowledged": [count % 65536 for count in self.acknowledged],
            "o_store": {"ready": self.ready["store"]},
            "o_report": {"ready": self.ready["report"]},
        }

    def _event(self, number: int, chance: float, may: Callable[[Slot], bool]) -> int | None:
        """The slot, if its event may happen and does."""
        slot = self.slots[number]
        return number if slot is not None and may(slot) and self.source.random() < chance else None

    def outputs(self) -> Values:
        slot = self.slots[self.slot]
        wanted: dict[str, Any] = {
            "o_store": {"valid": self.offered == "store"},
            "o_report": {"valid": self.offered == "report"},
            "store": {"waits": self.offered == "store"},
            "ends": self.offered == "report" and self.ready["report"],
        }
        if slot is None or not self.offered:
            return wanted
        record, outcome = slot.record, slot.outcome
        if self.offered == "store":
            wanted["o_store"]["payload"] = {"context": record["context"], "sector": record["state"]}
            wanted["store"] |= {"done": self.ready["store"], "context": record["context"]}
            wanted["stored_heads"] = outcome["kept_heads"]
        else:
            wanted["o_report"]["payload"] = {
                "tag": record["tag"],
                "live_tokens": record["live"],
                "kept_tokens": outcome["kept_tokens"],
                "live_heads": record["live_heads"],
                "kept_heads": outcome["kept_heads"],
                "rows": slot.total % (1 << ROWS_BITS),
                "recomputed": slot.recomputed,
                "output_saturated": slot.saturated,
                "tokens_saturated": outcome["saturated_tokens"],
                "heads_saturated": outcome["saturated_heads"],
            }
        return wanted

    def clock(self) -> None:
        next(self.sequence)
        self._output()
        self._jobs_go_on()

    def _output(self) -> None:
        """Beats leave the packer, and sectors are written."""
        source = self.source
        before = self.beats_done, self.queued[0]
        if self.beats_done < self.beats_in and source.random() < self.speed:
            self.beats_done += 1
            self.queued[source.choice(CHANNELS)] += 1
        if self.offered == "store" and source.random() < self.speed:
            self.queued[source.choice(CHANNELS)] += 1
        for channel in CHANNELS:
            missing = self.queued[channel] - self.acknowledged[channel]
            if missing and source.random() < self.speed / 2:
                self.acknowledged[channel] += source.randint(1, missing)
        self.saw("beats wrap", self.beats_done // 256 > before[0] // 256)
        self.saw("sectors wrap", self.queued[0] // 65536 > before[1] // 65536)

    def _jobs_go_on(self) -> None:
        """Jobs come, their rows are written in order, and it is settled who stays after them."""
        source = self.source
        if self.prepared is not None:
            self._slot(self.prepared).is_prepared = True
            self.next_prepared = (self.next_prepared + 1) % len(JOBS)
        if self.chosen is not None:
            self._slot(self.chosen).is_chosen = True
            self.next_choice = (self.next_choice + 1) % len(JOBS)
        order = [self.slots[(self.slot + n) % len(JOBS)] for n in JOBS]
        unwritten = [slot for slot in order if slot is not None and slot.written < slot.total]
        if unwritten and source.random() < self.row_speed and self.beats_in - self.beats_done < 100:
            unwritten[0].written += 1
            self.beats_in += source.randint(1, 2)
        if self.slots[self.next_slot] is None and source.random() < self.job_speed:
            self.slots[self.next_slot] = Slot(source)
            self.next_slot = (self.next_slot + 1) % len(JOBS)

    def _slot(self, number: int) -> Slot:
        slot = self.slots[number]
        assert slot is not None
        return slot


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def jobs_are_reported_when_their_output_is_in_memory(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, REPORT, Report, seed=seed, cycles=PARAMETERS["cycles"])
