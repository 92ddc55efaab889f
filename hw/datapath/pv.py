"""The prob x V array: probabilities times value rows, summed into output rows."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Array, Assert, Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from spatten.hw.datapath.qk import DIM_BITS, check_head_dim_min
from spatten.hw.lib.arithmetic import AdderTree, Multiplier, sum_shape
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.lib.logic import index_shape, select
from spatten.hw.lib.parameters import check_integer, check_power_of_two, check_shape
from spatten.hw.lib.pipeline import delayed_fields, delayed_valid, register
from spatten.hw.lib.shared import Shared
from spatten.spec.config import HEAD_DIMS

__all__ = ["PvArray", "output_beat", "value_operands", "weight_beat"]

_BLOCK = HEAD_DIMS[0]
"""Operands that share a probability whatever the head dimension."""


def _chosen(values: list[Value], code: Value) -> Value:
    """`values[code]`; a code beyond the last value chooses the last."""
    return Array([*values, *[values[-1]] * ((1 << len(code)) - len(values))])[code]


def weight_beat(*, lanes: int, prob_bits: int, header: ShapeLike) -> data.StructLayout:
    """A beat of a row's probabilities.

    probs : `lanes` probabilities, of which those from `count` up are ignored
    count : live lanes, 1 to `lanes`; below `lanes` only in the last beat of a row
    last : the row ends here
    dim : log2(head dimension) - 4
    group : log2 of the keys in a value beat
    header : goes with the row, untouched; the header of the row's last beat counts
    """
    return data.StructLayout(
        {
            "probs": data.ArrayLayout(unsigned(prob_bits), lanes),
            "count": range(lanes + 1),
            "last": 1,
            "dim": unsigned(DIM_BITS),
            "group": index_shape(ceil_log2(lanes) + 1),
            "header": header,
        }
    )


def value_operands(*, multipliers: int, operand_bits: int) -> data.StructLayout:
    """An operand for each multiplier; `PvArray` says which multiplier takes which operand."""
    return data.StructLayout({"values": data.ArrayLayout(signed(operand_bits), multipliers)})


def output_beat(*, lanes: int, operand_bits: int, head_dim_max: int, header: ShapeLike) -> data.StructLayout:
    """A beat of an output row.

    lanes : elements part x lanes and up of the row, signed; zero from the head dimension up
    part : which `lanes` elements these are; 0 unless the head dimension exceeds `lanes`
    last : the row's last part
    dim : log2(head dimension) - 4
    saturated : how many elements of the beat saturated
    header : the row's header
    """
    return data.StructLayout(
        {
            "lanes": data.ArrayLayout(signed(operand_bits), lanes),
            "part": index_shape(head_dim_max // lanes),
            "last": 1,
            "dim": unsigned(DIM_BITS),
            "saturated": range(lanes + 1),
            "header": header,
        }
    )


class PvColumn(Shared):
    """The multipliers at one position of every slice, and the tree that adds them up.

    Parameters
    ----------
    slices : int
    operand_bits, prob_bits : int
        Bits of a value, signed, and of a probability, unsigned.
    multiplier_stages, levels_per_stage : int
        As in `PvArray`.

    Ports
    -----
    values : in, for each slice the operand
    probs : in, for each slice the probability
    o : out, sum of the products

    Latency: `delay` = 1 + multiplier_stages + the tree's cycles. Throughput: one sum per cycle; no enable and no reset,
    it always runs. Probabilities have registers of their own in each column: a register for all columns of a slice
    would spend most of a cycle on its wires.
    """

    def __init__(
        self, *, slices: int, operand_bits: int, prob_bits: int, multiplier_stages: int, levels_per_stage: int
    ) -> None:
        self._multiplier: dict[str, Any] = {
            "a_shape": signed(operand_bits),
            "b_shape": unsigned(prob_bits),
            "stages": multiplier_stages,
        }
        product = signed(operand_bits + prob_bits)
        self._tree: dict[str, Any] = {"shape": product, "inputs": slices, "levels_per_stage": levels_per_stage}
        self.delay = 1 + multiplier_stages + -(-ceil_log2(slices) // levels_per_stage)
        super().__init__(
            {
                "values": In(data.ArrayLayout(signed(operand_bits), slices)),
                "probs": In(data.ArrayLayout(unsigned(prob_bits), slices)),
                "o": Out(sum_shape(product, slices)),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        m.submodules.tree = tree = AdderTree(**self._tree)
        for n, operand in enumerate(self.values):
            value = Signal(operand.shape(), name=f"value{n}", reset_less=True)
            prob = Signal.like(self.probs[n], name=f"prob{n}", reset_less=True)
            m.d.sync += [value.eq(operand), prob.eq(self.probs[n])]
            m.submodules[f"multiplier{n}"] = multiplier = Multiplier(**self._multiplier)
            assert self.delay == 1 + multiplier.delay + tree.delay
            m.d.comb += [multiplier.a.eq(value), multiplier.b.eq(prob), tree.i[n].eq(multiplier.o)]
        m.d.comb += self.o.eq(tree.o)
        return m


class PvArray(wiring.Component):
    """Output rows of a head: element d is sat(floor(sum over keys of p x v[d] / 2**W + 1/2)), W the probability width.

    The probabilities of a row may add up to at most 2**(W + 1), twice 1.0; then the sum is exact in W + 1 + B bits,
    B the operand width, and it saturates to B bits.

    M multipliers stand in R slices of S. Key q of a value beat has its operand d at multiplier

        (q mod R) x S + (q div R) x D + d      for D <= S: up to min(P, M / D) keys, the next beat has the next keys;
        q x S + d mod S                        for D > S: up to R keys, D / S beats; beat b has d = b x S and up.

    A row's first value beat has the keys of its first lanes. 2**group keys share a beat, so a beat of probabilities
    takes ceil(count / 2**group) value beats, or D / S times as many for D > S. Operands that belong to no live key
    are ignored.

    Probabilities are unfolded beat by beat and wait for their values in a two-entry queue. A pair enters a pipeline
    that never stops: registers for operands (zero where no live key is) and probabilities, multipliers, a tree over the
    slices for each of the S positions, accumulators. Where a beat has more keys than slices, a finished row is folded:
    its upper half is added to its lower half until D elements are left. For rounding, the accumulator starts from one
    half. Output beats go into a queue that has room for them: a pair that ends a part enters only with a credit.

    Parameters
    ----------
    multipliers : int
        M, a multiple of `slice_width` by a power of two, and at most `lanes` x `slice_width`.
    lanes : int
        Probabilities P of a beat: a power of two.
    slice_width : int
        S, a power of two, at least 16.
    operand_bits : int
        Width of a value and of an output element, at least 2.
    prob_bits : int
        Width of a probability, at least 1.
    head_dim_max, head_dim_min : int
        Largest and smallest head dimension D of a row: 16, 32, 64 or 128.
    header : ShapeLike
        Shape of what goes with a row, at least 1 bit.
    multiplier_stages : int
        Pipeline registers of a multiplier, 1 to 3. At 12 x 12 bits one closes 1 GHz in Nangate45, and takes one
        MULT18X18D on ECP5.
    levels_per_stage : int
        Levels of the tree between registers.

    Ports
    -----
    i_prob : stream of `weight_beat(...)`, in
    i_value : stream of `value_operands(...)`, in
    o : stream of `output_beat(...)`, out, with S lanes; a row has max(1, D / S) beats

    Latency: from a row's last value beat to `o`, `latency` cycles; from its probabilities 2 more. `latency` is 4 and
    the delays of a multiplier, of the tree over R, of the folds (0 where P = R) and of the saturation count (2 for
    S = 16 to 64).
    Throughput: a value beat per cycle, whatever the rows: no cycle is lost between rows, also of one key.

    Source: SpAtten (HPCA 2021) section IV-F.
    """

    def __init__(
        self,
        *,
        multipliers: int,
        lanes: int,
        slice_width: int,
        operand_bits: int,
        prob_bits: int,
        head_dim_max: int,
        header: ShapeLike,
        head_dim_min: int = HEAD_DIMS[0],
        multiplier_stages: int = 1,
        levels_per_stage: int = 2,
    ) -> None:
        for name, value, least in (
            ("multipliers", multipliers, _BLOCK),
            ("lanes", lanes, 1),
            ("slice_width", slice_width, _BLOCK),
            ("operand_bits", operand_bits, 2),
            ("prob_bits", prob_bits, 1),
            ("head_dim_max", head_dim_max, 1),
            ("levels_per_stage", levels_per_stage, 1),
        ):
            check_integer(name, value, least)
        check_integer("multiplier_stages", multiplier_stages, 1, 3)
        for name, value in (("multipliers", multipliers), ("lanes", lanes), ("slice_width", slice_width)):
            check_power_of_two(name, value)
        if not slice_width <= multipliers <= lanes * slice_width:
            raise ValueError(
                f"multipliers must be slice_width to lanes x slice_width = {slice_width} to {lanes * slice_width}, "
                f"not {multipliers!r}"
            )
        if head_dim_max not in HEAD_DIMS:
            raise ValueError(f"head_dim_max must be one of {HEAD_DIMS}, not {head_dim_max!r}")
        check_head_dim_min(head_dim_min, head_dim_max)
        check_shape("header", header)
        self.multipliers = multipliers
        self.lanes = lanes
        self.slice_width = slice_width
        self.slices = multipliers // slice_width
        self.operand_bits = operand_bits
        self.prob_bits = prob_bits
        self.head_dim_max = head_dim_max
        self.head_dim_min = head_dim_min
        self.header = header
        self.multiplier_stages = multiplier_stages
        self.levels_per_stage = levels_per_stage
        self.dims = tuple(dim for dim in HEAD_DIMS if head_dim_min <= dim <= head_dim_max)
        self.parts = max(1, head_dim_max // slice_width)
        self._columns = [
            PvColumn(
                slices=self.slices,
                operand_bits=operand_bits,
                prob_bits=prob_bits,
                multiplier_stages=multiplier_stages,
                levels_per_stage=levels_per_stage,
            )
            for _ in range(slice_width)
        ]
        self._saturated = AdderTree(shape=unsigned(1), inputs=slice_width, levels_per_stage=3)
        super().__init__(
            {
                "i_prob": In(stream.Signature(weight_beat(lanes=lanes, prob_bits=prob_bits, header=header))),
                "i_value": In(stream.Signature(value_operands(multipliers=multipliers, operand_bits=operand_bits))),
                "o": Out(
                    stream.Signature(
                        output_beat(
                            lanes=slice_width, operand_bits=operand_bits, head_dim_max=head_dim_max, header=header
                        )
                    )
                ),
            }
        )

    def keys_per_beat(self, dim: int) -> int:
        """Most keys of a value beat at head dimension `dim`."""
        return self.slices * self._subslices(dim)

    def beats_per_group(self, dim: int) -> int:
        """Value beats that a group of keys takes; a row has as many output beats."""
        return max(1, dim // self.slice_width)

    @property
    def latency(self) -> int:
        """Cycles from a row's last value beat to its output."""
        return 3 + self._columns[0].delay + self._saturated.delay + len(self._folds())

    def _subslices(self, dim: int) -> int:
        """Keys that share a slice at head dimension `dim`."""
        return max(1, min(self.lanes // self.slices, self.slice_width // dim))

    def _folds(self) -> list[int]:
        """Widths to which a row is folded, falling: those that some head dimension needs."""
        widths = [1 << n for n in reversed(range(exact_log2(_BLOCK), exact_log2(self.slice_width)))]
        return [width for width in widths if any(d <= width < d * self._subslices(d) for d in self.dims)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i_prob, "i_prob")
        check_stream(m, platform, self.i_value, "i_value")
        step = self._unfold(m)
        if asserts(platform):
            prob = self.i_prob.payload
            m.d.sync += [
                Assert(
                    ~self.i_prob.valid | ((prob.count > 0) & (prob.count <= self.lanes)),
                    "i_prob: count is not 1 to the number of lanes\n",
                ),
                Assert(
                    ~self.i_prob.valid
                    | (prob.group <= self._by_dim(prob.dim, lambda dim: Const(ceil_log2(self.keys_per_beat(dim))))),
                    "i_prob: group exceeds the keys that fit a value beat\n",
                ),
                Assert(
                    ~self.i_prob.valid | prob.last | (prob.count == self.lanes),
                    "i_prob: a beat that is not a row's last has dead lanes\n",
                ),
            ]

        # A pair of probabilities and values enters. Only a pair that ends a part needs a place in the output queue.
        credits = self.latency + 1
        credit_count = Signal(range(credits + 1), init=credits)
        has_credit = Signal(init=1)
        spends = Signal()
        returns = Signal()
        may_enter = Signal()
        beat = step.payload
        m.d.comb += [
            may_enter.eq(has_credit | ~beat.ends),
            step.ready.eq(may_enter & self.i_value.valid),
            self.i_value.ready.eq(may_enter & step.valid),
            spends.eq(step.valid & self.i_value.valid & has_credit & beat.ends),
            returns.eq(self.o.valid & self.o.ready),
        ]
        with m.If(spends & ~returns):
            m.d.sync += [credit_count.eq(credit_count - 1), has_credit.eq(credit_count != 1)]
        with m.If(returns & ~spends):
            m.d.sync += [credit_count.eq(credit_count + 1), has_credit.eq(1)]

        operands = self._live_operands(beat)
        sums = self._multiply(m, beat, operands)
        control = delayed_fields(
            m,
            self._columns[0].delay,
            "control",
            valid=step.valid & step.ready,
            first=beat.first,
            ends=beat.ends,
            part=beat.part,
            dim=beat.dim,
        )
        totals, totals_valid, totals_dim = self._accumulate(m, sums, control)
        totals, totals_valid = self._fold(m, totals, totals_valid, totals_dim)
        self._round_and_queue(m, platform, totals, totals_valid, step, spends, credits)
        return m

    # -- Probabilities ------------------------------------------------------------------------------------------------

    def _unfold(self, m: Module) -> Any:
        """A stream of the probabilities that belong to each value beat."""
        keys = max(self.keys_per_beat(dim) for dim in self.dims)
        blocks = self.slice_width // _BLOCK
        beat = self.i_prob.payload
        held = Signal(beat.shape(), reset_less=True)
        held_valid = Signal()
        live = Signal(self.lanes, reset_less=True)
        part = Signal(index_shape(self.parts))
        first = Signal(init=1)
        m.submodules.steps = steps = SkidBuffer(
            shape=data.StructLayout(
                {
                    "probs": data.ArrayLayout(unsigned(self.prob_bits), keys),
                    "live": data.ArrayLayout(unsigned(blocks), self.slices),
                    "dim": unsigned(DIM_BITS),
                    "part": index_shape(self.parts),
                    "first": 1,
                    "ends": 1,
                    "last": 1,
                    "header": self.header,
                }
            )
        )
        step = steps.i.payload
        is_last_part = Signal()
        has_more = Signal()
        leaves = Signal()
        in_group = Signal(self.lanes)

        def is_last(dim: int) -> Value:
            return part == self.beats_per_group(dim) - 1 if dim > self.slice_width else Const(1)

        m.d.comb += [
            in_group.eq((1 << (1 << held.group)) - 1),
            has_more.eq((live & ~in_group).any()),
            is_last_part.eq(self._by_dim(held.dim, is_last)),
            leaves.eq(steps.i.ready & is_last_part & ~has_more),
            self.i_prob.ready.eq(~held_valid | leaves),
            steps.i.valid.eq(held_valid),
            step.dim.eq(held.dim),
            step.part.eq(part),
            step.first.eq(first),
            step.ends.eq(held.last & ~has_more),
            step.last.eq(is_last_part),
            Value.cast(step.header).eq(Value.cast(held.header)),
        ]
        m.d.comb += [step.probs[key].eq(held.probs[key]) for key in range(keys)]
        live_keys = live & in_group
        for slice_ in range(self.slices):
            for block in range(blocks):
                m.d.comb += step.live[slice_][block].eq(
                    self._by_dim(held.dim, lambda dim, s=slice_, b=block: self._key_at(live_keys, dim, s, b))
                )

        with m.If(self.i_prob.ready):
            m.d.sync += [held.eq(beat), held_valid.eq(self.i_prob.valid)]
            for lane in range(self.lanes):
                is_live = lane < beat.count
                m.d.sync += [live[lane].eq(is_live), held.probs[lane].eq(Mux(is_live, beat.probs[lane], 0))]
        with m.Elif(steps.i.ready & is_last_part):
            m.d.sync += [
                Value.cast(held.probs).eq(Value.cast(held.probs) >> (self.prob_bits << held.group)),
                live.eq(live >> (1 << held.group)),
            ]
        with m.If(held_valid & steps.i.ready):
            m.d.sync += part.eq(Mux(is_last_part, 0, part + 1))
            with m.If(is_last_part):
                m.d.sync += first.eq(held.last & ~has_more)
        return steps.o

    def _by_dim(self, code: Value, choose: Any) -> Value:
        """`choose(dim)` for the head dimension that `code` stands for."""
        return select({HEAD_DIMS.index(dim): choose(dim) for dim in self.dims}, code)

    def _key_at(self, keys: Value, dim: int, slice_: int, block: int) -> Value:
        """The entry of `keys` whose key has its operands in this block of the slice, or 0 where none has."""
        subslice = block * _BLOCK // min(dim, self.slice_width)
        return keys[subslice * self.slices + slice_] if subslice < self._subslices(dim) else Const(0)

    def _live_operands(self, beat: Any) -> list[Value]:
        """The values, zero where they belong to no live key."""
        values = self.i_value.payload.values
        width = self.slice_width
        return [
            Mux(beat.live[n // width][n % width // _BLOCK], values[n], Const(0, signed(self.operand_bits)))
            for n in range(self.multipliers)
        ]

    # -- Arithmetic ---------------------------------------------------------------------------------------------------

    def _multiply(self, m: Module, beat: Any, operands: list[Value]) -> list[Value]:
        """For each position of a slice, the sum over the slices of probability times value."""
        for position, column in enumerate(self._columns):
            m.submodules[f"column{position}"] = column
        for slice_ in range(self.slices):
            for block in range(self.slice_width // _BLOCK):
                prob = Signal(self.prob_bits, name=f"prob{slice_}_{block}")
                m.d.comb += prob.eq(
                    self._by_dim(beat.dim, lambda dim, s=slice_, b=block: self._key_at(beat.probs, dim, s, b))
                )
                for position in range(block * _BLOCK, (block + 1) * _BLOCK):
                    column = self._columns[position]
                    m.d.comb += [
                        column.values[slice_].eq(operands[slice_ * self.slice_width + position]),
                        column.probs[slice_].eq(prob),
                    ]
        return [column.o for column in self._columns]

    def _accumulate(self, m: Module, sums: list[Value], control: SimpleNamespace) -> tuple[list[Value], Value, Value]:
        """Sums over the beats of a row, with the half that rounds; valid when a part is complete."""
        width = self.prob_bits + 1 + self.operand_bits
        first, part, dim = control.first, control.part, control.dim
        is_part = [control.valid & ~(part ^ n).any() for n in range(self.parts)]
        totals: list[Value] = []
        done_part = Signal.like(part, reset_less=True)
        for position, total in enumerate(sums):
            # Folding adds up positions, so only those in which it ends may start from a half.
            lowest = position // _BLOCK * _BLOCK
            rounds = self._by_dim(dim, lambda d, at=lowest: Const(at < d, 1)) if self._folds() else Const(1)
            half = Mux(rounds, 1 << (self.prob_bits - 1), 0)
            accumulators = [
                Signal(signed(width), name=f"accumulator{n}_{position}", reset_less=True) for n in range(self.parts)
            ]
            current = Mux(first, half, _chosen(accumulators, part))
            for accumulator, enable in zip(accumulators, is_part, strict=True):
                with m.If(enable):
                    m.d.sync += accumulator.eq(current + total)
            totals.append(_chosen(accumulators, done_part))
        done = Signal()
        done_dim = Signal.like(dim, reset_less=True)
        m.d.sync += [done.eq(control.valid & control.ends), done_part.eq(part), done_dim.eq(dim)]
        return totals, done, done_dim

    def _fold(self, m: Module, totals: list[Value], valid: Value, dim: Value) -> tuple[list[Value], Value]:
        """Add the keys that shared a slice, so that the first D positions have the row."""
        width = self.prob_bits + 1 + self.operand_bits
        for fold in self._folds():
            folds = Signal(name=f"folds{fold}")
            m.d.comb += folds.eq(self._by_dim(dim, lambda d, to=fold: Const(d <= to, 1)))
            folded: list[Value] = []
            for position, total in enumerate(totals):
                added = total + Mux(folds, totals[position + fold], 0) if position < fold else Mux(folds, 0, total)
                folded.append(register(m, added, f"folded{fold}_{position}", shape=signed(width)))
            totals = folded
            valid = delayed_valid(m, valid, 1, f"folded{fold}_valid")
            dim = register(m, dim, f"folded{fold}_dim")
        return totals, valid

    # -- Output -------------------------------------------------------------------------------------------------------

    def _round_and_queue(
        self, m: Module, platform: Any, totals: list[Value], valid: Value, step: Any, spends: Value, credits: int
    ) -> None:
        """Saturates outputs and counts those, and queues them; what else belongs to an output beat is queued earlier,
        when the pair that ends its part enters."""
        m.submodules.saturated = saturated = self._saturated
        lanes: list[Value] = []
        for position, total in enumerate(totals):
            rounded = total[self.prob_bits :]
            sign, exceeds = rounded[-1], rounded[-1] ^ rounded[-2]
            limit = Cat((~sign).replicate(self.operand_bits - 1), sign)
            m.d.comb += saturated.i[position].eq(exceeds)
            lanes.append(Mux(exceeds, limit, rounded[: self.operand_bits]))
        row = delayed_fields(m, saturated.delay, "row", valid=valid, lanes=Cat(lanes))

        queued = data.StructLayout(
            {"lanes": unsigned(self.slice_width * self.operand_bits), "saturated": range(self.slice_width + 1)}
        )
        m.submodules.outputs = outputs = Fifo(shape=queued, depth=credits)
        about = data.StructLayout(
            {"part": index_shape(self.parts), "last": 1, "dim": unsigned(DIM_BITS), "header": self.header}
        )
        m.submodules.headers = headers = Fifo(shape=about, depth=credits)
        m.d.comb += [
            outputs.i.valid.eq(row.valid),
            outputs.i.payload.lanes.eq(row.lanes),
            outputs.i.payload.saturated.eq(saturated.o),
            headers.i.valid.eq(spends),
            headers.i.payload.part.eq(step.payload.part),
            headers.i.payload.last.eq(step.payload.last),
            headers.i.payload.dim.eq(step.payload.dim),
            Value.cast(headers.i.payload.header).eq(Value.cast(step.payload.header)),
            self.o.valid.eq(outputs.o.valid),
            outputs.o.ready.eq(self.o.ready),
            headers.o.ready.eq(self.o.ready & outputs.o.valid),
            Value.cast(self.o.payload.lanes).eq(outputs.o.payload.lanes),
            self.o.payload.saturated.eq(outputs.o.payload.saturated),
            self.o.payload.part.eq(headers.o.payload.part),
            self.o.payload.last.eq(headers.o.payload.last),
            self.o.payload.dim.eq(headers.o.payload.dim),
            Value.cast(self.o.payload.header).eq(Value.cast(headers.o.payload.header)),
        ]
        if asserts(platform):
            m.d.sync += [
                Assert(~outputs.i.valid | outputs.i.ready, "an output has no place in the queue\n"),
                Assert(~headers.i.valid | headers.i.ready, "a header has no place in the queue\n"),
                Assert(~outputs.o.valid | headers.o.valid, "an output has no header\n"),
            ]
