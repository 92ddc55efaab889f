"""What a host sees of the accelerator: AXI4-Lite and the registers behind it."""
