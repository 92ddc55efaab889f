"""The circuit, in Amaranth: `spatten.py` is the accelerator, `core.py` joins its units, and the rooms have one file a
unit."""
