"""Testbench of hw/control/job/head_port.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.head_port import HeadPort
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.job import Flag

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
PORT = HeadPort(config=CONFIG)
HEADS = range(CONFIG.heads_max)
ANY_JOB = Anything(PORT.job.shape())
ANY_STATE = Anything(PORT.loaded.shape())
ANY_READ = Anything(PORT.i_read.payload.shape())
ANY_VALUE = Anything(PORT.i.payload.shape())


class Port(Twin):
    """Jobs that begin and reads for jobs that end; the heads of a job are a list of those that are yet to be written.

    The head importance behind the port answers reads in order, each with a random value after a random time.
    """

    goals = {
        "cleared": 10,
        "loaded": 5,
        "loaded and aged": 10,
        "aged": 20,
        "left as it is": 10,
        "held by reads": 50,
        "read ahead": 50,
        "answer waits": 20,
        "answer for a job that ends": 200,
        "large shift": 2,
    }

    def reset(self) -> None:
        self.unwritten: deque[int] = deque()
        self.unasked: deque[int] = deque()
        self.kind = ""
        self.was_busy = True
        self.reads = False
        self.stops = False
        self.read: dict[str, int] | None = None
        self.answers: deque[tuple[int, dict[str, int]]] = deque()
        """For each read that is not answered, how many cycles its answer takes yet, and the answer."""

    def inputs(self) -> Values:
        source = self.source
        self.busy = bool(self.unwritten)
        if not self.reads and not self.was_busy and source.random() < 0.1:
            self.reads, self.stops = True, False
        elif self.reads and self.read is None and not self.answers and self.stops:
            self.reads = False
        self.stops = self.stops or source.random() < 0.1
        if self.reads and not self.stops and self.read is None and source.random() < 0.7:
            self.read = ANY_READ(source)
        self.begins = not self.busy and source.random() < 0.3
        self.job = ANY_JOB(source)
        self.job["flags"] &= ~(1 << Flag.CLEAR | 1 << Flag.LOAD_STATE)
        self.job["flags"] |= source.choice([0, 0, 1 << Flag.CLEAR, 1 << Flag.LOAD_STATE])
        self.job["age_shift"] = source.choice([0, 0, 1, 2, 7, 31])
        self.loaded = ANY_STATE(source)
        self.ready = source.random() < 0.7
        self.answer = self.answers[0][1] if self.answers and self.answers[0][0] <= 0 else None
        given: dict[str, Any] = {
            "begins": self.begins,
            "reads": self.reads,
            "o": {"ready": self.ready},
            "i": {"valid": self.answer is not None, "payload": self.answer},
            "i_read": {"valid": self.read is not None, "payload": self.read},
        }
        if self.begins:
            given |= {"job": self.job, "loaded": self.loaded}
        return given

    def _access(self) -> dict[str, int] | None:
        """What goes to the head importance; without `value` if it is a read."""
        if self.reads:
            return self.read and {"write": 0, "slot": self.read["context"], "head": self.read["head"]}
        if not self.unwritten:
            return None
        if self.kind == "aged":
            if self.answer is not None:
                value = self.answer["value"] >> self.shift
                return {"write": 1, "slot": self.context, "head": self.unwritten[0], "value": value}
            return {"write": 0, "slot": self.context, "head": self.unasked[0]} if self.unasked else None
        value = self.values[self.unwritten[0]] >> self.shift
        return {"write": 1, "slot": self.context, "head": self.unwritten[0], "value": value}

    def outputs(self) -> Values:
        self.access = self._access()
        wanted: dict[str, Any] = {
            "busy": self.busy,
            "o": {"valid": self.access is not None, "payload": self.access},
            "answer": {"valid": self.answer is not None, **(self.answer or {})},
        }
        if self.read is not None:
            wanted["i_read"] = {"ready": self.ready}
        self.answered = self.answer is not None and (self.reads or self.ready)
        if self.answer is not None:
            wanted["i"] = {"ready": self.answered}
        return wanted

    def clock(self) -> None:
        self.saw("held by reads", self.reads and self.busy)
        self.saw("answer waits", self.answer is not None and not self.answered)
        self.saw("answer for a job that ends", self.answer is not None and self.reads)
        self.answers = deque((left - 1, answer) for left, answer in self.answers)
        if self.answered:
            self.answers.popleft()
        if self.access is not None and self.ready:
            if self.access["write"]:
                self.unwritten.popleft()
                self.saw("large shift", self.kind == "aged" and self.shift == 31)
            else:
                self.answers.append((self.source.randrange(6), ANY_VALUE(self.source)))
                if self.reads:
                    self.read = None
                else:
                    self.saw("read ahead", self.unasked[0] != self.unwritten[0])
                    self.unasked.popleft()
        self.was_busy = self.busy
        if self.begins:
            self._begin()

    def _begin(self) -> None:
        clears, loads = (self.job["flags"] >> flag & 1 for flag in (Flag.CLEAR, Flag.LOAD_STATE))
        self.shift, self.context = self.job["age_shift"], self.job["context"]
        if clears:
            self.kind, self.values = "cleared", [0 for _ in HEADS]
        elif loads:
            self.kind, self.values = "loaded", self.loaded["importance"]
        else:
            self.kind = "aged" if self.shift else "left as it is"
        self.saw("loaded and aged" if loads and self.shift else self.kind)
        if self.kind != "left as it is":
            self.unwritten, self.unasked = deque(HEADS), deque(HEADS)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def heads_are_brought_up_to_date_and_read(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, PORT, Port, seed=seed, cycles=PARAMETERS["cycles"])
