"""Testbench of hw/datapath/pv.py; tests/hw/datapath/test_pv.py runs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import ShapeLike
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.golden import IntArray
from spatten.golden.pv import outputs, value_beats
from spatten.hw.datapath.pv import output_beat, value_operands, weight_beat
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import HEAD_DIMS, PAPER, Config

PARAMETERS = parameters()
SIZE: dict[str, int] = PARAMETERS["size"]
M, P, S = SIZE["multipliers"], SIZE["lanes"], SIZE["slice_width"]
B, W, HEADER = SIZE["operand_bits"], SIZE["prob_bits"], SIZE["header"]
DIMS = [dim for dim in HEAD_DIMS if PARAMETERS["head_dim_min"] <= dim <= SIZE["head_dim_max"]]
LATENCY: int = PARAMETERS["latency"]
ROWS: int = PARAMETERS["rows"]
MOST_KEYS: int = PARAMETERS["most_keys"]
SEEDS: list[int] = PARAMETERS["seeds"]
NUMBERS: Config = PAPER.replace(operand_bits=B, prob_bits=W)
LOW, HIGH = -(1 << (B - 1)), (1 << (B - 1)) - 1
ROW_LIMIT = 2 << W
"""The most that a row's probabilities may add up to."""


class DeadDriver(StreamDriver):
    """Sends payloads of which some bits must not matter: those are X in a 4-state simulator."""

    def __init__(self, bench: Bench, name: str, shape: ShapeLike, idle: float) -> None:
        super().__init__(bench, name, shape, idle=idle)
        self._dead: deque[int] = deque()

    def send_alive(self, rows: Iterable[Any], is_dead: Iterable[Any]) -> None:
        """Queue rows; in the rows `is_dead` the bits that do not matter are set."""
        self.send(rows)
        self._dead.extend(self.payload.pack(row) for row in is_dead)

    def clear(self) -> None:
        super().clear()
        self._dead.clear()

    def drive(self) -> None:
        was_shown = self._shown
        super().drive()
        if self._shown is not None and was_shown is None:
            width = self.payload.width
            bits, dead = f"{self._shown:0{width}b}", f"{self._dead.popleft():0{width}b}"
            if self.bench.four_state:
                self._payload.value = LogicArray(
                    "".join("X" if d == "1" else b for b, d in zip(bits, dead, strict=True))
                )


