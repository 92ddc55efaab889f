"""The two ends of a serial line in a testbench, bit by bit: what a host's adapter does at the pins of a board."""

from __future__ import annotations

from collections import deque

from spatten.sim.verify.stream import Bench

_BITS = 10
"""Of a byte: start, data, stop."""


class LineSender:
    """Drives the input `name`: bytes, silence, breaks; an agent of the bench.

    `divisor` is the cycles of a bit, which need not be a whole number.
    """

    def __init__(self, bench: Bench, name: str, *, divisor: float) -> None:
        self.divisor = divisor
        self._signal = bench.signal(name)
        self._driven: int | None = None
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self._waiting: deque[tuple[int, float]] = deque()
        self._level, self._left = 1, 0.0

    @property
    def busy(self) -> bool:
        """Whether something is being sent or waits to be."""
        return bool(self._waiting) or self._left >= 1

    def send(self, data: bytes, *, stop: int = 1) -> None:
        """Queue bytes, with the level of their stop bits."""
        for byte in data:
            bits = [0, *(byte >> number & 1 for number in range(8)), stop]
            self._waiting += [(bit, self.divisor) for bit in bits]

    def hold(self, level: int, cycles: int) -> None:
        """Queue a level that stays for a while: 1 is silence, 0 a break."""
        self._waiting.append((level, float(cycles)))

    def pull(self) -> None:
        """Pull the cable: what is on its way is lost, and the line is high."""
        self.clear()

    def drive(self) -> None:
        while self._left < 1 and self._waiting:
            self._level, cycles = self._waiting.popleft()
            self._left += cycles
        if self._left < 1:
            self._level, self._left = 1, 1.0
        self._left -= 1
        if self._level != self._driven:
            self._signal.value = self._driven = self._level

    def sample(self, cycle: int) -> None:
        pass


class LineListener:
    """Takes bytes off the output `name`, which must have exactly `divisor` cycles in each bit; an agent of the bench.

    AssertionError if the line is X, if a bit changes within its cycles, or if a stop bit is missing.
    """

    def __init__(self, bench: Bench, name: str, *, divisor: int) -> None:
        self.divisor = divisor
        self._bench = bench
        self._name = name
        self._signal = bench.signal(name)
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self.received = bytearray()
        self.starts: list[int] = []
        """The cycle in which each byte began."""
        self._levels: list[int] = []

    def take(self) -> bytes:
        """What has come since the last call."""
        data = bytes(self.received)
        self.received.clear()
        return data

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        value = str(self._signal.value)
        assert value in ("0", "1"), f"{self._name} is {value}, cycle {cycle}, seed {self._bench.seed}"
        level = int(value)
        if not self._levels:
            if level:
                return
            self.starts.append(cycle)
        self._levels.append(level)
        if len(self._levels) < _BITS * self.divisor:
            return
        bits = []
        for number in range(_BITS):
            levels = set(self._levels[number * self.divisor : (number + 1) * self.divisor])
            assert len(levels) == 1, f"bit {number} of {self._name} changes, cycle {cycle}, seed {self._bench.seed}"
            bits.append(levels.pop())
        assert bits[-1] == 1, f"{self._name} has no stop bit, cycle {cycle}, seed {self._bench.seed}"
        self.received.append(sum(bit << number for number, bit in enumerate(bits[1:9])))
        self._levels.clear()
