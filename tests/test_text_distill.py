"""distill of text classification into a smaller encoder: students, teachers, and what is reported of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from microbudget.data.kept_rows import KeptRows
from microbudget.errors import InvalidOption, LabelsDisagree, OutOfTime, UnsupportedModel
from microbudget.judge.budget import Budget
from microbudget.kinds.text_classification import student, teaching
from microbudget.kinds.text_classification.data import TextTask
from microbudget.kinds.text_classification.teacher import Lesson, answers_to
from microbudget.methods.distill import Distill
from microbudget.methods.distill.cutting import spread
from microbudget.methods.finetune import Finetune
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.hf.text_classifier import load_network
from microbudget.runtimes.loading import load
from microbudget.search.space import Pace, search_space
from toy_texts import (
    ROWS,
    answers,
    bert_config,
    built,
    context,
    rows,
    write_classifier,
    write_encoder,
    write_table,
    write_tokenizer,
)

pytestmark = pytest.mark.usefixtures("without_plots")
DEEP = 4  # layers of the teacher
LABELS = ("neg", "pos")


def write_deep(folder: Path) -> Path:
    return write_classifier(folder, num_hidden_layers=DEEP)


@pytest.fixture
def encoder(made_once) -> Path:
    return made_once("text-encoder", write_encoder)


@pytest.fixture
def classifier(made_once) -> Path:
    return made_once("text-classifier-deep", write_deep)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "t.csv")


def test_evenly_spaced_layers_begin_the_student(classifier: Path) -> None:
    assert spread(6, 3) == [0, 2, 5]
    assert spread(4, 1) == [0]
    model = load(classifier)
    whole, cut = load_network(classifier), student.student_of(Distill(depth=0.5), model, LABELS, 0).network
    assert cut.config.num_hidden_layers == 2
    layers = cut.bert.encoder.layer
    for place, source in ((0, 0), (1, DEEP - 1)):
        for ours, theirs in zip(layers[place].parameters(), whole.bert.encoder.layer[source].parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(cut.classifier.weight, whole.classifier.weight)


def test_a_narrower_student_keeps_the_leading_heads(classifier: Path) -> None:
    whole = load_network(classifier)
    cut = student.student_of(Distill(width=0.5), load(classifier), LABELS, 0).network
    assert (cut.config.num_attention_heads, cut.config.hidden_size, cut.config.intermediate_size) == (1, 8, 16)
    theirs = whole.bert.encoder.layer[0].attention.self.query.weight
    assert torch.equal(cut.bert.encoder.layer[0].attention.self.query.weight, theirs[:8, :8])


def test_a_shallow_student_learns_what_its_teacher_answers(encoder: Path, tmp_path: Path) -> None:
    """Texts without a label take part."""
    folder = tmp_path / "data"
    write_table(folder / "train.csv", 100)
    texts = [text for text, _ in rows(60, seed=3)]
    (folder / "unlabelled.csv").write_text("text,label\n" + "".join(f"{text},\n" for text in texts), encoding="utf-8")
    given = context(folder, tmp_path)
    taught = Finetune(unfreeze="all", deep_epochs=6, deep_rate=0.05)
    teacher = built(taught, load(encoder), given, tmp_path / "taught")
    step = Distill(depth=0.5, epochs=8, learning_rate=0.05, hard=0.0)
    made = built(step, teacher, replace(given, reference=teacher), tmp_path / "student")
    report = made.record.history["distill"]
    assert report["layers"] == 1
    assert report["unlabelled"] == len(given.task.examples("unlabelled")) > 40
    assert report["teacher_answers"] == report["texts"]
    assert made.size_bytes < 0.95 * teacher.size_bytes
    held_out = given.task.examples("validation")
    validation = [given.task.text_of(each)[0] for each in held_out]  # type: ignore[attr-defined]
    theirs, ours = answers(teacher, validation).argmax(1), answers(made, validation).argmax(1)
    assert report["agreement_with_teacher"] == pytest.approx((theirs == ours).mean())
    truth = np.array([each.label for each in held_out])
    assert report["accuracy_of_teacher"] == pytest.approx((theirs == truth).mean())
    assert report["validation"]["accuracy"] == pytest.approx((ours == truth).mean())
    assert report["agreement_with_teacher"] > 0.8
    assert {each.key for each in given.task.examples("unlabelled")} <= set(made.record.seen)


def test_an_encoder_learns_from_a_named_teacher(encoder: Path, classifier: Path, table: Path, tmp_path: Path) -> None:
    step = Distill(teacher=str(classifier), epochs=1)
    given = context(table, tmp_path)
    made = built(step, load(encoder), given, tmp_path / "out")
    assert made.labels == LABELS
    assert step.extra_inputs(given) == {"teacher": load(classifier).fingerprint}
    assert {path.name for path in made.files} >= {"modules.json", "tokenizer.json", "model.safetensors"}
    narrow = built(replace(step, width=0.5), load(encoder), given, tmp_path / "narrow")
    assert narrow.size_bytes < 0.7 * made.size_bytes
    assert answers(narrow, ["a good film"]).shape == (1, 2)
    with pytest.raises(InvalidOption, match=r"no teacher: the model is an encoder without a head.*finetune\(\)"):
        Distill(depth=0.5).apply(load(encoder), given, tmp_path)
    with pytest.raises(UnsupportedModel, match="an encoder without a head of classes: finetune it first"):
        Distill(teacher=str(encoder)).apply(load(classifier), given, tmp_path)


@pytest.mark.parametrize("options", [{"depth": 0.5}, {"student": "static", "dimensions": 4}])
def test_what_a_teacher_is_worth(
    options: dict[str, Any], classifier: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without it, as many steps, with fewer and fewer labels."""
    monkeypatch.setattr("microbudget.methods.distill.worth.FRACTIONS", (1.0, 0.1))
    given = replace(context(table, tmp_path), reference=load(classifier))
    made = built(Distill(**options, epochs=1, curve=True), load(classifier), given, tmp_path / "out")
    report = made.record.history["distill"]["with_and_without"]
    assert [row["labels_share"] for row in report] == [1.0, 0.1]
    for row in report:
        assert row["gain_by_teacher"] == row["quality_with_teacher"] - row["quality_without_teacher"]
    lesson = Lesson.of(load(classifier), given)
    few, alone = (lesson.part(0.1, 0, taught=taught) for taught in (True, False))
    assert len(few.examples) == len(alone.examples) == len(lesson.examples)
    assert len({each.key for each in alone.examples}) == (few.labels >= 0).sum() < 0.15 * (lesson.labels >= 0).sum()
    assert {each.label for each in alone.examples} == {0, 1}
    assert alone.answers is None


