"""Image classifiers as exporters write them: names, types, layouts, fixed batches, several outputs, probabilities."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from conftest import CONFIG
from microbudget import compare, load, measure, run_recipe
from microbudget.errors import LabelsDisagree, UnsupportedModel
from microbudget.metrics import softmax
from microbudget.runtimes import open_session
from microbudget.runtimes.labels import for_labels, match_labels, order_of, other_labels
from microbudget.runtimes.onnx.graph import OnnxGraph
from microbudget.runtimes.onnx.half import widen
from microbudget.runtimes.onnx.interface import as_logits, read_signature, scale_of
from microbudget.runtimes.signature import Batching, Port, Signature
from quick import QUICK

pytestmark = pytest.mark.usefixtures("without_plots")

SIDE = 8
PURE = {"blue": (20, 30, 220), "green": (20, 220, 30), "red": (220, 30, 20)}
SCALED = {**CONFIG, "size": {"height": SIDE, "width": SIDE}, "do_normalize": False}


def write_classifier(
    folder: Path,
    *,
    name: str = "input.1",
    element: int = TensorProto.FLOAT,
    channels_last: bool = False,
    batch: int | str = "n",
    reshape: list[int] | None = None,
    end: str | None = None,
    classes: int = 3,
    preprocessing: dict[str, Any] | None = SCALED,
) -> Path:
    """The mean of the channels blue, green, red, ten times: right on pure colours. Further classes answer 0.

    reshape: of the features, as exporters write it. end: the operator after the logits.
    """
    weight = np.zeros((classes, 3), np.float32)
    weight[:3] = 10 * np.eye(3)[::-1]
    half = element == TensorProto.FLOAT16
    tensors = [numpy_helper.from_array(weight.astype(np.float16) if half else weight, "W")]
    sides: list[int | str] = [batch, SIDE, SIDE, 3] if channels_last else [batch, 3, SIDE, SIDE]
    nodes, tensor = [], name
    if channels_last:
        nodes.append(helper.make_node("Transpose", [tensor], ["first"], perm=[0, 3, 1, 2]))
        tensor = "first"
    if element == TensorProto.UINT8:
        tensors.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"))
        nodes.append(helper.make_node("Cast", [tensor], ["floats"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", ["floats", "scale"], ["scaled"]))
        tensor = "scaled"
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"]))
    if reshape:
        tensors.append(numpy_helper.from_array(np.array(reshape, np.int64), "shape"))
        nodes.append(helper.make_node("Reshape", ["pooled", "shape"], ["features"]))
    else:
        nodes.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    nodes.append(helper.make_node("Gemm", ["features", "W"], ["logits" if end else "191"], transB=1))
    if end:
        nodes.append(helper.make_node(end, ["logits"], ["191"]))
    answers = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info(name, element, sides)],
        [helper.make_tensor_value_info("191", answers, [batch, classes])],
        tensors,
    )
    return save(graph, folder, preprocessing)


def save(graph: Any, folder: Path, preprocessing: dict[str, Any] | None = SCALED) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "net.onnx"))
    if preprocessing is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
    return folder / "net.onnx"


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 photos of three colours that the network above tells apart. Do not write into it."""
    folder, rng = tmp_path_factory.mktemp("pure") / "colours", np.random.default_rng(0)
    for label, colour in PURE.items():
        (folder / label).mkdir(parents=True)
        for index in range(10):
            pixels = np.clip(np.array(colour) + rng.normal(0, 8, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


BYTES = {**SCALED, "do_rescale": False}
EXPORTED: dict[str, dict[str, Any]] = {
    "named input.1": {},
    "named images": {"name": "images"},
    "float16": {"element": TensorProto.FLOAT16},
    "channels last": {"channels_last": True},
    "bytes": {"element": TensorProto.UINT8, "preprocessing": BYTES},
    "bytes, channels last": {"element": TensorProto.UINT8, "channels_last": True, "preprocessing": BYTES},
    "batch of 1": {"batch": 1},
    "batch of 4": {"batch": 4},
    "batch of 1 by a Reshape": {"reshape": [1, 3]},
    "a Softmax": {"end": "Softmax"},
}


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("what", EXPORTED)
def test_an_input_is_found_by_its_place_and_fed_what_it_asks_for(what: str, runtime: str, tmp_path: Path) -> None:
    model = for_labels(load(write_classifier(tmp_path, **EXPORTED[what])), tuple(PURE))
    pixels = np.stack([np.full((SIDE, SIDE, 3), colour, np.float32).transpose(2, 0, 1) for colour in PURE.values()])
    if "bytes" not in what:
        pixels = pixels / np.float32(255)
    session = open_session(model, threads=1, runtime=runtime)
    answers = session.answer({"pixel_values": pixels})
    session.close()
    assert answers.shape == (3, 3)
    assert answers.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("what", ["batch of 4", "batch of 1 by a Reshape", "float16", "bytes, channels last"])
def test_measure_takes_the_file_as_it_is(what: str, tmp_path: Path, colours: Path) -> None:
    found = measure(write_classifier(tmp_path, **EXPORTED[what]), colours, threads=1, seconds=0.05)
    assert (found.quality, found.examples) == (1.0, 30)


@given(st.integers(1, 9), st.integers(1, 5))
def test_any_number_of_examples_is_answered_in_batches_of_a_fixed_size(count: int, size: int) -> None:
    def run(inputs: dict[str, Any]) -> Any:
        assert len(inputs["x"]) == size
        return inputs["x"] * 2

    values = np.arange(count * 3.0).reshape(count, 3)
    assert np.array_equal(Batching(run, size)({"x": values}), values * 2)


def test_a_graph_that_mixes_the_examples_of_a_batch_is_asked_one_at_a_time() -> None:
    def run(inputs: dict[str, Any]) -> Any:
        return inputs["x"] - inputs["x"].mean(axis=0) + len(inputs["x"]) * inputs["x"][::-1]

    values = np.arange(12.0).reshape(4, 3)
    batching = Batching(run, None)
    assert np.array_equal(batching({"x": values}), np.concatenate([run({"x": row[None]}) for row in values]))
    assert batching.size == 1


def two_outputs(folder: Path, widths: tuple[int, int], names: tuple[str, str] = ("features", "logits")) -> Path:
    """Two linear layers on the mean of the channels; of the first all is 0 but what it gives class 0."""
    first, second = np.zeros((widths[0], 3), np.float32), np.zeros((widths[1], 3), np.float32)
    first[0] = 1
    second[:3] = 10 * np.eye(3)[::-1][: widths[1]]
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "A"], [names[0]], transB=1),
            helper.make_node("Gemm", ["flat", "B"], [names[1]], transB=1),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in zip(names, widths, strict=True)],
        [numpy_helper.from_array(first, "A"), numpy_helper.from_array(second, "B")],
    )
    return save(graph, folder)


