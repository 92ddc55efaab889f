"""The controller of a board's SDRAM: an AXI4 slave in front, the pins of the part behind."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_commands import Command, command, command_pins, give
from spatten.hw.board.sdram_cutter import BurstCutter
from spatten.hw.board.sdram_opener import RowOpener
from spatten.hw.board.sdram_order import PieceOrder
from spatten.hw.board.sdram_pins import PAD_CYCLES, sdram_pins
from spatten.hw.board.sdram_runner import PieceRunner, beat
from spatten.hw.board.sdram_timing import DQ_BITS, MOST_BEATS, SdramTiming
from spatten.hw.board.sdram_upkeep import SdramUpkeep
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.lib.parameters import check_integer
from spatten.hw.memory.axi import Response, axi4

__all__ = ["Sdram"]

_ROOM = 2 * MOST_BEATS
"""Words that wait for R, and words that wait to be written: two of the longest bursts, and one block RAM each."""
_WORD_SIZE = 1
_INCR = 1


class Sdram(wiring.Component):
    """Reads and writes an SDRAM of 16 bits for an AXI4 master.

    Bursts are INCR and of whole words (size 1), up to 256 beats; strobes are any. Reads come in the order of AR,
    responses in the order of AW; reads and writes pass each other, but a read that is asked for after the response of
    a write sees what was written. A burst beyond the part's memory is answered with DECERR: nothing is written, and
    what is read means nothing.

    A burst is cut where a row ends (`sdram_cutter`). The next piece is chosen while one is carried out
    (`sdram_order`), and its row is opened behind it (`sdram_opener`), in the cycles between the commands of the other
    (`sdram_runner`). Rows stay open until another one of the bank is wanted. A write begins when all of its data have
    come, a read when there is room for it: R, W and B may be stalled for any time, and only what was asked for on the
    same channel waits.

    Parameters
    ----------
    timing : SdramTiming
        The part's timings in cycles of the domain "sync".
    address_bits : int
        Width of a byte address, at least that of the part.
    id_bits : int

    Ports
    -----
    axi : the slave's side of `hw.memory.axi.axi4` with 16 data bits
    pins : `sdram_pins`, for pads with a register each way (`sdram_pins.SdramPads`); all of them come from registers,
        and `dq_i` goes to a block RAM only
    is_ready : out, set from the end of the part's initialisation on
    warm : in, the part was initialised before this reset; does not change between the reset and `is_ready`

    Latency: from AR to R 10 + cas_latency cycles, if the row is open and nothing else waits; t_rcd - 1 more if the bank
    is closed, t_rp + t_rcd - 1 more if it has another row. Throughput: a word per cycle while the row of the next piece
    can be opened behind the one that is carried out.

    A reset that is not that of the power supply is a `warm` one, and keeps the part's contents if it is short: the
    part is not refreshed in it. Then all banks are closed and a batch of rows is refreshed, without `power_up` before.
    """

    def __init__(self, *, timing: SdramTiming, address_bits: int = 40, id_bits: int = 1) -> None:
        if not isinstance(timing, SdramTiming):
            raise TypeError(f"timing must be an SdramTiming, not {timing!r}")
        check_integer("address_bits", address_bits, timing.part.byte_bits, 64)
        self.timing = timing
        self.address_bits = address_bits
        self.id_bits = id_bits
        super().__init__(
            {
                "axi": In(axi4(address_bits, DQ_BITS, id_bits)),
                "pins": Out(sdram_pins()),
                "is_ready": Out(1),
                "warm": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        timing, id_bits = self.timing, self.id_bits
        m.submodules.order = order = PieceOrder(part=timing.part, id_bits=id_bits, room=_ROOM)
        m.submodules.opener = opener = RowOpener(timing=timing, id_bits=id_bits)
        m.submodules.runner = runner = PieceRunner(timing=timing, id_bits=id_bits)
        m.submodules.upkeep = upkeep = SdramUpkeep(timing=timing)
        for prefix, pieces in (("ar", order.reads), ("aw", order.writes)):
            cutter = BurstCutter(part=timing.part, address_bits=self.address_bits, id_bits=id_bits)
            m.submodules[f"{prefix}_cutter"] = cutter
            m.d.comb += [
                cutter.i.valid.eq(getattr(self.axi, f"{prefix}valid")),
                getattr(self.axi, f"{prefix}ready").eq(cutter.i.ready),
                cutter.i.payload.address.eq(getattr(self.axi, f"{prefix}addr")),
                cutter.i.payload.more.eq(getattr(self.axi, f"{prefix}len")),
                cutter.i.payload.id.eq(getattr(self.axi, f"{prefix}id")),
            ]
            wiring.connect(m, cutter.o, pieces)
            if asserts(platform):
                is_word = getattr(self.axi, f"{prefix}size") == _WORD_SIZE
                is_incr = getattr(self.axi, f"{prefix}burst") == _INCR
                m.d.sync += Assert(
                    ~cutter.i.valid | (is_word & is_incr), f"{prefix}: not INCR, or not of whole words\n"
                )
        wiring.connect(m, order.o, opener.i)
        wiring.connect(m, opener.o, runner.i)
        m.d.comb += [
            opener.takes_slot.eq(runner.takes_slot),
            opener.runs.eq(runner.runs),
            opener.run_bank.eq(runner.bank),
            opener.writes.eq(runner.runs & runner.is_write),
            opener.holds.eq(upkeep.wants),
            opener.closes.eq(upkeep.closes),
            upkeep.warm.eq(self.warm),
            upkeep.grant.eq(~runner.runs & opener.may_close),
        ]
        with m.If(~upkeep.wants):
            m.d.sync += self.is_ready.eq(1)
        self._command(m, runner, opener, upkeep)
        self._read(m, runner, order)
        self._write(m, runner, order)
        return m

    def _command(self, m: Module, runner: PieceRunner, opener: RowOpener, upkeep: SdramUpkeep) -> None:
        """The command of each cycle, from whoever gives one, into the registers of its pins."""
        chosen = Signal(command)
        m.d.comb += give(chosen, Command.NOP, bank=runner.bank, address=0)
        with m.If(runner.takes_slot):
            m.d.comb += chosen.eq(runner.command)
        with m.Elif(opener.gives):
            m.d.comb += chosen.eq(opener.command)
        with m.Elif(upkeep.wants):
            m.d.comb += chosen.eq(upkeep.o)
        pins = self.pins
        code = Signal(3, init=Command.NOP)
        bank, address = Signal.like(pins.ba, reset_less=True), Signal.like(pins.a, reset_less=True)
        m.d.sync += [code.eq(chosen.code), bank.eq(chosen.bank), address.eq(chosen.address)]
        m.d.comb += [pins.cke.eq(1), pins.cs_n.eq(0), command_pins(pins).eq(code), pins.ba.eq(bank), pins.a.eq(address)]

    def _read(self, m: Module, runner: PieceRunner, order: PieceOrder) -> None:
        """What is known of each word that is read waits for the word; both go to R through a queue with room for
        them."""
        stages = 1 + self.timing.cas_latency + PAD_CYCLES
        comes, known = runner.runs & ~runner.is_write, runner.beat
        for number in range(stages):
            next_comes = Signal(name=f"comes{number}")
            next_known = Signal(beat(self.id_bits), name=f"known{number}", reset_less=True)
            m.d.sync += [next_comes.eq(comes), next_known.eq(known)]
            comes, known = next_comes, next_known
        words = Fifo(shape=data.StructLayout({"beat": beat(self.id_bits), "word": unsigned(DQ_BITS)}), depth=_ROOM)
        m.submodules.words = words
        axi, leaving = self.axi, words.o.payload
        m.d.comb += [
            words.i.valid.eq(comes),
            words.i.payload.beat.eq(known),
            words.i.payload.word.eq(self.pins.dq_i),
            axi.rvalid.eq(words.o.valid),
            words.o.ready.eq(axi.rready),
            axi.rdata.eq(leaving.word),
            axi.rid.eq(leaving.beat.id),
            axi.rlast.eq(leaving.beat.is_last),
            axi.rresp.eq(Mux(leaving.beat.is_outside, Response.DECERR, Response.OKAY)),
            order.read_leaves.eq(axi.rvalid & axi.rready),
        ]

    def _write(self, m: Module, runner: PieceRunner, order: PieceOrder) -> None:
        """Data wait in a queue until their burst is complete; its last word gives the response."""
        axi, pins = self.axi, self.pins
        word = data.StructLayout({"data": unsigned(DQ_BITS), "strobes": DQ_BITS // 8})
        m.submodules.waiting = waiting = Fifo(shape=word, depth=_ROOM)
        answer = data.StructLayout({"id": unsigned(self.id_bits), "is_outside": 1})
        m.submodules.answers = answers = SkidBuffer(shape=answer)
        writes = Signal()
        m.d.comb += [
            writes.eq(runner.runs & runner.is_write),
            waiting.i.valid.eq(axi.wvalid),
            waiting.i.payload.data.eq(axi.wdata),
            waiting.i.payload.strobes.eq(axi.wstrb),
            axi.wready.eq(waiting.i.ready),
            order.data_ends.eq(axi.wvalid & axi.wready & axi.wlast),
            waiting.o.ready.eq(writes),
            answers.i.valid.eq(writes & runner.beat.is_last),
            answers.i.payload.id.eq(runner.beat.id),
            answers.i.payload.is_outside.eq(runner.beat.is_outside),
            axi.bvalid.eq(answers.o.valid),
            answers.o.ready.eq(axi.bready),
            axi.bid.eq(answers.o.payload.id),
            axi.bresp.eq(Mux(answers.o.payload.is_outside, Response.DECERR, Response.OKAY)),
            order.answer_leaves.eq(axi.bvalid & axi.bready),
        ]
        # Behind a write the masks stay set: the part may take a word that nobody sends, up to the next command.
        masks, outputs = Signal(DQ_BITS // 8, init=-1), Signal(DQ_BITS, reset_less=True)
        drives = Signal()
        m.d.sync += [
            masks.eq(Mux(runner.is_write, -1, 0)),
            outputs.eq(waiting.o.payload.data),
            drives.eq(writes),
        ]
        with m.If(writes & ~runner.beat.is_outside):
            m.d.sync += masks.eq(~waiting.o.payload.strobes)
        m.d.comb += [pins.dqm.eq(masks), pins.dq_o.eq(outputs), pins.dq_oe.eq(drives)]
