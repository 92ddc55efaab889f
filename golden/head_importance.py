"""Head scores of the jobs in flight, entry by entry, as a controller and the rows change them."""

from __future__ import annotations

import numpy as np

from spatten.golden import IntArray
from spatten.golden.importance import accumulate, head_sums
from spatten.spec.config import Config


class HeadScores:
    """Scores [slots, heads] of `bits` bits, and which of them saturated since they were written."""

    def __init__(self, config: Config, slots: int, heads: int, bits: int) -> None:
        self.config = config
        self.bits = bits
        self.value = np.zeros((slots, heads), np.int64)
        self.saturated = np.zeros((slots, heads), np.bool_)

    def write(self, slot: int, head: int, value: int) -> None:
        """Set an entry and clear its mark of saturation."""
        self.value[slot, head] = value
        self.saturated[slot, head] = False

    def add(self, slot: int, head: int, row: IntArray, multiplier: int) -> None:
        """Add one output row [d]."""
        addend = head_sums(self.config, row[None, None], multiplier)[0]
        self.value[slot, head], count = accumulate(self.value[slot, head], addend, self.bits)
        self.saturated[slot, head] |= count > 0

    def read(self, slot: int, head: int) -> tuple[int, bool]:
        """An entry's score and its mark."""
        return int(self.value[slot, head]), bool(self.saturated[slot, head])
