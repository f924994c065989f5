"""Text classifiers from files to answers: encoders, heads, export, integers, and what ships."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import microbudget
from microbudget import cli
from microbudget.errors import LabelsDisagree, OutOfTime, UnsupportedModel
from microbudget.judge.budget import Budget
from microbudget.kinds.text_classification.data import TextTask
from microbudget.kinds.text_classification.search_space import epochs_for
from microbudget.kinds.text_classification.teaching import TokenTask
from microbudget.methods.export import Export
from microbudget.methods.finetune import Finetune
from microbudget.methods.quantize import Quantize
from microbudget.methods.quantize.tables import grouped_rows, round_tables, rounded_rows
from microbudget.methods.trim import Trim
from microbudget.methods.trim.pieces import vocabulary_of
from microbudget.recipes.recipe import Recipe
from microbudget.runs.run import Run
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.runtimes.text.encoding import TextEncoder
from microbudget.search.options import RunOptions
from microbudget.search.schedule import Schedule
from microbudget.search.search import Job, taught
from microbudget.search.space import search_space
from microbudget.task import TO_TRAIN
from quick import QUICK
from toy_texts import answers, built, context, rows, write_classifier, write_encoder, write_table, write_tokenizer

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def encoder(made_once) -> Path:
    return made_once("text-encoder", write_encoder)


@pytest.fixture
def classifier(made_once) -> Path:
    return made_once("text-classifier", write_classifier)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "t.csv")


TEXTS = [text for text, _ in rows(12)] + ["", "unknown words zzz", "good " * 200]


def test_a_classifier_answers_as_transformers_does(classifier: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = load(classifier)
    assert (model.task, model.labels) == ("text-classification", ("neg", "pos"))
    tokenizer = AutoTokenizer.from_pretrained(str(classifier))
    network = AutoModelForSequenceClassification.from_pretrained(str(classifier))
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    expected = network(**inputs).logits.detach().numpy()
    np.testing.assert_allclose(answers(model, TEXTS), expected, atol=1e-5)


def test_an_export_answers_the_same_in_any_batch(classifier: Path, table: Path, tmp_path: Path) -> None:
    made = built(Export(), load(classifier), context(table, tmp_path), tmp_path / "onnx")
    assert made.format == "onnx"
    np.testing.assert_allclose(answers(made, TEXTS), answers(load(classifier), TEXTS), atol=1e-4)
    encoder = TextEncoder.of(made)
    session = onnxruntime.InferenceSession(str(made.weights))
    padded = session.run(None, encoder.batch(encoder.tokens((text,)) for text in TEXTS))[0]
    np.testing.assert_allclose(padded, answers(made, TEXTS), atol=1e-4)


def test_finetune_teaches_an_encoder(encoder: Path, table: Path, tmp_path: Path) -> None:
    given = context(table, tmp_path)
    made = built(Finetune(unfreeze="all", deep_epochs=8, deep_rate=0.05), load(encoder), given, tmp_path / "taught")
    assert made.labels == ("neg", "pos")
    task = given.task
    test = task.examples("test")
    logits = answers(made, [task.text_of(each)[0] for each in test])
    assert task.score(logits, test).value > 0.8
    assert made.record.history["finetune"]["kept"] > 0
    assert {path.name for path in made.files} >= {"modules.json", "tokenizer.json", "model.safetensors"}
    other = built(Export(), made, given, tmp_path / "exported")
    np.testing.assert_allclose(answers(other, TEXTS), answers(made, TEXTS), atol=1e-3)


def test_a_frozen_encoder_gives_its_mean_features(encoder: Path, table: Path, tmp_path: Path) -> None:
    """The head reads the mean of the last states under the mask: the naive computation in transformers."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertModel

    made = built(Finetune(), load(encoder), context(table, tmp_path), tmp_path / "taught")
    network = BertModel.from_pretrained(str(made.path)).eval()
    head = load_file(str(made.path / "2_Dense" / "model.safetensors"))
    tokens = TextEncoder.of(made)
    for text in TEXTS[:4]:
        ids = torch.tensor([tokens.tokens((text,)).ids])
        states = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        expected = states.mean(1) @ head["linear.weight"].T + head["linear.bias"]
        np.testing.assert_allclose(answers(made, [text]), expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("mode", ["pooling_mode_cls_token", "pooling_mode_max_tokens"])
def test_the_pooling_of_sentence_transformers(mode: str, tmp_path: Path, table: Path) -> None:
    import torch
    from transformers import BertModel

    folder = write_encoder(tmp_path / "encoder")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({mode: True, "pooling_mode_mean_tokens": False}))
    given = context(table, tmp_path)
    made = built(Finetune(epochs=1), load(folder), given, tmp_path / "taught")
    exported = built(Export(), made, given, tmp_path / "exported")
    np.testing.assert_allclose(answers(exported, TEXTS), answers(made, TEXTS), atol=1e-3)
    ids = torch.tensor([TextEncoder.of(made).tokens(("a good film",)).ids])
    states = BertModel.from_pretrained(str(made.path)).eval()(input_ids=ids).last_hidden_state
    pooled = states[:, 0] if "cls" in mode else states.max(dim=1).values
    from safetensors.torch import load_file

    head = load_file(str(made.path / "2_Dense" / "model.safetensors"))
    expected = pooled @ head["linear.weight"].T + head["linear.bias"]
    np.testing.assert_allclose(answers(made, ["a good film"]), expected.detach().numpy(), atol=1e-4)


