"""A board, simulated from the pins of its serial line to those of its memory, and what it becomes on an FPGA."""
