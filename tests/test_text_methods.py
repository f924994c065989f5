"""lora, window and prune of text classifiers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from microbudget.errors import InvalidOption, InvalidRecipe, OutOfTime, UnsupportedModel
from microbudget.kinds.text_classification import teaching
from microbudget.kinds.text_classification.data import TextTask
from microbudget.kinds.text_classification.window import Point
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.methods.export import Export
from microbudget.methods.finetune import Finetune
from microbudget.methods.lora import Lora
from microbudget.methods.prune import Prune
from microbudget.methods.window import Window
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.hf.text_classifier import load_network
from microbudget.runtimes.loading import load
from microbudget.runtimes.text.encoding import TextEncoder
from microbudget.task import TO_TRAIN
from toy_texts import answers, built, rows, write_classifier, write_encoder, write_table, write_tokenizer

pytestmark = pytest.mark.usefixtures("without_plots")
TEXTS = [text for text, _ in rows(12)] + ["", "unknown words zzz", "good " * 200]


@pytest.fixture
def encoder(made_once) -> Path:
    return made_once("text-encoder", write_encoder)


@pytest.fixture
def classifier(made_once) -> Path:
    return made_once("text-classifier", write_classifier)


@pytest.fixture
def given(tmp_path: Path) -> Context:
    table = write_table(tmp_path / "t.csv")
    return Context(TextTask.open(table, TO_TRAIN), tmp_path / "cache", threads=1)


def test_adapters_teach_an_encoder(encoder: Path, given: Context, tmp_path: Path) -> None:
    made = built(Lora(rank=2, epochs=6, learning_rate=0.02), load(encoder), given, tmp_path / "out")
    report = made.record.history["lora"]
    assert report["kept"] > 0
    assert report["trained"] < 0.1 * report["parameters"]
    before, after = load_network(encoder).state_dict(), load_network(made.path).state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {
        name for name, tensor in before.items() if ".layer." in name and name.endswith("dense.weight")
    } | {name for name in before if name.endswith(("query.weight", "key.weight", "value.weight"))}
    for name in changed:
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), atol=1e-6) <= 2
    test = given.task.examples("test")
    logits = answers(made, [given.task.text_of(each)[0] for each in test])  # type: ignore[attr-defined]
    assert given.task.score(logits, test).value > 0.8
    exported = built(Export(), made, given, tmp_path / "exported")
    np.testing.assert_allclose(answers(exported, TEXTS), answers(made, TEXTS), atol=1e-3)


def test_an_adapter_alone_answers_as_the_merged_model(classifier: Path, given: Context, tmp_path: Path) -> None:
    step = Lora(rank=2, epochs=5, learning_rate=0.02, batch_size=16)
    merged = built(step, load(classifier), given, tmp_path / "merged")
    apart = built(replace(step, merge=False), load(classifier), given, tmp_path / "apart")
    np.testing.assert_allclose(answers(apart, TEXTS), answers(merged, TEXTS), atol=1e-5)
    assert np.abs(answers(merged, TEXTS) - answers(load(classifier), TEXTS)).max() > 1e-4
    own = sum(file.stat().st_size for file in apart.path.iterdir() if "adapter" in file.name)
    assert own < 0.2 * merged.size_bytes
    assert apart.labels == ("neg", "pos")


def test_an_encoder_is_checkpointed(tmp_path: Path) -> None:
    """Less memory, the same weights; without dropout, which is drawn for each part of a batch."""
    folder = write_encoder(tmp_path / "m", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    few = Context(TextTask.open(write_table(tmp_path / "few.csv", 24), TO_TRAIN), tmp_path / "cache", threads=1)
    step = Lora(rank=1, epochs=1, batch_size=6, targets="query")
    made = [
        built(replace(step, checkpointing=chosen), load(folder), few, tmp_path / f"{chosen}")
        for chosen in (False, True)
    ]
    np.testing.assert_allclose(answers(made[0], TEXTS), answers(made[1], TEXTS), atol=1e-5)
    estimates = [each.record.history["lora"]["memory_estimate_bytes"] for each in made]
    assert estimates[1] < estimates[0]


def test_what_lora_refuses(encoder: Path, given: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"merge=False is for a classifier of transformers.*Use merge=True"):
        Lora(merge=False, epochs=1).apply(load(encoder), given, tmp_path / "out")
    with pytest.raises(InvalidOption, match="length is for"):
        Lora(length=64).apply(load(encoder), given, tmp_path / "out")
    with pytest.raises(InvalidOption, match=r"matches no layer; there are .*query"):
        Lora(targets="q_proj").apply(load(encoder), given, tmp_path / "out")


@pytest.mark.parametrize("model_format", ["hf", "onnx"])
def test_a_window_cuts_texts(classifier: Path, given: Context, tmp_path: Path, model_format: str) -> None:
    """What comes out answers as the given model does to the beginning of a text, also for other libraries."""
    model = load(classifier)
    if model_format == "onnx":
        model = built(Export(), model, given, tmp_path / "exported")
    made = built(Window(tokens=6), model, given, tmp_path / "out")
    assert made.format == model_format
    beginnings = [" ".join(text.split()[:4]) for text in TEXTS]  # each word is a token, and two are put around
    np.testing.assert_allclose(answers(made, TEXTS), answers(model, beginnings), atol=1e-5)
    report = made.record.history["window"]
    assert (report["before"], report["after"]) == (32, 6)
    assert 0.5 < report["cut_share"] < 1
    (made.path / "microbudget.json").unlink()
    assert load(made.path).record.preprocessing["max_length"] == 6  # type: ignore[index]
    if model_format == "hf":
        from transformers import AutoTokenizer

        assert len(AutoTokenizer.from_pretrained(str(made.path))("a b c d e f g", truncation=True).input_ids) == 6


def test_a_length_is_chosen_by_the_answers(encoder: Path, given: Context, tmp_path: Path) -> None:
    """The curve is that of the naive way: all texts answered again by a model of each length."""
    taught = built(Finetune(), load(encoder), given, tmp_path / "taught")
    made = built(Window(tokens="auto"), taught, given, tmp_path / "out")
    report = made.record.history["window"]
    held_out, train = given.task.examples("validation"), given.task.examples("train")
    texts, known = ([given.task.text_of(each)[0] for each in part] for part in ((*held_out, *train), held_out))
    whole = answers(taught, texts).argmax(1)
    assert [point["tokens"] for point in report["curve"]] == [8, report["curve"][-1]["tokens"]]
    for point in report["curve"]:
        shorter = taught.with_record(preprocessing={**taught.record.preprocessing, "max_length": point["tokens"]})  # type: ignore[dict-item]
        found = answers(shorter, texts).argmax(1)
        assert point["same_top1"] == pytest.approx((found == whole).mean())
        truth = np.array([each.label for each in held_out])
        assert point["accuracy"] == pytest.approx((found[: len(known)] == truth).mean())
        counts = [TextEncoder.of(taught).count((text,)) for text in texts]
        assert point["cut_share"] == pytest.approx(np.mean([count > point["tokens"] for count in counts]))
    chosen = next(point for point in report["curve"] if point["tokens"] == report["after"])
    assert chosen["same_top1"] >= 0.99
    assert made.record.preprocessing["max_length"] == report["after"]  # type: ignore[index]


def test_what_suffices() -> None:
    """One per cent of the answers may change, and a fifth of a point of accuracy may be lost."""
    whole = Point(64, 0.0, 0.9, 1.0)
    assert Point(32, 0.5, 0.9, 0.992).suffices(whole)
    assert Point(32, 0.5, 0.95, 0.99).suffices(whole)
    assert not Point(16, 0.5, 0.9, 0.98).suffices(whole)
    assert not Point(16, 0.5, 0.897, 0.995).suffices(whole)
    assert Point(16, 0.01).suffices(Point(64, 0.0))
    assert not Point(16, 0.02).suffices(Point(64, 0.0))


def test_a_length_without_a_head_and_bad_lengths(encoder: Path, given: Context, tmp_path: Path) -> None:
    made = built(Window(tokens="auto"), load(encoder), given, tmp_path / "out")
    report = made.record.history["window"]
    assert report["cut_share"] <= 0.01
    assert all(point["accuracy"] is None for point in report["curve"])
    with pytest.raises(InvalidOption, match="tokens=40 is longer than the model's 32"):
        Window(tokens=40).apply(load(encoder), given, tmp_path)
    with pytest.raises(InvalidOption, match="of texts give tokens="):
        Window().apply(load(encoder), given, tmp_path)
    with pytest.raises(InvalidOption, match=r"seconds is for transcription; .*give tokens="):
        Window(seconds=20, tokens=8).apply(load(encoder), given, tmp_path)
    with pytest.raises(InvalidOption, match="tokens must be a whole number from 4, or 'auto', not 'all'"):
        Window(tokens="all")
    with pytest.raises(InvalidRecipe, match="onnx with seconds="):
        Window().output_format("onnx")
    assert str(Recipe.parse("window(tokens=64)").steps[0].short()) == "window(tokens=64)"
    assert Window(tokens="auto").learns_from("hf") == "calibration"


def test_answers_at_a_length_that_do_not_fit_into_the_time(
    classifier: Path, given: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "ANSWERED_AT_ONCE", 8)
    with pytest.raises(OutOfTime, match="answering with"):
        Window(tokens="auto").apply(load(classifier), replace(given, deadline=-1.0), tmp_path)


@pytest.fixture
def taught(made_once) -> Path:
    """An encoder of four heads below a head of our own."""

    def make(folder: Path) -> Path:
        table = write_table(folder.with_suffix(".csv"))
        given = Context(TextTask.open(table, TO_TRAIN), folder.with_suffix(".cache"), threads=1)
        encoder = write_encoder(folder.with_suffix(".encoder"), num_attention_heads=4, intermediate_size=8)
        folder.mkdir(exist_ok=True)
        Finetune(epochs=3).apply(load(encoder), given, folder).save(folder)
        return folder

    return made_once("text-taught", make)


def test_heads_and_neurons_are_pruned(taught: Path, given: Context, tmp_path: Path) -> None:
    """What comes out is opened, exported, trained and distilled as any other."""
    model = load(taught)
    small = built(Prune(sparsity=0.6, samples=8), model, given, tmp_path / "small")
    report = small.record.history["prune"]
    layers = {row["layer"].rpartition("encoder.layer.0.")[2]: row["after"] for row in report["layers"]}
    assert report["parameters_left"] < 1
    assert layers["attention.self.query"] < 4
    assert layers["intermediate.dense"] < 8
    assert small.record.state["widths"]  # a configuration has no number for fewer heads of the same width
    assert small.size_bytes < model.size_bytes
    exported = built(Export(), small, given, tmp_path / "onnx")
    np.testing.assert_allclose(answers(exported, TEXTS), answers(small, TEXTS), atol=1e-3)
    again = built(Finetune(epochs=1), small, given, tmp_path / "again")
    assert again.record.state == small.record.state
    learnt = built(Distill(epochs=1, teacher=str(model.path)), small, given, tmp_path / "learnt")
    assert learnt.size_bytes == pytest.approx(again.size_bytes, rel=0.02)


@pytest.mark.parametrize("which", ["taught", "classifier"])
def test_layers_are_pruned(which: str, given: Context, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """An ordinary folder of fewer layers."""
    from transformers import AutoModel

    model = load(request.getfixturevalue(which))
    small = built(Prune(structure="layers", sparsity=0.5, samples=8), model, given, tmp_path / "small")
    assert not small.record.state
    network = AutoModel.from_pretrained(str(small.path))
    assert network.config.num_hidden_layers == 1
    exported = built(Export(), small, given, tmp_path / "onnx")
    np.testing.assert_allclose(answers(exported, TEXTS), answers(small, TEXTS), atol=1e-3)


def test_a_classifier_of_transformers_is_pruned(classifier: Path, given: Context, tmp_path: Path) -> None:
    """Taylor's importance takes the labels."""
    model = load(classifier)
    small = built(Prune(size="0.97x", samples=8, importance="taylor"), model, given, tmp_path / "small")
    whole, cut = load_network(model.path), load_network(small.path)
    assert sum(each.numel() for each in cut.parameters()) <= 0.98 * sum(each.numel() for each in whole.parameters())


