"""The import package `spatten`: its rooms are the folders beside this file, `spec`, `golden`, `hw`, `host`, `sim` and
`cli`.

In a checkout `import spatten.hw.core` reads `hw/core.py`; in an installed distribution this file is
`spatten/__init__.py` and the rooms lie beside it as well. `python -m spatten` in the checkout is the command line.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent)]

if __name__ == "__main__":
    from spatten.cli.__main__ import main

    main()
