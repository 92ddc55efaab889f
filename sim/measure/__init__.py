"""What the circuit takes: cycles, cells, area, and the cycle model that says what it should take."""
