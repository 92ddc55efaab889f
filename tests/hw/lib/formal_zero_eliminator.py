"""Property module of the zero eliminator: every row that enters leaves compacted, as the definition says."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Shape, Value

from spatten.hw.lib.zero_eliminator import ZeroEliminator
from spatten.sim.verify.formal import Case, answer, consume, produce, track


class ZeroEliminatorProperties(Elaboratable):
    """Lane n of a row that leaves is the n-th live lane of the row that entered: found by counting, lane by lane."""

    def __init__(self, eliminator: ZeroEliminator) -> None:
        self.eliminator = eliminator

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.eliminator = eliminator = self.eliminator
        stages = eliminator.stages
        produce(m, eliminator.i, name="i")
        consume(m, eliminator.o, name="o")
        inside = track(m, eliminator.i, eliminator.o, capacity=stages, expected=self._compacted)
        late = max(0, stages - 1)
        answer(m, inside != 0, eliminator.o.valid, within=late, name="o is valid `stages` cycles after a row entered")
        answer(m, inside < stages, eliminator.i.ready, within=0, name="i is ready while there is room")
        answer(m, eliminator.o.ready, eliminator.i.ready, within=0, name="i is ready whenever o is")
        return m

    def _compacted(self, row: Any) -> Value:
        lanes = self.eliminator.lanes
        width = Shape.cast(self.eliminator.shape).width
        rank: list[Value] = []
        live: Value = Value.cast(0)
        for lane in range(lanes):
            rank.append(live)
            live = live + row.mask[lane]
        result: list[Value] = []
        for place in range(lanes):
            element: Value = Value.cast(0)
            for lane in range(lanes):
                here = row.mask[lane] & (rank[lane] == place)
                element = element | Mux(here, Value.cast(row.lanes[lane]), 0)
            result.append(element[:width])
        count_width = Shape.cast(range(lanes + 1)).width
        return Cat(*result, live[:count_width])


def _case(lanes: int, width: int, stages: int) -> Case:
    return Case(
        unit="ZeroEliminator",
        size=f"{lanes} lanes of {width} bits, {stages} stages",
        proves="every row is the compacted row by definition, in order; latency, room, stream rules",
        properties=lambda: ZeroEliminatorProperties(ZeroEliminator(shape=width, lanes=lanes, stages=stages)),
        depth=4 * stages + 6,
    )


PROOFS = [_case(3, 2, 0), _case(3, 2, 2), _case(4, 2, 1), _case(4, 2, 3), _case(5, 1, 4)]
