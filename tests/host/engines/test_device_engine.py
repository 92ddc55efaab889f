"""Models on the simulated accelerator, through its driver: everything pruned, bit for bit the golden model's."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from spatten.golden import IntArray
from spatten.golden.memory import OutputRegion, Plane
from spatten.golden.schedule import Ratios
from spatten.host.driver.device import Device
from spatten.host.driver.errors import DeviceError, OutOfMemoryError
from spatten.host.driver.metered import MeteredTransport
from spatten.host.driver.operations import Operation
from spatten.host.driver.readings import Reading
from spatten.host.engines.checked_engine import CheckedEngine, CheckedSequence, MismatchError
from spatten.host.engines.device_engine import DeviceEngine, DeviceSequence
from spatten.host.engines.engine import FloatArray, LayerResult, ModelShape
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.engines.quantized_engine import Computed, LayerWork, Settings
from spatten.sim.machine.device import accelerator_verilog
from spatten.sim.machine.machine import Machine
from spatten.sim.machine.transport import SimulatedTransport
from spatten.spec.config import TINY

BERT = ModelShape(layers=3, heads=4, head_dim=32, causal=False)
GPT2 = ModelShape(layers=4, heads=3, head_dim=16, causal=True)
BERT_SETTINGS = Settings(
    query_bits=8, key_bits=8, value_bits=6, tokens=Ratios(0.2, 0.6), heads=Ratios(0.25, 0.5), pin_first=1
)
"""Rows of V at 6 bits and of 32 elements are no whole sectors: two heads share one."""
GPT2_SETTINGS = Settings(
    query_bits=12, key_bits=6, lsb=True, value_bits=10, threshold=0.22, tokens=Ratios(0.2, 0.5),
    heads=Ratios(0.3, 0.34), value_keep=0.6, pin_first=1, pin_recent=3,
)  # fmt: skip
SECTORS = 60_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(accelerator_verilog(TINY, assertions=True), TINY) as machine:
        yield machine


@pytest.fixture
def device(machine: Machine) -> Device:
    machine.reset()
    return Device(SimulatedTransport(machine), sectors=SECTORS)


class Run:
    """A model of random Q, K and V whose attention two engines compute."""

    def __init__(
        self, device: Device, shape: ModelShape, settings: Settings, length: int, seed: int, room: int | None = None
    ) -> None:
        self.shape = shape
        self.length = length
        self.random = np.random.default_rng(seed)
        self.seen: list[tuple[LayerWork, Computed]] = []
        self.results: list[LayerResult] = []
        engine = CheckedEngine(
            DeviceEngine(device, settings, room=room),
            GoldenEngine(settings, device.config),
            on_layer=lambda work, computed: self.seen.append((work, computed)),
        )
        self.sequence: CheckedSequence = engine.start(shape, length)
        self.tokens = np.arange(length)

    def _tensors(self, layer: int, rows: int) -> list[FloatArray]:
        shape = (len(self.sequence.heads(layer)), rows, self.shape.head_dim)
        # Heads differ in how flat their rows are.
        spread = np.linspace(0.3, 2.5, shape[0])[:, None, None]
        return [(self.random.normal(0, 1, shape) * s).astype(np.float32) for s in (spread, 1.0, 1.0)]

    def prompt(self, layer: int) -> None:
        result = self.sequence.prompt(layer, *self._tensors(layer, len(self.tokens)), self.tokens)
        self.tokens = result.kept_tokens
        self.results.append(result)

    def step(self, layer: int, token: int) -> None:
        self.results.append(self.sequence.step(layer, *self._tensors(layer, 1), token))


def test_bert_like(device: Device) -> None:
    run = Run(device, BERT, BERT_SETTINGS, length=13, seed=1)
    for layer in range(3):
        run.prompt(layer)
    assert [len(result.kept_tokens) for result in run.results] == [13, 11, 6]
    assert [len(result.kept_heads) for result in run.results] == [4, 3, 2]
    assert all(result.output.any() for result in run.results)
    for work, computed in run.seen:
        assert 0 < computed.counters["busy"] <= computed.counters["cycles"]
        assert computed.counters["rows"] == len(work.live.heads) * len(work.live.rows)


def test_gpt2_like_with_all_pruning(device: Device) -> None:
    run = Run(device, GPT2, GPT2_SETTINGS, length=8, seed=2)
    for layer in range(4):
        run.prompt(layer)
    prompt = list(run.results)
    for token in range(8, 16):
        for layer in range(4):
            run.step(layer, token)
    steps = run.results[len(prompt) :]
    assert len(prompt[-1].kept_tokens) < 8
    assert len(prompt[-1].kept_heads) < 3
    assert all(len(steps[i + 3].kept_tokens) < len(steps[i].kept_tokens) for i in range(0, len(steps), 4))
    assert all(result.value_rows < result.value_rows_live for result in steps)
    flat = sum(result.rows_recomputed for result in steps)
    assert 0 < flat < sum(result.rows for result in steps), "some rows are flat, some are not"
    assert sum(result.traffic.lsb for result in steps) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"key_bits": 12, "value_bits": 8},
        {"key_bits": 4, "value_keep": 1.0, "query_bits": 10},
        {"key_bits": 10, "value_keep": None, "threshold": 0.0},
        {"lsb": False, "key_bits": 12, "value_bits": 12, "threshold": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "shape", [GPT2, dataclasses.replace(GPT2, layers=2, heads=4, head_dim=32)], ids=["3x16", "4x32"]
)
def test_other_settings(device: Device, shape: ModelShape, changes: dict[str, Any]) -> None:
    run = Run(device, shape, dataclasses.replace(GPT2_SETTINGS, **changes), length=7, seed=20)
    for layer in range(shape.layers):
        run.prompt(layer)
    for token in range(7, 10):
        for layer in range(shape.layers):
            run.step(layer, token)


def test_sequences_interleaved_in_two_contexts(device: Device) -> None:
    """Of different models and settings, layer by layer in turns; none brings a state from memory."""
    one = Run(device, GPT2, GPT2_SETTINGS, length=9, seed=3)
    other = Run(device, BERT, BERT_SETTINGS, length=14, seed=4)
    for layer in range(4):
        one.prompt(layer)
        if layer < 3:
            other.prompt(layer)
    for layer in range(4):
        one.step(layer, 9)
    other_reads = [computed.counters["other_sectors"] for _, computed in (*one.seen, *other.seen)]
    assert max(other_reads) <= 2, "bitmaps only"


def test_more_sequences_than_contexts(device: Device) -> None:
    """Three in two contexts: each job finds another's state in its context, and brings its own from memory."""
    runs = [Run(device, GPT2, GPT2_SETTINGS, length=6 + i, seed=5 + i) for i in range(3)]
    for layer in range(4):
        for run in runs:
            run.prompt(layer)
    for step in range(2):
        for layer in range(4):
            for run in runs:
                run.step(layer, run.length + step)
    assert all(max(computed.counters["other_sectors"] for _, computed in run.seen) > 2 for run in runs)


