"""The AXI4 checker accepts legal traffic, and notices each way to break the protocol."""

from __future__ import annotations

import random
from typing import Any

import pytest

from spatten.sim.verify.axi_checker import CHANNELS, AxiChecker, AxiError, AxiRules

IDLE = {f"{channel}{name}": 0 for channel in CHANNELS for name in ("valid", "ready")}


def aw(address: int = 0, length: int = 0, *, ready: int = 1, prefix: str = "aw", **members: int) -> dict[str, int]:
    """An address of one or more 32-byte beats."""
    values = {"id": 0, "addr": address, "len": length, "size": 5, "burst": 1, "cache": 3, "prot": 0, **members}
    return {f"{prefix}{name}": value for name, value in {**values, "valid": 1, "ready": ready}.items()}


def ar(address: int = 0, length: int = 0, **members: int) -> dict[str, int]:
    return aw(address, length, prefix="ar", **members)


def w(last: int, *, ready: int = 1, data: int = 7, strb: int = 2**32 - 1) -> dict[str, int]:
    return {"wvalid": 1, "wready": ready, "wdata": data, "wstrb": strb, "wlast": last}


def b(resp: int = 0, *, ready: int = 1, id: int = 0) -> dict[str, int]:
    return {"bvalid": 1, "bready": ready, "bresp": resp, "bid": id}


def r(last: int, resp: int = 0, *, ready: int = 1, id: int = 0, data: int = 3) -> dict[str, int]:
    return {"rvalid": 1, "rready": ready, "rresp": resp, "rid": id, "rdata": data, "rlast": last}


def observe(*cycles: dict[str, int], finish: bool = True) -> AxiRules:
    rules = AxiRules(data_bits=256, name="port")
    for cycle, values in enumerate(cycles):
        rules.observe(cycle, {**IDLE, **values})
    if finish:
        rules.finish()
    return rules


@pytest.mark.parametrize(
    "cycles",
    [
        [],
        [aw(), w(1), b()],
        [aw() | w(1), b()],
        [w(1), aw(), b()],
        [w(0), w(1), w(1), aw(0, 1), aw(), b(), b()],
        [w(0), aw(64, 1), w(1), b()],
        [aw(0, 1), aw(4096), w(0), w(1), w(1), b(), b()],
        [aw(ready=0), aw(ready=0), aw(), w(1, ready=0), w(1), b(ready=0), b()],
        [aw(id=1), aw(id=0), w(1), w(1), b(id=0), b(id=1)],
        [aw() | ar(), w(1) | r(1), b(2)],
        [ar(0, 1), ar(4096 - 32), r(0), r(1, 3), r(1)],
        [ar(0, 1, id=1), ar(id=0), r(0, id=1), r(1, id=0), r(1, id=1)],
        [ar(4096 - 256 * 16, 255, size=4), *[r(0)] * 255, r(1)],
        [ar(96, 3, burst=2), *[r(0)] * 3, r(1)],
        [ar(96, 15, burst=0), *[r(0)] * 15, r(1)],
        [ar(8, 0, size=2), r(1)],
        # Unaligned first beats.
        [ar(4095, 0), r(1)],
        [ar(4096 - 33, 1), r(0), r(1)],
    ],
)
def test_legal_traffic_passes(cycles: list[dict[str, int]]) -> None:
    assert observe(*cycles).is_quiet


