"""Sizes that no configuration changes, and that the circuit shares with what models, drives or measures it."""

__all__ = [
    "AXI_ADDRESS_BITS",
    "FLAT_LIMIT_BITS",
    "FLAT_LIMIT_FRACTION",
    "PAGE_BITS",
    "PAGE_BYTES",
    "SCALE_SHIFT_BITS",
    "STASH_SLOTS",
]

AXI_ADDRESS_BITS = 40
"""Address width of a memory channel's AXI4 master, in bytes."""
PAGE_BYTES = 4096
"""Unit of a channel's base address; no burst crosses a multiple of it."""
PAGE_BITS = AXI_ADDRESS_BITS - (PAGE_BYTES.bit_length() - 1)
"""Width of a channel's base address, in pages."""
STASH_SLOTS = 4
"""Rows whose scores and query are stashed until it is known whether they need their LSBs."""
SCALE_SHIFT_BITS = 6
"""Width of a score scale's shift."""
FLAT_LIMIT_BITS = 16
"""Width of the limit above which a row's sum of exponentials makes it flat."""
FLAT_LIMIT_FRACTION = 5
"""Fraction bits of the limit above which a row is flat."""
