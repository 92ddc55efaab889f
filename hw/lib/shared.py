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
    """What a circuit is elaborated for; None, or any other platform, stands for neither of the following."""

    assertions: bool = False
    """For simulation and proofs: the circuit has assertions about its neighbours."""
    modules: Modules | None = None
    """For emission: a `Shared` component becomes an instance of one of these modules."""


class Shared(wiring.Component):
    """A component whose circuit depends on its keyword parameters alone, and is emitted once for equal parameters.

    It implements `build` in the place of `elaborate`. All its registers belong to the domain "sync". Elaborated for
    another platform than a `Platform` with `modules` it is a component like any other.
    """

    identity: tuple[str, str]
    """The class's full name, and its parameters by value: equal circuits have equal identities."""

    def __new__(cls, *args: Any, src_loc_at: int = 0, **parameters: Any) -> Self:
        if args:
            raise TypeError(f"{cls.__name__} takes keyword parameters only")
        self: Self = super().__new__(cls, src_loc_at=src_loc_at + 1)  # a warning about the component points there
        self.identity = (f"{cls.__module__}.{cls.__qualname__}", repr(sorted(parameters.items())))
        return self

    @property
    def module_name(self) -> str:
        """The module's name: the class's in lower case; emission adds a number where parameters differ."""
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
