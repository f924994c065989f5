"""One contract for all methods, on a tiny random network and photos made on the spot."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from conftest import ASSETS, COLOURS, PIXELS, write_hf_model, write_photos, write_resnet
from microbudget import methods
from microbudget.errors import BadData, Failed, InvalidOption, UnsupportedModel
from microbudget.images.preprocess import Preprocessing
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.text_classification.data import TextTask
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.methods import Context, Method
from microbudget.methods.distill import Distill
from microbudget.methods.export import Export
from microbudget.methods.finetune import Finetune
from microbudget.methods.lora import Lora
from microbudget.methods.prune import Prune
from microbudget.methods.qat import Qat
from microbudget.methods.quantize import Quantize
from microbudget.methods.resize import Resize
from microbudget.methods.tfidf import Tfidf
from microbudget.methods.trim import Trim
from microbudget.methods.window import Window
from microbudget.model import Model
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from toy_language_models import train_byte_level, write_network
from toy_seq2seq import write_recordings, write_whisper
from toy_texts import write_classifier, write_table

# For each method a recipe that gives it its input, and an example of itself.
EXAMPLES: list[tuple[str, Method]] = [
    ("", Finetune(epochs=3)),
    ("", Finetune(head="mlp", epochs=3, views=2)),
    ("", Finetune(epochs=3, unfreeze="last", deep_epochs=2)),
    ("export", Finetune(epochs=3)),
    ("finetune(epochs=3)", Distill(epochs=2, views=2, width=0.5)),
    ("finetune(epochs=3)", Export()),
    ("", Resize(pixels=24)),
    ("export", Resize(pixels=24)),
    ("finetune(epochs=3) > export", Quantize(samples=8)),
    ("finetune(epochs=3)", Prune(samples=8)),
    ("finetune(epochs=3) > export > quantize(bits=4, samples=8)", Qat(epochs=1)),
    ("finetune(epochs=1)", Prune(structure="layers", sparsity=0.3, samples=8)),
    ("finetune(epochs=3)", Prune(structure="weights", samples=8)),
    ("", Lora(rank=2, epochs=2)),
    ("", Lora(rank=2, epochs=2, merge=False)),
]
WRITTEN: list[Method] = [
    Tfidf(),
    Tfidf(unit="char", features=50, C=1.0),
    Distill(student="static", dimensions=8, epochs=2),
]
TRAINED: list[Method] = [  # of texts, to a folder of transformers or of sentence-transformers
    Finetune(epochs=2, unfreeze="all", deep_epochs=1),
    Lora(rank=2, epochs=1),
    Distill(depth=0.5, epochs=1),
    Prune(samples=8),
    Prune(structure="layers", samples=8),
    Window(tokens="auto"),
]
ASKED = "prompt(model={!r}, text='{{text}} is {{label}}', words='neg=fox, pos=return')"
SPOKEN: list[Method] = [Window(seconds=10), Trim(), Distill(decoder_layers=1, epochs=1, max_wer=100.0)]


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Context]:
    """A small random Whisper and recordings of its kind."""
    cache, data = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("recordings")
    model = load(write_whisper(tmp_path_factory.mktemp("whisper") / "toy"))
    task = TranscriptionTask.open(write_recordings(data / "words", 12), DataOptions(cache=cache))
    return model, Context(task, cache, threads=1, reference=model)


@pytest.fixture(scope="session")
def context(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)


@pytest.fixture(scope="session")
def given(hf_model: Path, context: Context, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The inputs of the examples, by the recipe that made them."""
    store = tmp_path_factory.mktemp("store")
    small, made = write_resnet(store / "resnet", ("cat", "dog")), {}
    for text, method in EXAMPLES:
        # The small network has no blocks to drop.
        model = load(hf_model if isinstance(method, Prune) and method.structure == "layers" else small)
        made[text] = build(model, Recipe.parse(text), context, store)[-1] if text else model
    return made


