"""The generator's command line: what it writes, that it always writes the same, and how it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hw import config
from hw.register_map import markdown
from hw.units import UNITS
from sim.build import ROOT, lint


def _hw(*arguments: str | Path, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hw", *map(str, arguments)],
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
def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for hash_seed in ("1", "2"):
        result = _hw("verilog", "--config", "tiny", "--out", tmp_path / hash_seed, hash_seed=hash_seed)
        assert result.returncode == 0, result.stderr
    written = sorted((tmp_path / "1" / "tiny").iterdir())
    assert [file.name for file in written] == ["spatten.h", "spatten.json", "spatten.py", "spatten.v"]
    for file in written:
        assert file.read_bytes() == (tmp_path / "2" / "tiny" / file.name).read_bytes(), file.name
        assert str(ROOT).encode() not in file.read_bytes()


@pytest.mark.parametrize("name", ["tiny", pytest.param("paper", marks=pytest.mark.slow)])
def test_verilog_and_its_sidecar_agree(tmp_path: Path, name: str) -> None:
    changes = ("--set", "topk_lanes=8", "--set", "name=changed")
    result = _hw("verilog", "--config", name, *changes, *_units("zero_eliminator", "key_buffer"), "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "changed" / "zero_eliminator.v") in result.stdout
    assert len(list((tmp_path / "changed").iterdir())) == 4
    wanted = config.load(name, ["topk_lanes=8", "name=changed"])
    for unit in ("zero_eliminator", "key_buffer"):
        text = (tmp_path / "changed" / f"{unit}.v").read_text()
        sidecar = json.loads((tmp_path / "changed" / f"{unit}.json").read_text())
        assert sidecar["module"] == unit
        assert sidecar["configuration"] == wanted.as_dict()
        assert sidecar["derived"] == json.loads(json.dumps(wanted.derived()))
        assert sidecar["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert sidecar["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
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
        assert names[:3] == ["lanes[0].importance", "lanes[0].index", "lanes[1].importance"]
        assert len(names) == 2 * 8 + 1
    assert ports["i__payload"]["fields"][0]["width"] >= wanted.token_importance_bits


def test_an_unknown_unit_is_one_line_and_status_2() -> None:
    result = _hw("verilog", *_units("softmin"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: unit must be one of {', '.join(UNITS)}, not 'softmin'\n"


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
    result = _hw(command, *arguments)
    assert (result.returncode, result.stderr, result.stdout) == (2, message, "")


def test_a_configuration_whose_units_do_not_fit_is_one_line_and_status_2(tmp_path: Path) -> None:
    result = _hw("verilog", "--config", "tiny", "--set", "softmax_lanes=4", "--out", tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: topk_lanes must be at least softmax_lanes = 4, not 2")


def test_a_bad_type_in_a_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("topk_lanes = 8.0\n")
    result = _hw("verilog", "--config", tmp_path / "mine.toml", "--out", tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path / 'mine.toml'}: topk_lanes must be an integer, not 8.0\n"


def test_a_folder_that_cannot_be_written_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = _hw("verilog", "--config", "tiny", *_units("packer"), "--out", tmp_path / "file")
    assert result.returncode == 1
    assert re.fullmatch(r"error: cannot write .*file.*: Not a directory\n", result.stderr)


def test_registers_writes_the_page_of_a_configuration(tmp_path: Path) -> None:
    result = _hw("registers", "--config", "tiny", "--out", tmp_path / "page.md")
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / 'page.md'}\n"), result.stderr
    assert (tmp_path / "page.md").read_text() == markdown(config.TINY)
    (tmp_path / "file").write_text("")
    result = _hw("registers", "--out", tmp_path / "file" / "page.md")
    assert result.returncode == 1
    assert re.fullmatch(r"error: cannot write .*file.*: (Not a directory|File exists)\n", result.stderr)


def test_show_lists_every_parameter_and_derived_size() -> None:
    result = _hw("show", "--config", "tiny", "--set", "topk_lanes=4")
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
    command = ["make", "--no-print-directory", "verilog", "CONFIG=tiny", "ARGS=", "-o", "ready"]
    result = subprocess.run(
        [*command, f"SET=name=a';>{made};`>{made}`&*\" topk_lanes=x", f"RUN={sys.executable}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stderr.startswith("error: topk_lanes must be an integer, not 'x'\n")
    assert not made.exists()
