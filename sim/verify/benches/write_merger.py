"""Testbench of hw/control/write_merger.py; tests/hw/control/test_routers.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.write_merger import WriteMerger
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
CHANNELS = range(CONFIG.channels)
MERGER = WriteMerger(config=CONFIG)
ANY_OUTPUT = Anything(MERGER.o[0].payload.shape())
ANY_STATE = Anything(MERGER.i_state.payload.shape())


class Merge(Twin):
    """Who is offered to each channel: whoever has been since before, else output, else the state's sector."""

    goals = {"state": 100, "state waits for output": 50, "state held before output": 50, "output": 200, "stalled": 200}

    def reset(self) -> None:
        self.outputs_waiting: list[dict[str, Any] | None] = [None for _ in CHANNELS]
        self.state: dict[str, Any] | None = None
        self.is_offered = False
        self.sent = [0 for _ in CHANNELS]

    def inputs(self) -> Values:
        # Now and then there is little output, so that states are sent.
        share = self.source.choice([0.1, 0.5])
        for channel in CHANNELS:
            if self.outputs_waiting[channel] is None and self.source.random() < share:
                self.outputs_waiting[channel] = ANY_OUTPUT(self.source)
        if self.state is None and self.source.random() < 0.7:
            self.state = ANY_STATE(self.source)
        self.ready = [self.source.random() < 0.5 for _ in CHANNELS]
        self.queued = [self.source.randrange(1 << 16) for _ in CHANNELS]
        return {
            "i_output": [{"valid": beat is not None, "payload": beat} for beat in self.outputs_waiting],
            "i_state": {"valid": self.state is not None, "payload": self.state},
            "o": [{"ready": ready} for ready in self.ready],
            "output_queued": self.queued,
        }

    def outputs(self) -> Values:
        ports, output_ready = [], []
        self.target = None if self.state is None else self.state["sector"] % CONFIG.channels
        for channel in CHANNELS:
            output = self.outputs_waiting[channel]
            offered: dict[str, Any] | None = output
            is_state = channel == self.target and (self.is_offered or output is None)
            if is_state:
                assert self.state is not None
                offered = {"address": self.state["sector"] // CONFIG.channels, "data": self.state["data"]}
            ports.append({"valid": offered is not None, "payload": offered})
            output_ready.append({"ready": self.ready[channel] and not is_state})
            if channel == self.target:
                self.state_leaves = is_state and self.ready[channel]
                self.shows_state = is_state
        return {
            "o": ports,
            "i_output": output_ready,
            "i_state": {"ready": self.target is not None and self.state_leaves},
            "queued": [(self.queued[channel] + self.sent[channel]) % (1 << 16) for channel in CHANNELS],
        }

    def clock(self) -> None:
        for channel in CHANNELS:
            has_output = self.outputs_waiting[channel] is not None
            shows_state = channel == self.target and self.shows_state
            self.saw("stalled", has_output and not self.ready[channel])
            self.saw("state held before output", shows_state and has_output)
            self.saw("state waits for output", channel == self.target and not self.shows_state)
            if has_output and self.ready[channel] and not shows_state:
                self.saw("output")
                self.outputs_waiting[channel] = None
        if self.target is not None:
            self.is_offered = self.shows_state and not self.state_leaves
            if self.state_leaves:
                self.saw("state")
                self.sent[self.target] += 1
                self.state = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def a_states_sector_goes_where_no_output_does(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, MERGER, Merge, seed=seed, cycles=PARAMETERS["cycles"])
