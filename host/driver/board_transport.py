"""The transport to a board on a serial line: batches of operations as frames of `spec.link_protocol`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import serial

from spatten.host.driver.board import PortError
from spatten.host.driver.errors import LinkError, LinkLostError, LinkTimeoutError, WrongBitstreamError
from spatten.host.driver.operations import (
    Answer,
    Operation,
    ReadMemory,
    ReadRegister,
    WaitInterrupt,
    WriteMemory,
    WriteRegister,
)
from spatten.host.driver.transport import BusError, Transport, TransportError, TransportTimeoutError
from spatten.spec import link_protocol
from spatten.spec.config import Config
from spatten.spec.link_protocol import (
    BAUD,
    DIVISOR_BITS,
    DIVISOR_MIN,
    OVERHEAD,
    PAYLOAD_MAX,
    SYNC_REPLY,
    SYNC_REQUEST,
    WAIT_UNIT,
    Command,
    FrameReader,
    Identity,
    LinkFormatError,
    LinkStatus,
    Opcode,
    configuration_digest,
    encode_frame,
    following_sequence,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SPEEDS", "BoardTransport", "SerialLine", "open_serial"]

SPEEDS = (3_000_000, 1_000_000)
"""Bits a second that are tried, in this order, before the board's first speed is kept."""
_SPEED_ERROR = 0.02
"""How far the board's speed may be off: over ten bits a fifth of a bit."""
_REPEATS = 4
"""How often a frame is sent again that is not answered."""
_QUIET_SECONDS = 0.25
"""Silence after which no answer is expected any more: beyond `GAP_CYCLES`, and what adapters and systems take."""
_BREAK_SECONDS = 0.1
_BYTE_BITS = 10
_ADDRESS_BITS = 16
"""Of a register, in a command."""
_UNITS_MAX = 0xFFFF
_LEAST_PIECE = 64
"""Bytes of a transfer below which it is not begun in what is left of a frame."""
_NOISE_BYTES = 4 * (PAYLOAD_MAX + OVERHEAD)
"""Bytes without a good frame among them after which no answer is expected any more."""


class SerialLine(Protocol):
    """What is needed of `serial.Serial`."""

    timeout: float | None
    baudrate: int

    @property
    def in_waiting(self) -> int:
        """Bytes that `read` has at once."""

    def read(self, size: int = 1, /) -> bytes:
        """Bytes that have come, at most `size`; fewer after `timeout` seconds."""

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""

    def reset_input_buffer(self) -> None:
        """Forget what has come."""

    def send_break(self, duration: float) -> None:
        """Hold the line low for so many seconds."""

    def close(self) -> None:
        """Let go of the line."""


