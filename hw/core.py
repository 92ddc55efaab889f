"""The core: every unit of the datapath, joined (SpAtten Fig. 8), between a queue of jobs and the memory channels."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.job_control import JobControl, topk_sizes
from spatten.hw.control.job_layouts import events_layout, job_layout, report_layout
from spatten.hw.control.job_slots import by_slot, row_layout
from spatten.hw.control.key_reader import KeyReader
from spatten.hw.control.plan.plan_layouts import SectorClass, kept_ids
from spatten.hw.control.planner import Planner
from spatten.hw.control.query_reader import QueryReader
from spatten.hw.control.row_control import RowControl
from spatten.hw.control.sector_reader import SectorReader
from spatten.hw.control.segments import key_header
from spatten.hw.control.state import StateLoad, StateStore
from spatten.hw.control.value_reader import ValueReader
from spatten.hw.datapath.converter import Converter
from spatten.hw.datapath.head_importance import HeadImportance
from spatten.hw.datapath.output_packer import OutputPacker
from spatten.hw.datapath.progressive import Kind, Progressive, row_header
from spatten.hw.datapath.pv import PvArray
from spatten.hw.datapath.qk import QkArray
from spatten.hw.datapath.quick_select import candidate_beat
from spatten.hw.datapath.softmax import Softmax
from spatten.hw.datapath.token_importance import TokenImportance
from spatten.hw.datapath.topk import TopK
from spatten.hw.lib.arbiter import RoundRobin
from spatten.hw.lib.expander import select
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import equals
from spatten.hw.lib.packer import Compactor
from spatten.hw.lib.ram import Ram
from spatten.hw.memory.address_generator import BANKS, KEY, QUERY, VALUE
from spatten.hw.memory.axi import sector_write
from spatten.hw.memory.fetch import Fetch
from spatten.hw.memory.ring_buffer import RingBuffer
from spatten.spec.config import Config
from spatten.spec.constants import KEPT_SLOTS, OUTSTANDING
from spatten.spec.row_format import key_ring_sectors, lsb_sectors, query_ring_sectors, value_ring_sectors

__all__ = ["Core", "Widen"]


class Widen(wiring.Component):
    """Joins beats of `lanes` probabilities into beats of `wide`, for a top-k engine that has more lanes than softmax.

    Parameters
    ----------
    width, lanes, wide, n_max : int
        Bits of a probability; lanes of an input and of an output beat, powers of two; most probabilities of a row.
    header : shape-like
        What travels with a row.

    Ports
    -----
    i : stream of `probs`, `count`, `last`, `k`, `header`
    o : stream of `hw.datapath.quick_select.candidate_beat`

    Latency: 1 cycle from the last input beat that an output beat needs. Throughput: an input beat per cycle.
    """

    def __init__(self, *, width: int, lanes: int, wide: int, n_max: int, header: Any) -> None:
        self.lanes = lanes
        self.wide = wide
        super().__init__(
            {
                "i": In(stream.Signature(candidate_beat(width, lanes, n_max, header))),
                "o": Out(stream.Signature(candidate_beat(width, wide, n_max, header))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        parts = self.wide // self.lanes
        part = Signal(range(max(2, parts)))
        given, held = self.i.payload, self.o.payload
        beat = Signal.like(held, name="beat", reset_less=True)
        m.d.comb += [Value.cast(held).eq(Value.cast(beat)), self.i.ready.eq(~self.o.valid | self.o.ready)]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(0)
            with m.If(self.i.valid):
                ends = given.last | (part == parts - 1)
                m.d.sync += [
                    self.o.valid.eq(ends),
                    part.eq(Mux(ends, 0, part + 1)),
                    beat.count.eq(Mux(equals(part, 0), 0, beat.count) + given.count),
                    beat.last.eq(given.last),
                    beat.k.eq(given.k),
                    Value.cast(beat.header).eq(Value.cast(given.header)),
                ]
                for lane in range(self.wide):
                    with m.If(equals(part, lane // self.lanes)):
                        m.d.sync += beat.values[lane].eq(given.values[lane % self.lanes])
        return m


class Core(wiring.Component):
    """Runs attention layers: jobs in, reports out, sectors from and to the memory channels.

    docs/architecture.md follows a query through the core. This class only wires the units together, with a few gates
    and queues between them.

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
        config = self.config
        self._units(m)
        self._jobs(m)
        self._memory(m)
        self._scores(m)
        self._probabilities(m)
        self._values(m)
        self._output(m)
        self._watch(m)
        assert config.channels
        return m

    def _units(self, m: Module) -> None:
        config = self.config
        lanes, wide = config.softmax_lanes, config.topk_lanes
        row = row_layout(config)
        m.submodules.jobs = self.jobs = JobControl(config=config)
        m.submodules.planner = self.planner = Planner(config=config)
        m.submodules.sector_reader = self.sector_reader = SectorReader(config=config)
        m.submodules.state_load = self.load = StateLoad(config=config)
        m.submodules.state_store = self.store = StateStore(config=config)
        m.submodules.row_control = self.row_control = RowControl(config=config)
        m.submodules.query_reader = self.query_reader = QueryReader(config=config)
        m.submodules.fetch = self.fetch = Fetch(
            channels=config.channels,
            rows=wide,
            lanes=config.slices,
            id_bits=self.planner.id_bits,
            sector_bits=config.sector_bits,
            ring_sectors=self.planner.ring_sectors,
            linear_sectors=lsb_sectors(config),
            sequence_bits=self.planner.sequence_bits,
            outstanding=OUTSTANDING,
        )
        m.submodules.qk = self.qk = QkArray(
            multipliers=config.qk_multipliers,
            lanes=lanes,
            slice_width=config.slice_width,
            operand_bits=config.operand_bits,
            head_dim_max=config.head_dim_max,
            header=key_header(config),
            spare=6,
        )
        m.submodules.key_reader = self.key_reader = KeyReader(config=config, places=self.qk.places - 2)
        m.submodules.progressive = self.progressive = Progressive(
            lanes=lanes, score_bits=config.score_bits, row_max=config.tokens_max, slots=KEPT_SLOTS, header=row
        )
        m.submodules.softmax = self.softmax = Softmax(
            lanes=lanes,
            score_bits=config.score_bits,
            prob_bits=config.prob_bits,
            row_max=config.tokens_max,
            header=row_header(KEPT_SLOTS, row),
        )
        m.submodules.widen = self.widen = Widen(
            width=config.prob_bits, lanes=lanes, wide=wide, n_max=config.tokens_max, header=row
        )
        m.submodules.value_topk = self.value_topk = TopK(
            width=config.prob_bits, lanes=wide, n_max=config.tokens_max, header=row
        )
        kept = data.StructLayout({"prob": config.prob_bits, "id": unsigned(self.planner.id_bits)})
        m.submodules.compactor = self.compactor = Compactor(shape=kept, lanes=wide, header=row)
        m.submodules.pv = self.pv = PvArray(
            multipliers=config.pv_multipliers,
            lanes=lanes,
            slice_width=config.slice_width,
            operand_bits=config.operand_bits,
            prob_bits=config.prob_bits,
            head_dim_max=config.head_dim_max,
            header=row,
        )
        m.submodules.value_reader = self.value_reader = ValueReader(config=config, places=self.pv.latency + 1)
        m.submodules.tokens = self.tokens = TokenImportance(
            tokens=config.tokens_max,
            prob_bits=config.prob_bits,
            importance_bits=config.token_importance_bits,
            prob_lanes=lanes,
            lanes=wide,
            contexts=config.contexts,
            slots=config.jobs_in_flight,
        )
        m.submodules.heads = self.heads = HeadImportance(
            lanes=config.slice_width,
            operand_bits=config.operand_bits,
            head_dim_max=config.head_dim_max,
            heads=config.heads_max,
            slots=config.contexts,
            bits=config.head_importance_bits,
        )
        m.submodules.token_topk = self.token_topk = TopK(**topk_sizes(config))
        m.submodules.packer = self.packer = OutputPacker(
            lanes=config.slice_width,
            operand_bits=config.operand_bits,
            head_dim_max=config.head_dim_max,
            channels=config.channels,
            rows=config.tokens_max,
            heads=config.heads_max,
            address_bits=config.local_sector_bits,
        )
        query_header = data.StructLayout({"is_bitmap": 1, "query": self.query_reader.header})
        rings = (
            ("query_ring", 1, query_ring_sectors(config), 0, query_header),
            ("key_ring", config.slices, key_ring_sectors(config), lsb_sectors(config), self.key_reader.header),
            ("value_ring", config.slices, value_ring_sectors(config), 0, self.value_reader.header),
        )
        self.rings = []
        for name, ring_lanes, sectors, linear, header in rings:
            ring = RingBuffer(lanes=ring_lanes, sectors=sectors, banks=BANKS, linear=linear, header=header)
            m.submodules[name] = ring
            self.rings.append(ring)

    # -- Jobs ---------------------------------------------------------------------------------------------------------

    def _jobs(self, m: Module) -> None:
        jobs, planner, tokens = self.jobs, self.planner, self.tokens
        connect = wiring.connect
        connect(m, wiring.flipped(self.i_job), jobs.i_job)
        connect(m, jobs.o_report, wiring.flipped(self.o_report))
        m.d.comb += [
            self.nothing_live.eq(jobs.nothing_live),
            self.busy.eq(jobs.busy),
            planner.slots.eq(jobs.slots),
            planner.started.eq(jobs.started),
            planner.live_write.eq(jobs.live_write),
            self.row_control.slots.eq(jobs.slots),
            self.row_control.started.eq(jobs.started),
            self.row_control.scale.eq(jobs.scale),
            self.value_reader.slots.eq(jobs.slots),
        ]
        self._states(m)
        connect(m, jobs.o_gather, tokens.i_gather)
        connect(m, jobs.o_lines, tokens.i_members)
        connect(m, tokens.o_live, jobs.i_live)
        connect(m, tokens.o_gathered, jobs.i_gathered)
        connect(m, jobs.o_scatter, tokens.i_scatter)
        connect(m, tokens.o_candidates, jobs.i_candidates)
        connect(m, jobs.o_kept, tokens.i_kept)
        connect(m, tokens.o_scattered, jobs.i_scattered)
        connect(m, jobs.o_access, self.heads.i_access)
        connect(m, self.heads.o_access, jobs.i_access)
        connect(m, jobs.o_topk, self.token_topk.i)
        connect(m, self.token_topk.o, jobs.i_topk)
        m.d.comb += [
            jobs.heads_done.valid.eq(self.heads.done.valid),
            jobs.heads_done.slot.eq(self.heads.done.slot),
        ]

    def _states(self, m: Module) -> None:
        """Connects the sector reader, for bitmaps and saved states, and the units that load and store states."""
        config = self.config
        jobs, planner, reader, load, store = self.jobs, self.planner, self.sector_reader, self.load, self.store
        connect = wiring.connect
        connect(m, jobs.o_rows, reader.i)
        connect(m, reader.o_request, planner.i_members)
        connect(m, planner.o_members, reader.i_block)
        connect(m, jobs.o_load, load.i)
        connect(m, load.o_request, jobs.load_rows)
        connect(m, jobs.o_store, store.i)
        m.d.comb += [
            reader.arrived.eq(planner.arrived_query),
            load.i_rows.valid.eq(reader.o.valid & jobs.o_load.valid),
            load.i_rows.payload.eq(reader.o.payload),
            jobs.i_rows.valid.eq(reader.o.valid & ~jobs.o_load.valid),
            jobs.i_rows.payload.eq(reader.o.payload),
            reader.o.ready.eq(Mux(jobs.o_load.valid, load.i_rows.ready, jobs.i_rows.ready)),
            jobs.i_loaded.eq(load.heads),
            store.heads.eq(jobs.store_heads),
        ]
        # `load` only writes and `store` only reads, so all answers are for `store`.
        shape = self.tokens.i_access.payload.shape()
        m.submodules.state_access = access = RoundRobin(shape=shape, inputs=2)
        for number, source in enumerate((load.o_access, store.o_access)):
            m.d.comb += [
                access.i[number].valid.eq(source.valid),
                Value.cast(access.i[number].payload).eq(Value.cast(source.payload)),
                source.ready.eq(access.i[number].ready),
            ]
        m.d.comb += [
            self.tokens.i_access.valid.eq(access.o.valid),
            Value.cast(self.tokens.i_access.payload).eq(Value.cast(access.o.payload)),
            access.o.ready.eq(self.tokens.i_access.ready),
            store.i_access.valid.eq(self.tokens.o_access.valid),
            Value.cast(store.i_access.payload).eq(Value.cast(self.tokens.o_access.payload)),
            self.tokens.o_access.ready.eq(store.i_access.ready),
        ]

        # A sector of a state goes to its channel when no output does; once it is offered, it stays until it is taken.
        bits = ceil_log2(config.channels)
        given = store.o.payload
        takes = []
        for channel in range(config.channels):
            output, port = self.packer.o[channel], self.o_write[channel]
            wants = store.o.valid & (equals(given.sector[:bits], channel) if bits else Const(1))
            uses = Signal(name=f"state_uses{channel}")
            holds = Signal(name=f"state_holds{channel}")
            sent = Signal(16, name=f"state_sent{channel}")
            m.d.comb += [
                uses.eq(wants & (holds | ~output.valid)),
                port.valid.eq(output.valid | wants),
                port.payload.address.eq(Mux(uses, given.sector >> bits, output.payload.address)),
                port.payload.data.eq(Mux(uses, given.data, output.payload.data)),
                output.ready.eq(port.ready & ~uses),
                jobs.queued[channel].eq(self.packer.queued[channel] + sent),
            ]
            m.d.sync += holds.eq(uses & ~port.ready)
            with m.If(uses & port.ready):
                m.d.sync += sent.eq(sent + 1)
            takes.append(uses & port.ready)
        m.d.comb += store.o.ready.eq(Cat(takes).any())

    # -- Memory to rings ----------------------------------------------------------------------------------------------

    def _memory(self, m: Module) -> None:
        planner, fetch = self.planner, self.fetch
        query_ring, key_ring, value_ring = self.rings
        wiring.connect(m, planner.o, fetch.i)
        m.d.comb += planner.completed.eq(fetch.completed)
        for channel in range(self.config.channels):
            wiring.connect(m, fetch.o_address[channel], wiring.flipped(self.o_address[channel]))
            wiring.connect(m, wiring.flipped(self.i_data[channel]), fetch.i_data[channel])
        for index, ring in enumerate(self.rings):
            m.d.comb += [
                ring.i_allocate.valid.eq(planner.o_allocate[index].valid),
                ring.i_allocate.payload.eq(planner.o_allocate[index].payload),
                planner.o_allocate[index].ready.eq(ring.i_allocate.ready),
                planner.i_block[index].valid.eq(ring.o_block.valid),
                planner.i_block[index].payload.eq(ring.o_block.payload),
                ring.o_block.ready.eq(planner.i_block[index].ready),
                ring.i_free.valid.eq(planner.o_free[index].valid),
                ring.i_free.payload.eq(planner.o_free[index].payload),
                planner.o_free[index].ready.eq(ring.i_free.ready),
            ]
            for lane in range(ring.lanes):
                for bank in range(BANKS):
                    write = fetch.write[lane * BANKS + bank]
                    port = ring.write[lane][bank]
                    if index == QUERY:
                        is_mine = ~write.ring.any()
                    elif index == KEY:
                        is_mine = write.ring[0]  # KEY, the ring, and LINEAR, the part behind it
                    else:
                        is_mine = write.ring == VALUE
                    m.d.comb += [
                        port.enable.eq(write.enable & is_mine),
                        port.address.eq(write.word),
                        port.data.eq(write.data),
                    ]

        # The query ring has two readers; queries go first.
        rows = self.sector_reader
        reader = self.query_reader
        from_reader = reader.o_read
        m.d.comb += [
            query_ring.i_read.valid.eq(from_reader.valid | rows.o_read.valid),
            query_ring.i_read.payload.sector.eq(
                Mux(from_reader.valid, from_reader.payload.sector, rows.o_read.payload.sector)
            ),
            query_ring.i_read.payload.sectors.eq(
                Mux(from_reader.valid, from_reader.payload.sectors, rows.o_read.payload.sectors)
            ),
            query_ring.i_read.payload.header.is_bitmap.eq(~from_reader.valid),
            query_ring.i_read.payload.header.query.eq(from_reader.payload.header),
            rows.o_read.ready.eq(~from_reader.valid),
            planner.uses[QUERY].valid.eq(reader.used.valid | rows.used.valid),
            planner.uses[QUERY].entry.eq(Mux(reader.used.valid, reader.used.entry, rows.used.payload)),
            rows.used.ready.eq(~reader.used.valid),
        ]
        window = query_ring.o_read
        is_bitmap = window.payload.header.is_bitmap
        for target, enable in ((reader.i_window, ~is_bitmap), (rows.i_window, is_bitmap)):
            m.d.comb += [
                target.valid.eq(window.valid & enable),
                Value.cast(target.payload.words).eq(Value.cast(window.payload.words)),
                target.payload.first.eq(window.payload.first),
            ]
        m.d.comb += reader.i_window.payload.header.eq(window.payload.header.query)

        # Keys to the Q x K array.
        key_reader = self.key_reader
        header = key_reader.header.members
        beat_header = data.StructLayout({name: header[name] for name in ("count", "group", "dim", "last", "row")})
        m.submodules.key_converter = converter = self._converter("key", beat_header)
        m.d.comb += [
            Value.cast(key_ring.i_read.payload).eq(Value.cast(key_reader.o_read.payload)),
            key_ring.i_read.valid.eq(key_reader.o_read.valid),
        ]
        keys = key_ring.o_read
        m.d.comb += [
            converter.i.valid.eq(keys.valid),
            Value.cast(converter.i.payload.words).eq(Value.cast(keys.payload.words)),
            converter.i.payload.first.eq(keys.payload.first),
            converter.i.payload.part.eq(keys.payload.header.part),
        ]
        for name in beat_header.members:
            source, target = keys.payload.header[name], converter.i.payload.header[name]
            m.d.comb += Value.cast(target).eq(Value.cast(source))
        made = converter.o.payload
        beat = self.qk.i_key.payload
        m.d.comb += [
            self.qk.i_key.valid.eq(converter.o.valid),
            Value.cast(beat.keys).eq(Value.cast(made.operands)),
            beat.count.eq(made.header.count),
            beat.group.eq(made.header.group),
            beat.dim.eq(made.header.dim),
            beat.last.eq(made.header.last),
            Value.cast(beat.header).eq(Value.cast(made.header.row)),
        ]
        # Values to the prob x V array.
        value_reader = self.value_reader
        m.submodules.value_converter = value_converter = self._converter("value", 1)
        m.d.comb += [
            Value.cast(value_ring.i_read.payload).eq(Value.cast(value_reader.o_read.payload)),
            value_ring.i_read.valid.eq(value_reader.o_read.valid),
        ]
        values = value_ring.o_read
        m.d.comb += [
            value_converter.i.valid.eq(values.valid),
            Value.cast(value_converter.i.payload.words).eq(Value.cast(values.payload.words)),
            value_converter.i.payload.first.eq(values.payload.first),
            value_converter.i.payload.part.eq(values.payload.header),
            self.pv.i_value.valid.eq(value_converter.o.valid),
            Value.cast(self.pv.i_value.payload.values).eq(Value.cast(value_converter.o.payload.operands)),
        ]

    def _converter(self, tensor: str, header: Any) -> Converter:
        config = self.config
        return Converter(
            tensor=tensor,
            slices=config.slices,
            slice_width=config.slice_width,
            lanes=config.softmax_lanes,
            operand_bits=config.operand_bits,
            banks=BANKS,
            header=header,
        )

    # -- Rows to scores -----------------------------------------------------------------------------------------------

    def _scores(self, m: Module) -> None:
        planner, control = self.planner, self.row_control
        query_reader, key_reader = self.query_reader, self.key_reader
        qk, progressive, softmax = self.qk, self.progressive, self.softmax
        connect = wiring.connect
        connect(m, planner.o_query, control.i_query)
        connect(m, planner.o_key, control.i_key)
        connect(m, planner.o_value, control.i_value)
        connect(m, planner.o_again, control.i_again)
        connect(m, control.o_query, query_reader.i)
        connect(m, control.o_key, key_reader.i)
        connect(m, query_reader.o, qk.i_query)
        connect(m, query_reader.o_row, key_reader.i_row)
        m.d.comb += [
            query_reader.arrived.eq(planner.arrived_query),
            query_reader.chunk.eq(planner.chunk),
            key_reader.arrived.eq(planner.arrived_key),
            key_reader.again_arrived.eq(planner.again_arrived),
            key_reader.left.eq(qk.o.valid & qk.o.ready),
            planner.uses[KEY].eq(key_reader.used),
            planner.again_read.eq(key_reader.again_read),
            planner.again_done.eq(key_reader.again_done),
        ]
        beat, row = progressive.i.payload, qk.o.payload.header
        m.d.comb += [
            progressive.i.valid.eq(qk.o.valid),
            qk.o.ready.eq(progressive.i.ready),
            Value.cast(beat.scores).eq(Value.cast(qk.o.payload.scores)),
            beat.count.eq(qk.o.payload.count),
            beat.last.eq(qk.o.payload.last),
            beat.kind.eq(row.kind),
            beat.slot.eq(row.kept_slot),
            beat.mantissa.eq(row.mantissa),
            beat.shift.eq(row.shift),
            beat.flat_limit.eq(row.flat_limit),
            Value.cast(beat.header).eq(Value.cast(row.row)),
        ]
        connect(m, progressive.o, softmax.i)
        connect(m, softmax.o_decision, progressive.i_decision)
        connect(m, progressive.o_again, planner.i_again)
        decision = softmax.o_decision
        decided = decision.valid & decision.ready
        unkept = equals(decision.payload.header.kind, Kind.FIRST_UNKEPT) & ~decision.payload.flat
        slot_bit = Const(1, KEPT_SLOTS)
        again = progressive.o_again
        m.d.comb += [
            progressive.o_free.ready.eq(1),
            control.freed.eq(
                Mux(progressive.o_free.valid, slot_bit << progressive.o_free.payload, 0)
                | Mux(decided & unkept, slot_bit << decision.payload.header.slot, 0)
                | key_reader.again_slot
            ),
            self.jobs.recomputed.valid.eq(again.valid & again.ready),
            self.jobs.recomputed.slot.eq(again.payload.header.slot),
        ]

    # -- Probabilities ------------------------------------------------------------------------------------------------

    def _probabilities(self, m: Module) -> None:
        config = self.config
        softmax, tokens, widen = self.softmax, self.tokens, self.widen
        beat = softmax.o.payload
        row = beat.header.header
        fires = Signal(name="probs_fire")
        to_values, to_widen = self.value_reader.i, widen.i
        slots = self.jobs.slots
        keep = Signal(range(config.tokens_max + 1), name="keep_values")
        m.d.comb += [
            keep.eq(select([slots[n].keep_values for n in range(config.jobs_in_flight)], row.slot)),
            softmax.o.ready.eq(Mux(row.prune, to_widen.ready, to_values.ready)),
            fires.eq(softmax.o.valid & softmax.o.ready),
            to_values.valid.eq(softmax.o.valid & ~row.prune),
            Value.cast(to_values.payload.probs).eq(Value.cast(beat.probs)),
            to_values.payload.count.eq(beat.count),
            to_values.payload.last.eq(beat.last),
            to_values.payload.row.eq(row),
            to_widen.valid.eq(softmax.o.valid & row.prune),
            Value.cast(to_widen.payload.values).eq(Value.cast(beat.probs)),
            to_widen.payload.count.eq(beat.count),
            to_widen.payload.last.eq(beat.last),
            to_widen.payload.k.eq(keep),
            to_widen.payload.header.eq(row),
            tokens.i_probs.valid.eq(fires),
            Value.cast(tokens.i_probs.payload.probs).eq(Value.cast(beat.probs)),
            tokens.i_probs.payload.count.eq(Mux(row.accumulate, beat.count, 0)),
            tokens.i_probs.payload.last.eq(beat.last),
            tokens.i_probs.payload.slot.eq(row.slot),
            self.jobs.probs_done.valid.eq(fires & beat.last),
            self.jobs.probs_done.slot.eq(row.slot),
        ]
        wiring.connect(m, widen.o, self.value_topk.i)
        self._local_values(m)

    def _local_values(self, m: Module) -> None:
        """Packs what top-k keeps of a row: token ids go to the planner, probabilities to the value reader."""
        config = self.config
        wide, bits = config.topk_lanes, self.planner.id_bits
        jobs, planner, topk, compactor = self.jobs, self.planner, self.value_topk, self.compactor
        live_rows = planner.live_rows
        write = jobs.live_write
        m.submodules.live_ids = live = Ram(shape=wide * bits, depth=config.jobs_in_flight << len(write.row))
        line = Signal(range(max(2, live_rows)), name="topk_line")
        row = topk.o.payload.header
        valid = Signal(name="ids_valid")
        beat = Signal.like(topk.o.payload, name="ids_beat", reset_less=True)
        beat_line = Signal.like(line, name="ids_line", reset_less=True)
        dense = Signal(name="ids_dense", reset_less=True)
        takes = Signal(name="ids_take")

        def address(slot: Value, at: Value) -> Value:
            return Cat(at, slot) if config.jobs_in_flight > 1 else Value.cast(at)

        m.d.comb += [
            live.write_enable.eq(write.enable),
            live.write_address.eq(address(write.slot, write.row)),
            live.write_data.eq(Value.cast(write.ids)),
            live.read_enable.eq(topk.o.valid & topk.o.ready),
            live.read_address.eq(address(row.slot, line)),
            takes.eq(~valid | compactor.i.ready),
            topk.o.ready.eq(takes),
        ]
        with m.If(takes):
            m.d.sync += [
                valid.eq(topk.o.valid),
                Value.cast(beat).eq(Value.cast(topk.o.payload)),
                beat_line.eq(line),
                dense.eq(select([jobs.slots[n].dense for n in range(config.jobs_in_flight)], row.slot)),
            ]
        with m.If(topk.o.valid & topk.o.ready):
            m.d.sync += line.eq(Mux(topk.o.payload.last, 0, line + 1))
        given = compactor.i.payload
        m.d.comb += [
            compactor.i.valid.eq(valid),
            given.mask.eq(beat.mask),
            given.last.eq(beat.last),
            given.header.eq(beat.header),
        ]
        for lane in range(wide):
            rank = Cat(Const(lane, ceil_log2(wide)), beat_line)[:bits]
            m.d.comb += [
                given.lanes[lane].prob.eq(beat.values[lane]),
                given.lanes[lane].id.eq(Mux(dense, rank, live.read_data.word_select(lane, bits))),
            ]

        m.submodules.kept_ids = ids = Fifo(shape=kept_ids(config), depth=2 * live_rows)
        wiring.connect(m, ids.o, planner.i_kept)
        packed, to_values = compactor.o, self.value_reader.i_kept
        m.d.comb += [
            packed.ready.eq(ids.i.ready & to_values.ready),
            ids.i.valid.eq(packed.valid & to_values.ready),
            ids.i.payload.count.eq(packed.payload.count),
            ids.i.payload.last.eq(packed.payload.last),
            ids.i.payload.slot.eq(packed.payload.header.slot),
            ids.i.payload.head.eq(packed.payload.header.head),
            to_values.valid.eq(packed.valid & ids.i.ready),
            to_values.payload.count.eq(packed.payload.count),
            to_values.payload.last.eq(packed.payload.last),
            to_values.payload.row.eq(packed.payload.header),
        ]
        for lane in range(wide):
            m.d.comb += [
                ids.i.payload.ids[lane].eq(packed.payload.lanes[lane].id),
                to_values.payload.probs[lane].eq(packed.payload.lanes[lane].prob),
            ]

    # -- Values to outputs --------------------------------------------------------------------------------------------

    def _values(self, m: Module) -> None:
        planner, reader, pv = self.planner, self.value_reader, self.pv
        wiring.connect(m, planner.o_kept, reader.i_block)
        wiring.connect(m, reader.o_prob, pv.i_prob)
        m.d.comb += [
            reader.arrived.eq(planner.arrived_value),
            reader.bases.eq(planner.value_bases),
            reader.left.eq(pv.o.valid & pv.o.ready),
            planner.uses[VALUE].eq(reader.used),
        ]

    def _output(self, m: Module) -> None:
        jobs, pv, heads, packer = self.jobs, self.pv, self.heads, self.packer
        beat = pv.o.payload
        row = beat.header
        job = Signal.like(jobs.slots[0], name="output_job")
        placed, weighted = packer.i.payload, heads.i.payload
        m.d.comb += [
            Value.cast(job).eq(by_slot(jobs.slots, row.slot)),
            pv.o.ready.eq(packer.i.ready & heads.i.ready),
            packer.i.valid.eq(pv.o.valid & heads.i.ready),
            heads.i.valid.eq(pv.o.valid & packer.i.ready),
            Value.cast(placed.lanes).eq(Value.cast(beat.lanes)),
            placed.part.eq(beat.part),
            placed.dim.eq(beat.dim),
            placed.row.eq(row.row),
            placed.head.eq(row.head),
            placed.heads.eq(job.heads),
            placed.base.eq(job.output),
            Value.cast(weighted.lanes).eq(Value.cast(beat.lanes)),
            weighted.last.eq(beat.last),
            weighted.slot.eq(job.context),
            weighted.head.eq(row.head),
            weighted.multiplier.eq(Mux(row.accumulate, job.multiplier, 0)),
        ]
        written = pv.o.valid & pv.o.ready
        m.d.comb += [
            jobs.row_written.valid.eq(written & beat.last),
            jobs.row_written.slot.eq(row.slot),
            jobs.saturated.eq(Mux(written, beat.saturated, 0)),
            jobs.beats_in.eq(packer.beats_in),
            jobs.beats_done.eq(packer.beats_done),
            jobs.acknowledged.eq(self.acknowledged),
        ]

    def _watch(self, m: Module) -> None:
        events, planner, softmax = self.events, self.planner, self.softmax
        writes = [port.valid & port.ready for port in self.o_write]
        reads = [port.valid & port.ready for port in (*self.o_address, *self.i_data)]
        probs = softmax.o.valid & softmax.o.ready
        m.d.comb += [
            events.busy.eq(self.busy),
            events.stalled_memory.eq(self.key_reader.waits),
            events.stalled_topk.eq(self.widen.o.valid & ~self.widen.o.ready),
            events.qk_beats.eq(self.key_reader.o_read.valid),
            events.pv_beats.eq(self.value_reader.o_read.valid),
            events.query_sectors.eq(planner.sectors[SectorClass.QUERY]),
            events.key_sectors.eq(planner.sectors[SectorClass.KEY]),
            events.lsb_sectors.eq(planner.sectors[SectorClass.LSB]),
            events.value_sectors.eq(planner.sectors[SectorClass.VALUE]),
            events.other_sectors.eq(planner.sectors[SectorClass.OTHER]),
            events.output_sectors.eq(sum(writes)),
            events.rows.eq(probs & softmax.o.payload.last),
            events.recomputed.eq(self.jobs.recomputed.valid),
            events.topk_passes.eq(self.value_topk.pass_done + self.token_topk.pass_done),
            events.output_saturated.eq(self.jobs.saturated),
            self.activity.eq(Cat(*writes, *reads, probs, events.qk_beats, events.pv_beats).any()),
        ]
