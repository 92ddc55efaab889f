"""Every command line, under random options: it does its work or says in one line why not, and never has a traceback.

What the options can be is read from the commands themselves, so a new command or option is tried without a word here.
Long work has a stand-in that takes no time, and stops every now and then as a simulator does.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.main import get_command

import host.fidelity
import host.gpt2
import host.train_lm
import host.zoo
import hw.__main__
import sim.bench
import sim.cycles
import sim.device
import sim.mutate
import sim.run
import sim.soak
import sim.synth
import sim.units
from sim.build import ROOT, SimulatorError
from sim.campaigns import DifferenceError
from sim.cosim import seeds
from tests.command_line import Ended, Nothing, command_line
from tests.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, write

FOR_PROGRAMS = {"sim/abc.py", "sim/launch.py", "sim/cache.py", "sim/requirements.py"}
"""Run by other programs, the last two by `make` before there are packages: tests/test_requirements.py tries them."""
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
    *("loop/x", "bert", "gpt2", "cells.lib", "/dev/zero"),
)
GOOD = ("hi", "qk", "packer", "fifo")
"""Words that some command takes."""
KNOWN = ("qk", "packer", "fifo", "ideal", "hbm2", "both", "topk", "causal", "golden", "float", "rtl", "minilm", "all")
VALUES = (*NUMBERS, *WORDS, *CONFIGURATIONS, *CHANGES, *PLACES, *KNOWN)


def command_lines() -> list[str]:
    """The modules that are command lines for people."""
    files = [path for room in ("cli", "hw", "host", "sim") for path in sorted((ROOT / room).glob("*.py"))]
    runnable = [path for path in files if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")]
    names = [path.relative_to(ROOT).as_posix() for path in runnable]
    return [name.removesuffix(".py").replace("/", ".") for name in names if name not in FOR_PROGRAMS]


@pytest.mark.parametrize("module", command_lines())
def test_every_command_line_is_ended_in_one_place(module: str) -> None:
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    name = module.removesuffix(".__main__")
    assert text.endswith(f'\n\nif __name__ == "__main__":\n    run_app(app, "python -m {name}")\n')
    for word in ("sys.exit", "typer.Exit", "BadParameter", "err=True"):
        assert word not in text, "cli.main.run_app does this"


def _commands(app: typer.Typer) -> dict[str, list[Any]]:
    """The parameters of each command; the name of an only one is empty."""
    command: Any = get_command(app)
    return {name: one.params for name, one in getattr(command, "commands", {"": command}).items()}


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
    (folder / "cells.lib").write_text("library(x) { capacitive_load_unit(1.2.3, ff); cell(a) { area : 1; } }\n")
    bert = write(folder / "bert", BERT_CONFIG)
    gpt2 = write(folder / "gpt2", GPT2_CONFIG | {"n_positions": 64})
    monkeypatch.setattr(host.zoo, "minilm", lambda: bert)
    monkeypatch.setattr(host.zoo, "pydoc_gpt2", lambda: gpt2)
    monkeypatch.setattr(host.gpt2.Gpt2, "run_step", lambda *_, **__: np.zeros((1, GPT2_CONFIG["vocab_size"])))
    monkeypatch.setattr(hw.__main__, "circuits", lambda *_: iter(()))
    for module, name in (
        (host.fidelity, "_minilm"),
        (host.fidelity, "_language_model"),
        (host.train_lm, "import_torch"),
        (sim.bench, "Bench"),
        (sim.mutate, "mutate"),
        (sim.synth, "synthesise"),
        (sim.synth, "ecp5"),
    ):
        monkeypatch.setattr(module, name, _stops)
    for module, name in ((sim.device, "simulated_device"), (sim.run, "simulated_device"), (sim.units, "workers")):
        monkeypatch.setattr(module, name, _stopping)
    monkeypatch.setattr(host.train_lm, "saved_perplexity", lambda _: (27.0, 2))
    monkeypatch.setattr(sim.bench, "topk_latencies", lambda _: [])
    monkeypatch.setattr(sim.cycles, "targets", lambda: iter(()))
    for module in (sim.bench, sim.synth):
        monkeypatch.setattr(module, "RESULTS", folder / "results")
    monkeypatch.setattr(sim.mutate, "REPORT", folder / "mutate.json")
    monkeypatch.setattr(sim.units, "FIGURES", folder / "units.json")
    monkeypatch.setattr(sim.units, "is_current", lambda *_: False)
    for name in ("Machine", "SimulatedTransport", "Device"):
        monkeypatch.setattr(sim.soak, name, Nothing)
    monkeypatch.setattr(sim.soak, "convert", lambda *_, **__: "")
    monkeypatch.setattr(sim.soak, "soak_one", Soaked())
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


def attack(module: str, seed: int) -> dict[int, int]:
    """Run each command of a module's command line under many options; how often it ended with which status."""
    app = importlib.import_module(module).app
    statuses: dict[int, int] = {}
    for command, parameters in _commands(app).items():
        source = random.Random(f"{module} {command} {seed}")
        several = (_arguments(source, parameters) for _ in range(TRIES))
        for options in itertools.chain(_singles(parameters), several):
            arguments = [*([command] if command else []), *options]
            ended = command_line(app, *arguments)
            check(ended, arguments)
            statuses[ended.status] = statuses.get(ended.status, 0) + 1
    return statuses


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("module", command_lines())
def test_random_options_end_in_the_work_or_in_one_line(module: str, seed: int, place: Path) -> None:
    statuses = attack(module, seed)
    if module != "sim.cycles":  # it has no options
        assert statuses[2] > TRIES // 2, "bad options must be among these"
    assert statuses.keys() - {2}, "good options must be among these"
    assert sorted(path.name for path in place.parent.iterdir()) in (["b"], ["b", "x"]), "written beside the folder"


@pytest.mark.parametrize("mistake", [KeyError("key"), ValueError("a\nb")])
def test_a_traceback_would_be_found(mistake: Exception, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> str:
        raise mistake

    monkeypatch.setattr(hw.__main__.register_map, "markdown", mistaken)
    with pytest.raises(type(mistake)):
        attack("hw.__main__", seeds(1)[0])


@pytest.mark.parametrize("errors", ["", "error: one\nerror: two\n", "Traceback (most recent call last):\n", "oh\n"])
def test_more_or_less_than_one_line_would_be_found(errors: str) -> None:
    with pytest.raises(AssertionError):
        check(Ended(2, "", errors), [])
