"""The parts of what saves and restores a context's state, and the layouts of its image in memory."""
