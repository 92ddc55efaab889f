"""The waveforms drawn in docs/integration.md, four characters a cycle: a clock edge is at every `/` of `clk`."""

from __future__ import annotations

import re

from tests.checkout import ROOT

PAGE = ROOT / "docs" / "integration.md"
CYCLE = 4


def drawings() -> list[dict[str, str]]:
    """The signals of each block of waveforms, by name, as they are drawn; `clk` is given once for two columns."""
    blocks = re.findall(r"```\n(clk .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [dict(re.findall(r"(\w+) +([^ \n]+)", block)) for block in blocks]


def levels(line: str) -> list[int | None]:
    """The level in each cycle; None for a value that is drawn as such."""
    return [{"~": 1, "_": 0}.get(line[place]) for place in range(CYCLE - 1, len(line), CYCLE)]
