"""Engines by name: those with a port and those without, and a board from the command line on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spatten.golden import GoldenError
from spatten.host.driver import board
from spatten.host.driver.board import register_port
from spatten.host.engines.engine import ModelShape
from spatten.host.engines.quantized_engine import Settings
from spatten.host.engines.registry import EngineError, EngineName, make_engine
from spatten.host.studies import demo
from spatten.spec.config import TINY
from tests.cli.command_line import run_spatten
from tests.host.engines.test_round_trips import Saving
from tests.host.models.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, write

SHAPE = ModelShape(layers=2, heads=2, head_dim=16, causal=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saving]:
    """Behind the port `fake`."""
    fake = Saving()
    monkeypatch.setattr(board, "_ports", {})
    register_port("fake", lambda config: fake)
    return fake


@pytest.mark.parametrize("name", [EngineName.GOLDEN, EngineName.FLOAT, EngineName.RTL])
def test_only_a_board_has_a_port(name: EngineName) -> None:
    with (
        pytest.raises(EngineError, match=f"the engine {name} has no port: a port goes with --engine board"),
        make_engine(name, Settings(), TINY, SHAPE, 12, port="fake"),
    ):
        pass


def test_a_board_has_a_port() -> None:
    with (
        pytest.raises(EngineError, match="the engine board needs a port, such as --port /dev/ttyUSB0"),
        make_engine(EngineName.BOARD, Settings(), TINY, SHAPE, 12),
    ):
        pass


def test_a_board(fake: Saving) -> None:
    with make_engine(EngineName.BOARD, Settings(), TINY, SHAPE, 12, port="fake") as engine:
        assert engine.name == "board"
        assert not fake.closed
    assert fake.closed


def test_what_a_board_cannot_hold_is_refused_before_it_is_opened(fake: Saving) -> None:
    with (
        pytest.raises(GoldenError, match="the configuration 'tiny' takes 1 to 16 tokens, not 17"),
        make_engine(EngineName.BOARD, Settings(), TINY, SHAPE, 17, port="fake"),
    ):
        pass
    assert not fake.closed


def test_a_demo_on_a_board(tmp_path: Path, fake: Saving) -> None:
    """What it shows of each layer is read before the board is let go of."""
    folder = write(tmp_path, BERT_CONFIG)
    fake.jobs = 1  # all importance is above zero
    found = demo.analyse(
        "a b c d e", keep=1, keep_heads=1, bits=8, config="tiny", folder=folder, engine=EngineName.BOARD, port="fake"
    )
    assert fake.closed
    assert fake.jobs == 1 + len(found.layers)
    assert [layer.tokens_kept for layer in found.layers] == [7] * 3


def test_the_commands_take_a_board(tmp_path: Path, fake: Saving) -> None:
    gpt2, bert = write(tmp_path / "gpt2", GPT2_CONFIG), write(tmp_path / "bert", BERT_CONFIG)
    fake.jobs = 1
    given = ("--engine", "board", "--port", "fake", "--config", "tiny", "--model")
    for command, text, model in (("generate", "hi", gpt2), ("demo", "a b c", bert)):
        before = fake.jobs
        more = ("--tokens", "3", "--ignore-eos") if command == "generate" else ()
        ended = run_spatten(command, text, *given, str(model), *more)
        assert (ended.status, ended.errors) == (0, ""), command
        assert fake.jobs > before


@pytest.mark.parametrize("command", ["generate", "demo"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "board"), "the engine board needs a port, such as --port /dev/ttyUSB0"),
        (("--port", "fake"), "the engine golden has no port: a port goes with --engine board"),
        (("--engine", "board", "--port", "/dev/ttyNONE"), "there is no port '/dev/ttyNONE': is the board connected"),
    ],
)
def test_the_commands_say_what_is_wrong_with_a_port(
    tmp_path: Path, fake: Saving, command: str, options: tuple[str, ...], message: str
) -> None:
    model = write(tmp_path, GPT2_CONFIG if command == "generate" else BERT_CONFIG)
    tokens = ("--tokens", "2") if command == "generate" else ()
    ended = run_spatten(command, "a b", "--config", "tiny", "--model", str(model), *tokens, *options)
    assert ended.status == 2
    assert ended.errors.startswith(f"error: {message}")


def test_the_default_configuration_of_a_board(tmp_path: Path, fake: Saving) -> None:
    model = write(tmp_path, {**GPT2_CONFIG, "n_head": GPT2_CONFIG["n_embd"] // 32})
    ended = run_spatten("generate", "hi", "--tokens", "2", "--model", str(model), "--engine", "board", "--port", "fake")
    assert ended.status == 1
    wrong = "the accelerator behind fake is not of the configuration ulx3s: it has operand_bits = 12, not 8"
    assert wrong in ended.errors
