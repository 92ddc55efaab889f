"""Rank-ordered memory of the jobs in flight, with the adders that accumulate probabilities into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.logic import gather_or, index_shape, one_hot, select
from spatten.hw.lib.pipeline import delay_line, delayed
from spatten.hw.lib.ram import Ram

__all__ = ["RankMemory", "index_shape", "one_hot", "rank_probs", "rank_word", "store_at"]


def store_at(m: Module, registers: Sequence[Any], index: Value, value: ValueLike) -> None:
    """registers[index] := value, at the end of the cycle."""
    for number, register in enumerate(registers):
        with m.If(one_hot(index, len(registers))[number]):
            m.d.sync += register.eq(value)


def rank_probs(*, prob_bits: int, lanes: int, slots: int) -> data.StructLayout:
    """Probabilities of consecutive ranks, of which `count` are used; `last` on a row's final beat."""
    return data.StructLayout(
        {
            "probs": data.ArrayLayout(prob_bits, lanes),
            "count": range(lanes + 1),
            "last": 1,
            "slot": index_shape(slots),
        }
    )


def rank_word(importance_bits: int) -> data.StructLayout:
    """What is held of a token: its exact sum, one bit wider than an importance, and whether it is pinned."""
    return data.StructLayout({"sum": importance_bits + 1, "pinned": 1})


