"""Clock, reset, stream drivers and monitors of a cocotb testbench.

    bench = Bench(dut, seed=7)
    source = StreamDriver(bench, "i", masked_row(8, 4), idle=0.4)
    sink = StreamMonitor(bench, "o", compacted_row(8, 4), stall=0.4)
    await bench.reset()
    source.send(rows)
    sink.expect(golden_rows)
    await bench.drain()

`Bench` makes the clock itself, so that one simulated cycle is one call: inputs change at the falling edge, and
everything is read in the moment before the rising edge, when it is what the circuit's registers are about to see. No
simulator can order these differently, and an assertion that fails in a driver or monitor is the test's own exception.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import cocotb
from amaranth.hdl import ShapeLike
from cocotb.handle import HierarchyObject, ValueObjectBase
from cocotb.triggers import Timer
from cocotb.types import LogicArray

from spatten.hw.emit.payload import Payload

_HALF_PERIOD_PS = 500


class Agent(Protocol):
    """Something that acts every cycle of a bench: a driver, a monitor, a memory model, a probe."""

    def drive(self) -> None:
        """Set inputs, at the falling edge."""

    def sample(self, cycle: int) -> None:
        """Look at settled signals, in the moment before the rising edge of `cycle`."""

    def clear(self) -> None:
        """Forget everything in flight: the circuit is being reset."""


class Bench:
    """Clock and reset of a circuit with one domain `clk`, `rst`, and the agents that act on it.

    `max_cycles` limits the simulated time of the test.
    """

    def __init__(self, dut: HierarchyObject, *, seed: int, max_cycles: int = 1_000_000) -> None:
        self.dut = dut
        self.seed = seed
        self.max_cycles = max_cycles
        self.cycle = 0
        self.agents: list[Agent] = []
        # A combinational circuit has neither clock nor reset.
        self._clk = getattr(dut, "clk", None)
        self._rst = getattr(dut, "rst", None)
        self.four_state = cocotb.SIM_NAME.lower().startswith("icarus")
        cocotb.log.info("seed %d", seed)

    def signal(self, name: str) -> Any:
        """The top's port `name`; LookupError lists the signals there are."""
        handle = getattr(self.dut, name, None)
        if not isinstance(handle, ValueObjectBase):
            ports = sorted(member._name for member in self.dut if isinstance(member, ValueObjectBase))
            ports = [port for port in ports if port.replace("_", "").isalnum()]
            raise LookupError(f"the circuit has no signal {name!r}; it has {', '.join(ports)}")
        return handle

    def random(self, name: str) -> random.Random:
        """A random source of this seed, another one for each name."""
        return random.Random(f"{self.seed} {name}")

    async def step(self, cycles: int = 1) -> None:
        """Let `cycles` cycles pass."""
        for _ in range(cycles):
            for agent in self.agents:
                agent.drive()
            if self._clk is not None:
                self._clk.value = 0
            await Timer(_HALF_PERIOD_PS, "ps")
            for agent in self.agents:
                agent.sample(self.cycle)
            if self._clk is not None:
                self._clk.value = 1
            await Timer(_HALF_PERIOD_PS, "ps")
            self.cycle += 1
            if self.cycle > self.max_cycles:
                raise AssertionError(f"the test ran for {self.cycle} cycles, above its limit, seed {self.seed}")

    async def reset(self, cycles: int = 2) -> None:
        """Reset for `cycles` cycles; drivers and monitors forget their rows."""
        agents, self.agents = self.agents, []
        for agent in agents:
            agent.clear()
            agent.drive()
        if self._rst is not None:
            self._rst.value = 1
        await self.step(cycles)
        if self._rst is not None:
            self._rst.value = 0
        self.agents = agents

    async def until(self, condition: Callable[[], bool], *, what: str, limit: int = 1000) -> None:
        """Let cycles pass until `condition()`; AssertionError after `limit` of them without it."""
        for _ in range(limit):
            if condition():
                return
            await self.step()
        assert condition(), f"no {what} for {limit} cycles, seed {self.seed}"

    async def drain(self, *, limit: int = 1000, tail: int = 16) -> None:
        """Let cycles pass until every monitor has what it expects, and `tail` more in which nothing else may come.

        AssertionError after `limit` cycles in a row in which no monitor took anything.
        """
        monitors = [agent for agent in self.agents if isinstance(agent, StreamMonitor)]
        assert monitors, "the bench has no monitor to drain"
        quiet = 0
        while any(monitor.count < monitor.expected for monitor in monitors):
            before = sum(monitor.count for monitor in monitors)
            await self.step()
            quiet = quiet + 1 if sum(monitor.count for monitor in monitors) == before else 0
            if quiet >= limit:
                status = ", ".join(f"got {m.count} of {m.expected} rows on {m.name}" for m in monitors)
                raise AssertionError(f"no output for {limit} cycles: {status}, seed {self.seed}")
        await self.step(tail)


