"""Batches of operations: what a transport makes of them, and how a job and all that it takes and gives is one."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spatten.golden.cascade import Context
from spatten.golden.state import state_sectors
from spatten.host.driver.device import Device
from spatten.host.driver.encoding import Report, descriptor
from spatten.host.driver.errors import DeviceError, DeviceFailedError, DeviceTimeoutError, JobRejectedError
from spatten.host.driver.metered import MeteredTransport
from spatten.host.driver.operations import (
    Operation,
    ReadMemory,
    ReadRegister,
    WaitInterrupt,
    WriteMemory,
    WriteRegister,
)
from spatten.host.driver.readings import Reading
from spatten.host.driver.transport import BusError, TransportTimeoutError
from spatten.spec.job import job_fields
from spatten.spec.register_map import NO_WORD, ErrorCode, RejectReason
from tests.host.driver.test_device import AT, BOTH, JOB, Fake


class Counting(Fake):
    """Its counter of rows has grown by 10, 11, 12, ... with each job, and begins again when it is told to."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.jobs = 0

    def write_register(self, address: int, value: int) -> None:
        super().write_register(address, value)
        if self.names[address] == "CONTROL" and self.map["CONTROL"].unpack(value)["clear_counters"]:
            self.values["ROWS_LOW"] = 0

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        before = len(self.reports)
        is_high = super().wait_for_interrupt(timeout_cycles=timeout_cycles)
        if len(self.reports) > before:
            self.values["ROWS_LOW"] += 10 + self.jobs
            self.jobs += 1
        return is_high


@pytest.fixture
def fake() -> Counting:
    return Counting()


@pytest.fixture
def meter(fake: Counting) -> MeteredTransport:
    return MeteredTransport(fake)


@pytest.fixture
def device(meter: MeteredTransport) -> Device:
    device = Device(meter, sectors=1000)
    meter.clear()
    return device


def run(device: Device, **more: Any) -> Report:
    return device.run(JOB, AT, heads=BOTH, context=0, **more)


# -- What a transport does with a batch -------------------------------------------------------------------------------


def test_a_batch_is_executed_in_order(fake: Fake) -> None:
    base, enable = (fake.map[name].offset for name in ("BASE0", "INTERRUPT_ENABLE"))
    operations: list[Operation] = [
        WriteRegister(address=base, value=5),
        ReadRegister(address=base),
        WriteRegister(address=base, value=6),
        ReadRegister(address=base),
        WriteMemory(channel=1, address=64, data=b"abcd"),
        ReadMemory(channel=1, address=65, size=2),
        WriteRegister(address=enable, value=3),
    ]
    assert fake.execute(operations) == [None, 5, None, 6, None, b"bc", None]
    assert fake.execute([]) == []
    assert fake.writes == [("BASE0", 5), ("BASE0", 6), ("INTERRUPT_ENABLE", 3)]


def test_a_wait_whose_time_runs_out_ends_a_batch(fake: Fake) -> None:
    base, enable = (fake.map[name].offset for name in ("BASE0", "INTERRUPT_ENABLE"))
    batch = [
        WriteRegister(address=enable, value=3),
        WaitInterrupt(timeout_cycles=70),
        WriteRegister(address=base, value=1),
    ]
    assert fake.execute(batch) == [None, 0]
    assert fake.waits == [70]
    assert fake.values["BASE0"] == 0
    fake.reports.append(0)
    assert fake.execute(batch) == [None, 1, None]
    assert fake.values["BASE0"] == 1


