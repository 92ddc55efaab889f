"""How each unit's testbench is run: at which sizes, for its tests, its mutants and its measurement."""
