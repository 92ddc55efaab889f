"""The control front end, hw/front/registers.py, in Verilator, and in Icarus with X for every initial value."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from spatten.hw.emit.verilog import convert
from spatten.hw.front.registers import Registers
from spatten.sim.verify import job_descriptors
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.job_descriptors import BESIDE_THE_DESCRIPTOR, possible_reasons
from spatten.sim.verify.runs.registers import run_arguments
from spatten.spec.config import PAPER, TINY, ULX3S, Config, Feature
from spatten.spec.register_map import RejectReason
from tests.waveforms import drawings, levels

ODD = TINY.replace(
    name="odd",
    operand_bits=16,
    tokens_max=32,
    heads_max=3,
    head_dim_max=128,
    key_buffer_rows=256,
    value_buffer_rows=256,
    channels=8,
    contexts=3,
    sector_bits=32,
)
"""What `tiny` is not: contexts and heads that are no power of two, 16-bit operands, addresses without spare bits."""
WAVES = {name: levels(line) for name, line in drawings()[0].items()}
PLAIN = TINY.replace(name="plain", features=())
"""It lacks all that a machine can lack."""
CONFIGS = {"tiny": TINY, "odd": ODD, "plain": PLAIN}
TESTS = 45


@pytest.mark.slow
def test_registers_in_icarus_without_initial_values() -> None:
    run = run_arguments(TINY, rounds=6, waves=WAVES)
    assert len(cosimulate(**run, simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {"tiny"}))
def test_registers_in_verilator(name: str) -> None:
    assert len(cosimulate(**run_arguments(CONFIGS[name], rounds=6, waves=WAVES), strip_initial=True)) == TESTS


@pytest.mark.slow
def test_registers_of_one_channel() -> None:
    assert len(cosimulate(**run_arguments(ULX3S, rounds=4, waves=WAVES))) == TESTS


def test_every_reason_is_met_by_a_configuration() -> None:
    assert set().union(*map(possible_reasons, CONFIGS.values())) == set(RejectReason) - BESIDE_THE_DESCRIPTOR
    for config in CONFIGS.values():
        spoilt = {reason for reason, _, _ in job_descriptors.spoilt(config, Random(1))}
        assert spoilt == possible_reasons(config) - {RejectReason.VERSION}


@pytest.mark.slow
@pytest.mark.parametrize("config", [*CONFIGS.values(), PAPER, ULX3S], ids=lambda config: config.name)
def test_what_is_accepted_is_what_golden_runs(config: Config) -> None:
    """The testbench's definition of a good descriptor against golden's, for descriptors with one or two odd fields."""
    source = Random(7)
    beside = {"head_mask", "kv_rows", "context", *job_descriptors.ADDRESSES}
    fields = [field for field in job_descriptors.job_fields(config) if field.name not in beside]
    counts = {True: 0, False: 0}
    for _ in range(4000):
        values = job_descriptors.random_job(config, source)
        assert job_descriptors.golden_accepts(config, values)
        for field in source.sample(fields, source.choice([1, 1, 2])):
            values[field.name] = source.getrandbits(field.width)
        numbers = (values["query_bits"], values["key_bits"], values["value_bits"])
        load_and_clear = values["flags"] & 0x101 == 0x101 and config.has(Feature.SAVED_STATES)
        if values["mode"] == 3 or values["fetch"] == 3 or max(numbers) > 5 or load_and_clear:
            continue
        # What golden knows as the caller's bitmap, or the memory's layout, is made to fit.
        values["head_mask"] = 1
        values["kv_rows"] = max(values["kv_rows"], values["keys"])
        accepted = job_descriptors.refusal(config, job_descriptors.pack(config, values)) is None
        values |= {name: 0 for name in job_descriptors.ADDRESSES if name in values}
        accepted = job_descriptors.refusal(config, job_descriptors.pack(config, values)) is None
        assert accepted == job_descriptors.golden_accepts(config, values), values
        counts[accepted] += 1
    assert min(counts.values()) > 300


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, ODD, ULX3S, PAPER], ids=lambda config: config.name)
def test_verilog_is_lint_clean(config: Config) -> None:
    lint(convert(Registers(config=config)))


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ("tiny", TypeError, "config must be a Config, not 'tiny'"),
    ],
)
def test_parameters_are_validated(config: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Registers(config=config)
    assert str(caught.value) == text
