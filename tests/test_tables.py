"""Tables on the terminal: models by their names, sizes in words, failures on lines of their own."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from microbudget.cli.layers import print_layers
from microbudget.cli.tables import distinct_names, print_comparison, print_run
from microbudget.judge.comparing import Comparison
from microbudget.report.abridged import abridged
from microbudget.report.outcome import read_outcome
from microbudget.report.phrases import size_change
from microbudget.report.run_table import print_outcome
from report_runs import Made, make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (9_120_000, 2_600_000, "3.5 times smaller"),
        (1000, 1000, "the same size"),
        (1000, 1004, "about the same size"),
        (1000, 1010, "1 % larger"),
        (1000, 990, "1 % smaller"),
        (1000, 730, "27 % smaller"),
        (1000, 1400, "40 % larger"),
        (9_120_000, 18_240_000, "2.0 times larger"),
    ],
)
def test_sizes_are_compared_in_words(before: int, after: int, words: str) -> None:
    assert size_change(before, after) == words


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("runs/flowers/best", "runs/pets/best", ("flowers/best", "pets/best")),
        ("resnet", "models/mobilenet", ("resnet", "mobilenet")),
        ("runs/best", "runs/best", ("best (1)", "best (2)")),
        ("best", "runs/best", ("best", "runs/best")),
    ],
)
def test_models_are_called_by_the_shortest_names_that_differ(first: str, second: str, names: tuple[str, str]) -> None:
    assert distinct_names(first, second) == names


def test_a_comparison_names_the_models(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = made.shrunk.reference.measurement, made.shrunk.candidates[0].measurement
    timing = {"pairs": 12, "openings": 1, "load_average": None, "dropped": {}}
    comparison = Comparison(
        a=replace(a, model="runs/[bold]large"),
        b=replace(b, model=str(Path("runs") / "small")),
        size_ratio=a.size_bytes / b.size_bytes,
        speedup=6.4,
        speedup_low=6.3,
        speedup_high=6.5,
        speed_verdict="faster",
        quality_change=0.0,
        quality_change_low=-0.01,
        quality_change_high=0.01,
        verdict=None,
        extra={"timing": timing},
    )
    print_comparison(comparison)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["[bold]large", "small"]
    assert "small is 3.5 times smaller; speed: faster, 6.4 times as fast (6.3..6.5)" in " ".join(printed.split())


def test_a_failure_has_a_line_of_its_own(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    print_run(made.shrunk)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "finetune > prune" in line and not line.startswith("failed"))
    assert row.split()[-1] == "failed"
    assert any(line.startswith("failed: finetune > prune: no such layer") for line in lines)


def test_a_result_prints_as_the_terminal_does(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """`print(result)` in Python, and its HTML in a notebook."""
    print_run(made.shrunk)
    shown = " ".join(capsys.readouterr().out.split())
    text = str(made.shrunk)
    assert len(text) < 4000
    assert "best: finetune > export > quantize" in text
    assert "2.60 MB" in text
    assert f"report: {made.run.folder / 'report.html'}" in text
    assert "2.60 MB" in made.shrunk._repr_html_()
    assert made.shrunk._repr_html_().startswith("<pre")
    assert "best: finetune > export > quantize" in shown


def printed(made: Made, width: int, **changes: object) -> str:
    """The table of a run on a terminal of that width."""
    stream = StringIO()
    outcome = replace(read_outcome(made.run.folder), **changes)  # type: ignore[arg-type]
    print_outcome(outcome, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_a_narrow_terminal_has_recipes_below_the_table(made: Made) -> None:
    narrow, wide = printed(made, 70), printed(made, 120)
    assert "1    finetune > export > quantize" in narrow.splitlines()
    assert "recipe" not in narrow.splitlines()[0]
    assert "recipe" in wide.splitlines()[0]
    for text in (narrow, wide):
        table = text.split("judged on")[0].splitlines()
        assert all("resize(pixels=96)" in line for line in table if "resize" in line), "no step is cut"


def test_the_divergence_stands_in_the_table(made: Made) -> None:
    rows = read_outcome(made.run.folder).candidates
    measured = replace(rows[0].measurement, extra={**rows[0].measurement.extra, "kl": 0.0123})  # type: ignore[type-var, union-attr]
    with_kl = printed(made, 120, candidates=(replace(rows[0], measurement=measured), *rows[1:]))
    assert "KL" in with_kl.splitlines()[0]
    assert "0.012" in with_kl.splitlines()[2]
    assert "KL" not in printed(made, 120)


def test_recipes_are_short_and_still_different() -> None:
    long = "distill(student='half', views=4, temperature=4.0, epochs=28) > quantize(bits={})"
    assert abridged([long.format(8), long.format(4)]) == ["distill(…) > quantize", "distill(…) > quantize(bits=4)"]
    other = long.replace("epochs=28", "epochs=9").format(8)
    assert abridged([long.format(8), other]) == ["distill(epochs=28, …) > quantize", "distill(epochs=9, …) > quantize"]
    assert abridged(["", "of(another='version')"]) == ["the model as given", "of(another='version')"]


def test_losses_by_layer(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    print_layers(str(made.run.best))
    text = capsys.readouterr().out
    assert "3 layers: 3 with 8 bits" in text
    assert text.index("conv2") < text.index("conv1") < text.index("conv0")
    assert "0.2 %" in text
