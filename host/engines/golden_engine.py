"""The golden model as an attention engine: quantizes, computes exactly as the hardware will, dequantizes."""

from __future__ import annotations

import numpy as np

from spatten.golden.attention import attend, planes
from spatten.golden.traffic import traffic
from spatten.host.engines.engine import Known, ModelShape
from spatten.host.engines.quantized_engine import Computed, LayerWork, QuantizedEngine, QuantizedSequence, Settings
from spatten.spec.config import PAPER, Config
from spatten.spec.job import Addresses

__all__ = ["GoldenEngine", "GoldenSequence", "Settings"]

NOWHERE = Addresses(query=0, key_msb=0, key_lsb=0, value=0, output=0)
"""Addresses for a layout of which only the sizes matter."""


class GoldenEngine(QuantizedEngine):
    """Makes sequences computed by the golden model of a configuration under given settings."""

    def __init__(self, settings: Settings | None = None, config: Config = PAPER, name: str = "golden") -> None:
        super().__init__(settings, config, name)

    def start(self, shape: ModelShape, length: int) -> GoldenSequence:
        """Raises `GoldenError` for a model or a length that the configuration cannot hold."""
        self.check(shape, length)
        return GoldenSequence(self.config, self.settings, shape)


class GoldenSequence(QuantizedSequence):
    """One sequence on the golden model."""

    def compute(self, work: LayerWork) -> Computed:
        job, live, cache = work.job, work.live, self.cache(work.layer)
        place = np.ix_(live.heads, live.tokens)
        result = attend(job, self.context, live, work.query, cache.key[place], cache.value[place])
        return Computed(
            output=result.output,
            kept_tokens=result.kept_tokens,
            kept_heads=result.kept_heads,
            recomputed=int(result.flat.sum()),
            values_fetched=int(result.values_fetched.sum()),
            saturated=result.output_saturated,
            lazy_importance=Known((self.context.token_importance.copy(), self.context.head_importance.copy())),
            lazy_traffic=Known(traffic(self.config, job, planes(self.config, job, NOWHERE), result)),
        )
