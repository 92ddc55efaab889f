"""Boards: what stands between an accelerator and the pins of an FPGA: the link to a host, and the memory."""
