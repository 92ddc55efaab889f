"""Whether the circuit is right: cosimulation, proofs, mutants, and the checkers that they share."""
