"""Every proof of `tests/hw/<room>/formal_*.py`, which `make formal` runs; and that the prover finds what is wrong."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Assume, Cover, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

import spatten.hw.lib.arbiter
import spatten.hw.lib.fifo
import spatten.sim.verify.formal
from spatten.hw.datapath.quick_select import QuickSelect
from spatten.hw.lib.arbiter import RoundRobin
from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.lib.packer import Packer
from spatten.hw.lib.zero_eliminator import ZeroEliminator
from spatten.hw.memory.axi import BurstMerger
from spatten.sim.verify.formal import (
    Case,
    FormalError,
    ProofError,
    answer,
    constant,
    consume,
    free,
    produce,
    prove,
    track,
)
from tests.checkout import ROOT
from tests.hw.datapath.formal_quick_select import QuickSelectProperties
from tests.hw.lib.formal_packer import PackerProperties
from tests.hw.lib.formal_primitives import FifoProperties, RoundRobinProperties, SkidBufferProperties
from tests.hw.lib.formal_zero_eliminator import ZeroEliminatorProperties
from tests.hw.memory.formal_axi import MergerProperties, ReaderProperties, SmallReader, SmallWriter, WriterProperties


def _cases() -> list[Case]:
    found: list[Case] = []
    for file in sorted((ROOT / "tests").rglob("formal_*.py"), key=lambda path: path.name):
        name = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        found += importlib.import_module(name).PROOFS
    return found


CASES = _cases()


@pytest.fixture(autouse=True)
def _folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed proofs are kept, and most of these fail."""
    if "case" not in request.fixturenames:
        monkeypatch.setattr(spatten.sim.verify.formal, "proofs", lambda: tmp_path)


