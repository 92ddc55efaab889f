"""Loads and stores the state of contexts, and shares with bitmaps the way from memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.plan.plan_layouts import members_request
from spatten.hw.control.saved.state_layouts import head_state, layouts, sector_at, state_command
from spatten.hw.control.state import StateLoad, StateStore
from spatten.hw.lib.arbiter import RoundRobin
from spatten.spec.config import Config
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["SavedStates"]


class SavedStates(wiring.Component):
    """`StateLoad` and `StateStore`, the accesses of both to the token importance, and whose rows come from memory.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i_load, i_store : streams of `hw.control.saved.state_layouts.state_command`
    loaded : out, `hw.control.saved.state_layouts.head_state`, valid from when a command on `i_load` is taken
    stored : in, `hw.control.saved.state_layouts.head_state`, stable while a command on `i_store` is valid
    o_request, i_rows : stream of requests for the sector reader; stream of its rows, those of bitmaps among them
    o_bitmaps : stream of rows: all that come while no command to load is there
    o_access, i_access : streams to and from the token importance unit
    o : stream of `hw.control.saved.state_layouts.sector_at`, to memory

    Combinational from `i_rows` to `o_bitmaps`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        payloads = layouts(config)
        command = stream.Signature(state_command(config))
        rows = stream.Signature(unsigned(BANKS * SECTOR_BITS))
        super().__init__(
            {
                "i_load": In(command),
                "i_store": In(command),
                "loaded": Out(head_state(config)),
                "stored": In(head_state(config)),
                "o_request": Out(stream.Signature(members_request(config))),
                "i_rows": In(rows),
                "o_bitmaps": Out(rows),
                "o_access": Out(stream.Signature(payloads.access)),
                "i_access": In(stream.Signature(payloads.state)),
                "o": Out(stream.Signature(sector_at(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        connect, flipped = wiring.connect, wiring.flipped
        m.submodules.load = load = StateLoad(config=self.config)
        m.submodules.store = store = StateStore(config=self.config)
        m.submodules.access = access = RoundRobin(shape=self.o_access.payload.shape(), inputs=2)
        connect(m, flipped(self.i_load), load.i)
        connect(m, flipped(self.i_store), store.i)
        connect(m, load.o_request, flipped(self.o_request))
        connect(m, store.o, flipped(self.o))
        connect(m, load.o_access, access.i[0])
        connect(m, store.o_access, access.i[1])
        connect(m, access.o, flipped(self.o_access))
        # `load` only writes and `store` only reads, so all answers are for `store`.
        connect(m, flipped(self.i_access), store.i_access)
        loads = self.i_load.valid
        m.d.comb += [
            self.loaded.eq(load.heads),
            store.heads.eq(self.stored),
            load.i_rows.valid.eq(self.i_rows.valid & loads),
            load.i_rows.payload.eq(self.i_rows.payload),
            self.o_bitmaps.valid.eq(self.i_rows.valid & ~loads),
            self.o_bitmaps.payload.eq(self.i_rows.payload),
            self.i_rows.ready.eq(Mux(loads, load.i_rows.ready, self.o_bitmaps.ready)),
        ]
        return m
