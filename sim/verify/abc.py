"""The part of ABC's command line that sby uses, on the ABC inside the packaged Yosys: `python -m spatten.sim.verify.abc
-c COMMANDS`.

sby wants an `abc` program to prove with, and the Python package has one only as a part of its Yosys. There ABC runs as
a step of technology mapping, with a script of our choice: here that script keeps the network it was called for, does
what sby asks, and brings the kept one back. What it prints is lost, so the verdict goes through a file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from spatten.sim import cache
from spatten.sim.verify.yosys import YOSYS

STATUS = "abc_status.txt"
"""A file that ABC writes where it runs: what it found, and for a counterexample which output fails when."""

_ENGINES = ("pdr", "bmc3")
_ANY_NETWORK = r"""
module \any
  wire input 1 \a
  wire input 2 \b
  wire output 3 \y
  cell $_AND_ $1
    connect \A \a
    connect \B \b
    connect \Y \y
  end
end
"""


def run(commands: str) -> str:
    """Run ABC commands, separated by semicolons, one of them a model checker; its verdict as ABC would print it."""
    steps = [step.strip() for step in commands.split(";") if step.strip()]
    (engine,) = (number for number, step in enumerate(steps) if step.split()[0] in _ENGINES)
    steps.insert(engine + 1, f"write_status {STATUS}")
    # In Yosys's notation of a script a comma stands for a space.
    script = "+" + ";".join(["backup", *(step.replace(" ", ",") for step in steps), "restore", "strash", "map"])
    status = Path(STATUS)
    status.unlink(missing_ok=True)
    cache.lend()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        network, yosys_script = Path(folder, "any.il"), Path(folder, "abc.ys")
        network.write_text(_ANY_NETWORK, encoding="utf-8")
        yosys_script.write_text(f"read_rtlil {network}\nabc -script {script} -g AND\n", encoding="utf-8")
        result = subprocess.run([str(YOSYS), "-q", str(yosys_script)], capture_output=True, text=True, check=False)
    if not status.is_file():
        raise SystemExit(f"ABC came to no verdict: Yosys ended with status {result.returncode}\n{result.stderr}")
    failure = counterexample(Path())
    if failure is not None:
        return "Output {} of miter was asserted in frame {}.".format(*failure)
    return "Property proved." if status.read_text(encoding="utf-8").startswith("snl_UNSAT") else "Undecided."


def counterexample(folder: Path) -> tuple[int, int] | None:
    """The output that the run in `folder` found asserted and in which frame; None if it found none."""
    verdict, _, _, *failure = (folder / STATUS).read_text(encoding="utf-8").split()
    return (int(failure[0]), int(failure[1])) if verdict == "snl_SAT" else None


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "-c":
        raise SystemExit("usage: python -m spatten.sim.verify.abc -c 'COMMAND; COMMAND...'")
    print(run(sys.argv[2]))
