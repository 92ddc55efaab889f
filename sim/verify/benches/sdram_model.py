"""Testbench of the SDRAM model's rules, each at its limit: a command at the first edge that is allowed, and an edge
earlier. tests/hw/board/test_sdram.py runs it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.sdram_part import RULES
from spatten.sim.verify.stream import Bench

SETTINGS: dict[str, int] = parameters()["settings"]
LATENCY = SETTINGS["CAS_LATENCY"]
CODES = {"mode": 0, "ref": 1, "pre": 2, "act": 3, "write": 4, "read": 5, "stop": 6, "nop": 7}
MODE = LATENCY << 4 | 1
ALL = 1 << 10
# At 10 ns: what the data sheets' times are in edges.
RCD, RP, RAS, RRD, WR, RFC, MRD = 3, 3, 5, 2, 2, 7, 2
RC = 10
"""Longer than the data sheets', which tRAS and tRP reach together."""
OPEN_MOST = 200
POWER_UP = 20
WINDOW = 300


@dataclass(frozen=True)
class Do:
    """A command, `after` edges from the one before."""

    code: str
    after: int
    bank: int = 0
    a: int = 0
    data: int | None = None
    dqm: int = 0


CLOSE = Do("pre", POWER_UP + 1, a=ALL)
REFRESHES = [Do("ref", RP), Do("ref", RFC)]
LOAD = Do("mode", RFC, a=MODE)
START = [CLOSE, *REFRESHES, LOAD]
OPEN = [*START, Do("act", MRD, bank=1, a=5)]
WRITTEN = [*OPEN, Do("write", RCD, bank=1, a=4, data=0x1234), Do("nop", 1, data=0x5678)]


def timed(before: list[Do], last: Do, rule: str) -> list[tuple[list[Do], str]]:
    """`last` on time, and an edge too soon."""
    soon = Do(last.code, last.after - 1, last.bank, last.a, last.data, last.dqm)
    return [([*before, last], "NONE"), ([*before, soon], rule)]


