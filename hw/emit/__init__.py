"""From a circuit to files: Verilog text, and what brings it into a design."""
