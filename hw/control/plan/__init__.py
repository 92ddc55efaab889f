"""The parts of the planner (hw/control/planner.py): which blocks come into the rings, and in which order."""