def test_named_students(encoder: Path, classifier: Path, table: Path, tmp_path: Path) -> None:
    given = replace(context(table, tmp_path), reference=load(classifier))
    folder = Distill(student=str(encoder), epochs=0)
    made = built(folder, load(classifier), given, tmp_path / "folder")
    before, after = load_network(encoder).state_dict(), load_network(made.path).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    alone = tmp_path / "alone"
    alone.mkdir()
    bert_config(num_hidden_layers=1, max_position_embeddings=16).save_pretrained(str(alone))
    step = Distill(student=str(alone / "config.json"), epochs=0)
    first = built(step, load(classifier), given, tmp_path / "first")
    again = built(step, load(classifier), given, tmp_path / "again")
    assert first.record.preprocessing == {**(load(classifier).record.preprocessing or {}), "max_length": 16}
    assert len(answers(first, ["good " * 40])) == 1
    for file in first.files:
        assert file.read_bytes() == (again.path / first.name_of(file)).read_bytes()
    known = step.extra_inputs(given)["student"]
    (alone / "tokenizer.json").write_bytes((classifier / "tokenizer.json").read_bytes())
    assert step.extra_inputs(given)["student"] != known
    bert_config(vocab_size=50).save_pretrained(str(alone))
    with pytest.raises(InvalidOption, match=r"a vocab_size of 50, and its tokenizer .* has 1,100 tokens"):
        step.apply(load(classifier), given, tmp_path)
    (alone / "config.json").write_text('{"model_type": "resnet"}', encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"config\.json is of a resnet, which is no encoder of texts"):
        step.apply(load(classifier), given, tmp_path)
    with pytest.raises(InvalidOption, match="a named student is taken as it is"):
        replace(folder, depth=0.5).apply(load(classifier), given, tmp_path)
    with pytest.raises(InvalidOption, match="dimensions are those of student='static'"):
        Distill(depth=0.5, dimensions=8).apply(load(classifier), given, tmp_path)


