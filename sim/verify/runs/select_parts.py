"""How the testbenches of the quick-select's parts are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from spatten.hw.datapath.select.bin_search import BinSearch
from spatten.hw.datapath.select.digit_counter import DigitCounter
from spatten.hw.datapath.select.digit_pass import DigitPass
from spatten.hw.datapath.select.equal_values import EqualValues
from spatten.hw.datapath.select.first_pass import FirstPass
from spatten.hw.datapath.select.pass_control import PassControl
from spatten.hw.datapath.select.row_buffer import RowBuffer
from spatten.hw.datapath.select.row_places import RowPlaces
from spatten.hw.datapath.select.select_buffers import SelectBuffers
from spatten.sim.verify.runs.twin import twin_run

_ONE_PASS = {"width": 5, "n_max": 13, "digit_bits": 3}
"""Values of at most two digits: their first digit leaves one pass."""
_MANY_PASSES = {"width": 7, "n_max": 14, "digit_bits": 2}
"""Values of more digits: up to three passes, over rows that get shorter."""
_LANES = 3


def digit_counter_mutation_run() -> dict[str, Any]:
    sizes = {"bins": 6, "lanes": _LANES, "n_max": 14}
    return twin_run(DigitCounter(**sizes), None, "digit_counter", cycles=3000, **sizes)


def _first_pass_run(sizes: dict[str, int]) -> dict[str, Any]:
    sizes = {**sizes, "lanes": _LANES}
    return twin_run(FirstPass(**sizes), None, "first_pass", cycles=3000, **sizes)


def first_pass_mutation_run() -> dict[str, Any]:
    return _first_pass_run(_MANY_PASSES)


def _digit_pass_run(sizes: dict[str, int], *, passes_on: bool) -> dict[str, Any]:
    parameters: dict[str, Any] = {**sizes, "lanes": _LANES, "passes_on": passes_on}
    return twin_run(DigitPass(**parameters), None, "digit_pass", cycles=3000, **parameters)


def digit_pass_mutation_run() -> dict[str, Any]:
    return _digit_pass_run(_MANY_PASSES, passes_on=True)


def equal_values_mutation_run() -> dict[str, Any]:
    sizes = {"width": 7, "lanes": _LANES}
    return twin_run(EqualValues(**sizes), None, "equal_values", cycles=2000, **sizes)


def _bin_search_run(sizes: dict[str, int]) -> dict[str, Any]:
    return twin_run(BinSearch(**sizes), None, "bin_search", cycles=4000, **sizes)


def bin_search_mutation_run() -> dict[str, Any]:
    return _bin_search_run(_MANY_PASSES)


def _pass_control_run(*, has_one_pass: bool) -> dict[str, Any]:
    control = PassControl(has_one_pass=has_one_pass)
    return twin_run(control, None, "pass_control", cycles=2000, has_one_pass=has_one_pass)


def pass_control_mutation_run() -> dict[str, Any]:
    return _pass_control_run(has_one_pass=False)


def _row_buffer_run(*, compacts: bool) -> dict[str, Any]:
    parameters: dict[str, Any] = {"width": 4, "lanes": _LANES, "n_max": 14, "compacts": compacts}
    return twin_run(RowBuffer(**parameters), None, "row_buffer", cycles=3000, **parameters)


def row_buffer_mutation_run() -> dict[str, Any]:
    return _row_buffer_run(compacts=True)


def _row_places_run(header: int | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {"places": 4, "width": 4, "n_max": 14, "header": header}
    return twin_run(RowPlaces(**parameters), None, "row_places", cycles=2000, **parameters)


def row_places_mutation_run() -> dict[str, Any]:
    return _row_places_run(3)


def _select_buffers_run(*, compacts: bool) -> dict[str, Any]:
    parameters: dict[str, Any] = {"width": 4, "lanes": _LANES, "n_max": 14, "compacts": compacts}
    return twin_run(SelectBuffers(**parameters), None, "select_buffers", cycles=4000, **parameters)


def select_buffers_mutation_run() -> dict[str, Any]:
    return _select_buffers_run(compacts=True)


RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "bin_search": bin_search_mutation_run,
    "bin_search, one pass": partial(_bin_search_run, _ONE_PASS),
    "digit_counter": digit_counter_mutation_run,
    "digit_pass": digit_pass_mutation_run,
    "digit_pass, one pass": partial(_digit_pass_run, _ONE_PASS, passes_on=False),
    "equal_values": equal_values_mutation_run,
    "first_pass": first_pass_mutation_run,
    "first_pass, one pass": partial(_first_pass_run, _ONE_PASS),
    "pass_control": pass_control_mutation_run,
    "pass_control, one pass": partial(_pass_control_run, has_one_pass=True),
    "row_buffer": row_buffer_mutation_run,
    "row_buffer, one pass": partial(_row_buffer_run, compacts=False),
    "row_places": row_places_mutation_run,
    "row_places, no header": partial(_row_places_run, None),
    "select_buffers": select_buffers_mutation_run,
    "select_buffers, one pass": partial(_select_buffers_run, compacts=False),
}
