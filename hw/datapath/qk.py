"""The Q x K array: exact scores of one query with several keys per cycle, for any head dimension."""

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from spatten.hw.lib.arithmetic import AdderTree, Multiplier, sum_shape
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import equals
from spatten.hw.lib.parameters import check_integer, check_power_of_two, check_shape
from spatten.hw.lib.pipeline import delayed, register
from spatten.hw.lib.shared import Shared
from spatten.spec.config import HEAD_DIMS

__all__ = ["DIM_BITS", "QkArray", "QkSlice", "check_head_dim_min", "dim_code", "key_beat", "query_row", "score_beat"]


DIM_BITS = (len(HEAD_DIMS) - 1).bit_length()
"""Width of the code of a head dimension."""


def dim_code(head_dim: int) -> int:
    """The code of a head dimension in a key beat: 0 for 16, 1 for 32, 2 for 64, 3 for 128."""
    return HEAD_DIMS.index(head_dim)


def check_head_dim_min(head_dim_min: int, head_dim_max: int) -> None:
    """Raise `ValueError` unless `head_dim_min` is a head dimension up to `head_dim_max`."""
    if head_dim_min not in HEAD_DIMS or head_dim_min > head_dim_max:
        raise ValueError(
            f"head_dim_min must be one of {HEAD_DIMS}, at most head_dim_max = {head_dim_max}, not {head_dim_min!r}"
        )


def query_row(*, operand_bits: int, head_dim_max: int) -> data.StructLayout:
    """One query: `operands`, of which the first D count."""
    return data.StructLayout({"operands": data.ArrayLayout(signed(operand_bits), head_dim_max)})


def key_beat(*, multipliers: int, lanes: int, operand_bits: int, header: ShapeLike) -> data.StructLayout:
    """What the multipliers take in one cycle; `QkArray` says where which key is.

    `keys`: one operand per multiplier. `count`: live keys. `group`: log2 of the keys that every beat of this row but
    the last holds. `dim`: `dim_code` of the row's head dimension. `last`: the row ends. `header`: opaque.
    """
    return data.StructLayout(
        {
            "keys": data.ArrayLayout(signed(operand_bits), multipliers),
            "count": range(lanes + 1),
            "group": range(max(exact_log2(lanes), 1) + 1),
            "dim": unsigned(DIM_BITS),
            "last": unsigned(1),
            "header": header,
        }
    )


def score_beat(*, lanes: int, score_bits: int, header: ShapeLike) -> data.StructLayout:
    """Scores in the order of their keys: `lanes` of them in every beat of a row but the last; zeros from `count` up."""
    return data.StructLayout(
        {
            "scores": data.ArrayLayout(signed(score_bits), lanes),
            "count": range(lanes + 1),
            "last": unsigned(1),
            "header": header,
        }
    )


