"""Counting errors against the naive definition, normalizers against transformers', and what counts as made up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import InvalidOption
from microbudget.kinds.transcription.transcripts import align, basic, count, is_hallucinated, normalizer

pytest.importorskip("jiwer")

WORDS = st.lists(st.sampled_from(["yes", "no", "up", "down", "a"]), max_size=8)


def distance(a: list[str] | str, b: list[str] | str) -> int:
    """Levenshtein 1966, by its recurrence."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


@settings(max_examples=200, deadline=None)
@given(said=WORDS, written=WORDS)
def test_counts(said: list[str], written: list[str]) -> None:
    found = count(" ".join(said), " ".join(written))
    assert found.words == len(said)
    assert found.word_errors == distance(said, written)
    assert len(written) == len(said) - found.deletions + found.insertions
    assert found.character_errors == distance(" ".join(said), " ".join(written))
    assert found.empty == (bool(said) and not written)


@settings(max_examples=100, deadline=None)
@given(said=WORDS, written=WORDS)
def test_alignment_is_of_both_texts(said: list[str], written: list[str]) -> None:
    steps = align(" ".join(said), " ".join(written))
    assert [word for step in steps for word in step.said] == said
    assert [word for step in steps for word in step.written] == written
    wrong = sum(max(len(step.said), len(step.written)) for step in steps if step.kind != "equal")
    assert wrong == distance(said, written)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_basic_is_whispers(text: str) -> None:
    english = pytest.importorskip("transformers.models.whisper.english_normalizer")
    assert basic(text) == " ".join(english.BasicTextNormalizer()(text).split())


def test_normalizers_by_name() -> None:
    text = "Three four seven, [noise] it's (cough) OKAY."
    assert normalizer("basic")(text) == "three four seven it s okay"
    assert normalizer("none")("  A  b. ") == "A b."
    pytest.importorskip("transformers")
    assert normalizer("english")("three four seven") == "347"
    with pytest.raises(InvalidOption, match="one of basic, english, none"):
        normalizer("klingon")


@pytest.mark.parametrize(
    ("said", "written", "expected"),
    [
        ("yes no", "yes no", False),
        ("yes no", "yes no up down", False),  # two more
        ("yes no", "yes no up down go", True),  # three more, and more than half as many again
        ("a b c d e f g h", "a b c d e f g h i j k", False),  # three more of eight
        ("", "thank you for watching", True),
        ("", "yes no", False),
        ("a b c d e f g h i j", "go go go go", True),
        ("a b c d e f g h i j", "go on go on go on go on", True),
        ("a b c d e f g h i j", "go on go on go on", False),
        ("no no no no", "no no no no", False),  # it was said so
        ("yes", "", False),
    ],
)
def test_hallucinated(said: str, written: str, expected: bool) -> None:
    assert is_hallucinated(said.split(), written.split()) is expected
