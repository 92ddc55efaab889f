"""Whether the list of the Verilog's digests is that of the circuit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import spatten.cli.digests
from spatten.sim.machine.device import accelerator_verilog
from spatten.spec.config import NAMED, TINY
from tests.checkout import ROOT
from tests.cli.command_line import run_spatten

LIST = ROOT / "hw" / "verilog.sha256"


def test_the_list_is_that_of_the_circuit() -> None:
    """Whoever changes the circuit writes the list anew: `spatten digests --out hw/verilog.sha256`.

    `make digests` compares all of it.
    """
    listed = dict(reversed(line.split()) for line in LIST.read_text(encoding="utf-8").splitlines())
    assert list(listed) == list(NAMED)
    assert listed["tiny"] == hashlib.sha256(accelerator_verilog(TINY).encode()).hexdigest()


def test_a_difference_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatten.cli.digests, "accelerator_verilog", lambda config: config.name)
    path = tmp_path / "list"
    assert run_spatten("digests", "--out", str(path)).status == 0
    assert run_spatten("digests", "--against", str(path)).status == 0
    path.write_text(re.sub(r"^.*  (eighth|tiny)$", r"0  \1", path.read_text(), flags=re.MULTILINE), encoding="utf-8")
    ended = run_spatten("digests", "--against", str(path))
    assert (ended.status, ended.errors) == (1, f"error: the Verilog is not that of {path}: eighth, tiny\n")
    ended = run_spatten("digests", "--against", str(tmp_path))
    assert (ended.status, ended.errors) == (2, f"error: cannot read {tmp_path}: it is no file\n")
