"""The accelerator's driver, over any transport: a simulation or a board."""
