"""Asks for a block, group by group."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.plan.plan_layouts import (
    SECTOR_CLASSES,
    block_issue,
    fetches_max,
    group_advance,
    group_bid,
    live_row_shape,
    place_bits,
    plane_fetch,
    ring_sectors,
)
from spatten.hw.lib.fifo import SkidBuffer
from spatten.hw.lib.logic import choose, wrapped
from spatten.hw.memory.address_generator import VALUE
from spatten.spec.config import Config, Feature

__all__ = ["GroupIssuer"]


class GroupIssuer(wiring.Component):
    """Asks for the rows of a ring's blocks, a group of up to `topk_lanes` rows at a time, one block after the other.

    Each group is asked for in as many passes as its block has fetches. A request is a bid, which stands until it wins;
    in the next cycle the next bid stands. A block in the value ring may be that of a pruned row: then a bid stands only
    while `i_kept` has the group's ids, which are taken when the group's last pass wins.

    Parameters
    ----------
    config : Config
    ring : int
        QUERY, KEY or VALUE.

    Ports
    -----
    i : stream of `block_issue`, through a skid buffer
    bid : out, `group_bid`; it is urgent for a pruned row; `next_order` comes from `wins` in the same cycle
    wins : in, the bid is taken; only while it is valid
    kept_valid, kept_count : in, ids of a pruned row are there, and how many; only of the value ring with local pruning
    kept_taken : out, these ids have been asked for; like these

    Latency: 2 cycles from a block to its first bid. Throughput: a bid per cycle, also from one block to the next.
    Combinational from `kept_valid` and `kept_count` to `bid`, and from `wins` to `kept_taken`.
    """

    def __init__(self, *, config: Config, ring: int) -> None:
        self.config = config
        self.ring = ring
        self.has_kept = ring == VALUE and config.has(Feature.PRUNE_VALUES)
        ports: dict[str, Any] = {
            "i": In(stream.Signature(block_issue(config, ring))),
            "bid": Out(group_bid(config)),
            "wins": In(1),
        }
        if self.has_kept:
            ports |= {"kept_valid": In(1), "kept_count": In(range(config.topk_lanes + 1)), "kept_taken": Out(1)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.topk_lanes
        size = ring_sectors(config)[self.ring]
        width = place_bits(config)
        m.submodules.following = following = SkidBuffer(shape=block_issue(config, self.ring))
        wiring.connect(m, wiring.flipped(self.i), following.i)
        block = Signal(block_issue(config, self.ring), reset_less=True)
        valid = Signal()
        rows_left = Signal(range(config.tokens_max + 1), reset_less=True)
        live_row = Signal(live_row_shape(config), reset_less=True)
        place = Signal(width, reset_less=True)

        count = Signal(range(lanes + 1))
        count_now: Value = Mux(rows_left < lanes, rows_left, lanes)
        if self.has_kept:
            count_now = Mux(block.kept, self.kept_count, count_now)
        last = Signal()
        fetch, last_pass, fetch_place = self._pass(m, block)
        target = Signal(width + 1)
        place_after = Signal(width + 2)
        m.d.comb += [
            count.eq(count_now),
            last.eq(last_pass & (rows_left == count)),
            target.eq(place + fetch_place),
            place_after.eq(place + block.stride * group_advance(config, self.ring)),
            following.o.ready.eq(~valid | (self.wins & last)),
        ]

        most, others = SECTOR_CLASSES[self.ring]
        request = self.bid.request
        m.d.comb += [
            self.bid.valid.eq(valid),
            self.bid.next_order.eq(Mux(following.o.ready, following.o.payload.order, block.order)),
            request.slot.eq(block.slot),
            request.row.eq(live_row),
            request.skip.eq(block.skip),
            request.count.eq(count),
            request.dense.eq(block.dense),
            *([request.kept.eq(block.kept)] if self.config.has(Feature.PRUNE_VALUES) else []),
            request.entry.eq(block.entry),
            request.ring.eq(self.ring),
            request.sector.eq(fetch.sector),
            request.pitch.eq(fetch.pitch),
            request.sectors.eq(fetch.sectors),
            request.place.eq(wrapped(target, size)),
            request.stride.eq(block.stride),
            request.sector_class.eq(Mux(fetch.other, others.value, most.value)),
            request.counts.eq(last_pass),
        ]
        if self.has_kept:
            m.d.comb += [
                self.bid.valid.eq(valid & (~block.kept | self.kept_valid)),
                self.bid.urgent.eq(block.kept),
                self.kept_taken.eq(self.wins & block.kept & last_pass),
            ]

        with m.If(self.wins & last_pass):
            m.d.sync += [
                rows_left.eq(rows_left - count),
                live_row.eq(live_row + 1),
                place.eq(wrapped(place_after, size)),
            ]
        with m.If(following.o.ready):
            m.d.sync += [
                valid.eq(following.o.valid),
                block.eq(following.o.payload),
                rows_left.eq(following.o.payload.count),
                live_row.eq(following.o.payload.first_row),
                place.eq(following.o.payload.place),
            ]
            if fetches_max(self.ring) > 1:
                m.d.sync += fetch_place.eq(following.o.payload.fetch[0].place)
        return m

    def _pass(self, m: Module, block: Any) -> tuple[Any, Value, Value]:
        """The fetch that is asked for of the group's rows, whether it is their last one, and its place in their rows,
        which comes from a register."""
        most = fetches_max(self.ring)
        if most == 1:
            return block.fetch[0], Const(1, 1), block.fetch[0].place
        step = Signal(range(most))
        next_step = Signal(range(most))
        place = Signal(block.fetch[0].place.shape(), name="fetch_place", reset_less=True)
        fetch = Signal(plane_fetch(self.config))
        last_pass = Signal()
        m.d.comb += [
            Value.cast(fetch).eq(choose([Value.cast(block.fetch[n]) for n in range(most)], step)),
            last_pass.eq(step + 1 == block.passes),
            next_step.eq(Mux(last_pass, 0, step + 1)),
        ]
        with m.If(self.wins):
            m.d.sync += [
                step.eq(next_step),
                place.eq(choose([block.fetch[n].place for n in range(most)], next_step)),
            ]
        return fetch, last_pass, place
