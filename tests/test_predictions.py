"""What is kept of a reference's predictions: small on disk, and as good as the logits themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget import metrics
from microbudget.errors import BrokenModel
from microbudget.judge.judging import Block, judging_of
from microbudget.kinds.language_modelling import predictions
from microbudget.kinds.language_modelling.divergence import (
    compare_both,
    compare_with_kept,
    divergence,
    keep_predictions,
)
from microbudget.kinds.language_modelling.predictions import (
    Prediction,
    Predictions,
    compared_passages,
    judge,
    judge_exactly,
)
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, Example
from toy_pair import needs_llama, prose, write_pair


def random_logits(seed: int, tokens: int, words: int, scale: float, exact: float) -> tuple[np.ndarray, ...]:
    coin = np.random.default_rng(seed)
    before = (coin.normal(size=(tokens, words)) * scale).astype(np.float32)
    after = before + (coin.normal(size=before.shape) * exact).astype(np.float32)
    return coin.integers(0, words, tokens), before, after


@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 40),
    words=st.integers(2, 300),
    scale=st.floats(0.01, 30),
    exact=st.floats(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_kept_prediction_judges_as_the_logits_do(
    seed: int, tokens: int, words: int, scale: float, exact: float
) -> None:
    """Probabilities within a factor of exp(step) change the divergence D by step^2 / 2 and step * (D + sqrt(2 D))."""
    ids, before, after = random_logits(seed, tokens, words, scale, exact)
    kept = Prediction.of(ids, before)
    found, exact = kept.judge(ids, after), judge_exactly((ids, before), (ids, after))
    assert found.cost == exact.cost == pytest.approx(float(metrics.cross_entropy(after, ids).sum()), rel=1e-9, abs=1e-9)
    assert found.same == exact.same == metrics.same_top1(before, after).sum()
    assert exact.lost == pytest.approx(float(metrics.kl_divergence(before, after).sum()), rel=1e-6, abs=1e-9 * tokens)
    rows, step = metrics.kl_divergence(before, after), kept.step.astype(np.float64)
    assert abs(found.lost - exact.lost) <= (step**2 / 2 + 1.01 * step * (rows + np.sqrt(2 * rows)) + 1e-9).sum()
    assert kept.step.max() <= predictions.DEEPEST / predictions.STEPS * 1.001


def test_a_model_loses_nothing_against_itself() -> None:
    ids, before, _ = random_logits(0, 50, 500, 4, 0)
    assert judge_exactly((ids, before), (ids, before)).lost == 0
    assert Prediction.of(ids, before).judge(ids, before).lost < 1e-7 * 50


def test_impossible_words_add_nothing() -> None:
    """A model may give a word no probability at all: both say so, or only the candidate, and that is dear."""
    ids, before, after = random_logits(1, 20, 50, 2, 0.1)
    before[:, 7] = after[:, 7] = -np.inf
    found = Prediction.of(ids * 0, before).judge(ids * 0, after)
    expected = float(metrics.kl_divergence(np.delete(before, 7, 1), np.delete(after, 7, 1)).sum())
    assert found.lost == pytest.approx(expected, rel=1e-2)
    after[:, 3] = -np.inf
    assert Prediction.of(ids * 0, before).judge(ids * 0, after).lost > 1e3


def test_other_tokens_are_no_divergence() -> None:
    ids, before, after = random_logits(2, 10, 30, 2, 0.1)
    other = Prediction.of(ids, before).judge(np.roll(ids, 1), after)
    assert np.isnan(other.lost)
    assert np.isnan(other.same)
    assert other.cost == judge(np.roll(ids, 1), after).cost


def test_nan_is_refused() -> None:
    with pytest.raises(BrokenModel, match="NaN"):
        Prediction.of(np.array([0]), np.array([[np.nan, 1]], np.float32))


def test_what_is_kept_comes_back_and_what_has_no_room_does_not(tmp_path: Path) -> None:
    ids, before, _ = random_logits(3, 10, 30, 2, 0)
    kept = Prediction.of(ids, before)
    one, two = (Example("00ff", None, f"a.txt:{start}") for start in (0, 1000))  # the same words at two places
    size = sum(array.nbytes for array in vars(kept).values())
    store = Predictions(tmp_path / "store", room_bytes=size + 600)
    assert store.keep(one, kept)
    assert not store.keep(two, kept)
    assert store.get(two) is None
    again = Predictions(tmp_path / "store", room_bytes=0).get(one)
    assert again is not None
    for name, array in vars(kept).items():
        np.testing.assert_array_equal(getattr(again, name), array)


def test_a_damaged_file_is_read_again(tmp_path: Path) -> None:
    ids, before, _ = random_logits(4, 10, 30, 2, 0)
    store, example = Predictions(tmp_path), Example("00", None, "a.txt:0")
    store.keep(example, Prediction.of(ids, before))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-40])
    assert store.get(example) is None


def test_as_many_passages_are_compared_as_fit() -> None:
    assert compared_passages(4096, 1024) == predictions.MOST_PASSAGES
    assert compared_passages(500_000, 1024) == predictions.FEWEST_PASSAGES


@needs_llama
def test_the_reference_reads_once_and_the_numbers_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = write_pair(tmp_path / "pair")
    (tmp_path / "a.txt").write_text(prose(3000), encoding="utf-8")
    task = TextTask.open(tmp_path / "a.txt", DataOptions(splits=False), most={"test": 6})
    examples = task.examples("test")
    monkeypatch.setattr(predictions, "MOST_PASSAGES", 4)
    store = Predictions(tmp_path / "store")
    with judging_of(task).start_worker() as reference, judging_of(task).start_worker() as candidate:
        reference.open(load(pair.gguf), threads=1)
        candidate.open(load(pair.hf), threads=1)
        expected = compare_both(reference, candidate, task, examples[:4])
        first, second = Block(examples[:3]), Block(examples[3:], 3)  # of which one more is compared
        costs = np.concatenate([keep_predictions(reference, task, block, store) for block in (first, second)])
        monkeypatch.setattr(reference, "ask", None)  # a request to it now fails
        both = (lambda: reference, candidate)
        parts = [compare_with_kept(both, task, block, store) for block in (first, second)]
        monkeypatch.undo()
        _, again = compare_with_kept(both, task, Block(examples), Predictions(tmp_path / "none", 0))
    candidate_costs, sums = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    np.testing.assert_allclose(costs[:4], expected.reference, rtol=1e-6)
    np.testing.assert_allclose(candidate_costs[:4], expected.candidate, rtol=1e-6)
    exact, kept, unkept = expected.divergence(), divergence(*sums.T), divergence(*again.T)
    assert exact is not None
    assert kept is not None
    assert unkept is not None
    assert kept.tokens == exact.tokens
    assert kept.kl == pytest.approx(exact.kl, abs=1e-6)
    assert unkept.kl == pytest.approx(exact.kl, abs=1e-6)
    assert not list((tmp_path / "none").iterdir())