def test_a_reset_costs_sequences_their_contexts_and_nothing_else(device: Device) -> None:
    run = Run(device, GPT2, GPT2_SETTINGS, length=6, seed=8)
    for layer in range(2):
        run.prompt(layer)
    device.reset()
    run.prompt(2)
    device.soft_reset()
    run.prompt(3)
    for layer in range(4):
        run.step(layer, 6)


def test_memory_returns_when_a_sequence_ends(device: Device) -> None:
    def largest() -> int:
        base = device.allocate(room := device.sectors // 2)
        device.free(base, room)
        return base

    engine = DeviceEngine(device, GPT2_SETTINGS)
    assert largest() == 0
    sequence = engine.start(GPT2, 8)
    assert largest() > 0
    sequence.close()
    sequence.close()
    assert largest() == 0
    with pytest.raises(DeviceError, match="closed"):
        prompt(sequence, 8)
    with engine.start(GPT2, 8):
        assert largest() > 0
    assert largest() == 0
    forgotten: DeviceSequence | None = engine.start(GPT2, 8)
    assert forgotten is not None
    del forgotten
    gc.collect()
    assert largest() == 0


def prompt(sequence: DeviceSequence, length: int) -> LayerResult:
    shape = (sequence.shape.heads, length, sequence.shape.head_dim)
    q, k, v = np.random.default_rng(9).normal(0, 1, (3, *shape)).astype(np.float32)
    return sequence.prompt(0, q, k, v, np.arange(length))


def test_a_sequence_without_room_takes_nothing(machine: Machine) -> None:
    device = Device(SimulatedTransport(machine), sectors=300)
    with pytest.raises(OutOfMemoryError, match="no room for"):
        DeviceEngine(device, GPT2_SETTINGS).start(GPT2, 8)
    assert device.allocate(300) == 0


def test_room(device: Device) -> None:
    for room in (0, 17):
        with pytest.raises(ValueError, match=f"room must be 1 to 16, not {room}"):
            DeviceEngine(device, room=room)
    engine = DeviceEngine(device, GPT2_SETTINGS, room=8)
    with pytest.raises(ValueError, match="length must be at most room = 8, not 9"):
        engine.start(GPT2, 9)
    sequence = engine.start(GPT2, 8)
    prompt(sequence, 8)
    row = np.ones((3, 1, 16), np.float32)
    with pytest.raises(DeviceError, match="room for 8 tokens, not 9"):
        sequence.step(0, row, row, row, 8)


def test_a_small_room_is_enough(device: Device) -> None:
    run = Run(device, GPT2, GPT2_SETTINGS, length=5, seed=10, room=6)
    for layer in range(4):
        run.prompt(layer)
    for layer in range(4):
        run.step(layer, 5)


def test_a_wrong_bit_of_memory_is_found(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In K of one token and head, and in the output alone: the message names the place."""
    output_reading = device.output_reading

    def wrong(region: OutputRegion, heads: np.ndarray, rows: np.ndarray) -> Reading[IntArray]:
        right = output_reading(region, heads, rows)

        def decode(answers: Sequence[Any]) -> IntArray:
            right.take(answers)
            output = right.value
            output[1, 3, 5] ^= 1
            return output

        return Reading(right.operations, decode, device.transport.execute)

    monkeypatch.setattr(device, "output_reading", wrong)
    run = Run(device, BERT, BERT_SETTINGS, length=8, seed=11)
    with pytest.raises(MismatchError, match=r"layer 0, .*: head 1, row 3, element 5 is .*; 1 of 1024 differ"):
        run.prompt(0)
    monkeypatch.undo()
    store_operations = device.store_operations

    def spoilt(plane: Plane, codes: np.ndarray, *more: np.ndarray) -> list[Operation]:
        codes = codes.copy()
        codes[0, 0] ^= 1
        return store_operations(plane, codes, *more)

    monkeypatch.setattr(device, "store_operations", spoilt)
    run = Run(device, BERT, BERT_SETTINGS, length=8, seed=12)
    with pytest.raises(MismatchError, match=r"layer 0, .*: head 0, row \d+, element \d+ is"):
        run.prompt(0)


def test_a_generated_layer_is_one_round_trip_and_what_is_asked_for_later_is_that_of_its_layer(
    machine: Machine,
) -> None:
    """Unchecked on the accelerator, with every result kept to the end; then the golden model's results are compared."""
    machine.reset()
    meter = MeteredTransport(SimulatedTransport(machine))
    device = Device(meter, sectors=SECTORS)
    kept, golden = (
        _results(engine, keep=True)
        for engine in (DeviceEngine(device, GPT2_SETTINGS), GoldenEngine(GPT2_SETTINGS, device.config))
    )
    for number, (one, other) in enumerate(zip(kept, golden, strict=True)):
        assert np.array_equal(one.output, other.output), number
        assert np.array_equal(one.token_importance, other.token_importance), number
        assert np.array_equal(one.head_importance, other.head_importance), number
        assert one.traffic == other.traffic, number
    meter.clear()
    before: list[int] = []
    results = _results(
        DeviceEngine(device, GPT2_SETTINGS), keep=False, on_step=lambda: before.append(meter.round_trips)
    )
    assert len(results) == 1
    layers = 4 * (len(before) - 1)
    trips = before[-1] - before[0]
    print(f"{trips} round trips for {layers} generated layers, {meter.sent} bytes sent, {meter.received} received")
    assert trips <= 3 * layers
    assert trips == layers, "one batch each"


def _results(
    engine: DeviceEngine | GoldenEngine, *, keep: bool, on_step: Callable[[], object] = lambda: None
) -> list[LayerResult]:
    """Of a prompt of 8 tokens and 4 generated ones; all, or the last alone, of which nobody has asked anything yet."""
    random = np.random.default_rng(13)
    sequence = engine.start(GPT2, 8)
    results: list[LayerResult] = []
    tokens = np.arange(8)
    for layer in range(4):
        shape = (3, len(sequence.heads(layer)), len(tokens), 16)
        result = sequence.prompt(layer, *random.normal(0, 1, shape).astype(np.float32), tokens)
        tokens = result.kept_tokens
        results = [*results, result] if keep else [result]
    on_step()
    for token in range(8, 12):
        for layer in range(4):
            shape = (3, len(sequence.heads(layer)), 1, 16)
            result = sequence.step(layer, *random.normal(0, 1, shape).astype(np.float32), token)
            results = [*results, result] if keep else [result]
        on_step()
    return results


def test_both_engines_must_have_the_same_settings(device: Device) -> None:
    with pytest.raises(ValueError, match="both engines must have the same settings"):
        CheckedEngine(DeviceEngine(device, GPT2_SETTINGS), GoldenEngine(BERT_SETTINGS, TINY))
