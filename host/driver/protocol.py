"""The conversation with an accelerator over its registers: set it up, ring the doorbell, take reports, reset,
recover."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from spatten.host.driver.contexts import Contexts
from spatten.host.driver.encoding import Report
from spatten.host.driver.errors import DeviceError, DeviceFailedError, DeviceTimeoutError, JobRejectedError, undrained
from spatten.host.driver.operations import Answer, Operation, ReadRegister, WaitInterrupt, WriteRegister
from spatten.host.driver.readings import Reading, Readings
from spatten.host.driver.transport import BusError, Transport, TransportError
from spatten.spec.config import SECTOR_BYTES, Config
from spatten.spec.constants import PAGE_BITS, PAGE_BYTES
from spatten.spec.job import job_fields
from spatten.spec.register_map import MAGIC, NO_WORD, Access, ErrorCode, RegisterMap, RejectReason, event_names
from spatten.spec.version import DESCRIPTOR_VERSION

__all__ = [
    "ADDRESS_END",
    "DRAIN_CYCLES",
    "JOB_CYCLES",
    "SLICE_CYCLES",
    "STUCK_CYCLES",
    "TAGS",
    "Protocol",
]

ADDRESS_END = PAGE_BYTES << PAGE_BITS
"""First byte that a channel's AXI master cannot address: 2**40."""
JOB_CYCLES = 50_000_000
"""Cycles within which a job must be done, or the queue must have room, unless the caller says otherwise."""
SLICE_CYCLES = 20_000
"""Most cycles between two looks at the accelerator."""
DRAIN_CYCLES = 2_000_000
"""Cycles within which a drain must end: more than TIMEOUT after a reset, so CHANNELS_STUCK has its names by then."""
STUCK_CYCLES = 20_000
"""Cycles that channels are given to end a drain once CHANNELS_STUCK has named them."""
TAGS = 1 << 16