class RankMemory(wiring.Component):
    """`slots` memories of one word per rank, each of which is either filled, accumulated into, or drained.

    A beat adds its probabilities to the words of P consecutive ranks; a row of beats starts at rank 0. Rows may follow
    each other without a gap, also rows of one beat in one slot: sums that the three beats before have not written yet
    are forwarded. Sums do not saturate: they are exact while a job adds less than 2**importance_bits to a token.

    Each slot has banks of its own, min(P, T) words wide and max(P, T) / min(P, T) of them, so that a beat of P and a
    row of T words are one access each and slots do not disturb each other.

    Parameters
    ----------
    tokens : int
        Ranks of a slot, a power of two.
    prob_bits, importance_bits : int
        Bits of a probability and of an importance.
    prob_lanes, lanes : int
        P, ranks of a beat; T, ranks of a row that is filled or drained. Powers of two.
    slots : int

    Ports
    -----
    i : stream of `rank_probs`, in; always ready
    fills : in, a bit for each slot, at most one set: the slot that `write_*` writes to
    write_enable, write_row, write_words : in, a row of T words
    drains : in, a bit for each slot, at most one set: the slot that `read_*` reads; not before the fifth cycle after
        the transfer of the slot's last beat
    read_enable, read_row : in
    read_words : out, the row, in the cycle after its read; the row holds until the next read, as long as `drains` does

    Latency: a beat's sum is written 4 cycles after its transfer. Throughput: one beat, one row written and one row read
    per cycle, in different slots.
    """

    def __init__(
        self, *, tokens: int, prob_bits: int, importance_bits: int, prob_lanes: int, lanes: int, slots: int
    ) -> None:
        self.tokens = tokens
        self.prob_bits = prob_bits
        self.importance_bits = importance_bits
        self.prob_lanes = prob_lanes
        self.lanes = lanes
        self.slots = slots
        self.word = rank_word(importance_bits)
        row = index_shape(tokens // lanes)
        super().__init__(
            {
                "i": In(stream.Signature(rank_probs(prob_bits=prob_bits, lanes=prob_lanes, slots=slots))),
                "fills": In(slots),
                "write_enable": In(1),
                "write_row": In(row),
                "write_words": In(data.ArrayLayout(self.word, lanes)),
                "drains": In(slots),
                "read_enable": In(1),
                "read_row": In(row),
                "read_words": Out(data.ArrayLayout(self.word, lanes)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        bank_lanes = min(self.prob_lanes, self.lanes)
        banks = max(self.prob_lanes, self.lanes) // bank_lanes
        bank_bits = ceil_log2(banks)
        depth = self.tokens // max(self.prob_lanes, self.lanes)
        bank_width = bank_lanes * self.word.size
        rams = [[Ram(shape=bank_width, depth=max(2, depth)) for _ in range(banks)] for _ in range(self.slots)]

        # Stage 1: the beat in registers, where it goes, and its probabilities without those beyond `count`.
        beat = self.i.payload
        next_number = Signal(index_shape(self.tokens // self.prob_lanes))
        m.d.comb += self.i.ready.eq(1)
        with m.If(self.i.valid):
            m.d.sync += next_number.eq(Mux(beat.last, 0, next_number + 1))
        _, *valid = delay_line(m, self.i.valid, 4, "valid", is_reset=True)
        _, *slot = delay_line(m, beat.slot, 4, "slot")
        _, *number = delay_line(m, next_number, 4, "beat")
        used = [Mux(beat.count > lane, beat.probs[lane], 0) for lane in range(self.prob_lanes)]
        probs = [delayed(m, prob, 3, f"prob{lane}") for lane, prob in enumerate(used)]
        pending = gather_or([Mux(valid[n], one_hot(slot[n], self.slots), 0) for n in range(len(valid))])
        if asserts(platform):
            m.d.sync += Assert(~(pending & self.drains).any(), "a slot is drained while beats are on their way to it\n")

        # Stage 1 reads. `same`: which of the three beats ahead, written too late for this read, have the same words.
        same = [Signal(name=f"same_as_{ahead}_ahead", reset_less=True) for ahead in (1, 2, 3)]
        for ahead in (1, 2, 3):
            matches = valid[ahead] & (slot[ahead] == slot[0]) & (number[ahead] == number[0])
            m.d.sync += same[ahead - 1].eq(matches)

        total = self._sums(m, self._stored_words(m, rams, slot[1], number[1]), same, probs)

        row_words = Value.cast(self.write_words)
        beat_words = Cat(word.as_value() for word in total)
        read_bank: Value = Const(0, 0)
        if self.lanes < self.prob_lanes:
            read_bank = Signal(bank_bits, reset_less=True)
            with m.If(self.read_enable):
                m.d.sync += read_bank.eq(self.read_row[:bank_bits])
        drained: list[Value] = []
        for index, slot_rams in enumerate(rams):
            adds = valid[0] & one_hot(slot[0], self.slots)[index]
            writes = valid[3] & one_hot(slot[3], self.slots)[index]
            for bank, ram in enumerate(slot_rams):
                m.submodules[f"slot{index}_bank{bank}"] = ram
                fill = _Access(self.write_enable, self.write_row, row_words)
                drain = _Access(self.read_enable, self.read_row, Const(0, 0))
                read = _Access(adds, number[0], Const(0, 0))
                write = _Access(writes, number[3], beat_words)
                if self.prob_lanes < self.lanes:
                    read, write = read.of_one_bank(bank, bank_bits), write.of_one_bank(bank, bank_bits)
                    fill = fill.of_all_banks(bank, bank_width)
                else:
                    fill, drain = fill.of_one_bank(bank, bank_bits), drain.of_one_bank(bank, bank_bits)
                    write = write.of_all_banks(bank, bank_width)
                fills, drains = self.fills[index], self.drains[index]
                m.d.comb += [
                    ram.write_enable.eq(Mux(fills, fill.enable, write.enable)),
                    ram.write_address.eq(Mux(fills, fill.row, write.row)),
                    ram.write_data.eq(Mux(fills, fill.words, write.words)),
                    ram.read_enable.eq(Mux(drains, drain.enable, read.enable)),
                    ram.read_address.eq(Mux(drains, drain.row, read.row)),
                ]
            if self.prob_lanes < self.lanes:
                row = Cat(ram.read_data for ram in slot_rams)
            else:
                row = select([ram.read_data for ram in slot_rams], read_bank)
            drained.append(Mux(self.drains[index], row, 0))
        m.d.comb += Value.cast(self.read_words).eq(gather_or(drained))
        return m

    def _sums(self, m: Module, words: Value, same: list[Signal], probs: list[Value]) -> list[Any]:
        """Stage 2 has the word as the beats two and three ahead leave it. Stage 3 adds, to what the beat one ahead left
        if it had the same word. Stage 4 writes the sums, which are returned."""
        read = data.View(data.ArrayLayout(self.word, self.prob_lanes), words)
        stored = [Signal(self.word, name=f"stored{lane}", reset_less=True) for lane in range(self.prob_lanes)]
        total = [Signal(self.word, name=f"total{lane}", reset_less=True) for lane in range(self.prob_lanes)]
        written = [Signal(self.word, name=f"written{lane}", reset_less=True) for lane in range(self.prob_lanes)]
        same_as_ahead = Signal(reset_less=True)
        m.d.sync += same_as_ahead.eq(same[0])
        for lane in range(self.prob_lanes):
            two_ahead, three_ahead = total[lane].as_value(), written[lane].as_value()
            base = data.View(self.word, Mux(same_as_ahead, total[lane].as_value(), stored[lane].as_value()))
            m.d.sync += [
                stored[lane].eq(Mux(same[1], two_ahead, Mux(same[2], three_ahead, read[lane].as_value()))),
                total[lane].sum.eq(base.sum + probs[lane]),
                total[lane].pinned.eq(base.pinned),
                written[lane].eq(total[lane]),
            ]
        return total

    def _stored_words(self, m: Module, rams: list[list[Ram]], slot: Value, number: Value) -> Value:
        """The words that stage 1 has read, in stage 2."""
        if self.prob_lanes < self.lanes:
            bank = number[: ceil_log2(len(rams[0]))]
            return select([select([ram.read_data for ram in slot_rams], bank) for slot_rams in rams], slot)
        return select([Cat(ram.read_data for ram in slot_rams) for slot_rams in rams], slot)


@dataclass(frozen=True)
class _Access:
    """A read or a write of one row of T or P ranks."""

    enable: Value
    row: Value
    words: Value

    def of_one_bank(self, bank: int, bank_bits: int) -> "_Access":
        """What `bank` has to do if a row lies in one bank, whose number is in the row's low bits."""
        return _Access(
            self.enable & one_hot(self.row[:bank_bits], 1 << bank_bits)[bank], self.row[bank_bits:], self.words
        )

    def of_all_banks(self, bank: int, width: int) -> "_Access":
        """What `bank` has to do if a row lies across all banks."""
        return _Access(self.enable, self.row, self.words[bank * width : (bank + 1) * width])
