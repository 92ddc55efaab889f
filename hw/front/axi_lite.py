"""The AXI4-Lite bus."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.parameters import check_integer

__all__ = ["AxiLite"]


class AxiLite(wiring.Signature):
    """AXI4-Lite as the master sees it: `Out(AxiLite(...))` is a master's port, `In(AxiLite(...))` a slave's.

    Parameters
    ----------
    address_bits : int
        Bits of a byte address, at least 2.
    data_bits : int
        Bits of a data word, 32 or 64.

    Members are called as in the specification (ARM IHI 0022, B1), in lower case.
    """

    def __init__(self, *, address_bits: int, data_bits: int = 32) -> None:
        for name, value in (("address_bits", address_bits), ("data_bits", data_bits)):
            check_integer(name, value)
        if address_bits < 2:
            raise ValueError(f"address_bits must be at least 2, not {address_bits!r}")
        if data_bits not in (32, 64):
            raise ValueError(f"data_bits must be 32 or 64, not {data_bits!r}")
        self.address_bits = address_bits
        self.data_bits = data_bits
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(data_bits),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AxiLite) and self.members == other.members

    def __repr__(self) -> str:
        return f"AxiLite(address_bits={self.address_bits}, data_bits={self.data_bits})"
