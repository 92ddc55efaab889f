"""How the testbench of `progressive` is run: sim/verify/benches/progressive.py."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from spatten.hw import instances
from spatten.hw.datapath.progressive import Progressive, pass_beat, row_header
from spatten.hw.datapath.softmax import Softmax, prob_beat
from spatten.hw.lib.logic import index_shape
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config


class ProgressiveSoftmax(wiring.Component):
    """Both units; softmax's decisions go back to progressive quantization."""

    def __init__(self, *, lanes: int, score_bits: int, prob_bits: int, row_max: int, slots: int, header: int) -> None:
        row = row_header(slots, header)
        self._progressive = Progressive(lanes=lanes, score_bits=score_bits, row_max=row_max, slots=slots, header=header)
        self._softmax = Softmax(lanes=lanes, score_bits=score_bits, prob_bits=prob_bits, row_max=row_max, header=row)
        super().__init__(
            {
                "i": In(stream.Signature(pass_beat(lanes, score_bits, slots, header))),
                "o": Out(stream.Signature(prob_beat(lanes, prob_bits, row))),
                "o_again": Out(stream.Signature(row)),
                "o_free": Out(stream.Signature(index_shape(slots))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.progressive = progressive = self._progressive
        m.submodules.softmax = softmax = self._softmax
        connect(m, flipped(self.i), progressive.i)
        connect(m, progressive.o, softmax.i)
        connect(m, softmax.o_decision, progressive.i_decision)
        connect(m, softmax.o, flipped(self.o))
        connect(m, progressive.o_again, flipped(self.o_again))
        connect(m, progressive.o_free, flipped(self.o_free))
        return m


SMALL = {"lanes": 2, "operand_bits": 8, "head_dim": 16, "prob_bits": 12, "row_max": 7, "slots": 2, "header": 3}


def unit_of(config: Config) -> dict[str, Any]:
    """The unit of a whole machine."""
    return {
        **sizes(instances.progressive(config)),
        "operand_bits": config.operand_bits,
        "head_dim": config.head_dim_max,
        "prob_bits": config.prob_bits,
    }


def run_arguments(size: dict[str, Any], *, joined: bool, rows: int, count: int) -> dict[str, Any]:
    """Arguments of `cosimulate`: the unit of one size, `joined` with softmax or not, so many rows and seeds."""
    # This is as `Config.score_bits` is computed; no configuration has these arrays.
    score_bits = 2 * size["operand_bits"] + (size["head_dim"] - 1).bit_length()
    sizes = {name: size[name] for name in ("lanes", "row_max", "slots", "header")}
    component = (
        ProgressiveSoftmax(**sizes, score_bits=score_bits, prob_bits=size["prob_bits"])
        if joined
        else Progressive(**sizes, score_bits=score_bits)
    )
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.progressive",
        "parameters": {**size, "joined": joined, "rows": rows, "seeds": seeds(count)},
        "seed": seeds()[0],
        "timeout_seconds": 600,
    }


def mutation_run() -> dict[str, Any]:
    """One small run that checks everything."""
    return run_arguments(SMALL, joined=False, rows=60, count=1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The unit of a whole machine."""
    run = run_arguments(unit_of(config), joined=False, rows=40, count=1)
    return instance_run(instances.progressive(config), run)
