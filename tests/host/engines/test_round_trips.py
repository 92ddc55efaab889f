"""How often an engine on an accelerator goes to it and back: once for each layer, unless more is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spatten.golden.cascade import Context
from spatten.golden.schedule import Ratios
from spatten.golden.state import save
from spatten.host.driver.device import Device
from spatten.host.driver.errors import DeviceError, JobRejectedError
from spatten.host.driver.metered import MeteredTransport
from spatten.host.driver.operations import ReadMemory, ReadRegister, WriteMemory
from spatten.host.engines.device_engine import DeviceEngine, DeviceSequence
from spatten.host.engines.engine import LayerResult, ModelShape
from spatten.host.engines.quantized_engine import Settings
from spatten.host.models.checkpoint import load
from spatten.host.models.gpt2 import Gpt2
from spatten.spec.config import SECTOR_BYTES
from spatten.spec.job import job_fields
from spatten.spec.register_map import RejectReason
from tests.host.driver.test_batches import Counting
from tests.host.models.test_checkpoint import GPT2_CONFIG, write

SHAPE = ModelShape(layers=4, heads=3, head_dim=16, causal=True)
SETTINGS = Settings(query_bits=12, key_bits=6, lsb=True, value_bits=10, tokens=Ratios(0.2, 0.5), value_keep=0.6)
MOST = 3
"""Round trips of a generated layer."""


class Saving(Counting):
    """An accelerator whose every job saves a state: all its tokens kept, all importance the number of the job."""

    def _field(self, name: str) -> int:
        field = next(one for one in job_fields(self.config) if one.name == name)
        return self.values[f"JOB{field.word}"] >> field.bit & (1 << field.width) - 1

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        first = self._field("state")
        context = Context(self.config)
        context.kept_tokens[self._field("keys") :] = False
        context.kept_heads[:] = [self._field("head_mask") >> head & 1 for head in range(self.config.heads_max)]
        context.token_importance[:] = context.head_importance[:] = self.jobs
        for number, sector in enumerate(save(context)):
            local = (first + number) // self.channels * SECTOR_BYTES
            self.memory[(first + number) % self.channels][local : local + SECTOR_BYTES] = sector.tobytes()
        return super().wait_for_interrupt(timeout_cycles=timeout_cycles)


@pytest.fixture
def fake() -> Saving:
    return Saving()


@pytest.fixture
def meter(fake: Saving) -> MeteredTransport:
    return MeteredTransport(fake)


@pytest.fixture
def sequence(meter: MeteredTransport) -> DeviceSequence:
    """A sequence after its prompt."""
    engine = DeviceEngine(Device(meter, sectors=4000), SETTINGS)
    sequence = engine.start(SHAPE, 6)
    for layer in range(SHAPE.layers):
        prompt(sequence, layer)
    meter.clear()
    return sequence


def prompt(sequence: DeviceSequence, layer: int) -> LayerResult:
    rows = np.random.default_rng(layer).normal(0, 1, (3, 3, 6, 16)).astype(np.float32)
    return sequence.prompt(layer, *rows, np.arange(6))


def step(sequence: DeviceSequence, layer: int, token: int = 6) -> LayerResult:
    rows = np.random.default_rng([layer, token]).normal(0, 1, (3, 3, 1, 16)).astype(np.float32)
    return sequence.step(layer, *rows, token)


def test_a_generated_layer(meter: MeteredTransport, sequence: DeviceSequence) -> None:
    for token in range(6, 10):
        for layer in range(SHAPE.layers):
            step(sequence, layer, token)
    layers = 4 * SHAPE.layers
    print(
        f"{meter.round_trips / layers:g} round trips, {sum(meter.operations.values()) / layers:.1f} operations, "
        f"{meter.sent / layers:.0f} bytes sent and {meter.received / layers:.0f} received for each generated layer"
    )
    assert meter.round_trips <= MOST * layers
    assert meter.round_trips == layers, "one batch each"
    words = 1 + len(sequence._device.map.reports)
    assert meter.operations[ReadRegister] == layers * words, "STATUS and the report: no counter"


def test_gpt2_keeps_nothing_that_would_have_to_be_read(tmp_path: Path, fake: Saving, meter: MeteredTransport) -> None:
    """But the results of a prompt, which it returns: the last but one layer's are read with the last layer."""
    model = Gpt2(load(write(tmp_path, GPT2_CONFIG)))
    device = Device(meter, sectors=4000)
    meter.clear()
    model.generate(np.arange(6), DeviceEngine(device, SETTINGS), 4, ignore_eos=True)
    layers = (1 + 3) * model.shape.layers
    assert meter.round_trips == layers
    words, counters = 1 + len(device.map.reports), 2 * len(device.counters())
    assert meter.operations[ReadRegister] == layers * words + 2 * counters, "one of the two by this line"


