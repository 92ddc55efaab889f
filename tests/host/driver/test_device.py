"""The driver on an accelerator that is only registers and memory: layout, jobs, reports, and all that can fail."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spatten.golden.cascade import Context
from spatten.golden.memory import Memory, OutputRegion
from spatten.golden.state import state_sectors
from spatten.host.driver.contexts import Contexts
from spatten.host.driver.device import Device
from spatten.host.driver.encoding import Report, descriptor
from spatten.host.driver.errors import (
    AddressRangeError,
    DeviceError,
    DeviceFailedError,
    DeviceTimeoutError,
    JobRejectedError,
    OutOfMemoryError,
)
from spatten.host.driver.protocol import DRAIN_CYCLES, Protocol
from spatten.host.driver.transport import BusError, Transport, TransportTimeoutError
from spatten.spec.config import PAPER, SECTOR_BYTES, TINY, Config
from spatten.spec.job import Addresses, Flag, Job, KeyFetch, Mode, ScoreScale
from spatten.spec.register_map import NO_WORD, TIMEOUT_RESET, ErrorCode, RegisterMap, RejectReason
from spatten.spec.version import DESCRIPTOR_VERSION


class Fake(Transport):
    """Answers as the register bank does. A job is done when the interrupt is waited for, unless `hangs`.

    The memory of each channel begins at an `origin` of its own.
    """

    def __init__(self, config: Config = TINY, origin: tuple[int, ...] | None = None) -> None:
        self.config = config
        self.origin = origin or (0,) * config.channels
        self.map = RegisterMap(config)
        self.names = {register.offset: name for name, register in self.map.items()}
        self.values = {name: register.reset for name, register in self.map.items()}
        self.memory = [bytearray(1 << 16) for _ in range(config.channels)]
        self.queue: deque[int] = deque()
        self.reports: deque[int] = deque()
        self.writes: list[tuple[str, int]] = []
        self.reject: tuple[RejectReason, int] | None = None
        self.hangs = False
        self.draining = 0
        """Reads of STATUS that still say so."""
        self.closed = 0
        self.waits: list[int] = []
        """Cycles of every wait for an interrupt."""
        self.broken: str | None = None
        """The register to which a write has its effect and is not answered."""

    @property
    def channels(self) -> int:
        return self.config.channels

    def fail(self, code: ErrorCode, channel: int = 0, stuck: int = 0) -> None:
        self.values["ERROR"] = self.map["ERROR"].pack(code=code, channel=channel, valid=1)
        self.values["CHANNELS_STUCK"] = stuck
        self.queue.clear()

    def read_register(self, address: int) -> int:
        name = self.names[address]
        if name == "STATUS":
            self.draining = max(0, self.draining - 1)
            return self.map[name].pack(
                idle=not self.queue and not self.draining,
                draining=self.draining > 0,
                failed=self.values["ERROR"] != 0,
                queue_free=4 - len(self.queue),
                reports=len(self.reports),
            )
        for register in self.map.reports:
            if register.name == name:
                known = {"tag": self.reports[0], "live_heads": 0b101, "rows": 7}
                return register.pack(**{f.name: known[f.name] for f in register.fields if f.name in known})
        return self.values[name]

    def write_register(self, address: int, value: int) -> None:
        name = self.names[address]
        self.writes.append((name, value))
        if name == "DOORBELL":
            assert value == DESCRIPTOR_VERSION
            if self.reject is not None or self.values["ERROR"]:
                reason, word = self.reject or (RejectReason.FAILED, NO_WORD)
                self.values["REJECT"] = self.map["REJECT"].pack(reason=reason, word=word)
                raise BusError("SLVERR")
            assert len(self.queue) < 4
            self.queue.append(self.values["JOB0"] & 0xFFFF)
            self.values["REJECT"] = 0
        elif name == "REPORT_POP":
            self.reports.popleft()
        elif name == "ERROR":
            self.values[name] = 0
        else:
            if name == "CONTROL" and self.map[name].unpack(value)["soft_reset"]:
                self.queue.clear()
            self.values[name] = value
        if name == self.broken:
            raise TransportTimeoutError(f"{name} was not answered")

    def _place(self, channel: int, address: int, size: int) -> slice:
        local = address - self.origin[channel]
        assert 0 <= local <= len(self.memory[channel]) - size
        return slice(local, local + size)

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        return bytes(self.memory[channel][self._place(channel, address, size)])

    def write_memory(self, channel: int, address: int, data: Any) -> None:
        self.memory[channel][self._place(channel, address, len(data))] = data

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        self.waits.append(timeout_cycles)
        if self.hangs or not self.queue:
            return bool(self.reports and self.values["INTERRUPT_ENABLE"])
        self.reports.append(self.queue.popleft())
        return self.values["INTERRUPT_ENABLE"] != 0

    def reset(self) -> None:
        self.queue.clear()
        self.reports.clear()
        self.values = {name: register.reset for name, register in self.map.items()}

    def close(self) -> None:
        self.closed += 1

    def golden(self) -> Memory:
        """The memory as the golden model has it."""
        memory = Memory(self.config, self.channels * (1 << 16) // SECTOR_BYTES)
        for channel, image in enumerate(self.memory):
            memory.bytes[channel] = np.frombuffer(image, np.uint8).reshape(-1, SECTOR_BYTES)
        return memory


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def device(fake: Fake) -> Device:
    return Device(fake, sectors=1000)


JOB = Job(
    mode=Mode.SUMMARIZATION, head_dim=16, heads=2, keys=4, queries=4, query_bits=8, key_bits=8, value_bits=8,
    score_scales=(ScoreScale.from_step(0.1), ScoreScale.from_step(0.2)),
)  # fmt: skip
AT = Addresses(query=0, key_msb=20, key_lsb=None, value=40, output=60)
BOTH = np.ones(2, np.bool_)


def submit(device: Device, job: Job = JOB, **more: Any) -> int:
    return device.submit(job, AT, heads=BOTH, context=1, **more)


def every_field(device: Device) -> dict[str, int]:
    return descriptor(device.config, JOB, AT, tag=9, context=0, heads=BOTH)


# -- What it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, PAPER], ids=lambda config: config.name)
def test_the_accelerator_says_what_it_is(config: Config) -> None:
    assert Device(Fake(config)).config == config.replace(name="device")
    assert Device(Fake(config)).sectors == 1 << config.sector_bits


def test_something_else_answers(fake: Fake) -> None:
    fake.values["ID"] = 0x1234
    with pytest.raises(DeviceError, match="not this accelerator: its ID is 0x00001234, not 0x53504154"):
        Device(fake)


def test_another_version_answers(fake: Fake) -> None:
    fake.values["VERSION"] += 1
    with pytest.raises(DeviceError, match=r"versions .*'registers': 2.*; this driver knows .*'registers': 1"):
        Device(fake)


@pytest.mark.parametrize("sectors", [0, 1, (1 << 16) + 1])
def test_sectors_are_checked(fake: Fake, sectors: int) -> None:
    with pytest.raises(ValueError, match=f"sectors must be 2 to 65536, not {sectors}"):
        Device(fake, sectors=sectors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CHANNELS": 3}, "has a configuration that cannot be: channels must be a power of two, not 3"),
        ({"TOKENS_MAX": 0}, "has a configuration that cannot be: tokens_max must be at least 1, not 0"),
        ({"CHANNELS": 64}, r"has a configuration that cannot be: channels must be .*, not 64"),
        ({"CHANNELS": 4}, "the accelerator has 4 channels, and its transport 2"),
    ],
)
def test_what_answers_with_a_configuration_that_cannot_be(fake: Fake, changes: dict[str, int], message: str) -> None:
    fake.values |= changes
    with pytest.raises(DeviceError, match=message):
        Device(fake)


def test_it_closes_its_transport(fake: Fake) -> None:
    with Device(fake) as device:
        assert fake.closed == 0
    assert fake.closed == 1
    device.close()
    assert fake.closed == 1, "closing again does nothing"


def test_nothing_but_giving_memory_back_works_once_it_is_closed(fake: Fake, device: Device) -> None:
    plane = device.plane(rows=4, heads=1, head_dim=32, bits=8)
    region = device.output(queries=4, heads=1, head_dim=32)
    state = device.allocate(state_sectors(device.config))
    none = np.zeros(0, np.int64)
    device.close()
    fake.writes.clear()
    uses: dict[str, Callable[[], object]] = {
        "status": device.status,
        "counters": device.counters,
        "clear_counters": device.clear_counters,
        "stuck_channels": device.stuck_channels,
        "set_bases": lambda: device.set_bases([0, 0]),
        "set_timeout": lambda: device.set_timeout(1),
        "enable_interrupts": device.enable_interrupts,
        "soft_reset": device.soft_reset,
        "reset": device.reset,
        "allocate": lambda: device.allocate(1),
        "plane": lambda: device.plane(rows=1, heads=1, head_dim=32, bits=8),
        "output": lambda: device.output(queries=1, heads=1, head_dim=32),
        "store": lambda: device.store(plane, np.zeros((1, 4, 32), np.int64)),
        "store_bitmap": lambda: device.store_bitmap(state, np.ones(4, np.bool_)),
        "store_state": lambda: device.store_state(state, Context(device.config)),
        "load_output": lambda: device.load_output(region, none, none),
        "load_state": lambda: device.load_state(state),
        "settle": device.settle,
        "store_operations": lambda: device.store_operations(plane, np.zeros((1, 4, 32), np.int64)),
        "bitmap_operations": lambda: device.bitmap_operations(state, np.ones(4, np.bool_)),
        "output_reading": lambda: device.output_reading(region, none, none),
        "kept_reading": lambda: device.kept_reading(state),
        "importance_reading": lambda: device.importance_reading(state),
        "counters_reading": device.counters_reading,
        "run": lambda: device.run(JOB, AT, heads=BOTH, context=1),
        "run_fields": lambda: device.run_fields(every_field(device)),
        "submit": lambda: submit(device),
        "submit_fields": lambda: device.submit_fields({"tag": 1}),
        "write_descriptor": lambda: device.write_descriptor(every_field(device)),
        "wait": lambda: device.wait(0),
        "take_report": device.take_report,
    }
    members = {**vars(Protocol), **vars(Device)}
    public = {name for name, member in members.items() if callable(member) and not name.startswith("_")}
    assert public == uses.keys() | {"free", "close"}
    device._waiting.append(0)
    for name, use in uses.items():
        with pytest.raises(DeviceError) as caught:
            use()
        assert str(caught.value) == "the device is closed", name
    assert not fake.writes
    device.free(plane.base, plane.sectors)


# -- Where channels begin ---------------------------------------------------------------------------------------------

ORIGIN = (0x12_3456_7000, 0xFF_FFF0_0000)
"""Of the two channels of `tiny`; the second's megabyte is the last that can be addressed."""


