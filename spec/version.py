"""The one version: of the package, and of what its registers answer.

The major number is the register map's version and the minor one the descriptor's, which VERSION tells a driver; the
last counts releases that change neither.
"""

__version__ = "1.1.0"

MAP_VERSION, DESCRIPTOR_VERSION = (int(number) for number in __version__.split(".")[:2])
