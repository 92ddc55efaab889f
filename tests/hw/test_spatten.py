"""The whole accelerator: its Verilog behind its registers and channels, bit for bit against the golden model."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from spatten.host.driver import protocol
from spatten.host.driver.device import Device
from spatten.host.driver.errors import DeviceFailedError, DeviceTimeoutError, JobRejectedError
from spatten.host.driver.transport import BusError
from spatten.hw.spatten import Spatten
from spatten.sim.machine.campaigns import (
    DifferenceError,
    compare,
    compare_memory,
    fill,
    machine_of,
    move,
    run_campaign,
    submit,
    written_regions,
)
from spatten.sim.machine.device import accelerator_verilog
from spatten.sim.machine.machine import Machine
from spatten.sim.machine.random_jobs import Campaign, Task
from spatten.sim.machine.transport import SimulatedTransport
from spatten.sim.verify import job_descriptors
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.yosys import run_script
from spatten.spec.config import LSB_BITS, SECTOR_BYTES, TINY, Config
from spatten.spec.job import JOB_WORDS, Flag, KeyFetch, Mode, ScoreScale, job_fields
from spatten.spec.register_documents import markdown
from spatten.spec.register_map import Access, ErrorCode, RejectReason
from spatten.spec.version import DESCRIPTOR_VERSION

SECTORS = 40_000
FEW_SECTORS = 6_000
TIMEOUT = 2_000
"""Cycles, more than anything in `tiny` stands still."""

ODD = TINY.replace(
    name="odd",
    operand_bits=16,
    qk_multipliers=64,
    pv_multipliers=64,
    topk_lanes=4,
    tokens_max=32,
    heads_max=3,
    head_dim_max=64,
    key_buffer_rows=64,
    value_buffer_rows=64,
    buffer_dim=32,
    channels=4,
    channel_bits=64,
    contexts=3,
    jobs_in_flight=4,
)
"""What `tiny` is not: wide operands, top-k wider than softmax, contexts and heads that are no power of two."""
NARROW = TINY.replace(
    name="narrow",
    softmax_lanes=4,
    topk_lanes=4,
    qk_multipliers=64,
    pv_multipliers=64,
    head_dim_max=64,
    key_buffer_rows=64,
    value_buffer_rows=64,
    channels=1,
    channel_bits=16,
    contexts=1,
    jobs_in_flight=1,
)
"""One of everything: a 16-bit channel, a context, a job in flight; and a key in four beats."""
HEADS = TINY.replace(
    name="heads",
    tokens_max=8,
    heads_max=16,
    key_buffer_rows=8,
    value_buffer_rows=8,
    buffer_dim=32,
    jobs_in_flight=4,
)
"""More heads than cycles between two jobs' beginnings; and one slice, which reads several rows of a lane at once."""
SCALED_DOWN = TINY.replace(
    name="scaled-down",
    operand_bits=8,
    head_dim_max=64,
    head_dim_min=32,
    plane_widths=(4, 8),
    blocks=4,
    buffer_dim=32,
    channels=1,
    channel_bits=16,
    contexts=1,
    jobs_in_flight=1,
)
"""`ulx3s` in small: two widths of planes, two head dimensions, four blocks in a ring."""


def verilog_of(config: Config, *, assertions: bool = True) -> str:
    """Of the accelerator; with assertions about what every unit's neighbours must keep to, or as it is delivered."""
    return accelerator_verilog(config, assertions=assertions)


@pytest.fixture
def device() -> Iterator[Device]:
    with Device(SimulatedTransport(Machine(verilog_of(TINY), TINY))) as device:
        yield device


def make(config: Config, seed: int, count: int, *, sectors: int = FEW_SECTORS, **wanted: Any) -> tuple[Campaign, Any]:
    """A campaign and its tasks; the seed is printed."""
    print(f"campaign of seed {seed}")
    campaign = Campaign(config, seed, sectors=sectors)
    return campaign, [campaign.task(**wanted) for _ in range(count)]


def run_new(device: Device, seed: int, count: int, **wanted: Any) -> None:
    """Make a campaign and run it, with the memory of the channels somewhere else each time."""
    move(device, np.random.default_rng(seed))
    campaign, tasks = make(device.config, seed, count, sectors=SECTORS, **wanted)
    run_campaign(device, campaign, tasks)


# -- Random jobs ------------------------------------------------------------------------------------------------------


def test_some_random_jobs(device: Device) -> None:
    run_new(device, 1, 40)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("stall", [0.0, 0.3, 0.9])
def test_random_jobs(device: Device, seed: int, stall: float) -> None:
    machine_of(device).set_back_pressure(stall, seed=seed, registers=True)
    run_new(device, 10 * seed, 60)


MEMORIES: list[dict[str, Any]] = [
    {"model": "ideal", "latency": 1, "write_latency": 1},
    {"model": "ideal", "latency": 40},
    {"model": "ideal", "latency": 200, "write_latency": 200},
    {"model": "hbm2"},
]


