// DP16KD, the block RAM of an ECP5, in the modes that Yosys's mapping uses. After Lattice FPGA-TN-02204, "ECP5 and
// ECP5-5G Memory Usage Guide".
//
// 2,048 bytes of 9 bits. A port sees them as words of 1, 2, 4 (of the lower 8 bits of a byte), 9, 18 or 36 bits; 18 and
// 36 bits are written byte by byte, by the lowest 2 or 4 address pins. With words of 36 bits the cell is a pseudo
// dual-port RAM: port A only writes, its upper half from DIB, and port B only reads; the lower half of 36 bits that it
// reads is at DOA.
//
// A port does something at a rising edge with CE and CS = 0. A read is at the outputs until the next. A port that
// writes shows what it showed before (NORMAL), the word that it writes (WRITETHROUGH), or the one that it overwrites
// (READBEFOREWRITE). RST, which would clear the outputs, must be 0.
//
// What one port reads while the other one writes it, and what both write at once, is not defined by the vendor: it is X
// in a simulator with four states and inverted in one with two.
//
// Whatever else a parameter or a constant input asks for ends the simulation: it is not modelled.
module DP16KD (
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
    input DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7,
    input ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
    output DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
    input DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7,
    input ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
    output DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18;
    parameter DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG";
    parameter REGMODE_B = "NOREG";
    parameter RESETMODE = "SYNC";
    parameter ASYNC_RESET_RELEASE = "SYNC";
    parameter CSDECODE_A = "0b000";
    parameter CSDECODE_B = "0b000";
    parameter WRITEMODE_A = "NORMAL";
    parameter WRITEMODE_B = "NORMAL";
    parameter CLKAMUX = "CLKA";
    parameter CLKBMUX = "CLKB";
    parameter GSR = "ENABLED";
    parameter INIT_DATA = "STATIC";
    parameter WID = 0;
    parameter [319:0] INITVAL_00 = 320'b0;
    parameter [319:0] INITVAL_01 = 320'b0;
    parameter [319:0] INITVAL_02 = 320'b0;
    parameter [319:0] INITVAL_03 = 320'b0;
    parameter [319:0] INITVAL_04 = 320'b0;
    parameter [319:0] INITVAL_05 = 320'b0;
    parameter [319:0] INITVAL_06 = 320'b0;
    parameter [319:0] INITVAL_07 = 320'b0;
    parameter [319:0] INITVAL_08 = 320'b0;
    parameter [319:0] INITVAL_09 = 320'b0;
    parameter [319:0] INITVAL_0A = 320'b0;
    parameter [319:0] INITVAL_0B = 320'b0;
    parameter [319:0] INITVAL_0C = 320'b0;
    parameter [319:0] INITVAL_0D = 320'b0;
    parameter [319:0] INITVAL_0E = 320'b0;
    parameter [319:0] INITVAL_0F = 320'b0;
    parameter [319:0] INITVAL_10 = 320'b0;
    parameter [319:0] INITVAL_11 = 320'b0;
    parameter [319:0] INITVAL_12 = 320'b0;
    parameter [319:0] INITVAL_13 = 320'b0;
    parameter [319:0] INITVAL_14 = 320'b0;
    parameter [319:0] INITVAL_15 = 320'b0;
    parameter [319:0] INITVAL_16 = 320'b0;
    parameter [319:0] INITVAL_17 = 320'b0;
    parameter [319:0] INITVAL_18 = 320'b0;
    parameter [319:0] INITVAL_19 = 320'b0;
    parameter [319:0] INITVAL_1A = 320'b0;
    parameter [319:0] INITVAL_1B = 320'b0;
    parameter [319:0] INITVAL_1C = 320'b0;
    parameter [319:0] INITVAL_1D = 320'b0;
    parameter [319:0] INITVAL_1E = 320'b0;
    parameter [319:0] INITVAL_1F = 320'b0;
    parameter [319:0] INITVAL_20 = 320'b0;
    parameter [319:0] INITVAL_21 = 320'b0;
    parameter [319:0] INITVAL_22 = 320'b0;
    parameter [319:0] INITVAL_23 = 320'b0;
    parameter [319:0] INITVAL_24 = 320'b0;
    parameter [319:0] INITVAL_25 = 320'b0;
    parameter [319:0] INITVAL_26 = 320'b0;
    parameter [319:0] INITVAL_27 = 320'b0;
    parameter [319:0] INITVAL_28 = 320'b0;
    parameter [319:0] INITVAL_29 = 320'b0;
    parameter [319:0] INITVAL_2A = 320'b0;
    parameter [319:0] INITVAL_2B = 320'b0;
    parameter [319:0] INITVAL_2C = 320'b0;
    parameter [319:0] INITVAL_2D = 320'b0;
    parameter [319:0] INITVAL_2E = 320'b0;
    parameter [319:0] INITVAL_2F = 320'b0;
    parameter [319:0] INITVAL_30 = 320'b0;
    parameter [319:0] INITVAL_31 = 320'b0;
    parameter [319:0] INITVAL_32 = 320'b0;
    parameter [319:0] INITVAL_33 = 320'b0;
    parameter [319:0] INITVAL_34 = 320'b0;
    parameter [319:0] INITVAL_35 = 320'b0;
    parameter [319:0] INITVAL_36 = 320'b0;
    parameter [319:0] INITVAL_37 = 320'b0;
    parameter [319:0] INITVAL_38 = 320'b0;
    parameter [319:0] INITVAL_39 = 320'b0;
    parameter [319:0] INITVAL_3A = 320'b0;
    parameter [319:0] INITVAL_3B = 320'b0;
    parameter [319:0] INITVAL_3C = 320'b0;
    parameter [319:0] INITVAL_3D = 320'b0;
    parameter [319:0] INITVAL_3E = 320'b0;
    parameter [319:0] INITVAL_3F = 320'b0;

    generate
        if (DATA_WIDTH_A != 1 && DATA_WIDTH_A != 2 && DATA_WIDTH_A != 4 && DATA_WIDTH_A != 9 && DATA_WIDTH_A != 18
                && DATA_WIDTH_A != 36)
            DP16KD_DATA_WIDTH_A_is_not_modelled refused();
        if (DATA_WIDTH_B != 1 && DATA_WIDTH_B != 2 && DATA_WIDTH_B != 4 && DATA_WIDTH_B != 9 && DATA_WIDTH_B != 18
                && !(DATA_WIDTH_B == 36 && DATA_WIDTH_A == 36))
            DP16KD_DATA_WIDTH_B_is_not_modelled refused();
        if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG")
            DP16KD_output_registers_are_not_modelled refused();
        if (CSDECODE_A != "0b000" || CSDECODE_B != "0b000")
            DP16KD_CSDECODE_is_not_modelled refused();
        if (WRITEMODE_A != "NORMAL" && WRITEMODE_A != "WRITETHROUGH" && WRITEMODE_A != "READBEFOREWRITE")
            DP16KD_WRITEMODE_A_is_not_modelled refused();
        if (WRITEMODE_B != "NORMAL" && WRITEMODE_B != "WRITETHROUGH" && WRITEMODE_B != "READBEFOREWRITE")
            DP16KD_WRITEMODE_B_is_not_modelled refused();
        if (CLKAMUX != "CLKA" || CLKBMUX != "CLKB")
            DP16KD_falling_edge_is_not_modelled refused();
        if (INIT_DATA != "STATIC")
            DP16KD_INIT_DATA_is_not_modelled refused();
    endgenerate

    // A word of INITVAL has 18 bits in the place of 20.
    localparam [64 * 320 - 1:0] INIT = {
        INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
        INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
        INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
        INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
        INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
        INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
        INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00
    };
    reg [8:0] bytes [0:2047];
    integer i;
    initial
        for (i = 0; i < 2048; i = i + 1)
            bytes[i] = INIT[(i / 2) * 20 + (i % 2) * 9 +: 9];

    // For each port: its address pins, the first byte that they choose, which of the bytes from there on are written,
    // and the bits of a byte that are looked at.
    wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [10:0] first_a = DATA_WIDTH_A == 36 ? {address_a[13:5], 2'b00}
        : DATA_WIDTH_A == 18 ? {address_a[13:4], 1'b0} : address_a[13:3];
    wire active_a = CEA & ~CSA0 & ~CSA1 & ~CSA2;
    wire [3:0] writes_a = !(active_a && WEA) ? 4'b0
        : DATA_WIDTH_A == 36 ? address_a[3:0] : DATA_WIDTH_A == 18 ? {2'b0, address_a[1:0]} : 4'b1;
    wire [2:0] place_a = DATA_WIDTH_A == 4 ? {address_a[2], 2'b0}
        : DATA_WIDTH_A == 2 ? {address_a[2:1], 1'b0} : DATA_WIDTH_A == 1 ? address_a[2:0] : 3'b0;
    wire [8:0] mask_a = DATA_WIDTH_A >= 9 ? 9'h1ff : ((9'b1 << DATA_WIDTH_A) - 9'b1) << place_a;
    wire [17:0] dia = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4,
        DIA3, DIA2, DIA1, DIA0};
    wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
    wire [10:0] first_b = DATA_WIDTH_B == 36 ? {address_b[13:5], 2'b00}
        : DATA_WIDTH_B == 18 ? {address_b[13:4], 1'b0} : address_b[13:3];
    wire active_b = CEB & ~CSB0 & ~CSB1 & ~CSB2;
    wire [3:0] writes_b = !(active_b && WEB) ? 4'b0
        : DATA_WIDTH_B == 36 ? address_b[3:0] : DATA_WIDTH_B == 18 ? {2'b0, address_b[1:0]} : 4'b1;
    wire [2:0] place_b = DATA_WIDTH_B == 4 ? {address_b[2], 2'b0}
        : DATA_WIDTH_B == 2 ? {address_b[2:1], 1'b0} : DATA_WIDTH_B == 1 ? address_b[2:0] : 3'b0;
    wire [8:0] mask_b = DATA_WIDTH_B >= 9 ? 9'h1ff : ((9'b1 << DATA_WIDTH_B) - 9'b1) << place_b;
    wire [17:0] dib = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4,
        DIB3, DIB2, DIB1, DIB0};
    wire [35:0] data_a = DATA_WIDTH_A == 36 ? {dib, dia} : {18'b0, dia};
    wire [35:0] data_b = {18'b0, dib};

    // Whether one port writes bits of a byte, counted from the other port's first, that the other port looks at.
    function [3:0] hits;
        input [10:0] first;
        input [10:0] other;
        input [3:0] written;
        input overlap;
        integer n;
        reg [10:0] distance;
        begin
            for (n = 0; n < 4; n = n + 1) begin
                distance = first + n[10:0] - other;
                hits[n] = overlap && distance < 4 && written[distance[1:0]];
            end
        end
    endfunction
    wire [3:0] hit_a = hits(first_a, first_b, writes_b, |(mask_a & mask_b));
    wire [3:0] hit_b = hits(first_b, first_a, writes_a, |(mask_a & mask_b));

    // What is not defined, in the place of `value`.
    function [8:0] undefined;
        input [8:0] value;
`ifdef VERILATOR
        undefined = ~value;
`else
        undefined = 9'bx;
`endif
    endfunction

    reg [35:0] shown_a, shown_b;
    initial begin
        shown_a = 36'b0;
        shown_b = 36'b0;
    end

    // Port A.
    reg [35:0] old_a, new_a;
    integer n_a;
    always @(posedge CLKA) begin
        if (RSTA === 1'b1)
            $fatal(1, "%m: RSTA must be 0: the reset is not modelled");
        if (active_a && active_b && CLKB === 1'b0)
            $fatal(1, "%m: two clocks are not modelled");
        if (DATA_WIDTH_A == 36 && active_a && WEA !== 1'b1)
            $fatal(1, "%m: port A must not read 36 bits");
        old_a = {bytes[first_a + 11'd3], bytes[first_a + 11'd2], bytes[first_a + 11'd1], bytes[first_a]} >> place_a;
        new_a = old_a;
        for (n_a = 0; n_a < 4; n_a = n_a + 1) begin
            if (writes_a[n_a])
                new_a[9 * n_a +: 9] = data_a[9 * n_a +: 9];
            if (hit_a[n_a]) begin
                old_a[9 * n_a +: 9] = undefined(old_a[9 * n_a +: 9]);
                new_a[9 * n_a +: 9] = undefined(new_a[9 * n_a +: 9]);
            end
        end
        if (active_a && !WEA)
            shown_a <= old_a;
        else if (active_a && WRITEMODE_A == "WRITETHROUGH")
            shown_a <= new_a;
        else if (active_a && WRITEMODE_A == "READBEFOREWRITE")
            shown_a <= old_a;
        if (DATA_WIDTH_A >= 9) begin
            if (writes_a[0]) bytes[first_a] <= new_a[8:0];
            if (writes_a[1]) bytes[first_a + 11'd1] <= new_a[17:9];
            if (writes_a[2]) bytes[first_a + 11'd2] <= new_a[26:18];
            if (writes_a[3]) bytes[first_a + 11'd3] <= new_a[35:27];
        end else if (writes_a[0]) begin
            if (DATA_WIDTH_A == 4) bytes[first_a][{1'b0, address_a[2], 2'b0} +: 4] <= new_a[3:0];
            if (DATA_WIDTH_A == 2) bytes[first_a][{1'b0, address_a[2:1], 1'b0} +: 2] <= new_a[1:0];
            if (DATA_WIDTH_A == 1) bytes[first_a][{1'b0, address_a[2:0]}] <= new_a[0];
        end
    end

    // Port B.
    reg [35:0] old_b, new_b;
    integer n_b;
    always @(posedge CLKB) begin
        if (RSTB === 1'b1)
            $fatal(1, "%m: RSTB must be 0: the reset is not modelled");
        if (active_b && active_a && CLKA === 1'b0)
            $fatal(1, "%m: two clocks are not modelled");
        if (DATA_WIDTH_A == 36 && active_b && WEB !== 1'b0)
            $fatal(1, "%m: port B must not write where port A writes 36 bits");
        old_b = {bytes[first_b + 11'd3], bytes[first_b + 11'd2], bytes[first_b + 11'd1], bytes[first_b]} >> place_b;
        new_b = old_b;
        for (n_b = 0; n_b < 4; n_b = n_b + 1) begin
            if (writes_b[n_b])
                new_b[9 * n_b +: 9] = data_b[9 * n_b +: 9];
            if (hit_b[n_b]) begin
                old_b[9 * n_b +: 9] = undefined(old_b[9 * n_b +: 9]);
                new_b[9 * n_b +: 9] = undefined(new_b[9 * n_b +: 9]);
            end
        end
        if (active_b && !WEB)
            shown_b <= old_b;
        else if (active_b && WRITEMODE_B == "WRITETHROUGH")
            shown_b <= new_b;
        else if (active_b && WRITEMODE_B == "READBEFOREWRITE")
            shown_b <= old_b;
        if (DATA_WIDTH_B >= 9) begin
            if (writes_b[0]) bytes[first_b] <= new_b[8:0];
            if (writes_b[1]) bytes[first_b + 11'd1] <= new_b[17:9];
        end else if (writes_b[0]) begin
            if (DATA_WIDTH_B == 4) bytes[first_b][{1'b0, address_b[2], 2'b0} +: 4] <= new_b[3:0];
            if (DATA_WIDTH_B == 2) bytes[first_b][{1'b0, address_b[2:1], 1'b0} +: 2] <= new_b[1:0];
            if (DATA_WIDTH_B == 1) bytes[first_b][{1'b0, address_b[2:0]}] <= new_b[0];
        end
    end

    wire [17:0] doa = DATA_WIDTH_B == 36 ? shown_b[17:0] : shown_a[17:0];
    wire [17:0] dob = DATA_WIDTH_B == 36 ? shown_b[35:18] : shown_b[17:0];
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
        DOA1, DOA0} = doa;
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2,
        DOB1, DOB0} = dob;
endmodule
