"""Asks for a block of values for each row under local pruning, when it is known which values the row keeps."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BLOCK, block_table
from spatten.hw.control.job_slots import by_slot, head_shape, slot_layout, slot_shape
from spatten.hw.control.plan.block_plan import BlockPlan
from spatten.hw.control.plan.plan_layouts import block_size_shape, fetches_max, kept_ids, plane_fetch
from spatten.hw.lib.logic import count_ones, equals
from spatten.hw.lib.pipeline import delay_line
from spatten.hw.memory.address_generator import VALUE
from spatten.spec.config import Config

__all__ = ["PrunedWalker"]


class PrunedWalker(wiring.Component):
    """Asks for one block for each row whose kept ids come, and counts the rows of each job that have none yet.

    A job under local pruning has one row a head. Its block has as many rows as the job keeps values, or as it has
    tokens if these are fewer. The next row's block is asked for when all ids of this row have been taken.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, as of `hw.control.planner.Planner`
    kept_valid, kept, kept_taken : in, ids of a row stand there (`kept_ids`), and are taken by the issuer in this cycle
    walk_waits : in, another request has been made and must stand, so this walker does not ask
    asks : out, a block is wanted; the outputs stand until the block is granted
    accepts : in, a request that is made in this cycle is taken
    granted : in, the wanted block has its space
    slot, count, size, stride : out, of the block its job, its rows, its sectors in a lane, and those of a block row
    fetches : out, as of `hw.control.plan.block_plan.BlockPlan`
    walked_slot : in, the slot of a job; rows_left : out, how many of its rows have no block yet; as many as it has live
        heads from 2 cycles after its start on

    Latency: 4 cycles from the ids to `asks`. Combinational from `walk_waits` to `asks`, `walked_slot` to `rows_left`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self.jobs = config.jobs_in_flight
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), self.jobs)),
                "started": In(range(2 * self.jobs)),
                "kept_valid": In(1),
                "kept": In(kept_ids(config)),
                "kept_taken": In(1),
                "walk_waits": In(1),
                "asks": Out(1),
                "accepts": In(1),
                "granted": In(1),
                "slot": Out(slot_shape(config)),
                "count": Out(range(config.tokens_max + 1)),
                "size": Out(block_size_shape(config)),
                "stride": Out(BLOCK["stride"].shape),
                "fetches": Out(data.ArrayLayout(plane_fetch(config), fetches_max(VALUE))),
                "walked_slot": In(slot_shape(config)),
                "rows_left": Out(range(config.heads_max + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.plan = plan = BlockPlan(config=config, ring=VALUE)
        slot = Signal(slot_shape(config), reset_less=True)
        head = Signal(head_shape(config), reset_less=True)
        job = Signal(slot_layout(config), reset_less=True)
        job_format = block_table(
            m, config, dim=job.head_dim, bits=job.value_bits, joined=Const(0, 1), name="job_format"
        )
        block = Signal(BLOCK, reset_less=True)
        count = Signal(range(config.tokens_max + 1), reset_less=True)
        m.d.sync += [
            Value.cast(job).eq(by_slot(self.slots, slot)),
            count.eq(Mux(job.keep_values < job.live, job.keep_values, job.live)),
        ]
        m.d.comb += [
            plan.job.eq(job),
            plan.block.eq(block),
            plan.head.eq(head),
            plan.rows.eq(count),
            self.slot.eq(slot),
            self.count.eq(count),
            self.size.eq(plan.size),
            self.stride.eq(block.stride),
            self.fetches.eq(plan.fetches),
        ]

        # From a row's first ids until its last ones are taken. The job's record is there in LOAD, the block's format in
        # ADDRESS, and in ASK all that is made of these.
        active = Signal()
        with m.If(self.kept_taken & self.kept.last):
            m.d.sync += active.eq(0)
        with m.FSM(name="walker"):
            with m.State("IDLE"), m.If(self.kept_valid & ~active):
                m.d.sync += [slot.eq(self.kept.slot), head.eq(self.kept.head), active.eq(1)]
                m.next = "READ"
            with m.State("READ"):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += block.eq(job_format)
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.asks.eq(~self.walk_waits)
                with m.If(self.accepts & self.asks):
                    m.next = "WAIT"
            with m.State("WAIT"), m.If(self.granted):
                m.next = "IDLE"
        self._count_rows(m, slot)
        return m

    def _count_rows(self, m: Module, granted_slot: Value) -> None:
        """Counts each slot's rows without a block: a job's live heads when it starts, one less with each block."""
        jobs = range(self.jobs)
        heads_shape = self.rows_left.shape()
        rows_left = [Signal(heads_shape, name=f"rows_left{n}") for n in jobs]
        m.d.comb += self.rows_left.eq(by_slot(rows_left, self.walked_slot))
        # When a job starts its live heads are counted; a cycle later the count is taken over.
        _, started_before, counted_before = delay_line(m, self.started, 2, "started", is_reset=True)
        live_heads = [Signal(heads_shape, name=f"live_heads{n}") for n in jobs]
        counted_slot = counted_before[: len(granted_slot)] if self.jobs > 1 else Const(0, 1)
        for n in jobs:
            m.d.sync += live_heads[n].eq(count_ones(list(self.slots[n].live_heads)))
            with m.If((counted_before != started_before) & equals(counted_slot, n)):
                m.d.sync += rows_left[n].eq(live_heads[n])
            with m.Elif(self.granted & equals(granted_slot, n)):
                m.d.sync += rows_left[n].eq(rows_left[n] - 1)
