"""The allocator of memory against a model that knows the owner of every single sector."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spatten.host.driver.allocator import Allocator

SECTORS, UNIT = 103, 4
WHOLE = 100
"""What of them are whole units."""


class Against(RuleBasedStateMachine):
    """Regions taken and freed in any order, and everything that must be refused."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(SECTORS, UNIT)
        self.owners: list[int | None] = [None] * WHOLE
        """First sector of the region that each belongs to."""
        self.asked: dict[int, int] = {}
        """Sectors that each live region was asked for with."""

    def free_runs(self) -> list[tuple[int, int]]:
        """(first sector, sectors) of what is free, ascending."""
        runs: list[tuple[int, int]] = []
        for sector, owner in enumerate(self.owners):
            if owner is None:
                if runs and sum(runs[-1]) == sector:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((sector, 1))
        return runs

    @rule(sectors=st.integers(1, 40))
    def allocate(self, sectors: int) -> None:
        size = -(-sectors // UNIT) * UNIT
        wanted = next((base for base, room in self.free_runs() if room >= size), None)
        assert self.allocator.allocate(sectors) == wanted
        if wanted is not None:
            self.asked[wanted] = sectors
            self.owners[wanted : wanted + size] = [wanted] * size

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(sorted(self.asked)))
        self.allocator.free(base, self.asked.pop(base))
        self.owners = [None if owner == base else owner for owner in self.owners]

    @rule(
        base=st.one_of(st.integers(-4, SECTORS + 4), st.integers(0, 8).map(lambda unit: unit * UNIT)),
        sectors=st.integers(-1, 40),
    )
    def refuse(self, base: int, sectors: int) -> None:
        asked = self.asked.get(base)
        if asked is not None and sectors >= 1 and -(-sectors // UNIT) == -(-asked // UNIT):
            return
        with pytest.raises(ValueError, match=r"^(sectors must be|no region|sector -?\d+ lies|the region at) "):
            self.allocator.free(base, sectors)

    @rule(first=st.integers(-4, SECTORS + 4), count=st.integers(1, 40))
    def holds(self, first: int, count: int) -> None:
        inside = range(max(0, first), min(WHOLE, first + count))
        owners = {self.owners[sector] for sector in inside}
        assert self.allocator.holds(first, first + count) == (
            len(inside) == count and len(owners) == 1 and None not in owners
        )

    @invariant()
    def free_sectors_are_joined(self) -> None:
        assert self.allocator.largest == max((room for _, room in self.free_runs()), default=0)

    def teardown(self) -> None:
        """Everything freed is one region again."""
        for base, sectors in self.asked.items():
            self.allocator.free(base, sectors)
        assert self.allocator.largest == WHOLE
        assert self.allocator.allocate(WHOLE) == 0


TestAgainstTheModel = Against.TestCase


def test_a_memory_without_a_whole_unit_has_no_room() -> None:
    empty = Allocator(3, 4)
    assert (empty.allocate(1), empty.largest) == (None, 0)


def test_sectors_are_whole_numbers() -> None:
    with pytest.raises(TypeError):
        Allocator(8, 4).allocate(1.5)  # type: ignore[arg-type]
