"""What the documents say of the checkout: files that they name are there, and the picture is that of its source."""

from __future__ import annotations

import re
import runpy
import tomllib

import pytest

from tests.checkout import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCE = tomllib.loads((ROOT / "docs" / "diagram.toml").read_text(encoding="utf-8"))
MADE = re.compile(r"build/|docs/images/demo|.*\.(sv|lib|gz)$")
"""Files that are made, or are a user's own."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page) -> None:
    text = page.read_text(encoding="utf-8")
    rooms = "spec|golden|hw|host|sim|cli|tests|docs"
    named = re.findall(rf"`((?:{rooms})/[\w./-]*)`", text)
    linked = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    for path in named:
        assert (ROOT / path).exists() or MADE.match(path), path
    for path in linked:
        assert (page.parent / path).exists(), path


def test_the_picture_is_that_of_its_source() -> None:
    draw = runpy.run_path(str(ROOT / "docs" / "diagram.py"))["draw"]
    assert (ROOT / "docs" / "images" / "accelerator.svg").read_text(encoding="utf-8") == draw(SOURCE)


def test_every_box_is_a_file_and_every_unit_a_box() -> None:
    boxes = [box["file"] for box in SOURCE["box"]]
    assert len(set(boxes)) == len(boxes)
    for file in boxes:
        assert (ROOT / file).is_file(), file
        assert f'href="../../{file}"' in (ROOT / "docs" / "images" / "accelerator.svg").read_text(encoding="utf-8")
    rooms = [path for room in ("front", "control", "memory", "datapath") for path in (ROOT / "hw" / room).glob("*.py")]
    circuits = {
        path.relative_to(ROOT).as_posix()
        for path in rooms
        if "wiring.Component)" in path.read_text() or "(Shared)" in path.read_text()
    }
    # BurstMerger is a part of the AXI reader and writer.
    assert circuits - set(boxes) - {"hw/memory/axi.py"} == set()
