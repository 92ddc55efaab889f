"""Testbench of hw/lib/packer.py, of a Packer or a Compactor; tests/hw/lib/test_packer.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data
from cocotb.handle import HierarchyObject

from spatten.golden.packer import pack_rows
from spatten.golden.zero_eliminator import eliminate_zeros
from spatten.hw.emit.payload import Payload
from spatten.hw.lib.packer import masked_beat, packed_row
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
LANES: int = PARAMETERS["lanes"]
DELAY: int = PARAMETERS["delay"]
HEADER: int | None = PARAMETERS["header"]
SEEDS: list[int] = PARAMETERS["seeds"]
SHAPE: ShapeLike = (
    data.StructLayout(PARAMETERS["shape"]) if isinstance(PARAMETERS["shape"], dict) else PARAMETERS["shape"]
)
COMPACTS: bool = PARAMETERS["compacts"]
"""Whether a row's live lanes may be anywhere, as a Compactor takes them, or are in front."""
MEASURES: bool = PARAMETERS["measures"]
ROW = packed_row(SHAPE, LANES, HEADER)
INPUT = masked_beat(SHAPE, LANES, HEADER) if COMPACTS else ROW
Sequence = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def make_sequence(source: np.random.Generator, counts: list[int]) -> Sequence:
    """Rows with these counts, the last one marked, and what must come out."""
    lanes = source.integers(0, 1 << Shape.cast(SHAPE).width, (len(counts), LANES))
    mask = np.arange(LANES) < np.array(counts)[:, None]
    if COMPACTS:
        mask = source.permuted(mask, axis=1)
    compacted, _ = eliminate_zeros(lanes, mask)
    packed, packed_counts = pack_rows(compacted, np.array(counts))
    element = Payload(SHAPE)
    header = {} if HEADER is None else {"header": int(source.integers(0, 1 << HEADER))}

    def row(values: Any, is_last: bool) -> dict[str, Any]:
        return {"lanes": [element.unpack(int(bits)) for bits in values], "last": int(is_last), **header}

    end = len(counts) - 1
    if COMPACTS:
        # Dead lanes carry data too: only the mask may tell them from live ones.
        sent = [
            {**row(lanes[n], n == end), "mask": sum(1 << int(lane) for lane in np.flatnonzero(mask[n]))}
            for n in range(len(counts))
        ]
    else:
        sent = [{**row(compacted[n], n == end), "count": count} for n, count in enumerate(counts)]
    end = len(packed) - 1
    return sent, [{**row(packed[n], n == end), "count": int(count)} for n, count in enumerate(packed_counts)]


def count_of(sent: dict[str, Any]) -> int:
    return int(sent["mask"]).bit_count() if COMPACTS else int(sent["count"])


