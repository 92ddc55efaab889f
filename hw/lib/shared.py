"""Circuits that are used many times and emitted once: a Verilog module with many instances, not many modules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol, Self

from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow

__all__ = ["Platform", "Shared"]


class Modules(Protocol):
    """The modules of a netlist that is being emitted."""

    def name_of(self, component: Shared) -> str | None:
        """The module that has this component's circuit; None if it is now to be elaborated as that module."""


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What a circuit is elaborated for; None, or anything else, stands for neither of the following."""

    assertions: bool = False
    """Simulation and proofs: with assertions about its neighbours."""
    modules: Modules | None = None
    """Emission: a `Shared` component becomes an instance of a module of these."""


class Shared(wiring.Component):
    """A component whose circuit depends on its keyword parameters alone, and is emitted once for equal ones.

    It implements `build` in the place of `elaborate`. All its registers belong to the domain "sync". Elaborated for
    anything but a `Platform` with `modules` it is a component like any other.
    """

    identity: tuple[str, str]
    """Where the class is, and its parameters: by value, so that equal ones are equal."""

    def __new__(cls, *args: Any, src_loc_at: int = 0, **parameters: Any) -> Self:
        if args:
            raise TypeError(f"{cls.__name__} takes keyword parameters only")
        self: Self = super().__new__(cls, src_loc_at=src_loc_at + 1)  # where a warning about it points
        self.identity = (f"{cls.__module__}.{cls.__qualname__}", repr(sorted(parameters.items())))
        return self

    @property
    def module_name(self) -> str:
        """Of its module: lower case, for the file's reader; told apart by a number where parameters differ."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__.lstrip("_")).lower()

    def build(self, platform: Any) -> Elaboratable:
        """The circuit itself."""
        raise NotImplementedError(f"{type(self).__name__} must implement build()")

    def elaborate(self, platform: Any) -> Elaboratable:
        if " object at 0x" in self.identity[1]:
            raise TypeError(f"{type(self).__name__} has a parameter that is known by its address only: {self.identity}")
        modules = platform.modules if isinstance(platform, Platform) else None
        name = None if modules is None else modules.name_of(self)
        if name is None:
            return self.build(platform)
        ports: dict[str, Any] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in self.signature.flatten(self):
            direction = "i" if member.flow == Flow.In else "o"
            ports[f"{direction}_{'__'.join(map(str, path))}"] = Value.cast(value)
        return Instance(name, **ports)
