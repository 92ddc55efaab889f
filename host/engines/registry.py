"""Engines by name, for command lines: `golden`, `float`, or `rtl`, the simulated Verilog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum

from spatten.host.driver.device import Device
from spatten.host.engines.device_engine import DeviceEngine
from spatten.host.engines.engine import AttentionEngine, ModelShape, ReferenceEngine
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.engines.quantized_engine import Settings
from spatten.spec.config import Config
from spatten.spec.errors import SpattenError

__all__ = ["EngineError", "EngineName", "make_engine", "register"]


class EngineName(StrEnum):
    """What computes the attention."""

    GOLDEN = "golden"
    """The integer model, bit for bit the hardware."""
    FLOAT = "float"
    """Dense float32: no quantization, no pruning."""
    RTL = "rtl"
    """The Verilog, in simulation: builds it first, which takes minutes."""


class EngineError(SpattenError, LookupError):
    """An engine of a known name that nobody has registered."""


Devices = Callable[[Config], AbstractContextManager[Device]]
"""Makes an accelerator of a configuration, for as long as a `with` block lasts."""
_devices: dict[EngineName, Devices] = {}


def register(name: EngineName, devices: Devices) -> None:
    """Have the engine `name` run on the accelerators that `devices` makes: a simulation registers itself so."""
    _devices[name] = devices


@contextmanager
def make_engine(
    name: EngineName, settings: Settings, config: Config, shape: ModelShape, length: int
) -> Iterator[AttentionEngine]:
    """An engine for sequences of `length` tokens of a model of that shape, for as long as the block lasts.

    Raises `GoldenError`, before anything is built, where the configuration cannot hold such sequences, and
    `EngineError` for an engine that needs an accelerator which nobody has registered.
    """
    if name is EngineName.FLOAT:
        yield ReferenceEngine()
    elif name is EngineName.GOLDEN:
        yield GoldenEngine(settings, config)
    else:
        if name not in _devices:
            raise EngineError(
                f"the engine {name} must be registered first: spatten.sim.machine.device does so with rtl"
            )
        GoldenEngine(settings, config).check(shape, length)
        with _devices[name](config) as device:
            yield DeviceEngine(device, settings, name=name)
