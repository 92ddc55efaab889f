"""An AXI4 memory of a testbench that answers as late, as irregularly and as badly as a test wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from cocotb.types import LogicArray

from spatten.sim.verify.stream import Bench, _check_share, _Gate


class AxiMemory:
    """The slave of a port whose signals begin with `prefix`; an agent of the bench.

    A channel that the port lacks is left alone.

    Parameters
    ----------
    ar, r, aw, w, b : float
        For which share of the time the channel pauses, in random runs of 1 to 12 cycles.
    latency : int
        Cycles from the transfer of an address, or of a burst's last beat, to the earliest answer; at least 1.
    order : "any", "aw first" or "w first"
        Whether W is taken only after its address, or an address only when all of its data are here.
    respond : callable or None
        Gives the response (0, 2 or 3) of a beat from "r" or "b", and the beat's number since the last reset.
    confuse : bool
        Answer with ids and RLAST at random.
    masks : bool
        Take beats whose bytes do not all have a strobe; without, such a beat is an error.

    `data` is what is stored, by beat address; a word that was never written is `content(address)`. `frozen` channels
    pause until they are taken out of that set.
    """

    def __init__(
        self,
        bench: Bench,
        prefix: str,
        *,
        ar: float = 0.0,
        r: float = 0.0,
        aw: float = 0.0,
        w: float = 0.0,
        b: float = 0.0,
        latency: int = 1,
        order: str = "any",
        respond: Callable[[str, int], int] | None = None,
        confuse: bool = False,
        masks: bool = False,
    ) -> None:
        if order not in ("any", "aw first", "w first"):
            raise ValueError(f"order must be 'any', 'aw first' or 'w first', not {order!r}")
        if latency < 1:
            raise ValueError(f"latency must be at least 1, not {latency!r}")
        self._bench = bench
        self._random = bench.random(f"memory {prefix}")
        self._confuse = confuse
        self._masks = masks
        self._respond = respond or (lambda _channel, _number: 0)
        self.latency = latency
        self.order = order
        self.frozen: set[str] = set()
        self.data: dict[int, int] = {}
        self._signals: dict[str, Any] = {}
        self._gates: dict[str, Any] = {}
        members = {
            "ar": ("addr", "len", "size"),
            "r": ("id", "data", "resp", "last"),
            "aw": ("addr", "len", "size"),
            "w": ("data", "strb", "last"),
            "b": ("id", "resp"),
        }
        for (channel, names), pause in zip(members.items(), (ar, r, aw, w, b), strict=True):
            _check_share(channel, pause)
            if getattr(bench.dut, f"{prefix}{channel}valid", None) is not None:
                self._gates[channel] = _Gate(bench.random(f"{channel} of {prefix}"), pause)
                for name in (*names, "valid", "ready"):
                    self._signals[channel + name] = bench.signal(f"{prefix}{channel}{name}")
        self.data_bits = len(self._signals["rdata" if "r" in self._gates else "wdata"])
        self._driven: dict[str, int] = {}
        self.clear()
        bench.agents.append(self)

    def content(self, address: int) -> int:
        """What a word holds that was never written: its address, many times."""
        word = address * 0x9E3779B97F4A7C15 % (1 << 64)
        return int(f"{word:016x}" * 16, 16) % (1 << self.data_bits)

    def read(self, address: int) -> int:
        """The word at a beat's address."""
        return self.data.get(address, self.content(address))

    def clear(self) -> None:
        """Forget what is in flight, not what is stored."""
        self._cycle = 0
        self._beats: deque[tuple[int, int, int]] = deque()  # of R: when, address, last
        self._addresses: deque[list[int]] = deque()  # of AW: address, beats, bytes a beat
        self._words: deque[tuple[int, int, int]] = deque()  # of W: data, last, bits that are written
        self._answers: deque[int] = deque()  # of B: when
        self._shown: dict[str, bool] = {"r": False, "b": False}
        self._count = {"r": 0, "b": 0}

    def _open(self, channel: str) -> bool:
        return channel in self._gates and self._gates[channel]() and channel not in self.frozen

    def _drive(self, name: str, value: int) -> None:
        if self._driven.get(name) != value:
            self._signals[name].value = self._driven[name] = value

    def drive(self) -> None:
        complete = sum(last for _, last, _ in self._words)
        for channel in self._gates:
            if channel in ("r", "b"):
                continue
            is_open = self._open(channel)
            if channel == "aw" and self.order == "w first":
                is_open &= complete > len(self._addresses)
            if channel == "w" and self.order == "aw first":
                is_open &= sum(beats for _, beats, _ in self._addresses) > len(self._words)
            self._drive(f"{channel}ready", int(is_open))
        whens = {"r": self._beats[0][0] if self._beats else None, "b": self._answers[0] if self._answers else None}
        for channel, when in whens.items():
            if channel not in self._gates or self._shown[channel]:
                continue
            if self._open(channel) and when is not None and when <= self._cycle:
                self._show(channel)
            elif self._driven.get(f"{channel}valid") != 0:
                self._hide(channel)

    def _show(self, channel: str) -> None:
        self._shown[channel] = True
        self._drive(f"{channel}valid", 1)
        self._drive(f"{channel}resp", self._respond(channel, self._count[channel]))
        self._drive(f"{channel}id", self._random.getrandbits(1) if self._confuse else 0)
        self._count[channel] += 1
        if channel == "r":
            _, address, last = self._beats[0]
            self._drive("rdata", self.read(address))
            self._drive("rlast", self._random.getrandbits(1) if self._confuse else last)

    def _hide(self, channel: str) -> None:
        self._drive(f"{channel}valid", 0)
        for name in ("id", "resp", *(("data", "last") if channel == "r" else ())):
            signal = self._signals[channel + name]
            if self._bench.four_state:
                signal.value = LogicArray("X" * len(signal))
            else:
                signal.value = self._random.getrandbits(len(signal))
            self._driven.pop(channel + name, None)

    def _value(self, name: str) -> int:
        return int(str(self._signals[name].value), 2)

    def _takes(self, channel: str) -> bool:
        return channel in self._gates and bool(self._value(f"{channel}valid") and self._value(f"{channel}ready"))

    def sample(self, cycle: int) -> None:
        if self._takes("r"):
            self._beats.popleft()
            self._shown["r"] = False
        if self._takes("b"):
            self._answers.popleft()
            self._shown["b"] = False
        if self._takes("ar"):
            address, size = self._value("araddr"), 1 << self._value("arsize")
            beats = self._value("arlen") + 1
            when = self._cycle + self.latency
            self._beats += [(when, address + beat * size, int(beat == beats - 1)) for beat in range(beats)]
        if self._takes("aw"):
            self._addresses.append([self._value("awaddr"), self._value("awlen") + 1, 1 << self._value("awsize")])
        if self._takes("w"):
            strobes = self._value("wstrb")
            all_bytes = range(self.data_bits // 8)
            assert self._masks or strobes == (1 << len(all_bytes)) - 1, f"strobes {strobes:#x}, cycle {cycle}"
            mask = sum(0xFF << 8 * byte for byte in all_bytes if strobes >> byte & 1)
            self._words.append((self._value("wdata"), self._value("wlast"), mask))
        while self._addresses and len(self._words) >= self._addresses[0][1]:
            address, beats, size = self._addresses.popleft()
            for beat in range(beats):
                word, _, mask = self._words.popleft()
                place = address + beat * size
                self.data[place] = (self.read(place) & ~mask) | (word & mask) if self._masks else word
            self._answers.append(self._cycle + self.latency)
        self._cycle += 1
