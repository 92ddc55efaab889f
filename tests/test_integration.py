"""docs/integration.md: its example compiles with the accelerator, and what it says of the Verilog is so."""

import re

import pytest

from hw.config import TINY
from hw.register_map import RegisterMap
from hw.spatten import Spatten
from sim.build import ROOT, lint
from sim.verilog import convert

PAGE = ROOT / "docs" / "integration.md"


@pytest.mark.slow
def test_the_minimal_instance_compiles() -> None:
    example = re.search(r"```verilog\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    text = convert(Spatten(config=TINY), name="spatten")
    # An unconnected output is meant; nothing else of the example is to be excused.
    lint(f"/* verilator lint_off PINCONNECTEMPTY */\n{example[1]}\n{text}", top="chip")
    assert re.search(r"^module spatten_ram_\d+x\d+\(", text, re.MULTILINE)
    ports = re.search(r"^module spatten\((.*?)\);", text, re.MULTILINE | re.DOTALL)
    assert ports is not None
    names = set(ports[1].replace(",", " ").split())
    assert set(re.findall(r"\.(\w+)\(", example[1])) == names


def test_the_registers_that_it_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("ID", "VERSION", "DOORBELL", "REJECT", "REPORT_POP", "CONTROL", "INTERRUPT_ENABLE"):
        assert name in text
        assert name in RegisterMap(TINY)
