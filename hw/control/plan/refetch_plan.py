"""Where the keys of a flat row lie in memory, and in what format they are fetched again."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BLOCK, LSB_CODE, PASSES_MAX, PLANE, block_table, plane_table
from spatten.hw.control.job_slots import by_slot, slot_layout
from spatten.hw.control.plan.plan_layouts import flat_row, plane_fetch
from spatten.hw.datapath.progressive import Kind
from spatten.hw.lib.logic import product
from spatten.hw.lib.pipeline import register
from spatten.spec.config import Config

__all__ = ["RefetchPlan"]


class RefetchPlan(wiring.Component):
    """The fetches for the keys of a flat row: of their LSB plane, or of both planes if no scores were stashed.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots : in, as of `hw.control.planner.Planner`
    row : in, `flat_row`, stands while the row is worked on
    loads : in, the format is looked up: in the second cycle of the row, or later
    job : out, the row's job (`slot_layout`), from the second cycle of the row on
    stride : out, sectors of a block row, from the cycle after `loads` on
    fetches : out, array of `plane_fetch`, from two cycles after `loads` on
    needed : out, a bit for each of these: the row's head needs it; at the same time
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        slot = slot_layout(config)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot, config.jobs_in_flight)),
                "row": In(flat_row(config)),
                "loads": In(1),
                "job": Out(slot),
                "stride": Out(BLOCK["stride"].shape),
                "fetches": Out(data.ArrayLayout(plane_fetch(config), PASSES_MAX)),
                "needed": Out(PASSES_MAX),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        job = Signal(slot_layout(self.config), reset_less=True)
        block = Signal(BLOCK, reset_less=True)
        head = self.row.header.head
        is_second_pass = Signal(reset_less=True)
        m.d.sync += is_second_pass.eq(self.row.kind == Kind.SECOND)
        job_format = block_table(
            m,
            self.config,
            dim=job.head_dim,
            bits=Mux(is_second_pass, LSB_CODE, job.key_bits),
            joined=~is_second_pass,
            name="job_format",
        )
        m.d.sync += Value.cast(job).eq(by_slot(self.slots, self.row.header.slot))
        with m.If(self.loads):
            m.d.sync += block.eq(job_format)

        pair = Signal(2)
        m.d.comb += [
            self.job.eq(job),
            self.stride.eq(block.stride),
            pair.eq(Mux(block.paired, Mux(head[0], 2, 1), 1)),
        ]
        msb_plane, lsb_plane = (
            register(m, plane_table(m, self.config, dim=job.head_dim, bits=bits, name=f"{name}_format"), name)
            for name, bits in (("msb_plane", job.key_bits), ("lsb_plane", LSB_CODE))
        )
        needed = Signal(PASSES_MAX, reset_less=True)
        needs = []
        for n in range(PASSES_MAX):
            entry = block.fetch[n]
            fetch = Signal(plane_fetch(self.config), name=f"fetch{n}", reset_less=True)
            first = Signal(fetch.sector.shape(), name=f"first{n}", reset_less=True)
            whole = Signal(plane_fetch(self.config), name=f"whole_fetch{n}")
            plane = Signal(PLANE, name=f"plane{n}")
            # The table of formats says of every plane that is read alone that it is the MSB plane.
            is_lsb = is_second_pass | entry.is_lsb
            m.d.comb += [
                Value.cast(plane).eq(Mux(is_lsb, Value.cast(lsb_plane), Value.cast(msb_plane))),
                # The sector is in two parts, which are added up behind their registers.
                whole.eq(fetch),
                whole.sector.eq(fetch.sector + first),
                self.fetches[n].eq(whole),
            ]
            step = Mux(is_lsb, job.lsb_step, job.key_step)
            plane_row = Mux(plane.paired, head >> 1, head)
            m.d.sync += [
                first.eq(Mux(is_lsb, job.key_lsb, job.key) + entry.first + product(step, plane_row[:1])),
                fetch.sector.eq(product(step, plane_row[1:]) << 1),
                fetch.pitch.eq(plane.sectors),
                fetch.sectors.eq(entry.sectors),
                fetch.place.eq(entry.place),
                fetch.other.eq(is_lsb),
            ]
            needs.append((n < block.passes) & (entry.heads & pair).any())
        m.d.sync += needed.eq(Cat(needs))
        m.d.comb += self.needed.eq(needed)
        return m
