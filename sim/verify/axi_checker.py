"""Checks the AXI4 protocol on both sides of a port, in any simulation.

    checker = AxiChecker(bench, "axi__")      # an agent of the bench: it looks at every cycle
    await bench.drain()
    checker.finish()                          # nothing may be left open
    assert checker.reads.peak_sectors <= 128

`AxiRules` are the rules alone, fed with the values of a cycle, so that they can be tested without a circuit. What they
hold the two sides to (the names are those of the AMBA AXI specification, IHI 0022):

- every channel: valid and all that goes with it stay until ready (A3.2.1); neither is ever X;
- AW and AR: the size at most the bus's; the burst type not the reserved one; FIXED at most 16 beats; WRAP 2, 4, 8 or 16
  beats from an aligned address; INCR within 4 KiB (A3.4.1);
- W: WLAST at the last beat of its burst and nowhere else, whether W is ahead of AW or behind it; strobes within the
  bytes of the bus;
- B: only after both the burst's address and its last beat were taken, for an id that has one, once (A3.3.1);
- R: only after the burst's address was taken, for an id that has one, and RLAST at its last beat and nowhere else;
- no EXOKAY, as nothing exclusive is asked for;
- at the end: no address without its data, no data without an address, no burst without its response.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spatten.sim.verify.stream import Bench
from spatten.spec.errors import SpattenError

CHANNELS = {
    "aw": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "w": ("data", "strb", "last"),
    "b": ("id", "resp"),
    "ar": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "r": ("id", "data", "resp", "last"),
}
"""By channel, the signals that go with its valid."""
_PAGE = 4096
_FIXED, _INCR, _WRAP = range(3)
_EXOKAY = 1


class AxiError(SpattenError, AssertionError):
    """A rule of AXI4 is broken: the message says which, by whom, and when."""

    exit_status = 1


@dataclass(frozen=True, kw_only=True)
class Burst:
    """A burst as its address says, and the cycle in which that address was taken."""

    id: int
    address: int
    beats: int
    size: int
    kind: int
    cycle: int

    @property
    def bytes(self) -> int:
        return self.beats << self.size


@dataclass(kw_only=True)
class BusTraffic:
    """What one direction moved since the last reset, and what is open."""

    bursts: list[Burst] = field(default_factory=list)
    """All bursts whose address was taken, in order."""
    beats: int = 0
    """Data beats taken."""
    responses: int = 0
    """Responses taken: one for each write burst, one for each beat of a read burst."""
    errors: list[tuple[int, int]] = field(default_factory=list)
    """(cycle, response) of each response that was SLVERR or DECERR."""
    open_bytes: int = 0
    """Bytes of bursts that were taken, without the beats of reads and the bursts of writes that were answered."""
    peak_bytes: int = 0
    """Most open bytes, those of a burst that is presented included."""
    open_bursts: int = 0
    """Bursts taken and not answered completely."""
    peak_bursts: int = 0
    """Most open bursts."""


class AxiRules:
    """The rules, and what was seen. `name` goes into the messages; widths are those of the port."""

    def __init__(self, *, data_bits: int, name: str = "axi") -> None:
        if data_bits not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"data_bits must be 8 to 1024 and a power of two, not {data_bits!r}")
        self.data_bits = data_bits
        self.name = name
        self.clear()

    def clear(self) -> None:
        """Forget everything: a reset."""
        self.reads = BusTraffic()
        self.writes = BusTraffic()
        self._held: dict[str, tuple[int, ...]] = {}
        # Reads: beats to come and bytes a beat of each burst, oldest first, by id.
        self._read: dict[int, deque[list[int]]] = {}
        # Writes: bursts without data, lengths of data without an address, beats of the burst on W, and by id the bytes
        # of bursts that have both and wait for B.
        self._addressed: deque[Burst] = deque()
        self._ahead: deque[int] = deque()
        self._beats = 0
        self._unanswered: dict[int, deque[int]] = {}

    def fail(self, channel: str, what: str, cycle: int) -> None:
        raise AxiError(f"{self.name} {channel.upper()}: {what}, cycle {cycle}")

    def observe(self, cycle: int, values: Mapping[str, int]) -> None:
        """One cycle: the value of every signal before the clock's edge, by its name without prefix.

        A channel may be absent. What goes with a valid is looked at only while that valid is set.
        """
        took = {}
        for channel, members in CHANNELS.items():
            valid, ready = values.get(f"{channel}valid"), values.get(f"{channel}ready")
            if valid is None:
                continue
            held = self._held.pop(channel, None)
            if not valid:
                if held is not None:
                    self.fail(channel, "valid fell before it was taken", cycle)
                continue
            payload = tuple(values[f"{channel}{member}"] for member in members)
            if held is not None and payload != held:
                changed = [
                    f"{channel}{member} from {before:#x} to {now:#x}"
                    for member, before, now in zip(members, held, payload, strict=True)
                    if before != now
                ]
                self.fail(channel, f"{', '.join(changed)} while stalled", cycle)
            if channel in ("aw", "ar"):
                burst = self._burst(channel, dict(zip(members, payload, strict=True)), cycle)
                traffic = self.writes if channel == "aw" else self.reads
                traffic.peak_bytes = max(traffic.peak_bytes, traffic.open_bytes + burst.bytes)
            if ready:
                took[channel] = dict(zip(members, payload, strict=True))
            else:
                self._held[channel] = payload
        # An answer must be to something that was taken in a cycle before this one.
        for channel in ("b", "r"):
            if values.get(f"{channel}valid"):
                answer = {member: values[f"{channel}{member}"] for member in CHANNELS[channel]}
                (self._check_b if channel == "b" else self._check_r)(answer, cycle)
        if "b" in took:
            self._take_b(took["b"], cycle)
        if "r" in took:
            self._take_r(took["r"], cycle)
        if "aw" in took:
            self._take_aw(self._burst("aw", took["aw"], cycle), cycle)
        if values.get("wvalid"):
            self._check_w({member: values[f"w{member}"] for member in CHANNELS["w"]}, cycle)
        if "w" in took:
            self._take_w(took["w"])
        if "ar" in took:
            burst = self._burst("ar", took["ar"], cycle)
            self.reads.bursts.append(burst)
            self.reads.open_bytes += burst.bytes
            self._open(self.reads, 1)
            self._read.setdefault(burst.id, deque()).append([burst.beats, burst.bytes // burst.beats])

    def finish(self) -> None:
        """The end of the traffic: AxiError if anything is open."""
        for channel in ("aw", "w", "ar", "b", "r"):
            if channel in self._held:
                raise AxiError(f"{self.name} {channel.upper()}: valid was not taken by the end")
        if self._beats or self._ahead:
            raise AxiError(f"{self.name} W: data without an address at the end")
        if self._addressed:
            raise AxiError(f"{self.name} AW: {len(self._addressed)} bursts without all of their data at the end")
        unanswered = sum(map(len, self._unanswered.values()))
        if unanswered:
            raise AxiError(f"{self.name} B: {unanswered} bursts without a response at the end")
        unread = sum(beats for bursts in self._read.values() for beats, _ in bursts)
        if unread:
            raise AxiError(f"{self.name} R: {unread} beats did not come by the end")

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is presented by the master, and everything taken is answered."""
        return not (
            self._held.keys() & {"aw", "w", "ar"}
            or self._beats
            or self._ahead
            or self._addressed
            or any(self._unanswered.values())
            or any(self._read.values())
        )

    # -- Addresses ----------------------------------------------------------------------------------------------------

    def _burst(self, channel: str, address: Mapping[str, int], cycle: int) -> Burst:
        beats = address["len"] + 1
        size, kind, first = address["size"], address["burst"], address["addr"]
        if 8 << size > self.data_bits:
            self.fail(channel, f"{1 << size} bytes a beat are more than the bus has", cycle)
        if kind not in (_FIXED, _INCR, _WRAP):
            self.fail(channel, "burst type 3 is reserved", cycle)
        if kind == _FIXED and beats > 16:
            self.fail(channel, f"{beats} beats are too many for a FIXED burst", cycle)
        if kind == _WRAP and (beats not in (2, 4, 8, 16) or first % (1 << size)):
            self.fail(channel, f"a WRAP burst of {beats} beats at {first:#x}", cycle)
        if kind == _INCR and first // _PAGE != ((first >> size) + beats - 1 << size) // _PAGE:
            self.fail(channel, f"{beats} beats of {1 << size} bytes at {first:#x} cross 4 KiB", cycle)
        return Burst(id=address["id"], address=first, beats=beats, size=size, kind=kind, cycle=cycle)

    def _open(self, traffic: BusTraffic, bursts: int) -> None:
        traffic.open_bursts += bursts
        traffic.peak_bursts = max(traffic.peak_bursts, traffic.open_bursts)

    # -- Writes -------------------------------------------------------------------------------------------------------

    def _take_aw(self, burst: Burst, cycle: int) -> None:
        self.writes.bursts.append(burst)
        self.writes.open_bytes += burst.bytes
        self._open(self.writes, 1)
        if self._ahead:
            beats = self._ahead.popleft()
            if beats != burst.beats:
                self.fail("w", f"WLAST at beat {beats} of a burst that has {burst.beats}", cycle)
            self._complete(burst)
            return
        self._addressed.append(burst)
        if len(self._addressed) == 1 and self._beats >= burst.beats:
            self.fail("w", f"no WLAST at beat {burst.beats}, the burst's last", cycle)

    def _check_w(self, beat: Mapping[str, int], cycle: int) -> None:
        if beat["strb"] >> self.data_bits // 8:
            self.fail("w", "strobes beyond the bus", cycle)
        number = self._beats + 1
        if self._addressed:
            beats = self._addressed[0].beats
            if beat["last"] and number != beats:
                self.fail("w", f"WLAST at beat {number} of a burst that has {beats}", cycle)
            if not beat["last"] and number >= beats:
                self.fail("w", f"no WLAST at beat {beats}, the burst's last", cycle)
        elif not beat["last"] and number >= 256:
            self.fail("w", "256 beats without WLAST", cycle)

    def _take_w(self, beat: Mapping[str, int]) -> None:
        self.writes.beats += 1
        self._beats += 1
        if beat["last"]:
            if self._addressed:
                self._complete(self._addressed.popleft())
            else:
                self._ahead.append(self._beats)
            self._beats = 0

    def _complete(self, burst: Burst) -> None:
        self._unanswered.setdefault(burst.id, deque()).append(burst.bytes)

    def _check_b(self, answer: Mapping[str, int], cycle: int) -> None:
        if answer["resp"] == _EXOKAY:
            self.fail("b", "EXOKAY without an exclusive access", cycle)
        if not self._unanswered.get(answer["id"]):
            self.fail("b", f"a response with id {answer['id']} for which no burst has been completed", cycle)

    def _take_b(self, answer: Mapping[str, int], cycle: int) -> None:
        self.writes.open_bytes -= self._unanswered[answer["id"]].popleft()
        self.writes.responses += 1
        self._open(self.writes, -1)
        if answer["resp"]:
            self.writes.errors.append((cycle, answer["resp"]))

    # -- Reads --------------------------------------------------------------------------------------------------------

    def _check_r(self, answer: Mapping[str, int], cycle: int) -> None:
        if answer["resp"] == _EXOKAY:
            self.fail("r", "EXOKAY without an exclusive access", cycle)
        bursts = self._read.get(answer["id"])
        if not bursts:
            self.fail("r", f"a beat with id {answer['id']} that nothing asked for", cycle)
        elif answer["last"] != (bursts[0][0] == 1):
            self.fail("r", f"RLAST is {answer['last']} with {bursts[0][0]} beats to come", cycle)

    def _take_r(self, answer: Mapping[str, int], cycle: int) -> None:
        bursts = self._read[answer["id"]]
        bursts[0][0] -= 1
        self.reads.open_bytes -= bursts[0][1]
        if not bursts[0][0]:
            bursts.popleft()
            self._open(self.reads, -1)
        self.reads.beats += 1
        self.reads.responses += 1
        if answer["resp"]:
            self.reads.errors.append((cycle, answer["resp"]))


