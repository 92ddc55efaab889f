"""What can go wrong between a driver and its accelerator."""

from __future__ import annotations

from spatten.host.driver.transport import TransportError
from spatten.spec.errors import SpattenError
from spatten.spec.register_map import ErrorCode, RejectReason

__all__ = [
    "AddressRangeError",
    "DeviceError",
    "DeviceFailedError",
    "DeviceTimeoutError",
    "JobRejectedError",
    "LinkError",
    "LinkLostError",
    "LinkTimeoutError",
    "OutOfMemoryError",
    "WrongBitstreamError",
    "undrained",
]


class DeviceError(SpattenError, RuntimeError):
    """The accelerator did not do what was asked."""

    exit_status = 1


class JobRejectedError(DeviceError):
    """The doorbell refused a job.

    `reason` says why, a `RejectReason` where this driver knows it; `word` is the descriptor's word at fault, or None.
    """

    def __init__(self, reason: int, word: int | None) -> None:
        where = "" if word is None else f" (word {word} of the descriptor)"
        what = reason.what if isinstance(reason, RejectReason) else f"unknown reason {reason}"
        super().__init__(f"the job was refused: {what}{where}")
        self.reason = reason
        self.word = word


class DeviceFailedError(DeviceError):
    """The accelerator stopped; all jobs in flight, their reports and every context are lost.

    `code` says why, an `ErrorCode` where this driver knows it. `channel` is the channel of a bus error, and
    `is_write` whether that error answered a write; both are None for other errors. `stuck` names the channels that do
    not answer, and `drained` is False where the accelerator still waits for what the channels have in flight.
    """

    def __init__(
        self,
        code: int,
        channel: int | None,
        stuck: list[int],
        *,
        is_write: bool | None = None,
        drained: bool = True,
    ) -> None:
        why = code.what if isinstance(code, ErrorCode) else f"unknown error {code}"
        where = "" if channel is None else f" (channel {channel})"
        what = f"; it still drains: {undrained([])}" if not drained and not stuck else ""
        if stuck:
            what = f"; {undrained(stuck)}: reset both sides"
        super().__init__(f"the accelerator stopped: {why}{where}{what}")
        self.code = code
        self.channel = channel
        self.is_write = is_write
        self.stuck = stuck
        self.drained = drained


def undrained(stuck: list[int]) -> str:
    """Why the accelerator does not drain."""
    if stuck:
        return f"channels {stuck} do not answer"
    return "no channel is named, since TIMEOUT has not passed since the drain began, or is 0"


class DeviceTimeoutError(DeviceError):
    """What was waited for did not happen in time: a job's end, room in the job queue, the end of a drain."""


class OutOfMemoryError(DeviceError):
    """There is no free region of memory that is large enough."""

    exit_status = 2


class AddressRangeError(DeviceError):
    """A region that a job reads or writes would end beyond the memory that there is.

    Beyond the last sector that the accelerator can address the region would go on at sector 0. `field` is the
    descriptor's field with the region's first sector, `end` the sector behind its last.
    """

    def __init__(self, field: str, first: int, end: int, limit: int, what: str) -> None:
        super().__init__(f"{field} begins at sector {first} and would end at {end}: {what} {limit} sectors")
        self.field = field
        self.end = end


class LinkError(TransportError):
    """The line to a board failed, or what came over it makes no sense; the transport is of no more use."""


class LinkTimeoutError(LinkError):
    """A board did not answer, although it was asked several times; whether it did what was asked is not known."""


class LinkLostError(LinkError):
    """A board knows nothing of the session: it was reset, or configured anew, or another program has begun one."""


class WrongBitstreamError(LinkError):
    """A board has another accelerator than the one that is wanted, or none."""

    exit_status = 2
