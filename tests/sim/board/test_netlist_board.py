"""A board's core as the cells of an ECP5, simulated: jobs from the pin of the serial line back to it, bit for bit.

The core is that of a small machine, and the board's own. Both take long to compile: only with `--whole-netlist`
(`make test-netlist`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spatten.golden.schedule import NO_PRUNING
from spatten.host.driver.board_transport import BoardTransport
from spatten.host.driver.device import Device
from spatten.host.engines.checked_engine import CheckedEngine
from spatten.host.engines.device_engine import DeviceEngine
from spatten.host.engines.engine import FloatArray, ModelShape
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.engines.quantized_engine import Settings
from spatten.hw.board.board_core import BoardCore
from spatten.hw.board.board_top import CORE
from spatten.hw.board.boards import BOARDS, Board
from spatten.hw.emit.verilog import convert
from spatten.sim.board.ecp5 import map_verilog
from spatten.sim.board.models import flattened
from spatten.sim.board.port import FAST_LINK
from spatten.sim.board.simulated_board import SimulatedBoard, SimulatedSerial
from spatten.spec.config import TINY, Feature

pytestmark = [pytest.mark.slow, pytest.mark.netlist, pytest.mark.needs("g++", "make", "perl")]

WHOLE = BOARDS["ulx3s"]
SMALL = replace(
    WHOLE,
    config=TINY.replace(
        name="small-board",
        operand_bits=8,
        head_dim_min=32,
        plane_widths=(4, 8),
        blocks=4,
        channels=1,
        channel_bits=16,
        contexts=1,
        jobs_in_flight=1,
        features=(Feature.PROGRESSIVE, Feature.SAVED_STATES),
    ),
)
SETTINGS = Settings(key_bits=4, lsb=True, threshold=0.3, tokens=(3,), heads=NO_PRUNING, pin_first=1, pin_recent=1)
SHAPE = ModelShape(layers=1, heads=2, head_dim=32, causal=True)


def netlist_of(board: Board) -> str:
    """The Verilog of the cells that a board's core becomes, and of the cells themselves."""
    core = BoardCore(
        config=board.config,
        part=board.part,
        clock_hz=board.pll.frequency_hz,
        divisor=FAST_LINK.divisor,
        gap_cycles=FAST_LINK.gap_cycles,
        access_cycles=FAST_LINK.access_cycles,
    )
    netlist = map_verilog(convert(core, name=CORE), top=CORE)
    print(netlist.counts())
    return flattened(netlist)


@pytest.mark.whole
@pytest.mark.parametrize("board", [SMALL, WHOLE], ids=["small", "whole"])
def test_a_prompt_and_a_token_through_the_cells(board: Board) -> None:
    with SimulatedBoard(board, link=FAST_LINK, core=netlist_of(board)) as simulation:
        serial = SimulatedSerial(simulation)
        with BoardTransport(serial, config=board.config, speeds=()) as transport:
            device = Device(transport)
            engine = CheckedEngine(DeviceEngine(device, SETTINGS, room=6), GoldenEngine(SETTINGS, device.config))
            sequence = engine.start(SHAPE, 4)
            source = np.random.default_rng(1)

            def tensors(rows: int) -> list[FloatArray]:
                return [source.normal(0, 1, (SHAPE.heads, rows, SHAPE.head_dim)).astype(np.float32) for _ in range(3)]

            prompt = sequence.prompt(0, *tensors(4), np.arange(4))
            token = sequence.step(0, *tensors(1), 4)
        assert np.abs(prompt.output).max() > 0
        assert token.rows == SHAPE.heads
        print(f"{simulation.cycles} cycles, {simulation.statistics()}")