def test_single_weights_stay_zero(taught: Path, given: Context, tmp_path: Path) -> None:
    small = built(Prune(structure="weights", sparsity=0.5, samples=8), load(taught), given, tmp_path / "small")
    zeros = small.record.state["zeros"]
    trained = built(Finetune(unfreeze="all", deep_epochs=1, deep_rate=0.05), small, given, tmp_path / "finetuned")
    adapted = built(Lora(rank=1, epochs=1, learning_rate=0.05, batch_size=16), small, given, tmp_path / "adapted")
    for made in (trained, adapted):
        before, after = load_network(small.path), load_network(made.path)
        inside = [name for name in zeros if "layer" in name]
        assert inside
        for name in inside:
            assert not after.get_parameter(name)[before.get_parameter(name) == 0].any()


def test_an_encoder_without_a_head_has_no_answers(encoder: Path, given: Context, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"an encoder without a head of classes: put finetune\(\) before"):
        Prune().apply(load(encoder), given, tmp_path)


def test_a_config_that_names_no_architecture(tmp_path: Path) -> None:
    """As DeBERTa-v3 is published: its weights are those of a masked language model."""
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    config = DebertaV2Config(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        type_vocab_size=0,
    )
    whole = DebertaV2ForMaskedLM(config)
    whole.save_pretrained(str(tmp_path))
    write_tokenizer(tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    del described["architectures"]
    path.write_text(json.dumps(described), encoding="utf-8")
    model = load(tmp_path)
    assert (model.task, model.labels) == ("text-classification", None)
    network = load_network(tmp_path)
    states = whole.deberta.eval()(input_ids=torch.tensor([[2, 5, 3]])).last_hidden_state
    assert torch.equal(network(torch.tensor([[2, 5, 3]]), torch.ones(1, 3)).logits, states.mean(1))
    described["model_type"] = "unheard"
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="names no architecture"):
        load(tmp_path)
