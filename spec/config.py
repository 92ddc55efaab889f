"""Every size of the machine, in one frozen dataclass with named configurations.

`Config` holds the free parameters; everything that follows from them is a property, so no other file holds a size.
A configuration is named (`paper`, `eighth`, `ulx3s`, `tiny`), read from a TOML file, or either of these with single
parameters changed; a combination that cannot work raises `ConfigError` with the reason.

Source: SpAtten (HPCA 2021) section V for `paper` and `eighth`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from spatten.spec.errors import SpattenError

PLANE_BITS = (4, 6, 8, 10, 12)
"""Widths an MSB plane, a V plane or a static plane can have in DRAM."""
LSB_BITS = 4
"""Width of an LSB plane: MSB + LSB settings are 4+4, 6+4, 8+4, 10+4, 12+4."""
SECTOR_BYTES = 32
"""DRAM access granule: addresses interleave over channels every sector."""
HEAD_DIMS = (16, 32, 64, 128)
"""Head dimensions a job can choose, up to the configuration's `head_dim_max`."""
CHANNELS_MAX = 32
"""Memory channels that the registers have room for."""
BLOCKS_MAX = 16
"""Most blocks that a ring buffer can hold at a time."""
BUFFER_ROWS_MAX = 16_384
"""Most rows of a K or V buffer: eight times the paper's. Nobody has tried more, and every row is memory on the chip."""
SLICE_WIDTH_MAX = 64
"""Most operands of a slice: a wider one would need more sectors of a buffer per cycle than the buffer has banks."""
NAME_MAX = 200
"""Most characters of a configuration's name: file systems allow 255 bytes for a folder's."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TAKEN_NAME = re.compile(r"sim|synth|formal|run|waves|con|prn|aux|nul|(com|lpt)[0-9]", re.IGNORECASE)
"""Names of folders that this project keeps under `build/` itself, and names that Windows gives to devices."""
_INTEGER = re.compile(r"[+-]?[0-9](_?[0-9])*|0x[0-9A-Fa-f](_?[0-9A-Fa-f])*|0o[0-7](_?[0-7])*|0b[01](_?[01])*")
"""An integer as TOML writes it."""


class Feature(StrEnum):
    """What a machine can do besides plain attention with cascade token pruning. What it lacks is in no part of it."""

    PROGRESSIVE = "progressive"
    """Progressive recompute: rows that turn out flat are computed again with K's LSBs."""
    PRUNE_VALUES = "prune_values"
    """Local value pruning: a row fetches the V rows of its largest probabilities only."""
    PRUNE_HEADS = "prune_heads"
    """Head importance, and cascade head pruning by it."""
    SAVED_STATES = "saved_states"
    """Cascade states stored to memory at the end of a job, and loaded before one."""


FEATURES = tuple(Feature)
"""All that a machine can have."""


