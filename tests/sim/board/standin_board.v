// In the place of a board's core: what comes on the line goes back, a line that is low for long does harm,
// and so does one that falls often.
module spatten_board (
    input clk,
    input rst,
    input rx,
    input warm,
    output ready,
    output reg tx,
    output pins__cke,
    output pins__cs_n,
    output pins__ras_n,
    output pins__cas_n,
    output pins__we_n,
    output [1:0] pins__ba,
    output [12:0] pins__a,
    output [1:0] pins__dqm,
    output [15:0] pins__dq_o,
    output pins__dq_oe,
    input [15:0] pins__dq_i,
    output alive,
    output busy,
    output error,
    output link
);
  reg [15:0] low = 0;
  reg [15:0] falls = 0;
  reg last = 1;
  // ACTIVE, which no part takes before it is initialised.
  wire active = low == 3000;
  assign pins__cke = 1;
  assign pins__cs_n = !active;
  assign pins__ras_n = 0;
  assign pins__cas_n = 1;
  assign pins__we_n = 1;
  assign pins__ba = 0;
  assign pins__a = 0;
  assign pins__dqm = 3;
  assign pins__dq_o = 0;
  assign pins__dq_oe = 0;
  assign ready = warm | 1'b1;
  assign alive = 1;
  assign busy = 0;
  assign error = low > 100;
  assign link = falls != 0;
  always @(posedge clk) begin
    tx <= rx | rst;
    last <= rx;
    low <= rx | rst ? 16'd0 : low + 16'd1;
    falls <= rst ? 16'd0 : falls + {15'd0, last & !rx};
    if (!rst && falls == 200) $fatal(1, "assertion failed: spatten_board: the line falls too often");
  end
endmodule
