"""The accelerator on an FPGA board: what it becomes there, and what simulates that."""