class PulseCounter:
    """Counts the cycles in which a signal of one bit is 1; an X fails. `count` starts from zero with a reset."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.count = 0
        self._signal = bench.signal(name)
        bench.agents.append(self)

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        self.count += int(self._signal.value)

    def clear(self) -> None:
        self.count = 0


class _Gate:
    """Open or closed cycle by cycle, in random runs of 1 to 12: closed for a share `closed` of the time."""

    def __init__(self, source: random.Random, closed: float) -> None:
        self._source = source
        self._closed = closed
        self._is_open = True
        self._left = 0

    def __call__(self) -> bool:
        if self._left == 0:
            self._is_open = self._source.random() >= self._closed
            self._left = self._source.randint(1, 12)
        self._left -= 1
        return self._is_open


def _check_share(name: str, value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {value!r}")


class _StreamAgent:
    """What drivers and monitors share: the three signals of a stream and reading them without X."""

    def __init__(self, bench: Bench, name: str, shape: ShapeLike) -> None:
        self.bench = bench
        self.name = name
        self.payload = Payload(shape)
        self._payload = bench.signal(f"{name}__payload")
        self._valid = bench.signal(f"{name}__valid")
        self._ready = bench.signal(f"{name}__ready")
        if len(self._payload) != self.payload.width:
            raise ValueError(f"{name}__payload has {len(self._payload)} bits, its shape {self.payload.width}")
        self._driven: int | None = None
        bench.agents.append(self)  # type: ignore[arg-type]

    def _drive(self, signal: Any, value: int) -> None:
        """Drive `valid` or `ready`, whichever is this agent's: only what changes, since a write takes long."""
        if value != self._driven:
            signal.value = self._driven = value

    def _where(self, cycle: int) -> str:
        return f"cycle {cycle}, seed {self.bench.seed}"

    def _bit(self, signal: Any, member: str, cycle: int) -> bool:
        value = str(signal.value)
        assert value in ("0", "1"), f"{self.name}.{member} is {value}, {self._where(cycle)}"
        return value == "1"

    def _bits(self, cycle: int, row: int) -> int:
        # As text: to ask a cocotb vector for X and for its number takes ten times as long.
        text = str(self._payload.value)
        if text.strip("01"):
            for field in self.payload.fields:
                part = text[::-1][field.offset : field.offset + field.width][::-1]
                assert set(part) <= {"0", "1"}, (
                    f"{self.name} row {row}: {field.name or 'payload'} is {part} while valid, {self._where(cycle)}"
                )
        return int(text, 2)


class StreamDriver(_StreamAgent):
    """Sends rows into the circuit's stream `name`: one per cycle, but idle for a share `idle` of the time.

    While it is idle the payload is X in a 4-state simulator and random in others, so a circuit that looks at a payload
    without its valid is found out. `cycles` holds the cycle in which each row was taken.
    """

    def __init__(self, bench: Bench, name: str, shape: ShapeLike, *, idle: float = 0.0) -> None:
        _check_share("idle", idle)
        super().__init__(bench, name, shape)
        self._source = bench.random(f"driver {name}")
        self._gate = _Gate(self._source, idle)
        self._queue: deque[int] = deque()
        self._unknown = LogicArray("X" * self.payload.width)
        self._is_unknown = False
        self._shown: int | None = None
        self.cycles: list[int] = []

    @property
    def count(self) -> int:
        """Rows the circuit took since the last reset."""
        return len(self.cycles)

    def send(self, rows: Iterable[Any]) -> None:
        """Queue rows, as `Payload.pack` takes them."""
        self._queue.extend(self.payload.pack(row) for row in rows)

    def clear(self) -> None:
        self._queue.clear()
        self._shown = None
        self.cycles.clear()

    def drive(self) -> None:
        if self._shown is not None:
            return
        if self._queue and self._gate():
            self._shown = self._queue.popleft()
            self._payload.value = self._shown
            self._is_unknown = False
            self._drive(self._valid, 1)
        else:
            if not self.bench.four_state:
                self._payload.value = self._source.getrandbits(self.payload.width)
            elif not self._is_unknown:
                self._payload.value = self._unknown
            self._is_unknown = True
            self._drive(self._valid, 0)

    def sample(self, cycle: int) -> None:
        if self._shown is not None and self._bit(self._ready, "ready", cycle):
            self.cycles.append(cycle)
            self._shown = None


