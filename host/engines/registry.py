"""Engines by name, for command lines: `golden`, `float`, `rtl`, the simulated Verilog, or `board`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum

from spatten.host.driver.board import board_device
from spatten.host.driver.device import Device
from spatten.host.engines.device_engine import DeviceEngine
from spatten.host.engines.engine import AttentionEngine, ModelShape, ReferenceEngine
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.engines.quantized_engine import Settings
from spatten.spec.config import Config
from spatten.spec.errors import SpattenError

__all__ = ["EngineError", "EngineName", "check_port", "make_engine", "register"]


class EngineName(StrEnum):
    """What computes the attention."""

    GOLDEN = "golden"
    """The integer model, bit for bit the hardware."""
    FLOAT = "float"
    """Dense float32: no quantization, no pruning."""
    RTL = "rtl"
    """The Verilog, in simulation: builds it first, which takes minutes."""
    BOARD = "board"
    """The accelerator on a board, behind a port."""


class EngineError(SpattenError, LookupError):
    """An engine of a known name that nobody has registered, or one that lacks its port or has one too many."""


Devices = Callable[[Config], AbstractContextManager[Device]]
"""Makes an accelerator of a configuration, for as long as a `with` block lasts."""
_devices: dict[EngineName, Devices] = {}


def register(name: EngineName, devices: Devices) -> None:
    """Have the engine `name` run on the accelerators that `devices` makes: a simulation registers itself so."""
    _devices[name] = devices


def check_port(name: EngineName, port: str | None) -> None:
    """Raise `EngineError` unless a port is given to the engine that has one, and to no other."""
    if name is EngineName.BOARD and port is None:
        raise EngineError(f"the engine {name} needs a port, such as --port /dev/ttyUSB0")
    if name is not EngineName.BOARD and port is not None:
        raise EngineError(f"the engine {name} has no port: a port goes with --engine {EngineName.BOARD}")


@contextmanager
def make_engine(
    name: EngineName, settings: Settings, config: Config, shape: ModelShape, length: int, *, port: str | None = None
) -> Iterator[AttentionEngine]:
    """An engine for sequences of `length` tokens of a model of that shape, for as long as the block lasts.

    `port` is that of the engine `board`: a serial device, or a name of `host.driver.board.register_port`.

    Raises `GoldenError`, before anything is built or opened, where the configuration cannot hold such sequences,
    `EngineError` for an engine that needs an accelerator which nobody has registered, or lacks its port, and what
    `host.driver.board.board_device` raises.
    """
    check_port(name, port)
    if name is EngineName.FLOAT:
        yield ReferenceEngine()
    elif name is EngineName.GOLDEN:
        yield GoldenEngine(settings, config)
    elif name is EngineName.BOARD:
        assert port is not None
        GoldenEngine(settings, config).check(shape, length)
        with board_device(config, port=port) as device:
            yield DeviceEngine(device, settings, room=length if shape.causal else None, name=name)
    else:
        if name not in _devices:
            raise EngineError(
                f"the engine {name} must be registered first: spatten.sim.machine.device does so with rtl"
            )
        GoldenEngine(settings, config).check(shape, length)
        with _devices[name](config) as device:
            yield DeviceEngine(device, settings, name=name)