class Protocol:
    """The registers of one accelerator, its job queue, its reports and its failures; `Device` adds its memory.

    Parameters are those of `Device`.
    """

    def __init__(self, transport: Transport, *, sectors: int | None = None, bases: Sequence[int] | None = None) -> None:
        self.transport = transport
        self._is_closed = False
        self._put_off = Readings()
        self.map = self._identify()
        self.config = self.map.config
        limit = 1 << self.config.sector_bits
        if sectors is not None and not self.config.channels <= operator.index(sectors) <= limit:
            raise ValueError(f"sectors must be {self.config.channels} to {limit}, not {sectors!r}")
        self.sectors = limit if sectors is None else sectors
        self._fields = {field.name: field for field in job_fields(self.config)}
        self._words: dict[int, int] = {}
        """What the words of the descriptor hold, by number, as far as it is known."""
        self._reports: dict[int, Report] = {}
        """Reports that were taken and not yet asked for, by tag."""
        self._waiting: deque[int] = deque()
        """Tags of jobs that have not reported."""
        self._tag = 0
        self.contexts = Contexts(self.config.contexts)
        descriptor_group = self.map["DOORBELL"].group
        set_up = [
            register.name
            for register in self.map.values()
            if register.access is Access.RW and register.group != descriptor_group
        ]
        self._settings = dict(zip(set_up, self._read_all(set_up), strict=True))
        """What the registers that set the accelerator up are to hold, by name."""
        found = [self._settings[f"BASE{channel}"] * PAGE_BYTES for channel in range(self.config.channels)]
        self._bases = self._checked_bases(found if bases is None else bases)
        self.enable_interrupts()
        self._take_over()
        if bases is not None:
            self.set_bases(bases)

    # -- Registers ----------------------------------------------------------------------------------------------------

    def _identify(self) -> RegisterMap:
        """The registers of the configuration that the accelerator says it has."""
        some = RegisterMap(Config())

        def read(*names: str) -> list[Any]:
            return self.transport.execute([ReadRegister(address=some[name].offset) for name in names])

        magic, version = read("ID", "VERSION")
        if magic != MAGIC:
            raise DeviceError(f"what answers is not this accelerator: its ID is {magic:#010x}, not {MAGIC:#010x}")
        versions = some["VERSION"].unpack(version)
        wanted = some["VERSION"].unpack(some["VERSION"].reset)
        if versions != wanted:
            raise DeviceError(f"the accelerator's registers have the versions {versions}; this driver knows {wanted}")
        sizes = [register.name for register in some.values() if register.group == some["CHANNELS"].group]
        words = dict(zip(sizes, read(*sizes), strict=True))
        try:
            found = RegisterMap(some.configuration(words))
        except ValueError as error:
            raise DeviceError(f"the accelerator says that it has a configuration that cannot be: {error}") from error
        channels = found.config.channels
        if self.transport.channels != channels:
            raise DeviceError(f"the accelerator has {channels} channels, and its transport {self.transport.channels}")
        return found

    def _open_transport(self) -> Transport:
        if self._is_closed:
            raise DeviceError("the device is closed")
        return self.transport

    def _read(self, name: str) -> int:
        return self._open_transport().read_register(self.map[name].offset)

    def _write(self, name: str, value: int) -> None:
        self._open_transport().write_register(self.map[name].offset, value)

    def _reads(self, names: Iterable[str]) -> list[Operation]:
        return [ReadRegister(address=self.map[name].offset) for name in names]

    def _read_all(self, names: Iterable[str]) -> list[Any]:
        return self._execute(self._reads(names))

    def _writing(self, name: str, value: int) -> WriteRegister:
        return WriteRegister(address=self.map[name].offset, value=value)

    def _execute(self, operations: Iterable[Operation]) -> list[Answer]:
        return self._open_transport().execute(operations)

    def _set(self, name: str, value: int) -> None:
        """Write a register that sets the accelerator up, now and after every reset."""
        self._write(name, value)
        self._settings[name] = value

    def status(self) -> dict[str, int]:
        """The fields of STATUS."""
        return self.map["STATUS"].unpack(self._read("STATUS"))

    def counters(self) -> dict[str, int]:
        """All performance counters, by the names of `spec.job.event_limits`."""
        return self.counters_reading().value

    def counters_reading(self) -> Reading[dict[str, int]]:
        """What `counters` gives, to be read when it is asked for, or with a job."""
        self._open_transport()
        names = event_names(self.config)

        def decode(words: Sequence[int]) -> dict[str, int]:
            return {name: words[2 * i] | words[2 * i + 1] << 32 for i, name in enumerate(names)}

        registers = [register.name for name in names for register in self.map.counter(name)]
        return Reading(self._reads(registers), decode, self._execute)

    def clear_counters(self) -> None:
        """All counters start again from zero."""
        self.settle()
        self._write("CONTROL", self.map["CONTROL"].pack(clear_counters=1))

    # -- Readings that were put off -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Read what was put off and can still be asked for: before the next job, or a write, changes it.

        The driver does so itself before everything that it changes.
        """
        self._open_transport()
        readings = self._put_off.take()
        if readings:
            self._execute_and_take(readings, [])

    def _execute_and_take(self, readings: Sequence[Reading[Any]], operations: Sequence[Operation]) -> list[Answer]:
        """Read what was put off, and execute further operations, all in one batch; the answers to the latter."""
        before = [operation for reading in readings for operation in reading.operations]
        try:
            answers = self._execute([*before, *operations])
        except TransportError as error:
            self._take_answers(readings, error.answers)
            self._put_off.put_off(readings)  # those that were not read
            error.answers = error.answers[len(before) :]
            raise
        self._take_answers(readings, answers)
        return answers[len(before) :]

    @staticmethod
    def _take_answers(readings: Sequence[Reading[Any]], answers: Sequence[Answer]) -> None:
        """Give each reading its answers, as far as there are any."""
        first = 0
        for reading in readings:
            end = first + len(reading.operations)
            if end <= len(answers):
                reading.take(answers[first:end])
            first = end

    def _settle_or_lose(self, why: str) -> None:
        """Read what was put off, or note why it is lost where the accelerator cannot be reached any more."""
        try:
            self.settle()
        except TransportError:
            self._lose(why)

    def _lose(self, why: str) -> None:
        for reading in self._put_off.take():
            reading.lose(f"what was put off cannot be read any more: {why}")

    def stuck_channels(self) -> list[int]:
        """The channels that CHANNELS_STUCK names: they have had TIMEOUT cycles to drain, and still have not."""
        mask = self._read("CHANNELS_STUCK")
        return [channel for channel in range(self.config.channels) if mask >> channel & 1]

    @property
    def bases(self) -> tuple[int, ...]:
        """Where the memory of each channel begins: the byte address of its AXI master."""
        return self._bases

    def set_bases(self, bases: Sequence[int]) -> None:
        """Let the memory of each channel begin elsewhere; `bases` are as in the constructor.

        Bytes stay at the addresses of the AXI masters, so whatever was stored is in no plane any more.

        Raises `DeviceError` unless the accelerator is idle, and ValueError for impossible bases.
        """
        checked = self._checked_bases(bases)
        if not self.status()["idle"]:
            raise DeviceError("the accelerator must be idle while the bases of its channels change")
        for channel, base in enumerate(checked):
            self._set(f"BASE{channel}", base // PAGE_BYTES)
        self._bases = checked

    def _checked_bases(self, bases: Iterable[int]) -> tuple[int, ...]:
        checked = tuple(operator.index(base) for base in bases)
        channels = self.config.channels
        if len(checked) != channels:
            raise ValueError(f"bases must be {channels} byte addresses, one of each channel, not {len(checked)}")
        size = -(-self.sectors // channels) * SECTOR_BYTES
        for channel, base in enumerate(checked):
            if base % PAGE_BYTES:
                raise ValueError(f"bases[{channel}] must be a multiple of {PAGE_BYTES} bytes, not {base}")
            if not 0 <= base <= ADDRESS_END - size:
                raise ValueError(
                    f"bases[{channel}] must be 0 to {(ADDRESS_END - size) // PAGE_BYTES * PAGE_BYTES:#x}, not "
                    f"{base:#x}: the driver may use {size} bytes of each channel, and addresses end at {ADDRESS_END:#x}"
                )
        return checked

    @property
    def timeout(self) -> int:
        """Cycles without any activity after which a busy accelerator is stopped; 0: never."""
        return self._settings["TIMEOUT"]

    def set_timeout(self, cycles: int) -> None:
        """Choose `timeout`, 0 to 2**32 - 1. With 0, channels that do not answer are never named."""
        self._set("TIMEOUT", self.map["TIMEOUT"].pack(value=cycles))

    def enable_interrupts(self, *, done: bool = True, error: bool = True) -> None:
        """Choose what raises the interrupt: a report, an error. The constructor enables both.

        They only decide how soon a report or an error is noticed: without them, `wait` looks every 20,000 cycles.
        """
        self._set("INTERRUPT_ENABLE", self.map["INTERRUPT_ENABLE"].pack(done=bool(done), error=bool(error)))

    # -- Resets and failures ------------------------------------------------------------------------------------------

    def soft_reset(self) -> None:
        """Drop all jobs and contexts, and wait until the machine is idle. Memory and all settings stay.

        Raises `DeviceTimeoutError` if a channel hangs.
        """
        self._write("CONTROL", self.map["CONTROL"].pack(soft_reset=1))
        is_drained = self._drain()
        self._forget()
        if not is_drained:
            self._raise_undrained()

    def reset(self) -> None:
        """Reset the accelerator and what is in flight, and set it up again; its memory stays, jobs and contexts go."""
        transport = self._open_transport()
        self._settle_or_lose("the accelerator was reset, and did not answer before")
        self._words.clear()
        self._waiting.clear()
        self._reports.clear()
        self.contexts.forget()
        transport.reset()
        for name, value in self._settings.items():
            self._write(name, value)

    def _take_over(self) -> None:
        """Drop what an earlier driver may have left."""
        if self.status()["idle"]:
            self._forget()
        else:
            self.soft_reset()
        self._clear_error()

    def _forget(self) -> None:
        """Forget all jobs, and drop their reports, which outlive a failure: a later job may have the same tag."""
        self._waiting.clear()
        self._reports.clear()
        self.contexts.forget()
        for _ in range(self.status()["reports"]):
            self._write("REPORT_POP", 1)

    def _clear_error(self) -> None:
        self._write("ERROR", self.map["ERROR"].pack(valid=1))

    def _drain(self) -> bool:
        """Wait until the accelerator has drained; False if that takes too long.

        Time passes by waiting for an interrupt, so all interrupts are disabled: a pending one would end each wait.
        """
        if not self.status()["draining"]:
            return True
        enabled = self._settings["INTERRUPT_ENABLE"]
        self._write("INTERRUPT_ENABLE", 0)
        left, part = DRAIN_CYCLES, 100
        while self.status()["draining"] and left > 0:
            if self.stuck_channels():
                left = min(left, STUCK_CYCLES)
            part = min(2 * part, SLICE_CYCLES, left)
            self._wait_for_interrupt(part)
            left -= part
        self._write("INTERRUPT_ENABLE", enabled)
        return not self.status()["draining"]

    def _raise_undrained(self) -> NoReturn:
        raise DeviceTimeoutError(f"the accelerator does not drain; {undrained(self.stuck_channels())}")

    def _fail(self) -> NoReturn:
        """Raise what ERROR holds, and clear it once the machine has drained."""
        error = self.map["ERROR"].unpack(self._read("ERROR"))
        is_drained = self._drain()
        stuck = self.stuck_channels()
        self._clear_error()
        self._forget()
        code = {int(one): one for one in ErrorCode}.get(error["code"], error["code"])
        is_bus = code in (ErrorCode.SLAVE_ERROR, ErrorCode.DECODE_ERROR)
        raise DeviceFailedError(
            code,
            error["channel"] if is_bus else None,
            stuck,
            is_write=bool(error["is_write"]) if is_bus else None,
            drained=is_drained,
        )

    # -- Jobs ---------------------------------------------------------------------------------------------------------

    def _is_taken(self, tag: int) -> bool:
        return tag in self._reports or tag in self._waiting

    def _next_tag(self) -> int:
        for _ in range(TAGS):
            tag = self._tag
            self._tag = (tag + 1) % TAGS
            if not self._is_taken(tag):
                return tag
        raise DeviceError(f"there is no tag left: {TAGS} jobs have reports that `wait` was not asked for")

    def submit_fields(self, values: dict[str, int], *, timeout_cycles: int = JOB_CYCLES) -> None:
        """Queue a job that is given as all the fields of its descriptor; waits and raises as `submit` does."""
        tag = self._checked_tag(values)
        self.settle()
        if self.status()["draining"] and not self._drain():
            self._raise_undrained()
        if not self._wait_until(lambda: bool(self.status()["queue_free"]), timeout_cycles):
            raise DeviceTimeoutError(f"the job queue had no room within {timeout_cycles} cycles")
        self.write_descriptor(values)
        try:
            self._write("DOORBELL", DESCRIPTOR_VERSION)
        except BusError as error:
            if self.status()["failed"]:
                self._fail()
            self._raise_refused(error)
        self._waiting.append(tag)

    def _checked_tag(self, values: dict[str, int]) -> int:
        tag = values.get("tag")
        if tag is None:
            raise ValueError("the descriptor must have a tag")
        if self._is_taken(tag):
            raise ValueError(f"tag must be of no job whose report is still to be taken, not {tag!r}")
        return tag

    def _raise_refused(self, error: BusError) -> NoReturn:
        """Raise what REJECT says of a doorbell that was answered with `error`."""
        reject = self.map["REJECT"].unpack(self._read("REJECT"))
        reason = {int(one): one for one in RejectReason}.get(reject["reason"], reject["reason"])
        if reason == RejectReason.NONE:
            raise DeviceError(f"the doorbell was answered with an error, and REJECT has no reason: {error}") from error
        raise JobRejectedError(reason, None if reject["word"] == NO_WORD else reject["word"]) from None

    def run_fields(
        self,
        values: dict[str, int],
        *,
        writes: Sequence[Operation] = (),
        readings: Sequence[Reading[Any]] = (),
        later: Sequence[Reading[Any]] = (),
        timeout_cycles: int = JOB_CYCLES,
    ) -> Report:
        """Run a job that is given as all the fields of its descriptor, as `run` does."""
        tag = self._checked_tag(values)
        new_words = self._new_words(values)
        if not self._wait_until(lambda: not self._waiting, timeout_cycles):
            raise DeviceTimeoutError(f"the jobs before it were not done within {timeout_cycles} cycles")
        clear = self._writing("CONTROL", self.map["CONTROL"].pack(clear_counters=1))
        enable = self.map["INTERRUPT_ENABLE"].unpack(self._settings["INTERRUPT_ENABLE"])
        report = None
        if all(enable.values()):
            start = [
                *writes,
                *(self._writing(f"JOB{word}", value) for word, value in new_words.items()),
                clear,
                self._writing("DOORBELL", DESCRIPTOR_VERSION),
            ]
            report = self._run_at_once(tag, new_words, start, readings, timeout_cycles)
        else:  # nothing but looks at STATUS tells when the job is done
            self._execute_and_take(self._put_off.take(), [*writes, clear])
        if report is None:
            if not self._is_taken(tag):
                self.submit_fields(values, timeout_cycles=timeout_cycles)
            report = self.wait(tag, timeout_cycles=timeout_cycles)
            self._execute_and_take(readings, [])
        self._put_off.put_off(later)
        return report

    def _run_at_once(
        self,
        tag: int,
        new_words: dict[int, int],
        start: Sequence[Operation],
        readings: Sequence[Reading[Any]],
        timeout_cycles: int,
    ) -> Report | None:
        """Run a job in one batch: `start`, which ends with the doorbell, a wait, the report and `readings`.

        None where the report is still to be waited for: the accelerator drained, or a job that another program queued
        took the room or raised the interrupt. What `readings` read is then to be read again.
        """
        look = self._reads(["STATUS", *(register.name for register in self.map.reports)])
        end = [WaitInterrupt(timeout_cycles=timeout_cycles), *look, self._writing("REPORT_POP", 1)]
        last = [operation for reading in readings for operation in reading.operations]
        rung = len(start) - 1
        written = range(rung - 1 - len(new_words), rung - 1)
        for word in new_words:  # whether a write that fails has changed the word is not known
            self._words.pop(word, None)
        answers: Sequence[Answer] = ()
        try:
            answers = self._execute_and_take(self._put_off.take(), [*start, *end, *last])
        except TransportError as error:
            answers = error.answers
            if not isinstance(error, BusError) or len(answers) != rung:
                raise
            status = self.status()
            if status["failed"]:
                self._fail()
            if not status["draining"] and status["queue_free"]:
                self._raise_refused(error)
            return None
        finally:
            done = zip(written, new_words.items(), strict=True)
            self._words |= dict(item for place, item in done if place < len(answers))
            if rung < len(answers) < len(start) + len(end):  # queued, and its report not taken yet
                self._waiting.append(tag)
        if len(answers) == len(start) + 1:
            # The time is over: a last look.
            if not self._wait_until(lambda: tag in self._reports, 0):
                self._raise_late(tag, timeout_cycles)
            return None
        self._waiting.append(tag)
        status_word, *words = answers[len(start) + 1 : len(start) + 1 + len(look)]
        assert isinstance(status_word, int)
        status = self.map["STATUS"].unpack(status_word)
        if status["failed"]:
            self._fail()
        if not status["reports"]:
            return None
        self._keep(self._report_of(words))
        self._take_answers(readings, answers[len(start) + len(end) :])
        return self._reports.pop(tag)

    def write_descriptor(self, values: dict[str, int]) -> None:
        """Write the words of the descriptor that differ from those of the job before; `values` has all fields.

        Raises ValueError for a field that is missing or unknown, or too large a value; nothing is written then.
        """
        for word, value in self._new_words(values).items():
            # Whether a write that fails has changed the word is not known.
            self._words.pop(word, None)
            self._write(f"JOB{word}", value)
            self._words[word] = value

    def _new_words(self, values: dict[str, int]) -> dict[int, int]:
        """The words of the descriptor that differ from those of the job before, by number."""
        words: dict[int, int] = {}
        for name, value in values.items():
            field = self._fields.get(name)
            if field is None:
                raise ValueError(f"the descriptor has no field {name!r}")
            if not 0 <= value < 1 << field.width:
                raise ValueError(f"{name} must be 0 to {(1 << field.width) - 1}, not {value!r}")
            words[field.word] = words.get(field.word, 0) | value << field.bit
        missing = [name for name in self._fields if name not in values]
        if missing:
            raise ValueError(f"the descriptor must have all fields, also {', '.join(missing)}")
        return {word: value for word, value in words.items() if self._words.get(word) != value}

    def wait(self, tag: int, *, timeout_cycles: int = JOB_CYCLES, progress: Callable[[], Any] | None = None) -> Report:
        """The report of a job, which is given once. `progress` is called now and then.

        Raises `DeviceTimeoutError` after so many cycles, in which case the job may be waited for again,
        `DeviceFailedError` if the accelerator stops, and ValueError for a tag that no job has: none was queued with it,
        its report was given, or it was lost in a failure or a reset.
        """

        def is_done() -> bool:
            if not self._is_taken(tag):
                raise ValueError(f"no job with the tag {tag!r} is waited for")
            return tag in self._reports

        if not self._wait_until(is_done, timeout_cycles, progress):
            self._raise_late(tag, timeout_cycles)
        return self._reports.pop(tag)

    def _raise_late(self, tag: int, timeout_cycles: int) -> NoReturn:
        raise DeviceTimeoutError(f"the job with the tag {tag} was not done within {timeout_cycles} cycles")

    def _wait_until(
        self, holds: Callable[[], bool], timeout_cycles: int, progress: Callable[[], Any] | None = None
    ) -> bool:
        """Take reports until `holds()`; False if it does not after `timeout_cycles` without a report."""
        left = timeout_cycles
        while not holds():
            if self._take_report():
                continue
            if left <= 0:
                return False
            part = min(left, SLICE_CYCLES)
            # How long a wait lasted that an interrupt ended is not known. Only a wait that brought a report is free:
            # with interrupts but no reports this loop must come to an end, too.
            if not (self._wait_for_interrupt(part) and self._take_report()):
                left -= part
            if progress is not None:
                progress()
        return True

    def _wait_for_interrupt(self, cycles: int) -> bool:
        return self._open_transport().wait_for_interrupt(timeout_cycles=cycles)

    def _take_report(self) -> bool:
        """Take a report if there is one; raise `DeviceFailedError` if the accelerator has stopped."""
        status = self.status()
        if status["failed"]:
            self._fail()
        if not status["reports"]:
            return False
        self._keep(self._pop_report())
        return True

    def _keep(self, report: Report) -> Report:
        """Keep a report that was taken for who asks for it."""
        if report.tag not in self._waiting:
            raise DeviceError(f"a job reported with the tag {report.tag}, which this driver did not queue")
        self._waiting.remove(report.tag)
        self._reports[report.tag] = report
        return report

    def take_report(self) -> Report:
        """The oldest report in the queue, whatever its job, for programs that ring the doorbell without `submit`.

        Raises `DeviceError` if there is none.
        """
        if not self.status()["reports"]:
            raise DeviceError("no report waits")
        return self._pop_report()

    def _pop_report(self) -> Report:
        reads = self._reads(register.name for register in self.map.reports)
        words = self._execute([*reads, self._writing("REPORT_POP", 1)])
        return self._report_of(words[: len(reads)])

    def _report_of(self, words: Sequence[Any]) -> Report:
        """The report that the words of the REPORT registers are."""
        values: dict[str, Any] = {}
        for register, word in zip(self.map.reports, words, strict=True):
            values |= register.unpack(word)
        for name in ("live_heads", "kept_heads", "heads_saturated"):
            values[name] = np.flatnonzero([values[name] >> head & 1 for head in range(self.config.heads_max)])
        return Report(**values)

    def close(self) -> None:
        """Let go of the transport; closing again does nothing. What was put off and can be asked for is read first."""
        if not self._is_closed:
            self._settle_or_lose("the device was closed, and the accelerator did not answer before")
            self._is_closed = True
            self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._lose(f"the device was closed after {kind.__name__}")
        self.close()
