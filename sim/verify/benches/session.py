"""Testbench of hw/board/session.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.session import Session
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.link_protocol import PAYLOAD_MAX, following_sequence

PARAMETERS = parameters()


class Requests(Twin):
    """Requests with the number that follows, with that of the last one, and with any."""

    goals = {"executed": 100, "around": 1, "repeated": 50, "refused": 20, "without a session": 3, "hello": 3}

    def reset(self) -> None:
        self.last: int | None = None
        self.stored = 0
        self.state = "listen"
        self.frame = self.executed = self.sent = False
        self.is_hello = False
        self.execute = self.send = False
        self.wait = 0
        self.send_length: int | None = None

    def inputs(self) -> Values:
        source = self.source
        self.frame = self.executed = self.sent = False
        values: dict[str, int] = {}
        if self.state == "listen" and source.random() < 0.3:
            self.frame = True
            near = self.last if self.last is not None else 1
            sequences = [following_sequence(near)] * 3 + [near, near, source.choice([254, 255, 1, 2])]
            if self.last is None or source.random() < 0.002:
                sequences = [0, 1, source.getrandbits(8)]
            self.sequence = source.choice(sequences)
        elif self.wait:
            self.wait -= 1
        elif self.state == "execute" and not self.execute:
            self.executed = True
        elif self.state == "send" and not self.send:
            self.sent = True
        if self.frame or self.state != "listen":
            values["sequence"] = self.sequence
        if self.executed:
            self.reply_length = source.randint(1, PAYLOAD_MAX)
            values["reply_length"] = self.reply_length
        return values | {"frame": self.frame, "executed": self.executed, "sent": self.sent}

    def outputs(self) -> Values:
        values: dict[str, int] = {
            "listen": self.state == "listen",
            "active": self.last is not None,
            "execute": self.execute,
            "send": self.send,
        }
        if self.execute:
            values["is_hello"] = self.sequence == 0
        if self.send_length is not None:
            values["send_length"] = self.send_length
        return values

    def clock(self) -> None:
        self.execute = self.send = False
        if self.state == "decide":
            is_next = self.last is not None and self.sequence == following_sequence(self.last)
            self.wait = self.source.randint(0, 4)
            if self.sequence == 0 or is_next:
                self.saw("executed")
                self.saw("hello", self.sequence == 0)
                self.saw("around", (self.last, self.sequence) == (255, 1))
                self.last = self.sequence
                self.state, self.execute = "execute", True
            else:
                repeated = self.last is not None and self.sequence == self.last
                self.saw("repeated", repeated)
                self.saw("refused", not repeated)
                self.saw("without a session", self.last is None)
                self.send_length = self.stored if repeated else 0
                self.state, self.send = "send", True
        elif self.frame:
            self.state = "decide"
        elif self.executed:
            self.stored = self.send_length = self.reply_length
            self.state, self.send = "send", True
            self.wait = self.source.randint(0, 4)
        elif self.sent:
            self.state, self.send_length = "listen", None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def no_request_is_executed_twice(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, Session(), Requests, seed=seed, cycles=PARAMETERS["cycles"])