def digest(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_every_method_is_under_contract() -> None:
    shown = {method.name() for method in (*(one for _, one in EXAMPLES), *SPOKEN, *WRITTEN, *TRAINED)}
    assert {*shown, ASKED.partition("(")[0]} == set(methods.names())


@pytest.mark.parametrize("method", WRITTEN, ids=lambda value: str(value)[:40])
def test_contract_of_texts(method: Method, made_once, tmp_path: Path) -> None:
    model = load(made_once("text-classifier", write_classifier))
    context = Context(TextTask.open(write_table(tmp_path / "t.csv")), tmp_path / "cache", threads=1)
    input_before = digest(model.path)
    results = [build_step(model, method, context, tmp_path / name) for name in ("one", "two")]
    assert digest(model.path) == input_before, "the input was changed"
    assert digest(results[0].path) == digest(results[1].path), "the same seed gave another result"
    assert {example.key for example in context.task.examples("train")} <= set(results[0].record.seen)
    text = context.task.collate(context.task.examples("test")[:1], results[0].record.preprocessing or {})
    tokenizer = Tokenizer.from_file(str(results[0].path / "tokenizer.json"))
    ids = np.array([tokenizer.encode(str(text["text"][0])).ids], np.int64)
    foreign = onnxruntime.InferenceSession(str(results[0].path / "model.onnx"), providers=["CPUExecutionProvider"])
    session = open_session(results[0], threads=1)
    np.testing.assert_allclose(session.answer(text), foreign.run(None, {"input_ids": ids})[0], atol=1e-5)
    session.close()


@pytest.mark.parametrize("method", TRAINED, ids=lambda value: str(value)[:40])
def test_contract_of_encoders(method: Method, made_once, tmp_path: Path) -> None:
    check_texts(load(made_once("text-classifier", write_classifier)), method, tmp_path)


def test_contract_of_a_prompt(made_once, tmp_path: Path) -> None:
    """What comes out is the language model, and is asked."""

    def write(folder: Path) -> Path:
        train_byte_level(folder)
        write_network(folder, "llama")
        return folder

    (step,) = Recipe.parse(ASKED.format(str(made_once("language-model", write)))).steps
    check_texts(load(made_once("text-classifier", write_classifier)), step, tmp_path)


def check_texts(model: Model, method: Method, folder: Path) -> None:
    context = Context(TextTask.open(write_table(folder / "t.csv")), folder / "cache", threads=1, reference=model)
    input_before = digest(model.path)
    results = [
        build_step(model, method, replace(context, cache=folder / name / "cache"), folder / name)
        for name in ("one", "two")
    ]
    assert digest(model.path) == input_before, "the input was changed"
    assert digest(results[0].path) == digest(results[1].path), "the same seed gave other bytes"
    reloaded = load(results[0].path)
    assert reloaded.record == results[0].record
    assert Recipe.parse(reloaded.record.recipe)
    text = context.task.collate(context.task.examples("test")[:2], reloaded.record.preprocessing or {})
    session = open_session(reloaded, threads=1)
    logits = session.answer(text)
    session.close()
    assert logits.shape == (2, len(context.task.labels))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("method", SPOKEN, ids=lambda value: str(value)[:40])
def test_contract_of_speech(method: Method, spoken: tuple[Model, Context], tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    model, context = spoken
    input_before = digest(model.path)
    results = [
        build_step(model, method, replace(context, cache=tmp_path / f"cache of {name}"), tmp_path / name)
        for name in ("one", "two")
    ]
    assert digest(model.path) == input_before, "the input was changed"
    first, second = (digest(result.path) for result in results)
    assert first == second, "the same seed gave other bytes"
    reloaded = load(results[0].path)
    assert reloaded.record == results[0].record
    assert reloaded.task == model.task
    assert Recipe.parse(reloaded.record.recipe)
    network, info = WhisperForConditionalGeneration.from_pretrained(str(reloaded.path), output_loading_info=True)
    assert not info["missing_keys"]
    inputs = context.task.collate(context.task.examples("validation")[:2], {})
    assert len(open_session(reloaded, threads=1).answer(inputs)) == 2
    assert network.config.vocab_size <= 600


# Of peft, which asks transformers for what it will rename.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(("before", "method"), EXAMPLES, ids=lambda value: str(value)[:40])
def test_contract(before: str, method: Method, given: dict[str, Model], context: Context, tmp_path: Path) -> None:
    model = given[before]
    input_before = digest(model.path)
    own = replace(context, reference=given["finetune(epochs=3)"]) if isinstance(method, Qat) else context
    results = [  # each from empty caches: what was found there is reported (distill's passes of the teacher)
        build_step(model, method, replace(own, cache=tmp_path / name / "cache"), tmp_path / name)
        for name in ("one", "two")
    ]
    assert digest(model.path) == input_before, "the input was changed"
    first, second = (digest(result.path) for result in results)
    assert first == second, "the same seed gave other bytes"
    assert results[0].format == method.output_format(model.format)
    reloaded = load(results[0].path)
    assert reloaded.record == results[0].record
    assert reloaded.record.recipe.endswith(str(method))
    assert Recipe.parse(reloaded.record.recipe)
    assert set(model.record.seen) <= set(reloaded.record.seen)
    inputs = context.task.collate(context.task.examples("validation")[:3], reloaded.record.preprocessing or {})
    with_ours = open_session(reloaded, threads=1).answer(inputs)
    assert with_ours.shape == (3, len(reloaded.labels or ()))
    assert np.isfinite(with_ours).all()
    np.testing.assert_allclose(foreign_answer(reloaded, inputs), with_ours, rtol=1e-3, atol=1e-3)


def foreign_answer(model: Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What stock libraries say: transformers for a folder, plain onnxruntime for a file.

    A folder whose widths no config can say is ordinary again as ONNX; an adapter goes through PEFT.
    """
    if model.format == "onnx":
        onnx.checker.check_model(str(model.weights), full_check=True)
        return onnxruntime.InferenceSession(str(model.weights)).run(None, inputs)[0]
    import torch

    from microbudget.runtimes.hf.image_classifier import load_network, onnx_bytes

    if model.record.state.get("widths") or model.record.state.get("dropped"):
        session = onnxruntime.InferenceSession(onnx_bytes(load_network(model.path), PIXELS, PIXELS))
        return session.run(None, inputs)[0]
    network = stock_network(model).eval()
    with torch.inference_mode():
        return network(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()


def stock_network(model: Model) -> Any:
    """By transformers alone, or by PEFT on transformers' backbone with a head for the labels."""
    from transformers import AutoModelForImageClassification

    if not (model.path / "adapter_config.json").is_file():
        return AutoModelForImageClassification.from_pretrained(str(model.path))
    from peft import PeftModel

    base = json.loads((model.path / "adapter_config.json").read_text())["base_model_name_or_path"]
    labels = {"num_labels": len(model.labels or ()), "ignore_mismatched_sizes": True}
    return PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(base, **labels), str(model.path))


def test_the_record_names_the_examples_that_were_seen(given: dict[str, Model], context: Context) -> None:
    seen = set(given["finetune(epochs=3)"].record.seen)
    train, validation = (context.task.examples(split) for split in ("train", "validation"))
    assert seen == {example.key for example in [*train, *validation]}
    assert not seen & {example.key for example in context.task.examples("test")}


def test_finetune_learns_the_new_labels(given: dict[str, Model], context: Context, tmp_path: Path) -> None:
    model = build_step(given[""], Finetune(), context, tmp_path)
    assert model.labels == tuple(COLOURS)
    examples = context.task.examples("train")
    logits = open_session(model).answer(context.task.collate(examples, model.record.preprocessing or {}))
    right = logits.argmax(1) == [example.label for example in examples]
    assert right.mean() > 0.7  # three colours: guessing gives a third
    history = model.record.history["finetune"]
    assert set(history["validation"]) == {"accuracy", "precision", "recall", "f1", "confusion"}
    curve = history["learning_curve"]
    assert curve["gain_low"] <= curve["gain"] <= curve["gain_high"]


def test_mlp_is_the_talks_head(given: dict[str, Model], context: Context, tmp_path: Path) -> None:
    model = build_step(given[""], Finetune(head="mlp", epochs=3), context, tmp_path)
    graph = onnx.load(str(model.weights)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert shapes["head.0.weight"][0] == 256
    assert shapes["head.1.weight"] == (3, 256)
    assert [node.op_type for node in graph.node][-3:] == ["Gemm", "Relu", "Gemm"]


def test_features_are_computed_once_per_view(
    given: dict[str, Model], photos: Path, tmp_path: Path, images_answered: list[int]
) -> None:
    own = Context(ImageTask.open(photos, DataOptions(cache=tmp_path)), tmp_path, threads=2)
    train, validation = len(own.task.examples("train")), len(own.task.examples("validation"))
    build_step(given[""], Finetune(views=2, epochs=30), own, tmp_path / "a")
    assert sum(images_answered) == 2 * train + validation
    build_step(given[""], Finetune(views=3, epochs=3), own, tmp_path / "b")
    assert sum(images_answered) == 3 * train + validation


def test_export_folds_batch_norm_and_says_how_much_it_differs(given: dict[str, Model]) -> None:
    model = given["finetune(epochs=3) > export"]
    graph = onnx.load(str(model.weights)).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert 0 <= model.record.history["export"]["difference"] < 1e-3


def test_an_export_that_answers_differently_fails(
    given: dict[str, Model], context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microbudget.runtimes.hf import image_classifier as runtime

    def damaged(network: object, height: int, width: int) -> bytes:
        import torch

        with torch.no_grad():
            network.classifier[-1].bias += 1.0  # type: ignore[attr-defined]
        data = original(network, height, width)
        with torch.no_grad():
            network.classifier[-1].bias -= 1.0  # type: ignore[attr-defined]
        return data

    original = runtime.onnx_bytes
    monkeypatch.setattr(runtime, "onnx_bytes", damaged)
    with pytest.raises(Failed, match="answers differently"):
        build_step(given["finetune(epochs=3)"], Export(), context, tmp_path)
    assert not list(tmp_path.iterdir()), "a failed step left something behind"


def test_quantize_makes_int8_weights_and_keeps_the_answers(
    given: dict[str, Model], context: Context, tmp_path: Path
) -> None:
    before = given["finetune(epochs=3) > export"]
    model = build_step(before, Quantize(), context, tmp_path)
    types = {tensor.data_type for tensor in onnx.load(str(model.weights)).graph.initializer}
    assert onnx.TensorProto.INT8 in types
    examples = context.task.examples("validation")
    inputs = context.task.collate(examples, model.record.preprocessing or {})
    ours, theirs = (open_session(one).answer(inputs) for one in (model, before))
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.8


def test_resize_changes_preprocessing_and_input_together(
    hf_model: Path, given: dict[str, Model], context: Context, tmp_path: Path
) -> None:
    for before, key in ((load(hf_model), "hf"), (given["export"], "onnx")):
        model = build_step(before, Resize(pixels=24), context, tmp_path / key)
        assert Preprocessing.parse(model.record.preprocessing or {}).input_size == (24, 24)
        if key == "hf":
            assert json.loads((model.path / "config.json").read_text())["image_size"] == 24
        else:
            dims = onnx.load(str(model.weights)).graph.input[0].type.tensor_type.shape.dim
            assert [dim.dim_value for dim in dims[1:]] == [3, 24, 24]


def test_resize_only_makes_smaller(given: dict[str, Model], context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="larger than the model's 32"):
        build_step(given[""], Resize(pixels=64), context, tmp_path)


def test_resize_interpolates_the_positions_of_a_vision_transformer(context: Context, tmp_path: Path) -> None:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    folder = write_hf_model(tmp_path / "vit")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    network = ViTForImageClassification(config).eval()
    network.vit.embeddings.position_embeddings.data.normal_()
    network.save_pretrained(str(folder))
    model = build_step(load(folder), Resize(pixels=16), context, tmp_path / "store")
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = network(pixel_values=pixels, interpolate_pos_encoding=True).logits.numpy()
    answered = open_session(model).answer({"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(answered, expected, rtol=1e-4, atol=1e-5)


def test_resize_refuses_a_graph_that_holds_its_size(context: Context, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    flat = 3 * 32 * 32
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("Gemm", ["flat", "W"], ["logits"], transB=1),
        ],
        "fixed",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.zeros((3, flat), np.float32), "W")],
    )
    opset = [helper.make_opsetid("", 17)]
    (tmp_path / "fixed").mkdir()
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(tmp_path / "fixed" / "model.onnx"))
    with pytest.warns(UserWarning, match="has no preprocessing config"):
        model = load(tmp_path / "fixed")
    with pytest.raises(UnsupportedModel, match="fixed to its input size"):
        build_step(model, Resize(pixels=16), context, tmp_path / "store")


def test_a_model_without_a_linear_end_is_named(context: Context, tmp_path: Path) -> None:
    from test_loading import classifier

    proto = classifier(("batch", 3, 32, 32))
    proto.graph.node[-1].op_type = "Concat"
    del proto.graph.node[-1].input[1:], proto.graph.node[-1].attribute[:]
    proto.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 1))
    (tmp_path / "odd").mkdir()
    onnx.save(proto, str(tmp_path / "odd" / "model.onnx"))
    with pytest.warns(UserWarning, match="preprocessing"):
        model = load(tmp_path / "odd")
    with pytest.raises(UnsupportedModel, match="ends in Concat"):
        build_step(model, Finetune(epochs=1), context, tmp_path / "store")