def test_the_output_with_a_number_for_each_class_is_the_one_that_is_judged(tmp_path: Path, colours: Path) -> None:
    file = two_outputs(tmp_path, (5, 3))
    for runtime in ("onnx", "openvino"):
        assert measure(file, colours, threads=1, seconds=0.05, runtime=runtime).quality == 1.0


def test_where_the_output_is_not_known_the_error_lists_them_and_output_chooses(tmp_path: Path, colours: Path) -> None:
    file = two_outputs(tmp_path, (3, 3))
    with pytest.raises(
        UnsupportedModel, match=r"--output NAME.*features \(float32, any, 3\), logits \(float32, any, 3"
    ):
        measure(file, colours, threads=1, seconds=0.05)
    with pytest.raises(UnsupportedModel, match="there is no output 'logit'; the outputs are features"):
        measure(file, colours, threads=1, seconds=0.05, output="logit")
    assert measure(file, colours, threads=1, seconds=0.05, output="logits").quality == 1.0
    assert measure(file, colours, threads=1, seconds=0.05, output="features").quality == pytest.approx(1 / 3)
    first, second = (load(file).with_record(output=name) for name in ("features", "logits"))
    assert first.fingerprint != second.fingerprint


def test_quantize_judges_the_chosen_output_and_keeps_both_in_their_order(tmp_path: Path, colours: Path) -> None:
    file = two_outputs(tmp_path / "model", (3, 3))
    found = run_recipe(file, "quantize()", colours, out=tmp_path / "run", threads=1, output="logits", durations=QUICK)
    assert found.best is not None
    assert found.best.test is not None
    assert found.best.test.quality == 1.0
    shipped = load(tmp_path / "run" / "best")
    assert [port.name for port in read_signature(shipped.weights).outputs] == ["features", "logits"]
    assert shipped.record.output == "logits"
    assert predicted(tmp_path / "run" / "best", colours / "green" / "0.png")[0] == "green"