def test_integers_are_small_and_agree(classifier: Path, table: Path, tmp_path: Path) -> None:
    given = context(table, tmp_path)
    exported = built(Export(), load(classifier), given, tmp_path / "onnx")
    small = built(Quantize(), exported, given, tmp_path / "int8")
    assert small.weights.stat().st_size < 0.5 * exported.weights.stat().st_size
    types = {tensor.name: tensor.data_type for tensor in onnx.load(str(small.weights)).graph.initializer}
    assert onnx.TensorProto.INT8 in types.values()
    float_table = [t for t in onnx.load(str(small.weights)).graph.initializer if t.dims == [1100, 16]]
    assert [tensor.data_type for tensor in float_table] == [onnx.TensorProto.INT8]
    a, b = answers(exported, TEXTS), answers(small, TEXTS)
    assert np.abs(a - b).max() < 0.1 * np.ptp(a) + 0.02
    np.testing.assert_array_equal(answers(small, TEXTS[3:5])[0], answers(small, [TEXTS[3]])[0])  # alone or together
    ledger = microbudget.measure(small, table, seconds=0.2, ledger=True).as_dict()
    assert ledger["size_bytes"] == small.size_bytes


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.floats(-30, 30))
def test_a_row_of_a_table_is_off_by_half_a_step(seed: int, height: int, width: int, power: float) -> None:
    random = np.random.default_rng(seed)
    table = (random.normal(size=(height, width)) * 10**power * (random.random((height, 1)) > 0.2)).astype(np.float32)
    q, S = rounded_rows(table)
    assert q.dtype == np.int8
    assert np.abs(q.astype(int)).max() <= 127
    assert (np.abs(q * S.astype(np.float64) - table) <= 0.5001 * S).all()