def open_serial(port: str, *, config: Config) -> BoardTransport:
    """The transport to the board behind a serial device, whose accelerator must be of the configuration `config`.

    Raises `PortError` if the port cannot be opened, `LinkTimeoutError` if nobody answers, and `WrongBitstreamError`.
    """
    try:
        line = serial.Serial(port, BAUD, timeout=_QUIET_SECONDS, write_timeout=5, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        raise PortError(f"{port!r} cannot be opened: {error}") from error
    # An adapter that keeps bytes back for 16 ms makes every round trip as long; some have no such mode.
    if hasattr(line, "set_low_latency_mode"):
        with contextlib.suppress(ValueError, OSError):
            line.set_low_latency_mode(True)
    try:
        return BoardTransport(line, config=config)
    except BaseException:
        line.close()
        raise


class BoardTransport(Transport):
    """The transport to the board at the other end of a serial line, which is closed with the transport.

    Parameters
    ----------
    line : SerialLine
        Such as a `serial.Serial`.
    config : Config
        The configuration that the board's accelerator must have.
    speeds : sequence of int
        Bits a second to try, in this order; the first at which the board answers is kept, else its first speed.
    repeats : int
        How often a frame is sent again that is not answered.

    `identity` is what the bitstream is, `speed` the bits a second of the line, `round_trips` counts the frames that
    were answered. After a `LinkError` every further call raises one.
    """

    def __init__(
        self, line: SerialLine, *, config: Config, speeds: Sequence[int] = SPEEDS, repeats: int = _REPEATS
    ) -> None:
        if config.channels != 1:
            raise ValueError(f"config must have one memory channel, as a board has, not {config.channels!r}")
        if repeats < 0:
            raise ValueError(f"repeats must be at least 0, not {repeats!r}")
        self._line = line
        self._repeats = repeats
        self._reader = FrameReader(SYNC_REPLY, rescans=True)
        self._sequence = 0
        self._ended: str | None = None
        self.round_trips = 0
        self._meet()
        self._check_identity(config)
        self._speed_up(speeds)

    # -- Beginning ----------------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Begin a session at the board's first speed."""
        with self._line_errors():
            self._line.baudrate = self.speed = BAUD
            self._line.send_break(_BREAK_SECONDS)
        self._begin()

    def _begin(self) -> None:
        """Begin a session at the speed that the line has."""
        with self._line_errors():
            self._line.reset_input_buffer()
        self._reader.gap()
        self._sequence = 0
        self._ended = None
        (answer,) = self._exchange([Command(opcode=Opcode.IDENTITY)])
        if answer.status is not LinkStatus.OKAY:
            raise self._end(LinkError(f"the board does not say what it is: {answer.status.what}"))
        try:
            self.identity = Identity.decode(answer.data)
        except LinkFormatError as error:
            raise self._end(WrongBitstreamError(str(error))) from error

    def _check_identity(self, config: Config) -> None:
        if self.identity.digest != configuration_digest(config):
            raise self._end(
                WrongBitstreamError(
                    f"the board's accelerator is another one (of the configuration {self.identity.name!r}) "
                    f"than that of {config.name!r} in this version: write its bitstream to the board"
                )
            )

    def _speed_up(self, speeds: Sequence[int]) -> None:
        """Go on at the first of `speeds` that board and line can do; each is tried twice."""
        for speed in (speed for speed in speeds for _ in range(2)):
            divisor = round(self.identity.clock_hz / speed)
            if not DIVISOR_MIN <= divisor < 1 << DIVISOR_BITS:
                continue
            if abs(self.identity.clock_hz / divisor / speed - 1) > _SPEED_ERROR:
                continue
            try:
                (answer,) = self._exchange([Command(opcode=Opcode.SET_DIVISOR, high=divisor)])
                if answer.status is not LinkStatus.OKAY:
                    continue
                with self._line_errors():
                    self._line.baudrate = self.speed = speed
                self._begin()
            except LinkError:
                # The line cannot do this speed, or the answer was lost and the board has it already: the break brings
                # the board back to its first speed.
                self._meet()
                continue
            return

    # -- Transport ----------------------------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        return 1

    def read_register(self, address: int) -> int:
        (answer,) = self.execute([ReadRegister(address=address)])
        assert isinstance(answer, int)
        return answer

    def write_register(self, address: int, value: int) -> None:
        self.execute([WriteRegister(address=address, value=value)])

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        (answer,) = self.execute([ReadMemory(channel=channel, address=address, size=size)])
        assert isinstance(answer, bytes)
        return answer

    def write_memory(self, channel: int, address: int, data: Buffer) -> None:
        self.execute([WriteMemory(channel=channel, address=address, data=bytes(data))])

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        (answer,) = self.execute([WaitInterrupt(timeout_cycles=timeout_cycles)])
        return bool(answer)

    def reset(self) -> None:
        (answer,) = self._exchange([Command(opcode=Opcode.RESET)])
        if answer.status is not LinkStatus.OKAY:
            raise _error(answer.status)

    def close(self) -> None:
        if self._ended is None:
            self._ended = "the transport is closed"
        self._line.close()

    def execute(self, operations: Iterable[Operation]) -> list[Answer]:
        """As `Transport.execute`; what fits into a frame is sent at once."""
        batch = list(operations)
        answers: list[Answer] = []
        place = _Place()
        while place.index < len(batch):
            frame = self._fill(batch, place)
            if not frame:
                operation = batch[place.index]
                raise BusError(self._why_refused(operation)).of_batch(operation, answers)
            replies = self._exchange([command for command, _ in frame])
            for (command, after), reply in zip(frame, replies, strict=False):
                operation = batch[place.index]
                if reply.status is LinkStatus.EXPIRED:
                    place = _Place(place.index, waited=place.waited + command.high)
                    if place.waited >= _units(operation):
                        return [*answers, 0]
                    break
                if reply.status is not LinkStatus.OKAY:
                    raise _error(reply.status).of_batch(operation, answers)
                data = place.data + reply.data
                if after.index > place.index:
                    answers.append(_answer(operation, data))
                    data = b""
                place = _Place(after.index, after.done, data=data)
        return answers

    def _fill(self, batch: Sequence[Operation], place: _Place) -> list[tuple[Command, _Place]]:
        """The commands of the next frame from `place` on, and where each of them leads."""
        frame: list[tuple[Command, _Place]] = []
        room, reply_room = PAYLOAD_MAX, PAYLOAD_MAX
        while place.index < len(batch):
            operation = batch[place.index]
            if self._why_refused(operation) is not None:
                break
            command, size = _command(operation, place, room, reply_room)
            if command is None or command.size > room or 1 + command.answer_size > reply_room:
                break
            done = place.done + size
            ends = not isinstance(operation, ReadMemory | WriteMemory) or done == _bytes(operation)
            place = _Place(place.index + 1) if ends else _Place(place.index, done)
            frame.append((command, place))
            room -= command.size
            reply_room -= 1 + command.answer_size
        return frame

    def _why_refused(self, operation: Operation) -> str | None:
        """Why an operation is not sent to the board, or None."""
        if isinstance(operation, ReadRegister | WriteRegister):
            return "there is no such register" if operation.address >> _ADDRESS_BITS else None
        if isinstance(operation, WaitInterrupt):
            return None
        if operation.channel != 0:
            return "the board has only channel 0"
        if operation.address + _bytes(operation) > self.identity.memory_bytes:
            return f"the board's memory has {self.identity.memory_bytes} bytes"
        return None

    # -- Frames -------------------------------------------------------------------------------------------------------

    def _exchange(self, commands: Sequence[Command]) -> list[link_protocol.Answer]:
        """Send a frame until it is answered; the answers to its commands."""
        if self._ended is not None:
            raise LinkError(self._ended)
        frame = encode_frame(SYNC_REQUEST, self._sequence, b"".join(command.encode() for command in commands))
        units = sum(command.high for command in commands if command.opcode == Opcode.WAIT)
        quiet = _QUIET_SECONDS + len(frame) * _BYTE_BITS / self.speed
        if units:
            quiet += units * WAIT_UNIT / self.identity.clock_hz
        # Until there is an answer nobody knows whether the number of this frame has been used.
        self._ended = "the link to the board has ended: a call was interrupted"
        for _ in range(1 + self._repeats):
            with self._line_errors():
                self._line.write(frame)
                payload = self._receive(quiet)
            if payload is None:
                continue
            if not payload:
                raise self._end(LinkLostError("the board has forgotten this session: was it reset?"))
            try:
                answers = link_protocol.decode_reply(commands, payload)
            except LinkFormatError as error:
                raise self._end(LinkError(str(error))) from error
            self._sequence = following_sequence(self._sequence)
            self.round_trips += 1
            self._ended = None
            return answers
        raise self._end(
            LinkTimeoutError(f"the board did not answer, although it was asked {1 + self._repeats} times: is it there?")
        )

    def _receive(self, quiet: float) -> bytes | None:
        """The payload of the reply to the frame of now; None if nothing comes for `quiet` seconds, or only noise."""
        self._line.timeout = quiet
        count = 0
        while count <= _NOISE_BYTES:
            data = self._line.read(max(1, self._line.in_waiting))
            if not data:
                break
            count += len(data)
            for sequence, payload in self._reader.feed(data):
                # A reply to the frame before may come twice.
                if sequence == self._sequence:
                    return payload
        self._reader.gap()
        return None

    def _end(self, error: LinkError) -> LinkError:
        """The same error, after which the transport is of no more use."""
        self._ended = f"the link to the board has ended: {error}"
        return error

    @contextlib.contextmanager
    def _line_errors(self) -> Iterator[None]:
        try:
            yield
        except (serial.SerialException, OSError) as error:
            raise self._end(LinkError(f"the serial line failed: {error}")) from error


class _Place:
    """Where in a batch the transport is: `done` bytes of a transfer, `waited` units of a wait, `data` that was read."""

    def __init__(self, index: int = 0, done: int = 0, *, waited: int = 0, data: bytes = b"") -> None:
        self.index = index
        self.done = done
        self.waited = waited
        self.data = data


def _bytes(operation: ReadMemory | WriteMemory) -> int:
    return operation.size if isinstance(operation, ReadMemory) else len(operation.data)


def _units(operation: Operation) -> int:
    assert isinstance(operation, WaitInterrupt)
    return -(-operation.timeout_cycles // WAIT_UNIT)


def _command(operation: Operation, place: _Place, room: int, reply_room: int) -> tuple[Command | None, int]:
    """The command that goes on with an operation, and the bytes of memory that it transfers; None if they are too few
    to begin with."""
    match operation:
        case ReadRegister(address=address):
            return Command(opcode=Opcode.READ_REGISTER, high=address), 0
        case WriteRegister(address=address, value=value):
            return Command(opcode=Opcode.WRITE_REGISTER, high=address, low=value), 0
        case WaitInterrupt():
            return Command(opcode=Opcode.WAIT, high=min(_units(operation) - place.waited, _UNITS_MAX)), 0
    left = _bytes(operation) - place.done
    # Nothing may be asked of the end of the memory, where there is no memory.
    low = operation.address + place.done if left else 0
    is_write = isinstance(operation, WriteMemory)
    opcode = Opcode.WRITE_MEMORY if is_write else Opcode.READ_MEMORY
    size = min(left, room - Command(opcode=opcode).size if is_write else reply_room - 1)
    if size < min(left, _LEAST_PIECE):
        return None, 0
    data = operation.data[place.done : place.done + size] if isinstance(operation, WriteMemory) else b""
    return Command(opcode=opcode, low=low, high=size, data=data), size


def _answer(operation: Operation, data: bytes) -> Answer:
    """The answer to an operation that was done, for which the board has sent `data`."""
    match operation:
        case ReadRegister():
            return int.from_bytes(data, "little")
        case ReadMemory():
            return data
        case WaitInterrupt():
            return 1
        case _:
            return None


def _error(status: LinkStatus) -> TransportError:
    if status is LinkStatus.TIMEOUT:
        return TransportTimeoutError(status.what)
    if status in (LinkStatus.SLAVE_ERROR, LinkStatus.DECODE_ERROR):
        return BusError(status.what)
    return LinkError(status.what)
