"""The K/V ring buffer against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Fragment, signed
from amaranth.sim import Simulator

from spatten.golden import GoldenError
from spatten.golden.ring_buffer import block_addresses, granted, window
from spatten.hw.emit.verilog import convert
from spatten.hw.lib.assertions import SIMULATION
from spatten.hw.memory.ring_buffer import RingBuffer, lane_window, window_request
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.ring_buffer import run_arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        {"lanes": 1, "sectors": 12, "linear": 8},
        {"lanes": 2, "sectors": 8, "count": 2},
        {"lanes": 1, "sectors": 6, "banks": 2, "blocks": 100},
    ],
    ids=str,
)
def test_matches_golden_in_icarus_without_initial_values(sizes: dict[str, Any]) -> None:
    run = run_arguments(**sizes)
    passed = cosimulate(**run, simulator="icarus", strip_initial=True)
    assert len(passed) == 9 * len(run["parameters"]["seeds"])


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"lanes": 2, "sectors": 20, "blocks": 200}, marks=pytest.mark.slow),
        {"lanes": 1, "sectors": 16, "linear": 4, "blocks": 100},
        pytest.param({"lanes": 1, "sectors": 40, "banks": 8, "blocks": 100}, marks=pytest.mark.slow),
        pytest.param({"lanes": 1, "sectors": 772, "blocks": 0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_matches_golden_in_verilator(sizes: dict[str, Any]) -> None:
    assert len(cosimulate(**run_arguments(**sizes), simulator="verilator", strip_initial=True)) == 9


@pytest.mark.slow
@pytest.mark.parametrize(("sectors", "banks"), [(8, 4), (12, 4), (60, 4), (4, 2), (24, 8)])
def test_verilog_is_lint_clean(sectors: int, banks: int) -> None:
    lint(convert(RingBuffer(lanes=2, sectors=sectors, banks=banks, header=1)))


# -- What its neighbours must keep to ---------------------------------------------------------------------------------


def _allocate(component: RingBuffer, sectors: int) -> Callable[[Any], Any]:
    async def run(context: Any) -> None:
        context.set(component.o_block.ready, 1)
        context.set(component.i_allocate.payload, sectors)
        context.set(component.i_allocate.valid, 1)
        await context.tick()
        context.set(component.i_allocate.valid, 0)
        await context.tick().repeat(3)

    return run


def _write(component: RingBuffer, sector: int) -> Callable[[Any], Any]:
    async def run(context: Any) -> None:
        port = component.write[0][sector % component.banks]
        context.set(port.address, sector // component.banks)
        context.set(port.enable, 1)
        await context.tick()
        context.set(port.enable, 0)

    return run


def _read(component: RingBuffer, sector: int, sectors: int) -> Callable[[Any], Any]:
    async def run(context: Any) -> None:
        context.set(component.i_read.payload.sector, sector)
        context.set(component.i_read.payload.sectors, sectors)
        context.set(component.i_read.valid, 1)
        await context.tick()
        context.set(component.i_read.valid, 0)

    return run


def _free(component: RingBuffer, sectors: int) -> Callable[[Any], Any]:
    async def run(context: Any) -> None:
        context.set(component.i_free.payload, sectors)
        context.set(component.i_free.valid, 1)
        await context.tick()
        context.set(component.i_free.valid, 0)
        await context.tick()

    return run


USES: list[tuple[list[tuple[Any, ...]], str | None]] = [
    # Seven of twelve sectors are allocated: 5 to 11, after five were freed.
    ([(_write, 5), (_write, 11), (_read, 5, 4), (_read, 8, 4), (_read, 11, 1), (_free, 7)], None),
    ([(_write, 6), (_read, 6, 1)], None),
    ([(_write, 4)], "a write to a sector of lane 0, bank 0 that is not allocated"),
    ([(_write, 0)], "a write to a sector of lane 0, bank 0 that is not allocated"),
    ([(_read, 4, 2)], "a window reads sectors that are not allocated"),
    ([(_read, 10, 3)], "a window reads sectors that are not allocated"),
    ([(_read, 7, 0)], "a window reads sectors that are not allocated"),
    ([(_read, 5, 5)], "a window reads sectors that are not allocated"),
    ([(_read, 6, 2), (_write, 7)], "lane 0, bank 3: a sector is read in the cycle in which it is written"),
    ([(_read, 6, 1), (_write, 7)], None),
    ([(_free, 8)], "more is freed than is allocated"),
    ([(_allocate, 0)], "an allocation can never be granted"),
    ([(_allocate, 13)], "an allocation can never be granted"),
]


def _name(value: Any) -> str:
    """Of a test: no address of a function, which differs between the processes of a parallel run."""
    if not isinstance(value, list):
        return str(value)
    return " ".join(f"{use.__name__}{tuple(arguments)}" for use, *arguments in value)


@pytest.mark.parametrize(("uses", "text"), USES, ids=_name)
def test_wrong_use_is_asserted_in_simulation(uses: list[tuple[Any, ...]], text: str | None) -> None:
    component = RingBuffer(lanes=1, sectors=12, header=1)
    simulator = Simulator(Fragment.get(component, SIMULATION))
    simulator.add_clock(1e-6)

    async def testbench(context: Any) -> None:
        for make, *arguments in [(_allocate, 12), (_free, 5), *uses]:
            await make(component, *arguments)(context)
        await context.tick()

    simulator.add_testbench(testbench)
    if text is None:
        simulator.run()
    else:
        with pytest.raises(AssertionError, match=text):
            simulator.run()


# -- Parameters and golden --------------------------------------------------------------------------------------------

GOOD = {"lanes": 2, "sectors": 12, "banks": 4, "header": 3}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lanes": 1.0}, TypeError, "lanes must be an integer, not 1.0"),
        ({"lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"sectors": True}, TypeError, "sectors must be an integer, not True"),
        ({"sectors": 4}, ValueError, "sectors must be a multiple of 4 of at least 8, not 4"),
        ({"sectors": 10}, ValueError, "sectors must be a multiple of 4 of at least 8, not 10"),
        ({"banks": "4"}, TypeError, "banks must be an integer, not '4'"),
        ({"banks": 1}, ValueError, "banks must be a power of two of at least 2, not 1"),
        ({"banks": 6}, ValueError, "banks must be a power of two of at least 2, not 6"),
        ({"header": "x"}, TypeError, "header must be an Amaranth shape, not 'x'"),
        ({"header": 0}, ValueError, "header must be at least 1 bit wide, not 0"),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        RingBuffer(**{**GOOD, **change})
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = RingBuffer(**{**GOOD, "header": signed(3)})
    assert component.i_read.payload.shape() == window_request(12, 4, signed(3))
    assert component.o_read.payload.shape() == lane_window(2, 4, signed(3))
    assert [len(component.i_allocate.payload), len(component.o_block.payload), len(component.level)] == [4, 4, 4]
    assert [len(component.write), len(component.write[0]), len(component.write[1][3].address)] == [2, 4, 2]


def test_golden_by_hand() -> None:
    # Blocks of 5, 4, 3 and 6 in a ring of 12: the fourth begins where the first did and needs 6 given up.
    sizes = np.array([5, 4, 3, 6])
    assert block_addresses(sizes, 12).tolist() == [0, 5, 9, 0]
    assert [granted(sizes, freed, 12) for freed in (0, 5, 6)] == [3, 3, 4]
    # Sectors 10, 11, 0 are in banks 2, 3, 0.
    words, needed = window(np.arange(24).reshape(2, 12), 10, 3, 4)
    assert needed.tolist() == [1, 0, 1, 1]
    assert words.tolist() == [[0, 0, 10, 11], [12, 0, 22, 23]]
    with pytest.raises(GoldenError, match="a block must have 1 to 12 sectors, not 13"):
        block_addresses(np.array([3, 13]), 12)


@pytest.mark.parametrize("seed", seeds())
def test_golden_against_a_ring_of_cells(seed: int) -> None:
    """Blocks occupy cells one after the other, as a walk around the ring finds them."""
    source = np.random.default_rng(seed)
    sectors = 20
    sizes = source.integers(1, sectors + 1, 300)
    addresses = block_addresses(sizes, sectors)
    used: list[int] = []
    place = freed = 0
    for block, size in enumerate(sizes):
        while len(used) + size > sectors:
            assert granted(sizes, freed, sectors) == block
            used.pop(0)
            freed += 1
        assert granted(sizes, freed, sectors) > block
        assert addresses[block] == place
        for _ in range(size):
            assert place not in used
            used.append(place)
            place = place + 1 if place < sectors - 1 else 0