def pages(fake: Fake) -> tuple[int, ...]:
    """The BASE registers."""
    return tuple(fake.values[f"BASE{channel}"] for channel in range(fake.channels))


def test_all_memory_is_reached_where_the_channels_begin() -> None:
    fake = Fake(origin=ORIGIN)
    device = Device(fake, bases=ORIGIN)
    assert device.bases == ORIGIN
    assert pages(fake) == (0x1234567, 0xFFFFF00)
    plane = device.plane(rows=5, heads=2, head_dim=16, bits=12)
    codes = np.random.default_rng(7).integers(-2048, 2048, (2, 5, 16))
    device.store(plane, codes)
    assert np.array_equal(fake.golden().load(plane, np.arange(5)), codes)
    context = Context(device.config)
    context.token_importance = np.arange(16)
    state = device.allocate(state_sectors(device.config))
    device.store_state(state, context)
    assert np.array_equal(device.load_state(state).token_importance, np.arange(16))


def test_bases_outlive_a_reset() -> None:
    fake = Fake(origin=ORIGIN)
    device = Device(fake, bases=ORIGIN)
    device.set_timeout(77)
    device.enable_interrupts(done=False)
    device.reset()
    assert pages(fake) == (0x1234567, 0xFFFFF00)
    assert (fake.values["TIMEOUT"], fake.values["INTERRUPT_ENABLE"]) == (77, 2)
    assert (device.bases, device.timeout) == (ORIGIN, 77)


