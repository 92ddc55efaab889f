"""Testbench of hw/control/plan/group_issuer.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.group_issuer import GroupIssuer
from spatten.hw.control.plan.plan_layouts import SectorClass, fetches_max, plane_fetch, ring_sectors
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.row_format import SECTORS_MAX

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
RING: int = PARAMETERS["ring"]
LANES = CONFIG.topk_lanes
SECTORS = ring_sectors(CONFIG)[RING]
PASSES = fetches_max(RING)
ISSUER = GroupIssuer(config=CONFIG, ring=RING)
ANY_BLOCK = Anything(ISSUER.i.payload.shape())
ANY_FETCH = Anything(plane_fetch(CONFIG))
CLASSES = {
    QUERY: (SectorClass.QUERY, SectorClass.OTHER),
    KEY: (SectorClass.KEY, SectorClass.LSB),
    VALUE: (SectorClass.VALUE, SectorClass.VALUE),
}
ROWS_OF_A_LANE = LANES if RING == QUERY else LANES // CONFIG.slices
"""Of a row group: each lane of the key and the value ring takes its share of the rows, the query ring has one lane."""


class Groups(Twin):
    """Random blocks, each turned into the list of all its bids when it comes.

    At most two blocks wait behind the one whose bids stand.
    """

    goals = {"blocks": 60, "lost": 100, "follows at once": 5, "two wait": 20}
    if RING != QUERY:
        goals |= {"wrapped": 10}
    if RING == KEY:
        goals |= {"three passes": 20}
    if RING == VALUE:
        goals |= {"kept": 20, "no ids yet": 20}

    def reset(self) -> None:
        self.offered: dict[str, Any] | None = None
        self.waiting: deque[dict[str, Any]] = deque()
        self.bids: deque[dict[str, Any]] = deque()
        self.ids_shown = False

    def block(self) -> dict[str, Any]:
        source = self.source
        block = ANY_BLOCK(source)
        stride = source.randint(1, SECTORS_MAX)
        most = LANES if RING == QUERY else min(CONFIG.tokens_max, SECTORS // stride * CONFIG.slices)
        count = source.randint(1, most)
        block |= {
            "stride": stride,
            "count": count,
            "place": source.randrange(SECTORS),
            "kept": RING == VALUE and source.random() < 0.5,
        }
        if RING != QUERY:
            block |= {"first_row": 0, "skip": 0}
        elif block["skip"] + count > LANES:
            block["skip"] = LANES - count
        fetches = [ANY_FETCH(source) | {"place": source.randrange(stride)} for _ in range(source.randint(1, PASSES))]
        block["fetch"] = [*fetches, *[None] * (PASSES - len(fetches))]
        if PASSES > 1:
            block["passes"] = len(fetches)
        return block

    def bids_of(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        bids = []
        for group, first in enumerate(range(0, block["count"], LANES)):
            place = block["place"] + group * ROWS_OF_A_LANE * block["stride"]
            fetches = [fetch for fetch in block["fetch"] if fetch is not None]
            for number, fetch in enumerate(fetches):
                bids.append(
                    {
                        "urgent": block["kept"],
                        "request": {
                            **{name: block[name] for name in ("slot", "skip", "dense", "kept", "entry", "stride")},
                            **{name: fetch[name] for name in ("sector", "pitch", "sectors")},
                            "row": None if block["kept"] else block["first_row"] + group,
                            "count": min(LANES, block["count"] - first),
                            "ring": RING,
                            "place": (place + fetch["place"]) % SECTORS,
                            "sector_class": CLASSES[RING][fetch["other"]],
                            "counts": number == len(fetches) - 1,
                        },
                    }
                )
        return bids

    def inputs(self) -> Values:
        if self.offered is None and self.source.random() < 0.5:
            self.offered = self.block()
        bid = self.bids[0] if self.bids else None
        self.is_kept = bid is not None and bid["urgent"]
        if self.is_kept and self.source.random() < 0.5:
            self.ids_shown = True
        self.stands = bid is not None and (self.ids_shown or not self.is_kept)
        self.wins = self.stands and self.source.random() < 0.7
        given: dict[str, Any] = {"i": {"valid": self.offered is not None, "payload": self.offered}, "wins": self.wins}
        if RING == VALUE:
            given["kept_valid"] = self.ids_shown
            if self.ids_shown:
                assert bid is not None
                given["kept_count"] = bid["request"]["count"]
        return given

    def outputs(self) -> Values:
        bid: dict[str, Any] = {"valid": self.stands}
        if self.stands:
            bid |= self.bids[0]
        # The order is that of the next cycle, if there is a block then.
        if len(self.bids) > self.wins:
            bid["next_order"] = self.order
        elif self.waiting:
            bid["next_order"] = self.waiting[0]["order"]
        wanted: dict[str, Any] = {"i": {"ready": len(self.waiting) < 2}, "bid": bid}
        if RING == VALUE:
            wanted["kept_taken"] = self.wins and self.is_kept and self.bids[0]["request"]["counts"]
        return wanted

    def clock(self) -> None:
        takes = self.offered is not None and len(self.waiting) < 2
        self.saw("two wait", len(self.waiting) == 2)
        self.saw("lost", self.stands and not self.wins)
        self.saw("no ids yet", self.bids and not self.stands)
        self.saw("kept", self.wins and self.is_kept)
        if self.wins:
            bid = self.bids.popleft()
            if bid["urgent"] and bid["request"]["counts"]:
                self.ids_shown = False
            self.saw("follows at once", not self.bids and self.waiting)
        if not self.bids and self.waiting:
            block = self.waiting.popleft()
            self.bids.extend(self.bids_of(block))
            self.order = block["order"]
            places = [bid["request"]["place"] for bid in self.bids]
            self.saw("blocks")
            self.saw("wrapped", places[-1] < places[0])
            self.saw("three passes", block.get("passes") == 3)
        if takes:
            assert self.offered is not None
            self.waiting.append(self.offered)
            self.offered = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_bids_for_every_group(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, ISSUER, Groups, seed=seed, cycles=PARAMETERS["cycles"], resets=6)
