"""Testbench of hw/board/axi_join.py; tests/hw/board/test_axi_join.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.axi_join import AxiJoin
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
ADDRESS_BITS: int = PARAMETERS["address_bits"]
DATA_BITS: int = PARAMETERS["data_bits"]
JOIN = AxiJoin(address_bits=ADDRESS_BITS, data_bits=DATA_BITS)
ADDRESS = {"id": 1, "addr": ADDRESS_BITS, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3}
WRITE = {"data": DATA_BITS, "strb": DATA_BITS // 8}


class Join(Twin):
    """Two masters that ask, send and take at random, and a memory that does likewise; each keeps what it shows."""

    goals = {
        "both ask ar": 50,
        "both ask aw": 50,
        "ar after ar": 20,
        "aw while another's beats come": 20,
        "beats before their address is taken": 20,
        "last of one beat": 20,
        "beat waits": 50,
        "r of 0": 50,
        "r of 1": 50,
        "b of 0": 50,
        "b of 1": 50,
    }

    def reset(self) -> None:
        self.asked: dict[str, list[dict[str, int] | None]] = {"ar": [None, None], "aw": [None, None]}
        self.shown: dict[str, dict[str, int] | None] = {"ar": None, "aw": None}
        self.last = {"ar": 0, "aw": 0}
        self.writer: int | None = None
        self.left = 0
        self.beats: list[dict[str, int] | None] = [None, None]
        self.answers: dict[str, dict[str, int] | None] = {"r": None, "b": None}
        self.first_beat = False

    def _any(self, widths: dict[str, int]) -> dict[str, int]:
        return {name: self.source.getrandbits(width) for name, width in widths.items()}

    def inputs(self) -> Values:
        source = self.source
        for asked in self.asked.values():
            for number in range(2):
                if asked[number] is None and source.random() < 0.4:
                    asked[number] = self._any(ADDRESS) | {"len": source.choice([0, 1, 5])}
        for number in range(2):
            if self.beats[number] is None and source.random() < 0.6:
                self.beats[number] = self._any(WRITE)
        for channel, widths in (("r", {"id": 1, "data": DATA_BITS, "resp": 2, "last": 1}), ("b", {"id": 1, "resp": 2})):
            if self.answers[channel] is None and source.random() < 0.6:
                self.answers[channel] = self._any(widths)
        self.ready = [{name: source.random() < 0.7 for name in ("rready", "bready")} for _ in range(2)]
        self.memory_ready = {name: source.random() < 0.6 for name in ("arready", "awready", "wready")}
        masters: list[dict[str, Any]] = []
        for number in range(2):
            values: dict[str, Any] = dict(self.ready[number])
            for channel, asked in self.asked.items():
                one = asked[number]
                values[f"{channel}valid"] = one is not None
                values |= {f"{channel}{name}": value for name, value in (one or {}).items()}
            beat = self.beats[number]
            values["wvalid"] = beat is not None
            # A beat is its burst's last one only for the master whose burst it belongs to.
            values |= {f"w{name}": value for name, value in (beat or {}).items()}
            if beat is not None:
                values["wlast"] = self.writer == number and self.left == 1
            masters.append(values)
        memory: dict[str, Any] = dict(self.memory_ready)
        for channel, answer in self.answers.items():
            memory[f"{channel}valid"] = answer is not None
            memory |= {f"{channel}{name}": value for name, value in (answer or {}).items()}
        return {"masters": masters, "memory": memory}

    def _turn(self, channel: str) -> int | None:
        """Whose address is taken now."""
        asked = [one is not None for one in self.asked[channel]]
        if self.shown[channel] is not None or not any(asked) or (channel == "aw" and self.writer is not None):
            return None
        return 1 - self.last[channel] if all(asked) else asked.index(True)

    def outputs(self) -> Values:
        self.turns = {channel: self._turn(channel) for channel in self.asked}
        masters: list[dict[str, Any]] = []
        for number in range(2):
            values: dict[str, Any] = {f"{c}ready": turn == number for c, turn in self.turns.items()}
            values["wready"] = self.writer == number and self.memory_ready["wready"]
            for channel, answer in self.answers.items():
                is_mine = answer is not None and answer["id"] == number
                values[f"{channel}valid"] = is_mine
                if answer is not None and is_mine:
                    values |= {f"{channel}{name}": value for name, value in answer.items() if name != "id"}
                    values[f"{channel}id"] = 0
            masters.append(values)
        memory: dict[str, Any] = {}
        for channel, one in self.shown.items():
            memory[f"{channel}valid"] = one is not None
            memory |= {f"{channel}{name}": value for name, value in (one or {}).items()}
        beat = None if self.writer is None else self.beats[self.writer]
        memory["wvalid"] = beat is not None
        memory |= {f"w{name}": value for name, value in (beat or {}).items()}
        if beat is not None:
            memory["wlast"] = self.left == 1
        for channel, answer in self.answers.items():
            if answer is not None:
                memory[f"{channel}ready"] = self.ready[answer["id"]][f"{channel}ready"]
        return {"masters": masters, "memory": memory}

    def clock(self) -> None:
        writer = self.writer
        beat = None if writer is None else self.beats[writer]
        self.saw("beats before their address is taken", writer is None and self.beats[0] is not None)
        self.saw("aw while another's beats come", writer is not None and self.asked["aw"][1 - writer] is not None)
        self.saw("beat waits", beat is not None and not self.memory_ready["wready"])
        if writer is not None and beat is not None and self.memory_ready["wready"]:
            self.saw("last of one beat", self.left == 1 and self.first_beat)
            self.beats[writer] = None
            self.left -= 1
            self.first_beat = False
            if not self.left:
                self.writer = None
        for channel, asked in self.asked.items():
            self.saw(f"both ask {channel}", None not in asked)
            left = self.shown[channel] is not None and self.memory_ready[f"{channel}ready"]
            if left:
                self.shown[channel] = None
            turn = self.turns[channel]
            if turn is None:
                continue
            one = asked[turn]
            assert one is not None
            self.saw(f"{channel} after {channel}", turn == self.last[channel])
            self.shown[channel] = one | {"id": turn}
            self.last[channel] = turn
            asked[turn] = None
            if channel == "aw":
                self.writer, self.left, self.first_beat = turn, one["len"] + 1, True
        for channel, answer in self.answers.items():
            if answer is not None and self.ready[answer["id"]][f"{channel}ready"]:
                self.saw(f"{channel} of {answer['id']}")
                self.answers[channel] = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def two_masters_share_a_memory(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, JOIN, Join, seed=seed, cycles=PARAMETERS["cycles"])