def test_bases_and_a_timeout_that_are_there_already_are_taken() -> None:
    """By firmware, or an earlier driver: and after a reset they are there again."""
    fake = Fake(origin=ORIGIN)
    fake.values |= {"BASE0": 0x1234567, "BASE1": 0xFFFFF00, "TIMEOUT": 99}
    device = Device(fake)
    assert (device.bases, device.timeout) == (ORIGIN, 99)
    device.reset()
    assert pages(fake) == (0x1234567, 0xFFFFF00)
    assert fake.values["TIMEOUT"] == 99
    device.store_bitmap(device.allocate(1), np.ones(3, np.bool_))
    assert fake.memory[0][0] == 7


def test_bases_are_checked(fake: Fake) -> None:
    size = 1 << 20
    for bases, message in (
        ([0], "bases must be 2 byte addresses, one of each channel, not 1"),
        ([0, 4096, 8192], "bases must be 2 byte addresses, one of each channel, not 3"),
        ([0, 4097], "bases[1] must be a multiple of 4096 bytes, not 4097"),
        ([-4096, 0], "bases[0] must be 0 to 0xfffff00000, not -0x1000"),
        ([0, (1 << 40) - size + 4096], "bases[1] must be 0 to 0xfffff00000, not 0xfffff01000: the driver may use "
         "1048576 bytes of each channel, and addresses end at 0x10000000000"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)):
            Device(fake, bases=bases)
    with pytest.raises(TypeError):
        Device(fake, bases=[0, 4096.0])  # type: ignore[list-item]
    assert pages(fake) == (0, 0)
    Device(fake, bases=[0, (1 << 40) - size])
    Device(fake, bases=[0, (1 << 40) - 4096], sectors=256)
    fake.values["BASE1"] = 0xFFFFFFF
    with pytest.raises(ValueError, match=r"bases\[1\] must be 0 to 0xfffff00000, not 0xfffffff000"):
        Device(fake)


def test_bases_change_only_while_it_is_idle(fake: Fake, device: Device) -> None:
    tag = submit(device)
    with pytest.raises(DeviceError, match="must be idle while the bases of its channels change"):
        device.set_bases([4096, 0])
    assert (pages(fake), device.bases) == ((0, 0), (0, 0))
    device.wait(tag)
    device.set_bases([4096, 8192])
    assert (pages(fake), device.bases) == ((1, 2), (4096, 8192))


def test_a_time_out_is_checked(device: Device) -> None:
    with pytest.raises(ValueError, match=r"TIMEOUT\.value must be 0 to 4294967295, not -1"):
        device.set_timeout(-1)
    assert device.timeout == 1 << 20


def test_what_an_earlier_driver_left_is_dropped(fake: Fake) -> None:
    earlier = Device(fake)
    first, second = submit(earlier), submit(earlier)
    assert fake.wait_for_interrupt(timeout_cycles=1)
    fake.values["ERROR"] = 1 << 31
    fake.draining = 5
    device = Device(fake)
    assert not fake.queue
    assert not fake.reports
    assert fake.values["ERROR"] == 0
    assert (first, second) == (0, 1)
    assert device.wait(submit(device)).tag == 0


def test_counters(fake: Fake, device: Device) -> None:
    low, high = (register.name for register in fake.map.counter("key_sectors"))
    fake.values[low], fake.values[high] = 0xFFFF_FFF0, 3
    counters = device.counters()
    assert counters["key_sectors"] == 0x3_FFFF_FFF0
    assert counters["busy"] == 0
    device.clear_counters()
    assert fake.writes[-1] == ("CONTROL", fake.map["CONTROL"].pack(clear_counters=1))


# -- Memory -----------------------------------------------------------------------------------------------------------


def test_regions_do_not_overlap_and_begin_at_channel_0(device: Device) -> None:
    taken = [(device.allocate(size), size) for size in (1, 2, 3, 7, 8)]
    assert all(base % 2 == 0 for base, _ in taken)
    assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(taken))


def test_all_memory_can_be_taken_and_not_more(device: Device) -> None:
    assert device.allocate(999) == 0
    with pytest.raises(OutOfMemoryError, match="no room for 2 sectors of 32 bytes: the largest free region has 0"):
        device.allocate(1)
    device.free(0, 999)
    with pytest.raises(OutOfMemoryError, match=r"no room for 1002 sectors .* the largest free region has 1000"):
        device.allocate(1001)
    assert device.allocate(1000) == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0)])
def test_neighbours_that_are_free_are_one_region(device: Device, order: tuple[int, ...]) -> None:
    bases = [device.allocate(size) for size in (99, 200, 301)]
    rest = device.allocate(398)
    for which in order:
        device.free(bases[which], (99, 200, 301)[which])
    assert device.allocate(602) == 0
    device.free(rest, 398)
    assert device.allocate(398) == rest


