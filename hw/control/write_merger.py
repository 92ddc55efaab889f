"""Sectors to memory from two sources: the output of rows, and saved states."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.saved.state_layouts import sector_at
from spatten.hw.lib.logic import equals
from spatten.hw.memory.axi import sector_write
from spatten.spec.config import Config

__all__ = ["WriteMerger"]


class WriteMerger(wiring.Component):
    """Sends a sector of a state to its channel when no output goes there; once offered it stays until it is taken.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i_output : array by channel of streams of `hw.memory.axi.sector_write`
    i_state : stream of `hw.control.saved.state_layouts.sector_at`
    o : array by channel of streams of `hw.memory.axi.sector_write`
    output_queued : in, for each channel how many sectors of output it has been given, modulo 65,536
    queued : out, the same with the sectors of states

    Combinational from the inputs to the channels. A state's sector may wait as long as output goes to its channel.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        write = stream.Signature(sector_write(config.local_sector_bits))
        counts = data.ArrayLayout(16, config.channels)
        super().__init__(
            {
                "i_output": In(write).array(config.channels),
                "i_state": In(stream.Signature(sector_at(config))),
                "o": Out(write).array(config.channels),
                "output_queued": In(counts),
                "queued": Out(counts),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        channel_bits = ceil_log2(self.config.channels)
        state = self.i_state
        taken = []
        for channel, port in enumerate(self.o):
            output = self.i_output[channel]
            is_its = equals(state.payload.sector[:channel_bits], channel) if channel_bits else Const(1)
            wants = state.valid & is_its
            uses = Signal(name=f"state_uses{channel}")
            holds = Signal(name=f"state_holds{channel}")
            sent = Signal(16, name=f"state_sent{channel}")
            m.d.comb += [
                uses.eq(wants & (holds | ~output.valid)),
                port.valid.eq(output.valid | wants),
                port.payload.address.eq(Mux(uses, state.payload.sector >> channel_bits, output.payload.address)),
                port.payload.data.eq(Mux(uses, state.payload.data, output.payload.data)),
                output.ready.eq(port.ready & ~uses),
                self.queued[channel].eq(self.output_queued[channel] + sent),
            ]
            m.d.sync += holds.eq(uses & ~port.ready)
            with m.If(uses & port.ready):
                m.d.sync += sent.eq(sent + 1)
            taken.append(uses & port.ready)
        m.d.comb += state.ready.eq(Cat(taken).any())
        return m