@dataclass
class Traffic:
    """What goes in and what must come out, and the value beat in which each part of a row ends."""

    probs: list[dict[str, Any]] = field(default_factory=list)
    dead_probs: list[dict[str, Any]] = field(default_factory=list)
    operands: list[IntArray] = field(default_factory=list)
    dead_operands: list[IntArray] = field(default_factory=list)
    wanted: list[dict[str, Any]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    value_beats: int = 0
    saturated: int = 0

    def add_row(self, source: np.random.Generator, prob: IntArray, value: IntArray, group: int) -> None:
        """A row of probabilities [n] for V [n, d], with 2**group keys a beat."""
        n, dim = value.shape
        assert prob.sum() <= ROW_LIMIT
        parts = max(1, dim // S)
        code = dim.bit_length() - 5
        header = int(source.integers(1 << HEADER))
        for first in range(0, n, P):
            count = min(P, n - first)
            last = first + count == n
            lanes = source.integers(1 << W, size=P)
            lanes[:count] = prob[first : first + count]
            # Only the header of a row's last beat counts.
            about = {"dim": code, "group": group, "header": header if last else int(source.integers(1 << HEADER))}
            self.probs.append({"probs": lanes.tolist(), "count": count, "last": int(last), **about})
            dead = [0] * count + [(1 << W) - 1] * (P - count)
            self.dead_probs.append({"probs": dead, "count": 0, "last": 0, **dict.fromkeys(about, 0)})
        shape = (-(-n // (1 << group)) * parts, M)
        layout = {"multipliers": M, "slice_width": S, "keys": 1 << group}
        self.operands.append(value_beats(value, dead=source.integers(LOW, HIGH + 1, shape), **layout))
        self.dead_operands.append(value_beats(np.zeros_like(value), dead=np.full(shape, -1), **layout))
        self.value_beats += shape[0]
        output, saturated = outputs(NUMBERS, prob[None], value)
        self.saturated += saturated
        for part in range(parts):
            chosen = slice(part * S, part * S + min(S, dim))
            _, count = outputs(NUMBERS, prob[None], value[:, chosen])
            self.wanted.append(
                {
                    "lanes": output[0, chosen].tolist() + [0] * (S - min(S, dim)),
                    "part": part,
                    "last": int(part == parts - 1),
                    "dim": code,
                    "saturated": count,
                    "header": header,
                }
            )
            self.ends.append(self.value_beats - parts + part)


def most_group(dim: int) -> int:
    """log2 of the most keys that share a value beat."""
    return (M // S if dim > S else min(P, M // dim)).bit_length() - 1


def make_prob(source: np.random.Generator, n: int) -> IntArray:
    """Probabilities of n keys: flat, peaked, sparse, or as large as a row allows."""
    kind = source.integers(5)
    share = source.random(n) ** source.choice([0.2, 1, 8]) + 1e-9
    if kind == 0:
        share = np.ones(n)
    if kind == 1:
        share *= source.random(n) < 0.2
    total = ROW_LIMIT if kind > 2 else 1 << W
    return np.minimum((share / max(share.sum(), 1e-9) * total).astype(np.int64), (1 << W) - 1)


def put_on_ties(source: np.random.Generator, prob: IntArray, value: IntArray) -> None:
    """Change the last keys so that every element's sum is a half, or one less: any bit of a product decides it."""
    digits = -(-W // B)
    if len(prob) <= digits:
        return
    places = len(prob) - digits + source.permutation(digits)
    prob[places] = 1 << B * np.arange(digits)
    prob[:-digits] = prob[:-digits] * max(0, ROW_LIMIT - int(prob[-digits:].sum())) // ROW_LIMIT
    half = 1 << (W - 1)
    missing = source.choice([half - 1, half], value.shape[1]) - prob[:-digits] @ value[:-digits]
    for place in places:
        value[place] = (missing - LOW) % (1 << B) + LOW
        missing = (missing - value[place]) >> B


def make_traffic(seed: int, rows: int = ROWS, dims: list[int] = DIMS, keys: int | None = None) -> Traffic:
    """Random rows: every head dimension next to every other, short rows more than long ones, full and small groups."""
    source = np.random.default_rng(seed)
    traffic = Traffic()
    for _ in range(rows):
        dim = int(source.choice(dims))
        n = keys or int(source.choice([1, 2, P, P + 1, int(source.integers(1, 6 * P)), int(source.integers(1, 3 * P))]))
        group = most_group(dim) if keys or source.random() < 0.7 else int(source.integers(most_group(dim) + 1))
        value = source.integers(LOW, HIGH + 1, (n, dim))
        if source.random() < 0.3:
            value = source.choice([LOW, HIGH], (n, dim))
        if source.random() < 0.2:
            value[:] = source.choice([LOW, HIGH], dim)
        prob = make_prob(source, n)
        if source.random() < 0.5:
            put_on_ties(source, prob, value)
        traffic.add_row(source, prob, value, group)
    return traffic


def make_corners() -> Traffic:
    """Saturation at both ends, the widest sums, halves, and as many keys as the machine knows, at every dimension."""
    source = np.random.default_rng(9)
    traffic = Traffic()
    ones = (1 << W) - 1
    half = 1 << (W - 1)
    for dim in DIMS:
        group = most_group(dim)
        ends = np.where(np.arange(dim) % 2 == 0, LOW, HIGH)
        # Twice all ones: every element saturates, the sum reaches both ends of its width.
        traffic.add_row(source, np.array([ones, ones]), np.array([ends, ends]), group)
        traffic.add_row(source, np.array([ones, ones, 2]), np.array([ends, ends, ends]), group)
        # All ones once: no element saturates.
        traffic.add_row(source, np.array([ones]), np.array([ends]), group)
        traffic.add_row(source, np.array([half, half]), np.array([ends, ends]), group)
        # One unit below saturation and just on it.
        for extra in (half - 1, half, half + 1):
            traffic.add_row(source, np.array([ones, 1, extra]), np.array([ends, ends, np.sign(ends)]), group)
        # Exact halves go up.
        traffic.add_row(source, np.array([half]), np.arange(dim)[None] % 16 - 8, group)
        # Twice 1.0 in as many equal keys as there can be.
        n = min(MOST_KEYS, ROW_LIMIT)
        traffic.add_row(source, np.full(n, ROW_LIMIT // n), np.repeat(ends[None], n, axis=0), group)
        traffic.add_row(source, np.full(n, ROW_LIMIT // n), source.integers(LOW, HIGH + 1, (n, dim)), group)
        traffic.add_row(source, np.zeros(P + 1, np.int64), source.integers(LOW, HIGH + 1, (P + 1, dim)), group)
    assert traffic.saturated >= 4 * sum(DIMS), "too little saturates"
    return traffic


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, DeadDriver, DeadDriver, StreamMonitor]:
    bench = Bench(dut, seed=seed)
    prob = DeadDriver(bench, "i_prob", weight_beat(lanes=P, prob_bits=W, header=HEADER), idle)
    value = DeadDriver(bench, "i_value", value_operands(multipliers=M, operand_bits=B), idle)
    layout = output_beat(lanes=S, operand_bits=B, head_dim_max=SIZE["head_dim_max"], header=HEADER)
    return bench, prob, value, StreamMonitor(bench, "o", layout, stall=stall, patient=patient)


def start(prob: DeadDriver, value: DeadDriver, sink: StreamMonitor, traffic: Traffic) -> None:
    prob.send_alive(traffic.probs, traffic.dead_probs)
    operands, dead = np.concatenate(traffic.operands), np.concatenate(traffic.dead_operands)
    value.send_alive(({"values": beat.tolist()} for beat in operands), ({"values": beat.tolist()} for beat in dead))
    sink.expect(traffic.wanted)


def check_rate(prob: StreamDriver, value: StreamDriver, sink: StreamMonitor, traffic: Traffic) -> None:
    """Check that a value beat goes in every cycle, and each row comes LATENCY cycles behind its last value beat."""
    first = prob.cycles[0] + 2
    assert value.cycles == list(range(first, first + traffic.value_beats)), "a cycle without a value beat"
    assert sink.cycles == [value.cycles[end] + LATENCY for end in traffic.ends]


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def rows_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, prob, value, sink = make_bench(dut, seed, idle, stall)
    traffic = make_traffic(seed)
    assert len({tuple(row["lanes"]) for row in traffic.wanted}) > len(traffic.wanted) // 2, "the rows hardly differ"
    await bench.reset()
    start(prob, value, sink, traffic)
    await bench.drain()
    assert prob.count == len(traffic.probs)
    assert value.count == traffic.value_beats
    if not idle and not stall:
        check_rate(prob, value, sink, traffic)
        record("latency", sink.cycles[0] - value.cycles[traffic.ends[0]], unit="cycles")


@cocotb.test
@cocotb.parametrize(stall=[0.0, 0.5])
async def corners_match_golden(dut: HierarchyObject, stall: float) -> None:
    bench, prob, value, sink = make_bench(dut, SEEDS[0], stall=stall)
    traffic = make_corners()
    await bench.reset()
    start(prob, value, sink, traffic)
    await bench.drain(limit=4 * MOST_KEYS + 1000)
    assert sum(row["saturated"] for row in sink.received) == traffic.saturated
    if not stall:
        check_rate(prob, value, sink, traffic)


@cocotb.test
@cocotb.parametrize(keys=[1, P, P + 1])
async def short_rows_leave_no_bubbles(dut: HierarchyObject, keys: int) -> None:
    """Rows of few keys, one after the other: the output queue turns around at full rate."""
    for dims in [[dim] for dim in DIMS] + [DIMS]:
        bench, prob, value, sink = make_bench(dut, SEEDS[0])
        traffic = make_traffic(SEEDS[0] + dims[0], rows=3 * LATENCY, dims=dims, keys=keys)
        await bench.reset()
        start(prob, value, sink, traffic)
        await bench.drain()
        check_rate(prob, value, sink, traffic)
        record("cycles_per_beat", (value.cycles[-1] - value.cycles[0]) / (value.count - 1), head_dim=dims[0], keys=keys)


@cocotb.test
async def sums_wait_for_keys(dut: HierarchyObject) -> None:
    """Beats of a row with pauses of any length between them."""
    bench, prob, value, sink = make_bench(dut, SEEDS[0], idle=0.5)
    traffic = make_traffic(SEEDS[0] + 5, rows=4 * LATENCY, dims=DIMS[-1:], keys=2 * P + 1)
    await bench.reset()
    start(prob, value, sink, traffic)
    await bench.drain()


@cocotb.test
async def valid_does_not_wait_for_ready(dut: HierarchyObject) -> None:
    bench, prob, value, sink = make_bench(dut, SEEDS[0], patient=True)
    await bench.reset()
    start(prob, value, sink, make_traffic(SEEDS[0], rows=20))
    await bench.drain(limit=200)


@cocotb.test
async def a_stalled_output_holds_latency_plus_one(dut: HierarchyObject) -> None:
    """Rows of one key fill exactly the places there are, and none is lost."""
    bench, prob, value, sink = make_bench(dut, SEEDS[0])
    traffic = make_traffic(SEEDS[0], rows=3 * LATENCY, dims=DIMS[:1], keys=1)
    await bench.reset()
    sink.stop()
    start(prob, value, sink, traffic)
    await bench.step(4 * LATENCY)
    assert value.count == LATENCY + 1
    sink.start()
    await bench.drain()


@cocotb.test
async def reset_drops_the_rows_inside(dut: HierarchyObject) -> None:
    bench, prob, value, sink = make_bench(dut, SEEDS[0], stall=0.5)
    await bench.reset()
    for taken in range(0, 3 * LATENCY, 2):
        start(prob, value, sink, make_traffic(SEEDS[0] + taken, rows=20))
        await bench.step(taken)
        await bench.reset(1)
        await bench.step(2 * LATENCY)
        # The monitor expects nothing yet, so a row left over would have failed.
        assert sink.count == 0
        start(prob, value, sink, make_traffic(SEEDS[0] + taken + 1, rows=4))
        await bench.drain()
        await bench.reset(1)
