"""Engines by name, for command lines: `golden`, `float`, or `rtl`, the simulated Verilog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from host.device_engine import DeviceEngine
from host.engine import AttentionEngine, ModelShape, ReferenceEngine
from host.golden_engine import GoldenEngine
from host.quantized_engine import Settings
from hw.config import Config

__all__ = ["EngineName", "make_engine"]


class EngineName(StrEnum):
    """What computes the attention."""

    GOLDEN = "golden"
    """The integer model, bit for bit the hardware."""
    FLOAT = "float"
    """Dense float32: no quantization, no pruning."""
    RTL = "rtl"
    """The Verilog, in simulation: builds it first, which takes minutes."""


@contextmanager
def make_engine(
    name: EngineName, settings: Settings, config: Config, shape: ModelShape, length: int
) -> Iterator[AttentionEngine]:
    """An engine for sequences of `length` tokens of a model of that shape, for as long as the block lasts.

    Raises `GoldenError`, before anything is built, where the configuration cannot hold them.
    """
    if name is EngineName.FLOAT:
        yield ReferenceEngine()
    elif name is EngineName.GOLDEN:
        yield GoldenEngine(settings, config)
    else:
        GoldenEngine(settings, config).check(shape, length)
        # Only a simulation needs a simulator; a board does not.
        from sim.device import simulated_device

        with simulated_device(config) as device:
            yield DeviceEngine(device, settings, name="rtl")
