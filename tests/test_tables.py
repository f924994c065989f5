"""Tables on the terminal: models by their names, sizes in words, failures on lines of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from microbudget.cli.tables import distinct_names, print_comparison, print_run
from microbudget.judge.comparing import Comparison
from microbudget.report.phrases import size_change
from report_runs import Made, make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (9_120_000, 2_600_000, "3.5 times smaller"),
        (1000, 1000, "about the same size"),
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
