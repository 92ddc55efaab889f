"""The score scale of every head of the jobs in flight, and how it depends on the codes of the keys."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import by_bits
from spatten.hw.control.job_layouts import score_scale
from spatten.hw.control.job_slots import head_place, head_shape
from spatten.hw.control.segments import scale_write
from spatten.hw.lib.connections import optional
from spatten.hw.lib.ram import Ram
from spatten.hw.lib.unstalled import unstalled
from spatten.spec.config import LSB_BITS, Config, Feature

__all__ = ["ScoreScales", "excess_bits"]


class ScoreScales(wiring.Component):
    """Keeps the score scale of every head of the jobs in flight, for two readers that share its read port.

    Without progressive recompute there is one reader, and no `again`.

    Parameters
    ----------
    config : Config

    Ports
    -----
    scale : in, `scale_write`
    walk : `unstalled` stream of `head_place`, in: the head whose scale the walk reads in this cycle
    again : stream of `head_place`, in: the head whose scale a row that is computed again reads; it waits while the walk
        reads
    o : out, `score_scale`, the one that was read last; valid from the cycle after

    A scale must not be read in the cycle in which it is written. A scale is that of exact scores q.k, and its `shift`
    is less where scores are in a larger unit: of an MSB plane by `LSB_BITS`, of a joined plane by `excess_bits`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._recomputes = config.has(Feature.PROGRESSIVE)
        super().__init__(
            {
                "scale": In(scale_write(config)),
                "walk": In(unstalled(head_place(config))),
                **optional(self._recomputes, again=In(stream.Signature(head_place(config)))),
                "o": Out(score_scale()),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, scale = self.config, self.scale
        depth = config.jobs_in_flight << head_shape(config).width
        m.submodules.memory = memory = Ram(shape=score_scale(), depth=depth)
        m.d.comb += [
            memory.write_enable.eq(scale.enable),
            memory.write_address.eq(self._address(scale)),
            memory.write_data.mantissa.eq(scale.mantissa),
            memory.write_data.shift.eq(scale.shift),
        ]
        walked = self._address(self.walk.payload)
        if self._recomputes:
            m.d.comb += [
                memory.read_enable.eq(self.walk.valid | self.again.valid),
                memory.read_address.eq(Mux(self.walk.valid, walked, self._address(self.again.payload))),
                self.again.ready.eq(~self.walk.valid),
            ]
        else:
            m.d.comb += [memory.read_enable.eq(self.walk.valid), memory.read_address.eq(walked)]
        m.d.comb += [
            self.o.eq(memory.read_data),
        ]
        return m

    def _address(self, place: Any) -> Value:
        """Where the scale of the head at `place` is."""
        return Cat(place.head, place.slot) if self.config.jobs_in_flight > 1 else Value.cast(place.head)


def excess_bits(config: Config, key_bits: Value) -> Value:
    """Bits that MSB and LSB together have more than an operand, for the code of the bits of the MSB plane."""
    return by_bits(config, key_bits, lambda bits: max(0, bits + LSB_BITS - config.operand_bits))
