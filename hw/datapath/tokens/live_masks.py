"""Which tokens of each slot's job are live, by id line."""

from typing import Any

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.ram import Ram

__all__ = ["LiveMasks", "mask_read_port", "mask_write_port"]


def mask_write_port(layouts: Layouts) -> wiring.Signature:
    """enable, slot, line, mask : out, write a slot's line: bit i is set if token i of the line is live."""
    return wiring.Signature(
        {"enable": Out(1), "slot": Out(layouts.slot), "line": Out(layouts.line), "mask": Out(layouts.lanes)}
    )


def mask_read_port(layouts: Layouts) -> wiring.Signature:
    """enable, slot, line : out, read a slot's line; mask : in, in the cycle after, until the next read."""
    return wiring.Signature(
        {"enable": Out(1), "slot": Out(layouts.slot), "line": Out(layouts.line), "mask": In(layouts.lanes)}
    )


class LiveMasks(wiring.Component):
    """A memory with the masks of all slots' lines: the gather writes them, the scatter of the same job reads them.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    write : in, `mask_write_port`
    read : in, `mask_read_port`

    Latency: a cycle from a read to its mask. Throughput: one write and one read per cycle, of different lines.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__({"write": In(mask_write_port(layouts)), "read": In(mask_read_port(layouts))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.masks = masks = Ram(
            shape=self.layouts.lanes, depth=max(2, self.layouts.slots * self.layouts.lines)
        )
        m.d.comb += [
            masks.write_enable.eq(self.write.enable),
            masks.write_address.eq(self._address(self.write.slot, self.write.line)),
            masks.write_data.eq(self.write.mask),
            masks.read_enable.eq(self.read.enable),
            masks.read_address.eq(self._address(self.read.slot, self.read.line)),
            self.read.mask.eq(masks.read_data),
        ]
        return m

    def _address(self, slot: Value, line: Value) -> Value:
        return Cat(line[: ceil_log2(self.layouts.lines)], slot)
