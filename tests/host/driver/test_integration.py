"""docs/integration.md: its example compiles with the accelerator, and what it says of the Verilog is so."""

import inspect
import re

import pytest

from spatten.host.driver import errors, protocol, transport
from spatten.host.driver.device import Device
from spatten.host.driver.transport import Transport, TransportError
from spatten.hw.emit.verilog import convert
from spatten.hw.lib.ram import Ram
from spatten.sim.machine.device import accelerator_verilog
from spatten.sim.verify.build import lint
from spatten.spec.config import TINY
from spatten.spec.register_map import RegisterMap
from tests.host.driver.test_device import Fake
from tests.waveforms import CYCLE, PAGE, drawings


@pytest.mark.slow
def test_the_minimal_instance_compiles() -> None:
    example = re.search(r"```verilog\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    text = accelerator_verilog(TINY)
    # An unconnected output is meant; nothing else of the example is to be excused.
    lint(f"/* verilator lint_off PINCONNECTEMPTY */\n{example[1]}\n{text}", top="chip")
    assert re.search(r"^module spatten_ram_\d+x\d+\(", text, re.MULTILINE)
    ports = re.search(r"^module spatten\((.*?)\);", text, re.MULTILINE | re.DOTALL)
    assert ports is not None
    names = set(ports[1].replace(",", " ").split())
    assert set(re.findall(r"\.(\w+)\(", example[1])) == names


def test_the_registers_that_it_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    registers = RegisterMap(TINY)
    for name in (
        *("ID", "VERSION", "DOORBELL", "REJECT", "REPORT_POP", "CONTROL", "INTERRUPT_ENABLE", "STATUS", "ERROR"),
        *("CHANNELS_STUCK", "TIMEOUT"),
    ):
        assert name in text
        assert name in registers
    for name, field in re.findall(r"\b([A-Z][A-Z_]+)\.`?([a-z_]+)`?", text):
        assert registers[name].field(field)


def test_the_driver_does_something_with_every_register() -> None:
    """And every method and error that the page names is there."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## The driver\n")[2]
    rows = re.findall(r"^\| ([A-Z].*?) \| (.*) \|$", section, re.MULTILINE)
    named = {name for registers, _ in rows for name in re.findall(r"\w+", registers)}
    for name, register in RegisterMap(TINY).items():
        assert {name, re.sub(r"\d+$", "0", name), register.group} & named, name
    text = " ".join(what for _, what in rows) + section.partition("\n- ")[2]
    fields = {field.name for field in RegisterMap(TINY)["STATUS"].fields}
    for name in re.findall(r"`(\w+)`", text):
        parameters = inspect.signature(Device).parameters | inspect.signature(Device.wait).parameters
        places = (Device, errors, Transport, TransportError, transport)
        assert any(hasattr(place, name) for place in places) or name in parameters or name in fields, name
    for name, value in re.findall(r"(more than|every|:) ([\d,]+)(?: cycles| for a job)", text):
        known = {"more than": protocol.DRAIN_CYCLES, "every": protocol.SLICE_CYCLES, ":": protocol.JOB_CYCLES}
        assert int(value.replace(",", "")) == known[name]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    fake = Fake(TINY, origin=(0x8_0000_0000, 0x8_1000_0000))
    with pytest.raises(ValueError, match="sectors must be 2 to 65536, not 1048576"):
        exec(example[1], {"transport": fake})
    exec(example[1].replace("1 << 20", "1 << 16"), {"transport": fake})
    assert (fake.values["BASE1"], fake.values["TIMEOUT"]) == (0x8_1000_0000 >> 12, 5_000_000)


def test_waveforms_change_at_clock_edges() -> None:
    """sim/verify/benches/registers.py runs the first of them."""
    waves = drawings()
    assert [len(wave) for wave in waves] == [12, 7]
    for wave in waves:
        for name, line in wave.items():
            assert len(line) == len(wave["clk"]), name
            if name == "clk":
                assert line == "_/~\\" * (len(line) // CYCLE) + "_"
            else:
                assert all(place % CYCLE == 1 for place, mark in enumerate(line) if mark in "/\\<"), name
                assert all(place % CYCLE == 0 for place, mark in enumerate(line) if mark == ">"), name
                levels = line.replace("/", "~").replace("\\", "_")
                runs = re.finditer(r"~+|_+", levels)
                assert all(run.start() == 0 or run.start() % CYCLE == 1 for run in runs), name


def test_a_memory_is_gated_as_described() -> None:
    text = convert(Ram(shape=8, depth=16), name="ram")
    assert "`words`" in PAGE.read_text(encoding="utf-8")
    assert re.search(r"reg \[7:0\] words \[15:0\];", text)
    assert re.search(r"assign read__en = read_enable & ", text)
    assert re.search(r"if \(read__en\)", text)
