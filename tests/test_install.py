"""The distribution: one import package and one command, which work in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from spatten.cli.__main__ import COMMANDS
from spatten.sim.machine.device import accelerator_verilog
from spatten.spec.config import TINY
from spatten.spec.version import DESCRIPTOR_VERSION, MAP_VERSION, __version__
from tests.checkout import ROOT


def _run(*command: str | Path, folder: Path) -> str:
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [*map(str, command)], cwd=folder, env=settings, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and the packages that it needs from the environment of the tests."""
    folder = tmp_path_factory.mktemp("install")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", ROOT, folder=folder)
    (wheel,) = (folder / "dist").iterdir()
    assert wheel.name == f"spatten-{__version__}-py3-none-any.whl"
    place = folder / "env"
    venv.create(place, symlinks=True, with_pip=False)
    python = place / "bin" / "python"
    _run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, folder=folder)
    (packages,) = place.glob("lib/python*/site-packages")
    # One distribution is one entry beside its metadata.
    assert sorted(entry.name for entry in packages.iterdir()) == ["spatten", f"spatten-{__version__}.dist-info"]
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return place


@pytest.mark.slow
def test_the_command_works_in_any_folder(environment: Path, tmp_path: Path) -> None:
    output = _run(environment / "bin" / "spatten", "verilog", "--config", "tiny", folder=tmp_path)
    assert "build/tiny/spatten.v" in output
    assert (tmp_path / "build" / "tiny" / "spatten.v").read_text(encoding="utf-8") == accelerator_verilog(TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["build"]
    assert "softmax_lanes" in _run(environment / "bin" / "python", "-m", "spatten.cli", "show", folder=tmp_path)


@pytest.mark.slow
def test_everything_is_in_the_package(environment: Path, tmp_path: Path) -> None:
    """Every subcommand can be asked, the data files are there, and the package is not the checkout's."""
    for command in COMMANDS:
        assert f"Usage: spatten {command}" in _run(environment / "bin" / "spatten", command, "--help", folder=tmp_path)
    program = (
        "from pathlib import Path\n"
        "import spatten\n"
        "from spatten.host.models.zoo import pydoc_gpt2\n"
        "from spatten.sim.cache import CHECKOUT, cache_folder\n"
        "from spatten.sim.machine.machine import _SOURCES\n"
        "from spatten.sim.verify.mutate import EXPLANATIONS, units\n"
        "assert CHECKOUT is None\n"
        "assert EXPLANATIONS.is_file() and all(path.is_file() for path in _SOURCES) and len(units()) > 20\n"
        "print(Path(spatten.__file__).parent, pydoc_gpt2(), cache_folder(), sep='\\n')\n"
    )
    package, model, cache = _run(environment / "bin" / "python", "-c", program, folder=tmp_path).splitlines()
    assert Path(package).is_relative_to(environment)
    assert Path(model).is_relative_to(environment)
    assert not Path(cache).is_relative_to(environment), "what can be made again is not put into the package"


def test_the_driver_needs_no_hdl() -> None:
    program = (
        "import sys\n"
        "sys.modules['amaranth'] = None\n"  # an import of it fails
        "import spatten.host.driver.device, spatten.host.engines.device_engine, spatten.host.models.bert\n"
        "import spatten.spec.register_documents, spatten.golden.attention\n"
    )
    _run(sys.executable, "-c", program, folder=ROOT)


def test_there_is_one_version() -> None:
    """The package's and the registers' come from spec/version.py."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    assert f"## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert __version__.startswith(f"{MAP_VERSION}.{DESCRIPTOR_VERSION}.")
