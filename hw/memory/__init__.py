"""Between the memory channels and the ring buffers: AXI4, the fetch unit, the crossbar, the rings and the
blocks in them."""
