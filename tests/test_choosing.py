"""choose: which network to begin with, by its costs here and by what its frozen features are worth."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import toy_texts
from conftest import COLOURS, CONFIG, write_photos
from microbudget import choose, cli, kind
from microbudget.errors import BadData, InvalidOption, LabelsDisagree, ModelNotFound, UnsupportedModel
from microbudget.judge.budget import Budget, Measurement
from microbudget.kinds.image_classification import search_space
from microbudget.methods import Context
from microbudget.methods.finetune import Finetune
from microbudget.model import Model
from microbudget.runs.run import Run
from microbudget.runtimes.loading import load
from microbudget.runtimes.onnx.session import OnnxSession
from microbudget.search import beginning, choosing
from microbudget.search.beginning import shrink_one_of
from microbudget.search.chosen import Chosen, Shape
from microbudget.task import Example, Scores, open_data
from microbudget.training.cross_validation import fold_of_each, out_of_fold
from microbudget.training.features import FeatureStore
from microbudget.training.head import Head, HeadSettings
from microbudget.units import Drop
from quick import QUICK
from toy_models import save
from toy_photos import photo

SIDE = 16
LABELS = tuple(COLOURS)


def pixels_network(path: Path, labels: tuple[str, ...], seed: int = 0, classes: int = 3) -> Path:
    """A linear layer on the pixels, which is fixed to its input size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = np.random.default_rng(seed).normal(size=(classes, 3 * SIDE * SIDE)).astype("f")
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("Gemm", ["flat", "W", "b"], ["logits"], transB=1),
        ],
        "pixels",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(np.zeros(classes, "f"), "b")],
    )
    save(path, graph, labels, {**CONFIG, "size": {"height": SIDE, "width": SIDE}})
    return path


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_space, "SCALES", (1.0, 6 / 7))