@given(seed=st.integers(0, 99), height=st.integers(1, 4), groups=st.integers(1, 3), power=st.integers(-2, 4))
@settings(max_examples=30, deadline=None)
def test_rows_of_a_table_in_4_bits_lose_less_than_by_rounding_to_the_largest(
    seed: int, height: int, groups: int, power: int
) -> None:
    random = np.random.default_rng(seed)
    table = (random.normal(size=(height, 64 * groups)) * 10.0**power).astype(np.float32)
    table[:, :32] *= random.random((height, 1)) > 0.3  # also groups of zeros
    packed, S = grouped_rows(table)
    q = np.concatenate([packed % 16, packed >> 4], axis=1).astype(float) - 8
    found = q * np.repeat(S.astype(np.float64), 32, axis=1)
    largest = np.abs(table.reshape(height, -1, 32)).max(axis=2).repeat(32, axis=1)
    # Half a step of 1/8 of the group's largest number, and where the scale cuts it off a third of it.
    assert (np.abs(found - table) <= 0.35 * largest + 1e-7).all()
    plain = np.repeat(np.abs(table.reshape(height, -1, 32)).max(axis=2), 32, axis=1) / 7
    rounded = np.rint(np.divide(table, plain, out=np.zeros_like(table), where=plain > 0)) * plain
    assert np.square(found - table).sum() <= 1.01 * np.square(rounded - table).sum() + 1e-10


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_table_in_4_bits_is_read_as_it_was_rounded(runtime: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """The large one is in 4 bits, the small one in 8, and so is one whose scales are too small for float16."""
    random = np.random.default_rng(0)
    stored = {
        "large": random.normal(size=(2048, 128)).astype(np.float32),
        "small": random.normal(size=(300, 64)).astype(np.float32),
        "tiny": (1e-6 * random.normal(size=(2048, 64))).astype(np.float32),
    }
    nodes = [onnx.helper.make_node("Gather", [name, "ids"], [f"{name}_read"], name) for name in stored]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [None] * len(shape))
    outputs = [onnx.helper.make_tensor_value_info(f"{name}_read", onnx.TensorProto.FLOAT, None) for name in stored]
    tables = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = onnx.helper.make_graph(nodes, "tables", [ids], outputs, tables)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert round_tables(proto, 4) == 3
    assert {t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16} == {"large.S"}
    onnx.save(proto, str(tmp_path / "model.onnx"))
    asked = random.integers(0, 300, shape)
    if runtime == "onnx":
        session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
        found = dict(zip(stored, session.run(None, {"ids": asked}), strict=True))
    else:
        openvino = pytest.importorskip("openvino")
        compiled = openvino.Core().compile_model(str(tmp_path / "model.onnx"), "CPU")
        answer = compiled({"ids": asked})
        found = {name: answer[f"{name}_read"] for name in stored}
    packed, S = grouped_rows(stored["large"])
    q = np.concatenate([packed % 16, packed >> 4], axis=1).astype(np.float32) - 8
    np.testing.assert_allclose(found["large"], (q * np.repeat(S.astype(np.float32), 32, axis=1))[asked], rtol=1e-6)
    for name in ("small", "tiny"):
        q8, S8 = rounded_rows(stored[name])
        np.testing.assert_allclose(found[name], (q8 * S8)[asked], rtol=1e-6)


