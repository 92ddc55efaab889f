"""An AXI4-Lite master for `sim.verify.stream.Bench`, cycle by cycle, with stalls; checks what the slave must hold
to."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cocotb.types import LogicArray

from spatten.sim.verify.stream import Bench, _Gate


@dataclass
class BusAccess:
    """A read or write on its way; cycles are those of the transfers."""

    address: int
    data: int = 0
    strobes: int = 15
    response: int | None = None
    sent: dict[str, int] = field(default_factory=dict)
    """The cycle in which each channel's part was taken."""
    executed: int | None = None
    """The first cycle in which the slave had the whole access and the response before was taken."""
    ended: int | None = None
    """The cycle in which the response was taken."""


class AxiLiteAgent:
    """Sends writes and reads, each channel idle or not ready for its own share of the time.

    Address and data of a write go their own ways, so either may be ahead. A channel that is idle shows X, or random
    bits to a two-state simulator. AssertionError for a response that nothing asked for, that changes or falls while it
    is stalled, or is X.
    """

    def __init__(self, bench: Bench, name: str, *, idle: float = 0.0, stall: float = 0.0) -> None:
        self._bench = bench
        self._signals = {
            member: bench.signal(f"{name}__{member}")
            for channel in ("aw", "w", "b", "ar", "r")
            for member in (f"{channel}valid", f"{channel}ready", *_PAYLOADS[channel])
        }
        self._source = bench.random("axi lite")
        self._gates = {
            channel: _Gate(bench.random(f"axi lite {channel}"), idle if channel in ("aw", "w", "ar") else stall)
            for channel in ("aw", "w", "b", "ar", "r")
        }
        self._waiting: dict[str, deque[BusAccess]] = {channel: deque() for channel in ("aw", "w", "ar")}
        self._shown: dict[str, BusAccess | None] = dict.fromkeys(("aw", "w", "ar"))
        self._writes: deque[BusAccess] = deque()
        self._reads: deque[BusAccess] = deque()
        self._ready = {"b": False, "r": False}
        self._stalled: dict[str, tuple[str, ...] | None] = {"b": None, "r": None}
        self.count = 0
        bench.agents.append(self)

    def write(self, address: int, data: int, strobes: int = 15) -> BusAccess:
        """Queue a write."""
        access = BusAccess(address, data, strobes)
        for channel in ("aw", "w"):
            self._waiting[channel].append(access)
        self._writes.append(access)
        return access

    def read(self, address: int) -> BusAccess:
        """Queue a read."""
        access = BusAccess(address)
        self._waiting["ar"].append(access)
        self._reads.append(access)
        return access

    def executing(self, cycle: int) -> BusAccess | None:
        """The write that is done in this cycle; for agents that come after this one."""
        return self._writes[0] if self._writes and self._writes[0].executed == cycle else None

    @property
    def busy(self) -> bool:
        """Whether a response is still to come."""
        return bool(self._writes or self._reads)

    def clear(self) -> None:
        for queue in (*self._waiting.values(), self._writes, self._reads):
            queue.clear()
        self._shown = dict.fromkeys(self._shown)
        self._ready = dict.fromkeys(self._ready, False)
        self._stalled = dict.fromkeys(self._stalled)

    def drive(self) -> None:
        for channel, queue in self._waiting.items():
            if self._shown[channel] is not None:
                continue
            is_open = self._gates[channel]()
            access = queue.popleft() if queue and is_open else None
            self._shown[channel] = access
            self._signals[f"{channel}valid"].value = int(access is not None)
            for member in _PAYLOADS[channel]:
                signal = self._signals[member]
                if access is not None and member != f"{channel}prot":
                    signal.value = {"addr": access.address, "data": access.data, "strb": access.strobes}[
                        member.removeprefix(channel)
                    ]
                elif self._bench.four_state:
                    signal.value = LogicArray("X" * len(signal))
                else:
                    signal.value = self._source.getrandbits(len(signal))
        for channel in self._ready:
            self._ready[channel] = self._gates[channel]()
            self._signals[f"{channel}ready"].value = int(self._ready[channel])

    def sample(self, cycle: int) -> None:
        # Responses come before the requests of this cycle, since they cannot be to these.
        for channel, queue, needs in (("b", self._writes, ("aw", "w")), ("r", self._reads, ("ar",))):
            if queue and queue[0].executed is None and queue[0].sent.keys() == set(needs):
                queue[0].executed = cycle
            self._response(cycle, channel, queue)
        for channel, access in self._shown.items():
            if self._bit(f"{channel}ready", cycle) and access is not None:
                access.sent[channel] = cycle
                self._shown[channel] = None

    def _bit(self, member: str, cycle: int) -> bool:
        value = str(self._signals[member].value)
        assert value in ("0", "1"), f"{member} is {value}, cycle {cycle}, seed {self._bench.seed}"
        return value == "1"

    def _response(self, cycle: int, channel: str, waiting: deque[BusAccess]) -> None:
        where = f"cycle {cycle}, seed {self._bench.seed}"
        valid = self._bit(f"{channel}valid", cycle)
        assert valid or self._stalled[channel] is None, f"{channel}valid fell while stalled, {where}"
        if not valid:
            return
        bits = tuple(str(self._signals[member].value) for member in _PAYLOADS[channel])
        assert not "".join(bits).strip("01"), f"{channel} is {bits}, {where}"
        assert self._stalled[channel] in (None, bits), f"{channel} changed while stalled, {where}"
        assert waiting, f"{channel} responds to nothing, {where}"
        assert waiting[0].executed is not None, f"{channel} came before the request, {where}"
        assert waiting[0].executed < cycle, f"{channel} came with the request, {where}"
        if not self._ready[channel]:
            self._stalled[channel] = bits
            return
        self._stalled[channel] = None
        access = waiting.popleft()
        access.ended = cycle
        access.response = int(bits[0], 2)
        if channel == "r":
            access.data = int(bits[1], 2)
        self.count += 1


_PAYLOADS = {
    "aw": ("awaddr", "awprot"),
    "w": ("wdata", "wstrb"),
    "b": ("bresp",),
    "ar": ("araddr", "arprot"),
    "r": ("rresp", "rdata"),
}
