"""Pipelines: what travels along them beside the arithmetic, and the control of stages that can be held up."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Shape, Signal, Value

__all__ = ["ElasticStage", "delay_line", "delayed", "delayed_fields", "delayed_valid", "elastic_stages", "register"]


def register(
    m: Module, value: Any, name: str, *, shape: Shape | None = None, enable: Value | None = None, is_reset: bool = False
) -> Any:
    """`value` one cycle later, in its own shape, or in `shape`, which it is known to fit.

    With `enable` the register takes the value only in cycles in which that is set. Registers of data need no reset.
    What has no bits is returned as it is.
    """
    if len(Value.cast(value)) == 0:
        return value
    late = Signal(value.shape() if shape is None else shape, name=name, reset_less=not is_reset)
    if enable is None:
        m.d.sync += late.eq(value)
    else:
        with m.If(enable):
            m.d.sync += late.eq(value)
    return late


def delay_line(m: Module, value: Any, cycles: int, name: str, *, is_reset: bool = False) -> list[Any]:
    """`value` now, one cycle later, and so on, to `cycles` cycles later; its registers are `name`_1, `name`_2, ..."""
    taps = [value]
    for cycle in range(cycles):
        taps.append(register(m, taps[-1], f"{name}_{cycle + 1}", is_reset=is_reset))
    return taps


def delayed(m: Module, value: Any, cycles: int, name: str, *, is_reset: bool = False) -> Any:
    """`value` as it was `cycles` cycles ago."""
    return delay_line(m, value, cycles, name, is_reset=is_reset)[-1]


def delayed_valid(m: Module, valid: Value, cycles: int, name: str) -> Value:
    """A valid bit as it was `cycles` cycles ago; a reset empties the pipeline that it belongs to."""
    late: Value = delayed(m, valid, cycles, name, is_reset=True)
    return late


def delayed_fields(m: Module, cycles: int, name: str, **fields: Value) -> SimpleNamespace:
    """Each of `fields` as it was `cycles` cycles ago; a reset clears `valid` and nothing else."""
    return SimpleNamespace(
        **{
            role: delayed(m, value, cycles, f"{name}_{role}", is_reset=role == "valid")
            for role, value in fields.items()
        }
    )


@dataclass(frozen=True)
class ElasticStage:
    """Control of one stage of a pipeline that can be held up."""

    valid: Signal
    """The stage holds something."""
    ready: Signal
    """The stage is empty, or what it holds moves on in this cycle."""
    takes: Signal
    """The stage takes something in this cycle."""


def elastic_stages(m: Module, valid: Value, ready: Value, stages: int) -> list[ElasticStage]:
    """A pipeline of `stages` registers between a stream with `valid` in front and its `ready` behind.

    Each stage has its own valid bit, and takes what the stage before it holds when it is empty itself or the stage
    behind it takes its contents: bubbles close up while the end is held up. The caller makes the registers of the data,
    which change with `takes`; the stream in front is ready with the first stage, and the stream behind is valid with
    the last one.
    """
    line = [
        ElasticStage(
            valid=Signal(name=f"stage{stage}_valid"),
            ready=Signal(name=f"stage{stage}_ready"),
            takes=Signal(name=f"stage{stage}_takes"),
        )
        for stage in range(stages)
    ]
    for number, stage in enumerate(line):
        comes = line[number - 1].valid if number else valid
        is_taken = line[number + 1].ready if number + 1 < stages else ready
        m.d.comb += [stage.ready.eq(~stage.valid | is_taken), stage.takes.eq(comes & stage.ready)]
        with m.If(stage.ready):
            m.d.sync += stage.valid.eq(comes)
    return line
