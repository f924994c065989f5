"""Timings of another machine: what they say of a run's rows, and a choice by them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import SCALES, MadeOnce
from microbudget import cli
from microbudget.errors import BadInput
from microbudget.judge.budget import Budget, Measurement
from microbudget.judge.verdict import Verdict
from microbudget.kinds.image_classification import search_space
from microbudget.report.outcome import read_outcome
from microbudget.runs.candidates import Candidate, append, read
from microbudget.runs.choice import best, pareto
from microbudget.runs.latencies import agreeing
from microbudget.runs.timings import Timings
from microbudget.search.kit import make_kit
from quick import QUICK

pytestmark = pytest.mark.usefixtures("without_plots")
MEASURED = Measurement("m", "onnx", "onnxruntime 1", "image-classification", 100, "accuracy", 0.9, 0.8, 0.95, 1000)
MACHINE = {"cpu": "Cortex-A76", "cores": 4}
FLOAT, ROUNDED = "finetune() > export()", "finetune() > export() > quantize(bits=8)"


def row(name: str, recipe: str = ROUNDED, size: int = 1000, latency_s: float = 0.001) -> Candidate:
    """As this machine measured it."""
    extra = {"timing": {"median_s": latency_s, "p90_s": latency_s, "processor_s": latency_s, "throughput_per_s": 9.0}}
    measured = replace(MEASURED, size_bytes=size, latency_s=latency_s, memory_bytes=5, energy_j=1.0, extra=extra)
    speed = {"speedup": 3.0, "low": 2.9, "high": 3.1, "verdict": "faster", "busy": "", "reference": "ref"}
    return Candidate(recipe, name, name, measured, verdict("within"), speed=speed)


def verdict(decision: Any) -> Verdict:
    return Verdict(decision, "1pt", 0.0, -0.01, 0.01, 100, None, "of 100 examples none changed")


def timed(name: str, latency_s: float, recipe: str = ROUNDED, **changes: Any) -> dict[str, Any]:
    """As the script writes it; the base takes 0.01 s."""
    times = 0.01 / latency_s
    found = {"name": name, "recipe": recipe, "fingerprint": name, "files": {}, "base": name == "base"}
    found |= {"speedup": times, "speedup_low": 0.9 * times, "speedup_high": 1.1 * times}
    found |= {"latency_s": latency_s, "latency_low_s": 0.9 * latency_s, "latency_high_s": 1.1 * latency_s}
    found |= {"memory_bytes": 77, "load_s": 0.5, "runtime": "onnxruntime 2", "examples": 8, "same_top": 8}
    return {**found, "agrees": True, **changes}


def timings(*models: dict[str, Any], **run: Any) -> Timings:
    content = {"version": 1, "run": run, "machine": MACHINE, "threads": 4, "models": list(models)}
    return Timings(Path("timings.json"), content)


def test_a_row_costs_what_the_other_machine_measured() -> None:
    found = timings(timed("base", 0.01, FLOAT), timed("a", 0.02)).of(row("a"))
    assert found.measurement is not None
    assert found.measurement.latency_s == 0.001, "what this machine measured stays"
    there = found.there
    assert there.measurement is not None
    assert (there.measurement.latency_s, there.measurement.memory_bytes) == (0.02, 77)
    assert (there.measurement.latency_low_s, there.measurement.latency_high_s) == pytest.approx((0.018, 0.022))
    assert (there.measurement.machine, there.measurement.threads) == (MACHINE, 4)
    assert there.measurement.energy_j is None, "nobody knows it there"
    assert there.speed["speedup"] == 0.5
    assert there.speed["verdict"] == "slower"
    assert there.speed["reference_s"] == 0.01
    assert there.there == there
    assert list(found.broken_limits(Budget(max_latency_s=0.01))) == ["latency 20.0 ms is above 10.0 ms"]
    assert not row("a").broken_limits(Budget(max_latency_s=0.01))


def test_integers_that_are_slower_there_do_not_ship() -> None:
    """Here they are faster; there the same model in float is."""
    of_there = timings(timed("base", 0.01, FLOAT), timed("rounded", 0.02))
    rows = [row("base", FLOAT, size=4000, latency_s=0.003), row("rounded")]
    chosen, other = best(rows, Budget()), best(of_there.laid_over(rows), Budget())
    assert chosen is not None
    assert other is not None
    assert (chosen.fingerprint, other.fingerprint) == ("rounded", "base")
    assert of_there.laid_over(rows)[1].there.speed["over_float"]["verdict"] == "slower"
    assert "over_float" not in of_there.laid_over(rows)[0].there.speed


def test_limits_goals_and_front_go_by_the_file() -> None:
    of_there = timings(timed("base", 0.01, FLOAT), timed("small", 0.009, "x()"), timed("large", 0.002, "y()"))
    rows = [row("base", FLOAT, 9000), row("small", "x()", 1000, 0.001), row("large", "y()", 2000, 0.005)]
    there = of_there.laid_over(rows)

    def chosen(rows: list[Candidate], **budget: Any) -> str:
        found = best(rows, Budget(**budget))
        assert found is not None
        return found.fingerprint

    assert (chosen(rows, goal="latency"), chosen(there, goal="latency")) == ("small", "large")
    assert (chosen(rows, max_latency_s=0.003), chosen(there, max_latency_s=0.003)) == ("small", "large")
    assert (chosen(rows, goal="size*latency"), chosen(there, goal="size*latency")) == ("small", "large")
    assert [each.fingerprint for each in pareto(rows)] == ["small"]
    assert [each.fingerprint for each in pareto(there)] == ["small", "large"]


def test_what_was_not_timed_there_is_not_chosen_for_speed() -> None:
    of_there = timings(timed("base", 0.01, FLOAT))
    new, base = of_there.laid_over([row("new", size=10), row("base", FLOAT, 9000)])
    assert new.there.measurement is not None
    assert new.there.measurement.latency_s is None
    assert new.there.speed == {}
    for budget in (Budget(max_latency_s=1.0), Budget(max_memory_bytes=100), Budget(goal="latency")):
        assert best([new, base], budget) is base
        assert new.broken_limits(budget)
    assert best([new, base], Budget()) is new, "its size is known"
    assert new.broken_limits(Budget(goal="latency")) == ["not timed on Cortex-A76, 4 threads"]


def test_what_fails_or_answers_otherwise_there_is_not_chosen() -> None:
    failed = {"name": "f", "recipe": ROUNDED, "fingerprint": "f", "files": {}, "failure": "no kernel for it"}
    of_there = timings(timed("base", 0.01, FLOAT), failed, timed("o", 0.001, agrees=False, same_top=5))
    rows = of_there.laid_over([row("f", size=10), row("o", size=20), row("base", FLOAT, 9000)])
    assert best(rows, Budget()) is rows[2]
    assert rows[0].broken_limits(Budget()) == ["fails on Cortex-A76, 4 threads: no kernel for it"]
    assert rows[1].broken_limits(Budget()) == [
        "answers otherwise on Cortex-A76, 4 threads: 3 of 8 top answers are others"
    ]


def test_the_reference_has_the_times_of_its_float_export() -> None:
    reference = replace(row("ref", "finetune()"), speed={}, verdict=None)
    of_there = timings(timed("base", 0.01, FLOAT), reference="ref", reference_as="base")
    found = of_there.of(reference).there
    assert found.measurement is not None
    assert found.measurement.latency_s == 0.01
    assert found.speed == {}
    assert found.elsewhere["stands_in"] == "its float export"
    assert "missing" in timings(timed("base", 0.01, FLOAT), reference="ref", reference_as=None).of(reference).elsewhere


def test_a_row_is_kept_as_this_machine_measured_it(tmp_path: Path) -> None:
    given = row("a")
    append(tmp_path / "rows.jsonl", timings(timed("base", 0.01), timed("a", 0.02)).of(given))
    assert list(read(tmp_path / "rows.jsonl")) == [given]
    laid = timings(timed("base", 0.01), timed("a", 0.02)).of(given)
    assert Candidate.from_dict(json.loads(json.dumps(laid.as_dict()))) == laid, "a result has both"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'version'"),
        ('{"version": 2}', "version 2, and this microbudget reads 1"),
        ('{"version": 1, "run": {}, "machine": {}, "threads": "4", "models": []}', "threads is no int"),
        ('{"version": 1, "run": {}, "machine": {}, "threads": 4, "models": [{}]}', "a model without fingerprint"),
    ],
)
def test_what_is_no_timings_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "timings.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="holds no timings") as raised:
        Timings.read(path)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latency_s": -1.0}, "latency_s of base is -1.0"),
        ({"speedup": float("nan")}, "speedup of base is nan"),
        ({"latency_s": "fast"}, "latency_s of base is 'fast'"),
        ({"base": False}, "no model is the base"),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "timings.json"
    path.write_text(json.dumps(timings({**timed("base", 0.01), **changes}).content), encoding="utf-8")
    with pytest.raises(BadInput) as raised:
        Timings.read(path)
    assert said in str(raised.value)


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a complete run with three candidates."""
    for name, value in (("SCALES", SCALES), ("PRUNED", ()), ("FEWER_BITS", ())):
        monkeypatch.setattr(search_space, name, value)
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def of_kit(finished: Path, made_once: MadeOnce) -> dict[str, Any]:
    """Timings of all models of the run: the last is the fastest there, and it is the base's float model's opposite."""
    kit = json.loads((made_once("kit", lambda folder: make_kit(finished, folder)) / "kit.json").read_text("utf-8"))
    models = [
        {**timed("base" if place == 0 else each["name"], 0.01 / (place + 1)),
         **{key: each[key] for key in ("name", "recipe", "fingerprint", "files")}}
        for place, each in enumerate(kit["models"])
    ]  # fmt: skip
    return {"version": 1, "run": kit["run"], "machine": MACHINE, "threads": 4, "models": models}


