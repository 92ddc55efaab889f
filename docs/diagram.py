"""Draws docs/images/accelerator.svg from docs/diagram.toml: `python docs/diagram.py`. Every box is a file, and a
link."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from lxml import etree
from lxml.builder import ElementMaker

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "diagram.toml"
PICTURE = HERE / "images" / "accelerator.svg"
WIDTH, HEIGHT = 140, 44
"""Of a box, in pixels."""
STEP_X, STEP_Y = 160, 74
MARGIN, TITLE = 16, 20

_svg = ElementMaker(namespace="http://www.w3.org/2000/svg", nsmap={None: "http://www.w3.org/2000/svg"})


def corner(at: list[int]) -> tuple[int, int]:
    """The upper left corner of the box at a column and row."""
    return MARGIN + 8 + at[0] * STEP_X, MARGIN + TITLE + at[1] * STEP_Y


def _attributes(**values: Any) -> dict[str, str]:
    return {name.replace("_", "-"): str(value) for name, value in values.items()}


def _text(x: float, y: float, text: str, **style: Any) -> Any:
    return _svg.text(text, _attributes(x=x, y=y, font_family="sans-serif", **style))


def _arrow(start: list[int], end: list[int]) -> Any:
    """From one box to another: along their row or column, around one corner upwards, or by way of the gap between
    rows."""
    (x0, y0), (x1, y1) = corner(start), corner(end)
    left, middle, right = (WIDTH * part for part in (0, 0.5, 1))
    if start[1] == end[1]:
        points = [(x0 + right, y0 + HEIGHT / 2), (x1 + left - 2, y1 + HEIGHT / 2)]
    elif start[0] == end[0]:
        points = [(x0 + middle, y0 + HEIGHT), (x1 + middle, y1 - 2)]
    elif end[1] < start[1]:
        points = [(x0 + right, y0 + HEIGHT / 2), (x1 + middle, y0 + HEIGHT / 2), (x1 + middle, y1 + HEIGHT + 2)]
    else:
        gap = y1 - (STEP_Y - HEIGHT) / 3
        points = [(x0 + WIDTH / 3, y0 + HEIGHT), (x0 + WIDTH / 3, gap), (x1 + middle, gap), (x1 + middle, y1 - 2)]
    line = " ".join(f"{x:g},{y:g}" for x, y in points)
    return _svg.polyline(
        _attributes(points=line, fill="none", stroke="#444", stroke_width=1.5, marker_end="url(#head)")
    )


def draw(source: dict[str, Any]) -> str:
    """The picture as SVG text; links go from docs/images to the root of the repository."""
    boxes = {box["file"]: box for box in source["box"]}
    columns = 1 + max(box["at"][0] for box in boxes.values())
    rows = 1 + max(box["at"][1] for box in boxes.values())
    width, height = 2 * MARGIN + columns * STEP_X, 2 * MARGIN + rows * STEP_Y
    picture = _svg.svg(_attributes(viewBox=f"0 0 {width} {height}", width=width, height=height))
    head = _svg.marker(
        _svg.path(_attributes(d="M0,0 L8,4 L0,8 z", fill="#444")),
        _attributes(id="head", orient="auto"),
        {"markerWidth": "8", "markerHeight": "8", "refX": "7", "refY": "4"},
    )
    picture.append(_svg.defs(head))
    picture.append(_svg.rect(_attributes(width=width, height=height, fill="white")))
    for band in source["band"]:
        y = MARGIN + band["row"] * STEP_Y
        size = STEP_Y * band.get("rows", 1) - 6
        style = {"fill": source["rooms"][band["room"]], "rx": 6}
        picture.append(_svg.rect(_attributes(x=MARGIN, y=y, width=columns * STEP_X, height=size, **style)))
        end = MARGIN + columns * STEP_X - 8
        picture.append(_text(end, y + 14, band["title"], font_size=11, text_anchor="end", fill="#555"))
    for arrow in source["arrow"]:
        start, end = (boxes[file]["at"] for file in arrow["path"])
        picture.append(_arrow(start, end))
    for file, box in boxes.items():
        x, y = corner(box["at"])
        frame = _svg.rect(_attributes(x=x, y=y, width=WIDTH, height=HEIGHT, rx=4, fill="white", stroke="#444"))
        name = _text(x + WIDTH / 2, y + 18, box["text"], font_size=13, text_anchor="middle", fill="#1a4a9a")
        what = _text(x + WIDTH / 2, y + 34, box["what"], font_size=10, text_anchor="middle", fill="#333")
        picture.append(_svg.a(_svg.title(file), frame, name, what, {"href": f"../../{file}"}))
    return str(etree.tostring(picture, pretty_print=True, encoding="unicode"))


if __name__ == "__main__":
    PICTURE.write_text(draw(tomllib.loads(SOURCE.read_text(encoding="utf-8"))), encoding="utf-8")