def test_an_operation_that_fails_ends_a_batch(fake: Fake, meter: MeteredTransport) -> None:
    base, doorbell = (fake.map[name].offset for name in ("BASE0", "DOORBELL"))
    fake.values["BASE0"] = 9
    fake.reject = (RejectReason.KV_ROWS, 4)
    for transport in (fake, meter):
        with pytest.raises(BusError) as caught:
            transport.execute(
                [ReadRegister(address=base), WriteRegister(address=doorbell, value=1), ReadRegister(address=base)]
            )
        assert str(caught.value) == f"SLVERR (operation 1 of a batch, the write of 0x1 to register {doorbell:#x})"
        assert caught.value.operation == WriteRegister(address=doorbell, value=1)
        assert caught.value.answers == (9,)
    assert meter.operations == {ReadRegister: 1}
    with pytest.raises(BusError, match=r"^SLVERR$") as caught:
        fake.write_register(doorbell, 1)
    assert (caught.value.operation, caught.value.answers) == (None, ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReadRegister(address=2), "address must be a multiple of 4, not 2"),
        (lambda: ReadRegister(address=-4), "address must be at least 0, not -4"),
        (lambda: WriteRegister(address=6, value=0), "address must be a multiple of 4, not 6"),
        (lambda: WriteRegister(address=0, value=1 << 32), "value must be 0 to 4294967295, not 4294967296"),
        (lambda: ReadMemory(channel=-1, address=0, size=1), "channel must be at least 0, not -1"),
        (lambda: ReadMemory(channel=0, address=0, size=-1), "size must be at least 0, not -1"),
        (lambda: WriteMemory(channel=0, address=-1, data=b""), "address must be at least 0, not -1"),
        (lambda: WaitInterrupt(timeout_cycles=-1), "timeout_cycles must be at least 0, not -1"),
    ],
)
def test_operations_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (ReadRegister(address=16), "read of register 0x10"),
        (WriteRegister(address=16, value=10), "write of 0xa to register 0x10"),
        (ReadMemory(channel=1, address=32, size=5), "read of 5 bytes of channel 1 at 0x20"),
        (WriteMemory(channel=1, address=32, data=b"abc"), "write of 3 bytes to channel 1 at 0x20"),
        (WaitInterrupt(timeout_cycles=7), "wait of 7 cycles for the interrupt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operations_say_what_they_are(operation: Operation, text: str) -> None:
    assert str(operation) == text


def test_a_meter_counts_calls_and_batches(fake: Fake, meter: MeteredTransport) -> None:
    base = fake.map["BASE0"].offset
    meter.write_register(base, 1)
    assert meter.read_register(base) == 1
    meter.write_memory(0, 0, bytearray(b"abc"))
    assert meter.read_memory(0, 1, 2) == b"bc"
    assert not meter.wait_for_interrupt(timeout_cycles=1)
    assert (meter.round_trips, meter.sent, meter.received) == (5, 4 + 3, 4 + 2 + 4)
    meter.execute([ReadRegister(address=base), WriteMemory(channel=0, address=0, data=b"x" * 9)])
    assert (meter.round_trips, meter.sent, meter.received) == (6, 16, 14)
    assert sum(meter.operations.values()) == 7
    meter.reset()
    assert meter.round_trips == 7
    with meter:
        assert meter.channels == 2
    assert fake.closed == 1


# -- A job in one batch -----------------------------------------------------------------------------------------------


def test_a_job_is_one_round_trip(fake: Counting, meter: MeteredTransport, device: Device) -> None:
    plane = device.plane(rows=4, heads=2, head_dim=16, bits=8)
    region = device.output(queries=4, heads=2, head_dim=16)
    state = device.allocate(state_sectors(device.config))
    codes = np.arange(128).reshape(2, 4, 16)
    writes = [*device.store_operations(plane, codes), *device.bitmap_operations(state, np.ones(4, np.bool_))]
    output = device.output_reading(region, np.arange(2), np.arange(4))
    kept = device.kept_reading(state)
    report = run(device, writes=writes, readings=[output, kept])
    assert (report.tag, report.rows) == (0, 7)
    assert not output.value.any()
    assert np.flatnonzero(kept.value.kept_heads).size == 0
    assert meter.round_trips == 1
    assert np.array_equal(fake.golden().load(plane, np.arange(4)), codes)
    names = [name for name, _ in fake.writes if not name.startswith("JOB")]
    assert names[-3:] == ["CONTROL", "DOORBELL", "REPORT_POP"]
    fake.writes.clear()
    assert run(device).tag == 1
    assert [name for name, _ in fake.writes] == ["JOB0", "CONTROL", "DOORBELL", "REPORT_POP"], "the tag alone differs"
    assert meter.round_trips == 2


def test_jobs_that_were_queued_before_come_first(fake: Counting, device: Device) -> None:
    tags = [device.submit(JOB, AT, heads=BOTH, context=0) for _ in range(3)]
    counters = device.counters_reading()
    assert run(device, later=[counters]).tag == 3
    assert counters.value["rows"] == 13, "of the last of the four jobs alone"
    assert [device.wait(tag).tag for tag in tags] == tags
    device.submit(JOB, AT, heads=BOTH, context=0)
    fake.hangs = True
    with pytest.raises(DeviceTimeoutError, match="the jobs before it were not done within 30000 cycles"):
        run(device, timeout_cycles=30_000)


def test_without_interrupts_a_job_is_run_as_well(fake: Counting, device: Device) -> None:
    device.enable_interrupts(done=False)
    counters = device.counters_reading()
    bits = device.allocate(1)
    reading = device._sector_reading(np.array([bits]), lambda data: int(data[0, 0]))
    report = run(device, writes=device.bitmap_operations(bits, np.ones(3, np.bool_)), readings=[reading, counters])
    assert report.tag == 0
    assert reading.is_read
    assert (reading.value, counters.value["rows"]) == (7, 10)


def test_a_job_that_is_not_done_in_time(fake: Counting, device: Device) -> None:
    fake.hangs = True
    with pytest.raises(DeviceTimeoutError, match="the job with the tag 0 was not done within 70000 cycles"):
        run(device, timeout_cycles=70_000)
    assert fake.waits == [70_000], "one wait for all of the time"
    fake.hangs = False
    assert device.wait(0).tag == 0, "it may be waited for again"
    assert run(device).tag == 1


def test_a_job_done_in_the_last_cycle_counts(fake: Counting, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ended the batch, and the report came before the last look."""
    wait = fake.wait_for_interrupt
    monkeypatch.setattr(fake, "wait_for_interrupt", lambda *, timeout_cycles: wait(timeout_cycles=timeout_cycles) and 0)
    counters = device.counters_reading()
    assert run(device, readings=[counters], timeout_cycles=5).tag == 0
    assert counters.value["rows"] == 10


def test_an_interrupt_without_a_report_is_no_end(
    fake: Counting, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, calls = fake.wait_for_interrupt, iter([True])
    monkeypatch.setattr(
        fake, "wait_for_interrupt", lambda *, timeout_cycles: next(calls, None) or wait(timeout_cycles=timeout_cycles)
    )
    monkeypatch.setattr(fake, "reports", type(fake.reports)(), raising=True)
    pop = fake.write_register

    def write(address: int, value: int) -> None:
        if fake.names[address] != "REPORT_POP" or fake.reports:  # nothing happens if there is none
            pop(address, value)

    def read(address: int) -> int:
        is_report = any(register.offset == address for register in fake.map.reports)
        return 0 if is_report and not fake.reports else Fake.read_register(fake, address)

    monkeypatch.setattr(fake, "write_register", write)
    monkeypatch.setattr(fake, "read_register", read)
    counters = device.counters_reading()
    assert run(device, readings=[counters]).tag == 0
    assert counters.value["rows"] == 10


def test_a_job_that_is_refused(fake: Counting, device: Device) -> None:
    before = device.counters_reading()
    run(device, later=[before])
    fake.reject = (RejectReason.KV_ROWS, 4)
    later = device.counters_reading()
    with pytest.raises(JobRejectedError, match="kv_rows is less than keys") as caught:
        run(device, later=[later])
    assert caught.value.word == 4
    assert before.is_read
    assert before.value["rows"] == 10, "it was read before the counters began again"
    fake.reject = (RejectReason.NONE, NO_WORD)
    with pytest.raises(DeviceError, match="the doorbell was answered with an error, and REJECT has no reason: SLVERR"):
        run(device)
    fake.reject = None
    assert run(device).tag == 3, "the driver goes on"


def test_a_doorbell_that_is_refused_while_it_drains(
    fake: Counting, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.draining = 4
    write = fake.write_register

    def refuse(address: int, value: int) -> None:
        if fake.names[address] == "DOORBELL" and fake.draining:
            raise BusError("SLVERR")
        write(address, value)

    monkeypatch.setattr(fake, "write_register", refuse)
    counters = device.counters_reading()
    assert run(device, readings=[counters]).tag == 0
    assert fake.draining == 0
    assert counters.value["rows"] == 10


@pytest.mark.parametrize("late", [False, True])
def test_an_accelerator_that_stops(fake: Counting, device: Device, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the doorbell, or with the job."""
    device.contexts.take("somebody")
    if late:
        monkeypatch.setattr(
            fake, "wait_for_interrupt", lambda *, timeout_cycles: fake.fail(ErrorCode.DECODE_ERROR, 1) or True
        )
        fake.reports.append(0)  # reading REPORT must do no harm
    else:
        fake.fail(ErrorCode.DECODE_ERROR, 1)
    with pytest.raises(DeviceFailedError, match=r"there is no memory at the address \(channel 1\)"):
        run(device)
    monkeypatch.undo()
    assert device.contexts.take("somebody") == (0, False)
    with pytest.raises(ValueError, match="no job with the tag 0"):
        device.wait(0)
    assert run(device).tag == 1, "the driver goes on"


@pytest.mark.parametrize("name", ["JOB4", "CONTROL", "DOORBELL", "REPORT_POP"])
def test_a_write_in_the_middle_that_is_not_answered(fake: Counting, device: Device, name: str) -> None:
    """It may have had its effect. Words that were written before are known, those after it are not."""
    run(device)
    keys = fake.values["JOB4"]
    fake.broken = name
    with pytest.raises(TransportTimeoutError, match=rf"{name} was not answered \(operation .* of a batch, the wr"):
        device.run(replace(JOB, keys=5), replace(AT, output=80), heads=BOTH, context=0)
    fake.broken = None
    if name in ("DOORBELL", "REPORT_POP"):
        device.reset()  # whether there is a job, or a report, is not known
    assert run(device).tag == 2
    assert fake.values["JOB4"] == keys


def test_words_after_one_that_could_not_be_written_are_written_by_the_next_job(fake: Counting, device: Device) -> None:
    run(device)
    job, at = replace(JOB, keys=5), replace(AT, output=80)
    fake.broken = "JOB4"
    with pytest.raises(TransportTimeoutError):
        device.run(job, at, heads=BOTH, context=0)
    fake.broken = None
    device.run(job, at, heads=BOTH, context=0)
    values = descriptor(device.config, job, at, tag=2, context=0, heads=BOTH)
    for field in job_fields(device.config):
        assert fake.values[f"JOB{field.word}"] >> field.bit & (1 << field.width) - 1 == values[field.name], field.name


def test_a_report_of_a_job_whose_output_cannot_be_read_is_dropped(
    fake: Counting, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = device.allocate(state_sectors(device.config))

    def broken(channel: int, address: int, size: int) -> bytes:
        raise TransportTimeoutError("gone")

    monkeypatch.setattr(fake, "read_memory", broken)
    with pytest.raises(TransportTimeoutError, match=r"gone \(operation .* of a batch, the read of 64 bytes of"):
        run(device, readings=[device.kept_reading(state)])
    monkeypatch.undo()
    assert run(device).tag == 1
    with pytest.raises(ValueError, match="no job with the tag 0"):
        device.wait(0)


def test_a_tag_is_checked(device: Device) -> None:
    values = descriptor(device.config, JOB, AT, tag=9, context=0, heads=BOTH)
    device.submit_fields(values)
    with pytest.raises(ValueError, match="tag must be of no job whose report is still to be taken, not 9"):
        device.run_fields(values)
    del values["tag"]
    with pytest.raises(ValueError, match="the descriptor must have a tag"):
        device.run_fields(values)


# -- What is read once somebody asks ----------------------------------------------------------------------------------


def put_off(device: Device) -> Reading[dict[str, int]]:
    counters = device.counters_reading()
    run(device, later=[counters])
    return counters


def test_counters_that_nobody_asks_for_are_not_read(meter: MeteredTransport, device: Device) -> None:
    for _ in range(3):
        put_off(device)
    gc.collect()
    run(device)
    looks = 1 + len(device.map.reports)
    assert meter.operations[ReadRegister] == 4 * looks
    assert meter.round_trips == 4


def test_counters_are_those_of_their_job_whenever_they_are_asked_for(meter: MeteredTransport, device: Device) -> None:
    first = put_off(device)
    assert (first.value["rows"], meter.round_trips) == (10, 2)
    assert (first.value["rows"], meter.round_trips) == (10, 2), "they are read once"
    second = put_off(device)
    third = put_off(device)
    assert meter.round_trips == 4, "the second job's were read with the third"
    assert second.is_read
    assert not third.is_read
    assert [one.value["rows"] for one in (third, second, first)] == [12, 11, 10]
    assert meter.round_trips == 5


def test_what_was_put_off_is_read_before_it_changes(fake: Counting, device: Device) -> None:
    plane = device.plane(rows=4, heads=1, head_dim=32, bits=8)
    state = device.allocate(state_sectors(device.config))
    context = Context(device.config)
    changes: dict[str, Callable[[], object]] = {
        "clear_counters": device.clear_counters,
        "submit": lambda: device.wait(device.submit(JOB, AT, heads=BOTH, context=0)),
        "store": lambda: device.store(plane, np.zeros((1, 4, 32), np.int64)),
        "store_bitmap": lambda: device.store_bitmap(state, np.ones(4, np.bool_)),
        "store_state": lambda: device.store_state(state, context),
        "reset": device.reset,
        "settle": device.settle,
        "close": device.close,
    }
    for number, (name, change) in enumerate(changes.items()):
        context.token_importance[:] = number + 1
        device.store_state(state, context)
        fake.jobs = number
        counters, importance = device.counters_reading(), device.importance_reading(state)
        run(device, later=[counters, importance])
        assert not counters.is_read, name
        context.token_importance[:] = 99
        change()
        assert counters.value["rows"] == 10 + number, name
        assert importance.value.token_importance.tolist() == [number + 1] * 16, name


@pytest.mark.parametrize("end", ["reset", "close", "exit"])
def test_what_cannot_be_read_any_more_is_lost(
    fake: Counting, device: Device, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = put_off(device)

    def gone(address: int) -> int:
        raise TransportTimeoutError("gone")

    monkeypatch.setattr(fake, "read_register", gone)
    if end == "exit":
        with pytest.raises(KeyboardInterrupt), device:
            raise KeyboardInterrupt
    else:
        getattr(device, end)()
    monkeypatch.undo()
    with pytest.raises(DeviceError, match=r"put off cannot be read any more: the (accelerator|device) was"):
        counters.value  # noqa: B018
    assert fake.closed == (end != "reset")


def test_what_could_not_be_read_with_a_job_is_read_later(
    fake: Counting, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = put_off(device)
    read = fake.read_register

    def gone(address: int) -> int:
        if fake.names[address] == "ROWS_HIGH":
            raise TransportTimeoutError("gone")
        return read(address)

    monkeypatch.setattr(fake, "read_register", gone)
    with pytest.raises(TransportTimeoutError):
        run(device)
    monkeypatch.undo()
    assert not counters.is_read
    assert run(device).tag == 2
    assert counters.is_read
    assert counters.value["rows"] == 10