class QkSlice(Shared):
    """`width` multipliers and the adder tree over them.

    Parameters
    ----------
    width : int
        Operands, a power of two.
    operand_bits : int
    taps : mapping of int to int
        Further sums that are wanted, those of the first `groups` groups of `size` products: {size: groups}.
    multiplier_stages, levels_per_stage : int
        Pipelining of the multipliers and of the tree.

    Ports
    -----
    query, keys : in, arrays of `width` operands, multiplied in pairs
    o : out, sum of all products
    o_<size> : out, for each tap: array of the sums of `size` products

    Latency: `delay` = 1 (operand registers) + multiplier_stages + tree's ceil(log2(width) / levels_per_stage) cycles.
    Throughput: one sum per cycle; no enable and no reset, it always runs.
    """

    def __init__(
        self, *, width: int, operand_bits: int, taps: dict[int, int], multiplier_stages: int, levels_per_stage: int
    ) -> None:
        self._width = width
        self._operand = signed(operand_bits)
        self._product = signed(2 * operand_bits)
        self._taps = taps
        self._multiplier_stages = multiplier_stages
        self._levels_per_stage = levels_per_stage
        operands = data.ArrayLayout(self._operand, width)
        super().__init__(
            {
                "query": In(operands),
                "keys": In(operands),
                "o": Out(sum_shape(self._product, width)),
                **{
                    f"o_{size}": Out(data.ArrayLayout(sum_shape(self._product, size), groups))
                    for size, groups in taps.items()
                },
            }
        )

    @property
    def delay(self) -> int:
        """Cycles from operands to their sums."""
        return 1 + self._multiplier_stages + -(-exact_log2(self._width) // self._levels_per_stage)

    def build(self, platform: Any) -> Module:
        m = Module()
        m.submodules.tree = tree = AdderTree(
            shape=self._product, inputs=self._width, levels_per_stage=self._levels_per_stage, taps=self._taps
        )
        query = register(m, self.query, "held_query")
        keys = register(m, self.keys, "held_keys")
        for n in range(self._width):
            m.submodules[f"multiplier{n}"] = multiplier = Multiplier(
                a_shape=self._operand, b_shape=self._operand, stages=self._multiplier_stages
            )
            assert self.delay == 1 + multiplier.delay + tree.delay
            m.d.comb += [multiplier.a.eq(query[n]), multiplier.b.eq(keys[n]), tree.i[n].eq(multiplier.o)]
        for name in self.signature.members:
            if name.startswith("o"):
                m.d.comb += Value.cast(getattr(self, name)).eq(Value.cast(getattr(tree, name)))
        return m


class QkArray(wiring.Component):
    """Scores s = sum over d of q[d] k[d], exact, of each query with the keys that follow it.

    `multipliers` = M multipliers stand in R = M / S slices of S = `slice_width`, each with an adder tree; P = `lanes`.
    A row is one query with one key or more; its head dimension D is 16, 32, 64 or 128, from `head_dim_min` to
    `head_dim_max`, and may change from row to row without a bubble.

    * D <= S: a beat holds up to min(P, M / D) keys. The key of rank n in the beat is in slice n mod R at place
      n div R: operand d of it at index (n mod R) S + (n div R) D + d.
    * D > S: a group of up to R keys takes D / S beats. Beat b holds operands b S to b S + S - 1 of the key of rank n at
      indices n S to n S + S - 1, and the partial sums are added up. All beats of a group say the same `count`.

    All other operands of a beat, and those of a query from D up, are ignored, whatever they are.

    A row whose beats hold fewer keys says so by `group`, log2 of their number: every beat holds 2**group keys but for
    the row's last one (or last group of beats), which may hold fewer. Scores leave in the order of the keys, packed to
    P per beat; only the last beat of a row has fewer, and zeros behind. `header` leaves as it was in the key beat that
    filled the score beat.

    Parameters
    ----------
    multipliers : int
        M, a power of two.
    lanes : int
        P, scores per beat, a power of two, at least M / S.
    slice_width : int
        S, a power of two from 16 to M.
    operand_bits : int
        Width of Q and K operands, signed, at least 2.
    head_dim_max, head_dim_min : int
        Largest and smallest D: 16, 32, 64 or 128.
    header : ShapeLike
        Shape of what passes through with a row.
    spare : int
        Places of the queue at the output beyond those that full rate needs: for score beats whose keys are still on
        their way to `i_key` when the sender counts them.
    multiplier_stages, levels_per_stage : int
        Pipelining of the multipliers (1 to 3) and binary levels of the adder trees between registers. For 12 bits the
        defaults close 1 GHz in Nangate45 with 13 % to spare; 16 bits take two stages. On ECP5 a multiplier of one stage
        is a DSP block.

    Ports
    -----
    i_query : stream of `query_row`, in; one per row, taken up to two rows ahead of its keys
    i_key : stream of `key_beat`, in
    o : stream of `score_beat`, out, with scores of `score_bits` = 2 operand_bits + log2(head_dim_max) bits: D products
        of two most negative operands fit

    Latency: `delay` = 6 + multiplier_stages + ceil(log2(S) / levels_per_stage) cycles, one more if head_dim_max > S,
    from the transfer of a key beat to the valid of the score beat that it fills.
    Throughput: a key beat every cycle, across rows and head dimensions, so also one row per cycle where rows are that
    short. A query is needed one cycle before the first key of its row.

    Nothing in the arithmetic stalls. Each score beat has a place in the queue at the output before its keys are let in,
    so `i_key.ready` is an AND of registers and `o.ready` reaches only counters.

    Source: SpAtten (HPCA 2021) section IV-C: 512 multipliers, adder tree reconfigured by D.
    """

    def __init__(
        self,
        *,
        multipliers: int,
        lanes: int,
        slice_width: int,
        operand_bits: int,
        head_dim_max: int,
        header: ShapeLike,
        head_dim_min: int = HEAD_DIMS[0],
        spare: int = 0,
        multiplier_stages: int = 1,
        levels_per_stage: int = 2,
    ) -> None:
        for name, value in (("multipliers", multipliers), ("lanes", lanes), ("slice_width", slice_width)):
            check_power_of_two(name, value)
        check_integer("operand_bits", operand_bits, 2)
        check_integer("head_dim_max", head_dim_max)
        if head_dim_max not in HEAD_DIMS:
            raise ValueError(f"head_dim_max must be one of {HEAD_DIMS}, not {head_dim_max!r}")
        check_head_dim_min(head_dim_min, head_dim_max)
        if not HEAD_DIMS[0] <= slice_width <= multipliers:
            raise ValueError(f"slice_width must be {HEAD_DIMS[0]} to multipliers = {multipliers}, not {slice_width!r}")
        if lanes * slice_width < multipliers:
            raise ValueError(
                f"lanes must be at least multipliers / slice_width = {multipliers // slice_width}, not {lanes!r}"
            )
        check_integer("spare", spare, 0)
        check_integer("multiplier_stages", multiplier_stages, 1, 3)
        check_integer("levels_per_stage", levels_per_stage, 1)
        check_shape("header", header)
        self.multipliers = multipliers
        self.lanes = lanes
        self.slice_width = slice_width
        self.operand_bits = operand_bits
        self.head_dim_max = head_dim_max
        self.head_dim_min = head_dim_min
        self.header = header
        self.spare = spare
        self.multiplier_stages = multiplier_stages
        self.levels_per_stage = levels_per_stage
        self.slices = multipliers // slice_width
        self.head_dims = tuple(dim for dim in HEAD_DIMS if head_dim_min <= dim <= head_dim_max)
        self.score_bits = 2 * operand_bits + exact_log2(head_dim_max)
        self._accumulates = head_dim_max > slice_width
        # Parameters that all slices have in common; the slices are made when the array elaborates.
        self._slice: dict[str, Any] = {
            "width": slice_width,
            "operand_bits": operand_bits,
            "taps": {dim: self._keys_per_slice(dim) for dim in self.head_dims if dim < slice_width},
            "multiplier_stages": multiplier_stages,
            "levels_per_stage": levels_per_stage,
        }
        self._slice_delay = 1 + multiplier_stages + -(-exact_log2(slice_width) // levels_per_stage)
        super().__init__(
            {
                "i_query": In(stream.Signature(query_row(operand_bits=operand_bits, head_dim_max=head_dim_max))),
                "i_key": In(
                    stream.Signature(
                        key_beat(multipliers=multipliers, lanes=lanes, operand_bits=operand_bits, header=header)
                    )
                ),
                "o": Out(stream.Signature(score_beat(lanes=lanes, score_bits=self.score_bits, header=header))),
            }
        )

    def keys_per_beat(self, head_dim: int) -> int:
        """Most keys of a beat, or of a group of beats."""
        return self.slices * self._keys_per_slice(head_dim)

    def beats_per_group(self, head_dim: int) -> int:
        """Beats that a group of keys takes."""
        return max(1, head_dim // self.slice_width)

    @property
    def places(self) -> int:
        """Score beats that may be on their way or wait at the output.

        Full rate needs a place for each cycle from a key beat to its score beat, the queue's two cycles included, and
        two that `room` leaves free. A sender that counts score beats from before `i_key`, and never has more than
        `places` - 2 of them inside, is never held up for want of places.
        """
        return self.delay + 2 + self.spare

    def _keys_per_slice(self, head_dim: int) -> int:
        return max(1, min(self.slice_width // head_dim, self.lanes // self.slices))

    @property
    def _filling_delay(self) -> int:
        """Cycles from a key beat to its score beat's write into the queue: entry, slice, select, add up, pack."""
        return 1 + self._slice_delay + 1 + self._accumulates + 1

    @property
    def delay(self) -> int:
        """Cycles from a key beat to the score beat that it fills."""
        return self._filling_delay + 2

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i_query, "i_query")
        check_stream(m, platform, self.i_key, "i_key")

        # Each score beat is promised a place in the queue before its keys are let in. A promise lasts from when the
        # key beat is in `beat` until the cycle after the score beat has left; `room` leaves a place for the beat in
        # `beat`, and for one more, which it does not know yet.
        m.submodules.queue = queue = Fifo(shape=self.o.payload.shape(), depth=self.places)
        fills = Signal()
        free = Signal(range(self.places + 1), init=self.places)
        room = Signal(init=1)
        leaves = self.o.valid & self.o.ready
        # `room` is whether two will be free: which it is in either case is known before what happens.
        with m.If(fills & ~leaves):
            m.d.sync += [free.eq(free - 1), room.eq(free >= 3)]
        with m.If(leaves & ~fills):
            m.d.sync += [free.eq(free + 1), room.eq(free >= 1)]

        query_waits = Signal()
        takes = Signal()
        m.d.comb += [self.i_key.ready.eq(room & query_waits), takes.eq(self.i_key.valid & self.i_key.ready)]
        queries = self._store_queries(m, query_waits, takes & self.i_key.payload.last)

        # All that is wide is driven from this register, not from the port.
        beat = Signal.like(self.i_key.payload, name="beat", reset_less=True)
        beat_valid = Signal()
        m.d.sync += [beat.eq(self.i_key.payload), beat_valid.eq(takes)]
        control, label, step = self._plan(m, platform, beat, beat_valid)
        m.d.comb += fills.eq(control.fills)

        query = self._query_operands(m, queries, beat, beat_valid, step)
        slices = [QkSlice(**self._slice) for _ in range(self.slices)]
        for n, qk_slice in enumerate(slices):
            assert qk_slice.delay == self._slice_delay
            m.submodules[f"slice{n}"] = qk_slice
            keys = [beat.keys[n * self.slice_width + place] for place in range(self.slice_width)]
            m.d.comb += [Value.cast(qk_slice.query).eq(query), Value.cast(qk_slice.keys).eq(Cat(keys))]

        control, label = self._delay(m, control, label, self._slice_delay, "slice")
        scores = self._select(m, slices, control, label)
        control, label = self._delay(m, control, label, 1, "selected")
        if self._accumulates:
            scores = self._accumulate(m, scores, control)
            control, label = self._delay(m, control, label, 1, "accumulated")
        packed = self._pack(m, scores, control, label)
        control, label = self._delay(m, control, label, 1, "packed")
        m.d.comb += [
            queue.i.valid.eq(control.fills),
            Value.cast(queue.i.payload.scores).eq(Cat(packed)),
            queue.i.payload.count.eq(label.count),
            queue.i.payload.last.eq(label.last),
            Value.cast(queue.i.payload.header).eq(Value.cast(label.header)),
        ]
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        return m

    def _store_queries(self, m: Module, query_waits: Signal, row_ends: Value) -> list[Signal]:
        """Holds the operands of two queries, for rows in turn: while one row runs, the next row's query is taken.

        A query is stored two cycles after its transfer, and read in the cycle after the transfer of a key beat. So
        `query_waits` counts it from the first of these two on, and its place is free from the cycle after its row's
        last beat.
        """
        stored = Signal(range(3))
        turn = Signal()
        accepts = Signal()
        m.d.comb += [
            self.i_query.ready.eq(stored != 2),
            accepts.eq(self.i_query.valid & self.i_query.ready),
            query_waits.eq(stored != 0),
        ]
        m.d.sync += [stored.eq(stored + accepts - row_ends), turn.eq(turn ^ accepts)]
        entering = Signal(len(Value.cast(self.i_query.payload.operands)), name="entering_query", reset_less=True)
        m.d.sync += entering.eq(Value.cast(self.i_query.payload.operands))
        queries = []
        for n in range(2):
            enters = Signal(name=f"query{n}_enters")
            query = Signal(len(entering), name=f"query{n}", reset_less=True)
            m.d.sync += enters.eq(accepts & (turn == n))
            with m.If(enters):
                m.d.sync += query.eq(entering)
            queries.append(query)
        return queries

    def _plan(self, m: Module, platform: Any, beat: Any, valid: Signal) -> tuple[Any, Any, Signal]:
        """What is to be done with a beat: control bits, a label, and its place in its group of beats."""
        control = Signal(
            data.StructLayout({"valid": 1, "starts_sum": 1, "starts_beat": 1, "fills": 1, "writes": self.lanes})
        )
        layout = self.i_key.payload.shape().members
        label = Signal(data.StructLayout({name: layout[name] for name in ("dim", "group", "count", "last", "header")}))
        step = Signal(range(max(self.head_dim_max // self.slice_width, 2)))
        offset = Signal(range(max(self.lanes, 2)))
        next_offset = Signal(range(self.lanes + 1))
        ends_group = Signal()
        completes = Signal()

        last_step = _by_dim(beat.dim, {dim: Const(self.beats_per_group(dim) - 1) for dim in self.head_dims})
        m.d.comb += [
            ends_group.eq(step == last_step),
            completes.eq(valid & ends_group),
            next_offset.eq(offset + (Const(1, 1) << beat.group)),
            control.valid.eq(valid),
            control.starts_sum.eq(valid & ~step.any()),
            control.starts_beat.eq(completes & ~offset.any()),
            control.fills.eq(completes & ((next_offset == self.lanes) | beat.last)),
            control.writes.eq(Mux(completes, Cat(n < beat.count for n in range(self.lanes)) << offset, 0)),
            label.dim.eq(beat.dim),
            label.group.eq(beat.group),
            label.count.eq(offset + beat.count),
            label.last.eq(beat.last),
            Value.cast(label.header).eq(Value.cast(beat.header)),
        ]
        with m.If(valid):
            m.d.sync += step.eq(Mux(ends_group, 0, step + 1))
        with m.If(completes):
            m.d.sync += offset.eq(Mux(control.fills, 0, next_offset))

        if asserts(platform):
            most = _by_dim(beat.dim, {dim: Const(self.keys_per_beat(dim)) for dim in self.head_dims})
            group = Const(1, 1) << beat.group
            full_or_last = (beat.count == group) | beat.last | ~ends_group
            m.d.sync += [
                Assert(
                    ~valid | beat.dim.matches(*(dim_code(dim) for dim in self.head_dims)),
                    "i_key: dim is above head_dim_max or below head_dim_min\n",
                ),
                Assert(~valid | (group <= most), "i_key: more keys than the array takes at this head dimension\n"),
                Assert(~valid | ((beat.count != 0) & (beat.count <= group)), "i_key: count must be 1 to 2**group\n"),
                Assert(~valid | full_or_last, "i_key: fewer than 2**group keys, but not in the row's last group\n"),
                Assert(~valid | ~beat.last | ends_group, "i_key: the row ends within a group of beats\n"),
            ]
        return control, label, step

    def _query_operands(self, m: Module, queries: list[Signal], beat: Any, valid: Signal, step: Signal) -> Value:
        """The query as the keys lie: repeated for each key of a slice, or the part that belongs to this beat."""
        turn = Signal()
        m.d.sync += turn.eq(turn ^ (valid & beat.last))
        row_query = Signal.like(self.i_query.payload.operands, name="row_query")
        m.d.comb += Value.cast(row_query).eq(Mux(turn, queries[1], queries[0]))
        operands = []
        for place in range(self.slice_width):
            operand: Value = row_query[place % self.head_dim_max]
            for dim in self.head_dims:
                if dim <= place < self._keys_per_slice(dim) * dim:
                    operand = Mux(equals(beat.dim, dim_code(dim)), row_query[place % dim], operand)
            for n in range(1, self.head_dim_max // self.slice_width):
                operand = Mux(step == n, row_query[n * self.slice_width + place], operand)
            operands.append(operand)
        return Cat(operands)

    def _delay(self, m: Module, control: Any, label: Any, cycles: int, name: str) -> tuple[Any, Any]:
        """What is to be done, and its label, `cycles` cycles later; a reset leaves nothing to do."""
        return (
            delayed(m, control, cycles, f"{name}_control", is_reset=True),
            delayed(m, label, cycles, f"{name}_label"),
        )

    def _select(self, m: Module, slices: list[QkSlice], control: Any, label: Any) -> list[Signal]:
        """The score of each rank, from the level of the adder trees where groups of D products are added up."""
        scores = []
        for rank in range(self.lanes):
            qk_slice = slices[rank % self.slices]
            place = rank // self.slices
            sums = {
                dim: qk_slice.o if dim >= self.slice_width else getattr(qk_slice, f"o_{dim}")[place]
                for dim in self.head_dims
                if place < self._keys_per_slice(dim)
            }
            value = _by_dim(label.dim, sums) if sums else Const(0)
            score = Signal(signed(self.score_bits), name=f"selected_score{rank}", reset_less=True)
            # A cycle without keys adds zero.
            m.d.sync += score.eq(Mux(control.valid, value, 0))
            scores.append(score)
        return scores

    def _accumulate(self, m: Module, scores: list[Signal], control: Any) -> list[Signal]:
        """Adds partial sums up, where one key takes several beats."""
        sums = []
        for rank, score in enumerate(scores):
            total = Signal(signed(self.score_bits), name=f"sum{rank}", reset_less=True)
            before = Mux(control.starts_sum, 0, total) if rank < self.slices else Const(0)
            m.d.sync += total.eq(before + score)
            sums.append(total)
        return sums

    def _pack(self, m: Module, scores: list[Signal], control: Any, label: Any) -> list[Signal]:
        """Groups of scores put one behind the other until they fill the lanes; zeros in lanes without a score."""
        packed = []
        for lane in range(self.lanes):
            score: Value = scores[lane]
            for group in range(exact_log2(self.lanes)):
                if lane >= 1 << group:
                    score = Mux(equals(label.group, group), scores[lane % (1 << group)], score)
            register = Signal(signed(self.score_bits), name=f"packed_score{lane}", reset_less=True)
            m.d.sync += register.eq(Mux(control.writes[lane], score, Mux(control.starts_beat, 0, register)))
            packed.append(register)
        return packed


def _by_dim(code: Value, values: dict[int, Value]) -> Value:
    """The value for the head dimension with this code; an arbitrary value for a dimension without one."""
    (_, chosen), *others = reversed(values.items())
    for dim, value in others:
        chosen = Mux(equals(code, dim_code(dim)), value, chosen)
    return chosen
