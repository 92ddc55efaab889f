"""Circuits that differ in names are found to be the same, and circuits that differ in anything else are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.packer import Packer
from spatten.sim.verify.same_circuit import NetlistError, compare
from tests.cli.command_line import run_spatten

ONE = """
module top(input clk, input rst, input [3:0] a, input [3:0] b, output [3:0] sum, output flag);
  reg [3:0] first = 4'd0, second = 4'd3;
  reg held = 1'b0;
  assign sum = first + second;
  assign flag = held;
  always @(posedge clk) begin
    first <= a;
    second <= rst ? 4'd3 : b;
    held <= ~held & a[0];
  end
endmodule
"""
"""Two registers, an adder, and a register that reads itself."""
OTHER_NAMES = """
module part(input c, input [3:0] d, input clear, output reg [3:0] q);
  initial q = 4'd3;
  always @(posedge c) q <= clear ? 4'd3 : d;
endmodule
module top(input clk, input rst, input [3:0] a, input [3:0] b, output [3:0] sum, output flag);
  wire [3:0] right;
  reg [3:0] left = 4'd0;
  reg [1:0] twice = 2'b00;
  part inner(.c(clk), .d(b), .clear(rst), .q(right));
  assign sum = left + right;
  assign flag = twice[1];
  always @(posedge clk) begin
    left <= a;
    twice <= {~twice[0] & a[0], ~twice[1] & a[0]};
  end
endmodule
"""
"""The same with a part in a module of its own, other names, and the register that reads itself stored twice."""


def test_names_hierarchy_and_copies_make_no_difference() -> None:
    found = compare(ONE, OTHER_NAMES, top="top")
    assert found.is_same
    assert found.differing == ()
    assert found.cells[1] > found.cells[0]


@pytest.mark.parametrize(
    ("before", "after", "outputs"),
    [
        ("first + second", "first - second", {"sum"}),
        ("second = 4'd3", "second = 4'd2", {"sum"}),
        ("rst ? 4'd3", "rst ? 4'd2", {"sum"}),
        ("~held & a[0]", "~held & a[1]", {"flag"}),
        ("held = 1'b0", "held = 1'b1", {"flag"}),
        ("~held & a[0]", "~held | a[0]", {"flag"}),
        ("first <= a", "first <= {a[0], a[1], a[2], a[3]}", {"sum"}),
        ("output flag", "output flags", {"flag", "flags"}),
    ],
)
def test_any_other_difference_is_found(before: str, after: str, outputs: set[str]) -> None:
    text = ONE.replace(before, after)
    if before == "output flag":
        text = text.replace("assign flag ", "assign flags ")
    found = compare(ONE, text, top="top")
    assert {name.partition("[")[0] for name in found.differing} == outputs


def test_registers_that_only_time_tells_apart() -> None:
    """Two chains of registers, one longer: they are alike but at their ends."""

    def chain(length: int) -> str:
        return f"""
module top(input clk, input d, output q);
  reg [{length - 1}:0] chain = {length}'d0;
  assign q = chain[{length - 1}];
  always @(posedge clk) chain <= {{chain, d}};
endmodule
"""

    assert compare(chain(30), chain(30), top="top").is_same
    assert not compare(chain(30), chain(31), top="top").is_same


def test_memories_count_too() -> None:
    same = compare(
        convert(Fifo(shape=5, depth=8)),
        convert(Fifo(shape=5, depth=8), name="other").replace("other", "top"),
        top="top",
    )
    assert same.is_same
    assert not compare(convert(Fifo(shape=5, depth=8)), convert(Fifo(shape=5, depth=9)), top="top").is_same


def test_a_mutant_is_another_circuit() -> None:
    text = convert(Packer(shape=4, lanes=4))
    spoilt = text.replace("<= ", "<= ~", 1)
    assert spoilt != text
    found = compare(text, spoilt, top="top")
    assert not found.is_same
    assert found.first


def test_the_command_says_so(tmp_path: Path) -> None:
    for name, text in (("one", ONE), ("two", OTHER_NAMES), ("three", ONE.replace("a[0]", "a[2]"))):
        (tmp_path / f"{name}.v").write_text(text)
    one, two, three, none = (str(tmp_path / f"{name}.v") for name in ("one", "two", "three", "none"))
    ended = run_spatten("compare", one, two, "--top", "top")
    assert ended.status == 0
    assert "every output bit is alike" in ended.output
    ended = run_spatten("compare", one, three, "--top", "top")
    assert ended.status == 1
    assert ended.errors.startswith("error: 1 output bits differ, flag[0]; it begins at ")
    assert run_spatten("compare", one, none).errors == f"error: cannot read {none}: it is no file\n"
    with pytest.raises(NetlistError, match="Yosys cannot flatten the module nothing"):
        compare(ONE, ONE, top="nothing")