@pytest.mark.slow
@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: "-".join(map(str, memory.values())))
def test_memories(device: Device, memory: dict[str, Any], stall: float) -> None:
    machine_of(device).set_memory(**memory)
    machine_of(device).set_back_pressure(stall, seed=7)
    run_new(device, 100, 60)


@pytest.mark.slow
@pytest.mark.parametrize("config", [ODD, NARROW, HEADS, SCALED_DOWN], ids=lambda config: config.name)
def test_other_configurations(config: Config) -> None:
    with Device(SimulatedTransport(Machine(verilog_of(config), config))) as device:
        assert device.config == config.replace(name="device")
        check_refusals(device)
        for seed, (stall, memory) in enumerate(itertools.product([0.0, 0.3], MEMORIES), start=1):
            machine_of(device).set_back_pressure(stall, seed=seed)
            machine_of(device).set_memory(**memory)
            run_new(device, 1000 * seed, 20)
            check_faults(device, seed, rounds=1)


@pytest.mark.slow
def test_jobs_whose_heads_age_longer_than_they_take_to_begin() -> None:
    with Device(SimulatedTransport(Machine(verilog_of(HEADS), HEADS))) as device:
        for seed in range(700, 706):
            run_new(device, seed, 40, keys=1, queries=1, query_offset=0, valid_length=None, age_shift=1)


@pytest.mark.slow
def test_nothing_relies_on_values_at_power_up() -> None:
    """Registers and memories start at random, then the reset that a board has; what is asserted holds only after it."""
    for seed in range(1, 5):
        machine = Machine(verilog_of(TINY, assertions=False), TINY, random_start=seed)
        with Device(SimulatedTransport(machine)) as device:
            machine.set_back_pressure(0.3 * (seed % 2), seed=seed)
            run_new(device, 200 + seed, 20)
            check_faults(device, 250 + seed, rounds=1)


@pytest.mark.slow
def test_bus_models_of_others_making() -> None:
    """In Icarus, with X in every register and memory word until the reset: none may reach a port that is valid."""
    cosimulate(
        component=Spatten(config=TINY),
        verilog=verilog_of(TINY),
        top="spatten",
        test_module="tests.hw.cocotb_spatten",
        simulator="icarus",
        parameters={"config": dataclasses.asdict(TINY), "jobs": 8},
        strip_initial=True,
        seed=1,
        timeout_seconds=900,
    )


@pytest.mark.slow
def test_no_latch_no_loop_and_one_driver_each(tmp_path: Path) -> None:
    """By Yosys, flat: Verilator looks for loops only when it compiles."""
    (tmp_path / "unit.v").write_text(verilog_of(TINY, assertions=False), encoding="utf-8")
    no_latch = "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr"
    flat = ["hierarchy -check -top spatten", "proc -noopt", "flatten", "opt_clean"]
    run_script(["read_verilog unit.v", *flat, "check -assert", no_latch], tmp_path, "spatten")


def test_differences_are_found(device: Device) -> None:
    """A wrong count, one wrong bit in memory, a wrong report, and a write where none is allowed."""
    campaign, tasks = make(TINY, 2, 3)
    tasks[1].counters["topk_passes"] += 1
    with pytest.raises(DifferenceError, match="counter topk_passes grew by"):
        run_campaign(device, campaign, tasks)
    tasks[1].counters["topk_passes"] -= 1
    run_campaign(device, campaign, tasks)
    wrong = bytearray(device.transport.read_memory(1, 0, 1))
    wrong[0] ^= 1
    device.transport.write_memory(1, 0, wrong)
    with pytest.raises(DifferenceError, match=r"channel 1: sectors \[0\] of 1 differ"):
        compare_memory(device, campaign, tasks)
    device.soft_reset()
    fill(device, campaign)
    machine_of(device).allow_writes([])
    submit(device, tasks)
    report = device.wait(tasks[0].tag)
    tasks[0].report["rows"] += 1
    with pytest.raises(DifferenceError, match="rows is"):
        compare(report, tasks[0])
    assert machine_of(device).outside().bytes > 0


# -- Directed jobs ----------------------------------------------------------------------------------------------------

