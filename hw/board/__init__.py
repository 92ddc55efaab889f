"""What a board puts around the accelerator: the link to a host, and what protects the memory from a reset."""