@pytest.mark.formal
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_proof(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    proof = prove(case.properties(), name=case.name, depth=case.depth, mode=case.mode)
    assert proof.covers
    with capsys.disabled():
        print(
            f"\n{case.unit}, {case.size}: {len(proof.assertions)} assertions hold, {case.method}; "
            f"{len(proof.covers)} covers reached within {max(proof.covers.values())} cycles; {proof.seconds:.1f} s ",
            end="",
        )


def table() -> list[str]:
    """The rows about proofs in docs/verification.md: one per unit and kind, its sizes together."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for case in CASES:
        rows.setdefault((case.unit, case.proves, case.method), []).append(case.size)
    return [f"| {unit} | {'; '.join(sizes)} | {method} | {proves} |" for (unit, proves, method), sizes in rows.items()]


def test_the_documentation_lists_every_proof() -> None:
    text = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    section = text[text.index("| unit | sizes | holds for | what |") :]
    listed = section[: section.index("\n\n")].splitlines()[2:]
    assert listed == table(), "docs/verification.md must have these rows:\n" + "\n".join(table())


def test_names_of_proofs_are_distinct() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"\w+", name) for name in names)


# -- What is wrong is found -------------------------------------------------------------------------------------------


class Queue(wiring.Component):
    """Three entries in registers; `fault` makes it wrong."""

    depth = 3

    def __init__(self, fault: str = "none") -> None:
        self._fault = fault
        super().__init__({"i": In(stream.Signature(2)), "o": Out(stream.Signature(2))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fault = self._fault
        check_stream(m, platform, self.i, "i")
        words = Array(Signal(2, name=f"word{n}", reset_less=True) for n in range(self.depth))
        write, read = Signal(2), Signal(2)
        count = Signal(3, reset_less=fault == "level without reset")
        was_full = Signal()
        flipped = Signal()
        enters = self.i.valid & self.i.ready
        leaves = self.o.valid & self.o.ready
        full = count == self.depth
        m.d.sync += was_full.eq(full)
        m.d.comb += [
            self.i.ready.eq(~(was_full if fault == "full is one late" else full)),
            self.o.valid.eq((count != 0) & (self.o.ready if fault == "valid waits for ready" else 1)),
            self.o.payload.eq(words[read]),
        ]
        with m.If(enters):
            m.d.sync += [words[write].eq(self.i.payload), write.eq(Mux(write == self.depth - 1, 0, write + 1))]
        with m.If(leaves):
            m.d.sync += read.eq(Mux(read == self.depth - 1, 0, read + 1))
        m.d.sync += count.eq(count + enters - leaves)
        match fault:
            case "an entry is lost":
                with m.If(full & leaves):
                    m.d.sync += [count.eq(count - 2), read.eq(write + 1)]
            case "an entry is repeated":
                with m.If(leaves & (read == 2) & full & ~flipped):
                    m.d.sync += [read.eq(read), count.eq(count), flipped.eq(1)]
            case "two entries swap":
                with m.If(full & (read == 0) & ~leaves):
                    m.d.sync += [words[1].eq(words[2]), words[2].eq(words[1])]
            case "payload changes":
                with m.If(full & ~leaves):
                    m.d.sync += words[read].eq(0)
            case "it locks up":
                with m.If((write == 2) & (read == 1)):
                    m.d.comb += [self.i.ready.eq(0), self.o.valid.eq(0)]
            case "a place is never used":
                m.d.comb += self.i.ready.eq(count < self.depth - 1)
        return m


class QueueProperties(Elaboratable):
    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.queue = queue = self.queue
        produce(m, queue.i, name="i")
        consume(m, queue.o, name="o")
        inside = track(m, queue.i, queue.o, capacity=3)
        answer(m, inside != 0, queue.o.valid, within=0, name="o is valid when something is inside")
        answer(m, inside < 3, queue.i.ready, within=0, name="i is ready while there is room")
        return m


@pytest.mark.slow
def test_a_right_queue_is_proved() -> None:
    proof = prove(QueueProperties(Queue()), name="queue", depth=10)
    assert proof.assertions == (
        "o: valid and payload hold while stalled",
        "at most 3 inside",
        "nothing leaves that did not enter",
        "every payload leaves in its turn, and is right",
        "o is valid when something is inside",
        "i is ready while there is room",
        "queue: i: valid or payload changed while stalled",
    )
    # The first transfer is in cycle 1, the one after the reset.
    assert proof.covers == {
        "a marked payload leaves": 2,
        "full with 3 inside": 4,
        "empty again after it was full": 7,
    }
    assert not any(spatten.sim.verify.formal.proofs().iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "mode", "message"),
    [
        ("full is one late", "prove", "at most 3 inside|every payload leaves in its turn, and is right"),
        ("an entry is lost", "bmc", "every payload leaves in its turn, and is right|o is valid when"),
        ("an entry is repeated", "prove", "every payload leaves in its turn, and is right|nothing leaves"),
        ("two entries swap", "prove", "every payload leaves in its turn, and is right"),
        ("payload changes", "bmc", "o: valid and payload hold while stalled"),
        ("valid waits for ready", "bmc", "o is valid when something is inside|o: valid and payload hold"),
        ("it locks up", "bmc", "o is valid when something is inside|i is ready|o: valid and payload hold"),
        ("a place is never used", "prove", "i is ready while there is room"),
        ("level without reset", "bmc", "nothing leaves that did not enter|i is ready|o is valid|at most"),
    ],
)
def test_a_wrong_queue_fails(fault: str, mode: str, message: str) -> None:
    with pytest.raises(ProofError) as caught:
        prove(QueueProperties(Queue(fault)), name="queue", depth=12, mode=mode)
    text = str(caught.value)
    found = re.search(rf"assertion fails: ({message}).* \(cycle \d+, .*py:\d+, trace (.*\.vcd)\)", text)
    assert found, text
    assert Path(found[2]).is_file()


class DeafSkidBuffer(SkidBuffer):
    def elaborate(self, platform: Any) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.i.ready.eq(1)
        return m


class BlindRoundRobin(RoundRobin):
    def _select(self, grants: Signal, width: int) -> Value:
        return Value.cast(super()._select(Mux(grants == 4, 2, grants), width))


class LeavingZeroEliminator(ZeroEliminator):
    """What moves stays behind as well."""

    def _shift_layer(self, m: Module, layer: int, elements: list[Value], counts: list[Value]) -> list[Value]:
        shifted = super()._shift_layer(m, layer, elements, counts)
        return [*shifted[:-1], elements[-1]] if layer == 1 else shifted


class FlushlessPacker(Packer):
    """A sequence's last row is lost if the one before it was completed at the same time."""

    def _join(self, m: Module, valid: Value, ready: Signal, elements: list[Value], tag: Any) -> None:
        changed = Signal(self._tag())
        m.d.comb += [changed.eq(tag), changed.last.eq(tag.last & ~tag.full)]
        super()._join(m, valid, ready, elements, changed)


class GenerousQuickSelect(QuickSelect):
    """Keeps one equal too many."""

    def _leave(self, m: Module, enters_first: Value, crowded: Signal, search: Any) -> None:
        generous = SimpleNamespace(finishes=search.finishes, threshold=search.threshold, last_rank=search.last_rank + 1)
        super()._leave(m, enters_first, crowded, generous)  # type: ignore[arg-type]


class CrossingMerger(BurstMerger):
    """Does not mind where a page ends."""

    def _follows(self, is_next: Value, offset: Value, more: Value) -> Value:
        return is_next & (more != self.burst - 1)


class DeafReader(SmallReader):
    """Takes beats whether or not it has room."""

    def build(self, platform: Any) -> Module:
        m = super().build(platform)
        m.d.comb += self.axi.rready.eq(1)
        return m


class HastyWriter(SmallWriter):
    """Ends every burst with its first beat."""

    def build(self, platform: Any) -> Module:
        m = super().build(platform)
        m.d.comb += self.axi.wlast.eq(1)
        return m


_AXI = {"address_bits": 13, "local_bits": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("properties", "message"),
    [
        (MergerProperties(CrossingMerger(**_AXI, burst=2, room_bits=3, page_bits=2)), "no burst crosses a page"),
        (
            ReaderProperties(DeafReader(**_AXI, channel_bits=256, outstanding=3)),
            "at most one sector on o|o: valid and payload hold|a sector is on o|a sector's beats",
        ),
        (
            WriterProperties(HastyWriter(**_AXI, channel_bits=128, depth=2, outstanding=3)),
            "WLAST is at a burst's last beat",
        ),
        (SkidBufferProperties(DeafSkidBuffer(shape=2)), "i is ready if and only if|at most 2 inside"),
        (RoundRobinProperties(BlindRoundRobin(shape=2, inputs=3)), "every payload leaves in its turn, and is right"),
        (
            ZeroEliminatorProperties(LeavingZeroEliminator(shape=2, lanes=3, stages=1)),
            "every payload leaves in its turn, and is right",
        ),
        (
            PackerProperties(FlushlessPacker(shape=1, lanes=2, header=1)),
            "a row is there `delay` cycles after|a sequence's rest|every row has as many|every element leaves where",
        ),
        (
            QuickSelectProperties(
                GenerousQuickSelect(width=2, lanes=1, n_max=2, digit_bits=1, header=1), compaction=3, calm=True
            ),
            "equals is k less",
        ),
    ],
)
def test_a_wrong_unit_fails(properties: Elaboratable, message: str) -> None:
    with pytest.raises(ProofError, match=f"assertion fails: ({message})"):
        prove(properties, name="wrong", depth=12, mode="bmc")


@pytest.mark.slow
def test_an_unfair_arbiter_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = spatten.hw.lib.arbiter._prefix_or
    monkeypatch.setattr(
        spatten.hw.lib.arbiter, "_prefix_or", lambda m, value, name: right(m, value & -(name == "any"), name)
    )
    with pytest.raises(ProofError, match="assertion fails: a waiting input is served within"):
        prove(RoundRobinProperties(RoundRobin(shape=2, inputs=3)), name="unfair", depth=10)


@pytest.mark.slow
def test_a_pointer_that_wraps_late_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatten.hw.lib.fifo, "following", lambda pointer, depth: (pointer + 1)[: len(pointer)])
    with pytest.raises(ProofError, match=r"assertion fails: (every payload|o: valid and payload hold)"):
        prove(FifoProperties(Fifo(shape=2, depth=3)), name="late_wrap", depth=12)


