"""An SDRAM's sizes and timings: as its data sheet gives them, and in cycles of a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from spatten.hw.lib.parameters import check_integer

__all__ = ["AS4C16M16", "DQ_BITS", "MOST_BEATS", "SdramPart", "SdramTiming"]

DQ_BITS = 16
"""Data pins of a part: a beat of the controller's AXI port."""
MOST_BEATS = 256
"""Most beats of a burst on AXI4."""
_LATENESS = 2 * MOST_BEATS
"""Cycles that refreshing may be late: a burst in progress, the recovery of its bank, and the closing of all banks."""


def _check_number(name: str, value: object, *, least: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least:g}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class SdramPart:
    """A single data rate SDRAM with 16 data pins and four banks. Times are in ns, the least of their kind, and have the
    names of JEDEC's standard 21-C."""

    row_bits: int = 13
    column_bits: int = 9
    cas_latency: int = 3
    t_rcd: float
    """ACTIVE to READ or WRITE."""
    t_rp: float
    """PRECHARGE to ACTIVE or REFRESH."""
    t_ras: float
    """ACTIVE to PRECHARGE."""
    t_ras_most: float
    """Longest that a row may be open."""
    t_rc: float
    """ACTIVE to ACTIVE of the same bank."""
    t_rrd: float
    """ACTIVE to ACTIVE of another bank."""
    t_wr: float
    """Last datum written to PRECHARGE; some data sheets call it tDPL."""
    t_rfc: float
    """REFRESH to REFRESH or ACTIVE."""
    mode_cycles: int = 2
    """LOAD MODE REGISTER to any command, in cycles (tMRD)."""
    refresh_window: float = 64e6
    """Within this time every row must be refreshed once."""
    power_up: float = 200e3
    """From a stable clock to the first command."""

    def __post_init__(self) -> None:
        for name, low, high in (("row_bits", 3, 13), ("column_bits", 9, 10), ("cas_latency", 2, 3)):
            check_integer(name, getattr(self, name), low, high)
        check_integer("mode_cycles", self.mode_cycles, 1, 15)
        for field in fields(self):
            if field.type == "float":
                _check_number(field.name, getattr(self, field.name), least=0)

    @property
    def bank_bits(self) -> int:
        return 2

    @property
    def byte_bits(self) -> int:
        """Width of a byte address within the part."""
        return 1 + self.column_bits + self.bank_bits + self.row_bits


AS4C16M16 = SdramPart(t_rcd=21, t_rp=21, t_ras=44, t_ras_most=100_000, t_rc=66, t_rrd=15, t_wr=15, t_rfc=66)
"""32 MB as 4 banks of 8,192 rows of 512 words. Each time is the longer one of the AS4C16M16SA-7 and the
MT48LC16M16A2-75, so that either may be on the board."""


@dataclass(frozen=True, kw_only=True)
class SdramTiming:
    """A part's timings in cycles of the controller's clock, as `of` derives them: the cycle of a command to the first
    one that may have the next."""

    part: SdramPart
    cas_latency: int
    t_rcd: int
    """At least 2, and at least tRRD: the next ACTIVE follows the access that this one was for."""
    t_rp: int
    t_ras: int
    """At least tRC - tRP, so that tRC holds by itself."""
    t_wr: int
    t_rfc: int
    t_mrd: int
    power_up: int
    batch: int
    """How many rows are refreshed one after the other."""
    refresh_period: int
    """From one batch to the next."""

    @classmethod
    def of(cls, part: SdramPart, *, clock_mhz: float, batch: int = 8) -> SdramTiming:
        """Of `part` at a clock. `batch` rows are refreshed together: all banks are closed once for each batch."""
        if not isinstance(part, SdramPart):
            raise TypeError(f"part must be an SdramPart, not {part!r}")
        _check_number("clock_mhz", clock_mhz, least=1)
        check_integer("batch", batch, 1, 64)
        period = 1000 / clock_mhz

        def cycles(time: float) -> int:
            return max(1, math.ceil(time / period - 1e-9))

        t_rp = cycles(part.t_rp)
        window = math.floor(part.refresh_window / period + 1e-9)
        timing = cls(
            part=part,
            cas_latency=part.cas_latency,
            t_rcd=max(2, cycles(part.t_rcd), cycles(part.t_rrd)),
            t_rp=t_rp,
            t_ras=max(cycles(part.t_ras), cycles(part.t_rc) - t_rp),
            t_wr=cycles(part.t_wr),
            t_rfc=cycles(part.t_rfc),
            t_mrd=part.mode_cycles,
            power_up=cycles(part.power_up),
            batch=batch,
            refresh_period=(window - _LATENESS) * batch >> part.row_bits,
        )
        if timing.refresh_period <= _LATENESS + batch * timing.t_rfc:
            raise ValueError(
                f"refresh_window must leave time for accesses at {clock_mhz:g} MHz, not be {window} cycles"
            )
        longest = (timing.refresh_period + _LATENESS) * period
        if longest > part.t_ras_most:
            raise ValueError(
                f"batch must be smaller: a row may be open for {part.t_ras_most:g} ns, "
                f"and with {batch!r} it would be for {longest:g} ns"
            )
        return timing

    @property
    def t_turn(self) -> int:
        """From the READ of a word to the WRITE of the next: a READ may bring a word more than was asked for, and a
        cycle passes in which nobody drives the data pins."""
        return self.cas_latency + 3

    @property
    def mode(self) -> int:
        """The mode register: bursts of two words, in sequence, for reads and writes."""
        return self.cas_latency << 4 | 0b001
