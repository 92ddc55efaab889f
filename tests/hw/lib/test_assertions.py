"""A neighbour that breaks the stream rules ends the simulation, and the message names the stream."""

import re
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Assert, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

import spatten.sim.verify.cosim
from spatten.hw.emit.verilog import convert
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.sim.verify.build import SIMULATORS
from spatten.sim.verify.cosim import CosimulationError, cosimulate
from spatten.sim.verify.transformations import stop_at_assertions


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed runs are kept, and most of these fail."""
    monkeypatch.setattr(spatten.sim.verify.cosim, "runs", lambda: tmp_path)


class Outer(wiring.Component):
    """A queue inside, whose neighbour is this."""

    i: In(stream.Signature(3))
    o: Out(stream.Signature(3))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.queue = queue = SkidBuffer(shape=3)
        wiring.connect(m, wiring.flipped(self.i), queue.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        return m


def _run(component: wiring.Component, scenario: str, simulator: str, strip_initial: bool = False) -> list[str]:
    return cosimulate(
        component,
        test_module="tests.hw.lib.cocotb_assertions",
        simulator=simulator,
        parameters={"scenario": scenario},
        strip_initial=strip_initial,
    )


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("scenario", ["valid falls", "payload changes"])
def test_a_broken_rule_ends_the_simulation(scenario: str, simulator: str) -> None:
    with pytest.raises(CosimulationError) as caught:
        _run(SkidBuffer(shape=3), scenario, simulator)
    text = str(caught.value)
    assert "2 of 2 tests failed" in text
    assert "\nassertion failed: top: i: valid or payload changed while stalled\nscenario: " in text
    assert re.search(r"status \d|ended prematurely", text)


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_the_message_says_in_which_part(simulator: str) -> None:
    message = r"assertion failed: top\.queue: i: valid or payload changed while stalled\n"
    with pytest.raises(CosimulationError, match=message):
        _run(Outer(), "payload changes", simulator, strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("scenario", ["reset", "taken"])
def test_a_reset_or_a_transfer_ends_the_obligation(scenario: str, simulator: str) -> None:
    assert _run(SkidBuffer(shape=3), scenario, simulator, strip_initial=True) == ["scenario", "another"]


def test_the_generated_verilog_has_no_assertions() -> None:
    for component in (SkidBuffer(shape=3), Fifo(shape=3, depth=4), Outer()):
        assert "assert" not in convert(component)
        assert "assert" in convert(component, assertions=True)


class Asserting(wiring.Component):
    i: In(4)

    def __init__(self, *messages: Any) -> None:
        self._messages = messages
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for message in self._messages:
            m.d.sync += Assert(self.i == 3, *([] if message is None else [message]))
        return m


def test_assertions_end_the_run_with_their_message() -> None:
    text = stop_at_assertions(convert(Asserting(None, "plain", 'a "quoted" one\n')))
    assert len(re.findall(r'if \(!\S+ +&& !rst\) \$fatal\(1, "assertion failed: %m: .*"\);', text)) == 3, text
    assert "%m: unnamed" in text
    assert "%m: plain" in text
    assert '%m: a \\"quoted\\" one"' in text
    assert not re.search(r"^ *assert\b", text, re.MULTILINE)


def test_an_unknown_form_of_assertion_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot rewrite the assertion 'assert \(a && b\);'"):
        stop_at_assertions("  assert (a && b);\n")
