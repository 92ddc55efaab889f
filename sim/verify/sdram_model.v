// A single data rate SDRAM with 16 data pins and four banks, by the rules of its data sheet: what a controller is held to.
//
// Everything happens at the rising edge of `clk`, the clock at the part's pin. The data pins are two ports a side: `dq_i` with
// `dq_i_driven` is what the controller drives, `dq_o` with `dq_o_driven` what the part drives; `dq_o` is noise while
// nothing is driven, and for bytes that were never written.
//
// Times are in ps, and compared with how many periods of CLOCK_PS have passed. The first rule that is broken is kept in
// `breach`, by its number below, with the edge that it was broken at in `breach_edge`; from then on the contents mean
// nothing. With STOP set the simulation ends there with $fatal.
//
// What the part does not have here is a rule of its own, UNSUPPORTED: automatic precharge, BURST TERMINATE, CKE low (self
// refresh, power down), bursts of a page, interleaved bursts.
//
// `power_off` is not a pin: an edge with it set makes the part one whose supply has just come, but for its contents.
//
// `memory` has the word of row, bank and column at {row, bank, column}: the linear order of a controller whose banks lie
// below the rows. A simulation may read and write it at any time; a C++ program finds it in Verilator's root as
// <path of the instance>__DOT__memory.

// verilator lint_off WIDTHEXPAND
// verilator lint_off WIDTHTRUNC
// verilator lint_off INITIALDLY
// Loop variables and lengths are integers, whose widths Verilator compares; and `initial` shares its task with `power_off`.

