"""Which sectors of a memory are taken: regions are handed out and given back as a whole, and never overlap."""

from __future__ import annotations

import bisect
import operator

__all__ = ["Allocator"]


class Allocator:
    """Hands out regions of a memory.

    Parameters
    ----------
    sectors : int
        Sectors of the memory, numbered from 0 on; those beyond the last multiple of `unit` are never handed out.
    unit : int
        Every region begins at a multiple of `unit`, and takes a multiple of `unit` sectors.

    A region is live from `allocate` to `free`. Live regions do not overlap. All free sectors
    between two live regions are one hole, so all memory can be had again as one region once everything has been freed.
    """

    def __init__(self, sectors: int, unit: int) -> None:
        self._unit = unit
        self._live: dict[int, int] = {}
        """The number of sectors of every live region, by its first sector."""
        self._bases: list[int] = []
        """The keys of `_live`, ascending."""
        whole = sectors // unit * unit
        self._holes = [(0, whole)] if whole else []
        """(first sector, sectors) of every hole, ascending; no two holes touch."""

    @property
    def largest(self) -> int:
        """Sectors of the largest region that could be allocated."""
        return max((size for _, size in self._holes), default=0)

    def rounded(self, sectors: int) -> int:
        """Sectors that a region of `sectors` takes; ValueError unless there is at least one."""
        count = operator.index(sectors)
        if count < 1:
            raise ValueError(f"sectors must be at least 1, not {sectors!r}")
        return -(-count // self._unit) * self._unit

    def allocate(self, sectors: int) -> int | None:
        """First sector of a new region, in the first hole that is large enough; None if no hole is."""
        size = self.rounded(sectors)
        for index, (base, room) in enumerate(self._holes):
            if room >= size:
                self._holes[index : index + 1] = [(base + size, room - size)] if room > size else []
                self._live[base] = size
                bisect.insort(self._bases, base)
                return base
        return None

    def free(self, base: int, sectors: int) -> None:
        """Give back the region that begins at `base` and was allocated with `sectors`.

        Raises ValueError, and changes nothing, unless there is such a region.
        """
        size = self.rounded(sectors)
        if base not in self._live:
            around = self._around(base)
            if around is None:
                raise ValueError(f"no region is allocated at sector {base!r}: it was freed before, or never allocated")
            raise ValueError(
                f"sector {base!r} lies inside the region of {self._live[around]} sectors from sector {around} on: "
                "a region is freed as a whole"
            )
        if self._live[base] != size:
            raise ValueError(
                f"the region at sector {base} has {self._live[base]} sectors, not {size}: a region is freed as a whole"
            )
        del self._live[base]
        self._bases.remove(base)
        self._add_hole(base, size)

    def holds(self, first: int, end: int) -> bool:
        """Whether all sectors from `first` to `end` - 1 lie in one live region."""
        around = self._around(first)
        return around is not None and end <= around + self._live[around]

    def _around(self, sector: int) -> int | None:
        """First sector of the live region that has `sector`."""
        place = bisect.bisect_right(self._bases, sector) - 1
        if place < 0:
            return None
        base = self._bases[place]
        return base if sector < base + self._live[base] else None

    def _add_hole(self, base: int, size: int) -> None:
        """Join what has become free with the holes on both of its sides."""
        place = bisect.bisect(self._holes, (base, size))
        if place < len(self._holes) and base + size == self._holes[place][0]:
            size += self._holes.pop(place)[1]
        if place and sum(self._holes[place - 1]) == base:
            place -= 1
            before, room = self._holes.pop(place)
            base, size = before, room + size
        self._holes.insert(place, (base, size))
