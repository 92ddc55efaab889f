"""Testbench of hw/datapath/tokens/context_reader.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.context_reader import ContextReader
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
READER = ContextReader(layouts=LAYOUTS)
LANES = LAYOUTS.lanes
ANY_STATE = Anything(LAYOUTS.state)
ANY_MEMBERS = Anything(LAYOUTS.members)
Fields = dict[str, Any]


class Commands(Twin):
    """Commands of the gather and accesses of the host on contexts that are taken and freed at random."""

    goals = {
        "gather": 30,
        "host goes first": 20,
        "host reads": 30,
        "host writes": 30,
        "host waits for a scatter": 10,
        "gather waits for a write": 5,
        "answer stalled": 20,
        "context taken": 50,
        "slot taken": 10,
        "no room": 30,
        "generating token": 10,
        "everything kept": 30,
        "line behind the kept ones": 30,
        "host reads behind the kept lines": 5,
    }

    def reset(self) -> None:
        source = self.source
        self.work = "idle"
        """idle, gather, asks (the host's read) or answers."""
        self.command: Fields | None = None
        self.next_command: Fields | None = None
        self.access: Fields | None = None
        self.members: Fields | None = None
        self.context = self.lines = self.lines_read = self.asked_line = 0
        self.kept_lines = [source.randrange(LAYOUTS.lines + 1) for _ in range(LAYOUTS.contexts)]
        self.taken_contexts: set[int] = set()
        self.taken_slots: set[int] = set()
        self.line: Fields | None = None
        """The line that was read in the cycle before."""
        self.state: Fields | None = None
        """What the memory shows."""

    def _command(self) -> Fields:
        source = self.source
        lines = source.choice([1, LAYOUTS.lines, source.randint(1, LAYOUTS.lines)])
        return {
            "context": source.randrange(LAYOUTS.contexts),
            "slot": source.randrange(LAYOUTS.slots),
            "clear": source.random() < 0.1,
            "restart": source.random() < 0.2,
            "age_shift": source.getrandbits(5),
            "lines": lines,
            "generates": source.random() < 0.5,
            "generating_token": source.randrange(lines * LANES),
        }

    def _access(self) -> Fields:
        source = self.source
        context, line = source.randrange(LAYOUTS.contexts), source.randrange(LAYOUTS.lines)
        access: Fields = {"context": context, "line": line, "write": source.random() < 0.5}
        return access | {"state": ANY_STATE(source)} if access["write"] else access

    def inputs(self) -> Values:
        source = self.source
        if self.next_command is None and source.random() < 0.3:
            self.next_command = self._command()
        if self.access is None and source.random() < 0.15:
            self.access = self._access()
        if self.members is None and source.random() < 0.7:
            self.members = ANY_MEMBERS(source)
        if self.work == "idle" and source.random() < 0.3:
            self.taken_contexts = {n for n in range(LAYOUTS.contexts) if source.random() < 0.3}
            self.taken_slots = {n for n in range(LAYOUTS.slots) if source.random() < 0.3}
        self.busy = source.random() < 0.4
        self.has_room = source.random() < 0.8
        self.takes_answer = source.random() < 0.5
        self._decide()
        given: Fields = {
            "i_gather": {"valid": self.next_command is not None, "payload": self.next_command},
            "i_access": {"valid": self.access is not None, "payload": self.access},
            "i_members": {"valid": self.members is not None, "payload": self.members},
            "o_access": {"ready": self.takes_answer},
            "taken_contexts": sum(1 << n for n in self.taken_contexts),
            "taken_slots": sum(1 << n for n in self.taken_slots),
            "is_gathering": self.work == "gather",
            "has_room": self.has_room,
            "memory": {"state": self.state},
            "host": {"busy": self.busy},
        }
        if self.asked_context is not None:
            given["memory"]["kept_lines"] = self.kept_lines[self.asked_context]
        return given

    def _decide(self) -> None:
        """What is taken in this cycle: an access, a command, a member line."""
        access, command = self.access, self.next_command
        is_idle = self.work == "idle"
        self.accesses = is_idle and access is not None and access["context"] not in self.taken_contexts
        if self.accesses and access is not None and access["write"] and self.busy:
            self.accesses = False
        self.begins = is_idle and not self.accesses and command is not None
        if command is not None and self.begins:
            waits = access is not None and access["context"] == command["context"]
            is_taken = command["context"] in self.taken_contexts or command["slot"] in self.taken_slots
            self.begins = not waits and not is_taken
        self.asked_context: int | None = None
        if self.accesses and access is not None:
            self.asked_context = access["context"]
        elif self.begins and command is not None:
            self.asked_context = command["context"]
        has_lines = self.work == "gather" and self.lines_read < self.lines
        self.takes_members = has_lines and self.has_room
        self.reads = self.takes_members and self.members is not None

    def outputs(self) -> Values:
        access, command, line = self.access, self.command, self.line
        is_writing = self.accesses and access is not None and access["write"]
        wanted: Fields = {
            "begins": self.begins,
            "o": {"valid": line is not None},
            "o_access": {"valid": self.work == "answers"},
            "i_members": {"ready": self.takes_members},
            "memory": {"enable": self.reads or self.work == "asks", "asked_context": self.asked_context},
            "host": {"write": is_writing},
        }
        # The ready of a stream that is not valid tells nothing.
        if self.next_command is not None:
            wanted["i_gather"] = {"ready": self.begins}
        if access is not None:
            wanted["i_access"] = {"ready": self.accesses}
        if is_writing and access is not None:
            wanted["host"] |= {name: access[name] for name in ("context", "line", "state")}
        if command is not None:
            wanted["command"] = command
        if self.work != "idle":
            wanted["context"] = self.context
            wanted["memory"]["context"] = self.context
        if self.reads:
            wanted["memory"]["line"] = self.lines_read
        elif self.work == "asks":
            wanted["memory"]["line"] = self.asked_line
        state = self.state
        if self.work == "answers" and state is not None:
            is_kept = self.asked_line < self.kept_lines[self.context]
            wanted["o_access"]["payload"] = {**state, "kept": state["kept"] if is_kept else 0}
        if line is not None and state is not None:
            kept = state["kept"] if line["number"] < self.kept_lines[self.context] else 0
            if line["keeps_everything"]:
                kept = (1 << LANES) - 1
            generated = sum(1 << lane for lane in range(LANES) if line["number"] * LANES + lane == line["token"])
            wanted["o"]["payload"] = {
                "line": line["number"],
                "last": line["last"],
                "live": line["live"] & kept | generated,
                "pinned": line["pinned"] | generated,
                "importance": state["importance"],
            }
            self.saw("generating token", generated)
            self.saw("everything kept", line["keeps_everything"])
            self.saw("line behind the kept ones", not kept and state["kept"])
        return wanted

    def _count(self) -> None:
        access, command = self.access, self.next_command
        is_idle = self.work == "idle"
        self.saw("gather", self.begins)
        self.saw("host goes first", self.accesses and command is not None)
        self.saw("answer stalled", self.work == "answers" and not self.takes_answer)
        self.saw("no room", self.work == "gather" and not self.has_room and self.lines_read < self.lines)
        if access is not None:
            is_free = access["context"] not in self.taken_contexts
            self.saw("host reads", self.accesses and not access["write"])
            self.saw("host writes", self.accesses and access["write"])
            waits = is_idle and is_free and access["write"] and self.busy
            self.saw("host waits for a scatter", waits)
            self.saw("gather waits for a write", waits and command and command["context"] == access["context"])
            behind = access["line"] >= self.kept_lines[access["context"]]
            self.saw("host reads behind the kept lines", self.accesses and not access["write"] and behind)
        if command is not None and is_idle:
            self.saw("context taken", command["context"] in self.taken_contexts)
            self.saw("slot taken", command["slot"] in self.taken_slots)

    def clock(self) -> None:
        self._count()
        access = self.access
        self.line = None
        if self.reads and self.members is not None and self.command is not None:
            self.line = {
                **self.members,
                "number": self.lines_read,
                "last": self.lines_read == self.lines - 1,
                "keeps_everything": self.command["clear"] or self.command["restart"],
                "token": self.command["generating_token"] if self.command["generates"] else None,
            }
            self.members = None
            self.lines_read += 1
        if self.reads or self.work == "asks":
            self.state = ANY_STATE(self.source)
        if self.work == "gather" and self.lines_read == self.lines and self.line is None:
            if self.source.random() < 0.3:
                self.work = "idle"
        elif self.work == "asks":
            self.work = "answers"
        elif self.work == "answers" and self.takes_answer:
            self.work = "idle"
        elif self.begins and self.next_command is not None:
            self.work = "gather"
            self.command, self.next_command = self.next_command, None
            self.context, self.lines, self.lines_read = self.command["context"], self.command["lines"], 0
            self.taken_contexts.add(self.context)
            self.taken_slots.add(self.command["slot"])
        elif self.accesses and access is not None:
            self.access = None
            self.context, self.asked_line = access["context"], access["line"]
            if access["write"]:
                self.kept_lines[self.context] = LAYOUTS.lines
            else:
                self.work = "asks"
        if self.work == "idle" and self.source.random() < 0.1:
            self.kept_lines[self.source.randrange(LAYOUTS.contexts)] = self.source.randrange(LAYOUTS.lines + 1)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def contexts_are_read(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, READER, Commands, seed=seed, cycles=PARAMETERS["cycles"])
