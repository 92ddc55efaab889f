"""Testbench of what cuts bursts at the ends of rows, word by word; tests/hw/board/test_sdram.py runs it."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.sdram_cutter import burst, piece
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.runs.sdram import ADDRESS_BITS, PART
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
PAGE = 4096


def bursts(source: random.Random, count: int) -> list[dict[str, int]]:
    """Bursts within 4 KiB: at the beginning of a row, over its end, up to the end of a page, anywhere; also outside."""
    result = []
    for _ in range(count):
        beats = source.choice([1, 2, 16, 255, 256, source.randint(1, 256)])
        offset = source.choice([0, 1024 - 2 * beats, 1024, 1024 - beats, PAGE - 2 * beats, source.randrange(PAGE)])
        offset = min(max(offset, 0), PAGE - 2 * beats)
        page = source.choice([0, 1, (1 << PART.row_bits) - 1, source.getrandbits(ADDRESS_BITS - 12)])
        result.append({"address": page * PAGE + offset, "more": beats - 1, "id": source.getrandbits(1)})
    return result


def pieces(burst: dict[str, int]) -> list[dict[str, Any]]:
    """Word by word: a new piece begins where the row or the bank is another one."""
    result: list[dict[str, Any]] = []
    for number in range(burst["more"] + 1):
        word = burst["address"] // 2 + number
        place = {"bank": word >> 9 & 3, "row": word >> 11 & (1 << PART.row_bits) - 1}
        if result and all(result[-1][name] == value for name, value in place.items()):
            result[-1]["more"] += 1
            continue
        is_outside = int(burst["address"] >= 1 << PART.byte_bits)
        new = {"column": word & 511, "more": 0, "id": burst["id"], "is_final": 0, "is_outside": is_outside}
        result.append({**place, **new})
    result[-1]["is_final"] = 1
    return result


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=PARAMETERS["seeds"])
async def every_word_is_in_its_place(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", burst(ADDRESS_BITS, 1), idle=idle)
    sink = StreamMonitor(bench, "o", piece(PART, 1), stall=stall)
    await bench.reset()
    given = bursts(bench.random("bursts"), 300)
    wanted = [piece for burst in given for piece in pieces(burst)]
    assert len(wanted) > 1.1 * len(given)
    source.send(given)
    sink.expect(wanted)
    await bench.drain()
    assert source.count == len(given)
    if not idle and not stall:
        assert sink.cycles[0] == source.cycles[0] + 2
        cycles = [len(pieces(burst)) + 1 for burst in given]
        assert source.cycles[-1] - source.cycles[0] == sum(cycles[:-1])