def test_a_region_is_freed_once_and_as_a_whole(device: Device) -> None:
    first, second = device.allocate(10), device.allocate(20)
    for base, sectors, message in (
        (first + 2, 8, "sector 2 lies inside the region of 10 sectors from sector 0 on: a region is freed as a whole"),
        (first, 8, "the region at sector 0 has 10 sectors, not 8: a region is freed as a whole"),
        (first, 30, "the region at sector 0 has 10 sectors, not 30"),
        (400, 10, "no region is allocated at sector 400: it was freed before, or never allocated"),
        (first, 0, "sectors must be at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            device.free(base, sectors)
    device.free(first, 10)
    with pytest.raises(ValueError, match="no region is allocated at sector 0: it was freed before"):
        device.free(first, 10)
    assert [device.allocate(10), device.allocate(10)] == [first, second + 20], "no memory is had twice"


@pytest.mark.parametrize("sectors", [0, -2])
def test_a_region_has_a_sector(device: Device, sectors: int) -> None:
    with pytest.raises(ValueError, match=f"sectors must be at least 1, not {sectors}"):
        device.allocate(sectors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "rows must be at least 1, not 0"),
        ({"heads": 5}, "heads must be 1 to 4, not 5"),
        ({"head_dim": 64}, r"head_dim must be one of \(16, 32\), not 64"),
        ({"bits": 7}, r"bits must be one of \(4, 6, 8, 10, 12\), not 7"),
    ],
)
def test_planes_are_checked(device: Device, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        device.plane(**{"rows": 4, "heads": 2, "head_dim": 16, "bits": 8} | changes)
    assert device.allocate(1000) == 0, "nothing was taken"


@pytest.mark.parametrize(
    ("codes", "where", "message"),
    [
        (np.zeros((2, 4, 32), np.int64), {}, r"codes must be of shape \(2, 4, 16\) .*, not \(2, 4, 32\)"),
        (np.zeros((1, 4, 16), np.int64), {}, r"codes must be of shape \(2, 4, 16\) .*, not \(1, 4, 16\)"),
        (np.zeros((2, 5, 16), np.int64), {}, "rows must be from 0 to 3, not 4"),
        (np.zeros((4, 16), np.int64), {}, r"codes must be of three dimensions .*, not of shape \(4, 16\)"),
        (np.zeros((2, 4, 16), np.float32), {}, "codes must be integers, not float32"),
        (np.full((2, 4, 16), 256), {}, "codes must be -128 to 127, or 0 to 255 without a sign, not 0 to 256"),
        (np.full((2, 4, 16), -129), {}, "codes must be -128 to 127, .*, not -129 to 0"),
        (np.arange(-1, 127)[:, None].repeat(1, 1).reshape(2, 4, 16) * 2, {}, "codes must be .*, not -2 to 252"),
        (np.zeros((2, 1, 16), np.int64), {"rows": np.array([4])}, "rows must be from 0 to 3, not 4"),
        (np.zeros((2, 1, 16), np.int64), {"rows": np.array([-1])}, "rows must be from 0 to 3, not -1"),
        (np.zeros((2, 2, 16), np.int64), {"rows": np.array([1, 1])}, r"rows must all be different, not \[1, 1\]"),
        (np.zeros((2, 2, 16), np.int64), {"rows": np.array([0.0, 1.0])}, "rows must be a list of numbers, not"),
        (np.zeros((1, 4, 16), np.int64), {"heads": np.array([2])}, "heads must be from 0 to 1, not 2"),
    ],
)
def test_what_is_stored_is_checked(
    fake: Fake, device: Device, codes: np.ndarray, where: dict[str, np.ndarray], message: str
) -> None:
    plane = device.plane(rows=4, heads=2, head_dim=16, bits=8)
    with pytest.raises(ValueError, match=message):
        device.store(plane, codes, **where)
    assert not any(map(any, fake.memory))


def test_codes_without_a_sign_are_those_of_an_lsb_plane(fake: Fake, device: Device) -> None:
    plane = device.plane(rows=1, heads=1, head_dim=16, bits=4)
    device.store(plane, np.arange(16).reshape(1, 1, 16))
    assert np.array_equal(fake.golden().load(plane, np.arange(1), signed=False).ravel(), np.arange(16))


def test_memory_that_is_not_allocated_is_neither_written_nor_read(fake: Fake, device: Device) -> None:
    plane = device.plane(rows=4, heads=2, head_dim=16, bits=8)
    region = device.output(queries=2, heads=2, head_dim=16)
    state = device.allocate(state_sectors(device.config))
    heads, rows = np.arange(2), np.arange(2)
    device.load_output(region, heads, rows)
    with pytest.raises(ValueError, match="must be of one region that is allocated"):
        device.load_output(region, heads, rows + 1)
    with pytest.raises(ValueError, match="heads must be from 0 to 1, not 2"):
        device.load_output(region, heads + 1, rows)
    device.free(plane.base, plane.sectors)
    device.free(region.base, 2 * region.row_sectors)
    device.free(state, state_sectors(device.config))
    context = Context(device.config)
    for use in (
        lambda: device.store(plane, np.ones((2, 4, 16), np.int64)),
        lambda: device.load_output(region, heads, rows),
        lambda: device.store_bitmap(plane.base, np.ones(4, np.bool_)),
        lambda: device.store_state(state, context),
        lambda: device.load_state(state),
    ):
        with pytest.raises(
            ValueError, match=r"sectors \d+ to \d+ must be of one region that is allocated: it was freed"
        ):
            use()
    assert not any(map(any, fake.memory))


def test_what_another_accelerator_has_is_not_taken(device: Device) -> None:
    plane = device.plane(rows=4, heads=2, head_dim=16, bits=8)
    with pytest.raises(ValueError, match="must be laid out over 2 channels, not 4"):
        device.store(replace(plane, base=0, channels=4), np.zeros((2, 4, 16), np.int64))
    region = device.output(queries=2, heads=2, head_dim=16)
    with pytest.raises(ValueError, match="must be laid out over 2 channels, not 4"):
        device.load_output(replace(region, base=0, channels=4), np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match="context must be of 16 tokens and 4 heads, not 1024 and 16"):
        device.store_state(device.allocate(5), Context(PAPER))


def test_nothing_is_nothing(device: Device) -> None:
    """No row, no head: no access, and no error."""
    plane = device.plane(rows=4, heads=2, head_dim=16, bits=8)
    none = np.zeros(0, np.int64)
    device.store(plane, np.zeros((2, 0, 16), np.int64), none)
    device.store(plane, np.zeros((0, 0, 16), np.int64), none, none)
    region = device.output(queries=2, heads=2, head_dim=16)
    assert device.load_output(region, none, none).shape == (0, 0, 16)


def test_a_gap_is_used_again(device: Device) -> None:
    first, _second = device.allocate(10), device.allocate(10)
    device.free(first, 10)
    assert device.allocate(12) == 20
    assert device.allocate(10) == first


@pytest.mark.parametrize("bits", [4, 6, 8, 10, 12])
@pytest.mark.parametrize(("heads", "dim"), [(3, 16), (4, 16), (3, 32), (1, 16)])
def test_a_plane_in_memory_is_the_golden_models(fake: Fake, device: Device, bits: int, heads: int, dim: int) -> None:
    random = np.random.default_rng(bits)
    device.allocate(6)
    plane = device.plane(rows=7, heads=heads, head_dim=dim, bits=bits)
    assert plane.base == 6
    codes = random.integers(-(1 << bits - 1), 1 << bits - 1, (heads, 7, dim))
    device.store(plane, codes)
    assert np.array_equal(fake.golden().load(plane, np.arange(7)), codes)
    assert device.allocate(1) >= plane.base + plane.sectors


@pytest.mark.parametrize("bits", [6, 8])
def test_single_rows_leave_the_others(fake: Fake, device: Device, bits: int) -> None:
    random = np.random.default_rng(1)
    plane = device.plane(rows=9, heads=3, head_dim=16, bits=bits)
    codes = random.integers(-31, 31, (3, 9, 16))
    device.store(plane, codes)
    rows = np.array([1, 4, 8])
    codes[:, rows] = random.integers(-31, 31, (3, 3, 16))
    device.store(plane, codes[:, rows], rows)
    assert np.array_equal(fake.golden().load(plane, np.arange(9)), codes)


def test_single_heads_lose_their_partner_and_leave_other_pairs(fake: Fake, device: Device) -> None:
    """Heads 0 and 1 share rows, as 2 and 3 do: head 1 alone clears head 0 in the rows that are written."""
    random = np.random.default_rng(2)
    plane = device.plane(rows=5, heads=4, head_dim=16, bits=8)
    assert plane.heads_per_row == 2
    codes = random.integers(-127, 127, (4, 5, 16))
    device.store(plane, codes)
    new = random.integers(-127, 127, (1, 2, 16))
    device.store(plane, new, np.array([0, 3]), np.array([1]))
    codes[1, [0, 3]] = new[0]
    codes[0, [0, 3]] = 0
    assert np.array_equal(fake.golden().load(plane, np.arange(5)), codes)


def test_bitmaps_outputs_and_states(fake: Fake, device: Device) -> None:
    random = np.random.default_rng(3)
    members = random.random(13) < 0.5
    base = device.allocate(1)
    device.store_bitmap(base, members)
    assert np.array_equal(fake.golden().load_bitmap(base, 13), members)

    region = device.output(queries=5, heads=3, head_dim=32)
    output = random.integers(-2048, 2048, (2, 3, 32))
    memory = fake.golden()
    heads, rows = np.array([0, 2]), np.array([1, 2, 4])
    region.store(memory, heads, rows, output)
    for channel in range(2):
        fake.memory[channel][:] = memory.bytes[channel].tobytes()
    assert np.array_equal(device.load_output(region, heads, rows), output)
    assert isinstance(region, OutputRegion)

    context = Context(device.config)
    context.token_importance = random.integers(0, 1 << 20, 16)
    context.head_importance = random.integers(0, 1 << 20, 4)
    context.kept_tokens = random.random(16) < 0.5
    context.kept_heads = random.random(4) < 0.5
    state = device.allocate(state_sectors(device.config))
    device.store_state(state, context)
    loaded = device.load_state(state)
    for name in ("token_importance", "head_importance", "kept_tokens", "kept_heads"):
        assert np.array_equal(getattr(loaded, name), getattr(context, name)), name


def test_memory_is_moved_in_whole_runs(fake: Fake, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transfer a channel where local sectors follow each other, whatever the order of the rows."""
    calls: list[int] = []
    write = fake.write_memory
    monkeypatch.setattr(fake, "write_memory", lambda channel, address, data: (calls.append(channel), write(channel, address, data)))  # fmt: skip # noqa: E501
    plane = device.plane(rows=8, heads=1, head_dim=32, bits=8)
    codes = np.random.default_rng(4).integers(-100, 100, (1, 8, 32))
    device.store(plane, codes[:, ::-1], np.arange(8)[::-1])
    assert sorted(calls) == [0, 1]
    assert np.array_equal(fake.golden().load(plane, np.arange(8)), codes)


# -- Jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_and_its_report(device: Device) -> None:
    called: list[int] = []
    report = device.wait(submit(device), progress=lambda: called.append(1))
    assert (report.tag, report.rows, report.live_heads.tolist(), report.kept_heads.tolist()) == (0, 7, [0, 2], [])
    assert called


def test_words_that_did_not_change_are_not_written_again(fake: Fake, device: Device) -> None:
    device.wait(submit(device))
    fake.writes.clear()
    device.wait(submit(device))
    assert [name for name, _ in fake.writes] == ["JOB0", "DOORBELL", "REPORT_POP"], "the tag alone differs"
    device.reset()
    fake.writes.clear()
    submit(device)
    assert sum(name.startswith("JOB") for name, _ in fake.writes) > 10, "a reset forgets them"


def test_reports_are_matched_by_tag_and_a_full_queue_is_waited_for(fake: Fake, device: Device) -> None:
    tags = [submit(device) for _ in range(9)]
    assert tags == list(range(9))
    for tag in reversed(tags):
        assert device.wait(tag).tag == tag
    with pytest.raises(ValueError, match="no job with the tag 3 is waited for"):
        device.wait(3)


def test_tags_wrap(device: Device) -> None:
    device._tag = 0xFFFF
    assert [submit(device), submit(device)] == [0xFFFF, 0]
    assert device.wait(0).tag == 0


def test_a_tag_whose_report_waits_is_not_given_again(device: Device) -> None:
    """After 65,536 jobs, of which the caller has not asked for some."""
    old = submit(device)
    last = submit(device)
    assert device.wait(last).tag == 1
    device._tag = 0xFFFF
    assert [submit(device) for _ in range(3)] == [0xFFFF, 1, 2]
    with pytest.raises(ValueError, match="tag must be of no job whose report is still to be taken, not 0"):
        device.submit_fields(every_field(device) | {"tag": old})
    device._reports = dict.fromkeys(range(1 << 16), device.wait(old))
    with pytest.raises(DeviceError, match="there is no tag left: 65536 jobs have reports"):
        submit(device)


def test_a_report_is_given_once(device: Device) -> None:
    tag = submit(device)
    assert isinstance(device.wait(tag), Report)
    with pytest.raises(ValueError, match=f"no job with the tag {tag} is waited for"):
        device.wait(tag)


def test_a_report_that_nobody_queued(fake: Fake, device: Device) -> None:
    tag = submit(device)
    fake.reports.append(0x1234)
    with pytest.raises(DeviceError, match="a job reported with the tag 4660, which this driver did not queue"):
        device.wait(tag)
    assert device.wait(tag).tag == tag
    with pytest.raises(DeviceError, match="no report waits"):
        device.take_report()


def test_a_job_must_fit_the_accelerator(device: Device) -> None:
    for job, at, heads, message in (
        (replace(JOB, head_dim=64), AT, BOTH, "head_dim must be one of"),
        (replace(JOB, value_bits=5), AT, BOTH, "value_bits must be one of"),
        (replace(JOB, key_fetch=KeyFetch.JOINED, key_bits=12), AT, BOTH, "key_lsb must be the sector of the LSB plane"),
        (JOB, AT, np.ones(3, np.bool_), r"heads must be a flag for each of the 2 heads, not of shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            device.submit(job, at, heads=heads, context=0)


def test_a_write_that_fails_is_repeated_by_the_next_job(fake: Fake, device: Device) -> None:
    """It may have had its effect, so nothing is known of what the word holds."""
    device.wait(submit(device))
    before = fake.values["JOB4"]
    fake.broken = "JOB4"
    with pytest.raises(TransportTimeoutError):
        submit(device, replace(JOB, keys=5))
    assert fake.values["JOB4"] != before
    fake.broken = None
    device.wait(submit(device))
    assert fake.values["JOB4"] == before


@pytest.mark.parametrize(
    ("reason", "word", "text"),
    [
        (RejectReason.KV_ROWS, 4, r"the job was refused: kv_rows is less than keys \(word 4 of the descriptor\)"),
        (RejectReason.QUEUE_FULL, NO_WORD, "the job was refused: the job queue is full$"),
    ],
)
def test_a_job_that_is_refused(fake: Fake, device: Device, reason: RejectReason, word: int, text: str) -> None:
    fake.reject = (reason, word)
    with pytest.raises(JobRejectedError, match=text) as caught:
        submit(device)
    assert caught.value.reason is reason
    assert caught.value.word == (None if word == NO_WORD else word)
    fake.reject = None
    assert device.wait(submit(device)).tag == 1, "the driver goes on"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nonsense": 1}, "the descriptor has no field 'nonsense'"),
        ({"tag": 1, "mode": 0}, "the descriptor must have all fields, also fetch, context, flags"),
        ({"keys": 32}, "keys must be 0 to 31, not 32"),
        ({"keys": -1}, "keys must be 0 to 31, not -1"),
    ],
)
def test_fields_are_checked(fake: Fake, device: Device, fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        device.write_descriptor(fields)


def test_a_descriptor(device: Device) -> None:
    job = replace(JOB, mode=Mode.GENERATION, queries=1, query_offset=3, key_fetch=KeyFetch.PROGRESSIVE, key_bits=10,
                  keep_tokens=3, keep_values=2, restart=True)  # fmt: skip
    at = replace(AT, key_lsb=30, kv_rows=9, has_kv=70, pinned=80)
    fields = descriptor(TINY, job, at, tag=5, context=1, heads=np.array([False, True]), store=90)
    assert (fields["tag"], fields["context"], fields["head_mask"], fields["kv_rows"], fields["state"]) == (
        5,
        1,
        2,
        9,
        90,
    )
    assert (fields["key_bits"], fields["key"], fields["key_lsb"]) == (1, 20, 30), "6 bits in the MSB plane"
    flags = {flag for flag in Flag if fields["flags"] >> flag & 1}
    assert flags == {
        Flag.RESTART, Flag.ACCUMULATE, Flag.PRUNE_TOKENS, Flag.PRUNE_VALUES, Flag.HAS_KV, Flag.PINNED, Flag.STORE_STATE
    }  # fmt: skip
    with pytest.raises(ValueError, match="a job loads and stores one state: load = 1 must be store = 2"):
        descriptor(TINY, job, at, tag=0, context=0, heads=BOTH, load=1, store=2)


LIMIT = 1 << TINY.sector_bits


@pytest.mark.parametrize(
    ("field", "changes", "sectors"),
    [
        # By hand, of 2 heads of dimension 16 on 2 channels: two heads of 8 bits share a sector, two of 12 bits two
        # sectors, and each row of the output has two sectors.
        ("query", {"query": 0}, 4),
        ("key", {"key_msb": 0, "kv_rows": 9}, 9),
        ("key_lsb", {"key_lsb": 0, "kv_rows": 5}, 5),
        ("value", {"value": 0}, 8),
        ("output", {"output": 0}, 8),
        ("has_kv", {"has_kv": 0}, 1),
        ("pinned", {"pinned": 0}, 1),
        ("state", {}, 5),
    ],
)
def test_what_ends_beyond_memory_is_refused(field: str, changes: dict[str, int], sectors: int) -> None:
    job = replace(JOB, value_bits=12, key_fetch=KeyFetch.JOINED, key_bits=12)
    place = {name: LIMIT - sectors for name in changes if name != "kv_rows"}

    def ask(further: int) -> None:
        at = replace(AT, **{"key_lsb": 30} | changes | {name: first + further for name, first in place.items()})
        state = LIMIT - sectors + further if field == "state" else None
        descriptor(TINY, job, at, tag=0, context=0, heads=BOTH, load=state)

    ask(0)
    with pytest.raises(AddressRangeError, match=f"^{field} begins at .* end at .* address 65536 sectors$") as caught:
        ask(2)
    assert (caught.value.field, caught.value.end) == (field, LIMIT + 2)


def test_groups_of_heads_end_where_the_last_one_does() -> None:
    """Three heads of 32 x 8 bits: a sector for each row; groups begin whole channels and a row apart."""
    job = replace(JOB, head_dim=32, heads=3, keys=5, queries=1, score_scales=JOB.score_scales[:1] * 3)
    heads = np.ones(3, np.bool_)
    last = LIMIT - (2 * (6 + 1) + 5 + 1)
    descriptor(TINY, job, replace(AT, value=last), tag=0, context=0, heads=heads)
    with pytest.raises(AddressRangeError):
        descriptor(TINY, job, replace(AT, value=last + 2), tag=0, context=0, heads=heads)


def test_a_job_uses_no_more_than_the_driver_may(device: Device) -> None:
    with pytest.raises(AddressRangeError, match="would end at 1002: the driver may use 1000 sectors"):
        device.submit(JOB, replace(AT, output=994), heads=BOTH, context=1)
    device.submit(JOB, replace(AT, output=992), heads=BOTH, context=1)


def test_a_job_that_ends_beyond_memory_is_not_queued(fake: Fake, device: Device) -> None:
    with pytest.raises(AddressRangeError):
        device.submit(JOB, replace(AT, output=LIMIT - 2), heads=BOTH, context=1)
    assert not [name for name, _ in fake.writes if name == "DOORBELL"]
    assert device.wait(submit(device)).tag == 1, "the driver goes on"


# -- Failures ---------------------------------------------------------------------------------------------------------


def test_a_job_that_is_never_done(fake: Fake, device: Device) -> None:
    tag = submit(device)
    fake.hangs = True
    with pytest.raises(DeviceTimeoutError, match="tag 0 was not done within 100000 cycles"):
        device.wait(tag, timeout_cycles=100_000)
    fake.hangs = False
    assert device.wait(tag).tag == tag, "it may be waited for again"


@pytest.mark.parametrize("is_stuck_high", [False, True])
def test_a_queue_without_room_is_waited_for_and_no_longer(
    fake: Fake, device: Device, is_stuck_high: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        submit(device)
    fake.hangs = True
    if is_stuck_high:
        monkeypatch.setattr(
            fake, "wait_for_interrupt", lambda *, timeout_cycles: fake.waits.append(timeout_cycles) or True
        )
    fake.writes.clear()
    fake.waits.clear()
    with pytest.raises(DeviceTimeoutError, match="the job queue had no room within 50000 cycles"):
        submit(device, timeout_cycles=50_000)
    assert sum(fake.waits) == 50_000
    assert not fake.writes, "no doorbell rings for what has no room"
    monkeypatch.undo()
    fake.hangs = False
    assert device.wait(submit(device)).tag == 5, "the driver goes on"


def test_other_jobs_reports_cost_no_time(fake: Fake, device: Device) -> None:
    """Each ends a wait early, and none of them the patience."""
    tags = [submit(device) for _ in range(4)]
    assert device.wait(tags[-1], timeout_cycles=20_000).tag == tags[-1]
    assert len(fake.waits) == 4


def test_a_report_in_the_last_cycle_counts(fake: Fake, device: Device) -> None:
    device.enable_interrupts(done=False, error=False)
    assert device.wait(submit(device), timeout_cycles=1).tag == 0
    assert fake.waits == [1]


def test_a_drain_may_take_longer_than_the_time_out_after_a_reset() -> None:
    """So CHANNELS_STUCK has its names when the driver gives up."""
    assert DRAIN_CYCLES > TIMEOUT_RESET


@pytest.mark.parametrize(("names", "limit"), [(0, 2_000_000), (2, 20_200)])
def test_a_drain_is_waited_for_and_no_longer(fake: Fake, device: Device, names: int, limit: int) -> None:
    """With CHANNELS_STUCK in mind, and with interrupts off: one that is pending would end each wait at once."""
    fake.reports.append(0)
    fake.values["CHANNELS_STUCK"] = names
    fake.draining = 1 << 30
    enabled: list[int] = []
    wait = fake.wait_for_interrupt

    def waits(*, timeout_cycles: int) -> bool:
        enabled.append(fake.values["INTERRUPT_ENABLE"])
        return wait(timeout_cycles=timeout_cycles)

    fake.wait_for_interrupt = waits  # type: ignore[method-assign]
    who = r"channels \[1\] do not answer" if names else "no channel is named, since TIMEOUT has not passed"
    with pytest.raises(DeviceTimeoutError, match=f"the accelerator does not drain; {who}"):
        device.soft_reset()
    assert 0.9 * limit <= sum(fake.waits) <= limit
    assert set(enabled) == {0}
    assert fake.values["INTERRUPT_ENABLE"] == 3
    with pytest.raises(DeviceTimeoutError, match="the accelerator does not drain"):
        submit(device)
    fake.draining = 3
    fake.values["CHANNELS_STUCK"] = 0
    assert device.wait(submit(device)).tag == 1


def test_an_accelerator_that_stops_and_does_not_drain(fake: Fake, device: Device) -> None:
    tag = submit(device)
    fake.fail(ErrorCode.TIMEOUT)
    fake.draining = 1 << 30
    with pytest.raises(DeviceFailedError, match="; it still drains: no channel is named") as caught:
        device.wait(tag)
    assert (caught.value.drained, caught.value.stuck) == (False, [])
    assert sum(fake.waits) == 2_000_000


def test_codes_that_nobody_knows(fake: Fake, device: Device) -> None:
    fake.reject = (77, 3)  # type: ignore[assignment]
    with pytest.raises(JobRejectedError, match=r"the job was refused: unknown reason 77 \(word 3"):
        submit(device)
    fake.reject = (RejectReason.NONE, NO_WORD)
    with pytest.raises(DeviceError, match="the doorbell was answered with an error, and REJECT has no reason: SLVERR"):
        submit(device)
    fake.reject = None
    fake.fail(99)  # type: ignore[arg-type]
    with pytest.raises(DeviceFailedError, match=r"the accelerator stopped: unknown error 99$") as caught:
        submit(device)
    assert (caught.value.code, caught.value.channel, caught.value.is_write) == (99, None, None)


@pytest.mark.parametrize("is_write", [False, True])
def test_a_bus_error_says_what_it_answered(fake: Fake, device: Device, is_write: bool) -> None:
    fake.fail(ErrorCode.SLAVE_ERROR, channel=1)
    fake.values["ERROR"] |= fake.map["ERROR"].pack(is_write=is_write)
    with pytest.raises(DeviceFailedError) as caught:
        submit(device)
    assert (caught.value.channel, caught.value.is_write) == (1, is_write)


@pytest.mark.parametrize(
    ("code", "stuck", "text"),
    [
        (ErrorCode.NOTHING_LIVE, 0, "the accelerator stopped: no token, no head or no query row of a job is live"),
        (ErrorCode.DECODE_ERROR, 0, r"there is no memory at the address \(channel 1\)$"),
        (ErrorCode.TIMEOUT, 2, r"nothing moved for TIMEOUT cycles; channels \[1\] do not answer: reset both sides"),
    ],
)
def test_an_accelerator_that_stops(fake: Fake, device: Device, code: ErrorCode, stuck: int, text: str) -> None:
    tag = submit(device)
    device.contexts.take("somebody")
    fake.fail(code, channel=1, stuck=stuck)
    with pytest.raises(DeviceFailedError, match=text) as caught:
        device.wait(tag)
    assert caught.value.code is code
    assert caught.value.channel == (1 if code is ErrorCode.DECODE_ERROR else None)
    assert fake.values["ERROR"] == 0, "cleared"
    assert device.contexts.take("somebody") == (0, False), "contexts are lost"
    with pytest.raises(ValueError, match="no job with the tag 0"):
        device.wait(tag)
    assert device.wait(submit(device)).tag == 1, "the driver goes on"


def test_a_doorbell_at_an_accelerator_that_has_stopped(fake: Fake, device: Device) -> None:
    fake.fail(ErrorCode.INTERNAL)
    with pytest.raises(DeviceFailedError, match="the circuit contradicted itself"):
        submit(device)


def test_soft_reset(fake: Fake, device: Device) -> None:
    submit(device)
    tag = submit(device)
    assert fake.wait_for_interrupt(timeout_cycles=1)
    assert (len(fake.reports), len(fake.queue)) == (1, 1)
    device.contexts.take("somebody")
    fake.draining = 5
    device.soft_reset()
    assert ("CONTROL", fake.map["CONTROL"].pack(soft_reset=1)) in fake.writes
    assert not fake.reports, "a report outlives a soft reset, and the driver drops it"
    assert device.contexts.take("somebody") == (0, False)
    with pytest.raises(ValueError, match=f"no job with the tag {tag}"):
        device.wait(tag)
    fake.draining = 1 << 30
    fake.values["CHANNELS_STUCK"] = 1
    with pytest.raises(DeviceTimeoutError, match=r"does not drain; channels \[0\] do not answer"):
        device.soft_reset()


# -- Contexts ---------------------------------------------------------------------------------------------------------


def test_contexts_go_to_who_ran_last() -> None:
    contexts = Contexts(2)
    assert contexts.take("a") == (0, False)
    assert contexts.take("b") == (1, False)
    assert contexts.take("a") == (0, True)
    assert contexts.take("c") == (1, False), "b has not run for the longest"
    assert contexts.take("a") == (0, True)
    contexts.give_back("c")
    contexts.give_back("b")
    assert contexts.take("b") == (1, False)
    contexts.forget()
    assert contexts.take("b") == (0, False)