# -- What makes a proof worth its name --------------------------------------------------------------------------------


class Counter(Elaboratable):
    """Counts up from 5, and asserts that it is above 4 where the wrong setup would show."""

    def __init__(self, what: str = "") -> None:
        self.what = what

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = Signal(4, init=5, reset_less=self.what == "no reset")
        with m.If((count < 12) & free(m, name="step")):
            m.d.sync += count.eq(count + 1)
        match self.what:
            case "contradiction":
                m.d.comb += Assume(count < 5)
            case "writable memory" | "read-only memory":
                m.submodules.words = words = memory.Memory(shape=4, depth=2, init=[6, 7])
                if self.what == "writable memory":
                    words.write_port()
                port = words.read_port(domain="comb")
                m.d.comb += [port.addr.eq(count[0]), Assert(port.data >= 6, "the memory has its initial values")]
            case "constant":
                value = constant(m, 4, name="value")
                before = Signal(4)
                known = Signal()
                m.d.sync += [before.eq(value), known.eq(1)]
                m.d.comb += [Assert(~known | (value == before), "constant"), Cover(value == 9, "nine")]
            case "hard":
                # Two primes: no solver factors their product in the time that any test has.
                factors = [free(m, 32, name=f"factor{n}") for n in range(2)]
                m.d.comb += Assert(factors[0] * factors[1] != (2**32 - 5) * (2**32 - 17), "has no factors")
        if self.what != "no assertion":
            m.d.comb += Assert(count >= 5, "the counter starts at 5")
        if self.what != "no cover":
            m.d.comb += Cover(count == (13 if self.what == "unreachable" else 8), "a count")
        return m


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["prove", "bmc"])
def test_the_first_cycle_is_the_resets(mode: str) -> None:
    # Before it the counter may be anything.
    proof = prove(Counter(), name="counter", depth=6, mode=mode)
    assert proof.covers == {"a count": 4}
    assert proof.assertions == ("the counter starts at 5",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no reset", "assertion fails: the counter starts at 5"),
        ("writable memory", "assertion fails: the memory has its initial values"),
        ("contradiction", "cover not reached: a count"),
        ("unreachable", "cover not reached: a count"),
    ],
)
def test_nothing_is_taken_for_granted(what: str, message: str) -> None:
    with pytest.raises(ProofError, match=message):
        prove(Counter(what), name="counter", depth=6)


