"""The transport over a serial line, against the reference of the link, with and without faults on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from spatten.host.driver import board_transport
from spatten.host.driver.board import PortError
from spatten.host.driver.board_transport import BoardTransport, open_serial
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
from spatten.sim.verify.link_reference import EchoRegisters
from spatten.spec.config import TINY, ULX3S
from spatten.spec.link_protocol import PAYLOAD_MAX, WAIT_UNIT, LinkStatus
from tests.host.driver.serial_board import MEMORY_BYTES, SerialBoard


@pytest.fixture
def board() -> SerialBoard:
    return SerialBoard()


@pytest.fixture
def transport(board: SerialBoard) -> Iterator[BoardTransport]:
    with BoardTransport(board, config=ULX3S) as opened:
        yield opened
    assert not board.is_open


class Direct(Transport):
    """The same board without a link: what every batch must come to."""

    channels = 1

    def __init__(self) -> None:
        self.registers = EchoRegisters()
        self.memory = bytearray(MEMORY_BYTES)

    def _check(self, status: LinkStatus) -> None:
        if status is not LinkStatus.OKAY:
            raise BusError(status.what)

    def read_register(self, address: int) -> int:
        status, value = self.registers.read(address)
        self._check(status)
        return value

    def write_register(self, address: int, value: int) -> None:
        self._check(self.registers.write(address, value))

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])

    def write_memory(self, channel: int, address: int, data: Any) -> None:
        self.memory[address : address + len(data)] = data

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        return timeout_cycles > 100_000

    def reset(self) -> None: ...

    def close(self) -> None: ...


def test_operations_one_by_one(board: SerialBoard, transport: BoardTransport) -> None:
    reference = EchoRegisters()
    transport.write_register(0x40, 0x1234_5678)
    reference.write(0x40, 0x1234_5678)
    assert transport.read_register(0x40) == reference.read(0x40)[1]
    assert transport.read_register(0x40) == reference.read(0x40)[1]
    transport.write_memory(0, 101, bytearray(b"memory"))
    assert transport.read_memory(0, 100, 8) == b"\0memory\0"
    assert transport.channels == 1
    transport.reset()
    assert board.resets == 1
    assert board.reference.registers.log == reference.log
    assert (transport.speed, board.baudrate, board.breaks) == (3_000_000, 3_000_000, 1)


def test_a_batch_takes_one_round_trip(transport: BoardTransport) -> None:
    before = transport.round_trips
    data = bytes(range(256)) * 8
    answers = transport.execute(
        [
            WriteMemory(channel=0, address=1, data=data),
            *(WriteRegister(address=4 * word, value=word) for word in range(60)),
            WaitInterrupt(timeout_cycles=0),
            ReadRegister(address=0),
        ]
    )
    assert answers == [None] * 61 + [0], "the wait ends the batch"
    assert transport.round_trips == before + 1
    assert transport.execute([ReadMemory(channel=0, address=1, size=2048), ReadRegister(address=4)])[0] == data
    assert transport.round_trips == before + 2
    assert transport.execute([]) == []
    assert transport.round_trips == before + 2


def test_long_transfers_are_split(board: SerialBoard, transport: BoardTransport) -> None:
    data = random.Random(1).randbytes(MEMORY_BYTES - 3)
    before = transport.round_trips
    transport.write_memory(0, 3, data)
    assert board.reference.memory[3:] == data
    assert transport.read_memory(0, 3, len(data)) == data
    assert transport.round_trips - before == 2 * -(-len(data) // (PAYLOAD_MAX - 7))
    assert transport.read_memory(0, MEMORY_BYTES, 0) == b""


@pytest.mark.parametrize("after", [0, 1, 65535, 65536, 200_000, None])
def test_waits_are_sent_in_pieces(board: SerialBoard, transport: BoardTransport, after: int | None) -> None:
    board.interrupt_units = after
    units = 250_000
    answers = transport.execute([WaitInterrupt(timeout_cycles=units * WAIT_UNIT - 1), ReadRegister(address=4)])
    if after is None:
        assert answers == [0]
        assert sum(board.waits) == units
    else:
        assert answers == [1, EchoRegisters().read(4)[1]]
        assert len(board.waits) == max(1, -(-after // 65535))
    assert max(board.waits) <= 65535


def test_errors_are_those_of_the_operation(board: SerialBoard, transport: BoardTransport) -> None:
    first, second = WriteRegister(address=8, value=1), ReadRegister(address=4)
    for operation, text in (
        (ReadRegister(address=EchoRegisters.SLAVE_ERRORS), "SLVERR"),
        (WriteRegister(address=EchoRegisters.DECODE_ERRORS, value=1), "DECERR"),
        (ReadRegister(address=1 << 20), "no such register"),
        (ReadMemory(channel=1, address=0, size=4), "only channel 0"),
        (WriteMemory(channel=0, address=MEMORY_BYTES - 1, data=b"ab"), "65536 bytes"),
    ):
        registers = board.reference.registers
        assert isinstance(registers, EchoRegisters)
        registers.log.clear()
        with pytest.raises(BusError, match=text) as caught:
            transport.execute([first, second, operation, WriteRegister(address=12, value=3)])
        assert caught.value.operation == operation
        assert len(caught.value.answers) == 2
        assert ("write", 12, 3) not in registers.log
        assert registers.log[0] == ("write", 8, 1)


def test_what_is_never_answered_is_a_timeout(board: SerialBoard, transport: BoardTransport) -> None:
    board.reference.registers.read = lambda _address: (LinkStatus.TIMEOUT, 0)  # type: ignore[method-assign]
    with pytest.raises(TransportTimeoutError):
        transport.read_register(4)
    transport.write_register(4, 1)


# -- Faults -----------------------------------------------------------------------------------------------------------


def _damaged(source: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    place = source.randrange(len(changed))
    match source.choice(["flip", "drop", "insert", "cut", "lost", "burst", "twice", "noise"]):
        case "flip":
            changed[place] ^= 1 << source.randrange(8)
        case "drop":
            del changed[place]
        case "insert":
            changed.insert(place, source.getrandbits(8))
        case "cut":
            del changed[place:]
        case "lost":
            changed.clear()
        case "burst":
            changed[place : place + 6] = source.randbytes(6)
        case "twice":
            changed *= 2
        case "noise":
            changed[:0] = source.randbytes(9)
    return bytes(changed)


_OPERATIONS = st.one_of(
    st.builds(ReadRegister, address=st.integers(0, 20).map(lambda word: 4 * word)),
    st.builds(WriteRegister, address=st.integers(0, 20).map(lambda word: 4 * word), value=st.integers(0, 0xFFFF_FFFF)),
    st.builds(ReadRegister, address=st.just(EchoRegisters.SLAVE_ERRORS)),
    st.builds(ReadMemory, channel=st.just(0), address=st.integers(0, 40_000), size=st.integers(0, 5000)),
    st.builds(
        WriteMemory,
        channel=st.just(0),
        address=st.integers(0, 40_000),
        data=st.integers(0, 5000).map(lambda size: random.Random(size).randbytes(size)),
    ),
    st.builds(WaitInterrupt, timeout_cycles=st.sampled_from([0, 100_000])),
)


@given(batches=st.lists(st.lists(_OPERATIONS, max_size=8), max_size=3), seed=st.integers(0, 1 << 32))
def test_batches_come_to_the_same_over_a_bad_line(batches: list[list[Operation]], seed: int) -> None:
    """Every operation is executed once, although a third of the frames is damaged on the way, in each direction."""
    source = random.Random(seed)
    board, direct = SerialBoard(), Direct()
    transport = BoardTransport(board, config=ULX3S, repeats=60)
    board.fault = lambda _way, data: _damaged(source, data) if source.random() < 0.3 else data
    for batch in batches:
        outcomes: list[tuple[list[Answer], Operation | None]] = []
        for one in (transport, direct):
            try:
                outcomes.append((one.execute(batch), None))
            except BusError as error:
                outcomes.append((list(error.answers), error.operation))
        assert outcomes[0] == outcomes[1]
    assert isinstance(board.reference.registers, EchoRegisters)
    assert board.reference.registers.log == direct.registers.log
    assert board.reference.memory == direct.memory


def test_a_repeated_frame_is_not_executed_again(board: SerialBoard, transport: BoardTransport) -> None:
    lost = iter([True, True, False])
    board.fault = lambda way, data: b"" if way == "reply" and next(lost) else data
    executed = board.reference.executed
    assert transport.read_register(4) == EchoRegisters().read(4)[1]
    assert board.reference.executed == executed + 1


def _silent(board: SerialBoard) -> None:
    board.fault = lambda _way, _data: b""


def _noisy(board: SerialBoard) -> None:
    board.fault = lambda way, data: data if way == "request" else bytes(200_000)


def _restarted(board: SerialBoard) -> None:
    board.reference.restart()
    board.speeds = {board.baudrate}
    board.reference.divisor = round(80e6 / board.baudrate)


def _unplugged(board: SerialBoard) -> None:
    board.unplugged = True


@pytest.mark.parametrize(
    ("breaks", "error", "text"),
    [
        (_silent, LinkTimeoutError, "did not answer, although it was asked 5 times"),
        (_noisy, LinkTimeoutError, "did not answer"),
        (_restarted, LinkLostError, "was it reset"),
        (_unplugged, LinkError, "the serial line failed: device disconnected"),
    ],
)
def test_a_broken_link_ends(
    board: SerialBoard,
    transport: BoardTransport,
    breaks: Callable[[SerialBoard], None],
    error: type[LinkError],
    text: str,
) -> None:
    breaks(board)
    with pytest.raises(error, match=text):
        transport.read_register(4)
    board.fault = lambda _way, data: data
    board.unplugged = False
    executed = board.reference.executed
    with pytest.raises(LinkError, match="the link to the board has ended"):
        transport.read_register(4)
    assert board.reference.executed == executed


def test_a_board_that_was_reset_speaks_slowly_and_ends_the_link(board: SerialBoard, transport: BoardTransport) -> None:
    board.reference.restart()
    with pytest.raises(LinkTimeoutError):
        transport.read_register(4)


def test_an_interrupted_call_ends_the_link(board: SerialBoard, transport: BoardTransport) -> None:
    """The board may have executed the frame, so that its number must not be used for another one."""

    def interrupt(way: str, data: bytes) -> bytes:
        if way == "reply":
            raise KeyboardInterrupt
        return data

    board.fault = interrupt
    with pytest.raises(KeyboardInterrupt):
        transport.read_register(4)
    board.fault = lambda _way, data: data
    with pytest.raises(LinkError, match="interrupted"):
        transport.read_register(4)


def test_a_closed_transport_is_of_no_use(board: SerialBoard) -> None:
    transport = BoardTransport(board, config=ULX3S)
    transport.close()
    transport.close()
    with pytest.raises(TransportError, match="the transport is closed"):
        transport.read_register(4)


# -- Beginning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speeds", "wanted"), [({115_200, 1_000_000}, 1_000_000), ({115_200}, 115_200)])
def test_a_slower_line_is_used_at_its_speed(board: SerialBoard, speeds: set[int], wanted: int) -> None:
    board.speeds = speeds
    transport = BoardTransport(board, config=ULX3S)
    assert transport.speed == board.baudrate == wanted
    assert transport.read_register(4) == EchoRegisters().read(4)[1]


def test_a_lost_answer_to_the_change_of_speed_is_got_over(board: SerialBoard) -> None:
    replies = iter(range(100))
    board.fault = lambda way, data: b"" if way == "reply" and next(replies) == 1 else data
    transport = BoardTransport(board, config=ULX3S)
    assert (transport.speed, board.breaks) == (3_000_000, 2)


def test_a_program_goes_on_where_another_one_ended(board: SerialBoard) -> None:
    first = BoardTransport(board, config=ULX3S)
    board.fault = lambda way, data: data[:-3] if way == "request" else data
    with pytest.raises(LinkTimeoutError):
        first.write_register(4, 1)
    board.fault = lambda _way, data: data
    second = BoardTransport(board, config=ULX3S)
    second.write_register(4, 2)
    registers = board.reference.registers
    assert isinstance(registers, EchoRegisters)
    assert registers.log == [("write", 4, 2)]


def test_another_bitstream_is_refused() -> None:
    with pytest.raises(WrongBitstreamError, match=r"of the configuration 'tiny'\) than that of 'ulx3s'"):
        BoardTransport(SerialBoard(TINY), config=ULX3S)
    assert WrongBitstreamError.exit_status == 2


def test_something_else_at_the_port_is_no_board() -> None:
    board = SerialBoard()
    board.fault = lambda way, data: data if way == "request" else b"login: "
    with pytest.raises(LinkTimeoutError, match="is it there"):
        BoardTransport(board, config=ULX3S)


def test_parameters_are_validated(board: SerialBoard) -> None:
    with pytest.raises(ValueError, match="config must have one memory channel, as a board has, not 2"):
        BoardTransport(board, config=TINY)
    with pytest.raises(ValueError, match="repeats must be at least 0, not -1"):
        BoardTransport(board, config=ULX3S, repeats=-1)


def test_a_port_is_opened_with_low_latency(monkeypatch: pytest.MonkeyPatch, board: SerialBoard) -> None:
    monkeypatch.setattr(board_transport.serial, "Serial", lambda *_args, **_options: board)
    with open_serial("/dev/ttyUSB0", config=ULX3S) as transport:
        assert transport.speed == 3_000_000
        assert board.low_latency
    other = SerialBoard(TINY)
    monkeypatch.setattr(board_transport.serial, "Serial", lambda *_args, **_options: other)
    with pytest.raises(WrongBitstreamError):
        open_serial("/dev/ttyUSB0", config=ULX3S)
    assert not other.is_open


def test_a_port_that_is_none_cannot_be_opened() -> None:
    with pytest.raises(PortError, match="'/dev/nowhere' cannot be opened") as caught:
        open_serial("/dev/nowhere", config=ULX3S)
    assert isinstance(caught.value.__cause__, serial.SerialException)
