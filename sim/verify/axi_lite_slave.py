"""An AXI4-Lite slave of a testbench, behind which there is any object with `read` and `write`."""

from __future__ import annotations

from typing import Any

from spatten.sim.verify.link_reference import Registers
from spatten.sim.verify.stream import Bench, _Gate


class AxiLiteSlave:
    """The slave of the port `name`; an agent of the bench.

    Each channel pauses for the share `pause` of the time; AW and W are taken in any order. `frozen`: nothing is
    answered. AssertionError if a valid falls or what goes with it changes while it is stalled, if a byte of a write has
    no strobe, or if a second access begins before the first has ended.
    """

    def __init__(self, bench: Bench, name: str, registers: Registers, *, pause: float = 0.0) -> None:
        self.registers = registers
        self.frozen = False
        self._bench = bench
        members = ("valid", "ready")
        payloads = {"aw": ("addr",), "w": ("data", "strb"), "b": ("resp",), "ar": ("addr",), "r": ("data", "resp")}
        self._signals: dict[str, Any] = {
            f"{channel}{member}": bench.signal(f"{name}__{channel}{member}")
            for channel, rest in payloads.items()
            for member in (*members, *rest)
        }
        self._payloads = payloads
        self._gates = {channel: _Gate(bench.random(f"{name} {channel}"), pause) for channel in payloads}
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        """The slave is reset."""
        self._taken: dict[str, int] = {}
        self._stalled: dict[str, tuple[int, ...]] = {}
        self._answer: dict[str, tuple[int, int]] = {}
        self._shown: set[str] = set()

    def _value(self, name: str) -> int:
        text = str(self._signals[name].value)
        assert not text.strip("01"), f"{name} is {text}, seed {self._bench.seed}"
        return int(text, 2)

    def drive(self) -> None:
        for channel in ("aw", "w", "ar"):
            is_open = self._gates[channel]() and channel not in self._taken
            self._signals[f"{channel}ready"].value = int(is_open)
        for channel in ("b", "r"):
            is_open = self._gates[channel]() and not self.frozen
            if channel in self._answer and (channel in self._shown or is_open):
                self._shown.add(channel)
                response, data = self._answer[channel]
                self._signals[f"{channel}resp"].value = response
                if channel == "r":
                    self._signals["rdata"].value = data
            self._signals[f"{channel}valid"].value = int(channel in self._shown)

    def sample(self, cycle: int) -> None:
        for channel in ("b", "r"):
            if channel in self._shown and self._value(f"{channel}ready"):
                self._shown.remove(channel)
                del self._answer[channel]
                self._taken.clear()
        for channel in ("aw", "w", "ar"):
            valid = self._value(f"{channel}valid")
            held = tuple(self._value(channel + name) for name in self._payloads[channel]) if valid else ()
            if channel in self._stalled:
                assert held == self._stalled[channel], f"{channel} changed while stalled, cycle {cycle}"
                del self._stalled[channel]
            if not valid:
                continue
            if not self._value(f"{channel}ready"):
                self._stalled[channel] = held
                continue
            assert not self._answer, f"{channel} comes before an access has ended, cycle {cycle}"
            assert channel != "w" or held[1] == 15, f"strobes {held[1]}, cycle {cycle}"
            self._taken[channel] = held[0]
        if "ar" in self._taken and not self._answer:
            status, data = self.registers.read(self._taken["ar"])
            self._answer["r"] = (int(status), data)
        elif {"aw", "w"} <= self._taken.keys() and not self._answer:
            self._answer["b"] = (int(self.registers.write(self._taken["aw"], self._taken["w"])), 0)