def test_a_class_without_training_photos_is_named(hf_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for split in ("train", "validation", "test"):
        write_photos(folder / split, per_class=6, seed=len(split))
    shutil.rmtree(folder / "train" / "red")
    own = Context(ImageTask.open(folder, DataOptions(cache=tmp_path / "cache")), tmp_path / "cache")
    with pytest.raises(BadData, match="no training example of red"):
        build_step(load(hf_model), Finetune(), own, tmp_path / "store")


@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is not there")
def test_the_real_mobilenet_learns_flowers(assets: Path, tmp_path: Path) -> None:
    """A probe of two classes of real photos: the whole way from a Hugging Face folder to int8."""
    folder = tmp_path / "flowers"
    for name in ("daisy", "iris", "pansy"):
        (folder / name).mkdir(parents=True)
        for file in sorted((assets / "images" / "flowers12" / name).iterdir())[:24]:
            shutil.copyfile(file, folder / name / file.name)
    own = Context(ImageTask.open(folder, DataOptions(cache=tmp_path / "cache")), tmp_path / "cache", threads=2)
    recipe = Recipe.parse("resize(pixels=96) > finetune > export > quantize(samples=16)")
    model = build(load(assets / "models" / "mobilenet_v2"), recipe, own, tmp_path / "store")[-1]
    examples = [*own.task.examples("test"), *own.task.examples("validation")]
    logits = open_session(model).answer(own.task.collate(examples, model.record.preprocessing or {}))
    assert (logits.argmax(1) == [example.label for example in examples]).mean() >= 0.9
    assert model.size_bytes < 3_000_000