CORNERS: dict[str, dict[str, Any]] = {
    "one token": {"keys": 1, "queries": 1, "query_offset": 0, "valid_length": None, "keep_tokens": None}
    | {"keep_values": None},
    "one head": {"heads": 1, "keep_heads": None},
    "keep all": {"keys": 16, "keep_tokens": 16, "heads": 4, "keep_heads": 4},
    "keep one": {"keep_tokens": 1, "keep_heads": 1},
    "keep one value": {"mode": Mode.GENERATION, "keep_values": 1},
    "keep all values": {"mode": Mode.GENERATION, "keep_values": 16, "keys": 16},
    "every row flat": {"mode": Mode.GENERATION, "key_fetch": KeyFetch.PROGRESSIVE, "flat_limit": 0},
    "no row flat": {"mode": Mode.GENERATION, "key_fetch": KeyFetch.PROGRESSIVE, "flat_limit": 0xFFFF},
    "buffers full": {"keys": 16, "queries": 16, "query_offset": 0, "heads": 4, "head_dim": 32, "query_bits": 12}
    | {"key_bits": 12, "value_bits": 12, "key_fetch": KeyFetch.STATIC, "mode": Mode.CAUSAL, "valid_length": None}
    | {"keep_values": None},
    "buffers full, joined": {"keys": 16, "queries": 16, "query_offset": 0, "heads": 4, "head_dim": 32}
    | {"key_bits": 12 + LSB_BITS, "value_bits": 12, "key_fetch": KeyFetch.JOINED, "mode": Mode.SUMMARIZATION}
    | {"valid_length": None, "keep_values": None},
    "buffers full, every row again": {"keys": 16, "heads": 4, "head_dim": 32, "key_bits": 12 + LSB_BITS}
    | {"mode": Mode.GENERATION, "value_bits": 12, "key_fetch": KeyFetch.PROGRESSIVE, "flat_limit": 0}
    | {"valid_length": None, "clear": True},
    "aged away": {"age_shift": 31, "clear": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize("name", CORNERS)
def test_corners(device: Device, name: str, stall: float) -> None:
    machine_of(device).set_back_pressure(stall, seed=3)
    wanted = dict(CORNERS[name])
    if wanted.get("clear") is False:
        wanted.pop("clear")
    campaign, tasks = make(TINY, 300, 40, sectors=SECTORS, **wanted)
    if name == "every row flat":
        assert all(task.result.flat.all() for task in tasks)
    if name == "no row flat":
        assert not any(task.result.flat.any() for task in tasks)
    run_campaign(device, campaign, tasks)


def formats(config: Config) -> Iterator[dict[str, Any]]:
    """Every mode, head dimension, way to fetch keys, and widths."""
    for mode, fetch, head_dim in itertools.product(Mode, KeyFetch, config.head_dims):
        if fetch is KeyFetch.PROGRESSIVE and mode is not Mode.GENERATION:
            continue
        extra = 0 if fetch is KeyFetch.STATIC else LSB_BITS
        for query, key, value in itertools.product(config.query_bits, config.plane_bits, config.plane_bits):
            yield {"mode": mode, "key_fetch": fetch, "head_dim": head_dim, "query_bits": query} | {
                "key_bits": key + extra, "value_bits": value,
            }  # fmt: skip


@pytest.mark.slow
def test_every_mode_with_every_format_and_head_dimension(device: Device) -> None:
    everything = list(formats(TINY))
    assert len(everything) == 7 * 2 * 5**3
    for start in range(0, len(everything), 125):
        campaign = Campaign(TINY, start + 1, sectors=SECTORS)
        run_campaign(device, campaign, [campaign.task(**wanted) for wanted in everything[start : start + 125]])


@pytest.mark.slow
def test_accumulators_near_their_worst_case(device: Device) -> None:
    """All codes at an end of their range: the largest scores, outputs that saturate, the largest importance."""
    campaign = Campaign(TINY, 400, sectors=SECTORS)
    tasks = []
    store = campaign.memory.store
    try:
        for query_low, key_low, value_low in itertools.product([True, False], repeat=3):
            for mode, prune in itertools.product(Mode, [None, 16]):
                lows = iter([query_low, key_low, value_low])

                def extreme(plane: Any, codes: Any, lows: Iterator[bool] = lows) -> None:
                    ends = {True: -(1 << plane.bits - 1), False: (1 << plane.bits - 1) - 1}
                    store(plane, np.full_like(codes, ends[next(lows)]))

                campaign.memory.store = extreme  # type: ignore[method-assign]
                wanted = {"keys": 16, "queries": 1 if mode is Mode.GENERATION else 16, "query_offset": 0, "heads": 4}
                wanted |= {"head_dim": 32, "query_bits": 12, "key_bits": 12, "value_bits": 12, "mode": mode}
                wanted |= {"key_fetch": KeyFetch.STATIC, "valid_length": None, "keep_tokens": prune, "accumulate": True}
                wanted |= {
                    "importance_multiplier": 1 << 15,
                    "score_scales": (ScoreScale(mantissa=0xFFFF, shift=4),) * 4,
                }
                tasks.append(campaign.task(**wanted))
    finally:
        campaign.memory.store = store  # type: ignore[method-assign]
    assert any(task.result.output_saturated for task in tasks) or all(
        abs(task.result.output).max() in (2047, 2048) for task in tasks
    )
    run_campaign(device, campaign, tasks)


def loading_beside_another(seeds: Iterator[int]) -> tuple[Campaign, list[Task]]:
    """Two jobs of different contexts, and one of the first's that loads a state in which heads were pruned."""
    for seed in seeds:
        campaign = Campaign(TINY, seed, sectors=FEW_SECTORS)
        everything = {"keys": TINY.tokens_max, "heads": TINY.heads_max, "valid_length": None}
        tasks = [campaign.task(**everything, queries=1, query_offset=0) for _ in range(3)]
        first, other, loads = tasks
        flags = {flag for flag in Flag if loads.fields["flags"] >> flag & 1}
        if first.context == loads.context != other.context and Flag.LOAD_STATE in flags and Flag.RESTART not in flags:
            print(f"campaign of seed {seed}")
            return campaign, tasks
    raise AssertionError("no such jobs")


@pytest.mark.slow
def test_a_state_is_loaded_whatever_happens_meanwhile(device: Device) -> None:
    """The job that loads comes in every cycle of another's."""
    campaign, (first, other, loads) = loading_beside_another(itertools.count(800))
    machine = machine_of(device)
    machine.set_memory(model="ideal", latency=1, write_latency=1)
    for delay in range(400):
        fill(device, campaign)
        submit(device, [first])
        compare(device.wait(first.tag), first)
        # Nothing is answered until the other's descriptor is written.
        for channel in range(TINY.channels):
            machine.stop_channel(channel)
        submit(device, [other])
        device.write_descriptor(loads.fields)
        for channel in range(TINY.channels):
            machine.resume_channel(channel)
        machine.run(delay)
        assert ring(device) is None
        device._waiting.append(loads.tag)
        for task in (other, loads):
            compare(device.wait(task.tag), task)
        compare_memory(device, campaign, [first, other, loads])


@pytest.mark.slow
def test_sector_0_follows_the_last_one(device: Device) -> None:
    """The same jobs with all of their memory moved such that it ends in the middle of something else each time."""
    campaign, tasks = make(TINY, 402, 12)
    limit = 1 << TINY.sector_bits
    addresses = ("query", "key", "key_lsb", "value", "output", "has_kv", "pinned", "state")
    for end in range(0, campaign._next, campaign._next // 40):
        shift = (limit - end) // TINY.channels * TINY.channels

        def moved(image: Any, rows: int = shift // TINY.channels) -> Any:
            space = np.zeros((TINY.channels, limit // TINY.channels, SECTOR_BYTES), np.uint8)
            space[:, : image.shape[1]] = image
            return np.roll(space, rows, axis=1)

        for channel, image in enumerate(moved(campaign.initial)):
            device.transport.write_memory(channel, 0, image.tobytes())
        for task in tasks:
            device.submit_fields(task.fields | {name: (task.fields[name] + shift) % limit for name in addresses})
        for task in tasks:
            compare(device.wait(task.tag), task)
        for channel, wanted in enumerate(moved(campaign.memory.bytes)):
            image = np.frombuffer(device.transport.read_memory(channel, 0, wanted.size), np.uint8)
            assert np.array_equal(image, wanted.ravel()), f"channel {channel}, moved by {shift} sectors"


# -- Registers --------------------------------------------------------------------------------------------------------


def page_of_registers(config: Config) -> Iterator[tuple[str, int, str, int, int]]:
    """Of every register in docs/registers.md: name, offset, access, reset value, and the bits of its fields."""
    found: dict[str, list[Any]] = {}
    for line in markdown(config).splitlines():
        row = re.match(
            r"\| (?:`0x(\w+)` \| (\w+)(?: to JOB(\d+))? \| (\w+) \| `?(\w+)`?|\| \| \|) \| ([\d:]*) ?\|", line
        )
        if row is None:
            continue
        offset, name, last, access, reset, bits = row.groups()
        if name is not None:
            count = int(last) - int(name.removeprefix("JOB")) + 1 if last else 1
            names = [f"JOB{int(name.removeprefix('JOB')) + n}" for n in range(count)] if last else [name]
            for number, one in enumerate(names):
                found[one] = [int(offset, 16) + 4 * number, access, int(reset, 0), 0]
        if bits:
            high, _, low = bits.partition(":")
            found[next(reversed(found))][3] |= (2 << int(high)) - (1 << int(low or high))
    for name, (place, access, reset, mask) in found.items():
        yield name, place, access, reset, mask


def test_every_register_is_as_its_page_says(device: Device) -> None:
    page = list(page_of_registers(TINY))
    assert [(name, offset) for name, offset, *_ in page] == [(r.name, r.offset) for r in device.map.values()]
    device.transport.reset()
    read, write = device.transport.read_register, device.transport.write_register
    for name, offset, access, reset, mask in page:
        if not name.startswith("CYCLES"):
            assert read(offset) == reset, name
        if access == "RO":
            with pytest.raises(BusError):
                write(offset, 0)
        if access == "RW":
            for value in (0xFFFF_FFFF, 0x5A5A_5A5A, 0xA5A5_A5A5, reset):
                write(offset, value)
                assert read(offset) == value & mask, name
        if access == "WO":
            assert read(offset) == 0, name
    assert device.status()["idle"], "no such access has another effect"


def settings_of(device: Device) -> dict[str, int]:
    """What the registers hold that can be written and read back, the descriptor's words aside."""
    return {
        name: device._read(name)
        for name, register in device.map.items()
        if register.access is Access.RW and not name.startswith("JOB")
    }


def test_jobs_with_every_writable_register_away_from_its_reset_value(device: Device) -> None:
    """Driver, registers and golden model agree field by field; a soft reset keeps it all, a reset gets it back.

    A register that is new in the map fails this test until the driver has a way to set it.
    """
    bases = (0x12_3456_7000, 0xFF_FFF0_0000)
    device.set_bases(bases)
    device.set_timeout(123_457)
    device.enable_interrupts(done=True, error=True)
    settings = settings_of(device)
    for name, value in settings.items():
        for field in device.map[name].fields:
            assert device.map[name].unpack(value)[field.name] != field.reset, (
                f"the driver does not set {name}.{field.name}"
            )
    assert [settings[f"BASE{channel}"] << 12 for channel in range(2)] == list(device.bases) == list(bases)
    assert settings["TIMEOUT"] == device.timeout == 123_457

    campaign, tasks = make(TINY, 670, 40, sectors=SECTORS)
    fill(device, campaign)
    machine_of(device).allow_writes(written_regions(device, tasks))
    changed: set[str] = set()
    for task in tasks:
        device.submit_fields(task.fields)
        for field in job_fields(TINY):
            value = device.map[f"JOB{field.word}"].unpack(device._read(f"JOB{field.word}"))[field.name]
            assert value == task.fields[field.name], field.name
            if value:
                changed.add(field.name)
        compare(device.wait(task.tag), task)
    assert changed == {field.name for field in job_fields(TINY)}, "every field of the descriptor was not zero once"
    assert machine_of(device).outside().bytes == 0
    compare_memory(device, campaign, tasks)
    assert settings_of(device) == settings

    words = [device._read(f"JOB{number}") for number in range(JOB_WORDS)]
    device.soft_reset()
    assert settings_of(device) == settings
    assert [device._read(f"JOB{number}") for number in range(JOB_WORDS)] == words
    run_campaign(device, *make(TINY, 671, 5))
    device.reset()
    assert settings_of(device) == settings
    assert not any(device._read(f"JOB{number}") for number in range(JOB_WORDS))
    run_campaign(device, *make(TINY, 672, 5))


@pytest.mark.parametrize(("done", "error"), list(itertools.product([False, True], repeat=2)))
def test_interrupts_are_those_that_are_enabled(device: Device, done: bool, error: bool) -> None:
    """And without them jobs and failures are noticed all the same."""
    machine = machine_of(device)
    device.enable_interrupts(done=done, error=error)
    campaign, task, fields = nothing_live("padding")
    fill(device, campaign)
    submit(device, [task])
    machine.run(20_000)
    assert device.status()["reports"] == 1
    assert machine.interrupt == done
    compare(device.wait(task.tag), task)
    assert not machine.interrupt
    device.submit_fields(fields)
    machine.run(2_000)
    assert device.status()["failed"]
    assert machine.interrupt == error
    with pytest.raises(DeviceFailedError):
        device.wait(task.tag)
    check_idle(device)
    run_campaign(device, *make(TINY, 673, 6))


def test_a_driver_takes_over_what_another_has_left(device: Device) -> None:
    """Jobs, reports that wait and an error; and where its memory lies."""
    machine = machine_of(device)
    move(device, np.random.default_rng(1))
    for kind in ("running", "reports", "failed"):
        campaign, task, fields = nothing_live("padding")
        fill(device, campaign)
        submit(device, [task])
        if kind == "failed":
            device.submit_fields(fields | {"tag": 99})
        machine.run(200 if kind == "running" else 20_000)
        next_one = Device(device.transport)
        check_idle(next_one)
        assert next_one.bases == device.bases
        run_campaign(next_one, *make(TINY, 674, 5))
        device.reset()


# -- What is refused, and what goes wrong -----------------------------------------------------------------------------


def write_words(device: Device, words: list[int]) -> None:
    """Write a descriptor, whatever the driver thinks of it."""
    for number, word in enumerate(words):
        device._write(f"JOB{number}", word)
    device._words.clear()


def test_every_descriptor_that_is_refused_says_why_and_does_nothing(device: Device) -> None:
    check_refusals(device)
    run_new(device, 500, 10)


def check_refusals(device: Device) -> None:
    """The driver is told why; what has an effect nevertheless would be seen in the jobs afterwards."""
    machine_of(device).allow_writes([])
    seen = set()
    for reason, word, words in job_descriptors.spoilt(device.config, Random(5)):
        write_words(device, words)
        device.write_descriptor = lambda values: None  # type: ignore[method-assign]
        with pytest.raises(JobRejectedError) as caught:
            device.submit_fields({"tag": 0})
        assert (caught.value.reason, caught.value.word) == (reason, word)
        seen.add(reason)
    del device.write_descriptor
    write_words(device, [0] * JOB_WORDS)
    assert device.status()["idle"]
    assert machine_of(device).outside().bytes == 0
    assert seen == job_descriptors.possible_reasons(device.config) - {RejectReason.VERSION}


def ring(device: Device, value: int = DESCRIPTOR_VERSION) -> JobRejectedError | None:
    """Ring the doorbell; why it was refused."""
    try:
        device._write("DOORBELL", value)
    except BusError:
        reject = device.map["REJECT"].unpack(device._read("REJECT"))
        return JobRejectedError(RejectReason(reject["reason"]), reject["word"])
    return None


def refused(device: Device) -> RejectReason | None:
    error = ring(device)
    return None if error is None else error.reason


def test_a_full_queue_refuses_jobs_and_runs_those_it_has(device: Device) -> None:
    campaign, tasks = make(TINY, 501, 12)
    fill(device, campaign)
    machine = machine_of(device)
    # Nothing is answered, so that the queue fills.
    for channel in range(TINY.channels):
        machine.stop_channel(channel)
    queued = 0
    for task in tasks:
        device.write_descriptor(task.fields)
        reason = refused(device)
        if reason is not None:
            break
        device._waiting.append(task.tag)
        queued += 1
    assert reason is RejectReason.QUEUE_FULL
    assert device.status()["queue_free"] == 0
    assert 4 <= queued <= 4 + TINY.jobs_in_flight
    wrong = ring(device, DESCRIPTOR_VERSION + 1)
    assert wrong is not None
    assert wrong.reason is RejectReason.VERSION
    for channel in range(TINY.channels):
        machine.resume_channel(channel)
    for task in tasks[:queued]:
        compare(device.wait(task.tag, timeout_cycles=200_000), task)
    submit(device, tasks[queued:])
    for task in tasks[queued:]:
        compare(device.wait(task.tag, timeout_cycles=200_000), task)
    compare_memory(device, campaign, tasks)


def until_failure(device: Device, tasks: list[Task]) -> DeviceFailedError | None:
    """Run tasks to their end, or to the failure."""
    try:
        submit(device, tasks)
        for task in tasks:
            compare(device.wait(task.tag, timeout_cycles=400_000), task)
    except DeviceFailedError as error:
        return error
    return None


def check_idle(device: Device) -> None:
    """As after a reset: nothing under way, nothing reported."""
    status = device.status()
    assert status == {"idle": 1, "busy": 0, "draining": 0, "failed": 0, "queue_free": 4, "reports": 0}
    assert device._read("ERROR") == 0
    assert device._read("CHANNELS_STUCK") == 0
    assert not machine_of(device).interrupt


class Faulty:
    """Tasks that have run without a fault, so that one can be planned for any of their beats and cycles."""

    def __init__(self, device: Device, seed: int, count: int = 3, **wanted: Any) -> None:
        self.device = device
        self.machine = machine_of(device)
        self.random = np.random.default_rng(seed)
        self.campaign, self.tasks = make(device.config, seed, count, **wanted)
        self.seed = seed
        self.next = 0
        self.after = 3
        """Jobs that must be right after each fault."""
        self.machine.statistics(clear=True)
        start = self.machine.cycles
        run_campaign(device, self.campaign, self.tasks)
        self.cycles = self.machine.cycles - start
        self.beats = {
            (channel, is_write): statistics.write_beats if is_write else statistics.read_beats
            for channel, statistics in enumerate(self.machine.statistics())
            for is_write in (False, True)
        }

    def prepare(self) -> None:
        """Memory as before the tasks, which begin with contexts that they clear."""
        self.device.soft_reset()
        check_idle(self.device)
        fill(self.device, self.campaign)
        self.machine.allow_writes(written_regions(self.device, self.tasks))

    def recovered(self) -> None:
        """Nothing was written elsewhere, and whatever comes next is right."""
        check_idle(self.device)
        assert self.machine.outside().bytes == 0
        self.next += 1
        run_campaign(self.device, *make(self.device.config, 1000 * self.seed + self.next, self.after))

    def bus_error(self, channel: int, is_write: bool, beat: int, response: str) -> None:
        """Answer a beat with an error."""
        self.prepare()
        self.machine.inject(channel, beat=beat, response=response, write=is_write)
        error = until_failure(self.device, self.tasks)
        assert error is not None, f"channel {channel}, write {is_write}, beat {beat}: no failure"
        assert error.code is {"SLVERR": ErrorCode.SLAVE_ERROR, "DECERR": ErrorCode.DECODE_ERROR}[response]
        assert error.channel == channel
        assert error.stuck == []
        self.recovered()

    def random_bus_error(self) -> None:
        keys = [key for key, beats in self.beats.items() if beats]
        channel, is_write = keys[int(self.random.integers(len(keys)))]
        beat = int(self.random.integers(self.beats[channel, is_write]))
        self.bus_error(channel, is_write, beat, str(self.random.choice(["SLVERR", "DECERR"])))

    def silence(self, channel: int, cycle: int, *, both_sides: bool, **how: bool) -> bool:
        """A channel does not answer from a cycle on; whether that was noticed."""
        self.prepare()
        self.device.set_timeout(TIMEOUT)
        self.machine.stop_channel(channel, cycle=self.machine.cycles + cycle, **how)
        error = until_failure(self.device, self.tasks)
        if error is not None:
            assert error.code is ErrorCode.TIMEOUT
            assert error.channel is None
            assert error.stuck == [channel]
            # It is still draining: no job is taken.
            assert self.device.status()["draining"]
            assert refused(self.device) is RejectReason.DRAINING
        if both_sides:
            self.device.reset()
        else:
            self.machine.resume_channel(channel)
            # What is in flight is answered, and that is all.
            self.device.soft_reset()
        self.recovered()
        return error is not None

    def random_silence(self) -> bool:
        random = self.random
        reads, writes = ((True, True), (True, False), (False, True))[int(random.integers(3))]
        return self.silence(
            int(random.integers(self.device.config.channels)),
            int(random.integers(self.cycles)),
            both_sides=bool(random.integers(2)),
            reads=reads,
            writes=writes,
            accept=bool(random.integers(2)),
        )

    def pause(self) -> None:
        """A channel does not answer for a while that is shorter than the time-out: nothing is lost."""
        self.prepare()
        self.device.set_timeout(TIMEOUT)
        begin = self.machine.cycles + int(self.random.integers(self.cycles))
        channel = int(self.random.integers(self.device.config.channels))
        self.machine.stop_channel(channel, cycle=begin, until=begin + TIMEOUT // 2)
        assert until_failure(self.device, self.tasks) is None
        compare_memory(self.device, self.campaign, self.tasks)
        self.recovered()

    def soft_reset(self, cycle: int) -> None:
        """In the middle of everything."""
        self.prepare()
        submit(self.device, self.tasks[:2])
        self.machine.run(cycle)
        self.device.soft_reset()
        self.recovered()

    def hard_reset(self, cycle: int) -> None:
        """The same of both sides."""
        self.prepare()
        submit(self.device, self.tasks[:2])
        self.machine.run(cycle)
        self.device.reset()
        self.recovered()


def check_faults(device: Device, seed: int, rounds: int = 3) -> None:
    """Some of every kind at random."""
    faulty = Faulty(device, seed)
    for _ in range(rounds):
        faulty.random_bus_error()
        faulty.soft_reset(int(faulty.random.integers(faulty.cycles)))
        faulty.hard_reset(int(faulty.random.integers(faulty.cycles)))
        faulty.random_silence()
        faulty.pause()
    device.reset()


def test_some_faults(device: Device) -> None:
    check_faults(device, 600)


@pytest.mark.slow
@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: "-".join(map(str, memory.values())))
def test_faults_at_random(device: Device, memory: dict[str, Any], stall: float) -> None:
    machine_of(device).set_memory(**memory)
    machine_of(device).set_back_pressure(stall, seed=9, registers=True)
    for seed in range(610, 613):
        check_faults(device, seed, rounds=6)


@pytest.mark.slow
@pytest.mark.parametrize("response", ["SLVERR", "DECERR"])
def test_an_error_on_every_beat(device: Device, response: str) -> None:
    wanted = {"mode": Mode.GENERATION, "key_fetch": KeyFetch.PROGRESSIVE, "keys": 9, "heads": 2, "flat_limit": 0}
    faulty = Faulty(device, 620, 1, **wanted)
    assert all(faulty.beats.values())
    faulty.after = 1
    for (channel, is_write), beats in faulty.beats.items():
        for beat in range(beats):
            faulty.bus_error(channel, is_write, beat, response)


@pytest.mark.slow
@pytest.mark.parametrize("both_sides", [False, True])
def test_silence_at_random_cycles(device: Device, both_sides: bool) -> None:
    """Whatever a channel stops to do; most are noticed, since the rest of the job needs it."""
    faulty = Faulty(device, 630)
    noticed = 0
    ways = [
        {"reads": reads, "writes": writes, "accept": accept}
        for reads, writes, accept in itertools.product([False, True], repeat=3)
        if reads or writes
    ]
    for how in ways * 4:
        cycle = int(faulty.random.integers(faulty.cycles // 2))
        noticed += faulty.silence(int(faulty.random.integers(2)), cycle, both_sides=both_sides, **how)
    assert noticed > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Faulty.soft_reset, Faulty.hard_reset])
def test_a_reset_in_every_cycle(device: Device, kind: Callable[[Faulty, int], None]) -> None:
    faulty = Faulty(device, 640, 1, keys=5, heads=2)
    faulty.after = 1
    print(f"{faulty.cycles} cycles")
    for cycle in range(faulty.cycles):
        kind(faulty, cycle)


def test_reports_do_not_outlive_a_soft_reset(device: Device) -> None:
    """A report that was not taken is not a later job's of the same tag."""
    campaign, tasks = make(TINY, 650, 2)
    fill(device, campaign)
    submit(device, tasks)
    machine_of(device).run(20_000)
    assert device.status()["reports"] == 2
    device.soft_reset()
    check_idle(device)
    run_campaign(device, campaign, tasks)


def test_a_reset_that_cannot_drain_names_the_channels(device: Device) -> None:
    campaign, tasks = make(TINY, 651, 1)
    fill(device, campaign)
    device.set_timeout(TIMEOUT)
    machine_of(device).stop_channel(1)
    submit(device, tasks)
    machine_of(device).run(1_000)
    with pytest.raises(DeviceTimeoutError, match=r"does not drain; channels \[1\] do not answer"):
        device.soft_reset()
    device.reset()
    check_idle(device)
    run_campaign(device, *make(TINY, 652, 3))


def test_a_drain_has_an_end_without_a_time_out(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """No channel is ever named then."""
    monkeypatch.setattr(protocol, "DRAIN_CYCLES", 30_000)
    device.set_timeout(0)
    machine = machine_of(device)
    campaign, tasks = make(TINY, 653, 1)
    fill(device, campaign)
    machine.stop_channel(1)
    submit(device, tasks)
    machine.run(1_000)
    begin = machine.cycles
    with pytest.raises(DeviceTimeoutError, match="the accelerator does not drain; no channel is named, since TIMEOUT"):
        device.soft_reset()
    assert 30_000 <= machine.cycles - begin < 31_000
    with pytest.raises(DeviceTimeoutError, match="the accelerator does not drain; "):
        submit(device, tasks)
    machine.resume_channel(1)
    run_campaign(device, *make(TINY, 654, 3))


def nothing_live(kind: str) -> tuple[Campaign, Task, dict[str, int]]:
    """A task, and its descriptor changed so that it has nothing to do."""
    wanted: dict[str, Any] = {
        "clear": True,
        "keys": 8,
        "queries": 1,
        "query_offset": 7,
        "mode": Mode.CAUSAL,
        "heads": 2,
    }
    wanted |= {"valid_length": None, "keep_tokens": None, "keep_heads": None, "keep_values": None}
    wanted["key_fetch"], wanted["key_bits"] = KeyFetch.STATIC, 8
    campaign = Campaign(TINY, 660, sectors=FEW_SECTORS)
    task = campaign.task(**wanted)
    fields = dict(task.fields)
    empty = campaign._allocate(1)
    bitmap = {"no token": 0, "no row": 0x7F, "padding": 0xFF}[kind]
    for image in (campaign.initial, campaign.memory.bytes):
        image[empty % TINY.channels, empty // TINY.channels] = [bitmap] + [0] * 31
    fields["has_kv"] = empty
    fields["flags"] |= 1 << Flag.HAS_KV
    if kind == "padding":
        # Known without a look at memory.
        fields["flags"] &= ~(1 << Flag.HAS_KV)
        fields["valid_length"] = 7
    return campaign, task, fields


@pytest.mark.parametrize("kind", ["no token", "no row", "padding"])
def test_a_job_with_nothing_live_is_an_error(device: Device, kind: str) -> None:
    campaign, task, fields = nothing_live(kind)
    fill(device, campaign)
    machine_of(device).allow_writes([])
    device.submit_fields(fields)
    with pytest.raises(DeviceFailedError) as caught:
        device.wait(task.tag, timeout_cycles=100_000)
    assert caught.value.code is ErrorCode.NOTHING_LIVE
    assert caught.value.channel is None
    check_idle(device)
    assert machine_of(device).outside().bytes == 0
    run_campaign(device, campaign, [task])


def test_a_job_whose_heads_were_all_pruned_is_an_error(device: Device) -> None:
    campaign = Campaign(TINY, 661, sectors=FEW_SECTORS)
    wanted = {"clear": True, "heads": 4, "keep_heads": 1}
    task = campaign.task(**wanted)
    fill(device, campaign)
    submit(device, [task])
    compare(device.wait(task.tag), task)
    kept = task.report["kept_heads"]
    again = {**task.fields, "head_mask": 0xF & ~kept, "tag": 99}
    again["flags"] &= ~(1 << Flag.CLEAR | 1 << Flag.RESTART)
    device.submit_fields(again)
    with pytest.raises(DeviceFailedError) as caught:
        device.wait(99, timeout_cycles=100_000)
    assert caught.value.code is ErrorCode.NOTHING_LIVE
    check_idle(device)
    run_campaign(device, *make(TINY, 662, 3))


def test_a_failure_refuses_jobs_until_it_is_cleared(device: Device) -> None:
    campaign, task, fields = nothing_live("padding")
    fill(device, campaign)
    device.write_descriptor(fields)
    assert refused(device) is None
    machine_of(device).run(1_000)
    assert device.status()["failed"]
    assert machine_of(device).interrupt
    device.write_descriptor(task.fields)
    assert refused(device) is RejectReason.FAILED
    device._write("ERROR", 0xFFFF_FFFF)
    check_idle(device)
    run_campaign(device, campaign, [task])
