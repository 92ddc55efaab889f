"""One simulator job in a process of its own: `python -m spatten.sim.verify.launch build|run JOB.json`.

cocotb's runner inherits the environment of its process and waits for its children without a limit, so
`sim/verify/build.py` and `sim/verify/cosim.py` start it here: with an environment made for it, and in a session that
can be stopped as a whole.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cocotb_tools.config
from cocotb_tools.runner import get_runner

TIMESCALE = ("1ns", "1ps")


def _build(job: dict[str, Any]) -> None:
    get_runner(job["simulator"]).build(
        sources=[Path(job["source"])],
        hdl_toplevel=job["top"],
        build_dir=job["folder"],
        build_args=job["build_args"],
        timescale=TIMESCALE,
        waves=job["waves"],
    )


def _run(job: dict[str, Any]) -> None:
    get_runner(job["simulator"]).test(
        test_module=job["test_module"],
        hdl_toplevel=job["top"],
        hdl_toplevel_lang="verilog",
        build_dir=job["build_folder"],
        test_dir=job["folder"],
        results_xml=job["results"],
        seed=job["seed"],
        test_args=job["test_args"],
        plusargs=job["plusargs"],
        waves=job["waves"],
    )


if __name__ == "__main__":
    action, job_file = sys.argv[1:]
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    # Its own folder may have a path that no makefile can take.
    cocotb_tools.config.libs_dir = Path(job["cocotb"], "libs")
    cocotb_tools.config.share_dir = Path(job["cocotb"], "share")
    {"build": _build, "run": _run}[action](job)
