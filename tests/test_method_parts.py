"""What a method does for a kind of model is a file in the kind's folder: a new kind edits no method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from microbudget import kinds
from microbudget.errors import InvalidOption, MissingExtra, UnsupportedModel
from microbudget.kind import having
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.methods.export import Export
from microbudget.methods.finetune import Finetune
from microbudget.methods.lora import Lora
from microbudget.methods.prune import Prune
from microbudget.methods.resize import Resize
from microbudget.model import Model, Record

FILES = {
    "__init__.py": "",
    "teaching.py": 'INSTEAD = "a recipe of sentences is made shorter by hand"',
    "finetune.py": """
from dataclasses import replace

OPTIONS = ("head", "epochs")
ADVICE = "sentences have one view"

def apply(step, model, context, out):
    (out / "model").write_text(f"{step.epochs} epochs")
    return replace(model.record.with_seen(["a"]).with_report("finetune", {"epochs": step.epochs}), task="made-up")
""",
    "distill.py": """
def extra_inputs(step, context):
    return {"teacher": "a large one"}
""",
    "prune.py": "import no_such_library",
    "export.py": """
FORMAT, WHAT = "onnx", "a made-up model"

def apply(step, model, context, out):
    return model.record.with_report("export", {"format": step.format})
""",
}


@dataclass
class Task:
    kind: str = "made-up"
    fingerprint: str = "made-up"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    folder = tmp_path / "kinds" / "made_up"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(folder.parent)])
    return Context(Task(), tmp_path)  # type: ignore[arg-type]


def model(folder: Path, **record: Any) -> Model:
    return Model(folder, "hf", Record(**record))


def test_the_kinds_own_part_does_the_work(context: Context, tmp_path: Path) -> None:
    record = Finetune(epochs=3).apply(model(tmp_path, task="made-up", seen=("b",)), context, tmp_path)
    assert (tmp_path / "model").read_text() == "3 epochs"
    assert record == Record("made-up", seen=("a", "b"), history={"finetune": {"epochs": 3}})
    assert "made-up" in having("finetune")


def test_what_else_decides_the_result_is_named_by_the_part(context: Context) -> None:
    assert Distill().extra_inputs(context) == {"teacher": "a large one"}


def test_a_method_without_a_part_names_the_kind_those_it_supports_and_what_to_use(
    context: Context, tmp_path: Path
) -> None:
    instead = "a recipe of sentences is made shorter by hand"
    for method in (Lora(), Resize()):
        name, supported = method.name(), ", ".join(having(method.name()))
        assert supported
        with pytest.raises(UnsupportedModel) as caught:
            method.apply(model(tmp_path, task="made-up"), context, tmp_path)
        refusal = f"{name} does not support made-up, which this model is for, but {supported}: {instead}"
        assert str(caught.value) == refusal
    with pytest.raises(
        UnsupportedModel, match=r"does not support transcription, which this model is for, but .*distill"
    ):
        Resize().apply(model(tmp_path, task="transcription"), context, tmp_path)


def test_an_option_that_the_kind_does_not_read_is_refused_with_those_who_do(context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="finetune: views is for image-classification; sentences have one view"):
        Finetune(views=2).apply(model(tmp_path, task="made-up"), context, tmp_path)


def test_a_library_that_is_not_there_is_named(context: Context, tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"prune needs no_such_library for made-up: .*microbudget\[train\]"):
        Prune().apply(model(tmp_path, task="made-up"), context, tmp_path)


def test_a_kind_is_exported_to_its_own_format(context: Context, tmp_path: Path) -> None:
    assert Export().apply(model(tmp_path, task="made-up"), context, tmp_path).history == {"export": {"format": "onnx"}}
    with pytest.raises(InvalidOption, match="a made-up model is exported with format='onnx', not 'gguf'"):
        Export(format="gguf").apply(model(tmp_path, task="made-up"), context, tmp_path)
