"""The golden model: bit-exact integer NumPy for every step of the accelerator.

`docs/numerics.md` is the contract these modules implement. Arrays are int64 and every width is the circuit's; nothing
here imports the circuit, only `spec/`, which it shares with the circuit. Floats appear only where a host's numbers
enter: in `quantize`, in `softmax.flat_limit` and in the ratios of `schedule`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatten.spec.errors import SpattenError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]


class GoldenError(SpattenError, ValueError):
    """Bad input to the golden model; the message says what was wrong and what would be right."""