class ConfigError(SpattenError, ValueError):
    """A parameter or a combination of parameters that cannot work; the message says what must hold."""


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class Config:
    """Free parameters of the accelerator. Defaults are the paper's machine.

    Raises `ConfigError` where a value or combination cannot work, `TypeError` for a value of the wrong kind.
    """

    name: str = "paper"
    """Names the folder under `build/`."""
    qk_multipliers: int = 512
    """Multipliers of the Q x K array."""
    pv_multipliers: int = 512
    """Multipliers of the prob x V array."""
    operand_bits: int = 12
    """Width of Q, K and V operands and of the output, signed."""
    prob_bits: int = 12
    """Width of a probability, unsigned; 1.0 is all ones."""
    softmax_lanes: int = 8
    """Scores per cycle through softmax, and the most keys per cycle of the Q x K array."""
    topk_lanes: int = 16
    """Elements per cycle of each top-k engine."""
    tokens_max: int = 1024
    """Most tokens of a sequence."""
    heads_max: int = 16
    """Most heads of a layer."""
    layers_max: int = 64
    """Most layers whose importance is accumulated in one sequence."""
    head_dim_max: int = 128
    """Largest head dimension a job can choose."""
    key_buffer_rows: int = 2048
    """Rows of `buffer_dim` operands that the key buffer holds (the paper: 2 x 1,024)."""
    value_buffer_rows: int = 2048
    """Rows of `buffer_dim` operands that the value buffer holds."""
    buffer_dim: int = 64
    """Operands of one buffer row; a head dimension of twice this takes two rows."""
    channels: int = 16
    """Memory channels, each an AXI4 master."""
    channel_bits: int = 256
    """Data width of a channel; a sector takes 256 / channel_bits beats."""
    contexts: int = 4
    """Cascade states kept on chip, one per sequence in flight."""
    jobs_in_flight: int = 4
    """Jobs whose work overlaps in the pipeline."""
    sector_bits: int = 28
    """Width of a global sector address: 2**28 sectors of 32 bytes are 8 GB."""
    plane_widths: tuple[int, ...] = PLANE_BITS
    """Widths that planes can have, of 4, 6, 8, 10 and 12; those above `operand_bits` do not count."""
    head_dim_min: int = HEAD_DIMS[0]
    """Smallest head dimension a job can choose."""
    blocks: int = BLOCKS_MAX
    """Blocks that a ring buffer holds at a time, 4 to 16."""
    features: tuple[Feature, ...] = FEATURES
    """What the machine can do besides plain attention with token pruning, in any order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _known_features(self.features))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "features":
                continue
            if field.name == "name":
                if not isinstance(value, str):
                    raise TypeError(f"name must be a string, not {value!r}")
                self._check_name()
            elif field.name == "plane_widths":
                self._check_plane_widths()
            elif not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field.name} must be an integer, not {value!r}")
            elif value.bit_length() > 32:
                # Not shown: Python refuses to print an integer of more than some thousand digits.
                raise ConfigError(f"{field.name} must be at least 1 and below 2**32, not of {value.bit_length()} bits")
            elif value < 1:
                raise ConfigError(f"{field.name} must be at least 1, not {value}")
        self._check_alone()
        self._check_together()

    def _check_name(self) -> None:
        """Refuse a name that a folder under `build/` cannot have on every system."""
        name = self.name
        if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
            raise ConfigError(
                f"name must be 1 to {NAME_MAX} letters (A to Z), digits, '-' and '_', the first a letter or a digit, "
                f"not {name[: NAME_MAX + 1]!r}: it names a folder"
            )
        if _TAKEN_NAME.fullmatch(name):
            raise ConfigError(f"name must be another than {name!r}, which is taken: it names a folder under build/")

    def _check_plane_widths(self) -> None:
        """Refuse what is no rising sequence of plane widths with that of LSB planes; keep a list as a tuple."""
        widths = self.plane_widths
        if not isinstance(widths, tuple | list) or not all(type(width) is int for width in widths):
            raise TypeError("plane_widths must be a list of integers, such as [4, 8]")
        if list(widths) != [bits for bits in PLANE_BITS if bits in widths] or LSB_BITS not in widths:
            raise ConfigError(
                f"plane_widths must be some of {PLANE_BITS}, rising, with {LSB_BITS}, the width of LSB planes"
            )
        object.__setattr__(self, "plane_widths", tuple(widths))

    def _check_alone(self) -> None:
        """Check each parameter by itself."""
        self._check_range("operand_bits", 4, 16)
        self._check_range("prob_bits", 8, 12)
        self._check_range("tokens_max", 2, 1024)
        self._check_range("heads_max", 1, 16)
        self._check_range("layers_max", 1, 64)
        self._check_range("contexts", 1, 16)
        self._check_range("jobs_in_flight", 1, 8)
        self._check_range("sector_bits", 12, 32)
        self._check_range("blocks", 4, BLOCKS_MAX)
        powers = ("softmax_lanes", "topk_lanes", "channels", "tokens_max", "qk_multipliers", "pv_multipliers")
        for power in (*powers, "jobs_in_flight", "blocks"):
            if not _is_power_of_two(getattr(self, power)):
                raise ConfigError(f"{power} must be a power of two, not {getattr(self, power)}")
        if self.head_dim_max not in HEAD_DIMS:
            raise ConfigError(f"head_dim_max must be one of {HEAD_DIMS}, not {self.head_dim_max}")
        if self.head_dim_min not in HEAD_DIMS or self.head_dim_min > self.head_dim_max:
            raise ConfigError(
                f"head_dim_min must be one of {HEAD_DIMS}, at most head_dim_max = {self.head_dim_max}, "
                f"not {self.head_dim_min}"
            )
        if self.buffer_dim not in HEAD_DIMS:
            raise ConfigError(f"buffer_dim must be one of {HEAD_DIMS}, not {self.buffer_dim}")
        if self.channel_bits not in (16, 32, 64, 128, 256):
            raise ConfigError(
                f"channel_bits must be 16, 32, 64, 128 or 256 (a sector is {8 * SECTOR_BYTES} bits), "
                f"not {self.channel_bits}"
            )
        for buffer in ("key_buffer_rows", "value_buffer_rows"):
            if getattr(self, buffer) > BUFFER_ROWS_MAX:
                raise ConfigError(f"{buffer} must be at most {BUFFER_ROWS_MAX}, not {getattr(self, buffer)}")
        if self.channels > CHANNELS_MAX:
            raise ConfigError(f"channels must be at most {CHANNELS_MAX}, not {self.channels}: each has its registers")

    def _check_together(self) -> None:
        """Check that the units that the parameters make fit together."""
        for array in ("qk_multipliers", "pv_multipliers"):
            multipliers = getattr(self, array)
            if multipliers < HEAD_DIMS[0]:
                raise ConfigError(
                    f"{array} must be at least the smallest head dimension {HEAD_DIMS[0]}, not {multipliers}"
                )
            if multipliers > self.softmax_lanes * self.head_dim_max:
                raise ConfigError(
                    f"{array} must be at most softmax_lanes x head_dim_max = "
                    f"{self.softmax_lanes * self.head_dim_max}, not {multipliers}: the rest could never be busy"
                )
        if self.softmax_lanes > self.tokens_max or self.topk_lanes > self.tokens_max:
            raise ConfigError(
                f"softmax_lanes ({self.softmax_lanes}) and topk_lanes ({self.topk_lanes}) must be at most "
                f"tokens_max ({self.tokens_max})"
            )
        rows_per_token = self.buffer_rows_per_token(self.head_dim_max)
        for buffer in ("key_buffer_rows", "value_buffer_rows"):
            rows = getattr(self, buffer)
            if rows < self.tokens_max * rows_per_token:
                raise ConfigError(
                    f"{buffer} must hold one head of tokens_max = {self.tokens_max} tokens at head_dim_max = "
                    f"{self.head_dim_max}, that is {self.tokens_max * rows_per_token} rows of {self.buffer_dim} "
                    f"operands, not {rows}"
                )
        if self.pv_multipliers != self.qk_multipliers:
            raise ConfigError(
                f"pv_multipliers must equal qk_multipliers = {self.qk_multipliers}, not {self.pv_multipliers}: the key "
                "and the value buffer are filled by the same crossbar"
            )
        if self.topk_lanes < self.softmax_lanes:
            raise ConfigError(
                f"topk_lanes must be at least softmax_lanes = {self.softmax_lanes}, not {self.topk_lanes}: rows come "
                "to the top-k engine from softmax"
            )
        if self.topk_lanes > 32:
            raise ConfigError(
                f"topk_lanes must be at most 32, not {self.topk_lanes}: saved states are read 32 tokens at a time"
            )
        if self.slice_width > SLICE_WIDTH_MAX:
            raise ConfigError(
                f"slice_width must be at most {SLICE_WIDTH_MAX} operands, not {self.slice_width}: take fewer "
                "multipliers, more softmax_lanes or a smaller buffer_dim"
            )

    def _check_range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} must be {low} to {high}, not {value}")

    def has(self, feature: Feature) -> bool:
        """Whether the machine has a feature."""
        return feature in self.features

    # -- Derived sizes ------------------------------------------------------------------------------------------------

    @property
    def local_sector_bits(self) -> int:
        """Width of a sector address within a channel."""
        return self.sector_bits - (self.channels - 1).bit_length()

    @property
    def plane_bits(self) -> tuple[int, ...]:
        """Plane widths that fit an operand."""
        return tuple(bits for bits in self.plane_widths if bits <= self.operand_bits)

    @property
    def query_bits(self) -> tuple[int, ...]:
        """Widths a Q plane can have: the planes', and a full 16-bit one where operands are that wide."""
        return self.plane_bits + ((16,) if self.operand_bits == 16 else ())

    @property
    def head_dims(self) -> tuple[int, ...]:
        """Head dimensions a job can choose."""
        return tuple(dim for dim in HEAD_DIMS if self.head_dim_min <= dim <= self.head_dim_max)

    @property
    def score_bits(self) -> int:
        """Signed width of an exact score: head_dim_max products of two most negative operands fit."""
        return 2 * self.operand_bits + (self.head_dim_max - 1).bit_length()

    @property
    def difference_bits(self) -> int:
        """Unsigned width of (row maximum - score): below head_dim_max x 2**(2 operand_bits - 1)."""
        return self.score_bits - 1

    @property
    def exp_sum_bits(self) -> int:
        """Unsigned width of a row's sum of exponentials: tokens_max ones with `SUM_FRACTION` fraction bits."""
        return SUM_FRACTION + self.tokens_max.bit_length()

    @property
    def prob_one(self) -> int:
        """The code of probability 1.0."""
        return (1 << self.prob_bits) - 1

    @property
    def pv_accumulator_bits(self) -> int:
        """Signed width of sum(prob x V): rounding can lift a row's probabilities above 1.0, never above 2.0."""
        return self.prob_bits + 1 + self.operand_bits

    @property
    def token_importance_bits(self) -> int:
        """Unsigned width of a token's importance: one prompt never saturates it."""
        return self.prob_bits + (self.tokens_max * self.heads_max * self.layers_max - 1).bit_length()

    @property
    def head_importance_shift(self) -> int:
        """A row adds round(sum |out| x multiplier >> this): at most 2**15 whatever the operand width."""
        return self.operand_bits - 1 + (self.head_dim_max - 1).bit_length()

    @property
    def head_importance_bits(self) -> int:
        """Unsigned width of a head's importance: one prompt never saturates it."""
        return MULTIPLIER_FRACTION + (self.tokens_max * self.layers_max - 1).bit_length() + 1

    def buffer_rows_per_token(self, head_dim: int) -> int:
        """Rows of the K or V buffer that one token takes."""
        return max(1, head_dim // self.buffer_dim)

    @property
    def slice_width(self) -> int:
        """Operands of a slice: what one lane of a K or V buffer delivers per cycle."""
        return max(self.qk_multipliers // self.softmax_lanes, min(self.buffer_dim, self.qk_multipliers))

    @property
    def slices(self) -> int:
        """Slices of the Q x K array, and lanes of the key buffer."""
        return self.qk_multipliers // self.slice_width

    def sector_beats(self) -> int:
        """Beats of a channel per sector."""
        return 8 * SECTOR_BYTES // self.channel_bits

    @property
    def outstanding(self) -> int:
        """Most sectors that a channel has been asked for and has not delivered yet: those of 128 beats, at least 16."""
        return max(128 // self.sector_beats(), 16)

    @property
    def sequence_bits(self) -> int:
        """Width of a row group's number, twice as many as can be under way: a group for each outstanding sector, and 64
        inside the fetch unit."""
        return 1 + (self.outstanding + 64).bit_length()

    # -- Changing and reading -----------------------------------------------------------------------------------------

    def replace(self, **changes: Any) -> Self:
        """The same configuration with single parameters changed, validated again."""
        _refuse_unknown(changes)
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Free parameters by name, for the JSON sidecar."""
        return dataclasses.asdict(self)

    def derived(self) -> dict[str, Any]:
        """Derived sizes by name, for the JSON sidecar."""
        return {
            name: getattr(self, name) for name, attribute in vars(type(self)).items() if isinstance(attribute, property)
        }


SCALE_MANTISSA_BITS = 16
"""Width of a score scale's mantissa; it is normalised, its top bit is one."""
SCALE_SHIFT_MIN = 4
"""Least shift of a score scale: an MSB plane's unit of 16 takes 4 off it."""
SCALE_SHIFT_MAX = 63
"""Largest shift of a score scale."""
SUM_FRACTION = 24
"""Fraction bits of a row's sum of exponentials."""
MULTIPLIER_FRACTION = 15
"""Fraction bits of a job's head importance multiplier: 1.0 is 32,768, the most allowed."""


def _known_features(names: Any) -> tuple[Feature, ...]:
    """The features of these names, each once, in the order of `Feature`."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        try:
            what = repr(names)
        except ValueError:  # an integer of more than some thousand digits is in it
            what = type(names).__name__
        raise TypeError(f"features must be a list of names, not {what}")
    known = ", ".join(FEATURES)
    for name in names:
        if name not in list(FEATURES):
            raise ConfigError(f"features must be among {known}, not {name!r}")
        if names.count(name) > 1:
            raise ConfigError(f"features must be among {known}, each once, not {name!r} twice or more")
    return tuple(feature for feature in FEATURES if feature in names)


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(Config)]
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown parameter {name!r}; the parameters are {', '.join(known)}")


PAPER = Config()
EIGHTH = Config(
    name="eighth",
    qk_multipliers=64,
    pv_multipliers=64,
    softmax_lanes=4,
    topk_lanes=4,
    channels=2,
)
ULX3S = Config(
    name="ulx3s",
    qk_multipliers=32,
    pv_multipliers=32,
    operand_bits=8,
    softmax_lanes=2,
    topk_lanes=2,
    tokens_max=512,
    heads_max=12,
    head_dim_max=64,
    key_buffer_rows=992,
    value_buffer_rows=1024,
    channels=1,
    channel_bits=16,
    contexts=1,
    jobs_in_flight=1,
    sector_bits=20,
    plane_widths=(4, 8),
    head_dim_min=32,
    blocks=4,
    features=(Feature.PROGRESSIVE, Feature.SAVED_STATES),
)
TINY = Config(
    name="tiny",
    qk_multipliers=32,
    pv_multipliers=32,
    softmax_lanes=2,
    topk_lanes=2,
    tokens_max=16,
    heads_max=4,
    layers_max=4,
    head_dim_max=32,
    key_buffer_rows=32,
    value_buffer_rows=32,
    buffer_dim=16,
    channels=2,
    channel_bits=256,
    contexts=2,
    jobs_in_flight=2,
    sector_bits=16,
)
NAMED = {config.name: config for config in (PAPER, EIGHTH, ULX3S, TINY)}


def from_toml(path: Path) -> Config:
    """Read a configuration: parameters at top level, and optionally `base = "<named configuration>"`.

    Without a `name` it is called after the file. Errors: `ConfigError` for a file that cannot be read or parsed, an
    unknown base or parameter, or a bad value.
    """
    values = _read_toml(path)
    base = values.pop("base", "paper")
    if not isinstance(base, str) or base not in NAMED:
        raise ConfigError(f"{path}: base must be one of {', '.join(NAMED)}, not {base!r}")
    values.setdefault("name", path.stem)
    try:
        config = NAMED[base].replace(**values)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if config.name.lower() in NAMED:
        raise ConfigError(f"{path}: the name {config.name!r} is that of a built-in configuration: give it another")
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"cannot read the configuration file {path}: it is not a file")
        # Some editors put a byte order mark in front.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not a TOML file of parameters: it nests too deeply") from error


def load(which: str, changes: Iterable[str] = ()) -> Config:
    """A configuration by name or TOML path, with changes given as "parameter=value" strings.

    A changed configuration is called after its changes ("paper-topk_lanes-8") unless `name=...` is among them.
    """
    if which in NAMED:
        config = NAMED[which]
    elif which.endswith(".toml"):
        config = from_toml(Path(which))
    else:
        raise ConfigError(f"configuration must be one of {', '.join(NAMED)} or a .toml file, not {which!r}")
    values = _read_changes(changes)
    if not values:
        return config
    changed = config.replace(**values)
    if "name" not in values:
        changed = changed.replace(name=_changed_name(config.name, values))
    if changed != NAMED.get(changed.name.lower(), changed):
        raise ConfigError(f"name must be another than {changed.name!r}, which a built-in configuration has")
    return changed


def _read_changes(changes: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"a change must be parameter=value, not {change!r}")
        _refuse_unknown({name: text})
        if name in values:
            raise ConfigError(f"{name} must be set once, not twice or more")
        if name == "name":
            values[name] = text
        elif name == "plane_widths":
            values[name] = tuple(_parse_integer(name, width) for width in text.split(","))
        elif name == "features":
            values[name] = _known_features([] if text in ("", "none") else text.split(","))
        else:
            values[name] = _parse_integer(name, text)
    return values


def _parse_integer(name: str, text: str) -> int:
    try:
        if not _INTEGER.fullmatch(text):
            raise ValueError
        return int(text, 0)
    except ValueError as error:  # a word, 007, or more digits than Python takes
        raise ConfigError(f"{name} must be an integer, not {text!r}") from error


def _changed_name(name: str, values: Mapping[str, Any]) -> str:
    """`name` and what was changed; where that is too long for a folder's name, a hash stands for the changes."""
    changes = "-".join(
        f"{parameter}-{('-'.join(map(str, value)) or 'none') if isinstance(value, tuple) else value}"
        for parameter, value in values.items()
    )
    if len(name) + 1 + len(changes) > NAME_MAX:
        changes = hashlib.sha256(changes.encode()).hexdigest()[:16]
    return f"{name}-{changes}"