def predicted(best: Path, photo: Path) -> tuple[str, float]:
    """What the script beside the delivered model prints."""
    command = [sys.executable, str(best / "predict.py"), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, label, probability = done.stdout.rstrip("\n").split("\t")
    return label, float(probability)


@pytest.mark.parametrize("what", ["float16", "bytes, channels last", "batch of 1 by a Reshape", "a Softmax"])
def test_quantize_takes_the_file_as_it_is_and_what_ships_answers(what: str, tmp_path: Path, colours: Path) -> None:
    file = write_classifier(tmp_path / "model", **EXPORTED[what])
    found = run_recipe(file, "quantize()", colours, out=tmp_path / "run", threads=1, durations=QUICK)
    assert found.best is not None
    assert found.best.test is not None
    assert found.best.test.quality == 1.0
    layers = load(tmp_path / "run" / "best").record.history["quantize"]["layers"]
    assert all(layer["bits"] <= 8 for layer in layers)  # 7 on processors that saturate
    label, probability = predicted(tmp_path / "run" / "best", colours / "red" / "0.png")
    assert label == "red"
    assert probability > 0.99  # squashed twice it would be 0.57


def test_half_floats_are_widened_with_their_casts() -> None:
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float16), "W")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["half", "W"], ["y16"]),
            helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
        ],
        "mixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert widen(model)
    assert not widen(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Cast"]
    assert OnnxGraph(model.graph).initializers["W"].data_type == TensorProto.FLOAT


@pytest.mark.parametrize(
    ("end", "scale"),
    [("Softmax", "probabilities"), ("Sigmoid", "independent"), ("LogSoftmax", "logits"), (None, "logits")],
)
def test_what_the_numbers_of_an_output_are(end: str | None, scale: str, tmp_path: Path) -> None:
    proto = onnx.load(str(write_classifier(tmp_path, end=end)))
    assert scale_of(proto, "191") == scale


def test_probabilities_are_compared_as_logits_are(tmp_path: Path, colours: Path) -> None:
    logits = np.array([[3.0, -1.0, 0.5]])
    assert np.allclose(softmax(as_logits(softmax(logits), "probabilities")), softmax(logits))
    assert np.allclose(softmax(as_logits(np.array([[0.9, 0.3, 0.3]]), "independent")), [[0.6, 0.2, 0.2]])
    plain = write_classifier(tmp_path / "plain")
    ends_in_softmax = write_classifier(tmp_path / "softmax", end="Softmax")
    found = compare(plain, ends_in_softmax, colours, threads=1, seconds=0.05)
    assert found.extra["kl"] == pytest.approx(0, abs=1e-6)
    assert found.extra["same_top1"] == 1.0


def test_a_class_that_the_data_do_not_have_can_be_answered_and_is_wrong(tmp_path: Path, colours: Path) -> None:
    file = write_classifier(tmp_path, classes=4)
    proto = onnx.load(str(file))
    weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[3] = weight[0] * 2  # "sky" is answered wherever blue is right
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "W"))
    onnx.save(proto, str(file))
    (tmp_path / "labels.txt").write_text("blue\ngreen\nred\nsky\n", encoding="utf-8")
    found = measure(file, colours, threads=1, seconds=0.05)
    assert found.quality == pytest.approx(2 / 3)
    assert "masked_accuracy" not in found.extra
    assert found.extra["labels"] == ["blue", "green", "red", "(another class)"]
    assert found.extra["confusion"][0] == [0, 0, 0, 10]
    assert found.extra["recall"] == pytest.approx(2 / 3)
    masked = measure(file, colours, threads=1, seconds=0.05, masked_accuracy=True)
    assert (masked.quality, masked.extra["masked_accuracy"]) == (pytest.approx(2 / 3), 1.0)