class StreamMonitor(_StreamAgent):
    """Takes rows from the circuit's stream `name`: one per cycle, but not ready for a share `stall` of the time.

    Checks every row against `expect`, that valid and payload hold while stalled, and that no bit is X. `patient`: be
    ready only after a valid was seen, so that a valid which waits for ready never comes. `steady`: once it is ready it
    stays so until a row is taken, as a FIFO does. `cycles` holds the cycle in
    which each row was taken, `starved` the cycles in which it was ready and no row was there.
    """

    def __init__(
        self,
        bench: Bench,
        name: str,
        shape: ShapeLike,
        *,
        stall: float = 0.0,
        patient: bool = False,
        steady: bool = False,
    ) -> None:
        _check_share("stall", stall)
        super().__init__(bench, name, shape)
        self._gate = _Gate(bench.random(f"monitor {name}"), stall)
        self._patient = patient
        self._steady = steady
        self._stopped = False
        self._is_ready = False
        self._stalled: int | None = None
        self._expected: list[int] = []
        self._received: list[int] = []
        self.cycles: list[int] = []
        self.starved: list[int] = []

    @property
    def count(self) -> int:
        """Rows taken since the last reset."""
        return len(self._received)

    @property
    def expected(self) -> int:
        """Rows expected since the last reset."""
        return len(self._expected)

    @property
    def received(self) -> list[Any]:
        """The rows taken since the last reset."""
        return [self.payload.unpack(bits) for bits in self._received]

    def expect(self, rows: Iterable[Any]) -> None:
        """Add to the rows that must come, in this order, and no others."""
        self._expected.extend(self.payload.pack(row) for row in rows)

    def stop(self) -> None:
        """Take nothing until `start`."""
        self._stopped = True

    def start(self) -> None:
        """Take rows again."""
        self._stopped = False

    def clear(self) -> None:
        self._is_ready = False
        self._stopped = False
        self._stalled = None
        self._expected.clear()
        self._received.clear()
        self.cycles.clear()
        self.starved.clear()

    def drive(self) -> None:
        if not (self._steady and self._is_ready):
            self._is_ready = not self._stopped and self._gate() and (self._stalled is not None or not self._patient)
        self._drive(self._ready, int(self._is_ready))

    def sample(self, cycle: int) -> None:
        valid = self._bit(self._valid, "valid", cycle)
        if not valid:
            assert self._stalled is None, (
                f"{self.name}.valid fell from 1 to 0 before row {self.count} was taken, {self._where(cycle)}"
            )
            if self._is_ready:
                self.starved.append(cycle)
            return
        bits = self._bits(cycle, self.count)
        if self._stalled is not None and bits != self._stalled:
            raise AssertionError(
                f"{self.name}.payload changed while row {self.count} was stalled: "
                f"{'; '.join(self.payload.differences(bits, self._stalled))} as before, {self._where(cycle)}"
            )
        if not self._is_ready:
            self._stalled = bits
            return
        self._stalled = None
        self._is_ready = not self._steady
        row = self.count
        self._received.append(bits)
        self.cycles.append(cycle)
        assert row < self.expected, (
            f"{self.name} row {row} came but only {self.expected} were expected: "
            f"{self.payload.unpack(bits)}, {self._where(cycle)}"
        )
        if bits != self._expected[row]:
            differences = self.payload.differences(bits, self._expected[row])
            raise AssertionError(f"{self.name} row {row}: {'; '.join(differences[:8])}, {self._where(cycle)}")