module sdram_model #(
    parameter ROW_BITS = 13,
    parameter COLUMN_BITS = 9,
    parameter CAS_LATENCY = 3,       // what the clock demands
    parameter CLOCK_PS = 12500,
    parameter T_RCD_PS = 21000,
    parameter T_RP_PS = 21000,
    parameter T_RAS_PS = 44000,
    parameter T_RAS_MOST_PS = 100000000,
    parameter T_RC_PS = 66000,
    parameter T_RRD_PS = 15000,
    parameter T_WR_PS = 15000,
    parameter T_RFC_PS = 66000,
    parameter MODE_CYCLES = 2,
    parameter WINDOW_NS = 64000000,  // every row is refreshed within this
    parameter POWER_UP_NS = 100000,  // until the first command
    parameter POWER_UP_REFRESHES = 2,
    parameter IDLE_EDGES = 1,        // between what one side drives and what the other one does
    parameter STOP = 0
) (
    input             clk,
    input             power_off,
    input             cke,
    input             cs_n,
    input             ras_n,
    input             cas_n,
    input             we_n,
    input       [1:0] ba,
    input      [12:0] a,
    input       [1:0] dqm,
    input      [15:0] dq_i,
    input             dq_i_driven,
    output reg [15:0] dq_o,
    output reg        dq_o_driven,
    output reg  [7:0] breach,
    output reg [31:0] breach_edge
);
  localparam [7:0] NONE = 0,
      POWER_UP = 1,           // a command before POWER_UP_NS
      INITIALISATION = 2,     // no PRECHARGE of all, REFRESH and LOAD MODE before the first ACTIVE; or mode before PRECHARGE
      MODE_VALUE = 3,         // a mode register that is reserved, or another latency than the clock's
      CLOSED_BANK = 4,        // READ or WRITE of a bank that is not open
      OPEN_BANK = 5,          // ACTIVE of a bank that is
      T_RCD = 6,
      T_RP = 7,
      T_RAS = 8,
      T_RAS_MOST = 9,
      T_RC = 10,
      T_RRD = 11,
      T_WR = 12,
      T_MRD = 13,
      T_RFC = 14,
      NOT_IDLE = 15,          // REFRESH or LOAD MODE with an open bank
      WINDOW = 16,            // a row that was not refreshed in time
      BUS_CONFLICT = 17,      // both sides drive the data pins, or one side too soon after the other
      UNDRIVEN = 18,          // a word is written that nobody drives
      UNSUPPORTED = 19,
      UNKNOWN = 20;           // X on a pin that matters

  localparam ROWS = 1 << ROW_BITS;
  localparam WORD_BITS = ROW_BITS + 2 + COLUMN_BITS;

  reg [15:0] memory [0:(1 << WORD_BITS) - 1]  /* verilator public_flat_rw */;

  // -- What has happened, in edges ---------------------------------------------------------------------------------------

  reg [63:0] now;
  reg [63:0] opened [0:3];
  reg [63:0] closed [0:3];
  reg [63:0] written [0:3];
  reg [3:0] is_open;
  reg [ROW_BITS-1:0] row [0:3];
  reg [63:0] last_opened, last_refreshed, last_mode;
  reg [1:0] last_opened_bank;
  reg [63:0] refreshed [0:ROWS - 1];
  reg [ROW_BITS-1:0] next_row;
  reg has_closed, has_mode, is_started;
  integer refreshes;

  reg [12:0] mode;
  // The burst in progress: the next word's column, and how many words are left.
  integer left;
  reg burst_writes;
  reg [1:0] burst_bank;
  reg [COLUMN_BITS-1:0] burst_column;
  // Words on their way to the pins, and the masks of the edge before.
  reg [15:0] stage_word [0:1];
  reg [1:0] stage_valid;
  reg [1:0] last_dqm;
  reg [63:0] part_drove, controller_drove;
  reg [31:0] noise;

  wire [3:0] command = {cs_n, ras_n, cas_n, we_n};
  wire [2:0] code = {ras_n, cas_n, we_n};
  wire is_nop = cs_n | (&code);
  localparam [2:0] LOAD_MODE = 3'b000, REFRESH = 3'b001, PRECHARGE = 3'b010, ACTIVE = 3'b011, WRITE = 3'b100,
      READ = 3'b101, BURST_TERMINATE = 3'b110;
  localparam [63:0] NEVER = ~64'd0;

  integer n;
  integer length;
  reg [COLUMN_BITS-1:0] place;
  reg [WORD_BITS-1:0] index;
  reg word_valid;
  reg [15:0] word;

  // Whether fewer ps than `least` have passed since edge `since`; nothing is too soon after what never was.
  function is_soon(input [63:0] since, input [63:0] least);
    is_soon = since != NEVER && (now - since) * CLOCK_PS < least;
  endfunction

  task broken(input [7:0] rule);
    if (breach == NONE) begin
      breach = rule;
      breach_edge = now[31:0];
      if (STOP != 0) $fatal(1, "SDRAM rule %0d is broken at edge %0d", rule, now);
    end
  endtask

  task power_on;
    begin
      now = 0;
      for (n = 0; n < 4; n = n + 1) begin
        opened[n] = NEVER;
        closed[n] = NEVER;
        written[n] = NEVER;
        row[n] = 0;
      end
      for (n = 0; n < ROWS; n = n + 1) refreshed[n] = 0;
      is_open = 4'b1111;  // unknown, so all of them must be closed
      last_opened = NEVER;
      last_opened_bank = 0;
      last_refreshed = NEVER;
      last_mode = NEVER;
      next_row = 0;
      has_closed = 0;
      has_mode = 0;
      is_started = 0;
      refreshes = 0;
      mode = 0;
      left = 0;
      burst_writes = 0;
      burst_bank = 0;
      burst_column = 0;
      stage_valid = 0;
      last_dqm = 0;
      part_drove = NEVER;
      controller_drove = NEVER;
      noise = 32'h2545F491;
      dq_o <= 0;
      dq_o_driven <= 0;
      breach = NONE;
      breach_edge = 0;
    end
  endtask

  initial power_on;

  // -- Commands ----------------------------------------------------------------------------------------------------------

  task idle_rules;  // of REFRESH and LOAD MODE: all banks are closed, and have been for T_RP
    begin
      if (!has_closed) broken(INITIALISATION);
      else if (|is_open) broken(NOT_IDLE);
      for (n = 0; n < 4; n = n + 1) if (is_soon(closed[n], T_RP_PS)) broken(T_RP);
      if (is_soon(last_refreshed, T_RFC_PS)) broken(T_RFC);
    end
  endtask

  task load_mode;
    begin
      idle_rules;
      if (^{ba, a} === 1'bx) broken(UNKNOWN);
      if (ba != 0 || a[12:10] != 0 || a[8:7] != 0 || a[6:4] != CAS_LATENCY) broken(MODE_VALUE);
      if (a[2:0] > 3) broken(a[2:0] == 7 ? UNSUPPORTED : MODE_VALUE);
      if (a[3]) broken(UNSUPPORTED);
      mode = a;
      has_mode = 1;
      last_mode = now;
    end
  endtask

  task refresh;
    begin
      idle_rules;
      last_refreshed = now;
      refreshed[next_row] = now;
      next_row = next_row + 1'b1;
      if (refreshes < POWER_UP_REFRESHES) refreshes = refreshes + 1;
    end
  endtask

  task precharge;
    begin
      if (^{a[10], a[10] ? 2'b0 : ba} === 1'bx) broken(UNKNOWN);
      for (n = 0; n < 4; n = n + 1)
        if (a[10] || ba == n) begin
          if (is_open[n] && has_closed) begin
            if (is_soon(opened[n], T_RAS_PS)) broken(T_RAS);
            if (is_soon(written[n], T_WR_PS)) broken(T_WR);
          end
          if (left != 0 && burst_bank == n) left = 0;
          // To close a closed bank is no command, and does not begin T_RP anew.
          if (is_open[n]) closed[n] = now;
          is_open[n] = 0;
        end
      if (is_soon(last_refreshed, T_RFC_PS)) broken(T_RFC);
      if (a[10]) has_closed = 1;
    end
  endtask

  task activate;
    begin
      if (^{ba, a} === 1'bx) broken(UNKNOWN);
      if (!has_closed || !has_mode || refreshes < POWER_UP_REFRESHES) broken(INITIALISATION);
      if (!is_started) begin
        // From here on the contents count.
        is_started = 1;
        for (n = 0; n < ROWS; n = n + 1) refreshed[n] = now;
      end
      if (is_open[ba]) broken(OPEN_BANK);
      if (is_soon(closed[ba], T_RP_PS)) broken(T_RP);
      if (is_soon(opened[ba], T_RC_PS)) broken(T_RC);
      if (last_opened_bank != ba && is_soon(last_opened, T_RRD_PS)) broken(T_RRD);
      if (is_soon(last_refreshed, T_RFC_PS)) broken(T_RFC);
      opened[ba] = now;
      last_opened = now;
      last_opened_bank = ba;
      is_open[ba] = 1;
      row[ba] = a[ROW_BITS-1:0];
    end
  endtask

  task access(input writes);
    begin
      if (^{ba, a[COLUMN_BITS-1:0], a[10]} === 1'bx) broken(UNKNOWN);
      if (!has_mode || !has_closed) broken(INITIALISATION);
      if (!is_open[ba]) broken(CLOSED_BANK);
      else if (is_soon(opened[ba], T_RCD_PS)) broken(T_RCD);
      if (a[10]) broken(UNSUPPORTED);
      burst_writes = writes;
      burst_bank = ba;
      burst_column = a[COLUMN_BITS-1:0];
      length = 1 << mode[2:0];
      if (writes && mode[9]) length = 1;
      left = length;
    end
  endtask

  // -- An edge -----------------------------------------------------------------------------------------------------------

  always @(posedge clk)
    if (power_off) power_on;
    else edge_of_clock;

  task edge_of_clock;
    begin
      if (^{cke, cs_n} === 1'bx || (cs_n === 0 && ^code === 1'bx)) broken(UNKNOWN);
      if (!cke) begin
        if (now * CLOCK_PS >= POWER_UP_NS * 64'd1000) broken(UNSUPPORTED);
      end else if (!is_nop) begin
        if (now * CLOCK_PS < POWER_UP_NS * 64'd1000) broken(POWER_UP);
        if (last_mode != NEVER && now - last_mode < MODE_CYCLES) broken(T_MRD);
        case (code)
          LOAD_MODE: load_mode;
          REFRESH: refresh;
          PRECHARGE: precharge;
          ACTIVE: activate;
          WRITE: access(1);
          READ: access(0);
          default: broken(UNSUPPORTED);
        endcase
      end
      for (n = 0; n < 4; n = n + 1)
        if (is_open[n] && opened[n] != NEVER && (now - opened[n]) * CLOCK_PS > T_RAS_MOST_PS) broken(T_RAS_MOST);
      if (is_started && (now - refreshed[next_row]) * CLOCK_PS > WINDOW_NS * 64'd1000) broken(WINDOW);

      // The data pins as they were before this edge.
      if (dq_i_driven === 1'bx) broken(UNKNOWN);
      if (dq_i_driven) controller_drove = now;
      if (dq_o_driven) part_drove = now;
      if (controller_drove != NEVER && part_drove != NEVER && (controller_drove == now || part_drove == now)) begin
        if (controller_drove >= part_drove && controller_drove - part_drove <= IDLE_EDGES) broken(BUS_CONFLICT);
        if (part_drove >= controller_drove && part_drove - controller_drove <= IDLE_EDGES) broken(BUS_CONFLICT);
      end

      // A word of the burst: columns wrap within its length.
      word_valid = 0;
      word = 0;
      if (left != 0) begin
        length = 1 << mode[2:0];
        if (burst_writes && mode[9]) length = 1;
        place = (burst_column & ~(length - 1)) | ((burst_column + (length - left)) & (length - 1));
        index = {row[burst_bank], burst_bank, place};
        if (burst_writes) begin
          if (^dqm === 1'bx) broken(UNKNOWN);
          if (dqm != 2'b11) begin
            if (!dq_i_driven) broken(UNDRIVEN);
            written[burst_bank] = now;
          end
          if (!dqm[0]) memory[index][7:0] = dq_i[7:0];
          if (!dqm[1]) memory[index][15:8] = dq_i[15:8];
        end else begin
          word_valid = 1;
          // A byte that was never written is noise.
          word = memory[index];
          if (^word[7:0] === 1'bx) word[7:0] = noise[7:0];
          if (^word[15:8] === 1'bx) word[15:8] = noise[15:8];
        end
        left = left - 1;
      end

      // Words wait for CAS_LATENCY - 1 edges; then they are there for the edge that samples them. A mask says of the word
      // two edges later that the pins are not driven.
      noise = {noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]};
      if (mode[6:4] == 2 ? stage_valid[0] && last_dqm != 2'b11 : stage_valid[1] && last_dqm != 2'b11) begin
        dq_o_driven <= 1;
        dq_o <= mode[6:4] == 2 ? stage_word[0] : stage_word[1];
        if (last_dqm[0]) dq_o[7:0] <= noise[7:0];
        if (last_dqm[1]) dq_o[15:8] <= noise[15:8];
      end else begin
        dq_o_driven <= 0;
        dq_o <= noise[15:0];
      end
      stage_word[1] = stage_word[0];
      stage_valid[1] = stage_valid[0];
      stage_word[0] = word;
      stage_valid[0] = word_valid;
      last_dqm = dqm;
      now = now + 1;
    end
  endtask
endmodule

// verilator lint_on WIDTHEXPAND
// verilator lint_on WIDTHTRUNC
// verilator lint_on INITIALDLY
