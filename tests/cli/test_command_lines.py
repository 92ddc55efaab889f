"""Every command line, under random options: it does its work or says in one line why not, and never has a traceback.

What the options can be is read from the commands themselves, so a new command or option is tried without a word here.
Long work has a stand-in that takes no time, and stops every now and then as a simulator does.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

import spatten.cli.bench
import spatten.cli.bench_board
import spatten.cli.bitstream
import spatten.cli.cycles
import spatten.cli.digests
import spatten.cli.features
import spatten.cli.mutate
import spatten.cli.run
import spatten.cli.soak
import spatten.cli.synth
import spatten.cli.units
import spatten.cli.verilog
import spatten.host.models.gpt2
import spatten.host.models.zoo
import spatten.host.studies.fidelity
import spatten.host.studies.train_lm
from spatten.cli.__main__ import COMMANDS, application
from spatten.host.engines import registry
from spatten.sim.machine.campaigns import DifferenceError
from spatten.sim.verify.build import SimulatorError
from spatten.sim.verify.cosim import seeds
from tests.cli.command_line import Ended, Nothing, command_line
from tests.host.models.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, write

TRIES = 25
"""Of each command, with several options at once."""

NUMBERS = (
    *("0", "1", "2", "-1", "8", "0.5", "1e-300", "1e999", "nan", "-inf", "9" * 400, "-" + "9" * 5000, "0x10", "1_0"),
    *("\u0664", "1e3", "0.1", "1.0000001", "4294967296", "-0.0"),
)
WORDS = (
    *("", " ", "\t\n", "x", "hi", "a b c d e f", "é 日本 \u200f", "a\ud800b", "-", "--", "-x", "--nonsense", "--help"),
    *("[/]", "[red]x", "a=b", "%s", "{0}", "$(x)", "\x1b[31m", "word " * 300, "../x", "a,b", ",", "1,2", "12,32"),
)
CONFIGURATIONS = (
    *("tiny", "paper", "ulx3s", "eighth", "Tiny", "tiny ", "x.toml", "good.toml", "bad.toml", "folder.toml"),
    *("deep.toml", "bytes.toml"),
)
CHANGES = (
    *("channels=64", "channels=4", "channels=", "=4", "channels", "topk_lanes=4", "name=con", "name=../x", "name=a"),
    *("name=paper", "prob_bits=8", "sector_bits=12", "channels=0x" + "f" * 5000, "head_dim_max=16"),
)
PLACES = (
    *("new/folder/x", "file", "file/x", "folder", "folder.toml", "/dev/null", "/dev/null/x", "/proc/x", "x" * 300),
    *("loop/x", "bert", "gpt2", "cells.lib", "/dev/zero", "one.v"),
)
GOOD = ("hi", "qk", "packer", "fifo", "one.v")
"""Words that some command takes."""
KNOWN = (
    *(
        "qk",
        "packer",
        "fifo",
        "ideal",
        "hbm2",
        "both",
        "topk",
        "causal",
        "golden",
        "float",
        "rtl",
        "minilm",
        "all",
        "top",
    ),
    "spatten",
)
VALUES = (*NUMBERS, *WORDS, *CONFIGURATIONS, *CHANGES, *PLACES, *KNOWN)


def _parameters(command: str) -> list[Any]:
    """What a command takes."""
    group: Any = get_command(application(command))
    parameters: list[Any] = group.commands[command].params
    return parameters


def _arguments(source: random.Random, parameters: list[Any]) -> list[str]:
    """Some options and all arguments of a command, with random values."""
    options, words = _split(parameters)
    arguments: list[str] = []
    for parameter in [*(one for one in options if source.random() < 0.3), *words]:
        for _ in range(source.choice([1, 1, 1, 2])):
            value = source.choice(_values(parameter) if source.random() < 0.7 else VALUES)
            arguments += [value] if parameter in words else _option(source, parameter, value)
    if source.random() < 0.1:
        arguments.insert(source.randint(0, len(arguments)), source.choice(VALUES))
    return arguments


def _singles(parameters: list[Any]) -> Iterator[list[str]]:
    """Every option alone, which no other hides, with every value of its kind."""
    options, words = _split(parameters)
    for option in options:
        for number, value in enumerate(_values(option)):
            yield [*(GOOD[number % len(GOOD)] for _ in words), option.opts[0], *([] if option.is_flag else [value])]


def _split(parameters: list[Any]) -> tuple[list[Any], list[Any]]:
    """Options without --help, and arguments."""
    options = [one for one in parameters if one.param_type_name == "option" and "--help" not in one.opts]
    return options, [one for one in parameters if one.param_type_name == "argument"]


def _option(source: random.Random, option: Any, value: str) -> list[str]:
    if option.is_flag:
        return [option.opts[0]]
    return source.choice([[option.opts[0], value], [f"{option.opts[0]}={value}"]])


def _values(parameter: Any) -> tuple[str, ...]:
    """What a parameter of that kind may well be given; whether it can take it is another matter."""
    descriptor = parameter.type_descriptor
    if descriptor.choices:
        return (*(str(getattr(choice, "value", choice)) for choice in descriptor.choices), "", "x")
    if "config" in parameter.name or parameter.name == "which":
        return CONFIGURATIONS
    if parameter.name in ("changes", "set_"):
        return CHANGES
    if descriptor.is_path or "path" in str(descriptor.annotation).lower():
        return PLACES
    if descriptor.annotation in (int, float):
        return NUMBERS
    return (*KNOWN, *WORDS)


# -- In the place of what takes long ----------------------------------------------------------------------------------


def _stops(*_: Any, **__: Any) -> Any:
    raise SimulatorError("the simulator stopped")


@contextlib.contextmanager
def _stopping(*_: Any, **__: Any) -> Iterator[Any]:
    _stops()
    yield


class Soaked:
    """Takes the place of a campaign: some are as they must be, one differs or is interrupted."""

    def __init__(self) -> None:
        self.left = 3

    def __call__(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.left = 3
            raise KeyboardInterrupt
        if self.left == 1:
            raise DifferenceError("rows is 1, not 2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, where nothing takes long and nothing is written elsewhere."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("folder", "folder.toml"):
        (folder / name).mkdir()
    (folder / "file").write_text("text")
    (folder / "loop").symlink_to("loop")
    (folder / "good.toml").write_text('base = "tiny"\nchannels = 1\n')
    (folder / "bad.toml").write_text("channels = [3\n")
    (folder / "deep.toml").write_text("channels = " + "[" * 5000)
    (folder / "bytes.toml").write_bytes(b"\xff\xfe\0")
    (folder / "one.v").write_text("module spatten(input a, output b);\n  assign b = a;\nendmodule\n")
    (folder / "cells.lib").write_text("library(x) { capacitive_load_unit(1.2.3, ff); cell(a) { area : 1; } }\n")
    bert = write(folder / "bert", BERT_CONFIG)
    gpt2 = write(folder / "gpt2", GPT2_CONFIG | {"n_positions": 64})
    monkeypatch.setattr(spatten.host.models.zoo, "minilm", lambda: bert)
    monkeypatch.setattr(spatten.host.models.zoo, "pydoc_gpt2", lambda: gpt2)
    monkeypatch.setattr(
        spatten.host.models.gpt2.Gpt2, "run_step", lambda *_, **__: np.zeros((1, GPT2_CONFIG["vocab_size"]))
    )
    monkeypatch.setattr(spatten.cli.verilog, "circuits", lambda *_: iter(()))
    for module, name in (
        (spatten.host.studies.fidelity, "_minilm"),
        (spatten.host.studies.fidelity, "_language_model"),
        (spatten.host.studies.train_lm, "import_torch"),
        (spatten.cli.bench, "LayerBench"),
        (spatten.cli.bench_board, "BoardBench"),
        (spatten.cli.bitstream, "board_circuit"),
        (spatten.cli.bitstream, "load"),
        (spatten.cli.mutate, "mutate"),
        (spatten.cli.synth, "synthesise"),
        (spatten.cli.synth, "map_verilog"),
    ):
        monkeypatch.setattr(module, name, _stops)
    for module, name in (
        (spatten.cli.run, "simulated_device"),
        (spatten.cli.units, "workers"),
        (spatten.cli.features, "workers"),
    ):
        monkeypatch.setattr(module, name, _stopping)
    monkeypatch.setitem(registry._devices, registry.EngineName.RTL, _stopping)
    monkeypatch.setattr(spatten.host.studies.train_lm, "saved_perplexity", lambda _: (27.0, 2))
    monkeypatch.setattr(spatten.cli.bench, "topk_latencies", lambda _: [])
    monkeypatch.setattr(spatten.cli.cycles, "targets", lambda: iter(()))
    monkeypatch.setattr(spatten.cli.units, "is_current", lambda *_: False)
    for name in ("Machine", "SimulatedTransport", "Device"):
        monkeypatch.setattr(spatten.cli.soak, name, Nothing)
    for module in (spatten.cli.soak, spatten.cli.digests):
        monkeypatch.setattr(module, "accelerator_verilog", lambda *_, **__: "")
    monkeypatch.setattr(spatten.cli.soak, "machine_of", lambda _: Nothing())
    monkeypatch.setattr(spatten.cli.soak, "soak_one", Soaked())
    return folder


def check(ended: Ended, arguments: list[str]) -> None:
    """That a command line ended as it must."""
    assert ended.status in (0, 1, 2, 130), arguments
    assert "Traceback" not in ended.errors, arguments
    if ended.status == 130:
        assert ended.errors == "interrupted\n", arguments
    elif ended.status == 2:
        assert re.fullmatch(r"error: [^\n]+\n", ended.errors), (arguments, ended.errors)
    elif ended.status == 1:
        assert re.match(r"error: [^\n]+\n", ended.errors), (arguments, ended.errors)


def attack(command: str, seed: int) -> dict[int, int]:
    """Run a command under many options; how often it ended with which status."""
    app = application(command)
    statuses: dict[int, int] = {}
    parameters = _parameters(command)
    source = random.Random(f"{command} {seed}")
    several = (_arguments(source, parameters) for _ in range(TRIES))
    for arguments in itertools.chain(_singles(parameters), several):
        ended = command_line(app, command, *arguments)
        check(ended, arguments)
        statuses[ended.status] = statuses.get(ended.status, 0) + 1
    return statuses


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("command", COMMANDS)
def test_random_options_end_in_the_work_or_in_one_line(command: str, seed: int, place: Path) -> None:
    statuses = attack(command, seed)
    if _parameters(command):
        assert statuses[2] > TRIES // 4, "bad options must be among these"
    assert statuses.keys() - {2}, "good options must be among these"
    assert sorted(path.name for path in place.parent.iterdir()) in (["b"], ["b", "x"]), "written beside the folder"


@pytest.mark.parametrize("mistake", [KeyError("key"), ValueError("a\nb")])
def test_a_traceback_would_be_found(mistake: Exception, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> str:
        raise mistake

    monkeypatch.setattr(spatten.cli.verilog.register_documents, "markdown", mistaken)
    with pytest.raises(type(mistake)):
        attack("registers", seeds(1)[0])


@pytest.mark.parametrize("errors", ["", "error: one\nerror: two\n", "Traceback (most recent call last):\n", "oh\n"])
def test_more_or_less_than_one_line_would_be_found(errors: str) -> None:
    with pytest.raises(AssertionError):
        check(Ended(2, "", errors), [])
