"""`make run`: that it shows what it must, that its defaults prune everything, and that a difference ends it."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from spatten.golden import GoldenError, IntArray
from spatten.golden.schedule import Ratios
from spatten.host.driver.device import Device
from spatten.host.driver.readings import Reading
from spatten.host.engines.checked_engine import MismatchError
from spatten.host.engines.engine import LayerResult, ModelShape
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.engines.quantized_engine import Settings
from spatten.host.engines.registry import EngineName, make_engine
from spatten.host.models import zoo
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import TextError, load
from spatten.host.models.gpt2 import Gpt2
from spatten.host.models.zoo import DEFAULT_SENTENCE
from spatten.host.studies import demo
from spatten.hw.emit.verilog import convert
from spatten.hw.spatten import Spatten
from spatten.sim import cache
from spatten.sim.machine import model_runs as run
from spatten.sim.machine.device import accelerator_verilog, simulated_device
from spatten.spec.config import PAPER, TINY
from tests.cli.command_line import run_spatten
from tests.host.models.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, write

SMALL_GPT2 = GPT2_CONFIG | {"n_layer": 4, "n_embd": 48, "n_head": 3}
SMALL_SETTINGS = Settings(
    key_bits=6, lsb=True, threshold=0.3, tokens=Ratios(0.2, 0.5), heads=Ratios(0.3, 0.34), value_keep=0.6, pin_recent=3
)


# -- What the defaults do, on the golden model ------------------------------------------------------------------------


def test_the_default_run_of_gpt2_prunes_and_quantizes_everything() -> None:
    gpt2 = Gpt2(load(zoo.pydoc_gpt2()))
    prompt = gpt2.encode(run.DEFAULT_PROMPT).ids
    prompts: list[LayerResult] = []
    steps: list[LayerResult] = []

    def note(window: int, position: int, layer: int, result: LayerResult) -> None:
        (steps if position >= len(prompt) else prompts).append(result)

    gpt2.generate(prompt, GoldenEngine(run.GPT2_SETTINGS, PAPER), 24, on_layer=note)
    assert len(steps) == 23 * 4
    assert len(prompts[-1].kept_tokens) < 0.6 * len(prompt)
    assert len(prompts[-1].kept_heads) < 4
    assert all(len(one.kept_tokens) <= 0.6 * (len(prompt) + 23) for one in steps[3::4])
    assert sum(one.value_rows for one in steps) < 0.8 * sum(one.value_rows_live for one in steps)
    flat, rows = sum(one.rows_recomputed for one in steps), sum(one.rows for one in steps)
    assert 0.1 * rows < flat < 0.9 * rows


def test_the_default_run_of_minilm_leaves_what_the_demo_leaves() -> None:
    bert = Bert(load(zoo.minilm()))
    tokens = bert.encode(DEFAULT_SENTENCE)
    result = bert.run(tokens.ids, GoldenEngine(run.BERT_SETTINGS, PAPER))
    found = demo.analyse(DEFAULT_SENTENCE, keep=0.25, keep_heads=0.75, bits=8)
    assert tuple(tokens.strings[i] for i in result.kept_tokens) == found.survivors
    assert [len(one.kept_heads) for one in result.layers] == [len(one.heads_kept) for one in found.layers]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "1"], "tokens must be at least 2, for one to be generated from another, not 1"),
        (["--text", ""], "is empty: give at least one word"),
        (["--model", "pydoc-gpt2", "--tokens", "500"], "the first 499 of 500 tokens are 546, and the model allows 512"),
        (["--config", "tiny"], "the configuration 'tiny' takes 1 to 4 layers, not 6"),
        (["--config", "tiny", "--model", "pydoc-gpt2"], "the configuration 'tiny' takes 1 to 16 tokens, not 70"),
        (["--memory", "sram"], "memory must be one of ideal, hbm2, not 'sram'"),
        (["--config", "big"], "configuration must be one of"),
        (["--set", "channels=3"], "channels must be a power of two, not 3"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_built(arguments: list[str], message: str) -> None:
    ended = run_spatten("run", *arguments)
    assert (ended.status, ended.output) == (2, "")
    assert message in ended.errors
    assert len(ended.errors.splitlines()) == 1


# -- On the Verilog ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with simulated_device(TINY, console=Console(file=io.StringIO())) as device:
        yield device


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_bert(device: Device, console: Console, tmp_path: Path) -> None:
    bert = Bert(load(write(tmp_path, BERT_CONFIG)))
    settings = Settings(query_bits=8, tokens=Ratios(0.3, 0.6), heads=Ratios(0.34, 0.34))
    watch = run.run_bert(bert, "a b c d e f g h", device, console, settings)
    text = printed(console)
    assert watch.jobs == 3
    assert "equal: outputs, survivors, importance and bytes of all 3 jobs are the golden model's" in " ".join(
        text.split()
    )
    survivors = [line.split() for line in text.splitlines() if line.startswith("layer ")]
    assert [line[-1] for line in survivors[:3]] == ["10/10", "7/10", "4/10"]
    assert sum("·" in word for word in survivors[2]) == 6
    rows = [line.split() for line in text.splitlines() if re.match(r" *[012] +\d+ > \d+", line)]
    assert [row[1:4] for row in rows] == [["10", ">", "10"], ["10", ">", "7"], ["7", ">", "4"]]
    assert "…" not in text, "nothing is cut off at 80 columns"


@pytest.mark.slow
def test_gpt2(device: Device, console: Console, tmp_path: Path) -> None:
    gpt2 = Gpt2(load(write(tmp_path, SMALL_GPT2)))
    watch = run.run_gpt2(gpt2, "tokens", 9, device, console, SMALL_SETTINGS)
    text = printed(console)
    assert watch.jobs == 4 * 9
    assert all(figures.jobs == 8 for figures in watch.generation.values())
    steps = run.Figures.total(watch.generation.values())
    assert 0 < steps.recomputed < steps.rows
    assert steps.values_fetched < steps.values_live
    assert f"{steps.recomputed} of {steps.rows} generated rows were flat" in text
    assert "8 generation steps" in text
    assert "of all 36 jobs" in text
    for figures in (*watch.prompt.values(), *watch.generation.values()):
        assert 0 < figures.mac_utilisation(device.config) < 1
        assert 0 < figures.bandwidth_fraction(device.config) < 1
    golden = gpt2.generate(gpt2.encode("tokens").ids, GoldenEngine(SMALL_SETTINGS, TINY), 9)
    assert gpt2.decode(golden) in text


@pytest.mark.slow
def test_a_difference_ends_the_run(
    device: Device, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_reading = device.output_reading

    def wrong(*where: Any) -> Reading[IntArray]:
        right = output_reading(*where)

        def decode(answers: Sequence[Any]) -> IntArray:
            right.take(answers)
            return right.value + (np.arange(16) == 3)

        return Reading(right.operations, decode, device.transport.execute)

    monkeypatch.setattr(device, "output_reading", wrong)
    gpt2 = Gpt2(load(write(tmp_path, SMALL_GPT2)))
    with pytest.raises(MismatchError, match=r"layer 0, causal of token 5: head 0, row 0, element 3 is"):
        run.run_gpt2(gpt2, "tokens", 2, device, console, SMALL_SETTINGS)


@pytest.mark.slow
def test_the_demo_on_the_verilog(tmp_path: Path) -> None:
    """`--engine rtl` finds what `--engine golden` does."""
    folder = write(tmp_path, BERT_CONFIG)
    found = [
        demo.analyse("a b c d e", keep=0.4, keep_heads=0.5, bits=8, config="tiny", folder=folder, engine=engine)
        for engine in (EngineName.RTL, EngineName.GOLDEN)
    ]
    assert found[0] == found[1]


SHAPE = ModelShape(layers=2, heads=2, head_dim=16, causal=False)


def test_engines_by_name() -> None:
    for name, expected in ((EngineName.GOLDEN, "golden"), (EngineName.FLOAT, "float")):
        with make_engine(name, Settings(), TINY, SHAPE, 12) as engine:
            assert engine.name == expected


def test_what_the_accelerator_cannot_hold_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spatten.sim.machine.device.simulated_device", lambda *_: pytest.fail("it is being built"))
    with (
        pytest.raises(GoldenError, match="the configuration 'tiny' takes 1 to 16 tokens, not 17"),
        make_engine(EngineName.RTL, Settings(), TINY, SHAPE, 17),
    ):
        pass


def test_text_is_checked_in_the_library_too() -> None:
    gpt2 = Gpt2(load(zoo.pydoc_gpt2()))
    with pytest.raises(TextError, match="the text is empty"):
        run.check_gpt2(gpt2, "", 8, PAPER)


@pytest.mark.slow
def test_the_verilog_is_kept_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = accelerator_verilog(TINY)
    assert first == convert(Spatten(config=TINY), name="spatten")
    monkeypatch.setattr("spatten.sim.machine.device.convert", lambda *_, **__: "another")
    assert accelerator_verilog(TINY) == first
    other = TINY.replace(name="other-name")
    try:
        assert accelerator_verilog(other) == "another", "another configuration is another key"
    finally:
        for folder in cache.folder("sim").glob("verilog-*"):
            if (folder / "spatten.v").read_text(encoding="utf-8") == "another":
                shutil.rmtree(folder)
