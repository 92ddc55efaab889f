"""The list of units, against the accelerator: each is the instance that stands there, and none is left out."""

from __future__ import annotations

import pytest

from spatten.hw.emit.hierarchy import components, parameters_of
from spatten.hw.spatten import Spatten
from spatten.hw.units import UNITS
from spatten.spec.config import TINY, ULX3S, Config

PLAIN = TINY.replace(name="plain", features=())


@pytest.mark.parametrize("config", [TINY, ULX3S, PLAIN], ids=["tiny", "ulx3s", "plain"])
def test_units_are_the_instances_of_the_accelerator(config: Config) -> None:
    found = dict(components(Spatten(config=config)))
    places: dict[str, list[str]] = {}
    for unit in UNITS.values():
        if not unit.count(config):
            places[unit.name] = []
            continue
        made = unit.make(config)
        wanted = parameters_of(made)
        alike = [path for path, component in found.items() if type(component) is type(made)]
        places[unit.name] = [path for path in alike if parameters_of(found[path]) == wanted]
        assert len(places[unit.name]) >= 1, f"{unit.name} does not stand in the accelerator; there are {alike}"
        if unit.block is not None:
            assert len(places[unit.name]) == unit.count(config), unit.name
    counted = {path for unit in UNITS.values() if unit.block is not None for path in places[unit.name]}
    joined = {path for path in found if path.startswith("core.") and path.count(".") == 1}
    joined |= {path for path in found if path and "." not in path} - {"core"}
    assert joined == counted, "a unit is not in the list, or counted twice"
