"""Circuits in which every kind of ECP5 cell occurs in the ways that Yosys's mapping uses it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.ram import Ram, ReadWriteRam

BLOCK_DEPTHS = {1: 2048, 2: 1024, 4: 1024, 9: 1024, 18: 512, 36: 512}
"""Words of each width that a block RAM has, enough of them for Yosys to take one."""


class Zoo(wiring.Component):
    """Small circuits that share their inputs, each with an output of its own, called after it.

    Addresses and data are cut to what a circuit needs, so its sizes are powers of two.
    """

    def __init__(self, exhibits: dict[str, tuple[int, Callable[[Module, Any, Value], None]]]) -> None:
        self.exhibits = exhibits
        inputs = {
            "write": In(1), "read": In(1), "clear": In(1), "lanes": In(4), "write_address": In(14),
            "read_address": In(14), "data": In(36), "a": In(36), "b": In(36),
        }  # fmt: skip
        super().__init__(inputs | {name: Out(width) for name, (width, _) in exhibits.items()})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for name, (_, exhibit) in self.exhibits.items():
            exhibit(m, self, Value.cast(getattr(self, name)))
        return m


def _contents(width: int, depth: int) -> list[int]:
    source = random.Random(width * depth)
    return [source.getrandbits(width) for _ in range(depth)]


def _block_ram(width: int, *, writable: bool) -> Callable[[Module, Any, Value], None]:
    """A block RAM or ROM with contents; a word is not read while it is written."""

    def join(m: Module, zoo: Any, o: Value) -> None:
        depth = BLOCK_DEPTHS[width]
        words = memory.Memory(shape=unsigned(width), depth=depth, init=_contents(width, depth))
        m.submodules += words
        read = words.read_port()
        m.d.comb += [read.addr.eq(zoo.read_address), read.en.eq(zoo.read), o.eq(read.data)]
        if writable:
            write = words.write_port()
            collides = zoo.write & (write.addr == read.addr)
            m.d.comb += [write.addr.eq(zoo.write_address), write.data.eq(zoo.data), write.en.eq(zoo.write)]
            m.d.comb += read.en.eq(zoo.read & ~collides)

    return join


def _lanes(width: int, granularity: int) -> Callable[[Module, Any, Value], None]:
    """A block RAM whose words are written in parts."""

    def join(m: Module, zoo: Any, o: Value) -> None:
        words = memory.Memory(shape=unsigned(width), depth=512, init=_contents(width, 512))
        m.submodules += words
        read, write = words.read_port(), words.write_port(granularity=granularity)
        m.d.comb += [
            write.addr.eq(zoo.write_address),
            write.data.eq(zoo.data),
            write.en.eq(Mux(zoo.write, zoo.lanes, 0)),
            read.addr.eq(zoo.read_address),
            read.en.eq(zoo.read & ~(zoo.write & (write.addr == read.addr))),
            o.eq(read.data),
        ]

    return join


def _one_address(kind: str) -> Callable[[Module, Any, Value], None]:
    """A block RAM with one address for writing and reading: what a write shows is defined."""

    def join(m: Module, zoo: Any, o: Value) -> None:
        words = memory.Memory(shape=unsigned(18), depth=512, init=[])
        m.submodules += words
        write = words.write_port(granularity=9)
        read = words.read_port(transparent_for=[write] if kind == "new" else [])
        m.d.comb += [
            write.addr.eq(zoo.write_address),
            write.data.eq(zoo.data),
            write.en.eq(Mux(zoo.write, zoo.lanes[:2], 0)),
            read.addr.eq(zoo.write_address),
            read.en.eq(zoo.read & ~zoo.write if kind == "held" else zoo.read),
            o.eq(read.data),
        ]

    return join


def _collisions(*, new: bool) -> Callable[[Module, Any, Value], None]:
    """A block RAM that is read while it is written, which takes logic around it."""

    def join(m: Module, zoo: Any, o: Value) -> None:
        words = memory.Memory(shape=unsigned(18), depth=512, init=[])
        m.submodules += words
        write = words.write_port()
        read = words.read_port(transparent_for=[write] if new else [])
        # Few addresses, so that they are often the same.
        m.d.comb += [
            write.addr.eq(Cat(zoo.write_address[:2], zoo.write_address[12:])),
            write.data.eq(zoo.data),
            write.en.eq(zoo.write),
            read.addr.eq(Cat(zoo.read_address[:2], zoo.read_address[12:])),
            read.en.eq(zoo.read),
            o.eq(read.data),
        ]

    return join


def _project_ram(width: int, depth: int) -> Callable[[Module, Any, Value], None]:
    def join(m: Module, zoo: Any, o: Value) -> None:
        m.submodules += (ram := Ram(shape=width, depth=depth))
        m.d.comb += [
            ram.write_enable.eq(zoo.write),
            ram.write_address.eq(zoo.write_address),
            ram.write_data.eq(zoo.data),
            ram.read_enable.eq(zoo.read),
            ram.read_address.eq(zoo.read_address),
            o.eq(ram.read_data),
        ]

    return join


def _two_readers(m: Module, zoo: Any, o: Value) -> None:
    m.submodules += (ram := ReadWriteRam(shape=36, depth=512))
    m.d.comb += [
        ram.write_enable.eq(zoo.write),
        ram.access_read_enable.eq(~zoo.write & zoo.lanes[0]),
        ram.access_address.eq(zoo.write_address),
        ram.write_data.eq(zoo.data),
        ram.read_enable.eq(zoo.read),
        ram.read_address.eq(zoo.read_address),
        o.eq(Cat(ram.read_data, ram.access_read_data)),
    ]


def _unclocked_reader(m: Module, zoo: Any, o: Value) -> None:
    words = memory.Memory(shape=unsigned(6), depth=32, init=_contents(6, 32))
    m.submodules += words
    read, write = words.read_port(domain="comb"), words.write_port()
    m.d.comb += [
        write.addr.eq(zoo.write_address),
        write.data.eq(zoo.data),
        write.en.eq(zoo.write),
        read.addr.eq(zoo.read_address),
        o.eq(read.data),
    ]


def _cleared_reader(m: Module, zoo: Any, o: Value) -> None:
    """A register behind a block RAM that is cleared: it becomes the block RAM's own reset, or one beside it."""
    words = memory.Memory(shape=unsigned(18), depth=512, init=_contents(18, 512))
    m.submodules += words
    read = words.read_port()
    m.d.comb += [read.addr.eq(zoo.read_address), read.en.eq(1)]
    cleared = Signal()
    m.d.sync += cleared.eq(zoo.clear)
    m.d.comb += o.eq(Mux(cleared, 0, read.data))


