"""Sentence embeddings: what is pooled, and what pruning leaves to pool."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spatten.golden import GoldenError
from spatten.golden.schedule import Ratios
from spatten.host.engines.engine import ReferenceEngine
from spatten.host.engines.golden_engine import GoldenEngine, Settings
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import load
from spatten.host.models.pooling import Pooling, cosine
from spatten.spec.config import TINY
from tests.host.models.test_bert import TOKENS, ScriptedEngine
from tests.host.models.test_checkpoint import BERT_CONFIG, write

HIDDEN = np.array([[3.0, -1.0], [0.0, 4.0], [-6.0, 0.0]], np.float32)
PRUNED = ScriptedEngine([[0, 2, 3, 5, 7], [0, 3, 5], [0, 3]], [[0, 1, 2]] * 3)
HEADLESS = ScriptedEngine([[0, 2, 3, 5, 7], [0, 3, 5], [3, 5]], [[0, 1, 2]] * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Bert]:
    def make(mode: object, *, normalize: bool = True) -> Bert:
        write(tmp_path, BERT_CONFIG)
        names = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
        paths = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {"path": path, "type": f"sentence_transformers.models.{name}"}
            for path, name in zip(paths, names, strict=False)
        ]
        (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}), encoding="utf-8")
        return Bert(load(tmp_path))

    return make


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        (("cls",), [3, -1]),
        (("max",), [3, 4]),
        (("mean",), [-1, 1]),
        (("mean", "cls"), [-1, 1, 3, -1]),
        (("cls", "max", "mean"), [3, -1, 3, 4, -1, 1]),
    ],
)
def test_modes(modes: tuple[str, ...], expected: list[float]) -> None:
    kept = np.array([0, 4, 9])
    found = Pooling(modes=modes, normalize=False)(HIDDEN, kept)
    assert found.tolist() == expected
    assert found.dtype == np.float32
    unit = np.array(expected) / np.linalg.norm(expected)
    np.testing.assert_allclose(Pooling(modes=modes)(HIDDEN, kept), unit, rtol=1e-6)


def test_nothing_has_no_direction() -> None:
    assert Pooling()(np.zeros((2, 3), np.float32), np.array([0, 1])).tolist() == [0, 0, 0]


def test_hidden_states_stay_as_they_are() -> None:
    before = HIDDEN.copy()
    for mode in ("cls", "max", "mean"):
        Pooling(modes=(mode,))(HIDDEN, np.arange(3))
    np.testing.assert_array_equal(HIDDEN, before)


def test_the_modes_of_a_folder_differ(folder: Callable[..., Bert]) -> None:
    """A folder that asks for the first token is not averaged."""
    found = {mode: folder(mode).run(TOKENS, ReferenceEngine()).embedding() for mode in ("cls", "max", "mean")}
    for first, second in (("cls", "mean"), ("max", "mean"), ("cls", "max")):
        assert cosine(found[first], found[second]) < 0.9998


def test_what_pruning_leaves_is_pooled(folder: Callable[..., Bert]) -> None:
    for mode in ("cls", "max", "mean"):
        result = folder(mode, normalize=False).run(TOKENS, PRUNED)
        assert result.kept_tokens.tolist() == [0, 3]
        assert result.hidden.shape == (2, 48)
        expected = {"cls": result.hidden[0], "max": result.hidden.max(axis=0), "mean": result.hidden.mean(axis=0)}
        np.testing.assert_array_equal(result.embedding(), expected[mode])


def test_a_first_token_that_was_pruned(folder: Callable[..., Bert]) -> None:
    for mode in ("mean", "max"):
        assert folder(mode).run(TOKENS, HEADLESS).embedding().shape == (48,)
    for modes in ("cls", ["mean", "cls"]):
        result = folder(modes).run(TOKENS, HEADLESS)
        with pytest.raises(GoldenError, match="cls pooling needs the first token, and it was pruned: pin_first must"):
            result.embedding()


def test_the_first_token_is_pinned_unless_one_says_otherwise(folder: Callable[..., Bert]) -> None:
    prune = Ratios(0.5, 0.9)
    assert folder("cls").run(TOKENS, GoldenEngine(Settings(tokens=prune), TINY)).kept_tokens[0] == 0


def test_cosine_needs_no_unit_length() -> None:
    assert cosine(np.array([3.0, 0.0]), np.array([2.0, 2.0])) == pytest.approx(np.sqrt(0.5))
    assert cosine(HIDDEN[0], HIDDEN[0] * 7) == pytest.approx(1)