class AxiChecker(AxiRules):
    """The rules as an agent of a bench, on the port whose signals begin with `prefix`, such as "axi__" or "m00_axi_".

    A channel that the port lacks is not looked at. A signal that it lacks has the specification's default: id 0. Make
    the checker after what drives the port.
    """

    def __init__(self, bench: Bench, prefix: str) -> None:
        self._signals: dict[str, list[tuple[str, Any]]] = {}
        self._handshakes: dict[str, tuple[Any, Any]] = {}
        data_bits = 0
        for channel, members in CHANNELS.items():
            if getattr(bench.dut, f"{prefix}{channel}valid", None) is None:
                continue
            valid, ready = (bench.signal(f"{prefix}{channel}{member}") for member in ("valid", "ready"))
            self._handshakes[channel] = valid, ready
            self._signals[channel] = []
            for member in members:
                signal = getattr(bench.dut, f"{prefix}{channel}{member}", None)
                assert signal is not None or member in ("id", "cache", "prot"), f"{prefix}{channel}{member} is absent"
                self._signals[channel].append((member, signal))
                if member == "data" and signal is not None:
                    data_bits = len(signal)
        assert data_bits, f"no AXI port begins with {prefix}"
        super().__init__(data_bits=data_bits, name=f"{prefix.rstrip('_')}, seed {bench.seed},")
        bench.agents.append(self)

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        values: dict[str, int] = {}
        for channel, (valid, ready) in self._handshakes.items():
            values[f"{channel}valid"] = self._value(channel, "valid", valid, cycle)
            values[f"{channel}ready"] = self._value(channel, "ready", ready, cycle)
            if values[f"{channel}valid"]:
                for member, signal in self._signals[channel]:
                    known = 0 if signal is None else self._value(channel, member, signal, cycle)
                    values[f"{channel}{member}"] = known
        self.observe(cycle, values)

    def _value(self, channel: str, member: str, signal: Any, cycle: int) -> int:
        text = str(signal.value)
        if text.strip("01"):
            self.fail(channel, f"{channel}{member} is {text}", cycle)
        return int(text, 2)
