"""Control, what happens and when: jobs, the planner, rows of the arrays, reads of the rings, saved states."""
