"""Testbench of hw/datapath/converter.py; tests/hw/datapath/test_converter.py runs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.golden.converter import beat_operands, block_rows, key_operands, value_operands, windows
from spatten.hw.datapath.converter import Converter, operand_beat, packed_beat, part_code
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench
from spatten.spec.config import LSB_BITS
from spatten.spec.row_format import SECTOR_BITS, RowFormat, row_format

PARAMETERS = parameters()
TENSOR: str = PARAMETERS["tensor"]
SLICES: int = PARAMETERS["slices"]
SLICE_WIDTH: int = PARAMETERS["slice_width"]
LANES: int = PARAMETERS["lanes"]
OPERAND_BITS: int = PARAMETERS["operand_bits"]
BANKS: int = PARAMETERS["banks"]
HEAD_DIMS: list[int] = PARAMETERS["head_dims"]
WIDTHS: list[int] = PARAMETERS["widths"]
HEADER_BITS: int = PARAMETERS["header_bits"]
EVERY_FIRST: bool = PARAMETERS["every_first"]
SEEDS: list[int] = PARAMETERS["seeds"]
DELAY = Converter.delay
PACKED = Payload(packed_beat(SLICES, BANKS, HEADER_BITS))
OPERANDS = Payload(operand_beat(SLICES, SLICE_WIDTH, OPERAND_BITS, HEADER_BITS))


class Beat(NamedTuple):
    """One beat: what goes in, which of its bits are not known, and what must come out."""

    packed: int
    unknown: int
    operands: dict[int, int]
    header: int
    what: str


def layouts() -> Iterable[tuple[RowFormat, bool]]:
    """Every layout that the circuit takes, and whether its codes are unsigned."""
    for head_dim in HEAD_DIMS:
        for bits in WIDTHS:
            yield row_format(head_dim=head_dim, slice_width=SLICE_WIDTH, bits=bits), False
            if TENSOR == "key":
                yield row_format(head_dim=head_dim, slice_width=SLICE_WIDTH, bits=bits, joined=True), False
                if bits == LSB_BITS:
                    yield row_format(head_dim=head_dim, slice_width=SLICE_WIDTH, bits=bits), True


def make_codes(source: np.random.Generator, shape: tuple[int, ...], bits: int, *, signed: bool) -> Any:
    """Random codes, a third of them the extreme and middle ones."""
    low = -(1 << bits - 1) if signed else 0
    high = low + (1 << bits) - 1
    some = np.array([low, low + 1, (low + high) // 2, (low + high) // 2 + 1, high - 1, high])
    return np.where(source.random(shape) < 0.3, source.choice(some, shape), source.integers(low, high + 1, shape))


def make_beat(
    source: np.random.Generator, row: RowFormat, head: int, beat: int, first: int, rows: int, is_unsigned: bool
) -> Beat:
    shape = (row.heads, rows * SLICES, row.head_dim)
    msb = make_codes(source, shape, row.bits, signed=not is_unsigned)
    lsb = make_codes(source, shape, LSB_BITS, signed=False) if row.joined else None
    operands = (
        key_operands(msb, lsb, bits=row.bits, operand_bits=OPERAND_BITS)
        if TENSOR != "value"
        else value_operands(msb, bits=row.bits, operand_bits=OPERAND_BITS)
    )
    values, means = beat_operands(row, operands, head=head, beat=beat, slices=SLICES, slice_width=SLICE_WIDTH)
    window = windows(row, block_rows(row, msb, lsb), head=head, beat=beat, slices=SLICES)
    words = [[int.from_bytes(source.bytes(32)) for _ in range(BANKS)] for _ in range(SLICES)]
    unknown = 0
    for lane in range(SLICES):
        unneeded = set(range(BANKS))
        for k, sector in enumerate(window[lane]):
            words[lane][(first + k) % BANKS] = int.from_bytes(sector.tobytes(), "little")
            unneeded.remove((first + k) % BANKS)
        for bank in unneeded:
            unknown |= (1 << SECTOR_BITS) - 1 << (lane * BANKS + bank) * SECTOR_BITS
    header = int.from_bytes(source.bytes(-(-HEADER_BITS // 8)), "little") % (1 << HEADER_BITS)
    part = part_code(row, head, beat, banks=BANKS, is_unsigned=is_unsigned)
    if TENSOR != "key":
        # Fields that only keys have must not matter.
        part |= {"unsigned": int(source.integers(2)), "joined": int(source.integers(2))}
    packed = PACKED.pack({"words": words, "first": first, "part": part, "header": header})
    wanted = {int(n): int(values.flat[n]) for n in np.flatnonzero(means)}
    what = f"{row.bits} bits{' joined' * row.joined}, D = {row.head_dim}, head {head}, beat {beat}, first {first}"
    return Beat(packed, unknown, wanted, header, what)


def make_beats(seed: int) -> list[Beat]:
    """Every layout, head, beat and number of rows read together, with every first bank or a random one; shuffled."""
    source = np.random.default_rng(seed)
    every = [
        (row, head, beat, first, rows, is_unsigned)
        for row, is_unsigned in layouts()
        for head, beat in row.parts
        for first in (range(BANKS) if EVERY_FIRST else source.integers(BANKS, size=1))
        for rows in range(1, 1 + row.rows_per_read(min(LANES // SLICES, max(1, SLICE_WIDTH // row.head_dim)), BANKS))
    ]
    source.shuffle(every)
    return [make_beat(source, *each) for each in every]


class Line:
    """Sends beats, one per cycle but for a share `idle` of them, and checks that each comes out after `DELAY`."""

    def __init__(self, bench: Bench, idle: float) -> None:
        self._bench = bench
        self._idle = idle
        self._source = bench.random("line")
        self._signals = [bench.signal(name) for name in ("i__valid", "i__payload", "o__valid", "o__payload")]
        self._queue: deque[Beat] = deque()
        self._inside: deque[Beat | None] = deque([None] * DELAY)
        self._shown: Beat | None = None
        self.count = 0
        bench.agents.append(self)

    def send(self, beats: list[Beat]) -> None:
        self._queue.extend(beats)

    @property
    def waiting(self) -> int:
        return len(self._queue) + sum(beat is not None for beat in self._inside)

    def clear(self) -> None:
        self._queue.clear()
        self._inside = deque([None] * DELAY)
        self._shown = None
        self.count = 0

    def drive(self) -> None:
        valid, payload, _, _ = self._signals
        self._shown = self._queue.popleft() if self._queue and self._source.random() >= self._idle else None
        valid.value = int(self._shown is not None)
        if self._shown is None:
            width = PACKED.width
            payload.value = LogicArray("X" * width) if self._bench.four_state else self._source.getrandbits(width)
        elif self._bench.four_state:
            bits = np.array(list(f"{self._shown.packed:0{PACKED.width}b}"))
            bits[np.array(list(f"{self._shown.unknown:0{PACKED.width}b}")) == "1"] = "X"
            payload.value = LogicArray("".join(bits))
        else:
            payload.value = self._shown.packed

    def sample(self, cycle: int) -> None:
        self._inside.append(self._shown)
        beat = self._inside.popleft()
        _, _, valid, payload = self._signals
        where = f"cycle {cycle}, seed {self._bench.seed}"
        assert str(valid.value) == str(int(beat is not None)), f"o.valid is {valid.value}, {where}"
        if beat is None:
            return
        # In a 4-state simulator bits that mean nothing may be X. The reversed text has bit 0 first.
        text = str(payload.value)[::-1]
        wanted = [(f"operands[{n}]", n * OPERAND_BITS, OPERAND_BITS, value) for n, value in beat.operands.items()]
        wanted.append(("header", OPERANDS.width - HEADER_BITS, HEADER_BITS, beat.header))
        for name, offset, width, value in wanted:
            got = text[offset : offset + width][::-1]
            should = f"{value & (1 << width) - 1:0{width}b}"
            assert got == should, f"{name} is {got}, not {should} ({value}): {beat.what}, beat {self.count}, {where}"
        self.count += 1


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], seed=SEEDS)
async def beats_match_golden(dut: HierarchyObject, idle: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    line = Line(bench, idle)
    beats = make_beats(seed)
    await bench.reset()
    line.send(beats)
    start = bench.cycle
    await bench.until(lambda: not line.waiting, what="end", limit=3 * len(beats) + 20)
    assert line.count == len(beats)
    if not idle:
        assert bench.cycle - start == len(beats) + DELAY
        record("latency", DELAY, unit="cycles")
        record("cycles_per_beat", (bench.cycle - start - DELAY) / len(beats), unit="cycles")
        record("operands_per_cycle", SLICES * SLICE_WIDTH)
    await bench.step(2 * DELAY)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_drops_the_beats_inside(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    line = Line(bench, 0.0)
    beats = make_beats(seed)[: 2 * DELAY + 6]
    await bench.reset()
    for inside in range(1, DELAY + 3):
        line.send(beats[:inside])
        await bench.step(inside)
        await bench.reset(1)
        # The line expects nothing, so a beat left over fails; then the next one must be right.
        await bench.step(DELAY + 2)
        line.send(beats[inside:])
        await bench.step(len(beats) + DELAY)
        assert line.count == len(beats) - inside
        await bench.reset(1)
