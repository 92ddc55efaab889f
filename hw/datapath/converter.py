"""From packed sectors of K and V to operands: MSBs and LSBs joined, aligned to the operands' width."""

from collections.abc import Callable
from math import gcd
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from spatten.hw.lib.logic import equals, or_tree, select
from spatten.hw.lib.parameters import check_integer, check_power_of_two, check_shape
from spatten.hw.lib.pipeline import delayed, delayed_valid, register
from spatten.hw.lib.shared import Shared
from spatten.spec.config import HEAD_DIMS, LSB_BITS, PLANE_BITS
from spatten.spec.row_format import CODE_BITS, SECTOR_BITS, RowFormat, row_format

__all__ = ["Converter", "operand_beat", "packed_beat", "part_code", "part_layout"]

_WORD_BITS = 32
"""Unit of shifts. Parts begin at multiples of it: 16 codes are whole words, as a code has an even number of bits."""
_SECTOR_WORDS = SECTOR_BITS // _WORD_BITS
_STEP_CODES = 16
"""Parts of a row begin at multiples of so many codes."""
_FEW_STARTS = 8
"""Most places at which codes can begin for which words are picked, not shifted."""


def part_layout(banks: int) -> data.StructLayout:
    """Where the operands of a beat lie in a window of sectors, and what they are; see `part_code`.

    - `dim`: log2(head dimension) - 4
    - `width`: index into (4, 6, 8, 10, 12, 16) of the bits of a code
    - `unsigned`: codes of 4 bits are those of an LSB plane that is read alone
    - `joined`: each code has its 4 LSBs elsewhere in the window
    - `stride`: sectors of a block row, modulo `banks`; matters only where a slice takes several keys at once
    - `msb_offset`: where the first code begins, in units of 32 bits
    - `lsb_offset`: where the first LSBs begin, in units of 64 bits
    """
    return data.StructLayout(
        {
            "dim": range(len(HEAD_DIMS)),
            "width": range(len(CODE_BITS)),
            "unsigned": 1,
            "joined": 1,
            "stride": range(banks),
            "msb_offset": range(banks * SECTOR_BITS // 32),
            "lsb_offset": range(banks * SECTOR_BITS // 64),
        }
    )


def part_code(row: RowFormat, head: int, beat: int, *, banks: int = 4, is_unsigned: bool = False) -> dict[str, int]:
    """The fields of `part_layout(banks)` for a head and beat of a block row."""
    part = row.parts[head, beat]
    return {
        "dim": HEAD_DIMS.index(row.head_dim),
        "width": CODE_BITS.index(row.bits),
        "unsigned": int(is_unsigned),
        "joined": int(row.joined),
        "stride": row.stride % banks,
        "msb_offset": part.msb_offset // 32,
        "lsb_offset": part.lsb_offset // 64,
    }


def packed_beat(slices: int, banks: int, header: ShapeLike) -> data.StructLayout:
    """A window of sectors for each slice: `words` in the order of the banks, the bank `first` of the window's first
    sector, the `part` that is wanted of it, and a header."""
    words = data.ArrayLayout(data.ArrayLayout(SECTOR_BITS, banks), slices)
    return data.StructLayout({"words": words, "first": range(banks), "part": part_layout(banks), "header": header})


def operand_beat(slices: int, slice_width: int, operand_bits: int, header: ShapeLike) -> data.StructLayout:
    """Operands of all slices, slice 0 first, and the header."""
    operands = data.ArrayLayout(signed(operand_bits), slices * slice_width)
    return data.StructLayout({"operands": operands, "header": header})


class Converter(wiring.Component):
    """Packed sectors to operands: a beat of keys or of values for every slice of an array, in any mix of formats.

    A slice takes `slice_width` operands: a part of one key where the head dimension D is at least that, else the keys
    of consecutive block rows, as many as one window covers, at most `lanes` / `slices`. Operand d of the slice's key n
    is operand n x D + d of the slice. Operands that the format does not deliver mean nothing.

    Keys: a plane's codes as they are, signed or (an LSB plane) unsigned; or MSB x 16 + LSB, which if wider than an
    operand is rounded half up to the operand's width, the top half unit saturating.
    Queries: a plane's codes as they are, signed.
    Values: signed codes, shifted up so that they fill the operand. (Only keys are joined, and only values are shifted,
    so each kind has its own circuit.)

    How: a slice is divided into sub-lanes, runs of operands that are always of one key. Each shifts codes down to
    bit 0, first by whole sectors, of which the window is a rotation, then by 128, 64 and 32 bits. The later steps are
    narrow: only short parts begin off their grid, since a part of n operands begins at a multiple of 2 n bits
    (spec/row_format.py). Then each operand picks its bits by width.

    Parameters
    ----------
    tensor : str
        "query", "key" or "value".
    slices : int
        Slices of the array, each fed by a lane of a ring buffer.
    slice_width : int
        Operands of a slice, a power of two, at least 16.
    lanes : int
        Most keys or values of a beat, a power of two, at least `slices`.
    operand_bits : int
        Width of an operand, 4 to 16. Codes of more bits cannot be converted.
    head_dims, widths : tuple of int
        Head dimensions D that occur, and bits of a code in a plane.
    banks : int
        Sectors that a window can have, a power of two; enough for `slice_width` codes.
    header : shape-like
        What travels with a beat, at least 1 bit.

    Ports
    -----
    i : in, `valid` and `payload`, a `packed_beat`
    o : out, `valid` and `payload`, an `operand_beat`
        Neither port has back-pressure: what is sent must find room behind `o`.

    Latency: `delay` = 2 cycles. Throughput: one beat per cycle.

    Source: SpAtten (HPCA 2021) section IV-E, bitwidth converter; docs/numerics.md, sections 2, 3, 6 and 8.
    """

    delay = 2

    def __init__(
        self,
        *,
        tensor: str,
        slices: int,
        slice_width: int,
        lanes: int,
        operand_bits: int,
        header: ShapeLike,
        head_dims: tuple[int, ...] = HEAD_DIMS,
        widths: tuple[int, ...] = PLANE_BITS,
        banks: int = 4,
    ) -> None:
        if tensor not in ("query", "key", "value"):
            raise ValueError(f"tensor must be 'query', 'key' or 'value', not {tensor!r}")
        numbers = {"slices": slices, "slice_width": slice_width, "lanes": lanes, "operand_bits": operand_bits}
        for name, value in (numbers | {"banks": banks}).items():
            check_integer(name, value)
        check_power_of_two("slices", slices)
        if slice_width < HEAD_DIMS[0] or slice_width & (slice_width - 1):
            raise ValueError(f"slice_width must be a power of two of at least {HEAD_DIMS[0]}, not {slice_width!r}")
        if lanes < slices or lanes & (lanes - 1):
            raise ValueError(f"lanes must be a power of two of at least slices = {slices}, not {lanes!r}")
        if not CODE_BITS[0] <= operand_bits <= CODE_BITS[-1]:
            raise ValueError(f"operand_bits must be {CODE_BITS[0]} to {CODE_BITS[-1]}, not {operand_bits!r}")
        for name, given, known in (("head_dims", head_dims, HEAD_DIMS), ("widths", widths, CODE_BITS)):
            if not given or list(given) != [one for one in known if one in given]:
                raise ValueError(f"{name} must be some of {known}, rising, not {given!r}")
        widths = tuple(bits for bits in widths if bits <= operand_bits)
        formats = [
            row_format(head_dim=head_dim, slice_width=slice_width, bits=bits, joined=joined)
            for head_dim in head_dims
            for bits in widths
            for joined in ([False, True] if tensor == "key" else [False])
        ]
        longest = max(part.sectors for row in formats for part in row.parts.values())
        if banks & (banks - 1) or banks < longest:
            raise ValueError(
                f"banks must be a power of two of at least {1 << (longest - 1).bit_length()}, not {banks!r}"
            )
        check_shape("header", header)
        self.tensor = tensor
        self.slices = slices
        self.slice_width = slice_width
        self.lanes = lanes
        self.operand_bits = operand_bits
        self.head_dims = head_dims
        self.widths = widths
        self.banks = banks
        self.header = header
        self.keys = max(1, min(lanes // slices, slice_width // head_dims[0]))
        packed = packed_beat(slices, banks, header)
        operands = operand_beat(slices, slice_width, operand_bits, header)
        super().__init__(
            {
                "i": In(wiring.Signature({"valid": Out(1), "payload": Out(packed)})),
                "o": Out(wiring.Signature({"valid": Out(1), "payload": Out(operands)})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        beat, result = self.i.payload, self.o.payload
        m.d.comb += [
            self.o.valid.eq(delayed_valid(m, self.i.valid, self.delay, "valid")),
            Value.cast(result.header).eq(delayed(m, Value.cast(beat.header), self.delay, "header")),
        ]
        for index in range(self.slices):
            m.submodules[f"slice{index}"] = part = _Slice(
                tensor=self.tensor,
                width=self.slice_width,
                keys=self.keys,
                operand_bits=self.operand_bits,
                head_dims=self.head_dims,
                widths=self.widths,
                banks=self.banks,
            )
            m.d.comb += [
                part.words.eq(beat.words[index]),
                part.first.eq(beat.first),
                part.part.eq(beat.part),
            ]
            m.d.comb += Value.cast(result.operands).word_select(index, len(Value.cast(part.operands))).eq(part.operands)
        return m


class _Slice(Shared):
    """One slice of a `Converter`, with its own copy of the control, which fans out to every bit."""

    def __init__(
        self,
        *,
        tensor: str,
        width: int,
        keys: int,
        operand_bits: int,
        head_dims: tuple[int, ...],
        widths: tuple[int, ...],
        banks: int,
    ) -> None:
        self._tensor = tensor
        self._width = width
        self._keys = keys
        self._operand_bits = operand_bits
        self._head_dims = head_dims
        self._widths = widths
        self._banks = banks
        super().__init__(
            {
                "words": In(data.ArrayLayout(SECTOR_BITS, banks)),
                "first": In(range(banks)),
                "part": In(part_layout(banks)),
                "operands": Out(data.ArrayLayout(signed(operand_bits), width)),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        part = self.part
        # Words that 16 codes take.
        step = Signal(range(_SECTOR_WORDS + 1))
        m.d.comb += step.eq(self._by_width(part.width, lambda bits: Const(_STEP_CODES * bits // _WORD_BITS)))
        width = register(m, part.width, "width")
        is_unsigned = register(m, part.unsigned, "is_unsigned")

        msb_lanes: list[Value] = []
        lsb_lanes: list[Value] = []
        for lane in self._lanes():
            start = self._start(m, lane, part.msb_offset, step, f"msb{lane.start}_start")
            msb_lanes.append(self._find(m, lane, start, self._widths, f"msb{lane.start}"))
            if self._tensor == "key":
                # LSBs of 16 codes take two words.
                start = self._start(m, lane, Cat(Const(0, 1), part.lsb_offset), Const(2), f"lsb{lane.start}_start")
                lsb_lanes.append(self._find(m, lane, start, (LSB_BITS,), f"lsb{lane.start}"))

        # The operands of all sub-lanes, side by side.
        codes = Signal(len(Value.cast(self.operands)))
        m.d.comb += codes.eq(self._by_width(width, lambda bits: self._codes(msb_lanes, bits, is_unsigned)))
        if self._tensor == "key":
            codes = self._join(m, codes, Cat(lsb_lanes))
        m.d.comb += Value.cast(self.operands).eq(register(m, codes, "operands"))
        return m

    def _by_width(self, code: Value, choose: Callable[[int], Value]) -> Value:
        """`choose(bits)` for the width that `code` stands for."""
        return select({CODE_BITS.index(bits): choose(bits) for bits in self._widths}, code)

    def _lanes(self) -> list[range]:
        """Sub-lanes: runs of operands that are always of one key."""
        firsts = {key * head_dim for key in range(self._keys) for head_dim in self._head_dims}
        starts = [first for first in sorted(firsts) if first < self._width]
        return [range(start, end) for start, end in zip(starts, [*starts[1:], self._width], strict=True)]

    def _has_key(self, lane: range, head_dim: int) -> bool:
        """Whether a sub-lane has operands of any key of that dimension."""
        return lane.start < self._keys * head_dim

    def _start(self, m: Module, lane: range, offset: Value, step: Value, name: str) -> Signal:
        """Word of the sectors, in the order of the banks, at which the codes of a sub-lane begin."""
        places: dict[int, Value] = {}
        for head_dim in self._head_dims:
            key, operand = divmod(lane.start, head_dim)
            place = key * self.part.stride * _SECTOR_WORDS + operand // _STEP_CODES * step
            places[HEAD_DIMS.index(head_dim)] = place if self._has_key(lane, head_dim) else Const(0)
        start = Signal(range(self._banks * _SECTOR_WORDS), name=name)
        place = select(places, self.part.dim) if lane.start else Const(0)
        m.d.comb += start.eq((self.first * _SECTOR_WORDS + offset + place)[: len(start)])
        return start

    def _find(self, m: Module, lane: range, start: Signal, widths: tuple[int, ...], name: str) -> Value:
        """The window's words from `start` on, wrapping at the end, in a register.

        These are as many words as a sub-lane's codes of up to `widths[-1]` bits take. Only starts that can occur are
        served: a part of n operands of b bits begins at a multiple of gcd(n x b, bits of a sector).
        """
        parts = self._parts(lane)
        unit = gcd(*(operands * bits for operands in parts for bits in widths), SECTOR_BITS) // _WORD_BITS
        few = self._banks * _SECTOR_WORDS // unit <= _FEW_STARTS
        words = self._pick(lane, start, widths, unit) if few else self._shift(m, lane, start, widths, name)
        codes: Value = register(m, words, f"{name}_codes")
        return codes

    def _parts(self, lane: range) -> list[int]:
        """Operands that a sub-lane takes of a part, for each head dimension of which it has keys."""
        return [min(head_dim, len(lane)) for head_dim in self._head_dims if self._has_key(lane, head_dim)]

    def _pick(self, lane: range, start: Signal, widths: tuple[int, ...], unit: int) -> Value:
        """The words from `start` on, a multiple of `unit`, as the OR of what each start would give.

        Where starts are few that is fewer LUTs than shifts by halves, and only two of them behind the words, which come
        late from a block RAM.
        """
        words = [
            self.words[n // _SECTOR_WORDS].word_select(n % _SECTOR_WORDS, _WORD_BITS)
            for n in range(self._banks * _SECTOR_WORDS)
        ]
        parts = self._parts(lane)
        chosen: list[Value] = []
        for place in range(max(parts) * widths[-1] // _WORD_BITS):
            # Codes so wide that they reach this word begin on a grid of their own.
            reaching = [
                operands * bits for operands in parts for bits in widths if operands * bits > place * _WORD_BITS
            ]
            grid = gcd(*reaching, SECTOR_BITS) // _WORD_BITS
            chosen.append(
                or_tree(
                    [
                        words[(first + place) % len(words)]
                        & equals(start[exact_log2(unit) :], first // unit).replicate(_WORD_BITS)
                        for first in range(0, len(words), grid)
                    ]
                )
            )
        return Cat(chosen)

    def _shift(self, m: Module, lane: range, start: Signal, widths: tuple[int, ...], name: str) -> Value:
        """The words from `start` on, by shifts by halves of the window, of a half of that, and so on."""
        bits, grid = widths[-1], gcd(*widths)
        parts = self._parts(lane)

        def reach(levels: int, finest: int) -> int:
            """Words that are wanted of the parts which begin at a multiple of 2**`finest` words or of less, while
            there are still shifts by less than 2**`levels` words to come."""
            most = 0
            for operands in parts:
                unit = min(grid * operands, SECTOR_BITS) // _WORD_BITS
                if unit <= 1 << finest:
                    later = sum(1 << level for level in range(levels) if 1 << level >= unit)
                    most = max(most, operands * bits // _WORD_BITS + later)
            return most

        words: Value = Value.cast(self.words)
        for level in reversed(range(len(start))):
            before = len(words) // _WORD_BITS
            used = min(before, reach(level, len(start)))
            moved = min(used, reach(level, level))
            if moved == 0:
                continue
            shift = 1 << level
            around = Cat(words[shift * _WORD_BITS :], words[: shift * _WORD_BITS])
            after = Signal(used * _WORD_BITS, name=f"{name}_by{shift}")
            split = moved * _WORD_BITS
            m.d.comb += after.eq(Cat(Mux(start[level], around[:split], words[:split]), words[split : len(after)]))
            words = after
        return words

    def _codes(self, shifted: list[Value], bits: int, is_unsigned: Value) -> Value:
        """Codes of `bits` bits as operands: sign-extended, or for values shifted up to the operand's width."""
        space = self._operand_bits - bits
        operands: list[Value] = []
        for lane, codes in zip(self._lanes(), shifted, strict=True):
            for d in range(len(lane)):
                code = codes.word_select(d, bits)
                if self._tensor == "value":
                    operands.append(Cat(Const(0, space), code))
                else:
                    may_be_lsbs = self._tensor == "key" and bits == LSB_BITS
                    sign = code[-1] & ~is_unsigned if may_be_lsbs else code[-1]
                    operands.append(Cat(code, sign.replicate(space)))
        return Cat(operands)

    def _join(self, m: Module, msbs: Value, lsbs: Value) -> Signal:
        """Operands: MSBs as they are where they come alone, or MSB x 16 + LSB, rounded, where LSBs join them."""
        bits = self._operand_bits
        # Bits by which MSBs move up: fewer than 4 where MSB and LSB are wider than an operand, and so are rounded.
        moves = {code: min(LSB_BITS, bits - code) for code in self._widths}
        distinct = sorted(set(moves.values()))
        which = self._by_width(self.part.width, lambda code: Const(1 + distinct.index(moves[code])))
        move = register(m, Mux(self.part.joined, which, 0), "move")

        pairs = [(msbs.word_select(d, bits), lsbs.word_select(d, LSB_BITS)) for d in range(self._width)]
        floors: list[Value] = [msbs]
        halves: list[Value] = [Const(0, self._width)]
        for n in distinct:
            floors.append(Cat(Cat(lsb[LSB_BITS - n :], msb[: bits - n]) for msb, lsb in pairs))
            halves.append(Cat(lsb[LSB_BITS - n - 1] for _, lsb in pairs) if n < LSB_BITS else halves[0])
        floor = Signal(len(msbs))
        half = Signal(self._width)
        m.d.comb += [floor.eq(select(floors, move)), half.eq(select(halves, move))]
        operands = Signal(len(msbs), name="rounded")
        top = (1 << bits - 1) - 1
        for d in range(self._width):
            below = floor.word_select(d, bits)
            m.d.comb += operands.word_select(d, bits).eq(below + (half[d] & (below != top)))
        return operands