CASES: list[tuple[list[Do], str]] = [
    *timed([], CLOSE, "POWER_UP"),
    *timed([CLOSE], Do("ref", RP), "T_RP"),
    *timed([CLOSE, Do("ref", RP)], Do("ref", RFC), "T_RFC"),
    *timed([CLOSE, *REFRESHES], LOAD, "T_RFC"),
    *timed(START, Do("act", MRD), "T_MRD"),
    ([Do("ref", POWER_UP + 1)], "INITIALISATION"),
    ([Do("mode", POWER_UP + 1, a=MODE)], "INITIALISATION"),
    ([CLOSE, *REFRESHES, Do("act", RFC)], "INITIALISATION"),
    ([CLOSE, Do("ref", RP), LOAD, Do("act", RFC)], "INITIALISATION"),
    ([CLOSE, Do("mode", RP, a=MODE), Do("ref", MRD), Do("ref", RFC), Do("act", RFC)], "NONE"),
    ([CLOSE, *REFRESHES, Do("read", RFC)], "INITIALISATION"),
    ([CLOSE, *REFRESHES, Do("mode", RFC, a=5 - LATENCY << 4 | 1)], "MODE_VALUE"),
    ([CLOSE, *REFRESHES, Do("mode", RFC, a=MODE | 1 << 11)], "MODE_VALUE"),
    ([CLOSE, *REFRESHES, Do("mode", RFC, a=MODE | 1 << 7)], "MODE_VALUE"),
    ([CLOSE, *REFRESHES, Do("mode", RFC, a=MODE, bank=1)], "MODE_VALUE"),
    ([CLOSE, *REFRESHES, Do("mode", RFC, a=LATENCY << 4 | 4)], "MODE_VALUE"),
    ([CLOSE, *REFRESHES, Do("mode", RFC, a=LATENCY << 4 | 7)], "UNSUPPORTED"),
    ([CLOSE, *REFRESHES, Do("mode", RFC, a=MODE | 8)], "UNSUPPORTED"),
    *timed(OPEN, Do("read", RCD, bank=1), "T_RCD"),
    *timed(OPEN, Do("write", RCD, bank=1, data=1), "T_RCD"),
    *timed(OPEN, Do("act", RRD, bank=2), "T_RRD"),
    *timed(OPEN, Do("pre", RAS, bank=1), "T_RAS"),
    *timed(OPEN, Do("pre", RAS, a=ALL), "T_RAS"),
    ([*OPEN, Do("pre", 1, bank=2)], "NONE"),
    *timed([*OPEN, Do("pre", RC - RP + 1, bank=1)], Do("act", RP, bank=1), "T_RP"),
    *timed([*OPEN, Do("pre", RAS, bank=1)], Do("act", RC - RAS, bank=1), "T_RC"),
    ([*OPEN, Do("nop", OPEN_MOST)], "NONE"),
    ([*OPEN, Do("nop", OPEN_MOST + 1)], "T_RAS_MOST"),
    ([*OPEN, Do("act", RC, bank=1)], "OPEN_BANK"),
    ([*OPEN, Do("read", RCD, bank=2)], "CLOSED_BANK"),
    ([*OPEN, Do("pre", RAS, bank=1), Do("write", RP, bank=1, data=1)], "CLOSED_BANK"),
    ([*OPEN, Do("ref", RC)], "NOT_IDLE"),
    ([*OPEN, Do("mode", RC, a=MODE)], "NOT_IDLE"),
    *timed([*OPEN, Do("pre", RAS, bank=1)], Do("ref", RP), "T_RP"),
    *timed([*OPEN, Do("pre", RAS, bank=1)], Do("mode", RP, a=MODE), "T_RP"),
    *timed(WRITTEN, Do("pre", WR, bank=1), "T_WR"),
    *timed([*OPEN, Do("pre", RAS, bank=1), Do("ref", RP)], Do("act", RFC, bank=1), "T_RFC"),
    # The second word is masked: it does not count.
    ([*OPEN, Do("write", RCD, bank=1, data=1), Do("nop", 1, dqm=3), Do("pre", 1, bank=1, dqm=3)], "NONE"),
    ([*OPEN, Do("write", RCD, bank=1, data=1), Do("nop", 1)], "UNDRIVEN"),
    ([*OPEN, Do("write", RCD, bank=1)], "UNDRIVEN"),
    # The second word is there for the edge LATENCY + 1 behind the READ.
    ([*OPEN, Do("read", RCD, bank=1), Do("write", LATENCY + 3, bank=1, data=1)], "NONE"),
    ([*OPEN, Do("read", RCD, bank=1), Do("write", LATENCY + 2, bank=1, data=1)], "BUS_CONFLICT"),
    ([*OPEN, Do("read", RCD, bank=1), Do("nop", LATENCY, data=1)], "BUS_CONFLICT"),
    ([*OPEN, Do("read", RCD, bank=1), Do("nop", LATENCY - 1, data=1)], "BUS_CONFLICT"),
    ([*WRITTEN, Do("read", 1, bank=1), Do("nop", LATENCY + 2)], "NONE"),
    ([*OPEN, Do("stop", RCD)], "UNSUPPORTED"),
    ([*OPEN, Do("read", RCD, bank=1, a=ALL)], "UNSUPPORTED"),
    # Rows are refreshed in order, the first again when its window ends.
    ([*OPEN, Do("pre", RAS, bank=1), Do("nop", WINDOW - RAS)], "NONE"),
    ([*OPEN, Do("pre", RAS, bank=1), Do("nop", WINDOW - RAS + 1)], "WINDOW"),
    (
        [*OPEN, Do("pre", RAS, a=ALL), Do("ref", RP), *[Do("ref", RFC)] * 15, Do("nop", WINDOW - 15 * RFC)],
        "NONE",
    ),
    (
        [*OPEN, Do("pre", RAS, a=ALL), Do("ref", RP), *[Do("ref", RFC)] * 15, Do("nop", WINDOW - 15 * RFC + 1)],
        "WINDOW",
    ),
    ([*OPEN, Do("pre", RAS, a=ALL), Do("ref", RP), *[Do("ref", RFC)] * 14, Do("nop", WINDOW)], "WINDOW"),
]