def test_only_new_rows_of_keys_and_values_travel(meter: MeteredTransport, sequence: DeviceSequence) -> None:
    """Three rows of K's MSBs, K's LSBs and V, one of Q, and two bitmaps; each of whole sectors."""
    step(sequence, 0)
    assert meter.operations[WriteMemory] <= 4 * 3 + 2
    written = meter.sent - 4 * sum(
        count for kind, count in meter.operations.items() if kind.__name__ == "WriteRegister"
    )
    assert written <= (4 * 3 + 2) * SECTOR_BYTES


def test_all_that_can_be_asked_for_costs_two_more(meter: MeteredTransport, sequence: DeviceSequence) -> None:
    result = step(sequence, 0)
    assert sequence.computed is not None
    assert meter.round_trips == 1
    assert result.token_importance is not None
    assert result.head_importance is not None
    assert sequence.context.token_importance[0] == 4
    assert meter.round_trips == 2
    assert sequence.computed.counters["rows"] == 14
    assert result.traffic.fetched == 0
    assert meter.round_trips == MOST


def test_results_that_somebody_keeps_are_read_with_the_next_job(
    meter: MeteredTransport, sequence: DeviceSequence
) -> None:
    """And each has what its own job left."""
    results = [step(sequence, layer) for layer in range(SHAPE.layers)]
    assert meter.round_trips == SHAPE.layers
    one = 1 << sequence.config.prob_bits
    for number, result in enumerate(results, start=4):
        assert result.token_importance is not None
        assert result.head_importance is not None
        assert result.token_importance.tolist() == [number / one] * 7
        assert result.head_importance.tolist() == [number] * 3
    assert meter.round_trips == SHAPE.layers + 1, "of the last one nobody had asked"


def test_results_outlive_their_sequence_and_device(fake: Saving, meter: MeteredTransport) -> None:
    with Device(meter, sectors=4000) as device:
        sequence = DeviceEngine(device, SETTINGS).start(SHAPE, 6)
        results = [prompt(sequence, layer) for layer in range(2)]
        sequence.close()
        other = DeviceEngine(device, SETTINGS).start(SHAPE, 6)
        last = prompt(other, 0)
        del sequence, other
    assert fake.closed
    one = 1 << fake.config.prob_bits
    for number, result in enumerate([*results, last]):
        assert result.token_importance is not None
        assert result.token_importance.tolist() == [number / one] * 6


def test_a_state_that_is_kept_past_the_next_job_does_not_give_another(sequence: DeviceSequence) -> None:
    """Whoever wants it asks for it in time, or keeps the layer's result."""
    step(sequence, 0)
    old = sequence.context
    step(sequence, 1)
    with pytest.raises(DeviceError, match="token_importance of this state was not asked for before the next job"):
        old.token_importance  # noqa: B018
    read = sequence.context
    assert read.head_importance[0] == 5
    step(sequence, 2)
    assert read.head_importance[0] == 5


def test_a_job_that_fails_leaves_no_result(fake: Saving, sequence: DeviceSequence) -> None:
    result = step(sequence, 0)
    fake.reject = (RejectReason.KV_ROWS, 4)
    with pytest.raises(JobRejectedError):
        step(sequence, 1)
    assert sequence.computed is None
    assert result.head_importance is not None
    assert result.head_importance[0] == 4
    fake.reject = None
    assert step(sequence, 1).kept_heads.tolist() == [0, 1, 2]


def test_the_output_and_what_is_kept_are_read_at_once(meter: MeteredTransport, sequence: DeviceSequence) -> None:
    result = step(sequence, 0)
    assert result.kept_tokens.tolist() == list(range(7))
    assert meter.round_trips == 1
    assert meter.operations[ReadMemory] <= 3 + 2
