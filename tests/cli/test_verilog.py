"""The generator's command line: what it writes, that it always writes the same, and how it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spatten.hw.emit.sidecar import packaging, sidecar
from spatten.hw.spatten import Spatten
from spatten.hw.units import UNITS
from spatten.sim.machine.device import accelerator_verilog
from spatten.sim.verify.build import lint
from spatten.spec import config
from spatten.spec.register_documents import markdown
from spatten.spec.version import __version__
from tests.checkout import ROOT
from tests.cli.command_line import Ended, make, run_spatten


def _spatten(*arguments: str | Path, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spatten", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "NO_COLOR": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _units(*names: str) -> list[str]:
    return [argument for name in names for argument in ("--unit", name)]


@pytest.mark.slow
def test_another_run_writes_the_same_bytes_but_for_the_name(tmp_path: Path) -> None:
    """And of the Verilog those that simulations compile; a name begins every module's, and every constant's in C."""
    result = _spatten("verilog", "--config", "tiny", "--name", "left", "--out", tmp_path, hash_seed="1")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "a program that does what it should says nothing there"
    verilog = accelerator_verilog(config.TINY)
    facts = sidecar(config.TINY, "spatten", Spatten(config=config.TINY), verilog)
    wanted = {"v": verilog, "json": json.dumps(facts, indent=2) + "\n", **packaging(config.TINY, "spatten", facts)}
    written = {file.name: file.read_text() for file in (tmp_path / "tiny").iterdir()}
    assert written.keys() == {f"left_spatten.{ending}" for ending in ("core", "h", "json", "py", "v", "xml")}
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (written["left_spatten.v"], verilog)]
    for ending, text in wanted.items():
        found = written[f"left_spatten.{ending}"].replace(*digests)
        if ending != "py":
            assert "left_spatten" in found or "LEFT_SPATTEN_" in found
        assert found.replace("left_spatten", "spatten").replace("LEFT_SPATTEN_", "SPATTEN_") == text, ending
        assert str(ROOT) not in text


@pytest.mark.parametrize("name", ["", "1st", "a-b", "left\n", "left.", "ä"])
def test_a_name_that_is_none_is_one_line_and_status_2(name: str) -> None:
    result = _spatten("verilog", "--config", "tiny", "--name", name)
    assert (result.returncode, result.stdout) == (2, "")
    message = "error: name must be letters, digits and '_', and begin with a letter, not "
    assert result.stderr == f"{message}{name!r}: it begins names of modules\n"


@pytest.mark.parametrize("name", ["tiny", pytest.param("paper", marks=pytest.mark.slow)])
def test_verilog_and_its_sidecar_agree(tmp_path: Path, name: str) -> None:
    changes = ("--set", "topk_lanes=8", "--set", "name=changed")
    result = _spatten("verilog", "--config", name, *changes, *_units("zero_eliminator", "key_ring"), "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "changed" / "zero_eliminator.v") in result.stdout
    assert len(list((tmp_path / "changed").iterdir())) == 4
    wanted = config.load(name, ["topk_lanes=8", "name=changed"])
    for unit in ("zero_eliminator", "key_ring"):
        text = (tmp_path / "changed" / f"{unit}.v").read_text()
        sidecar = json.loads((tmp_path / "changed" / f"{unit}.json").read_text())
        assert sidecar["module"] == unit
        assert sidecar["configuration"] == json.loads(json.dumps(wanted.as_dict()))
        assert sidecar["derived"] == json.loads(json.dumps(wanted.derived()))
        assert sidecar["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert sidecar["version"] == __version__
        header = re.search(rf"^module {unit}\(([^;]*)\);$", text, re.MULTILINE)
        assert header is not None
        assert [port["name"] for port in sidecar["ports"]] == re.findall(r"\w+", header[1])
        ports = {port["name"]: port for port in sidecar["ports"]}
        assert ports["clk"] == {"name": "clk", "direction": "input", "width": 1}
        for port in ports.values():
            assert sum(field["width"] for field in port.get("fields", [])) in (0, port["width"])
        lint(text, top=unit)
    ports = {
        port["name"]: port for port in json.loads((tmp_path / "changed" / "zero_eliminator.json").read_text())["ports"]
    }
    assert ports["o__payload"]["direction"] == "output"
    for port in ("i__payload", "o__payload"):
        names = [field["name"] for field in ports[port]["fields"]]
        assert names[:3] == ["lanes[0].prob", "lanes[0].id", "lanes[1].prob"]
        row = [name for name in names if name.startswith("header.header.")]
        assert len(names) == 2 * 8 + len(("mask or count", "header.last")) + len(row)
        assert {"header.header.slot", "header.header.head"} <= set(row)
    assert ports["i__payload"]["fields"][0]["width"] == wanted.prob_bits


def test_an_unknown_unit_is_one_line_and_status_2() -> None:
    result = run_spatten("verilog", *_units("softmin"))
    assert (result.status, result.output) == (2, "")
    assert result.errors == f"error: unit must be one of {', '.join(UNITS)}, not 'softmin'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config", "huge"],
            "error: configuration must be one of paper, eighth, ulx3s, tiny or a .toml file, not 'huge'\n",
        ),
        (["--set", "topk_lanes=3"], "error: topk_lanes must be a power of two, not 3\n"),
        (["--set", "topk_lanes"], "error: a change must be parameter=value, not 'topk_lanes'\n"),
        (["--set", "topk_lanes=x"], "error: topk_lanes must be an integer, not 'x'\n"),
    ],
)
@pytest.mark.parametrize("command", ["verilog", "show", "registers"])
def test_a_bad_configuration_is_one_line_and_status_2(command: str, arguments: list[str], message: str) -> None:
    assert run_spatten(command, *arguments) == Ended(2, "", message)


@pytest.mark.parametrize("command", ["verilog", "show", "registers"])
def test_a_configuration_whose_units_do_not_fit_is_one_line_and_status_2(command: str) -> None:
    result = run_spatten(command, "--config", "tiny", "--set", "softmax_lanes=4")
    assert (result.status, result.output) == (2, "")
    assert result.errors.startswith("error: topk_lanes must be at least softmax_lanes = 4, not 2")


def test_a_bad_type_in_a_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("topk_lanes = 8.0\n")
    result = run_spatten("verilog", "--config", str(tmp_path / "mine.toml"), "--out", str(tmp_path))
    assert result == Ended(2, "", f"error: {tmp_path / 'mine.toml'}: topk_lanes must be an integer, not 8.0\n")


def test_a_folder_that_cannot_be_written_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file"
    result = run_spatten("verilog", "--config", "tiny", *_units("packer"), "--out", str(place))
    assert result == Ended(2, "", f"error: cannot write {place}/tiny/packer.v: {place} is not a folder\n")


def test_registers_writes_the_page_of_a_configuration(tmp_path: Path) -> None:
    result = run_spatten("registers", "--config", "tiny", "--out", str(tmp_path / "page.md"))
    assert result == Ended(0, f"{tmp_path / 'page.md'}\n", "")
    assert (tmp_path / "page.md").read_text() == markdown(config.TINY)
    (tmp_path / "file").write_text("")
    result = run_spatten("registers", "--out", str(tmp_path / "file" / "page.md"))
    assert result == Ended(2, "", f"error: cannot write {tmp_path}/file/page.md: {tmp_path}/file is not a folder\n")


def test_show_lists_every_parameter_and_derived_size() -> None:
    result = _spatten("show", "--config", "tiny", "--set", "topk_lanes=4")
    assert result.returncode == 0, result.stderr
    wanted = config.load("tiny", ["topk_lanes=4"])
    rows = dict(re.findall(r"│ (\w+) +│ +(.*?) │", result.stdout))
    assert rows.keys() == wanted.as_dict().keys() - {"name"} | wanted.derived().keys()
    assert rows["topk_lanes"] == "4"
    assert rows["head_dims"] == "16, 32"
    assert "configuration tiny" in result.stdout


@pytest.mark.needs("make")
def test_make_passes_changes_as_they_are(tmp_path: Path) -> None:
    """Whatever the shell would make of them."""
    made = tmp_path / "made"
    command = ["--no-print-directory", "verilog", "CONFIG=tiny", "ARGS=", "-o", "ready"]
    result = make(*command, f"SET=name=a';>{made};`>{made}`&*\" topk_lanes=x", f"RUN='{sys.executable}'")
    assert result.stderr.startswith("error: topk_lanes must be an integer, not 'x'\n")
    assert not made.exists()
