"""Chooses which row group is fetched next."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.plan.plan_layouts import ORDER_BITS, ORDER_SPAN_MAX, group_bid, group_request
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import one_of
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE
from spatten.spec.config import Config, Feature

__all__ = ["BidArbiter"]

_RINGS = (QUERY, KEY, VALUE)
_PAIRS = ((QUERY, KEY), (KEY, VALUE), (QUERY, VALUE))


class BidArbiter(wiring.Component):
    """Lets one bid win: that for the keys of a flat row, else an urgent one of the value ring, else the first in order.

    Orders are numbers modulo 256, compared by the sign of their difference; so no two bids that are not urgent may be
    128 or more apart. They are `ORDER_SPAN_MAX` at most, which an assertion checks in simulation. Of equal orders that
    of the higher ring wins (queries, keys, values).

    Parameters
    ----------
    config : Config

    Ports
    -----
    bids : in, array of `group_bid`: of the query, key and value ring; `urgent` counts for values only
    refetch_bid : in, `group_bid` for the keys of a flat row, which goes first; its `urgent` and `next_order` are
        ignored; like `refetch_wins` only with progressive recompute
    takes : in, the row group that wins would be taken in this cycle; without it no bid wins
    wins, refetch_wins : out, which bid wins, at most one; an array for the rings
    valid, request : out, whether there is one, and its `group_request`

    Combinational but for the orders, which are compared a cycle before.
    """

    def __init__(self, *, config: Config) -> None:
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self._has_urgent = config.has(Feature.PRUNE_VALUES)
        super().__init__(
            {
                "bids": In(group_bid(config)).array(len(_RINGS)),
                **optional(self._recomputes, refetch_bid=In(group_bid(config))),
                "takes": In(1),
                "wins": Out(1).array(len(_RINGS)),
                **optional(self._recomputes, refetch_wins=Out(1)),
                "valid": Out(1),
                "request": Out(group_request(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bids = self.bids
        self._low_first = {}
        """By two rings: whether the bid of the lower one comes first by their orders."""
        for low, high in _PAIRS:
            is_first = Signal(name=f"first{low}{high}", reset_less=True)
            m.d.sync += is_first.eq((bids[low].next_order - bids[high].next_order)[ORDER_BITS - 1])
            self._low_first[low, high] = is_first
        if self._has_urgent:
            value_urgent = bids[VALUE].valid & bids[VALUE].urgent
        if self._recomputes:
            refetch = self.refetch_bid
            m.d.comb += self.refetch_wins.eq(refetch.valid & self.takes)
        for ring in _RINGS:
            others = [~bids[other].valid | self._is_before(ring, other) for other in _RINGS if other != ring]
            wins = bids[ring].valid & Cat(others).all()
            if self._has_urgent:
                wins = wins | value_urgent if ring == VALUE else wins & ~value_urgent
            wins = wins & self.takes
            m.d.comb += self.wins[ring].eq(wins & ~refetch.valid if self._recomputes else wins)
        requests = [Value.cast(bids[ring].request) for ring in _RINGS]
        all_wins: list[Value] = [self.wins[ring] for ring in _RINGS]
        if self._recomputes:
            requests.append(Value.cast(refetch.request))
            all_wins.append(self.refetch_wins)
        m.d.comb += [Value.cast(self.request).eq(one_of(all_wins, requests)), self.valid.eq(Cat(all_wins).any())]
        if asserts(platform):
            self._check_orders(m, value_urgent if self._has_urgent else Const(0, 1))
        return m

    def _check_orders(self, m: Module, value_urgent: Value) -> None:
        """Asserts that the orders of bids that stand are close enough to be compared."""
        standing = {ring: self.bids[ring].valid for ring in _RINGS} | {VALUE: self.bids[VALUE].valid & ~value_urgent}
        for low, high in _PAIRS:
            ahead = Signal(ORDER_BITS, name=f"ahead{low}{high}", reset_less=True)
            m.d.sync += ahead.eq(self.bids[low].next_order - self.bids[high].next_order)
            is_close = (ahead <= ORDER_SPAN_MAX) | (ahead >= (1 << ORDER_BITS) - ORDER_SPAN_MAX)
            m.d.sync += Assert(
                ResetSignal() | ~standing[low] | ~standing[high] | is_close,
                "two bids are too far apart to be compared\n",
            )

    def _is_before(self, ring: int, other: int) -> Value:
        """Whether the bid of a ring comes before that of another one by their orders."""
        is_low_first = self._low_first[min(ring, other), max(ring, other)]
        return is_low_first if ring < other else ~is_low_first