def test_labels_are_read_beside_the_file(tmp_path: Path) -> None:
    file = write_classifier(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "b", "1": "g", "2": "r"}}), encoding="utf-8")
    assert load(file).labels == ("b", "g", "r")
    (tmp_path / "labels.txt").write_text("\ufeffblau\r\ngrün\r\nrot\r\n", encoding="utf-8")
    assert load(file).labels == ("blau", "grün", "rot")
    (tmp_path / "labels.txt").write_text("blau\ngrün\n", encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"3 classes in its output 191, but 2 labels"):
        for_labels(load(file), ("blau", "grün"))


def test_names_of_imagenet_are_matched_in_their_usual_forms(tmp_path: Path) -> None:
    model = load(write_classifier(tmp_path)).with_record(
        labels=("n01440764 tench, Tinca tinca", "n02012849 crane", "n03126707 crane")
    )
    assert match_labels(model, ("tench",)) == (0,)
    assert match_labels(model, ("Tinca_tinca", "n03126707")) == (0, 2)
    both = r"label 'crane' could be each of the model's 'n02012849 crane' \(output 1\), 'n03126707 crane' \(output 2\)"
    with pytest.raises(LabelsDisagree, match=both):
        match_labels(model, ("crane",))
    with pytest.raises(LabelsDisagree, match="such as 'heron'"):
        match_labels(model, ("crane", "heron"))


def test_two_outputs_of_one_name_are_warned_of_where_the_data_have_one(tmp_path: Path) -> None:
    """ImageNet's two cranes."""
    model = load(write_classifier(tmp_path)).with_record(labels=("crane", "owl", "crane"))
    with pytest.warns(UserWarning, match="outputs 0 and 2 are both called 'crane', and the data have 1 class"):
        for_labels(model, ("crane", "owl"))
    assert match_labels(model, ("crane", "owl")) == (0, 1)
    for_labels(model, ("crane", "crane", "owl"))  # in their order, without a warning
    for_labels(model, ("owl",))


@given(st.permutations(range(6)), st.integers(1, 6))
def test_the_data_s_labels_come_first_and_every_output_once(order: list[int], known: int) -> None:
    names = tuple("abcdef"[place] for place in order)
    labels = tuple(sorted(names)[:known])
    columns = tuple(names.index(label) for label in labels)
    found = order_of(names, columns, 6)
    assert sorted(found) == list(range(6))
    assert tuple(names[place] for place in found) == (*labels, *(other_labels(names, labels) or ()))


def test_a_mismatch_of_labels_is_said_before_anything_is_computed(tmp_path: Path, colours: Path) -> None:
    with pytest.raises(LabelsDisagree, match=r"names no labels and has 4 outputs; the data have 3 labels.*labels\.txt"):
        measure(write_classifier(tmp_path, classes=4), colours, threads=1)


def test_preprocessing_that_does_not_suit_the_graph_is_refused(tmp_path: Path, colours: Path) -> None:
    file = write_classifier(tmp_path, element=TensorProto.UINT8, preprocessing=SCALED)
    with pytest.raises(UnsupportedModel, match=r"takes bytes.*do_rescale and do_normalize to false"):
        measure(file, colours)
    file = write_classifier(tmp_path, preprocessing={**SCALED, "size": {"height": 16, "width": 16}})
    with pytest.raises(UnsupportedModel, match=r"takes 8 x 8 pixels, but its preprocessing makes 16 x 16"):
        measure(file, colours)


def test_ports_know_layout_and_width() -> None:
    assert Port("x", "float32", (None, 1000, 1, 1)).width == 1000
    assert Port("x", "float32", (None, None)).width is None
    signature = Signature((Port("x", "float32", None),), (Port("y", "float32", (1, 3)),))
    with pytest.raises(UnsupportedModel, match=r"1 inputs \(x \(float32, any shape\)\), and is given 2 \(a, b\)"):
        signature.feed({"a": np.zeros(1), "b": np.zeros(1)})
