"""Frames, commands and replies of the link between host and board, and its reference."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.sim.verify.link_reference import EchoRegisters, LinkReference
from spatten.spec.config import TINY, ULX3S
from spatten.spec.link_protocol import (
    OVERHEAD,
    PAYLOAD_MAX,
    SYNC_REPLY,
    SYNC_REQUEST,
    Answer,
    Command,
    FrameReader,
    Identity,
    LinkFormatError,
    LinkStatus,
    Opcode,
    configuration_digest,
    decode_commands,
    decode_reply,
    encode_frame,
    following_sequence,
)

IDENTITY = Identity.of(ULX3S, clock_hz=80_000_000, memory_bytes=1 << 25)


def test_a_frame_byte_by_byte() -> None:
    body = bytes([2, 0, 7, 0x10, 0x20])
    frame = encode_frame(SYNC_REQUEST, 7, b"\x10\x20")
    assert frame == b"\xa5" + body + zlib.crc32(body).to_bytes(4, "little")
    assert len(frame) == 2 + OVERHEAD
    with pytest.raises(ValueError, match="payload must have at most 4095 bytes, not 4096"):
        encode_frame(SYNC_REQUEST, 0, bytes(PAYLOAD_MAX + 1))


def test_commands_byte_by_byte() -> None:
    for command, text in (
        (Command(opcode=Opcode.RESET), "01"),
        (Command(opcode=Opcode.READ_REGISTER, high=0x123), "11 2301"),
        (Command(opcode=Opcode.WRITE_REGISTER, low=0x01020304, high=0x40), "31 04030201 4000"),
        (Command(opcode=Opcode.WRITE_MEMORY, low=5, high=2, data=b"\xaa\xbb"), "33 05000000 0200 aabb"),
    ):
        assert command.encode() == bytes.fromhex(text)
        assert command.size == len(command.encode())


@given(
    frames=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=5),
    chunk=st.integers(1, 50),
    rescans=st.booleans(),
)
def test_frames_are_found_in_any_pieces(frames: list[tuple[int, bytes]], chunk: int, rescans: bool) -> None:
    line = b"".join(encode_frame(SYNC_REPLY, *frame) for frame in frames)
    reader = FrameReader(SYNC_REPLY, rescans=rescans)
    found = [frame for start in range(0, len(line), chunk) for frame in reader.feed(line[start : start + chunk])]
    assert found == frames
    assert reader.bad == 0


@given(payload=st.binary(max_size=40), data=st.data())
def test_a_damaged_frame_is_none(payload: bytes, data: st.DataObject) -> None:
    """Any burst of up to 32 bits is found out by the CRC, and any change of the length by what follows."""
    frame = bytearray(encode_frame(SYNC_REQUEST, 9, payload))
    place = data.draw(st.integers(0, len(frame) - 4))
    change = data.draw(st.binary(min_size=4, max_size=4).filter(any))
    frame[place : place + 4] = bytes(old ^ new for old, new in zip(frame[place : place + 4], change, strict=True))
    reader = FrameReader(SYNC_REQUEST, rescans=True)
    assert reader.feed(bytes(frame)) == []
    reader.gap()
    good = encode_frame(SYNC_REQUEST, 10, payload)
    assert reader.feed(good) == [(10, payload)]


def test_a_false_beginning_is_skipped_alone_only_where_bytes_are_kept() -> None:
    good = encode_frame(SYNC_REPLY, 3, b"data")
    line = bytes([SYNC_REPLY, 4, 0]) + good
    assert FrameReader(SYNC_REPLY, rescans=True).feed(line) == [(3, b"data")]
    assert FrameReader(SYNC_REPLY, rescans=False).feed(line) == []
    too_long = bytes([SYNC_REPLY, 0, 0x10]) + good
    reader = FrameReader(SYNC_REPLY, rescans=False)
    assert reader.feed(too_long) == [(3, b"data")]
    assert reader.bad == 1


def test_sequence_numbers_leave_out_zero() -> None:
    assert [following_sequence(number) for number in (0, 1, 254, 255)] == [1, 2, 255, 1]


def test_incomplete_commands_end_a_batch() -> None:
    whole = Command(opcode=Opcode.WRITE_MEMORY, low=5, high=2, data=b"ab")
    assert list(decode_commands(whole.encode() * 2)) == [whole, whole]
    for cut in (1, 3, 8):
        assert list(decode_commands(whole.encode() + whole.encode()[:cut])) == [whole, None]


def test_replies_are_checked_against_their_commands() -> None:
    commands = [Command(opcode=Opcode.READ_REGISTER, high=4), Command(opcode=Opcode.WAIT)]
    word = Answer(status=LinkStatus.OKAY, data=b"abcd")
    expired = Answer(status=LinkStatus.EXPIRED)
    assert decode_reply(commands, word.encode() + expired.encode()) == [word, expired]
    assert decode_reply(commands, bytes([LinkStatus.SLAVE_ERROR])) == [Answer(status=LinkStatus.SLAVE_ERROR)]
    for payload, text in (
        (b"\x00abc", "3 bytes of data where 4 belong"),
        (b"\x63", "status 99"),
        (word.encode(), "none to these 2 commands"),
        (word.encode() + b"\0\0", "none to these 2 commands"),
        (b"\x02\x00", "none to these 2 commands"),
    ):
        with pytest.raises(LinkFormatError, match=text):
            decode_reply(commands, payload)


def test_identity() -> None:
    data = IDENTITY.encode()
    assert len(data) == Identity.SIZE == 48
    assert Identity.decode(data) == IDENTITY
    with pytest.raises(LinkFormatError, match="this is no such board"):
        Identity.decode(bytes(48))
    with pytest.raises(LinkFormatError, match="version 2 of the protocol"):
        Identity.decode(data[:4] + b"\2" + data[5:])
    assert configuration_digest(TINY) != configuration_digest(ULX3S)
    assert len({configuration_digest(config) for config in (TINY, ULX3S)}) == 2


def test_the_reference_keeps_a_session() -> None:
    registers = EchoRegisters()
    link = LinkReference(IDENTITY, registers=registers, memory=bytearray(64))
    hello = Command(opcode=Opcode.IDENTITY).encode()
    read = Command(opcode=Opcode.READ_REGISTER, high=4).encode()

    def ask(sequence: int, payload: bytes) -> bytes:
        ((found, answer),) = FrameReader(SYNC_REPLY, rescans=True).feed(
            link.receive(encode_frame(SYNC_REQUEST, sequence, payload))
        )
        assert found == sequence
        return answer

    assert ask(1, read) == b"", "no session"
    assert ask(0, read) == bytes([LinkStatus.REFUSED])
    assert ask(0, hello) == b"\0" + IDENTITY.encode()
    first = ask(1, read)
    assert ask(1, read) == first
    assert len(registers.log) == 1
    second = ask(2, read)
    assert second != first
    assert ask(1, read) == ask(4, read) == b"", "out of order"
    assert ask(2, read) == second
    link.restart()
    assert ask(3, read) == b""
    with pytest.raises(ValueError, match="memory must have a power of two of bytes, not 63"):
        LinkReference(IDENTITY, registers=registers, memory=bytearray(63))


def test_noise_is_no_frame() -> None:
    source = random.Random(1)
    reader = FrameReader(SYNC_REQUEST, rescans=True)
    assert not reader.feed(source.randbytes(20_000))
    assert reader.bad > 10
