"""Machines that lack features: nothing of these is in their Verilog, and they do all else as golden does."""

from __future__ import annotations

import re

import pytest

from spatten.host.driver.device import Device
from spatten.hw.emit.hierarchy import components
from spatten.hw.spatten import Spatten
from spatten.hw.units import UNITS, UnknownUnitError, require_units
from spatten.sim.machine.campaigns import DifferenceError, machine_of, require_refusal
from spatten.sim.machine.machine import Machine
from spatten.sim.machine.random_jobs import lacking_asks
from spatten.sim.machine.transport import SimulatedTransport
from spatten.sim.verify.build import lint
from spatten.spec.config import FEATURES, TINY, Config, Feature
from spatten.spec.job import Flag
from tests.hw.test_spatten import make, run_new, verilog_of

PLAIN = TINY.replace(name="plain", features=())
LACKING = {
    **{f"no-{one}": TINY.replace(name=f"no-{one}", features=[f for f in FEATURES if f != one]) for one in FEATURES},
    "plain": PLAIN,
}
PARTS = {
    Feature.PROGRESSIVE: {"Progressive", "StashSlots", "AgainSegments", "Refetch", "RefetchPlan"},
    Feature.PRUNE_VALUES: {"Widen", "LocalValues", "PrunedWalker", "BeatSplitter", "ReadWriteRam"},
    Feature.PRUNE_HEADS: {"HeadImportance", "HeadPort", "HeadReader"},
    Feature.SAVED_STATES: {"SavedStates", "StateLoad", "StateStore", "TokenLoad", "WriteMerger"},
}
"""Components that only a machine with a feature has."""
WORDS = {
    Feature.PROGRESSIVE: "flat|stash|again|linear|refetch|progressive|decision|recomputed",
    Feature.PRUNE_VALUES: "pruned|kept_ids|widen|value_topk|local_values|keep_values|live_read|splitter",
    Feature.PRUNE_HEADS: "head_importance|heads_done|weighted|keep_heads|head_port|ageing|heads_saturated",
    Feature.SAVED_STATES: "saved_states|state_load|state_store|load_rows|write_merger|loaded",
}
"""What names of the Verilog only a machine with a feature has."""


def lacks(config: Config) -> list[Feature]:
    return [feature for feature in FEATURES if not config.has(feature)]


@pytest.mark.parametrize("config", [TINY, *LACKING.values()], ids=lambda config: config.name)
def test_parts_of_a_feature_are_there_with_it_only(config: Config) -> None:
    found = {type(component).__name__ for _, component in components(Spatten(config=config))}
    for feature, parts in PARTS.items():
        assert parts & found == (parts if config.has(feature) else set())
    engines = [path for path, one in components(Spatten(config=config)) if type(one).__name__ == "TopK"]
    assert len(engines) == 1 + config.has(Feature.PRUNE_VALUES)


def test_units_are_counted_where_they_stand() -> None:
    assert all(unit.count(TINY) for unit in UNITS.values())
    gone = {name for name, unit in UNITS.items() if not unit.count(PLAIN)}
    assert gone == {
        "progressive", "widen", "value_topk", "local_values", "zero_eliminator", "packer", "head_importance",
        "saved_states", "state_store", "state_load", "write_merger",
    }  # fmt: skip
    require_units(UNITS, TINY)
    with pytest.raises(
        UnknownUnitError, match=r"^unit must be one that the configuration 'plain' has \(fetch, .*, not "
    ):
        require_units(["softmax", "widen"], PLAIN)


@pytest.mark.slow
@pytest.mark.parametrize("config", LACKING.values(), ids=LACKING)
def test_nothing_of_a_feature_is_in_the_verilog_of_a_machine_that_lacks_it(config: Config) -> None:
    text = verilog_of(config, assertions=False)
    lint(text, top="spatten")
    names = set(re.findall(r"[A-Za-z_][\w$.]*", text))
    complete = set(re.findall(r"[A-Za-z_][\w$.]*", verilog_of(TINY, assertions=False)))
    for feature in lacks(config):
        words = re.compile(WORDS[feature])
        assert not {name for name in names if words.search(name)}
        assert len({name for name in complete if words.search(name)}) > 10, "the words are those of the feature"


@pytest.mark.slow
@pytest.mark.parametrize("config", LACKING.values(), ids=LACKING)
def test_a_machine_does_all_that_it_has(config: Config) -> None:
    """150 random jobs as golden has them; what else is asked for is refused for its reason (`campaigns.submit`)."""
    with Device(SimulatedTransport(Machine(verilog_of(config), config))) as device:
        assert device.config == config.replace(name="device")
        for seed, stall in enumerate((0.0, 0.3, 0.9), start=1):
            machine_of(device).set_back_pressure(stall, seed=seed, registers=True)
            run_new(device, 300 + seed, 50)
        _, tasks = make(config, 400, 20)
        asks = [fields for task in tasks for fields in lacking_asks(config, task.fields)]
        for fields in asks:
            require_refusal(device, fields)
        asked = {flag for flag in Flag for fields in asks if fields["flags"] >> flag & 1}
        assert asked >= {flag for flag in Flag if flag.name.lower() in [*lacks(config)]}
        assert device.status()["idle"]
        with pytest.raises(DifferenceError, match="a job was taken that asks for what the machine lacks"):
            require_refusal(device, tasks[0].fields)