@pytest.mark.parametrize(
    ("cycles", "text"),
    [
        # Stability, on every channel.
        ([aw(ready=0), {}], "AW: valid fell before it was taken, cycle 1"),
        ([w(1, ready=0), {}], "W: valid fell"),
        ([ar(ready=0), {}], "AR: valid fell"),
        ([ar(), r(1, ready=0), {}], "R: valid fell"),
        ([aw() | w(1), b(ready=0), {}], "B: valid fell"),
        ([aw(64, ready=0), aw(96)], "AW: awaddr from 0x40 to 0x60 while stalled, cycle 1"),
        ([ar(64, ready=0), ar(64, 1)], "AR: arlen from 0x0 to 0x1 while stalled"),
        ([ar(ready=0), ar(id=1, cache=2, prot=1)], "AR: arid from 0x0 to 0x1, arcache from 0x3 to 0x2, arprot"),
        ([ar(0, 1, ready=0), ar(0, 1, size=4, burst=2)], "AR: arsize from 0x5 to 0x4, arburst"),
        ([w(0, ready=0), w(1)], "W: wlast from 0x0 to 0x1 while stalled"),
        ([w(0, ready=0), w(0, data=8)], "W: wdata from 0x7 to 0x8 while stalled"),
        ([w(0, ready=0), w(0, strb=1)], "W: wstrb from 0xffffffff to 0x1 while stalled"),
        ([ar(), r(1, ready=0), r(1, 2)], "R: rresp from 0x0 to 0x2 while stalled"),
        ([ar(), r(1, ready=0), r(1, data=4)], "R: rdata from 0x3 to 0x4 while stalled"),
        ([aw() | w(1), b(ready=0), b(3)], "B: bresp from 0x0 to 0x3 while stalled"),
        # Addresses.
        ([ar(4096 - 32, 1)], "AR: 2 beats of 32 bytes at 0xfe0 cross 4 KiB, cycle 0"),
        ([ar(4096 - 2, 1)], "AR: 2 beats of 32 bytes at 0xffe cross 4 KiB"),
        ([aw(8192 - 16 * 32, 16)], "AW: 17 beats of 32 bytes at 0x1e00 cross 4 KiB"),
        ([aw(ready=0, address=4064, length=1)], "AW: 2 beats"),
        ([ar(0, 0, size=6)], "AR: 64 bytes a beat are more than the bus has"),
        ([ar(0, 0, burst=3)], "AR: burst type 3 is reserved"),
        ([ar(0, 16, burst=0)], "AR: 17 beats are too many for a FIXED burst"),
        ([aw(0, 2, burst=2)], "AW: a WRAP burst of 3 beats at 0x0"),
        ([aw(16, 3, burst=2)], "AW: a WRAP burst of 4 beats at 0x10"),
        # WLAST.
        ([aw(0, 1), w(1)], "W: WLAST at beat 1 of a burst that has 2, cycle 1"),
        ([aw(0, 1), w(1, ready=0)], "W: WLAST at beat 1 of a burst that has 2"),
        ([aw(0, 1), w(0), w(0)], "W: no WLAST at beat 2, the burst's last, cycle 2"),
        ([aw(), w(0)], "W: no WLAST at beat 1"),
        ([aw() | w(0)], "W: no WLAST at beat 1"),
        ([w(1), aw(0, 1)], "W: WLAST at beat 1 of a burst that has 2"),
        ([w(0), w(0), aw(0, 0)], "W: no WLAST at beat 1"),
        ([w(0), w(0), aw(0, 1)], "W: no WLAST at beat 2"),
        ([w(0), w(1), w(1), aw(), aw(0, 1)], "W: WLAST at beat 2 of a burst that has 1"),
        ([*[w(0)] * 256], "W: 256 beats without WLAST, cycle 255"),
        ([w(1, strb=2**33 - 1)], "W: strobes beyond the bus"),
        # Responses.
        ([b()], "B: a response with id 0 for which no burst has been completed, cycle 0"),
        ([aw(), b()], "B: a response with id 0"),
        ([w(1), b()], "B: a response with id 0"),
        ([aw() | w(1) | b()], "B: a response with id 0"),
        ([aw(0, 1), w(0), b()], "B: a response with id 0"),
        ([aw() | w(1), b(), b()], "B: a response with id 0"),
        ([aw(id=1) | w(1), b(id=0)], "B: a response with id 0"),
        ([aw() | w(1), b(1)], "B: EXOKAY without an exclusive access"),
        ([r(1)], "R: a beat with id 0 that nothing asked for, cycle 0"),
        ([ar() | r(1)], "R: a beat with id 0 that nothing asked for"),
        ([ar(), r(1), r(1)], "R: a beat with id 0 that nothing asked for, cycle 2"),
        ([ar(), r(1, id=1)], "R: a beat with id 1 that nothing asked for"),
        ([ar(0, 1), r(1)], "R: RLAST is 1 with 2 beats to come"),
        ([ar(), r(0)], "R: RLAST is 0 with 1 beats to come"),
        ([ar(), r(1, 1)], "R: EXOKAY without an exclusive access"),
        # The end.
        ([aw(ready=0)], "AW: valid was not taken by the end"),
        ([w(1, ready=0)], "W: valid was not taken by the end"),
        ([aw()], "AW: 1 bursts without all of their data at the end"),
        ([aw(0, 1), w(0)], "W: data without an address at the end|AW: 1 bursts without"),
        ([w(1)], "W: data without an address at the end"),
        ([w(0)], "W: data without an address at the end"),
        ([aw() | w(1)], "B: 1 bursts without a response at the end"),
        ([ar(0, 3), r(0)], "R: 3 beats did not come by the end"),
    ],
)
def test_a_broken_rule_is_noticed(cycles: list[dict[str, int]], text: str) -> None:
    with pytest.raises(AxiError, match=f"^port ({text})"):
        observe(*cycles)


