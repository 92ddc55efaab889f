"""The boards that a bitstream can be made for: pins by way of amaranth-boards, clocks, and the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from spatten.hw.board.sdram_timing import AS4C16M16, SdramPart
from spatten.spec.config import NAMED, Config
from spatten.spec.errors import SpattenError

__all__ = ["BOARDS", "Board", "BoardError", "Pll", "require_board"]

_PHASES = 8
"""Steps of a PLL's output phase in a cycle of its oscillator."""


@dataclass(frozen=True, kw_only=True)
class Pll:
    """An ECP5's PLL (EHXPLLL) with two outputs of one frequency: reference / `reference_divider` x `multiplier`.

    Errors: `ValueError` for what the part cannot do (Lattice FPGA-DS-02012, sysCLOCK PLL timing).
    """

    reference_hz: int
    reference_divider: int
    multiplier: int
    output_divider: int
    """The oscillator runs so many times faster than the outputs."""
    phase_degrees: float
    """How much later the second output is than the first: a multiple of 360 / (8 x `output_divider`)."""

    def __post_init__(self) -> None:
        detector, oscillator = self.reference_hz / self.reference_divider, self.frequency_hz * self.output_divider
        if not 3.125e6 <= detector <= 400e6:
            raise ValueError(f"the phase detector must run at 3.125 to 400 MHz, not {detector / 1e6:g}")
        if not 400e6 <= oscillator <= 800e6:
            raise ValueError(f"the oscillator must run at 400 to 800 MHz, not {oscillator / 1e6:g}")
        if self._steps != int(self._steps) or not 0 <= self._steps < _PHASES * self.output_divider:
            step = 360 / (_PHASES * self.output_divider)
            raise ValueError(f"phase_degrees must be 0 to below 360 in steps of {step:g}, not {self.phase_degrees:g}")

    @property
    def frequency_hz(self) -> int:
        return self.reference_hz * self.multiplier // self.reference_divider

    @property
    def _steps(self) -> float:
        return self.phase_degrees / 360 * _PHASES * self.output_divider

    @property
    def parameters(self) -> dict[str, int | str]:
        """Parameters of the EHXPLLL: its feedback is the first output."""
        coarse, fine = divmod(int(self._steps), _PHASES)
        return {
            "CLKI_DIV": self.reference_divider,
            "CLKFB_DIV": self.multiplier,
            "FEEDBK_PATH": "CLKOP",
            "CLKOP_ENABLE": "ENABLED",
            "CLKOP_DIV": self.output_divider,
            "CLKOP_CPHASE": self.output_divider - 1,
            "CLKOP_FPHASE": 0,
            "CLKOS_ENABLE": "ENABLED",
            "CLKOS_DIV": self.output_divider,
            "CLKOS_CPHASE": self.output_divider - 1 + coarse,
            "CLKOS_FPHASE": fine,
            "OUTDIVIDER_MUXA": "DIVA",
            "OUTDIVIDER_MUXB": "DIVB",
            "PLLRST_ENA": "ENABLED",
            "STDBY_ENABLE": "DISABLED",
            "DPHASE_SOURCE": "DISABLED",
        }


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board: what is on it, and which accelerator fits."""

    title: str
    platform: type[LatticeECP5Platform]
    """Its pins, as amaranth-boards has them, with the resources `sdram`, `uart` and `led`."""
    config: Config
    pll: Pll
    """From the platform's default clock to that of accelerator and SDRAM; the second output drives the SDRAM's pin."""
    part: SdramPart
    reset_button: tuple[str, int]
    """The resource of the button that resets everything."""
    leds: Mapping[str, int]
    """Numbers of the LEDs by the outputs of `BoardCore` that they show."""


BOARDS: Mapping[str, Board] = {
    "ulx3s": Board(
        title="ULX3S with an LFE5U-85F",
        platform=ULX3S_85F_Platform,
        config=NAMED["ulx3s"],
        pll=Pll(reference_hz=25_000_000, reference_divider=5, multiplier=16, output_divider=8, phase_degrees=270),
        part=AS4C16M16,
        reset_button=("button_fire", 0),
        leds={"alive": 0, "busy": 1, "link": 2, "error": 3},
    )
}
"""By the name that `make bitstream BOARD=` takes."""


class BoardError(SpattenError, ValueError):
    """There is no such board; the message names those that there are."""


def require_board(name: str) -> Board:
    """The board of this name. Raises `BoardError`."""
    if name not in BOARDS:
        raise BoardError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return BOARDS[name]
