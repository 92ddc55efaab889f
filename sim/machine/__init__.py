"""The whole accelerator, simulated like a board: behind its driver, under random jobs, and running real models."""
