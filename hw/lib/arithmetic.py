"""Free-running arithmetic of fixed latency: a pipelined multiplier and an adder tree."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module, Shape, ShapeLike, Value, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.parameters import check_integer, check_shape
from spatten.hw.lib.pipeline import register
from spatten.hw.lib.shared import Shared

__all__ = ["AdderTree", "Multiplier", "sum_shape"]


def sum_shape(shape: ShapeLike, terms: int) -> Shape:
    """Shape of an exact sum of `terms` values of `shape`."""
    term = Shape.cast(shape)
    width = term.width + ceil_log2(terms)
    return signed(width) if term.signed else unsigned(width)


class Multiplier(Shared):
    """The exact product of two operands, one per cycle.

    With one stage it is a product and a register behind it, the form that an FPGA flow turns into a DSP block. With
    more, `b` is cut into slices: the first stage multiplies `a` by each, the others add. Two stages have slices of at
    most `SLICE_BITS` bits and one sum, which an ASIC flow makes of carry-save adders and one carry-propagating one;
    three have four slices and add pairs, then the pairs.

    Parameters
    ----------
    a_shape, b_shape : ShapeLike
        Shapes of the operands, each signed or unsigned. With more than one stage `b` is cut, and should be the
        narrower.
    stages : int
        Registers on the way, 1 to 3.

    Ports
    -----
    a, b : in
    o : out, a_width + b_width bits, signed if one of them is

    Latency: `delay` = `stages` cycles. Throughput: one product per cycle; no enable and no reset, it always runs.

    On ECP5 one stage of up to 18 x 18 bits of like sign is one MULT18X18D; of unlike sign the unsigned operand counts
    one bit more. In Nangate45 (typical) one stage closes 1 GHz for 12 x 12 bits, two for 18 x 16, 17 x 18 and 16 x 16.
    """

    SLICE_BITS = 6

    def __init__(self, *, a_shape: ShapeLike, b_shape: ShapeLike, stages: int) -> None:
        a = check_shape("a_shape", a_shape)
        b = check_shape("b_shape", b_shape)
        check_integer("stages", stages, 1, 3)
        self.stages = stages
        width = a.width + b.width
        super().__init__({"a": In(a), "b": In(b), "o": Out(signed(width) if a.signed or b.signed else unsigned(width))})

    @property
    def delay(self) -> int:
        """Cycles from operands to their product."""
        return self.stages

    def build(self, platform: Any) -> Module:
        m = Module()
        width = len(self.b)
        slices = {1: 1, 2: -(-width // self.SLICE_BITS), 3: 4}[self.stages]
        step = -(-width // slices)
        parts: list[tuple[int, Value]] = []
        for low in range(0, width, step):
            # Of a signed operand only the top slice has a sign.
            is_top = low + step >= width
            b_slice = self.b[low : low + step]
            product = self.a * (b_slice.as_signed() if is_top and self.b.shape().signed else b_slice)
            parts.append((low, register(m, product, f"product{low}")))
        fan_in = 2 if self.stages == 3 else len(parts)
        for stage in range(1, self.stages):
            chunks = [parts[first : first + fan_in] for first in range(0, len(parts), fan_in)]
            parts = []
            for chunk in chunks:
                low = chunk[0][0]
                total = sum((part << (at - low) for at, part in chunk[1:]), chunk[0][1])
                parts.append((low, register(m, total, f"sum{stage}_{low}")))
        m.d.comb += self.o.eq(parts[0][1])
        return m


class AdderTree(Shared):
    """The exact sum of all inputs, and on request the sums of groups of neighbours, all in the same cycle.

    A stage adds 2**levels_per_stage neighbours in one expression, which an ASIC flow makes of carry-save adders and one
    carry-propagating one. Nothing is rounded or cut: a sum of n values has ceil(log2(n)) bits more than one.

    Parameters
    ----------
    shape : ShapeLike
        Shape of one input, signed or unsigned.
    inputs : int
        Values to add, at least 1; any number, not only powers of two.
    levels_per_stage : int
        Binary levels between registers, at least 1.
    taps : mapping of int to int
        Further sums that are wanted, of groups: {size of a group: how many groups, from the front}. A size is a power
        of two and below `inputs`, and the groups must be full.

    Ports
    -----
    i : in, array of `inputs` values
    o : out, the sum
    o_<size> : out, for each tap: array of the sums of inputs 0 to size - 1, size to 2 size - 1, ...

    Latency: `delay` = ceil(ceil(log2(inputs)) / levels_per_stage) cycles, 0 for one input. Throughput: one sum per
    cycle; no enable and no reset, it always runs.
    """

    def __init__(
        self, *, shape: ShapeLike, inputs: int, levels_per_stage: int = 1, taps: Mapping[int, int] | None = None
    ) -> None:
        self._shape = check_shape("shape", shape)
        check_integer("inputs", inputs, 1)
        check_integer("levels_per_stage", levels_per_stage, 1)
        self.inputs = inputs
        self.levels_per_stage = levels_per_stage
        self.taps = dict(taps or {})
        for size, count in self.taps.items():
            check_integer("size of a tap", size, 1)
            check_integer("groups of a tap", count, 1)
            if size & (size - 1) or size >= inputs:
                raise ValueError(f"size of a tap must be a power of two below {inputs}, not {size!r}")
            if size * count > inputs:
                raise ValueError(f"groups of a tap must be at most {inputs // size} of {size} inputs, not {count!r}")
        super().__init__(
            {
                "i": In(data.ArrayLayout(self._shape, inputs)),
                "o": Out(sum_shape(self._shape, inputs)),
                **{
                    f"o_{size}": Out(data.ArrayLayout(sum_shape(self._shape, size), count))
                    for size, count in self.taps.items()
                },
            }
        )

    @property
    def delay(self) -> int:
        """Cycles from inputs to their sum."""
        return -(-ceil_log2(self.inputs) // self.levels_per_stage)

    def build(self, platform: Any) -> Module:
        m = Module()
        sums: list[Value] = [self.i[n] for n in range(self.inputs)]
        taps: dict[int, list[Value]] = {}
        size = 1
        for stage in range(self.delay):
            next_size = size << self.levels_per_stage
            taps = {
                tap: [register(m, value, f"stage{stage}_tap{tap}_{n}") for n, value in enumerate(values)]
                for tap, values in taps.items()
            }
            for tap, count in self.taps.items():
                if size <= tap < next_size:
                    taps[tap] = self._add(m, sums[: count * tap // size], size, tap, f"stage{stage}_sum{tap}")
            sums = self._add(m, sums, size, next_size, f"stage{stage}_sum")
            size = next_size
        m.d.comb += self.o.eq(sums[0])
        for tap, values in taps.items():
            m.d.comb += [getattr(self, f"o_{tap}")[n].eq(value) for n, value in enumerate(values)]
        return m

    def _add(self, m: Module, sums: list[Value], size: int, next_size: int, name: str) -> list[Value]:
        """Registered sums of `next_size` inputs each, from `sums` of `size` inputs; the last sum has what is left."""
        fan_in = next_size // size
        added: list[Value] = []
        for first in range(0, len(sums), fan_in):
            total = sum(sums[first + 1 : first + fan_in], sums[first])
            shape = sum_shape(self._shape, min(next_size, self.inputs - first * size))
            added.append(register(m, total, f"{name}_{first // fan_in}", shape=shape))
        return added
