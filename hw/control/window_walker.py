"""Walks along a row's keys or values in a ring, window by window, and lets a window be read when its rows have
arrived."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BANKS, window_layout
from spatten.hw.control.plan.plan_layouts import groups_max
from spatten.hw.control.segments import beats_max, row_windows
from spatten.hw.lib.logic import gather_or, product, ring_sum, select, wrapped_sum
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config

__all__ = ["ArrivalGate", "WindowWalker"]


class WindowWalker(wiring.Component):
    """The window of a row that is to be read next: which sectors of a lane, and what in them is needed.

    A row's keys lie in consecutive block rows of each lane, `slices` lanes side by side. A window takes some block rows
    of every lane at once; a key of several beats takes the same window place so many times, each time another part.

    Parameters
    ----------
    config : Config
    sectors : int
        Sectors of a lane of the ring, where an address wraps.
    linear_sectors : int
        Sectors behind the ring, which hold the keys of rows that are computed again; 0: there are none.
    left_shape : shape-like
        Of `left`.
    restarts : bool
        Whether a further row may read the same keys; it may where there are `linear_sectors`.

    Ports
    -----
    windows : in, how the row's windows are read (`hw.control.segments.row_windows`)
    left : in, keys that are to be read, those of this window among them
    starts, start : in, from the next cycle on begin at sector `start`
    steps : in, the window is taken: its next beat follows, or the next window
    base : in, where the row begins, in the ring or behind it; behind the last window the walk goes back to it, for the
        next row of the same keys. Only with `restarts` or `linear_sectors`.
    linear, last_place : in, the row lies behind the ring, where `base` follows on the window at `last_place`. Only with
        `linear_sectors`.
    first_beat, last_beat, last_window : out, of a key the first and the last beat; of the row the last window
    part : out, what is needed of the window
    sector, count : out, first sector of the window, in the ring, and how many there are of the row

    Combinational from `windows` and `left` to the outputs; one window or beat per cycle.
    """

    def __init__(
        self, *, config: Config, sectors: int, linear_sectors: int = 0, left_shape: ShapeLike, restarts: bool = False
    ) -> None:
        self.config = config
        self.restarts = restarts
        self.sectors = sectors
        self.linear_sectors = linear_sectors
        address = range(sectors + linear_sectors)
        ports: dict[str, Any] = {
            "windows": In(row_windows(config)),
            "left": In(Shape.cast(left_shape)),
            "starts": In(1),
            "start": In(address),
            "steps": In(1),
            "first_beat": Out(1),
            "last_beat": Out(1),
            "last_window": Out(1),
            "part": Out(window_layout()),
            "sector": Out(address),
            "count": Out(range(BANKS + 8)),
        }
        if restarts and not linear_sectors:
            ports |= {"base": In(address)}
        if linear_sectors:
            ports |= {"linear": In(1), "base": In(address), "last_place": In(address)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        beats = beats_max(config)
        windows = self.windows
        beat = Signal(range(max(2, beats)), reset_less=True)
        pointer = Signal(range(self.sectors + self.linear_sectors), reset_less=True)
        # Of its last window a row reads as many block rows of a lane as the last key needs.
        last_rows = ((self.left - 1) >> ceil_log2(config.slices))[:2]
        all_sectors, last_sectors = Signal(range(BANKS + 8)), Signal(range(BANKS + 8))
        m.d.comb += [
            self.last_window.eq(self.left <= windows.window_keys),
            self.first_beat.eq(~beat.any()),
            self.last_beat.eq(beat + 1 == windows.beats),
            Value.cast(self.part).eq(select([Value.cast(windows.parts[n]) for n in range(beats)], beat)),
            all_sectors.eq(self.part.sectors + windows.step - windows.stride),
            last_sectors.eq(self.part.sectors + product(windows.stride, last_rows)),
            self.count.eq(Mux(self.last_window, last_sectors, all_sectors)),
        ]
        wraps, stepped, less = ring_sum(pointer, windows.step, self.sectors)
        goes_back, stays_linear = Const(0, 1), Const(0, 1)
        if self.linear_sectors:
            sector = Signal(range(self.sectors + self.linear_sectors + 8))
            m.d.comb += [
                sector.eq(pointer + self.part.start),
                self.sector.eq(Mux(self.linear, sector, wrapped_sum(pointer, self.part.start, self.sectors))),
            ]
            goes_back = self.last_window | (self.linear & (pointer == self.last_place))
            stays_linear = self.linear & ~goes_back
        else:
            m.d.comb += self.sector.eq(wrapped_sum(pointer, self.part.start, self.sectors))
            if self.restarts:
                goes_back = self.last_window
        # The sum less the ring's size comes last, and meets one gate that joins what may follow.
        early = [Mux(self.starts, self.start, 0), Mux(~self.starts & stays_linear, stepped, 0)]
        if self.restarts or self.linear_sectors:
            early.append(Mux(~self.starts & goes_back, self.base, 0))
        late = Mux(~self.starts & ~goes_back & ~stays_linear, Mux(wraps, less, stepped), 0)
        with m.If(self.steps):
            m.d.sync += beat.eq(Mux(self.last_beat, 0, beat + 1))
        with m.If(self.starts):
            m.d.sync += beat.eq(0)
        with m.If(self.starts | (self.steps & self.last_beat)):
            m.d.sync += pointer.eq(gather_or(early) | late)
        return m


class ArrivalGate(wiring.Component):
    """Whether the rows of a window that waits are in the ring: all of one group, since windows are aligned to groups.

    Whether they are there is looked up a cycle before: in the cycle in which a window begins to wait, and in every
    further cycle again. So `has_rows` comes from a register.

    Parameters
    ----------
    config : Config
    has_linear : bool
        Whether windows may lie behind the ring, where `linear_arrived` groups are there.

    Ports
    -----
    arrived : in, of each block of the ring the row groups that are there
    entry, group : in, block and group of the window that waits
    begins, next_entry, next_group : in, the window that waits in the next cycle is of that block and group; without
        `begins` it is the one that waits now
    linear_arrived, linear, next_linear : in, groups that are there behind the ring, and whether `entry`, `next_entry`
        stand for that part; only with `has_linear`
    has_rows : out, the window's rows are there
    """

    def __init__(self, *, config: Config, has_linear: bool = False) -> None:
        self.config = config
        self.groups = groups_max(config)
        self.has_linear = has_linear
        count = range(self.groups + 1)
        ports: dict[str, Any] = {
            "arrived": In(data.ArrayLayout(count, config.blocks)),
            "begins": In(1),
            "entry": In(entry_shape(config.blocks)),
            "group": In(range(self.groups)),
            "next_entry": In(entry_shape(config.blocks)),
            "next_group": In(range(self.groups)),
            "has_rows": Out(1),
        }
        if has_linear:
            ports |= {"linear_arrived": In(count), "linear": In(1), "next_linear": In(1)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arrived = [self.arrived[n] for n in range(self.config.blocks)]
        there, there_next = select(arrived, self.entry), select(arrived, self.next_entry)
        if self.has_linear:
            there = Mux(self.linear, self.linear_arrived, there)
            there_next = Mux(self.next_linear, self.linear_arrived, there_next)
        has_rows = Signal(reset_less=True)
        m.d.sync += has_rows.eq(Mux(self.begins, there_next > self.next_group, there > self.group))
        m.d.comb += self.has_rows.eq(has_rows)
        return m