def test_traffic_is_counted() -> None:
    rules = observe(
        aw(0, 1, id=1) | ar(64, 3), w(0), w(1) | r(0), b(2, id=1) | r(0, 3), ar(0) | r(0), r(1), aw() | w(1), r(1), b()
    )
    assert [(burst.id, burst.address, burst.beats, burst.cycle) for burst in rules.writes.bursts] == [
        (1, 0, 2, 0),
        (0, 0, 1, 6),
    ]
    assert (rules.writes.beats, rules.writes.responses, rules.writes.errors) == (3, 2, [(3, 2)])
    assert (rules.writes.peak_bytes, rules.writes.peak_bursts, rules.writes.open_bytes) == (64, 1, 0)
    assert (rules.reads.beats, rules.reads.errors) == (5, [(3, 3)])
    assert (rules.reads.peak_bytes, rules.reads.peak_bursts, rules.reads.open_bursts) == (128, 2, 0)


def test_what_is_presented_counts_as_open() -> None:
    rules = observe(ar(0, 3, ready=0), finish=False)
    assert (rules.reads.peak_bytes, rules.reads.open_bytes) == (128, 0)
    assert not rules.is_quiet


@pytest.mark.parametrize(
    ("cycles", "is_quiet"),
    [([aw()], False), ([w(1)], False), ([w(0)], False), ([aw() | w(1)], False), ([ar()], False), ([ar(), r(1)], True)],
)
def test_quiet_is_when_nothing_is_open(cycles: list[dict[str, int]], is_quiet: bool) -> None:
    assert observe(*cycles, finish=False).is_quiet == is_quiet


def test_a_reset_forgets_everything() -> None:
    rules = observe(aw(ready=0) | w(0) | ar(0, 3), finish=False)
    rules.clear()
    rules.finish()
    rules.observe(0, IDLE | aw() | w(1))
    rules.observe(1, IDLE | b())
    rules.finish()
    assert rules.writes.responses == 1


def test_an_absent_channel_is_not_looked_at() -> None:
    rules = AxiRules(data_bits=16)
    rules.observe(0, ar(0, 1, size=1))
    rules.observe(1, r(0))
    rules.observe(2, r(1))
    rules.finish()