def make_sequences(seed: int) -> list[Sequence]:
    """Every held count meets every row count, as last row and not, and sequences of all kinds of density."""
    source = np.random.default_rng(seed)
    every = range(LANES + 1)
    step = max(1, LANES // 5)
    counts = [[first, second] for first in every[::step] for second in every]
    counts += [[first, second, 1] for first in every for second in every[::step]]
    counts += [[], [0], [0, 0, 0], [LANES] * 5, [LANES] * 3 + [0, 0], [0, LANES, 0], [1] * (2 * LANES + 1)]
    counts += [source.integers(0, LANES + 1, int(rows)).tolist() for rows in source.integers(1, 12, 12)]
    counts += [source.integers(0, 3, int(rows)).clip(0, LANES).tolist() for rows in source.integers(1, 30, 6)]
    counts = [each for each in counts if each]
    source.shuffle(counts)
    return [make_sequence(source, each) for each in counts]


def joined(sequences: list[Sequence]) -> Sequence:
    return [row for sent, _ in sequences for row in sent], [row for _, wanted in sequences for row in wanted]


def completes_two(sent: list[dict[str, Any]]) -> bool:
    """Whether the last row of a sequence costs a second cycle, as the docstring of Packer says."""
    before = sum(count_of(row) for row in sent[:-1])
    held = before - LANES * (-(-before // LANES) - 1) if before else 0
    return held + count_of(sent[-1]) > LANES


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, StreamDriver, StreamMonitor]:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", INPUT, idle=idle)
    sink = StreamMonitor(bench, "o", ROW, stall=stall, patient=patient)
    return bench, source, sink


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def sequences_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, idle, stall)
    sequences = make_sequences(seed)
    sent, wanted = joined(sequences)
    await bench.reset()
    source.send(sent)
    sink.expect(wanted)
    await bench.drain()
    assert source.count == len(sent)
    assert sink.count == len(wanted)
    if not idle and not stall:
        cycles = len(sent) + sum(completes_two(rows) for rows, _ in sequences)
        assert sink.cycles[-1] - source.cycles[0] == cycles - 1 + DELAY, "not the stated throughput"


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def latency_is_as_stated(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    await bench.reset()
    generator = np.random.default_rng(seed)
    for counts in ([1], [0], [LANES], [LANES, 1], [LANES, LANES, LANES], [1] * LANES + [LANES]):
        sent, wanted = make_sequence(generator, counts)
        first_input, first_output = source.count, sink.count
        source.send(sent)
        sink.expect(wanted)
        await bench.drain(tail=DELAY + 2)
        elements = np.cumsum(counts)
        for number, row in enumerate(wanted):
            # The row that shows that output row `number` is complete: one with an element beyond it, or the last.
            more = np.flatnonzero(elements > (number + 1) * LANES)
            shows = int(more[0]) if len(more) else len(counts) - 1
            second = row["last"] and number > 0 and completes_two(sent)
            latency = sink.cycles[first_output + number] - source.cycles[first_input + shows]
            assert latency == DELAY + second, f"latency of row {number} of {counts} is {latency}, seed {seed}"


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, patient=True)
    sent, wanted = joined(make_sequences(seed)[:40])
    await bench.reset()
    source.send(sent)
    sink.expect(wanted)
    await bench.drain(limit=100)


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def stalled_pipeline_fills_up(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    generator = np.random.default_rng(seed)
    sent, wanted = joined([make_sequence(generator, [LANES]) for _ in range(DELAY + 10)])
    await bench.reset()
    sink.stop()
    source.send(sent)
    await bench.step(DELAY + 10)
    assert source.count == DELAY, f"a stalled packer of {DELAY} stages took {source.count} rows"
    sink.start()
    sink.expect(wanted)
    await bench.drain()
    # Bubbles close up: what was stored leaves in consecutive cycles.
    assert sink.cycles == list(range(sink.cycles[0], sink.cycles[0] + len(wanted)))


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def reset_drops_what_is_inside(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, stall=0.5)
    sequences = make_sequences(seed)
    sent, wanted = joined(sequences)
    again, wanted_again = joined(sequences[:4])
    await bench.reset()
    for taken in range(2 * DELAY + 4):
        source.send(sent)
        sink.expect(wanted)
        await bench.step(taken)
        await bench.reset(1)
        await bench.step(2 * DELAY + 4)
        assert sink.count == 0
        # The monitor expects nothing yet, so a row left over would have failed; now the first new one must be right.
        source.send(again)
        sink.expect(wanted_again)
        await bench.drain()
        await bench.reset(1)


@cocotb.test(skip=not MEASURES)
async def measure(dut: HierarchyObject) -> None:
    """Latency, and cycles per row of one long sequence of random rows."""
    bench, source, sink = make_bench(dut, SEEDS[0])
    generator = np.random.default_rng(SEEDS[0])
    await bench.reset()
    sent, wanted = make_sequence(generator, [LANES])
    source.send(sent)
    sink.expect(wanted)
    await bench.drain()
    record("latency", sink.cycles[0] - source.cycles[0], unit="cycles", lanes=LANES)
    sent, wanted = make_sequence(generator, generator.integers(0, LANES + 1, 500).tolist())
    source.send(sent)
    sink.expect(wanted)
    await bench.drain()
    rate = (source.cycles[-1] - source.cycles[1]) / (len(sent) - 1)
    assert rate == 1
    record("cycles_per_beat", rate, unit="cycles", lanes=LANES)
