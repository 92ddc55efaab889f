"""What is made of the figures of the board; `make bench-board` measures them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spatten.sim.measure.bench import BenchError
from spatten.sim.measure.board_bench import BoardFigure, report, require_contexts, shares, write_page
from spatten.spec.config import ULX3S
from tests.checkout import ROOT

DENSE = BoardFigure(
    model="a model",
    setting="dense 8-bit",
    keys=64,
    layers=2,
    cycles=1_000,
    clock_hz=80_000_000,
    read_bytes=1_500,
    written_bytes=300,
    activations=7,
    line_bytes=3_000,
)
PRUNED = BoardFigure(**{**vars(DENSE), "setting": "pruned", "cycles": 500, "read_bytes": 350, "written_bytes": 100})


def test_figures_follow_from_cycles_and_bytes() -> None:
    assert DENSE.milliseconds == pytest.approx(0.0125)
    assert DENSE.peak_fraction == pytest.approx(1_800 / 2_000)
    assert DENSE.line_milliseconds == pytest.approx(10)


def test_the_share_of_the_reduction() -> None:
    # A quarter of the bytes in half of the time.
    assert shares([DENSE, PRUNED]) == [pytest.approx(0.5)]
    assert report("ulx3s", [DENSE, PRUNED, DENSE])["shares"] == [pytest.approx(0.5)]


def test_contexts_must_fit() -> None:
    assert require_contexts("1,512", ULX3S) == [1, 512]
    with pytest.raises(BenchError, match="contexts must be 1 to tokens_max = 512, not 513"):
        require_contexts("256,513", ULX3S)
    with pytest.raises(BenchError, match="lengths must be integers with commas between them, not 'many'"):
        require_contexts("many", ULX3S)


def test_the_page_has_a_row_for_each_figure(tmp_path: Path) -> None:
    page = tmp_path / "board.md"
    page.write_text((ROOT / "docs" / "board.md").read_text(encoding="utf-8"), encoding="utf-8")
    write_page(page, report("ulx3s", [DENSE, PRUNED]))
    found = re.search(r"<!-- worth -->\n(.*?)<!-- end -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert "| a model (2 layers) | 64 | pruned | 500 | 0.01 ms | 450 | 45.0 % | 7 | 10.0 ms |" in found[1]
    assert "became a reduction in time: 50 %." in found[1]
