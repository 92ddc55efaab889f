"""All that runs and measures the circuit."""
