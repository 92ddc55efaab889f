"""The port `simulated`: a simulated board for whatever takes a port, which importing this module registers."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from spatten.host.driver.board import register_port
from spatten.host.driver.board_transport import BoardTransport
from spatten.hw.board.boards import BOARDS
from spatten.sim.board.simulated_board import LinkSettings, SimulatedBoard, SimulatedSerial
from spatten.sim.verify.build import require_tools
from spatten.spec.config import Config
from spatten.spec.link_protocol import DIVISOR_MIN

__all__ = ["FAST_LINK", "PORT", "open_simulated"]

PORT = "simulated"
FAST_LINK = LinkSettings(divisor=DIVISOR_MIN, gap_cycles=1 << 12)
"""The fastest line that a board can speak on, from its reset on, and a short silence that ends a frame."""


def open_simulated(config: Config, *, board: str = "ulx3s") -> BoardTransport:
    """The transport to a simulated board with the accelerator of a configuration, which ends with the transport."""
    require_tools("verilator")  # now rather than after the minutes that the generator takes
    console = Console(stderr=True)
    console.quiet = not console.is_terminal  # elsewhere stderr is for errors
    with console.status(f"building the simulated board {board} with {config.name}, which takes minutes the first time"):
        simulated = SimulatedBoard(replace(BOARDS[board], config=config), link=FAST_LINK, progress=False)
    try:
        return BoardTransport(SimulatedSerial(simulated, ends_board=True), config=config, speeds=())
    except BaseException:
        simulated.close()
        raise


register_port(PORT, open_simulated)
