"""The cocotb testbenches, one file a unit; `sim/verify/runs` has the sizes that they are run at."""
