"""What follows from a job's descriptor alone: distances in memory, and how many rows there are if all tokens live."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import plane_table
from spatten.hw.control.job_layouts import flag_of, job_layout
from spatten.hw.control.job_slots import step_bits
from spatten.hw.lib.logic import equals, product
from spatten.spec.config import LSB_BITS, Config
from spatten.spec.job import Flag, Mode
from spatten.spec.row_format import CODE_BITS

__all__ = ["JobSizes", "job_sizes"]


def job_sizes(config: Config) -> data.StructLayout:
    """What `JobSizes` computes.

    dense : the live tokens are 0 to valid_length - 1, whatever the context kept; in generation, the new token is one of
        them
    has_rows : with `dense`, there is a live query row
    rows, reach : with `dense`, number of live query rows, and keys that the longest row sees
    before_queries : sectors from the query of token id 0 to the first query of the job
    query_step, key_step, lsb_step, value_step : sectors from one group of heads of a plane to the next
    """
    tokens = range(config.tokens_max + 1)
    step = unsigned(step_bits(config))
    return data.StructLayout(
        {
            "dense": 1,
            "has_rows": 1,
            "rows": tokens,
            "reach": tokens,
            "before_queries": unsigned(config.sector_bits),
            "query_step": step,
            "key_step": step,
            "lsb_step": step,
            "value_step": step,
        }
    )


class JobSizes(wiring.Component):
    """Computes from a descriptor how its planes lie in memory, and how many rows it has if all of its tokens live.

    Parameters
    ----------
    config : Config

    Ports
    -----
    job : in, `job_layout`
    sizes : out, `job_sizes`

    Latency: `sizes` are those of `job` when it has stood still for a cycle. In the first cycle the sizes that follow
    from the formats are computed, in the second their sums.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__({"job": In(job_layout(config)), "sizes": Out(job_sizes(config))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._steps(m)
        self._rows(m)
        return m

    def _steps(self, m: Module) -> None:
        """Sectors before the queries; and from one group of heads to the next: a group's, rounded up to whole channels,
        and a row more."""
        config, job = self.config, self.job
        channels = config.channels
        for name, bits, rows in (
            ("query", job.query_bits, job.queries),
            ("key", job.key_bits, job.kv_rows),
            ("lsb", Const(CODE_BITS.index(LSB_BITS), job.key_bits.shape()), job.kv_rows),
            ("value", job.value_bits, job.kv_rows),
        ):
            plane = plane_table(m, self.config, dim=job.head_dim, bits=bits, name=f"{name}_plane")
            plane_sectors = Signal(step_bits(config), name=f"{name}_plane_sectors", reset_less=True)
            row_sectors = Signal(4, name=f"{name}_row_sectors", reset_less=True)
            m.d.sync += [plane_sectors.eq(product(rows, plane.sectors)), row_sectors.eq(plane.sectors)]
            channel_bits = ceil_log2(channels)
            whole_channels = Cat(Const(0, channel_bits), (plane_sectors + (channels - 1)) >> channel_bits)
            m.d.comb += self.sizes[f"{name}_step"].eq(whole_channels + row_sectors)
            if name == "query":
                before_queries = Signal(config.sector_bits, reset_less=True)
                m.d.sync += before_queries.eq(product(job.query_offset, plane.sectors))
                m.d.comb += self.sizes.before_queries.eq(before_queries)

    def _rows(self, m: Module) -> None:
        job = self.job
        dense = Signal(reset_less=True)
        rest = Signal(range(self.config.tokens_max + 1), reset_less=True)
        """Tokens of the sequence from the first query on."""
        clears, restarts, has_kv = (
            flag_of(self.config, job.flags, flag) for flag in (Flag.CLEAR, Flag.RESTART, Flag.HAS_KV)
        )
        all_heads_and_tokens = clears | restarts
        generates: Value = equals(job.mode, Mode.GENERATION)
        m.d.sync += [
            dense.eq(all_heads_and_tokens & ~has_kv & (~generates | (job.query_offset < job.valid_length))),
            rest.eq(Mux(job.valid_length > job.query_offset, job.valid_length - job.query_offset, 0)),
        ]
        m.d.comb += [
            self.sizes.dense.eq(dense),
            self.sizes.has_rows.eq(rest.any() & job.queries.any()),
            self.sizes.rows.eq(Mux(rest < job.queries, rest, job.queries)),
            self.sizes.reach.eq(
                Mux(equals(job.mode, Mode.CAUSAL), job.query_offset + self.sizes.rows, job.valid_length)
            ),
        ]
