"""The report of kinds that it does not know: a new kind's folder alone brings its sections; one without gets none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from microbudget import kinds
from microbudget.report.part import Part, Usage, Words, part_of, usage_of, words_of
from microbudget.ship.shipping import shipping_of
from report_runs import HOSTILE, Made, Page, make_run

pytestmark = pytest.mark.usefixtures("without_plots")

PAGE = """
from microbudget.report.part import Column, Part, Plots, Section, Usage, Words

WORDS = Words("sentence", "sentences", "a sentence", "one sentence", "an interval")


def usage(folder, model_format):
    return Usage("python classify.py TEXT", "from a shell", "import classify")


def part(outcome):
    worst = [outcome.settings["model"], "plain"]
    cells = {row.fingerprint: "0.93" for row in outcome.rows if outcome.role(row) == "best"}
    return Part(
        sections=(Section("regressions", "Worst", "The worst regressions", worst),),
        columns=(Column("macro F1", cells),),
        sentences=("Words alone do as well.",),
        warnings=("2 sentences are empty",),
        split_sizes={"train": 7},
    )
"""
TEMPLATE = """
{% import "microbudget.report/pieces.html.jinja" as pieces %}
{% macro regressions(texts) %}
{% for text in texts %}
<blockquote class="worst">{{ text }}</blockquote>
{% endfor %}
{% endmacro %}
"""
SHIPPING = """
from microbudget.ship.shipping import Shipping


def _add_files(folder, model, task):
    (folder / "classify.py").write_text("print(1)")


SHIPPING = Shipping("text-classification", _add_files, lambda test, reference: (("macro F1", "0.9", ""),))
"""


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_run(tmp_path / "made")


def of_kind(made: Made, kind: str) -> Page:
    """The page of the same run as if its models were of another kind."""

    def changed(row):
        parts = {name: getattr(row, name) for name in ("measurement", "test")}
        return replace(row, **{name: value and replace(value, task=kind) for name, value in parts.items()})

    shrunk = made.shrunk
    rows = [changed(row) for row in shrunk.candidates]
    result = replace(shrunk, reference=changed(shrunk.reference), candidates=rows, best=changed(shrunk.best))
    (made.run.folder / "result.json").write_text(json.dumps(result.as_dict()), encoding="utf-8")
    return made.page()


def test_a_kind_without_a_page_gets_the_generic_one(made: Made) -> None:
    page = of_kind(made, "weather-forecast")
    assert "2.60 MB instead of 9.12 MB (3.5 times smaller)" in page.text
    assert "onnxruntime.InferenceSession" in page.section("use")
    for anchor in ("photos", "label", "recordings", "answers"):
        assert f'id="{anchor}"' not in page.source
    assert "examples are classified wrongly" in page.text
    assert "photo" not in page.source.partition("<body>")[2].lower().replace(str(made.run.folder).lower(), "")
    assert not page.open


def test_its_words_and_its_card_are_generic() -> None:
    assert words_of("weather-forecast") == Words()
    assert usage_of("weather-forecast", Path(), "hf") == Usage()
    assert shipping_of("weather-forecast").pipeline_tag == "weather-forecast"
    assert shipping_of("weather-forecast").card_rows(None, None) == ()  # type: ignore[arg-type]


@pytest.fixture
def sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind that comes with a folder of its own."""
    folder = tmp_path / "more" / "made_up_sentences"
    folder.mkdir(parents=True)
    for name, text in (
        ("__init__.py", ""),
        ("page.py", PAGE),
        ("page.html.jinja", TEMPLATE),
        ("page.css", ".worst { color: red; }"),
        ("shipping.py", SHIPPING),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(folder.parent)])
    return "made-up-sentences"


def test_a_new_kind_brings_its_part_of_the_page(made: Made, sentences: str) -> None:
    page = of_kind(made, sentences)
    assert "The worst regressions" in page.text
    assert f"given {HOSTILE}" in page.text
    assert "<script>alert" not in page.source, "a kind's template is escaped too"
    assert page.section("regressions").count('<blockquote class="worst">') == 2
    assert ".worst { color: red; }" in page.source
    assert "<th>macro F1</th>" in page.section("candidates")
    assert page.section("candidates").count("0.93") == 1
    assert "Words alone do as well." in page.text
    assert "2 sentences are empty" in page.text
    assert "Sentences 7 train" in page.text
    assert "python classify.py TEXT" in page.section("use")
    assert "the same sentences" in page.text
    assert '<a href="#regressions">Worst</a>' in page.source
    assert not page.open


def test_a_new_kind_brings_its_part_of_what_ships(made: Made, sentences: str, tmp_path: Path) -> None:
    from microbudget.runtimes.loading import load
    from microbudget.ship import deliver

    class Sentences:
        kind = sentences

    best = made.shrunk.best
    measured, test = (replace(value, task=sentences) for value in (best.measurement, best.test))
    best = replace(best, measurement=measured, test=test)
    model = load(made.run.folder / best.path)
    folder = deliver(made.run, model, best, made.shrunk.budget, Sentences())  # type: ignore[arg-type]
    assert (folder / "classify.py").is_file()
    assert not (folder / "predict.py").exists()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card
    assert "python classify.py TEXT        # from a shell" in card
    assert "| macro F1 | 0.9 |" in card
    assert "latency of a sentence," in card


def test_parts_are_empty_by_default(made: Made) -> None:
    from microbudget.report.outcome import read_outcome

    outcome = read_outcome(made.run.folder)
    assert part_of(outcome).sections
    assert Part() == Part((), None, (), (), (), {})