@pytest.mark.parametrize(
    "name", ["DistilBert", "Electra", "Deberta", "DebertaV2", "MPNet", "Roberta", "ModernBert", "Albert"]
)
def test_encoders_are_cut_by_their_own_configurations(name: str) -> None:
    """Half the layers, and where the matrices are not fused half the heads, whatever the settings are called."""
    import transformers

    from microbudget.methods.distill.cutting import check_cut, inherit, smaller_config

    config = getattr(transformers, f"{name}Config")(vocab_size=40, pad_token_id=1)
    shape = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "embedding_size": 32}
    for key, value in shape.items():
        if key != "embedding_size" or hasattr(config, key):
            setattr(config, key, value)
    setattr(config, "hidden_dim" if name == "DistilBert" else "intermediate_size", 48)
    if hasattr(config, "layer_types"):
        config.layer_types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    auto = getattr(transformers, f"{name}Model")
    whole = auto(config)
    width = 1.0 if name == "ModernBert" else 0.5
    check_cut(whole, 0.5, width)
    cut = auto(smaller_config(config, 0.5, width)).eval()
    inherited = inherit(cut, whole)
    assert set(inherited) == set(cut.state_dict())
    assert cut.config.num_hidden_layers == 2
    states = cut(input_ids=torch.tensor([[2, 5, 6, 3]])).last_hidden_state
    assert states.shape == (1, 4, int(32 * width))


def test_fused_matrices_are_not_narrowed(tmp_path: Path) -> None:
    from transformers import ModernBertConfig, ModernBertModel

    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    ModernBertModel(ModernBertConfig(vocab_size=ROWS, **shape, **tokens)).save_pretrained(str(tmp_path))
    write_tokenizer(tmp_path)
    model = load(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"the matrices of modernbert are fused.*use depth"):
        student.student_of(Distill(width=0.5), model, LABELS, 0)
    assert student.student_of(Distill(depth=0.5), model, LABELS, 0).describe()["layers"] == 1


def test_answers_are_kept_batch_by_batch(
    classifier: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, model = context(table, tmp_path), load(classifier)
    monkeypatch.setattr(teaching, "ANSWERED_AT_ONCE", 16)
    asked: list[int] = []

    class Killed(Exception):
        pass

    def counting(session: Any, texts: Any, known: Any) -> Any:
        for batch in teaching.answer_batches(session, texts, known):
            yield batch
            asked.append(len(batch))
            if len(asked) == 2:
                raise Killed

    train = given.task.examples("train")
    module = "microbudget.kinds.text_classification.teacher.answer_batches"
    with monkeypatch.context() as patched:
        patched.setattr(module, counting)
        with pytest.raises(Killed):
            answers_to(model, train, given)
        found = answers_to(model, train, given)
    assert asked[:2] == [16, 16]
    assert sum(asked) == len(train)
    texts = [given.task.text_of(each)[0] for each in train]  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, answers(model, texts), atol=1e-5)
    with monkeypatch.context() as patched:
        patched.setattr(module, lambda *_: pytest.fail("all answers are known"))
        np.testing.assert_array_equal(answers_to(model, train[:9], given), found[:9])
    late = replace(given, deadline=-1.0, cache=tmp_path / "other")
    with pytest.raises(OutOfTime, match="asking the teacher"):
        Lesson.of(model, late)