@pytest.mark.parametrize("seed", range(4))
def test_random_legal_traffic_passes(seed: int) -> None:
    """A master and a slave that keep to the rules by construction, with every order of AW and W."""
    print(f"seed {seed}")
    source = random.Random(seed)
    rules = AxiRules(data_bits=32)
    lengths = [source.choice([1, 2, 5, 16]) for _ in range(200)]
    addresses = [{"addr": 4096 * n, "len": length - 1} for n, length in enumerate(lengths)]
    words = [{"wlast": int(n == length - 1), "wdata": n} for length in lengths for n in range(length)]
    valid: dict[str, Any] = {"aw": None, "w": None, "b": None}
    address_count = word_count = burst_count = answer_count = cycle = 0
    while answer_count < len(lengths):
        if valid["aw"] is None and address_count < len(addresses) and source.random() < 0.3:
            valid["aw"] = aw(
                **{"address": addresses[address_count]["addr"], "length": addresses[address_count]["len"]}, size=2
            )
        if valid["w"] is None and word_count < len(words) and source.random() < 0.8:
            valid["w"] = w(0, strb=15) | words[word_count]
        if valid["b"] is None and min(address_count, burst_count) > answer_count and source.random() < 0.5:
            valid["b"] = b(source.choice([0, 2, 3]))
        values = dict(IDLE)
        for channel, shown in valid.items():
            if shown is not None:
                values |= shown | {f"{channel}ready": source.randint(0, 1)}
        rules.observe(cycle, values)
        cycle += 1
        for channel in valid:
            if valid[channel] is not None and values[f"{channel}ready"]:
                address_count += channel == "aw"
                word_count += channel == "w"
                burst_count += channel == "w" and valid[channel]["wlast"]
                answer_count += channel == "b"
                valid[channel] = None
    rules.finish()
    assert rules.writes.beats == sum(lengths)
    assert rules.writes.responses == len(lengths)


def test_parameters_are_validated() -> None:
    with pytest.raises(ValueError, match="data_bits must be 8 to 1024 and a power of two, not 48"):
        AxiRules(data_bits=48)


class Wire:
    """A signal as a simulator shows it."""

    def __init__(self, width: int, value: str = "0") -> None:
        self._width = width
        self.value = value.rjust(width, value if value in "XZ" else "0")

    def __len__(self) -> int:
        return self._width


class Port:
    """A bench whose circuit has a read port of 16 bits, and no arid, rid, arcache and arprot."""

    seed = 5

    def __init__(self, **changes: str) -> None:
        widths = {"arvalid": 1, "arready": 1, "araddr": 32, "arlen": 8, "arsize": 3, "arburst": 2}
        widths |= {"rvalid": 1, "rready": 1, "rdata": 16, "rresp": 2, "rlast": 1}
        values = {"arvalid": "1", "arready": "1", "arburst": "01", **changes}
        self.agents: list[Any] = []
        self.dut = type(
            "Dut", (), {f"m_{name}": Wire(width, values.get(name, "0")) for name, width in widths.items()}
        )()

    def signal(self, name: str) -> Any:
        return getattr(self.dut, name)


def test_the_agent_reads_a_port() -> None:
    bench: Any = Port()
    checker = AxiChecker(bench, "m_")
    assert bench.agents == [checker]
    checker.sample(7)
    assert [(burst.id, burst.address, burst.beats, burst.cycle) for burst in checker.reads.bursts] == [(0, 0, 1, 7)]
    bench.dut.m_arvalid.value = "0"
    bench.dut.m_araddr.value = "X" * 32
    bench.dut.m_rvalid.value = bench.dut.m_rready.value = bench.dut.m_rlast.value = "1"
    checker.sample(8)
    checker.finish()
    assert checker.reads.beats == 1


@pytest.mark.parametrize(
    ("name", "shown"), [("arvalid", "X"), ("rready", "Z"), ("araddr", "X" * 32), ("arlen", "X" * 8)]
)
def test_an_unknown_bit_is_noticed(name: str, shown: str) -> None:
    bench: Any = Port(**{name: shown[0]})
    with pytest.raises(AxiError, match=f"^m, seed 5, (AR|R): {name} is {shown}, cycle 3$"):
        AxiChecker(bench, "m_").sample(3)


def test_a_port_must_be_there() -> None:
    bench: Any = Port()
    with pytest.raises(AssertionError, match="no AXI port begins with n_"):
        AxiChecker(bench, "n_")
    del type(bench.dut).m_rlast
    with pytest.raises(AssertionError, match="m_rlast is absent"):
        AxiChecker(bench, "m_")
