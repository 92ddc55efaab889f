"""Loads a bitstream onto a board with openFPGALoader: `make flash`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from spatten.hw.board.boards import require_board
from spatten.sim import requirements
from spatten.sim.board.bitstream import BITSTREAM
from spatten.spec.errors import SpattenError

_UNREACHED = ("device not found", "unable to open", "JTAG init failed", "usb_open", "cable not found")
"""What openFPGALoader says when it does not get as far as the FPGA."""


class NoBitstreamError(SpattenError, RuntimeError):
    """There is nothing to load."""


class LoaderError(SpattenError, RuntimeError):
    """openFPGALoader did not load the bitstream."""

    exit_status = 1


class MissingLoaderError(requirements.MissingError, LoaderError):
    """openFPGALoader is not there, or does not run."""

    exit_status = 2


def flash(board: str, out: Path, *, keep: bool) -> None:
    """Load the bitstream in `out` into the FPGA, until it is switched off, or with `keep` into the board's flash, from
    which the FPGA loads it whenever it is switched on.

    Boards are called as openFPGALoader calls them. Its progress is on stdout.
    """
    require_board(board)
    bitstream = out / BITSTREAM
    if not bitstream.is_file():
        raise NoBitstreamError(f"there is no bitstream {bitstream}: make bitstream BOARD={board} makes one")
    requirements.require("flash", requirements.needed("flash"), MissingLoaderError)
    loader = requirements.loader()
    assert loader is not None
    command = [loader, "--board", board, "--write-flash" if keep else "--write-sram", str(bitstream.absolute())]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if ended.returncode == 0:
        return
    said = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    last = said[-1] if said else f"exit status {ended.returncode}"
    if any(sign in line for line in said for sign in _UNREACHED):
        raise LoaderError(
            f"no {board} can be reached: plug its USB port US1 into this computer, and see docs/board.md about the "
            f"right to open it (openFPGALoader: {last})"
        )
    raise LoaderError(f"openFPGALoader: {last}")