@pytest.mark.usefixtures("few_sizes")
def test_networks_are_ranked_at_their_sizes(
    resnet_onnx: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that knows the labels and one that does not; the features of the training photos are computed once."""
    read, rows = [], FeatureStore.rows

    def recorded(store: FeatureStore, task: Any, examples: Any, *more: Any, **options: Any) -> Any:
        read.append(tuple(examples))
        return rows(store, task, examples, *more, **options)

    monkeypatch.setattr(FeatureStore, "rows", recorded)
    pixels = pixels_network(tmp_path / "pixels.onnx", LABELS)
    command = ["choose", str(resnet_onnx), str(pixels), "--data", str(photos), "--json", "--threads", "1"]
    assert cli.main([*command, "--out", str(tmp_path / "chosen")], durations=QUICK) == 0
    found = json.loads(capsys.readouterr().out)
    shapes = found["shapes"]
    assert [(shape["size"], shape["head"], shape["bits"]) for shape in shapes] == [
        ("32 px", "new", 8),
        ("28 px", "new", 8),
        ("16 px", "new", 8),
        ("16 px", "own", 8),
    ]
    assert "resize(pixels=14)" in next(iter(found["left_out"]))
    train = tuple(open_data(photos, "image-classification").examples("train"))
    assert read == [train] * 3  # one for each network and size; neither validation nor test
    for shape in shapes:
        measured = shape["measurement"]
        assert measured["size_bytes"] < shape["float_bytes"]
        assert measured["quality_low"] < measured["quality"] < measured["quality_high"] or measured["quality"] in (0, 1)
        assert measured["latency_s"] > 0
    assert shapes[2]["measurement"]["quality"] > 0.8  # colours are easy
    assert shapes[3]["measurement"]["quality"] < 0.7  # random weights of its own
    assert found["best"] is not None
    assert shapes[found["most_accurate"]]["against_best"] == "the best"


def made(
    quality: list[int], size: int, latency_s: float = 0.001, *, network: str = "net", energy_j: float = 0.001
) -> Shape:
    scores = Scores("accuracy", np.array(quality, np.float64), np.ones(len(quality)))
    costs: dict[str, Any] = {"size_bytes": size, "latency_s": latency_s, "energy_j": energy_j}
    measured = Measurement(
        network, "onnx", "toy", "image-classification", len(quality), "accuracy", scores.value, 0.0, 1.0, **costs
    )
    return Shape(network, "32 px", "new", 8, 4 * size, measured, scores)


RIGHT, NEARLY, HALF = [1] * 200, [1] * 199 + [0], [1] * 100 + [0] * 100


def test_the_smallest_within_the_limit_of_the_most_accurate_is_chosen() -> None:
    large, small, poor = made(RIGHT, 3_000_000), made(NEARLY, 1_000_000), made(HALF, 500_000)
    chosen = Chosen((large, small, poor), Budget(), 5)
    assert chosen.best is small
    assert chosen.most_accurate is large
    assert [chosen.against(place) for place in range(3)] == ["the best", "no difference shown", "-50.00 pt"]
    assert "within 1pt of the most accurate" in chosen.why
    assert Chosen((large, small, poor), Budget(max_drop=Drop(0.001)), 5).best is large
    assert Chosen((large, small, poor), Budget(max_drop=Drop(0.6)), 5).best is poor


def test_what_breaks_a_limit_is_not_chosen_nor_compared_with() -> None:
    large, poor = made(RIGHT, 3_000_000), made(HALF, 500_000)
    chosen = Chosen((large, poor), Budget(max_size_bytes=1_000_000), 5)
    assert chosen.best is chosen.most_accurate is poor
    assert chosen.as_dict()["shapes"][0]["broken_limits"] == ["size 3.00 MB is above 1.00 MB"]
    assert Chosen((large, poor), Budget(max_size_bytes=1), 5).best is None


def test_a_person_reads_a_table_the_choice_and_what_to_do_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = (made(RIGHT, 3_000_000, network="a/net"), made(NEARLY, 1_000_000, network="b/net"))
    found = Chosen(shapes, Budget(), 5, {"b/net resize(pixels=14)": "it is fixed to its input"})
    monkeypatch.setattr(choosing, "choose", lambda *_, **__: found)
    assert cli.main(["choose", "a/net", "b/net", "--data", "photos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "a/net + 32 px 3.00 MB 1.00 ms 1.000 (.000-1.000) the best" in text
    assert "b/net >+ 32 px 1.00 MB" in text
    assert "left out: b/net resize(pixels=14): it is fixed to its input" in text
    assert "next: microbudget shrink b/net --data photos --out RUN" in text


def test_limits_that_leave_none_are_named_with_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = (made(RIGHT, 3_000_000, network="a/net"), made(NEARLY, 1_000_000, network="b/net"))
    monkeypatch.setattr(choosing, "choose", lambda _, __, budget, **___: Chosen(shapes, budget, 5))
    assert cli.main(["choose", "a/net", "b/net", "--data", "photos", "--max-size", "500kB"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "the limits leave none; the nearest is b/net 32 px: size 1.00 MB is above 500 kB" in text


@pytest.mark.parametrize(("goal", "place"), [("size", 0), ("latency", 1), ("energy", 2), ("quality", 3)])
def test_the_goal_decides_between_those_that_are_good_enough(goal: Any, place: int) -> None:
    shapes = (
        made(NEARLY, 1_000_000, 0.003),
        made(NEARLY, 2_000_000, 0.001),
        made(NEARLY, 2_000_000, 0.002, energy_j=1e-6),
        made(RIGHT, 3_000_000, 0.002),
    )
    assert Chosen(shapes, Budget(goal=goal), 5).best is shapes[place]


def test_of_one_size_the_most_accurate_is_chosen_and_then_the_fastest() -> None:
    shapes = (made(NEARLY, 1_000_000, 0.001), made(RIGHT, 1_000_004, 0.003), made(RIGHT, 1_000_005, 0.002))
    assert Chosen(shapes, Budget(), 5).best is shapes[2]


def test_the_front_is_what_no_other_beats() -> None:
    shapes = (made(RIGHT, 1_000_000, 0.002), made(NEARLY, 1_000_001, 0.003), made(HALF, 900_000, 0.001))
    assert Chosen(shapes, Budget(), 5).front == [True, False, True]


def examples(labels: list[int]) -> list[Example]:
    return [Example(f"{place:064x}", label, f"{place}.png") for place, label in enumerate(labels)]


def test_folds_are_stratified_seeded_and_keep_copies_together() -> None:
    given = examples([0] * 50 + [1] * 10)
    given.append(replace(given[3], name="copy.png"))
    folds = fold_of_each(given, 5, seed=0)
    assert folds[3] == folds[-1]
    for label, least in ((0, 9), (1, 1)):
        counts = Counter(fold for fold, one in zip(folds, given, strict=True) if one.label == label)
        assert sorted(counts) == [0, 1, 2, 3, 4]
        assert min(counts.values()) >= least
    assert (folds == fold_of_each(given, 5, seed=0)).all()
    assert (folds != fold_of_each(given, 5, seed=1)).any()


def test_answers_out_of_fold_do_not_know_their_example() -> None:
    """Features by which a head could learn every example by heart, and labels that do not follow from them."""
    coin = np.random.default_rng(0)
    labels = coin.permutation(np.repeat([0, 1], 60))
    features = coin.normal(size=(120, 400)).astype(np.float32)
    folds = fold_of_each(examples(labels.tolist()), 5, seed=0)
    settings = HeadSettings(epochs=10)
    by_chance = out_of_fold(features, labels, folds, 2, settings, 0).argmax(1) == labels
    assert 0.3 < by_chance.mean() < 0.7
    features[:, :20] += 4 * (2 * labels[:, None] - 1)
    assert (out_of_fold(features, labels, folds, 2, settings, 0).argmax(1) == labels).mean() > 0.95


def test_one_network_is_nothing_to_choose_from(resnet_onnx: Path, photos: Path) -> None:
    with pytest.raises(InvalidOption, match="takes two networks or more, not 1"):
        choose([resnet_onnx], photos)


def test_a_network_given_twice_is_refused(photos: Path, tmp_path: Path) -> None:
    first = pixels_network(tmp_path / "a.onnx", LABELS)
    with pytest.raises(InvalidOption, match=r"a\.onnx is given twice"):
        choose([first, first], photos)
    (tmp_path / "b.onnx").write_bytes(first.read_bytes())
    with pytest.raises(InvalidOption, match=r"a\.onnx and .*b\.onnx are the same model"):
        choose([first, tmp_path / "b.onnx"], photos)


def test_networks_of_two_kinds_are_refused(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    text = load(pixels_network(tmp_path / "a.onnx", LABELS)).with_record(task="text-classification")
    with pytest.raises(InvalidOption, match=r"for different tasks: .* for image-classification, .* for text-class"):
        choose([resnet_onnx, text], photos)


def test_a_network_that_is_not_there_or_cannot_be_opened_is_named(
    resnet_onnx: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="missing"):
        choose([resnet_onnx, tmp_path / "missing"], photos)
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    with pytest.raises(UnsupportedModel, match=r"damaged\.onnx"):
        choose([resnet_onnx, tmp_path / "damaged.onnx"], photos)


def test_data_that_are_missing_are_named(resnet_onnx: Path, tmp_path: Path) -> None:
    other = pixels_network(tmp_path / "a.onnx", LABELS)
    with pytest.raises(BadData, match="nowhere"):
        choose([resnet_onnx, other], tmp_path / "nowhere")


def test_a_class_with_one_training_example_is_too_few(resnet_onnx: Path, tmp_path: Path) -> None:
    other = pixels_network(tmp_path / "a.onnx", LABELS)
    data = write_photos(tmp_path / "photos", per_class=6)
    photo(data / "white" / "0.png", seed=1)
    with pytest.raises(BadData, match="white has one training example: cross-validation needs two"):
        choose([resnet_onnx, other], data)


def test_networks_that_know_the_labels_among_different_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    first = pixels_network(tmp_path / "a.onnx", LABELS)
    other = pixels_network(tmp_path / "b.onnx", (*LABELS, "black"), classes=4)
    with pytest.raises(LabelsDisagree, match=r"knows 3 classes and .* 4 others"):
        choose([first, other], photos)


def test_a_network_without_a_linear_layer_at_its_end_is_named(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        "pooled",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
    )
    other = save(tmp_path / "a.onnx", graph, ("x", "y", "z"), {**CONFIG, "size": {"height": SIDE, "width": SIDE}})
    assert onnx.load(str(other.path)).graph.node
    with pytest.raises(UnsupportedModel):
        choose([resnet_onnx, other], photos)


def test_what_was_made_with_the_photos_is_said(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its answers are too good; nothing else tells a user."""
    from microbudget.progress import Progress

    seen = tuple(example.key for example in open_data(photos, "image-classification").examples("train")[:5])
    first = load(pixels_network(tmp_path / "a.onnx", LABELS)).with_record(seen=seen)
    other = pixels_network(tmp_path / "b.onnx", LABELS, 1)
    monkeypatch.setattr(choosing._Choosing, "chosen", lambda self: self._folds)
    assert choose([first, other], photos, progress=Progress()) == 5
    assert "was made with 5 of the 42 photos" in " ".join(capsys.readouterr().err.split())


def frozen_answers(given: Model, context: Context, out: Path) -> tuple[np.ndarray, ...]:
    """Logits by the features and the head, its own and a new one; and of the files that are written with them."""
    part = kind.facet(given.task, "choosing")
    frozen, examples = part.frozen(given, context), context.task.examples("train")[:8]
    features = frozen.features(examples)
    coin = np.random.default_rng(0)
    classes = len(context.task.labels)
    layer = (coin.normal(size=(classes, features.shape[1])).astype("f"), coin.normal(size=classes).astype("f"))
    written = []
    for name, write in (("own", frozen.as_it_is), ("new", lambda folder: frozen.with_head(Head((layer,), []), folder))):
        (out / name).mkdir()
        model = write(out / name)
        inputs = frozen.task.collate(examples, model.record.preprocessing or {})
        session = OnnxSession(model.weights)
        written.append(session.answer(inputs))
        session.close()
    return frozen.own_logits(features), Head((layer,), []).logits(features), *written


def test_heads_on_features_of_photos_answer_as_the_files_with_them(
    hf_model: Path, photos: Path, tmp_path: Path
) -> None:
    context = Context(open_data(photos, "image-classification"), tmp_path / "cache", threads=1)
    own, new, own_file, new_file = frozen_answers(load(hf_model), context, tmp_path)
    np.testing.assert_allclose(own, own_file, atol=1e-4)
    np.testing.assert_allclose(new, new_file, atol=1e-3)


@pytest.mark.parametrize("ours", [False, True], ids=["of transformers", "of sentence-transformers"])
def test_heads_on_features_of_texts_answer_as_the_files_with_them(ours: bool, tmp_path: Path) -> None:
    """A classifier of transformers, and an encoder that got its head from us."""
    context = toy_texts.context(toy_texts.write_table(tmp_path / "table.csv", 40), tmp_path)
    if ours:
        given = load(toy_texts.write_encoder(tmp_path / "encoder"))
        given = toy_texts.built(Finetune(epochs=1), given, context, tmp_path / "taught")
    else:
        given = load(toy_texts.write_classifier(tmp_path / "classifier"))
    own, new, own_file, new_file = frozen_answers(given, context, tmp_path)
    np.testing.assert_allclose(own, own_file, atol=1e-4)
    np.testing.assert_allclose(new, new_file, atol=1e-3)


def test_text_encoders_are_ranked(tmp_path: Path) -> None:
    """One that knows the labels, with its own head too, and one without a head."""
    table = toy_texts.write_table(tmp_path / "table.csv")
    known = toy_texts.write_classifier(tmp_path / "classifier")
    encoder = toy_texts.write_encoder(tmp_path / "encoder", num_hidden_layers=1)
    chosen = choose([known, encoder], table, durations=QUICK, threads=1, max_size="1GB")
    assert [(shape.size, shape.head, shape.bits) for shape in chosen.shapes] == [
        ("32 tokens", "new", 8),
        ("32 tokens", "own", 8),
        ("32 tokens", "new", 8),
    ]
    new, own, other = (shape.measurement for shape in chosen.shapes)
    assert other.size_bytes < new.size_bytes
    assert new.quality > own.quality
    assert chosen.best is not None


def test_kinds_without_frozen_features_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="choose is for image-classification and text-classification"):
        choosing._part_of("transcription")


