"""A job's bitmaps: fetched, and handed to the token importance unit line by line."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job_layouts import flag_of, job_layout
from spatten.hw.control.plan.plan_layouts import members_request
from spatten.hw.control.saved.state_layouts import layouts
from spatten.spec.config import Config
from spatten.spec.job import Flag
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["MemberLines"]


class MemberLines(wiring.Component):
    """Which tokens of a sequence have keys and values, and which are pinned, in lines of `topk_lanes` tokens.

    The job names two bitmaps in memory, each a row of one bit per token. Without the first all tokens of the sequence
    have keys and values, without the second none is pinned.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, job : in, the job that starts, and how far it is: in ASK a bitmap is asked for, in ROW it comes, in LINES the
        lines leave
    has_kv_sector, pinned_sector : in, where the bitmaps lie
    wants_pinned : in, the bitmap that is asked for, or comes, is that of pinned tokens
    lines : out, how many lines are to leave: from the cycle after SHAPE on all of the job's
    o_rows : stream of `members_request`, i_rows : stream of the bitmaps, to and from the sector reader
    o : stream of lines (`members` of `hw.datapath.token_importance.Layouts`)

    Latency: none to `o_rows`; one line per cycle.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        sector = unsigned(config.sector_bits)
        super().__init__(
            {
                "step": In(StartStep),
                "job": In(job_layout(config)),
                "has_kv_sector": In(sector),
                "pinned_sector": In(sector),
                "wants_pinned": In(1),
                "lines": Out(range(config.tokens_max // config.topk_lanes + 1)),
                "o_rows": Out(stream.Signature(members_request(config))),
                "i_rows": In(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                "o": Out(stream.Signature(layouts(config).members)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, job = self.config, self.job
        lanes = config.topk_lanes
        lane_bits = ceil_log2(lanes)
        request = self.o_rows.payload
        m.d.comb += [
            request.sectors.eq((job.keys + (SECTOR_BITS - 1)) >> ceil_log2(SECTOR_BITS)),
            request.sector.eq(Mux(self.wants_pinned, self.pinned_sector, self.has_kv_sector)),
            request.rows.eq(1),
        ]
        has_kv = Signal(config.tokens_max, reset_less=True)
        pinned = Signal(config.tokens_max, reset_less=True)
        lines_left = Signal(self.lines.shape(), reset_less=True)
        some_left = Signal(reset_less=True)
        m.d.comb += self.lines.eq(lines_left)
        # How many tokens of the sequence are in this line and in those behind it.
        unlisted = Signal(range(config.tokens_max + 1), reset_less=True)
        whole_line = unlisted[lane_bits:].any()
        valid_lanes = Cat(*(whole_line | (unlisted[:lane_bits] > n) for n in range(lanes - 1)), whole_line)
        m.d.comb += [
            self.o.payload.live.eq(Mux(flag_of(self.config, job.flags, Flag.HAS_KV), has_kv[:lanes], -1) & valid_lanes),
            self.o.payload.pinned.eq(Mux(flag_of(self.config, job.flags, Flag.PINNED), pinned[:lanes], 0)),
        ]
        with m.Switch(self.step):
            with m.Case(StartStep.SHAPE):
                m.d.sync += [
                    unlisted.eq(job.valid_length),
                    lines_left.eq((job.keys + (lanes - 1)) >> lane_bits),
                    some_left.eq(job.keys.any()),
                ]
            with m.Case(StartStep.ASK):
                m.d.comb += self.o_rows.valid.eq(1)
            with m.Case(StartStep.ROW), m.If(self.i_rows.valid):
                m.d.comb += self.i_rows.ready.eq(1)
                with m.If(self.wants_pinned):
                    m.d.sync += pinned.eq(self.i_rows.payload)
                with m.Else():
                    m.d.sync += has_kv.eq(self.i_rows.payload)
            with m.Case(StartStep.LINES):
                m.d.comb += self.o.valid.eq(some_left)
                with m.If(some_left & self.o.ready):
                    m.d.sync += [lines_left.eq(lines_left - 1), some_left.eq(lines_left != 1)]
                    m.d.sync += [has_kv.eq(has_kv >> lanes), pinned.eq(pinned >> lanes)]
                    m.d.sync += unlisted.eq(Mux(whole_line, unlisted - lanes, 0))
        return m