def test_shrink_to_what_ships(encoder: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = microbudget.run_recipe(encoder, "finetune(epochs=3) > export > quantize", table, out=out, durations=QUICK)
    assert result.best is not None
    best = load(out / "best")
    assert best.labels == ("neg", "pos")
    assert {"model.onnx", "tokenizer.json", "predict.py", "README.md"} <= {path.name for path in best.path.iterdir()}
    assert not (best.path / "preprocessor_config.json").exists()
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("model.onnx", "tokenizer.json", "predict.py"):
        (alone / name).write_bytes((best.path / name).read_bytes())
    command = [sys.executable, "-I", str(alone / "predict.py"), *TEXTS]
    said = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    labels = [line.split("\t")[0] for line in said.rstrip("\n").split("\n")]
    assert labels == [best.labels[place] for place in answers(best, TEXTS).argmax(1)]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Reference and shipped model, text by text" in page
    measured = microbudget.measure(out, table, seconds=0.2)
    assert "mcc" in measured.extra


def test_a_graph_of_others_with_its_tokenizer(classifier: Path, table: Path, tmp_path: Path) -> None:
    """As optimum writes a folder: model.onnx, config.json and the tokenizer, no record of ours."""
    made = built(Export(), load(classifier), context(table, tmp_path), tmp_path / "onnx")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    proto = onnx.load(str(made.weights))
    del proto.metadata_props[:]
    onnx.save(proto, str(foreign / "model.onnx"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (foreign / name).write_bytes((classifier / name).read_bytes())
    model = load(foreign)
    assert (model.task, model.labels) == ("text-classification", ("neg", "pos"))
    np.testing.assert_allclose(answers(model, TEXTS), answers(made, TEXTS), atol=1e-6)
    (foreign / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match=r"takes tokens .*no tokenizer.json beside it"):
        load(foreign)


def test_pairs_are_read_as_pairs(tmp_path: Path, classifier: Path) -> None:
    lines = ["premise,hypothesis,label", *(f"{text},it is good,{label}" for text, label in rows(60))]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    given = context(table, tmp_path)
    made = built(Export(), load(classifier), given, tmp_path / "onnx")
    session = open_session(made, threads=1)
    pairs = np.array([["a good film", "it is bad"], ["the plot", ""]])
    found = session.answer({"text": pairs})
    swapped = session.answer({"text": pairs[:, ::-1]})
    assert np.abs(found - swapped).max() > 1e-4
    np.testing.assert_allclose(found, open_session(load(classifier)).answer({"text": pairs}), atol=1e-4)
    tokens = TokenTask(given.task, TextEncoder.of(made)).collate(given.task.examples("train")[:3], {})
    assert tokens["token_type_ids"].max() == 1


def test_an_encoder_without_a_head_cannot_be_measured(encoder: Path, table: Path) -> None:
    with pytest.raises(LabelsDisagree, match=r"encoder without a head of classes.*shrink"):
        microbudget.measure(encoder, table, seconds=0.1)


def test_labels_of_others(table: Path, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "m", ("joy", "anger", "fear"))
    with pytest.raises(LabelsDisagree, match="unknown to the model"):
        microbudget.measure(folder, table, seconds=0.1)


def change(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    row = json.loads(path.read_text(encoding="utf-8"))
    row.update(changes)
    path.write_text(json.dumps({key: value for key, value in row.items() if value != "REMOVED"}), encoding="utf-8")


def test_models_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], table: Path) -> None:
    def refused(folder: Path, *words: str) -> None:
        assert cli.main(["measure", str(folder), "--data", str(table)]) == 2
        said = capsys.readouterr().err
        assert all(word in said for word in words), said
        assert "Traceback" not in said

    no_tokenizer = write_classifier(tmp_path / "a")
    (no_tokenizer / "tokenizer.json").unlink()
    refused(no_tokenizer, "tokenizer.json", "save_pretrained")
    no_pad = write_classifier(tmp_path / "b")
    change(no_pad, "config.json", pad_token_id=None)
    change(no_pad, "tokenizer_config.json", pad_token="REMOVED")
    refused(no_pad, "no padding token")
    damaged = write_classifier(tmp_path / "c")
    (damaged / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
    refused(damaged, "tokenizer.json", "no tokenizer")
    score = write_classifier(tmp_path / "d", ("score",))
    refused(score, "one output, a score")
    several = write_classifier(tmp_path / "e")
    change(several, "config.json", problem_type="multi_label_classification")
    refused(several, "multi_label_classification")
    dense = write_encoder(tmp_path / "f")
    (dense / "2_Dense").mkdir()
    activation = {"out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
    (dense / "2_Dense" / "config.json").write_text(json.dumps(activation), encoding="utf-8")
    refused(dense, "a layer between the pooling and the head")


def test_the_length_is_the_smallest_that_is_named(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "m")
    assert load(folder).record.preprocessing["max_length"] == 32
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}', encoding="utf-8")
    assert load(folder).record.preprocessing["max_length"] == 16
    change(folder, "tokenizer_config.json", model_max_length=int(1e30))
    (folder / "sentence_bert_config.json").unlink()
    assert load(folder).record.preprocessing["max_length"] == 64  # of its positions


def test_a_text_is_cut_and_never_empty(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    encoder = TextEncoder(tmp_path, {"max_length": 8, "inputs": ["input_ids", "attention_mask"], "pad": 0})
    assert len(encoder.tokens(("good " * 100,))) == 8
    assert encoder.count(("good " * 100,)) == 102
    assert len(encoder.tokens(("good " * 100,))) == 8  # counting leaves the cut as it was
    batch = encoder.batch([encoder.tokens(("good",)), encoder.tokens(("",))])
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_trim_keeps_the_answers_to_the_users_texts(classifier: Path, table: Path, tmp_path: Path) -> None:
    given, model = context(table, tmp_path), load(classifier)
    small = built(Trim(), model, given, tmp_path / "small")
    assert small.size_bytes < 0.7 * model.size_bytes
    texts = [given.task.text_of(each)[0] for each in given.task.examples("train")]
    np.testing.assert_allclose(answers(small, texts), answers(model, texts), atol=1e-6)
    exported = built(Export(), small, given, tmp_path / "onnx")
    np.testing.assert_allclose(answers(exported, TEXTS), answers(small, TEXTS), atol=1e-4)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(small.path))
    network = AutoModelForSequenceClassification.from_pretrained(str(small.path))
    logits = network(**tokenizer(texts[0], return_tensors="pt")).logits.detach().numpy()
    np.testing.assert_allclose(answers(small, texts[:1]), logits, atol=1e-5)


WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=6)


@settings(max_examples=40)
@given(kept=st.lists(WORDS, min_size=1, max_size=4), other=WORDS, kind=st.sampled_from(["WordPiece", "Unigram"]))
def test_a_smaller_vocabulary_cuts_the_kept_texts_as_before(kept: list[list[str]], other: list[str], kind: str) -> None:
    before = (wordpiece if kind == "WordPiece" else unigram)()
    description = json.loads(before.to_str())
    pieces = vocabulary_of(description)
    tokens = {token for words in kept for token in before.encode(" ".join(words)).tokens}
    stay = sorted(
        pieces.vocabulary[token] for token in pieces.closed(tokens & {*pieces.vocabulary} | pieces.alphabet())
    )
    new = {old: place for place, old in enumerate(stay)}
    after = Tokenizer.from_str(json.dumps({**description, "model": pieces.trimmed(description["model"], new)}))
    for words in kept:
        text = " ".join(words)
        assert after.encode(text).tokens == before.encode(text).tokens
        assert after.encode(text).ids == [new[old] for old in before.encode(text).ids]
    assert ("<unk>" in after.encode(" ".join(other)).tokens) <= ("<unk>" in before.encode(" ".join(other)).tokens)


def wordpiece() -> Tokenizer:
    from tokenizers import models, pre_tokenizers

    words = ["<unk>", *"abcdefg", *(f"##{c}" for c in "abcdefg"), "ab", "abc", "##bc", "##de", "face", "bad", "##ge"]
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def unigram() -> Tokenizer:
    from tokenizers import models, pre_tokenizers

    rows = [("<unk>", 0.0), ("▁", -2.5), *((c, -4.0 - at / 7) for at, c in enumerate("abcdefg"))]
    rows += [("▁ab", -5.1), ("abc", -6.2), ("de", -5.7), ("face", -7.3), ("▁bad", -6.9), ("ge", -7.7)]
    made = Tokenizer(models.Unigram(rows, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


def test_what_shrink_tries(encoder: Path, classifier: Path, table: Path) -> None:
    task = TextTask.open(table, TO_TRAIN)
    space = search_space(load(encoder), task)
    first = space.teaching()
    assert [str(step.short()) for step in first] == ["finetune(unfreeze='all', deep_epochs=30, deep_patience=30)"]
    assert [epochs_for(texts) for texts in (0, 300, 1200, 2400, 10_000)] == [30, 30, 8, 4, 4]
    taught = [[step.name() for step in recipe.steps] for recipe in space.recipes(first)]
    assert taught[0] == ["tfidf"]  # what needs no network is known before the first network is exported
    order = [["finetune", "export", "quantize"], ["finetune", "distill"], ["finetune", "trim", "export", "quantize"]]
    assert [taught.index(names) for names in order] == sorted(taught.index(names) for names in order)  # by their cost
    assert ["finetune", "trim", "export", "quantize"] in taught
    known = [[step.name() for step in recipe.steps] for recipe in search_space(load(classifier), task).recipes(())]
    assert ["export", "quantize"] in known
    assert not any("finetune" in names or "trim" in names for names in known)


def test_too_many_texts_for_an_epoch_train_a_head(encoder: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microbudget.kinds.text_classification.search_space.WORK", 1e5)
    space = search_space(load(encoder), TextTask.open(table, TO_TRAIN))
    assert [step.short() for step in space.teaching()] == ["finetune"]
    (deeper,) = space.teaching(2000)
    assert deeper.short().startswith("finetune(unfreeze='all', deep_epochs=")
    assert [step.short() for step in space.quicker_teaching((deeper,))] == ["finetune"]
    assert space.quicker_teaching(space.teaching()) == ()


def test_without_time_to_train_the_encoder_a_head_is_trained(
    encoder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training finds out that the minutes do not suffice; something is delivered all the same."""

    def no_time(*arguments: object) -> None:
        raise OutOfTime("finetune would take 4 min more, and 1 min is left")

    monkeypatch.setattr("microbudget.kinds.text_classification.finetune._train_network", no_time)
    given = context(table, tmp_path)
    space = search_space(load(encoder), given.task)
    deep = (Finetune(unfreeze="all"),)
    job = Job(space, deep, (Recipe((*deep, Export())),), Budget(), RunOptions(), None, own_recipes=True)
    job, reference = taught(Run(tmp_path / "run"), job, given, Schedule(1.0))
    assert job.first == (Finetune(),)
    assert reference.record.recipe == str(Recipe(job.first))
    assert {recipe.steps[0].name() for recipe in job.recipes} == {"tfidf", "finetune"}
    assert not any(deep[0] in recipe.steps for recipe in job.recipes)
    with pytest.raises(OutOfTime):
        taught(Run(tmp_path / "run"), replace(job, first=deep, own_recipes=False), given, Schedule(1.0))
