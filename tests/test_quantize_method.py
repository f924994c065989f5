"""The method quantize: its options as text, what it writes, records and says, and how the report draws it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from microbudget.errors import BadData, InvalidOption, InvalidUnit
from microbudget.methods import Context
from microbudget.methods.quantize import Quantize
from microbudget.methods.quantize.layer_report import LayerReport
from microbudget.methods.quantize.onnx_model import Batches, summary_lines
from microbudget.methods.quantize.quantizing import Outcome
from microbudget.metrics import kl_divergence
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build_step
from microbudget.recipes.recipe import Recipe
from microbudget.report.layers import layers
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.runtimes.onnx.session import write_metadata
from toy_networks import images, residual


class Pictures:
    """A task of smooth random pictures; remembers how many examples were collated at once."""

    kind, fingerprint, labels = "image-classification", "pictures", ("a", "b", "c", "d", "e")

    def __init__(self, count: int = 40) -> None:
        self.pixels, self.collated = images(count), []

    def examples(self, split):
        from microbudget.task import Example

        return [Example(f"{i:04x}", 0, f"{i}.png") for i in range(len(self.pixels))] if split == "train" else []

    def collate(self, examples, preprocessing, view=0):
        self.collated.append(len(examples))
        return {"x": self.pixels[[int(example.key, 16) for example in examples]]}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    proto = residual()
    write_metadata(proto, Pictures.labels, {"do_resize": False})
    onnx.save(proto, str(tmp_path / "float.onnx"))
    return load(tmp_path / "float.onnx")


@pytest.fixture
def quantized(model: Model, tmp_path: Path):
    def make(task: Pictures | None = None, said: io.StringIO | None = None, **options) -> Model:
        progress = Progress(said, verbose=True) if said else Progress(quiet=True)
        context = Context(task or Pictures(), tmp_path, threads=1, progress=progress)
        return build_step(model, Quantize(**{"samples": 24, **options}), context, tmp_path / "store")

    return make


def test_the_earlier_names_of_options_still_work() -> None:
    with pytest.warns(UserWarning, match="repair is now called corrections"):
        (step,) = Recipe.parse("quantize(repair='scales', keep_float_activations=1)").steps
    with pytest.warns(UserWarning, match="finer is now called keep_float_activations"):
        assert Quantize(corrections="scales", finer=1) == step
    assert step.short() == "quantize(corrections='scales', keep_float_activations=1)"


def test_every_option_reads_back() -> None:
    step = Quantize(
        bits=4,
        activations="float",
        observer="entropy",
        corrections="equalize, gptq",
        samples=7,
        keep_float_activations=2,
    )
    limited = (Quantize(size="1.2MB"), Quantize(max_kl=0.01))
    for one in (Quantize(), step, *limited):
        assert Recipe.parse(str(one)).steps == (one,)
        assert Recipe.parse(one.short()).steps == (one,)
    assert Quantize().short() == "quantize"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 5}, InvalidOption, "one of 8, 4, 3, 2"),
        ({"corrections": "gptq, prayer"}, InvalidOption, "corrections has no 'prayer'"),
        ({"observer": "best"}, InvalidOption, "observer must be one of"),
        ({"size": "2 parsecs"}, InvalidUnit, "cannot be read"),
        ({"size": "1MB", "max_kl": 0.1}, InvalidOption, "not both"),
        ({"size": "1MB", "bits": 4}, InvalidOption, "leave bits at 8"),
        ({"activations": "int4"}, InvalidOption, "'int8', 'float'"),
        ({"max_kl": -1.0}, InvalidOption, "at least 0"),
        ({"samples": 0}, InvalidOption, "samples must be"),
    ],
)
def test_options_out_of_range_are_refused_before_any_work(options, error, message) -> None:
    with pytest.raises(error, match=message):
        Quantize(**options)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_fewer_bits_make_a_smaller_file_that_answers(bits: int, quantized, model: Model) -> None:
    made = quantized(bits=bits)
    assert made.size_bytes < model.size_bytes
    x = {"x": images(16, seed=9)}
    ours, floats = open_session(made, threads=1).answer(x), open_session(model, threads=1).answer(x)
    assert np.corrcoef(ours.ravel(), floats.ravel())[0, 1] > {8: 0.999, 4: 0.98, 3: 0.9, 2: 0.5}[bits]


def test_the_record_holds_the_table_of_layers_and_the_reasons(quantized) -> None:
    said = io.StringIO()
    made = quantized(said=said, bits=2)
    report = json.loads((made.path / "microbudget.json").read_text(encoding="utf-8"))["history"]["quantize"]
    assert report["bits"] == 2
    assert report["samples"] == 24
    assert report["repair"] == "scales, gptq, bias"
    assert report["kl"] > 0
    assert len(report["layers"]) == 6
    worst = max(layer["weight_error"] for layer in report["layers"])
    assert report["layers"][0]["weight_error"] == worst, "worst first"
    assert any("coarse" in layer["reason"] for layer in report["layers"])
    assert report["notes"][0] in said.getvalue()
    assert f"{report['kl']:.2g} nats" in said.getvalue()
    assert set(made.record.seen) == {f"{i:04x}" for i in range(24)}


class Divided(Pictures):
    """With 60 pictures to validate on."""

    fingerprint = "divided"

    def examples(self, split):
        everything = super().examples("train")
        return {"train": everything[60:], "validation": everything[:60]}.get(split, [])


def test_divergence_is_measured_on_examples_that_nothing_was_fitted_to(quantized, model: Model) -> None:
    said = io.StringIO()
    made = quantized(Divided(100), said, bits=3)
    pixels = images(100)
    ours, floats = (open_session(each, threads=1).answer({"x": pixels}) for each in (made, model))
    kl = kl_divergence(floats, ours)
    report = made.record.history["quantize"]
    assert report["kl"] == pytest.approx(kl[:60].mean(), rel=0.2)
    assert report["kl"] > 2 * kl[60:84].mean(), "those of calibration diverge less"
    assert report["kl_is_fitted"] is False
    assert "nats on examples that it was not calibrated with" in said.getvalue()
    assert "On examples that it was not calibrated with, its answers diverge" in layers(made.record).summary
    alone = quantized(Pictures(24), bits=3).record  # there are no others
    assert alone.history["quantize"]["kl_is_fitted"] is True
    assert "On calibration data its answers diverge" in layers(alone).summary


def test_reasons_are_printed_where_the_answers_diverge() -> None:
    """A list of layers would only alarm where nothing is lost; the report has it in any case."""
    layers = tuple(
        LayerReport(f"layer {n}", "Conv", (8, 8, 3, 3), 576, 8, 8, "static", weight_error=n, reason=f"trouble {n}")
        for n in range(6)
    )
    little, much = (list(summary_lines(Outcome(layers, ("a note",), kl, 1))) for kl in (0.001, 0.2))
    assert little == ["a note", "the answers diverge by 0.001 nats on calibration data"]
    assert much[2:5] == [f"layer {n}: trouble {n}" for n in (5, 4, 3)], "worst first"
    assert much[5] == "3 more layers have a notable loss: see the report"


def test_calibration_streams_in_small_batches(quantized) -> None:
    task = Pictures(100)
    quantized(task, samples=100, corrections="none", observer="min_max")
    assert max(task.collated) <= 8
    examples = task.examples("train")[:20]
    batches = Batches(task, examples, {})
    assert [len(batch["x"]) for batch in batches] == [8, 8, 4]
    assert [len(batch["x"]) for batch in batches] == [8, 8, 4], "can be read again"


def test_without_training_examples_it_says_what_is_missing(quantized) -> None:
    with pytest.raises(BadData, match="no training examples to calibrate on"):
        quantized(Pictures(0))


def test_size_and_divergence_are_limits(quantized) -> None:
    small = quantized(size="9kB")
    assert small.size_bytes <= 9000, "with labels and preprocessing"
    bits = {layer["bits"] for layer in small.record.history["quantize"]["layers"]}
    assert bits <= {32, 8, 7, 4}
    assert bits & {8, 7}, "of small layers the nodes of 4 bits take more than they save"
    fine = quantized(max_kl=0.02)
    assert fine.record.history["quantize"]["kl"] <= 0.02
    with pytest.raises(InvalidOption, match=r"smallest file has \d+ bytes"):
        quantized(size="1kB")


def test_the_worst_activation_stays_float_and_a_note_names_it(quantized) -> None:
    made = quantized(keep_float_activations=1)
    notes = made.record.history["quantize"]["notes"]
    assert any(note.startswith("kept in float: ") for note in notes)


def test_the_report_draws_the_layers_worst_first(quantized) -> None:
    found = layers(quantized(bits=3).record)
    assert found is not None
    assert len(found.rows) == 6
    assert found.rows[0].bar == 1.0
    assert all(0 <= row.bar <= 1 for row in found.rows)
    assert [row.error for row in found.rows] == sorted((row.error for row in found.rows), reverse=True)
    assert "3 bits" in found.summary
    assert all(row.activation_before.endswith("%") for row in found.rows), "what the min/max range would lose"
    assert all(row.share.endswith("%") for row in found.rows)


def test_a_record_without_layers_draws_nothing() -> None:
    from microbudget.model import Record

    assert layers(None) is None
    assert layers(Record()) is None
    assert layers(Record(history={"quantize": {"bits": 8}})) is None
    assert layers(Record(history={"quantize": {"layers": [{"name": "a"}, "b"]}})) is None
