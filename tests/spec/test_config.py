"""The configuration: named machines, what is refused and how, and derived sizes against brute force."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from spatten.spec import config as module
from spatten.spec.config import (
    EIGHTH,
    FEATURES,
    HEAD_DIMS,
    MULTIPLIER_FRACTION,
    NAMED,
    PAPER,
    SUM_FRACTION,
    TINY,
    ULX3S,
    Config,
    ConfigError,
    Feature,
    from_toml,
    load,
)
from tests.golden.reference import fits, times_power

MACHINES = [
    *NAMED.values(),
    PAPER.replace(operand_bits=16),
    PAPER.replace(operand_bits=4, prob_bits=8),
    PAPER.replace(heads_max=12, layers_max=48),
    TINY.replace(heads_max=3, layers_max=7, head_dim_max=16, qk_multipliers=16, pv_multipliers=16),
]


def label(config: Config) -> str:
    return f"{config.name}-{config.operand_bits}-{config.heads_max}"


def test_named_machines() -> None:
    assert list(NAMED) == ["paper", "eighth", "ulx3s", "tiny"]
    assert Config() == PAPER
    assert (PAPER.qk_multipliers, PAPER.pv_multipliers, PAPER.operand_bits, PAPER.prob_bits) == (512, 512, 12, 12)
    assert (PAPER.softmax_lanes, PAPER.topk_lanes, PAPER.channels, PAPER.channel_bits) == (8, 16, 16, 256)
    assert EIGHTH.qk_multipliers * 8 == PAPER.qk_multipliers
    assert EIGHTH.channels * 8 == PAPER.channels
    for config in NAMED.values():
        assert config.replace() == config
        assert config.sector_beats() * config.channel_bits == 256


@pytest.mark.parametrize("config", MACHINES, ids=label)
def test_widths_hold_their_worst_case_and_no_more(config: Config) -> None:
    low, high = -(1 << (config.operand_bits - 1)), (1 << (config.operand_bits - 1)) - 1
    dim = config.head_dim_max
    scores = [dim * low * low, dim * low * high, dim * high * high]
    assert all(fits(score, config.score_bits) for score in scores)
    assert not all(fits(score, config.score_bits - 1) for score in scores)
    # for one query the difference of two scores is largest where every term goes from end to end
    difference = dim * -low * (high - low)
    assert fits(difference, config.difference_bits, signed=False)
    assert not fits(difference, config.difference_bits - 1, signed=False)
    total = config.tokens_max << SUM_FRACTION
    assert fits(total, config.exp_sum_bits, signed=False)
    assert not fits(total, config.exp_sum_bits - 1, signed=False)
    assert config.prob_one == 2**config.prob_bits - 1
    assert fits((2 << config.prob_bits) * low, config.pv_accumulator_bits), "a row of rounded probabilities below 2.0"
    rows = config.tokens_max * config.layers_max
    token = config.prob_one * rows * config.heads_max
    assert fits(token, config.token_importance_bits, signed=False)
    assert not fits(token, config.token_importance_bits - 1, signed=False)
    row = times_power(dim * -low << MULTIPLIER_FRACTION, -config.head_importance_shift)
    assert row == 1 << MULTIPLIER_FRACTION
    assert fits(rows * row, config.head_importance_bits, signed=False)
    assert 2 * rows * row >= 1 << (config.head_importance_bits - 1)


def test_paper_widths() -> None:
    assert PAPER.score_bits == 31
    assert PAPER.difference_bits == 30
    assert PAPER.exp_sum_bits == 35
    assert PAPER.pv_accumulator_bits == 25
    assert PAPER.token_importance_bits == PAPER.head_importance_bits == 32
    assert PAPER.head_importance_shift == 18
    assert PAPER.plane_bits == PAPER.query_bits == (4, 6, 8, 10, 12)
    assert PAPER.replace(operand_bits=16).query_bits == (4, 6, 8, 10, 12, 16)
    assert PAPER.replace(operand_bits=9).plane_bits == (4, 6, 8)
    assert (PAPER.head_dims, TINY.head_dims) == (HEAD_DIMS, (16, 32))


@pytest.mark.parametrize("config", MACHINES, ids=label)
def test_a_buffer_holds_all_tokens(config: Config) -> None:
    for dim in config.head_dims:
        assert config.buffer_rows_per_token(dim) * config.buffer_dim >= dim
        assert config.buffer_rows_per_token(dim) * config.tokens_max <= config.key_buffer_rows


def test_design_figures() -> None:
    assert PAPER.key_buffer_rows // PAPER.buffer_rows_per_token(128) == 1024
    assert ULX3S.sector_beats() == 16


# -- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"qk_multipliers": -8}, "qk_multipliers must be at least 1, not -8"),
        ({"operand_bits": 3}, "operand_bits must be 4 to 16, not 3"),
        ({"operand_bits": 17}, "operand_bits must be 4 to 16, not 17"),
        ({"prob_bits": 7}, "prob_bits must be 8 to 12, not 7"),
        ({"prob_bits": 13}, "prob_bits must be 8 to 12, not 13"),
        ({"tokens_max": 1}, "tokens_max must be 2 to 1024, not 1"),
        ({"tokens_max": 2048}, "tokens_max must be 2 to 1024, not 2048"),
        ({"heads_max": 17}, "heads_max must be 1 to 16, not 17"),
        ({"layers_max": 65}, "layers_max must be 1 to 64, not 65"),
        ({"contexts": 17}, "contexts must be 1 to 16, not 17"),
        ({"softmax_lanes": 6}, "softmax_lanes must be a power of two, not 6"),
        ({"topk_lanes": 12}, "topk_lanes must be a power of two, not 12"),
        ({"channels": 3}, "channels must be a power of two, not 3"),
        ({"tokens_max": 1000}, "tokens_max must be a power of two, not 1000"),
        ({"qk_multipliers": 500}, "qk_multipliers must be a power of two, not 500"),
        ({"pv_multipliers": 65}, "pv_multipliers must be a power of two, not 65"),
        ({"head_dim_max": 96}, "head_dim_max must be one of (16, 32, 64, 128), not 96"),
        (
            {"head_dim_max": 32, "head_dim_min": 64},
            "head_dim_min must be one of (16, 32, 64, 128), at most head_dim_max = 32, not 64",
        ),
        ({"blocks": 2}, "blocks must be 4 to 16, not 2"),
        ({"blocks": 6}, "blocks must be a power of two, not 6"),
        (
            {"plane_widths": (8,)},
            "plane_widths must be some of (4, 6, 8, 10, 12), rising, with 4, the width of LSB planes",
        ),
        (
            {"plane_widths": (8, 4)},
            "plane_widths must be some of (4, 6, 8, 10, 12), rising, with 4, the width of LSB planes",
        ),
        ({"buffer_dim": 8}, "buffer_dim must be one of (16, 32, 64, 128), not 8"),
        (
            {"channel_bits": 512},
            "channel_bits must be 16, 32, 64, 128 or 256 (a sector is 256 bits), not 512",
        ),
        ({"qk_multipliers": 8}, "qk_multipliers must be at least the smallest head dimension 16, not 8"),
        ({"pv_multipliers": 8}, "pv_multipliers must be at least the smallest head dimension 16, not 8"),
        (
            {"qk_multipliers": 2048},
            "qk_multipliers must be at most softmax_lanes x head_dim_max = 1024, not 2048: "
            "the rest could never be busy",
        ),
        (
            {"pv_multipliers": 512, "softmax_lanes": 2, "qk_multipliers": 256},
            "pv_multipliers must be at most softmax_lanes x head_dim_max = 256, not 512: the rest could never be busy",
        ),
        (
            {"tokens_max": 4},
            "softmax_lanes (8) and topk_lanes (16) must be at most tokens_max (4)",
        ),
        (
            {"key_buffer_rows": 1024},
            "key_buffer_rows must hold one head of tokens_max = 1024 tokens at head_dim_max = 128, that is 2048 rows "
            "of 64 operands, not 1024",
        ),
        (
            {"value_buffer_rows": 2047},
            "value_buffer_rows must hold one head of tokens_max = 1024 tokens at head_dim_max = 128, that is 2048 rows "
            "of 64 operands, not 2047",
        ),
        (
            {"features": ["progressive", "fast"]},
            "features must be among progressive, prune_values, prune_heads, saved_states, not 'fast'",
        ),
        (
            {"features": ("saved_states", "progressive", "saved_states")},
            "features must be among progressive, prune_values, prune_heads, saved_states, each once, "
            "not 'saved_states' twice or more",
        ),
        ({"channels": 64}, "channels must be at most 32, not 64: each has its registers"),
        ({"key_buffer_rows": 16385}, "key_buffer_rows must be at most 16384, not 16385"),
        ({"value_buffer_rows": 1 << 20}, "value_buffer_rows must be at most 16384, not 1048576"),
        ({"channels": -(1 << 40)}, "channels must be at least 1 and below 2**32, not of 41 bits"),
        ({"sector_bits": 1 << 100_000}, "sector_bits must be at least 1 and below 2**32, not of 100001 bits"),
        (
            {"pv_multipliers": 256},
            "pv_multipliers must equal qk_multipliers = 512, not 256: the key and the value buffer are filled by the "
            "same crossbar",
        ),
        (
            {"topk_lanes": 4},
            "topk_lanes must be at least softmax_lanes = 8, not 4: rows come to the top-k engine from softmax",
        ),
        ({"topk_lanes": 64}, "topk_lanes must be at most 32, not 64: saved states are read 32 tokens at a time"),
        (
            {"softmax_lanes": 4},
            "slice_width must be at most 64 operands, not 128: take fewer multipliers, more softmax_lanes or a smaller "
            "buffer_dim",
        ),
        (
            {"buffer_dim": 128},
            "slice_width must be at most 64 operands, not 128: take fewer multipliers, more softmax_lanes or a smaller "
            "buffer_dim",
        ),
        *(
            (
                {"name": name},
                "name must be 1 to 200 letters (A to Z), digits, '-' and '_', the first a letter or a digit, "
                f"not {name[:201]!r}: it names a folder",
            )
            for name in ("", "../x", "a b", "a/b", "..", "-x", "_", "é", "²", "a\n", "a\0", "x" * 201)
        ),
        *(
            ({"name": name}, f"name must be another than {name!r}, which is taken: it names a folder under build/")
            for name in ("con", "NUL", "com1", "sim", "synth")
        ),
    ],
)
def test_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PAPER.replace(**changes)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"channels": 4.0}, "channels must be an integer, not 4.0"),
        ({"channels": "4"}, "channels must be an integer, not '4'"),
        ({"contexts": True}, "contexts must be an integer, not True"),
        ({"name": 5}, "name must be a string, not 5"),
        ({"features": "progressive"}, "features must be a list of names, not 'progressive'"),
        ({"features": [4]}, "features must be a list of names, not [4]"),
        ({"features": None}, "features must be a list of names, not None"),
    ],
)
def test_wrong_kinds(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError) as caught:
        PAPER.replace(**changes)
    assert str(caught.value) == text


def test_unknown_parameters() -> None:
    with pytest.raises(ConfigError) as caught:
        PAPER.replace(lanes=8)
    names = ", ".join(field.name for field in dataclasses.fields(Config))
    assert str(caught.value) == f"unknown parameter 'lanes'; the parameters are {names}"


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.channels = 4  # type: ignore[misc]


# -- Features ---------------------------------------------------------------------------------------------------------


def test_features_are_all_there_unless_left_out() -> None:
    assert all(config.features == FEATURES == tuple(Feature) for config in (PAPER, EIGHTH, TINY))
    assert ULX3S.features == (Feature.PROGRESSIVE, Feature.SAVED_STATES)
    assert all(PAPER.has(feature) for feature in Feature)
    some = PAPER.replace(features=["saved_states", "progressive"])
    assert some.features == (Feature.PROGRESSIVE, Feature.SAVED_STATES), "in the order of the declaration"
    assert [some.has(feature) for feature in Feature] == [True, False, False, True]
    assert PAPER.replace(features=()).features == ()
    assert hash(some) == hash(PAPER.replace(features=("progressive", "saved_states")))
    assert Config(**json.loads(json.dumps(some.as_dict()))) == some, "the JSON sidecar has them as a list of names"


@pytest.mark.parametrize(
    ("text", "features", "name"),
    [
        ("progressive", ("progressive",), "tiny-features-progressive"),
        ("saved_states,progressive", ("progressive", "saved_states"), "tiny-features-progressive-saved_states"),
        ("", (), "tiny-features-none"),
        ("none", (), "tiny-features-none"),
    ],
)
def test_features_on_the_command_line(text: str, features: tuple[str, ...], name: str) -> None:
    found = load("tiny", [f"features={text}"])
    assert found == TINY.replace(name=name, features=features)


@pytest.mark.parametrize("text", ["all", "progressive,", "none,progressive", "progressive progressive"])
def test_unknown_features_on_the_command_line(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^features must be among progressive, prune_values, prune_heads, saved_states"
    ):
        load("tiny", [f"features={text}"])


def test_features_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "tiny"\nfeatures = ["prune_heads"]\n', encoding="utf-8")
    assert from_toml(path) == TINY.replace(name="mine", features=("prune_heads",))
    path.write_text('base = "tiny"\nfeatures = []\n', encoding="utf-8")
    assert from_toml(path) == TINY.replace(name="mine", features=())
    path.write_text('features = ["fast"]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml: features must be among progressive, .* not 'fast'$"):
        from_toml(path)
    path.write_text('features = "progressive"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml: features must be a list of names, not 'progressive'$"):
        from_toml(path)


# -- Reading ----------------------------------------------------------------------------------------------------------


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "eighth"\nchannels = 4\noperand_bits = 16\n', encoding="utf-8")
    assert from_toml(path) == EIGHTH.replace(name="mine", channels=4, operand_bits=16)
    assert load(str(path)) == from_toml(path)
    path.write_text('name = "other"\n', encoding="utf-8")
    assert from_toml(path) == PAPER.replace(name="other")
    path.write_bytes(b'\xef\xbb\xbfbase = "tiny"\r\nchannels = 0x4\r\n')
    assert from_toml(path) == TINY.replace(name="mine", channels=4), "a byte order mark is no part of it"
    path.write_text("", encoding="utf-8")
    assert from_toml(path) == PAPER.replace(name="mine")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("channels = 3\n", "{path}: channels must be a power of two, not 3"),
        ("chanels = 4\n", "{path}: unknown parameter 'chanels'"),
        ('base = "big"\n', "{path}: base must be one of paper, eighth, ulx3s, tiny, not 'big'"),
        ("base = 5\n", "{path}: base must be one of paper, eighth, ulx3s, tiny, not 5"),
        ("base = []\n", "{path}: base must be one of paper, eighth, ulx3s, tiny, not []"),
        ('name = "paper"\n', "{path}: the name 'paper' is that of a built-in configuration: give it another"),
        ("channels = 2.5\n", "{path}: channels must be an integer, not 2.5"),
        ("channels = \n", "{path} is not a TOML file: "),
        ("channels = 4\nchannels = 8\n", "{path} is not a TOML file: "),
        ("channels = " + "9" * 5000 + "\n", "{path} is not a TOML file: "),
        ("channels = " + "[" * 5000 + "\n", "{path} is not a TOML file of parameters: it nests too deeply"),
        ('name = "Paper"\n', "{path}: the name 'Paper' is that of a built-in configuration: give it another"),
        ('name = ["a"]\n', "{path}: name must be a string, not ['a']"),
        ("channels = true\n", "{path}: channels must be an integer, not True"),
        ("channels = inf\n", "{path}: channels must be an integer, not inf"),
        ('channels = "4"\n', "{path}: channels must be an integer, not '4'"),
        ("[channels]\nnumber = 4\n", "{path}: channels must be an integer, not {{'number': 4}}"),
        ("[paper]\nchannels = 4\n", "{path}: unknown parameter 'paper'"),
        ("channels = 1979-05-27\n", "{path}: channels must be an integer, not datetime.date(1979, 5, 27)"),
    ],
)
def test_toml_refused(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        from_toml(path)
    assert str(caught.value).startswith(error.format(path=path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError) as caught:
        load(str(missing))
    assert str(caught.value) == f"cannot read the configuration file {missing}: No such file or directory"
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        load(str(binary))
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("folder", "pipe"):
        with pytest.raises(
            ConfigError, match=rf"^cannot read the configuration file .*{name}\.toml: it is not a file$"
        ):
            load(str(tmp_path / f"{name}.toml"))
    (tmp_path / "my machine.toml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"my machine\.toml: name must be 1 to 200 letters"):
        load(str(tmp_path / "my machine.toml"))
    with pytest.raises(ConfigError, match="File name too long"):
        load("x" * 300 + ".toml")
    with pytest.raises(ConfigError, match="null byte"):
        load("x\0.toml")


def test_changes_from_the_command_line() -> None:
    assert load("paper") is not None
    assert load("paper") == PAPER
    assert load("eighth", ["channels=4", "operand_bits=0x10"]) == EIGHTH.replace(
        name="eighth-channels-4-operand_bits-16", channels=4, operand_bits=16
    )
    assert load("tiny", ["name=small"]).name == "small"
    assert load("tiny", ["channels=1"]).name == "tiny-channels-1", "a changed machine does not replace the named one"
    assert load("paper", ["name=paper"]) == PAPER
    assert load("paper", ["tokens_max=1_024"]) == PAPER.replace(name="paper-tokens_max-1024")


def test_a_name_of_many_changes_is_one_that_a_folder_can_have() -> None:
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in PAPER.as_dict().items()
    }
    changes = [f"{name}={text}" for name, text in texts.items() if name != "name"]
    names = [load("paper", changes[:count]).name for count in range(1, len(changes) + 1)]
    assert len(set(names)) == len(names)
    assert names[1] == "paper-qk_multipliers-512-pv_multipliers-512"
    assert max(map(len, names)) <= 200
    assert load("paper", changes).name == names[-1], "the same changes have the same name"


@pytest.mark.parametrize(
    ("which", "changes", "text"),
    [
        ("huge", [], "configuration must be one of paper, eighth, ulx3s, tiny or a .toml file, not 'huge'"),
        ("paper", ["channels"], "a change must be parameter=value, not 'channels'"),
        ("paper", ["channels=four"], "channels must be an integer, not 'four'"),
        ("paper", ["channels=4.0"], "channels must be an integer, not '4.0'"),
        ("paper", ["channels="], "channels must be an integer, not ''"),
        ("paper", ["channels=5"], "channels must be a power of two, not 5"),
        ("paper", ["channels= 4"], "channels must be an integer, not ' 4'"),
        ("paper", ["channels=\u0664"], "channels must be an integer, not '\u0664'"),
        ("paper", ["channels=1__6"], "channels must be an integer, not '1__6'"),
        ("paper", ["channels=010"], "channels must be an integer, not '010'"),
        ("paper", ["channels=-1"], "channels must be at least 1, not -1"),
        ("paper", ["channels=0x" + "f" * 9999], "channels must be at least 1 and below 2**32, not of 39996 bits"),
        ("paper", ["channels=4", "channels=8"], "channels must be set once, not twice or more"),
        ("paper", ["channels=4", "channels=4"], "channels must be set once, not twice or more"),
        ("paper", ["name=tiny"], "name must be another than 'tiny', which a built-in configuration has"),
        ("tiny", ["channels=1", "name=tiny"], "name must be another than 'tiny', which a built-in configuration has"),
        ("tiny", ["channels=1", "name=Tiny"], "name must be another than 'Tiny', which a built-in configuration has"),
        ("", [], "configuration must be one of paper, eighth, ulx3s, tiny or a .toml file, not ''"),
    ],
)
def test_changes_refused(which: str, changes: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(which, changes)
    assert str(caught.value) == text


def test_unknown_change() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'lanes'; the parameters are name, qk_multipliers, "):
        load("paper", ["lanes=4"])


def test_sidecar() -> None:
    free, derived = TINY.as_dict(), TINY.derived()
    assert Config(**json.loads(json.dumps(free))) == TINY
    assert derived["score_bits"] == TINY.score_bits
    assert derived["plane_bits"] == TINY.plane_bits
    assert set(derived) == {name for name, value in vars(module.Config).items() if isinstance(value, property)}
    assert len(derived) >= 11
    json.dumps(derived)
