"""How the testbench of `axi_join` is run: sim/verify/benches/axi_join.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.board.axi_join import AxiJoin
from spatten.sim.verify.runs.twin import twin_run


def run_arguments(*, address_bits: int = 16, data_bits: int = 16) -> dict[str, Any]:
    """Arguments of `cosimulate`."""
    sizes = {"address_bits": address_bits, "data_bits": data_bits}
    return twin_run(AxiJoin(**sizes), None, "axi_join", cycles=3000, **sizes)
