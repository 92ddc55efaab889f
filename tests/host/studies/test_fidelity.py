"""The figures of `make fidelity`: how they are computed, on cases small enough to check by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spatten.host import files
from spatten.host.engines.engine import LayerResult
from spatten.host.engines.golden_engine import Settings
from spatten.host.studies import fidelity, plots
from spatten.host.studies.fidelity import Setting, Tally


@pytest.mark.parametrize("distribution", sorted(fidelity.DISTRIBUTIONS))
@pytest.mark.parametrize("n", [1, 47, 1024])
def test_softmax_case_holds_the_contract(distribution: str, n: int) -> None:
    case = fidelity.softmax_case(n, distribution, 0.1)
    assert case["mean_abs"] <= fidelity.ALLOWED_RATIO * case["ideal_mean_abs"] + fidelity.ALLOWED_LSB
    assert case["max_abs"] <= case["ideal_max_abs"] + 1
    assert case["n"] == n
    assert case["distribution"] == distribution


def test_softmax_case_has_an_ideal_to_compare_with() -> None:
    assert fidelity.softmax_case(47, "normal", 0.1)["ideal_mean_abs"] > 0.1
    assert fidelity.softmax_case(64, "all-equal", 0.1)["max_abs"] == 0


def test_rank_correlation() -> None:
    random = np.random.default_rng(1)
    sample = random.normal(size=50)
    assert fidelity.rank_correlation(sample, np.exp(sample)) == pytest.approx(1)
    assert fidelity.rank_correlation(sample, -sample) == pytest.approx(-1)
    # the textbook form: 1 - 6 sum d^2 / n (n^2 - 1)
    other = sample + random.normal(size=50)
    order = [sorted(range(50), key=values.__getitem__) for values in (sample, other)]
    d = sum((order[0].index(i) - order[1].index(i)) ** 2 for i in range(50))
    assert fidelity.rank_correlation(sample, other) == pytest.approx(1 - 6 * d / (50 * (50**2 - 1)))


def test_sentences_are_prose_distinct_and_spread() -> None:
    text = "\n\n".join(f"Too short. The number {i} is a\nfine example of a sentence." for i in range(500))
    text += "\n\nCode like `x = 1` is no prose at all here. The number 7 is a fine example of a sentence."
    found = fidelity.sentences(text, 100)
    assert len(set(found)) == 100
    assert found[0] == "The number 0 is a fine example of a sentence."
    assert found[-1] == "The number 495 is a fine example of a sentence."
    with pytest.raises(ValueError, match="the text has 500 sentences of prose; 501 are needed"):
        fidelity.sentences(text, 501)


def test_the_models_texts_suffice() -> None:
    _, ids = fidelity._minilm()
    assert len({tuple(one.tolist()) for one in ids}) == fidelity.SENTENCES >= 200
    model, windows = fidelity._language_model()
    assert windows.shape == (fidelity.WINDOWS, fidelity.PROMPT + fidelity.GENERATED)
    assert windows.shape[1] <= model.positions
    assert fidelity.WINDOWS * fidelity.GENERATED >= 2048
    assert len(np.unique(windows[:, 0])) > 1


def test_tally_and_effective_bits() -> None:
    def layer(rows: int, recomputed: int, length: int, fetched: int, heads: int) -> LayerResult:
        return LayerResult(
            output=np.zeros((rows, heads, 16), np.float32),
            kept_tokens=np.arange(1),
            kept_heads=np.arange(heads),
            rows=rows * heads,
            rows_recomputed=recomputed,
            value_rows=fetched,
            value_rows_live=heads * length,
        )

    tally = Tally()
    tally.add(0, 9, 0, layer(rows=10, recomputed=0, length=10, fetched=40, heads=4))
    assert tally == Tally(), "prompts do not count"
    tally.add(0, 10, 0, layer(rows=1, recomputed=1, length=8, fetched=16, heads=4))
    assert tally == Tally(rows=4, recomputed=1, key_rows=32, lsb_rows=8, value_rows=16, dense_rows=44)
    total = Tally()
    total += tally
    total += tally
    assert total.key_rows == 64
    setting = Setting(label="x", settings=Settings(key_bits=6, lsb=True, value_bits=10))
    tokens = fidelity.WINDOWS * fidelity.GENERATED
    row = fidelity._lm_row(setting, -tokens * np.log(7.0), total, 6.5)
    assert row["perplexity"] == pytest.approx(7)
    assert row["dense_float_perplexity"] == 6.5
    assert row["effective_bits"] == pytest.approx((6 * 32 + 4 * 8 + 10 * 16) / (32 + 16))
    assert row["lsb_fraction"] == 0.25
    assert row["v_keep"] == 0.5
    assert row["token_keep"] == pytest.approx(32 / 44)


def test_plots_are_drawn(tmp_path: Path) -> None:
    lm = [
        {"setting": setting.label, "perplexity": 20.0 + i, "dense_float_perplexity": 20.0, "effective_bits": 8.0}
        | {"lsb_fraction": 0.1, "v_keep": 0.5, "token_keep": 0.5}
        for i, setting in enumerate(fidelity.LM_SETTINGS)
    ]
    minilm = [
        {"setting": setting.label, "cosine_mean": 0.9, "cosine_min": 0.8, "rank_correlation": 0.95}
        for setting in fidelity.MINILM_SETTINGS
    ]
    cases = [fidelity.softmax_case(16, name, 0.1) for name in fidelity.DISTRIBUTIONS]
    drawn = plots.draw({"softmax": {"cases": cases}, "minilm": {"rows": minilm}, "lm": {"rows": lm}}, tmp_path)
    assert len(drawn) == 4
    assert {path.read_bytes()[:8] for path in drawn} == {b"\x89PNG\r\n\x1a\n"}
    assert sorted(tmp_path.iterdir()) == sorted(drawn)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    files.write_text(path, json.dumps({"a": 1}))

    def stop_half_way() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("{")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stop_half_way()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]