def test_a_network_far_better_than_what_the_limits_leave_is_begun_with() -> None:
    """It can be cut: half of the size costs two points, and not the fifty that the other is behind."""
    large, poor = made(RIGHT, 2_000_000, network="large"), made(HALF, 900_000, network="poor")
    chosen = Chosen((large, poor), Budget(max_size_bytes=1_000_000), 5)
    assert chosen.best is poor
    assert chosen.begin is large
    assert "large 32 px has 2.0 times the limit" in chosen.advice
    nearly = made(NEARLY, 900_000, network="nearly")
    chosen = Chosen((large, nearly), Budget(max_size_bytes=1_000_000), 5)
    assert chosen.begin is chosen.best is nearly
    assert not chosen.advice


@pytest.mark.usefixtures("without_plots")
def test_several_networks_are_chosen_from_and_one_is_made_smaller(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is in the run and its report, and the same command again goes on with it."""
    first, other = (pixels_network(tmp_path / f"{seed}.onnx", ("x", "y", "z"), seed) for seed in (1, 2))
    run = tmp_path / "run"
    command = ["shrink", str(first), str(other), "--data", str(photos), "--out", str(run), "--threads", "1"]
    command += ["--recipe", "finetune(epochs=2)", "--max-drop", "90pt"]
    assert cli.main(command, durations=QUICK) == 0
    found = json.loads((run / "choose.json").read_text(encoding="utf-8"))
    begun = found["shapes"][found["begin"]]["network"]
    assert Path(begun) in (first, other)
    assert Path(Run(run).settings["model_path"]) == Path(begun).resolve()
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Chosen of" in report
    assert found["why"] in report

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was chosen before")

    again: list[Model] = []
    monkeypatch.setattr(beginning, "choose", never)
    monkeypatch.setattr(beginning, "shrink", lambda model, *_, **__: again.append(model))
    shrink_one_of([first, other], str(photos), out=run, max_drop="90pt")
    assert [model.path for model in again] == [Path(begun)]
    with pytest.raises(AssertionError, match="it was chosen before"):
        shrink_one_of([first, other], str(photos), out=run, max_drop="80pt")


def test_networks_that_cannot_be_compared_leave_no_run(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="given twice"):
        shrink_one_of([resnet_onnx, resnet_onnx], photos, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
