"""Makes row groups of requests: looks up the ids of their rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.plan.plan_layouts import (
    emitted_group,
    group_request,
    id_shape,
    kept_ids,
    live_read,
    live_write,
)
from spatten.hw.lib.connections import optional
from spatten.hw.lib.ram import Ram, ReadWriteRam
from spatten.spec.config import Config, Feature

__all__ = ["GroupEmitter"]


class GroupEmitter(wiring.Component):
    """Keeps the live lists of all jobs in flight, and gives each requested row group the ids of its rows.

    Whoever else needs a row of a live list (`hw.control.local_values.LocalValues`) reads it here, too.

    The ids are the ranks themselves where a job's live tokens are dense, those of local pruning for a pruned row, and
    otherwise the row of the live list, without its first `skip` ids.

    Parameters
    ----------
    config : Config

    Ports
    -----
    live_write : in, `live_write`: a row of a job's live list, before that row is first asked for
    live_read : in, `live_read`: somebody else reads a row; not in a cycle in which one is written
    live_ids : out, the ids of the row that was read last, from the next cycle on; like `live_read` and `kept` only with
        local pruning
    valid, request : in, a `group_request` has come; only while `takes` is set
    kept : in, ids of local pruning, of the request that comes in this cycle
    takes : out, a request may come in this cycle
    o : stream of `emitted_group`

    Latency: 2 cycles from a request to its group. Throughput: a group per cycle. Two requests are inside at most;
    `takes` comes from `o.ready` in the same cycle, and needs one that comes from registers.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._has_kept = config.has(Feature.PRUNE_VALUES)
        super().__init__(
            {
                "live_write": In(live_write(config)),
                **optional(
                    self._has_kept, live_read=In(live_read(config)), live_ids=Out(live_write(config)["ids"].shape)
                ),
                "valid": In(1),
                "request": In(group_request(config)),
                **optional(self._has_kept, kept=In(kept_ids(config)["ids"].shape)),
                "takes": Out(1),
                "o": Out(stream.Signature(emitted_group(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        size = config.topk_lanes * id_shape(config).width
        depth = config.jobs_in_flight << len(Value.cast(self.live_write.row))
        live: Any = ReadWriteRam(shape=size, depth=depth) if self._has_kept else Ram(shape=size, depth=depth)
        m.submodules.live = live
        # The request waits in a register while the live list's memory is read; then the row group is in another one.
        # What the memory gives goes into a register by as little logic as can be, since the memory is slow.
        emitted = Signal(emitted_group(config), reset_less=True)
        leaves = Signal()
        waits = Signal()
        request = Signal(group_request(config), reset_less=True)
        written = self._live_address(self.live_write.slot, self.live_write.row)
        m.d.comb += live.write_enable.eq(self.live_write.enable)
        if self._has_kept:
            kept = Signal(self.kept.shape(), reset_less=True)
            read = self._live_address(self.live_read.slot, self.live_read.row)
            m.d.comb += [
                live.access_read_enable.eq(self.live_read.enable),
                live.access_address.eq(Mux(self.live_write.enable, written, read)),
                Value.cast(self.live_ids).eq(live.access_read_data),
            ]
        else:
            m.d.comb += live.write_address.eq(written)
        m.d.comb += [
            live.write_data.eq(Value.cast(self.live_write.ids)),
            live.read_enable.eq(self.valid),
            live.read_address.eq(self._live_address(self.request.slot, self.request.row)),
            self.takes.eq(~waits | leaves),
            leaves.eq(~self.o.valid | self.o.ready),
            self.o.payload.eq(emitted),
        ]
        with m.If(self.takes):
            m.d.sync += [waits.eq(self.valid), request.eq(self.request)]
            # Only ranks need the row any more.
            m.d.sync += request.row.eq(Mux(self.request.dense, self.request.row, 0))
            if self._has_kept:
                m.d.sync += kept.eq(self.kept)
        with m.If(leaves):
            m.d.sync += [
                self.o.valid.eq(waits),
                emitted.entry.eq(request.entry),
                emitted.sector_class.eq(request.sector_class),
                emitted.counts.eq(request.counts),
            ]
            for name in ("count", "sector", "pitch", "sectors", "ring", "place", "stride"):
                m.d.sync += emitted.group[name].eq(request[name])
            for lane, list_id in enumerate(self._list_ids(request, live.read_data)):
                m.d.sync += emitted.group.ids[lane].eq(
                    Mux(request.kept, kept[lane], list_id) if self._has_kept else list_id
                )
        return m

    def _list_ids(self, request: Any, live_row: Value) -> list[Value]:
        """The ids of a request that `live_row` or its ranks have, in front the first one after those to be skipped.

        A request that is not dense has row 0 here.
        """
        lanes = self.config.topk_lanes
        lane_bits = ceil_log2(lanes)
        id_bits = id_shape(self.config).width
        live_ids: list[Value] = [live_row.word_select(lane, id_bits) for lane in range(lanes)]
        ranks: list[Value] = [
            Cat(Mux(request.dense, Const(lane, lane_bits), 0), request.row)[:id_bits] for lane in range(lanes)
        ]
        for level in range(lane_bits):
            live_ids, ranks = (
                [
                    Mux(request.skip[level], ids[lane + (1 << level)] if lane + (1 << level) < lanes else 0, ids[lane])
                    for lane in range(lanes)
                ]
                for ids in (live_ids, ranks)
            )
        return [Mux(request.dense, 0, live_id) | rank for rank, live_id in zip(ranks, live_ids, strict=True)]

    def _live_address(self, slot: Value, row: Value) -> Value:
        """An address in the live lists' memory, where the rows of a slot lie together."""
        return Cat(row, slot) if self.config.jobs_in_flight > 1 else Value.cast(row)