def memories(*names: str) -> Zoo:
    """Block and LUT memories: those of these names, or all."""
    exhibits: dict[str, tuple[int, Callable[[Module, Any, Value], None]]] = {}
    for width in BLOCK_DEPTHS:
        exhibits[f"ram{width}"] = width, _block_ram(width, writable=True)
    exhibits |= {
        "rom": (18, _block_ram(18, writable=False)),
        "lanes36": (36, _lanes(36, 9)),
        "lanes18": (18, _lanes(18, 9)),
        "lanes32": (32, _lanes(32, 8)),
        "write_holds": (18, _one_address("held")),
        "write_shows_old": (18, _one_address("old")),
        "write_shows_new": (18, _one_address("new")),
        "collisions_old": (18, _collisions(new=False)),
        "collisions_new": (18, _collisions(new=True)),
        "wide": (80, _project_ram(80, 512)),
        "deep": (20, _project_ram(20, 1024)),
        "shallow": (20, _project_ram(20, 32)),
        "two_readers": (72, _two_readers),
        "unclocked": (6, _unclocked_reader),
        "cleared": (18, _cleared_reader),
    }
    return Zoo({name: exhibits[name] for name in names or exhibits})


FACTORS = (
    *((unsigned(18), unsigned(18)), (signed(18), signed(18)), (signed(18), unsigned(17)), (unsigned(12), signed(12))),
    *((signed(13), unsigned(7)), (signed(2), signed(18)), (unsigned(24), unsigned(24)), (signed(36), signed(20))),
)
"""Shapes of operands; those above 18 bits take several multipliers."""


def _product(a_shape: Shape, b_shape: Shape) -> Callable[[Module, Any, Value], None]:
    def join(m: Module, zoo: Any, o: Value) -> None:
        a, b = Signal(a_shape, reset_less=True), Signal(b_shape, reset_less=True)
        m.d.sync += [a.eq(zoo.a), b.eq(zoo.b)]
        m.d.comb += o.eq(a * b)

    return join


def _registers(m: Module, zoo: Any, o: Value) -> None:
    """Flip-flops with and without enable, reset and initial value, many and few together."""
    held, few, many = Signal(16, init=0xA5F0), Signal(3, init=5), Signal(20)
    powered = Signal(8, init=0x5A, reset_less=True)
    with m.If(zoo.write):
        m.d.sync += held.eq(zoo.data)
    with m.If(zoo.read):
        m.d.sync += few.eq(zoo.data)
    m.d.sync += many.eq(zoo.a ^ zoo.b)
    with m.If(~zoo.clear):
        m.d.sync += many.eq(0)
    with m.If(zoo.lanes == 3):
        m.d.sync += powered.eq(zoo.b)
    m.d.comb += o.eq(Cat(held, few, many, powered))


def _arithmetic(m: Module, zoo: Any, o: Value) -> None:
    """Carries: sums, differences, comparisons, a counter."""
    count = Signal(13)
    with m.If(zoo.write):
        m.d.sync += count.eq(Mux(zoo.clear, 0, count + zoo.lanes))
    a, b = zoo.a, zoo.b
    m.d.comb += o.eq(Cat(count, (a + b)[:37], (a - b)[:37], a < b, a[:9].as_signed() > b[:9].as_signed()))


def _selection(m: Module, zoo: Any, o: Value) -> None:
    """A wide select and a shift: what the multiplexers of slices are for."""
    shifted = (zoo.b << zoo.lanes)[:36]
    m.d.comb += o.eq(Cat(zoo.a.bit_select(zoo.data[:5], 1), shifted, zoo.a.word_select(zoo.lanes[:2], 9)))


def logic(*names: str) -> Zoo:
    """Multipliers, flip-flops, carries and LUTs: those of these names, or all."""
    exhibits: dict[str, tuple[int, Callable[[Module, Any, Value], None]]] = {}
    for number, (a_shape, b_shape) in enumerate(FACTORS):
        exhibits[f"product{number}"] = a_shape.width + b_shape.width, _product(a_shape, b_shape)
    exhibits |= {"registers": (47, _registers), "arithmetic": (89, _arithmetic), "selection": (46, _selection)}
    return Zoo({name: exhibits[name] for name in names or exhibits})
