"""The driver on an accelerator that is only registers and memory: layout, jobs, reports, and all that can fail."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from golden.attention import Addresses, Job, KeyFetch, Mode
from golden.cascade import Context
from golden.memory import Memory, OutputRegion, Plane
from golden.quantize import ScoreScale
from golden.state import state_sectors
from host.driver import (
    AddressRangeError,
    Contexts,
    Device,
    DeviceError,
    DeviceFailedError,
    DeviceTimeoutError,
    JobRejectedError,
    OutOfMemoryError,
    descriptor,
)
from host.transport import BusError, Transport
from hw.config import PAPER, SECTOR_BYTES, TINY, Config
from hw.job import Flag
from hw.register_map import DESCRIPTOR_VERSION, NO_WORD, ErrorCode, RegisterMap, RejectReason


class Fake(Transport):
    """Answers as the register bank does. A job is done when the interrupt is waited for, unless `hangs`."""

    def __init__(self, config: Config = TINY) -> None:
        self.config = config
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
        elif name == "REPORT_POP":
            self.reports.popleft()
        elif name == "ERROR":
            self.values[name] = 0
        else:
            if name == "CONTROL" and self.map[name].unpack(value)["soft_reset"]:
                self.queue.clear()
            self.values[name] = value

    def _place(self, channel: int, address: int, size: int) -> slice:
        assert 0 <= address <= len(self.memory[channel]) - size
        return slice(address, address + size)

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        return bytes(self.memory[channel][self._place(channel, address, size)])

    def write_memory(self, channel: int, address: int, data: Any) -> None:
        self.memory[channel][self._place(channel, address, len(data))] = data

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        if self.hangs or not self.queue:
            return bool(self.reports)
        self.reports.append(self.queue.popleft())
        return True

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


def test_it_closes_its_transport(fake: Fake) -> None:
    with Device(fake):
        assert fake.closed == 0
    assert fake.closed == 1


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
    plane = Plane(channels=2, base=0, rows=8, heads=1, head_dim=32, bits=8)
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
