"""The block table; `make formal` proves it (tests/hw/memory/formal_block_table.py)."""

from __future__ import annotations

from typing import Any

import pytest

from spatten.hw.emit.verilog import convert
from spatten.hw.memory.block_table import BlockTable, block_request, granted_block
from spatten.sim.verify.build import lint

GOOD: dict[str, Any] = {"sectors": 5, "entries": 4, "uses_max": 3, "groups_max": 2}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [GOOD, {"sectors": 772, "entries": 16, "uses_max": 64, "groups_max": 64}], ids=str)
def test_verilog_is_lint_clean(sizes: dict[str, int]) -> None:
    lint(convert(BlockTable(**sizes)))


def test_ports_have_the_declared_shapes() -> None:
    table = BlockTable(**GOOD)
    assert table.i.payload.shape() == block_request(sectors=5, uses_max=3)
    assert table.o.payload.shape() == granted_block(sectors=5, entries=4)
    assert [len(table.arrived[0]), len(table.bases[3]), len(table.uses.entry)] == [2, 3, 2]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"sectors": 0}, ValueError, "sectors must be at least 1, not 0"),
        ({"sectors": "5"}, TypeError, "sectors must be an integer, not '5'"),
        ({"entries": 1}, ValueError, "entries must be at least 2, not 1"),
        ({"entries": 6}, ValueError, "entries must be a power of two, not 6"),
        ({"uses_max": 0}, ValueError, "uses_max must be at least 1, not 0"),
        ({"groups_max": True}, TypeError, "groups_max must be an integer, not True"),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        BlockTable(**{**GOOD, **change})
    assert str(caught.value) == text