@pytest.mark.slow
def test_a_read_only_memory_keeps_its_contents() -> None:
    assert len(prove(Counter("read-only memory"), name="counter", depth=6).assertions) == 2


@pytest.mark.slow
def test_a_constant_is_constant_and_free() -> None:
    assert prove(Counter("constant"), name="counter", depth=6).covers["nine"] == 1


@pytest.mark.slow
def test_a_cover_alone_can_be_asked_for() -> None:
    proof = prove(Counter("no assertion"), name="counter", depth=6, mode="cover")
    assert (proof.assertions, proof.covers) == ((), {"a count": 4})


@pytest.mark.slow
def test_no_verdict_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatten.sim.verify.formal, "_SMT", "smtbmc no_such_solver")
    with pytest.raises(FormalError, match=r"counter: .*ERROR"):
        prove(Counter(), name="counter", depth=6)


@pytest.mark.slow
def test_time_is_limited() -> None:
    with pytest.raises(FormalError, match=r"counter: .*(TIMEOUT|ERROR)"):
        prove(Counter("hard"), name="counter", depth=6, mode="bmc", timeout_seconds=5)


def test_a_proof_asserts_and_covers_something() -> None:
    with pytest.raises(ValueError, match="counter asserts nothing"):
        prove(Counter("no assertion"), name="counter", depth=6)
    with pytest.raises(ValueError, match="counter has no cover to show that it is not vacuous"):
        prove(Counter("no cover"), name="counter", depth=6)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"mode": "live"}, ValueError, "mode must be one of prove, bmc, cover, not 'live'"),
        ({"name": 3}, TypeError, "name must be a string, not 3"),
        ({"name": "a b"}, ValueError, "name must be made of letters, digits and _, not 'a b'"),
        ({"depth": 2.0}, TypeError, "depth must be an integer, not 2.0"),
        ({"depth": 0}, ValueError, "depth must be at least 1, not 0"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        prove(Counter(), **{"name": "counter", "depth": 6, **arguments})
    assert str(caught.value) == text