def shrink(resnet: Path, photos: Path, run: Path, *more: str | Path) -> int:
    command = ["shrink", resnet, "--data", photos, "--out", run, "--max-drop", "90pt", "--quiet", *more]
    return cli.main([str(each) for each in command], durations=QUICK)


def here(run: Path) -> dict[str, Candidate]:
    """The rows that the run has, as this machine measured them."""
    newest = {each.fingerprint: each for each in read(run / "candidates.jsonl")}
    return {each.fingerprint: each for each in agreeing(list(newest.values()))}


def test_shrink_chooses_by_the_timings(
    run: Path, of_kit: dict[str, Any], resnet: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "timings.json"
    file.write_text(json.dumps(of_kit), encoding="utf-8")
    kept = here(run)
    fastest = of_kit["models"][-1]["fingerprint"]
    assert shrink(resnet, photos, run, "--timings", file, "--max-latency", "4ms", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"]["fingerprint"] == fastest
    assert result["best"]["elsewhere"]["costs"]["latency_s"] == pytest.approx(0.01 / 3)
    now = here(run)
    for name, each in kept.items():
        before, after = each.measurement, now[name].measurement
        assert before is not None
        assert after is not None
        assert after.latency_s == pytest.approx(before.latency_s), "of this machine"
        assert (after.machine, after.memory_bytes) == (before.machine, before.memory_bytes)
        assert now[name].speed == each.speed
    assert read_outcome(run).there.best.measurement.latency_s == pytest.approx(0.01 / 3)  # type: ignore[union-attr]
    page, card = ((run / name).read_text(encoding="utf-8") for name in ("report.html", "best/README.md"))
    note = "imed on Cortex-A76, 4 threads; the reference has the times of its float export there"
    assert note in page
    assert note in card
    assert "3.33 ms" in card
    assert "3.33 ms" in page
    front = (run / "front" / "README.md").read_text(encoding="utf-8")
    assert "3.33 ms" in front

    export = next(each.recipe for each in kept.values() if each.recipe.split(" > ")[-1].startswith("export"))
    command = ["run", str(resnet), export, "--data", str(photos), "--out", str(run), "--quiet"]
    assert cli.main(command, durations=QUICK) == 0, "without limits of its own it has those of before, and the timings"
    printed = " ".join(capsys.readouterr().out.split())
    assert "timed on Cortex-A76, 4 threads" in printed
    assert shrink(resnet, photos, run) == 0
    assert "Cortex" not in capsys.readouterr().out, "without --timings this machine's count"
    assert "Cortex" not in (run / "report.html").read_text(encoding="utf-8")


def test_what_timings_cannot_be_chosen_by(
    run: Path, of_kit: dict[str, Any], resnet: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is computed; the run stays as it was."""
    before = (run / "result.json").read_bytes()

    def refused(content: dict[str, Any] | None, *more: str, out: Path = run) -> str:
        file = tmp_path / "timings.json"
        if content is not None:
            file.write_text(json.dumps(content), encoding="utf-8")
        file = file if content is not None else tmp_path / "absent.json"
        assert shrink(resnet, photos, out, "--timings", file, *more) == 2
        return capsys.readouterr().err

    assert "absent.json cannot be read: No such file or directory" in refused(None)
    assert "holds no timings" in refused({"models": []})
    for key, said in (("seed", "another seed"), ("data_fingerprint", "other data")):
        other = {**of_kit, "run": {**of_kit["run"], key: 7}}
        assert f"has the timings of another run, with {said} than" in refused(other)
    changed = {**of_kit, "models": [{**each, "files": {"models/1/model.onnx": "0"}} for each in of_kit["models"]]}
    assert "has timings of other files than models/" in refused(changed)
    strange = {**of_kit, "models": [{**each, "fingerprint": "0"} for each in of_kit["models"]]}
    assert "has timings of 3 models, and" in refused(strange)
    assert "is none yet: give the RUN of the kit" in refused(of_kit, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "says nothing of energy" in refused(of_kit, "--goal", "energy")
    assert "says nothing of energy" in refused(of_kit, "--max-energy", "1mJ")
    assert "without the models that were timed" in refused(of_kit, "--force")
    assert (run / "result.json").read_bytes() == before
