"""Chooses whose probabilities meet their values next, and looks up where these lie."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BITS_CODE, DIM_CODE, block_table
from spatten.hw.control.job_slots import by_slot, row_layout, slot_layout
from spatten.hw.control.row.row_layouts import value_row
from spatten.hw.control.segments import set_windows
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.lib.logic import select
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import value_ring_sectors

__all__ = ["ValueRows"]


class ValueRows(wiring.Component):
    """Takes rows with all of their probabilities and pruned rows in turns, and adds how their values are read.

    A pruned row waits until its block has its space; such blocks come in the order of these rows. If rows of both kinds
    can go, then one of the kind that did not go last goes. Without local pruning there are no pruned rows, and no
    `i_pruned` and `i_block`.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots : in, as of `hw.control.planner.Planner`
    i, i_pruned : streams of `row_layout`, the rows of each kind; `values` of the former is their block
    i_block : stream of entries, the block of each row of `i_pruned`, through a queue of `blocks`
    bases : in, for each value block the sector where it begins
    o : stream of `value_row`, through a skid buffer

    Latency: 2 cycles from a row to `o`. Throughput: a row per cycle.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._prunes = config.has(Feature.PRUNE_VALUES)
        row, entry = row_layout(config), entry_shape(config.blocks)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), config.jobs_in_flight)),
                "i": In(stream.Signature(row)),
                **optional(self._prunes, i_pruned=In(stream.Signature(row)), i_block=In(stream.Signature(entry))),
                "bases": In(data.ArrayLayout(range(value_ring_sectors(config)), config.blocks)),
                "o": Out(stream.Signature(value_row(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        if self._prunes:
            m.submodules.blocks = blocks = Fifo(shape=entry_shape(config.blocks), depth=config.blocks)
        m.submodules.ready = ready = SkidBuffer(shape=value_row(config))
        if self._prunes:
            wiring.connect(m, wiring.flipped(self.i_block), blocks.i)
        wiring.connect(m, ready.o, wiring.flipped(self.o))

        # First the row is chosen, and its job's record looked up.
        pruned_turn, moves, takes_whole, takes_pruned = Signal(), Signal(), Signal(), Signal()
        chosen_row: Value = Value.cast(self.i.payload)
        entry: Value = self.i.payload.values
        takes: Value = takes_whole
        if self._prunes:
            m.d.comb += [
                takes_pruned.eq(self.i_pruned.valid & blocks.o.valid & (pruned_turn | ~self.i.valid)),
                takes_whole.eq(self.i.valid & ~takes_pruned),
                self.i.ready.eq(takes_whole & moves),
                self.i_pruned.ready.eq(takes_pruned & moves),
                blocks.o.ready.eq(takes_pruned & moves),
            ]
            chosen_row = Mux(takes_pruned, self.i_pruned.payload, self.i.payload)
            entry = Mux(takes_pruned, blocks.o.payload, entry)
            takes = takes_whole | takes_pruned
        else:
            m.d.comb += [takes_whole.eq(self.i.valid), self.i.ready.eq(takes_whole & moves)]
        fields = {name: slot_layout(config).members[name] for name in ("head_dim", "value_bits")}
        records = [Cat(self.slots[n][name] for name in fields) for n in range(config.jobs_in_flight)]
        row, job = Signal(row_layout(config)), Signal(data.StructLayout(fields))
        m.d.comb += [
            row.eq(chosen_row),
            Value.cast(job).eq(by_slot(records, row.slot)),
        ]
        block = block_table(m, config, dim=job.head_dim, bits=job.value_bits, joined=Const(0, 1), name="job_format")
        chosen_valid, chosen_pruned = Signal(), Signal(reset_less=True)
        chosen = Signal(row_layout(config), reset_less=True)
        chosen_entry = Signal(entry_shape(config.blocks), reset_less=True)
        chosen_format = Signal(data.StructLayout({"dim": DIM_CODE, "bits": BITS_CODE, "odd_head": 1}), reset_less=True)
        m.d.comb += moves.eq(~chosen_valid | ready.i.ready)
        with m.If(moves):
            m.d.sync += [
                chosen_valid.eq(takes),
                *([chosen_pruned.eq(takes_pruned)] if self._prunes else []),
                chosen.eq(row),
                chosen_entry.eq(entry),
                chosen_format.dim.eq(job.head_dim),
                chosen_format.bits.eq(job.value_bits),
                chosen_format.odd_head.eq(block.paired & row.head[0]),
            ]
            if self._prunes:
                with m.If(takes):
                    m.d.sync += pruned_turn.eq(takes_whole)

        # Then, how its values lie.
        placed = ready.i.payload
        m.d.comb += [
            ready.i.valid.eq(chosen_valid),
            *([placed.is_pruned.eq(chosen_pruned)] if self._prunes else []),
            placed.row.eq(chosen),
            placed.entry.eq(chosen_entry),
            placed.base.eq(select([self.bases[n] for n in range(config.blocks)], chosen_entry)),
            placed.dim.eq(chosen_format.dim),
        ]
        set_windows(m, config, placed.windows, segment=chosen_format, joined=Const(0, 1), lsb=Const(0, 1))
        if asserts(platform) and self._prunes:
            self._check_turns(m, blocks.o.valid)
        return m

    def _check_turns(self, m: Module, has_block: Value) -> None:
        """In simulation, asserts that a row of either kind waits for one of the other kind at most."""
        for name, waiting, other in (("whole", self.i, self.i_pruned), ("pruned", self.i_pruned, self.i)):
            can_go = waiting.valid if waiting is self.i else waiting.valid & has_block
            passed = Signal(name=f"{name}_passed")
            m.d.sync += passed.eq(can_go & ~waiting.ready & (passed | other.ready))
            m.d.sync += Assert(
                ResetSignal() | ~passed | ~can_go | ~other.ready, f"a {name} row waits for two of the other kind\n"
            )