class Pins:
    """Drives the pins, an edge a step."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._signals = {
            name: bench.signal(f"pins__{name}")
            for name in ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm", "dq_o", "dq_oe")
        }
        self._signals["power_off"] = bench.signal("power_off")

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            self._signals[name].value = value

    async def give(self, do: Do) -> None:
        for _ in range(do.after - 1):
            await self._bench.step()
        self.set(
            **{name: CODES[do.code] >> bit & 1 for bit, name in enumerate(("we_n", "cas_n", "ras_n"))},
            **{"cs_n": 0, "ba": do.bank, "a": do.a, "dqm": do.dqm, "dq_oe": int(do.data is not None)},
            dq_o=do.data or 0,
        )
        await self._bench.step()
        self.set(ras_n=1, cas_n=1, we_n=1, dqm=0 if do.code == "read" else 3, dq_oe=0)

    async def power(self) -> None:
        self.set(cke=1, cs_n=0, ras_n=1, cas_n=1, we_n=1, ba=0, a=0, dqm=3, dq_o=0, dq_oe=0, power_off=1)
        await self._bench.step()
        self.set(power_off=0)

    @property
    def breach(self) -> str:
        return RULES[int(str(self._bench.signal("breach").value), 2)]


@cocotb.test
async def every_rule_at_its_limit(dut: HierarchyObject) -> None:
    bench = Bench(dut, seed=1)
    pins = Pins(bench)
    for number, (script, rule) in enumerate(CASES):
        await pins.power()
        for do in script[:-1]:
            await pins.give(do)
        assert pins.breach == "NONE", f"case {number}: {pins.breach} before {script[-1]}, of {script}"
        await pins.give(script[-1])
        await bench.step(0 if rule == "NONE" else LATENCY + 2)
        assert pins.breach == rule, f"case {number}: {pins.breach}, not {rule}, at {script[-1]}, of {script}"
    missing = set(RULES) - {rule for _, rule in CASES} - {"UNKNOWN"}
    assert not missing, f"no case breaks {missing}"


@cocotb.test
async def pins_have_values(dut: HierarchyObject) -> None:
    bench = Bench(dut, seed=1)
    pins = Pins(bench)
    for name, value in (("cke", 0), ("cke", "X"), ("cs_n", "X"), ("ras_n", "X"), ("dq_oe", "X")):
        if value == "X" and not bench.four_state:
            continue
        await pins.power()
        for do in START:
            await pins.give(do)
        pins.set(**{name: LogicArray("X") if value == "X" else value})
        await bench.step()
        assert pins.breach == ("UNKNOWN" if value == "X" else "UNSUPPORTED"), name


@cocotb.test
async def words_come_after_the_latency(dut: HierarchyObject) -> None:
    """Both words of a burst, wrapped, with masks; at the edges that they are there for."""
    bench = Bench(dut, seed=1)
    pins = Pins(bench)
    data, driven = bench.signal("pins__dq_i"), bench.signal("dq_driven")
    await pins.power()
    words = [0x1122, 0x3344]
    for do in OPEN:
        await pins.give(do)
    await pins.give(Do("write", RCD, bank=1, a=6, data=words[0]))
    await pins.give(Do("nop", 1, data=words[1]))
    # Of the word at 6 the upper byte only, then nothing of the other.
    await pins.give(Do("write", 1, bank=1, a=6, data=0xAABB, dqm=1))
    words[0] = 0xAA22
    for first, masks in itertools.product((6, 7), (0, 1, 2, 3)):
        await pins.give(Do("read", 3, bank=1, a=first, dqm=masks if LATENCY == 2 else 3))
        seen: list[int | None] = []
        for edge in range(1, LATENCY + 3):
            # Masks of this edge are for the word two edges later.
            pins.set(dqm=masks if edge in (LATENCY - 2, LATENCY - 1) else 3)
            if edge >= LATENCY:
                is_driven = int(str(driven.value), 2)
                seen.append(int(str(data.value), 2) if is_driven else None)
            await bench.step()
        wanted = [words[first - 6], words[7 - first]]
        for word, want in zip(seen, [*wanted, None], strict=False):
            if want is None or masks == 3:
                assert word is None, (first, masks, seen)
            else:
                for byte in (0, 1):
                    if not masks >> byte & 1:
                        assert word is not None, (first, masks, seen)
                        assert (word ^ want) >> 8 * byte & 0xFF == 0, (first, masks, seen, wanted)
    assert pins.breach == "NONE"
