"""What a block of keys or values takes: sectors of its ring, and the fetches that fill it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BLOCK, LSB_CODE, PLANE, plane_table
from spatten.hw.control.job_slots import head_shape, slot_layout
from spatten.hw.control.plan.plan_layouts import block_size_shape, fetches_max, plane_fetch
from spatten.hw.lib.logic import product
from spatten.hw.memory.address_generator import KEY
from spatten.spec.config import Config

__all__ = ["BlockPlan", "even_head", "head_bit", "odd_head"]


def even_head(head: Value) -> Value:
    """The first head of the pair that a head is in."""
    return Cat(Const(0, 1), head[1:])


def odd_head(head: Value) -> Value:
    """The second head of the pair that a head is in."""
    return Cat(Const(1, 1), head[1:])


def head_bit(heads: Value, head: Value) -> Value:
    """Whether a head is in a set of heads."""
    return heads.bit_select(head, 1)


class BlockPlan(wiring.Component):
    """The size of a block of keys or values, and the fetches that fill its rows, without those for no live head.

    Parameters
    ----------
    config : Config
    ring : int
        KEY or VALUE. Only keys have an LSB plane; values have one fetch, which every block needs.

    Ports
    -----
    job : in, the block's job (`slot_layout`)
    block : in, its format (`BLOCK`)
    head : in, its head, or any of its two heads if the format pairs heads
    live_heads : in, the job's live heads; only of keys
    rows : in, its rows
    size : out, sectors of a lane of the ring that it takes
    fetches : out, array of `plane_fetch`; of values `other` means nothing
    passes : out, how many of these there are, at the array's front; only of keys

    The outputs belong to the inputs of the cycle before.
    """

    def __init__(self, *, config: Config, ring: int) -> None:
        self.config = config
        self.has_lsb = ring == KEY
        ports: dict[str, Any] = {
            "job": In(slot_layout(config)),
            "block": In(BLOCK),
            "head": In(head_shape(config)),
            "rows": In(range(config.tokens_max + 1)),
            "size": Out(block_size_shape(config)),
            "fetches": Out(data.ArrayLayout(plane_fetch(config), fetches_max(ring))),
        }
        if self.has_lsb:
            ports |= {"live_heads": In(config.heads_max), "passes": Out(range(fetches_max(ring) + 1))}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        slices = self.config.slices
        size = Signal(self.size.shape(), reset_less=True)
        m.d.sync += size.eq(product((self.rows + (slices - 1)) >> ceil_log2(slices), self.block.stride))
        m.d.comb += self.size.eq(size)

        fetches = self._fetches(m)
        if self.has_lsb:
            self._choose(m, fetches)
        else:
            m.d.comb += Value.cast(self.fetches[0]).eq(Value.cast(fetches[0]))
        return m

    def _choose(self, m: Module, fetches: list[Any]) -> None:
        """Moves the fetches that live heads need to the front."""
        most = len(fetches)
        pair = Signal(2)
        live_pair = Cat(head_bit(self.live_heads, head) for head in (even_head(self.head), odd_head(self.head)))
        m.d.comb += pair.eq(Mux(self.block.paired, live_pair, 1))
        need = Signal(most, reset_less=True)
        m.d.sync += need.eq(
            Cat((n < self.block.passes) & (self.block.fetch[n].heads & pair).any() for n in range(most))
        )
        for place in range(most):
            chosen: Value = Value.cast(fetches[-1])
            for n in reversed(range(place, most - 1)):
                before = sum((need[k] for k in range(n)), Const(0, 2))
                chosen = Mux(need[n] & (before == place), Value.cast(fetches[n]), chosen)
            m.d.comb += Value.cast(self.fetches[place]).eq(chosen)
        m.d.comb += self.passes.eq(sum((need[n] for n in range(most)), Const(0, 2)))

    def _fetches(self, m: Module) -> list[Any]:
        """The fetches of the format, each in registers: its sector in two parts, which are added up behind these."""
        job, block = self.job, self.block
        bits = job.key_bits if self.has_lsb else job.value_bits
        msb_plane = plane_table(m, self.config, dim=job.head_dim, bits=bits, name="msb_plane")
        msb_origin, msb_step = (job.key, job.key_step) if self.has_lsb else (job.value, job.value_step)
        first_head = Mux(block.paired, even_head(self.head), self.head)
        if self.has_lsb:
            lsb_plane = plane_table(m, self.config, dim=job.head_dim, bits=LSB_CODE, name="lsb_plane")
        fetches = []
        for n in range(len(self.fetches)):
            entry = block.fetch[n]
            plane = Signal(PLANE, name=f"plane{n}")
            fetch = Signal(plane_fetch(self.config), name=f"fetch{n}", reset_less=True)
            first = Signal(fetch.sector.shape(), name=f"first{n}", reset_less=True)
            whole = Signal(plane_fetch(self.config), name=f"whole_fetch{n}")
            origin, step, fetched_head = msb_origin, msb_step, first_head
            if self.has_lsb:
                m.d.comb += Value.cast(plane).eq(Mux(entry.is_lsb, Value.cast(lsb_plane), Value.cast(msb_plane)))
                m.d.sync += fetch.other.eq(entry.is_lsb)
                origin, step = Mux(entry.is_lsb, job.key_lsb, origin), Mux(entry.is_lsb, job.lsb_step, step)
                fetched_head = first_head | entry.heads[1] & ~entry.heads[0]
            else:
                m.d.comb += plane.eq(msb_plane)
            row = Mux(plane.paired, fetched_head >> 1, fetched_head)
            m.d.comb += [whole.eq(fetch), whole.sector.eq(fetch.sector + first)]
            m.d.sync += [
                first.eq(origin + entry.first + product(step, row[:1])),
                fetch.sector.eq(product(step, row[1:]) << 1),
                fetch.pitch.eq(plane.sectors),
                fetch.sectors.eq(entry.sectors),
                fetch.place.eq(entry.place),
            ]
            fetches.append(whole)
        return fetches
