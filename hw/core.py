"""The core: every unit of the datapath, joined (SpAtten Fig. 8), between a queue of jobs and the memory channels."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw import instances
from spatten.hw.control.job_layouts import events_layout, job_layout, report_layout
from spatten.hw.control.plan.plan_layouts import SectorClass
from spatten.hw.lib.connections import by_member, pass_on
from spatten.hw.memory.address_generator import BANKS, KEY, QUERY, VALUE, goes_to
from spatten.hw.memory.axi import sector_write
from spatten.spec.config import Config, Feature
from spatten.spec.constants import STASH_SLOTS

__all__ = ["Core"]


class Core(wiring.Component):
    """Runs attention layers: jobs in, reports out, sectors from and to the memory channels.

    docs/architecture.md follows a query through the core. This class only wires the units of `hw.instances` together;
    units that only a feature needs (`spec.config.Feature`) are there only with it.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i_job : stream of `hw.control.job_layouts.job_layout`; o_report : stream of `report_layout` there
    o_address : C streams of local sector addresses; i_data : C streams of their sectors, in order
    o_write : C streams of `hw.memory.axi.sector_write`
    acknowledged : in, for each channel how many sectors it has written to memory, modulo 65,536
    events : out, `hw.control.job_layouts.events_layout`
    nothing_live : out, a job has no live token, head or query row; this stays set, and the core does nothing more
    busy : out, a job is under way; activity : out, data move in this cycle
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self._prunes_values = config.has(Feature.PRUNE_VALUES)
        self._prunes_heads = config.has(Feature.PRUNE_HEADS)
        self._saves = config.has(Feature.SAVED_STATES)
        channels = config.channels
        super().__init__(
            {
                "i_job": In(stream.Signature(job_layout(config))),
                "o_report": Out(stream.Signature(report_layout(config))),
                "o_address": Out(stream.Signature(unsigned(config.local_sector_bits))).array(channels),
                "i_data": In(stream.Signature(unsigned(256))).array(channels),
                "o_write": Out(stream.Signature(sector_write(config.local_sector_bits))).array(channels),
                "acknowledged": In(data.ArrayLayout(16, channels)),
                "events": Out(events_layout(config)),
                "nothing_live": Out(1),
                "busy": Out(1),
                "activity": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._units(m)
        self._jobs(m)
        self._states(m)
        self._fetches(m)
        self._windows(m)
        self._scores(m)
        if self._recomputes:
            self._flat_rows(m)
        self._probabilities(m)
        self._outputs(m)
        self._watch(m)
        return m

    def _units(self, m: Module) -> None:
        config = self.config
        m.submodules.job_control = self.jobs = instances.job_control(config)
        m.submodules.planner = self.planner = instances.planner(config)
        m.submodules.sector_reader = self.sector_reader = instances.sector_reader(config)
        if self._saves:
            m.submodules.saved_states = self.states = instances.saved_states(config)
        m.submodules.row_control = self.row_control = instances.row_control(config)
        m.submodules.query_reader = self.query_reader = instances.query_reader(config)
        m.submodules.fetch = self.fetch = instances.fetch(config)
        m.submodules.query_ring = self.query_ring = instances.query_ring(config)
        m.submodules.key_ring = self.key_ring = instances.key_ring(config)
        m.submodules.value_ring = self.value_ring = instances.value_ring(config)
        m.submodules.key_reader = self.key_reader = instances.key_reader(config)
        m.submodules.key_converter = self.key_converter = instances.key_converter(config)
        m.submodules.qk = self.qk = instances.qk(config)
        if self._recomputes:
            m.submodules.progressive = self.progressive = instances.progressive(config)
        m.submodules.softmax = self.softmax = instances.softmax(config)
        m.submodules.prob_router = self.prob_router = instances.prob_router(config)
        if self._prunes_values:
            m.submodules.widen = self.widen = instances.widen(config)
            m.submodules.value_topk = self.value_topk = instances.value_topk(config)
            m.submodules.local_values = self.local_values = instances.local_values(config)
        m.submodules.value_reader = self.value_reader = instances.value_reader(config)
        m.submodules.value_converter = self.value_converter = instances.value_converter(config)
        m.submodules.pv = self.pv = instances.pv(config)
        m.submodules.output_router = self.output_router = instances.output_router(config)
        m.submodules.output_packer = self.packer = instances.output_packer(config)
        if self._saves:
            m.submodules.write_merger = self.write_merger = instances.write_merger(config)
        m.submodules.token_importance = self.tokens = instances.token_importance(config)
        if self._prunes_heads:
            m.submodules.head_importance = self.heads = instances.head_importance(config)
        m.submodules.token_topk = self.token_topk = instances.token_topk(config)

    def _jobs(self, m: Module) -> None:
        """Jobs, their records, and what decides who is live and who stays."""
        jobs, tokens, topk = self.jobs, self.tokens, self.token_topk
        connect = wiring.connect
        connect(m, wiring.flipped(self.i_job), jobs.i_job)
        connect(m, jobs.o_report, wiring.flipped(self.o_report))
        for unit in (self.planner, self.row_control, self.value_reader, self.output_router):
            m.d.comb += unit.slots.eq(jobs.slots)
        m.d.comb += [
            self.nothing_live.eq(jobs.nothing_live),
            self.busy.eq(jobs.busy),
            self.planner.started.eq(jobs.started),
            self.planner.live_write.eq(jobs.live_write),
            self.row_control.started.eq(jobs.started),
            self.row_control.scale.eq(jobs.scale),
            *(by_member(jobs.heads_done, self.heads.done) if self._prunes_heads else []),
        ]
        connect(m, jobs.o_gather, tokens.i_gather)
        connect(m, jobs.o_lines, tokens.i_members)
        connect(m, tokens.o_live, jobs.i_live)
        connect(m, tokens.o_gathered, jobs.i_gathered)
        connect(m, jobs.o_scatter, tokens.i_scatter)
        connect(m, tokens.o_candidates, jobs.i_candidates)
        connect(m, jobs.o_kept, tokens.i_kept)
        connect(m, tokens.o_scattered, jobs.i_scattered)
        if self._prunes_heads:
            connect(m, jobs.o_access, self.heads.i_access)
            connect(m, self.heads.o_access, jobs.i_access)
        connect(m, jobs.o_topk, topk.i)
        connect(m, topk.o, jobs.i_topk)

    def _states(self, m: Module) -> None:
        """Bitmaps and saved states from memory, and saved states to memory."""
        jobs, reader, planner = self.jobs, self.sector_reader, self.planner
        connect = wiring.connect
        connect(m, jobs.o_rows, reader.i)
        connect(m, reader.o_request, planner.i_members)
        connect(m, planner.o_members, reader.i_block)
        if not self._saves:
            connect(m, reader.o, jobs.i_rows)
            m.d.comb += reader.arrived.eq(planner.arrived_query)
            return
        states = self.states
        connect(m, reader.o, states.i_rows)
        connect(m, states.o_bitmaps, jobs.i_rows)
        connect(m, jobs.o_load, states.i_load)
        connect(m, states.o_request, jobs.load_rows)
        connect(m, jobs.o_store, states.i_store)
        connect(m, states.o_access, self.tokens.i_access)
        connect(m, self.tokens.o_access, states.i_access)
        connect(m, states.o, self.write_merger.i_state)
        m.d.comb += [
            reader.arrived.eq(planner.arrived_query),
            jobs.i_loaded.eq(states.loaded),
            states.stored.eq(jobs.store_heads),
        ]

    def _fetches(self, m: Module) -> None:
        """Sectors from memory into the rings."""
        planner, fetch = self.planner, self.fetch
        wiring.connect(m, planner.o, fetch.i)
        m.d.comb += planner.completed.eq(fetch.completed)
        for channel in range(self.config.channels):
            wiring.connect(m, fetch.o_address[channel], wiring.flipped(self.o_address[channel]))
            wiring.connect(m, wiring.flipped(self.i_data[channel]), fetch.i_data[channel])
        for code, ring in ((QUERY, self.query_ring), (KEY, self.key_ring), (VALUE, self.value_ring)):
            # The planner has one width for the places of all rings.
            pass_on(m, planner.o_allocate[code], ring.i_allocate)
            pass_on(m, ring.o_block, planner.i_block[code])
            pass_on(m, planner.o_free[code], ring.i_free)
            for lane, ports in enumerate(ring.write):
                for bank, port in enumerate(ports):
                    write = fetch.write[lane * BANKS + bank]
                    enable = write.enable & goes_to(write.ring, code)
                    m.d.comb += by_member(port, write, enable=enable, address=write.word)

    def _windows(self, m: Module) -> None:
        """Windows of the rings, as their readers ask for them, to the converters and the arrays."""
        planner, query_ring = self.planner, self.query_ring
        queries, rows, keys, values = self.query_reader, self.sector_reader, self.key_reader, self.value_reader
        connect = wiring.connect
        connect(m, queries.o_read, query_ring.i_query)
        connect(m, query_ring.o_query, queries.i_window)
        connect(m, rows.o_read, query_ring.i_rows)
        connect(m, query_ring.o_rows, rows.i_window)
        connect(m, rows.used, query_ring.i_rows_used)
        connect(m, keys.o_read, self.key_ring.i_read)
        connect(m, values.o_read, self.value_ring.i_read)
        m.d.comb += [
            query_ring.query_used.eq(queries.used),
            planner.uses[QUERY].eq(query_ring.used),
            planner.uses[KEY].eq(keys.used),
            planner.uses[VALUE].eq(values.used),
        ]
        window, converter = self.key_ring.o_read, self.key_converter
        tags = window.payload.header
        m.d.comb += [
            converter.i.valid.eq(window.valid),
            *by_member(converter.i.payload, window.payload, part=tags.part, header=tags),
            self.qk.i_key.valid.eq(converter.o.valid),
            *by_member(
                self.qk.i_key.payload,
                converter.o.payload.header,
                keys=converter.o.payload.operands,
                header=converter.o.payload.header.scores,
            ),
        ]
        window, converter = self.value_ring.o_read, self.value_converter
        m.d.comb += [
            converter.i.valid.eq(window.valid),
            *by_member(converter.i.payload, window.payload, part=window.payload.header, header=0),
            self.pv.i_value.valid.eq(converter.o.valid),
            self.pv.i_value.payload.values.eq(converter.o.payload.operands),
        ]

    def _scores(self, m: Module) -> None:
        """Blocks to segments of rows, these to reads, and what the Q x K array makes of them to softmax."""
        planner, control, qk = self.planner, self.row_control, self.qk
        queries, keys = self.query_reader, self.key_reader
        connect = wiring.connect
        connect(m, planner.o_query, control.i_query)
        connect(m, planner.o_key, control.i_key)
        connect(m, planner.o_value, control.i_value)
        if self._recomputes:
            connect(m, planner.o_again, control.i_again)
        connect(m, control.o_query, queries.i)
        connect(m, control.o_key, keys.i)
        connect(m, queries.o, qk.i_query)
        connect(m, queries.o_row, keys.i_row)
        m.d.comb += [
            queries.arrived.eq(planner.arrived_query),
            queries.chunk.eq(planner.chunk),
            keys.arrived.eq(planner.arrived_key),
            *([keys.again_arrived.eq(planner.again_arrived)] if self._recomputes else []),
            keys.left.eq(qk.o.valid & qk.o.ready),
        ]
        row = qk.o.payload.header
        if not self._recomputes:
            pass_on(m, qk.o, self.softmax.i, mantissa=row.mantissa, shift=row.shift, header=row.row)
            return
        m.d.comb += [planner.again_read.eq(keys.again_read), planner.again_done.eq(keys.again_done)]
        pass_on(
            m,
            qk.o,
            self.progressive.i,
            kind=row.kind,
            slot=row.stash_slot,
            mantissa=row.mantissa,
            shift=row.shift,
            flat_limit=row.flat_limit,
            header=row.row,
        )
        connect(m, self.progressive.o, self.softmax.i)

    def _flat_rows(self, m: Module) -> None:
        """What softmax decides of a first pass: a flat row is computed again, of another one the stash slot is free."""
        progressive, again, free = self.progressive, self.progressive.o_again, self.progressive.o_free
        wiring.connect(m, self.softmax.o_decision, progressive.i_decision)
        wiring.connect(m, again, self.planner.i_flat)
        m.d.comb += [
            free.ready.eq(1),
            self.row_control.freed.eq(
                Mux(free.valid, Const(1, STASH_SLOTS) << free.payload, 0) | self.key_reader.again_freed
            ),
            self.jobs.recomputed.valid.eq(again.valid & again.ready),
            self.jobs.recomputed.slot.eq(again.payload.header.slot),
        ]

    def _probabilities(self, m: Module) -> None:
        """Probabilities to their values, those of locally pruned rows by way of the top-k engine."""
        jobs, router, tokens = self.jobs, self.prob_router, self.tokens
        connect = wiring.connect
        connect(m, self.softmax.o, router.i)
        connect(m, router.o_all, self.value_reader.i)
        if self._prunes_values:
            local = self.local_values
            connect(m, router.o_topk, self.widen.i)
            connect(m, self.widen.o, self.value_topk.i)
            connect(m, self.value_topk.o, local.i)
            connect(m, local.o_ids, self.planner.i_kept)
            connect(m, local.o_pruned, self.value_reader.i_pruned)
        m.d.comb += [
            tokens.i_probs.valid.eq(router.o_importance.valid),
            tokens.i_probs.payload.eq(router.o_importance.payload),
            jobs.probs_done.eq(router.probs_done),
        ]
        if not self._prunes_values:
            return
        m.d.comb += [
            local.list_busy.eq(jobs.live_write.enable),
            self.planner.live_read.eq(local.live_read),
            local.live_ids.eq(self.planner.live_ids),
        ]
        for slot in range(self.config.jobs_in_flight):
            m.d.comb += [
                router.keep_values[slot].eq(jobs.slots[slot].keep_values),
                local.dense[slot].eq(jobs.slots[slot].dense),
            ]

    def _outputs(self, m: Module) -> None:
        """Values to outputs, and outputs to memory."""
        jobs, planner, reader, pv = self.jobs, self.planner, self.value_reader, self.pv
        router, packer = self.output_router, self.packer
        connect = wiring.connect
        if self._prunes_values:
            connect(m, planner.o_pruned, reader.i_block)
        connect(m, reader.o_prob, pv.i_prob)
        connect(m, pv.o, router.i)
        connect(m, router.o_placed, packer.i)
        if self._prunes_heads:
            connect(m, router.o_weighted, self.heads.i)
        for channel in range(self.config.channels):
            if self._saves:
                connect(m, packer.o[channel], self.write_merger.i_output[channel])
                connect(m, self.write_merger.o[channel], wiring.flipped(self.o_write[channel]))
            else:
                connect(m, packer.o[channel], wiring.flipped(self.o_write[channel]))
        m.d.comb += [
            reader.arrived.eq(planner.arrived_value),
            reader.bases.eq(planner.value_bases),
            reader.left.eq(pv.o.valid & pv.o.ready),
            jobs.row_written.eq(router.row_written),
            jobs.saturated.eq(router.saturated),
            jobs.beats_in.eq(packer.beats_in),
            jobs.beats_done.eq(packer.beats_done),
            *([self.write_merger.output_queued.eq(packer.queued)] if self._saves else []),
            jobs.queued.eq(self.write_merger.queued if self._saves else packer.queued),
            jobs.acknowledged.eq(self.acknowledged),
        ]

    def _watch(self, m: Module) -> None:
        events, planner, softmax = self.events, self.planner, self.softmax
        writes = [port.valid & port.ready for port in self.o_write]
        reads = [port.valid & port.ready for port in (*self.o_address, *self.i_data)]
        probs = softmax.o.valid & softmax.o.ready
        passes: Value = self.token_topk.pass_done
        if self._prunes_values:
            passes = self.value_topk.pass_done + passes
        m.d.comb += [
            events.busy.eq(self.busy),
            events.stalled_memory.eq(self.key_reader.waits),
            *([events.stalled_topk.eq(self.widen.o.valid & ~self.widen.o.ready)] if self._prunes_values else []),
            events.qk_beats.eq(self.key_reader.o_read.valid),
            events.pv_beats.eq(self.value_reader.o_read.valid),
            events.query_sectors.eq(planner.sectors[SectorClass.QUERY]),
            events.key_sectors.eq(planner.sectors[SectorClass.KEY]),
            events.lsb_sectors.eq(planner.sectors[SectorClass.LSB]),
            events.value_sectors.eq(planner.sectors[SectorClass.VALUE]),
            events.other_sectors.eq(planner.sectors[SectorClass.OTHER]),
            events.output_sectors.eq(sum(writes)),
            events.rows.eq(probs & softmax.o.payload.last),
            *([events.recomputed.eq(self.jobs.recomputed.valid)] if self._recomputes else []),
            events.topk_passes.eq(passes),
            events.output_saturated.eq(self.jobs.saturated),
            self.activity.eq(Cat(*writes, *reads, probs, events.qk_beats, events.pv_beats).any()),
        ]
