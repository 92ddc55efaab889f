"""The demo: what it finds, what it prints, the page it writes, and what it says to bad input."""

from __future__ import annotations

import io
import itertools
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from spatten.golden import GoldenError
from spatten.host.models.zoo import DEFAULT_SENTENCE
from spatten.host.studies import demo
from tests.cli.command_line import make, run_spatten


@pytest.fixture(scope="module")
def found() -> demo.Analysis:
    return demo.analyse(DEFAULT_SENTENCE, keep=0.25, keep_heads=0.75, bits=8)


def test_the_default_sentence_leaves_what_the_slides_leave(found: demo.Analysis) -> None:
    assert found.survivors == ("[CLS]", "treat", "film", "perfect")


def test_cascade(found: demo.Analysis) -> None:
    live = [tuple(i for i, cell in enumerate(layer.cells) if cell.live) for layer in found.layers]
    kept = [tuple(i for i, cell in enumerate(layer.cells) if cell.kept) for layer in found.layers]
    assert live[0] == tuple(range(13))
    assert live[1:] == kept[:-1], "what a layer keeps is what the next computes"
    assert [len(k) for k in kept] == [13, 12, 10, 8, 6, 4]
    heads_live = [layer.heads_live for layer in found.layers]
    heads_kept = [layer.heads_kept for layer in found.layers]
    assert heads_live[1:] == heads_kept[:-1]
    assert len(heads_kept[-1]) == 9
    assert all(set(later) <= set(earlier) for earlier, later in itertools.pairwise(heads_kept))


def test_bytes(found: demo.Analysis) -> None:
    assert found.dense_8 == 6 * 12 * 13 * 32 * 3
    assert found.dense_32 == 4 * found.dense_8
    # 8-bit rows of D = 32 are one sector: layer by layer, live heads x live tokens x (Q, K, V)
    expected = [len(layer.heads_live) * sum(cell.live for cell in layer.cells) * 3 * 32 for layer in found.layers]
    assert [layer.fetched for layer in found.layers] == expected
    assert found.fetched == sum(expected)


def test_nothing_pruned_is_close_to_float() -> None:
    assert demo.analyse(DEFAULT_SENTENCE, keep=1, keep_heads=1, bits=12).cosine > 0.99999


def test_plain_text_marks_what_left(found: demo.Analysis) -> None:
    screen = Console(file=io.StringIO(), width=100, color_system=None)
    demo.show(found, screen)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    last = next(line for line in text.splitlines() if line.startswith("layer 5"))
    assert " ".join(last.split()) == "layer 5 [CLS] ·· · ······ treat · ··· film ·· ······ perfect · ····· 4/13"
    assert "\x1b" not in text
    assert f"{found.fetched:,} bytes" in text


def test_a_terminal_gets_colour(found: demo.Analysis) -> None:
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    demo.show(found, screen)
    assert "\x1b[" in screen.file.getvalue()  # type: ignore[attr-defined]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.cells += ("class", "token") in [(name, (value or "").split()[0]) for name, value in attrs if value]
        self.outside += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(tmp_path: Path) -> None:
    found = demo.analyse("A <b>bold</b> & 'quoted' word.", keep=0.5, keep_heads=1, bits=8)
    path = tmp_path / "new" / "page.html"
    demo.write_html(found, path)
    text = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == [], "nothing is loaded from elsewhere"
    assert page.cells == len(found.layers) * len(found.layers[0].cells)
    assert "&lt;b&gt;bold" in text, "the sentence is escaped"
    assert "url(" not in text
    assert list(path.parent.iterdir()) == [path], "no temporary file stays"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the text is empty: give at least one word"),
        (["word " * 600], "the sequence has 602 tokens, and the model allows 512"),
        (["hi", "--keep", "2"], "keep must be above 0 and at most 1, not 2.0"),
        (["hi", "--keep-heads", "0"], "keep-heads must be above 0 and at most 1, not 0.0"),
        (["hi", "--keep", "1e-300"], "keep must be at least 1e-15"),
        (["hi", "--bits", "7"], "query_bits must be one of (4, 6, 8, 10, 12, 16), not 7"),
        (["hi", "--config", "big"], "configuration must be one of paper, eighth, ulx3s, tiny or a .toml file"),
        (["hi", "--model", "nowhere"], "nowhere is missing: a checkpoint folder holds config.json"),
        (["hi", "--config", "tiny"], "the configuration 'tiny' takes 1 to 4 layers, not 6"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    ended = run_spatten("demo", *arguments)
    assert (ended.status, ended.output) == (2, "")
    assert message in ended.errors
    assert len(ended.errors.splitlines()) == 1


def test_keep_is_checked_in_the_library_too() -> None:
    with pytest.raises(GoldenError, match="keep must be above 0"):
        demo.analyse("hi", keep=0, keep_heads=1, bits=8)


@pytest.mark.needs("make")
def test_make_passes_the_sentence_as_it_is(tmp_path: Path) -> None:
    """No $ is expanded, no command in it is run, and it is never an option."""
    made = tmp_path / "made"
    sentence = f"--help costs $5 and $(shell touch {made}) 'or' \"more\" `touch {made}`"
    run = make("--no-print-directory", "demo", f"TEXT={sentence}", "-o", "ready", f"RUN='{sys.executable}'")
    assert run.returncode == 0, run.stderr
    assert " ".join(run.stdout.split()).startswith(sentence)
    assert not made.exists()