def test_parts_are_kept_as_they_come(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)

    def compute(places: list[int]) -> Any:
        yield np.array([[place] for place in places[:2]])
        raise ValueError

    with pytest.raises(ValueError):
        kept.complete_in_parts(["a", "b", "c"], compute)
    assert kept.known(["b", "a"])
    rest = kept.complete(["c", "a"], lambda places: np.array([[7] for _ in places]))
    np.testing.assert_array_equal(rest, [[7], [0]])


def test_teachers_that_cannot_teach(classifier: Path, table: Path, tmp_path: Path) -> None:
    given = context(table, tmp_path)
    with pytest.raises(LabelsDisagree, match="the teacher cannot teach these classes"):
        Lesson.of(load(classifier).with_record(labels=("x", "y")), given)
    nameless = write_classifier(tmp_path / "three", ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert load(nameless).labels is None
    with pytest.raises(LabelsDisagree, match="the teacher has 3 outputs, the data have 2 labels"):
        Lesson.of(load(nameless), given)


def test_pruned_zeros_stay_zero(classifier: Path, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "zeros"
    network = load_network(classifier)
    name = f"bert.encoder.layer.{DEEP - 1}.output.dense.weight"
    with torch.no_grad():
        network.get_parameter(name)[:3] = 0.0
    network.save_pretrained(str(folder))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((classifier / file).read_bytes())
    model = load(folder).with_record(state={"zeros": [name]})
    made = built(Distill(depth=0.5, epochs=3, learning_rate=0.05), model, context(table, tmp_path), tmp_path / "out")
    (kept,) = made.record.state["zeros"]
    assert kept == "bert.encoder.layer.1.output.dense.weight"
    weight = load_network(made.path).get_parameter(kept)
    assert not weight[:3].any()
    assert not torch.equal(weight[3:], network.get_parameter(name)[3:])
    assert json.loads((made.path / "config.json").read_text())["num_hidden_layers"] == 2


def test_shrink_tries_smaller_encoders_where_there_is_time(classifier: Path, encoder: Path, table: Path) -> None:
    task = TextTask.open(table)

    def tried(model: Path, minutes: float | None) -> list[str]:
        space = search_space(load(model), task, Budget(minutes=minutes))
        first = () if model == classifier else space.teaching(minutes)
        return [recipe.short() for recipe in space.recipes(first)]

    assert tried(classifier, None)[-2:] == [  # few texts are seen more often
        "prune(sparsity=0.4) > distill > export > quantize",
        "distill(depth=0.5) > export > quantize",
    ]
    assert not [text for text in tried(classifier, 1e-6) if "depth" in text or "prune" in text]
    assert not [text for text in tried(encoder, None) if "depth" in text or "prune" in text]  # of two layers


def test_smaller_encoders_are_trimmed_too(table: Path, tmp_path: Path) -> None:
    encoder = load(write_encoder(tmp_path / "m", num_hidden_layers=DEEP))
    space = search_space(encoder, TextTask.open(table), Budget(minutes=20.0))
    shown = [[step.name() for step in recipe.steps] for recipe in space.recipes(space.teaching(20.0))]
    assert shown[-4:] == [
        ["finetune", "prune", "distill", "export", "quantize"],
        ["finetune", "prune", "distill", "trim", "export", "quantize"],
        ["finetune", "distill", "export", "quantize"],
        ["finetune", "distill", "trim", "export", "quantize"],
    ]
    assert not [text for text in map(str, space.recipes((Finetune(),))) if "depth=0.5" in text]  # a head alone
    pace = Pace(example_s=0.01, open_s=1.0, parameters=1, calibration=100)
    half, longer = (space.build_s(Recipe((Distill(depth=0.5, epochs=epochs),)), pace) for epochs in (10, 20))
    assert longer - half == pytest.approx(0.01 * 100 * 15)
