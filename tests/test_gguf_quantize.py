"""quantize for GGUF files: importance matrix, patterns, ledger, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from microbudget.errors import BadData, DiskFull, InvalidOption, InvalidRecipe, ModelNotFound, UnsupportedModel
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.machine import files
from microbudget.methods import Context
from microbudget.methods.quantize.gguf import convergence
from microbudget.methods.quantize.gguf.quantizing import GgufOptions, quantize_gguf, stored_hash
from microbudget.methods.quantize.gguf.rewrite import as_float
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.runtimes.gguf import convert as convert_gguf
from microbudget.runtimes.gguf import importance, inputs
from microbudget.runtimes.gguf.file import GgufFile
from microbudget.runtimes.gguf.llama import quantizing
from microbudget.runtimes.gguf.llama.network import Network
from microbudget.runtimes.gguf.types import TYPES
from microbudget.runtimes.loading import load
from toy_language_models import TEXT, train_byte_level, write_network


@pytest.fixture(scope="session")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose rows take K types, as GGUF in float16."""
    folder = tmp_path_factory.mktemp("f16")
    train_byte_level(folder / "hf")
    write_network(folder / "hf", "llama", hidden_size=256, intermediate_size=256, num_attention_heads=4)
    (folder / "gguf").mkdir()
    convert_gguf.plan(folder / "hf", "float16").write(folder / "gguf" / "model.gguf")
    return folder / "gguf"


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextTask:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(TEXT * 40), encoding="utf-8")
    return TextTask.open(path, context=128, stride=256)


class Said(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    detail = say


def context(task: TextTask, tmp_path: Path, progress: Progress | None = None) -> Context:
    return Context(task, tmp_path / "cache", threads=2, progress=progress or Said())


def weights(path: Path, name: str) -> np.ndarray:
    with GgufFile(path) as file:
        tensor = file.tensors[name]
        return as_float(file.read(tensor), tensor)


def test_the_importance_matrix_lowers_the_error_where_the_inputs_are_large(
    f16: Path, text: TextTask, tmp_path: Path
) -> None:
    made = {}
    for imatrix in (False, True):
        out = tmp_path / str(imatrix)
        out.mkdir()
        record = quantize_gguf(load(f16), GgufOptions("Q2_K", imatrix), context(text, tmp_path), out)
        made[imatrix] = record
    assert made[True].history["quantize"]["imatrix"] == "training text"
    assert made[False].history["quantize"]["imatrix"] is None
    assert made[False].seen == ()
    assert len(made[True].seen) >= 5  # what it was calibrated with is no longer unseen
    (stored,) = (tmp_path / "cache").iterdir()
    matrix = importance.load(stored)
    name = "blk.0.ffn_up.weight"
    exact = weights(f16 / "model.gguf", name)
    errors = {
        imatrix: float(((weights(tmp_path / str(imatrix) / "model.gguf", name) - exact) ** 2 @ matrix[name]).sum())
        for imatrix in (False, True)
    }
    assert errors[True] < 0.97 * errors[False]


def test_reading_stops_when_more_would_not_change_the_rounding(
    f16: Path, text: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is what the model has seen, also where the matrix is there already."""
    monkeypatch.setattr(convergence, "FIRST_LOOK", 32)
    printed, records = [], []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        said = Said()
        records.append(quantize_gguf(load(f16), GgufOptions("Q2_K"), context(text, tmp_path, said), tmp_path / name))
        printed.append(" ".join(said.lines))
    assert "more would not change it" in printed[0]
    assert "imatrix " not in printed[1]
    assert records[0].seen == records[1].seen
    assert 0 < len(records[0].seen) < len(text.examples("train"))


def test_the_loss_of_too_little_text_is_that_of_the_definition(f16: Path) -> None:
    """Two texts with other inputs: the rounding of one, weighted by both, is worse than that of both."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 256)).astype(np.float32)
    sums = inputs.Sums()
    asked = convergence.Convergence({"w": rows})
    scale = rng.lognormal(0, 2, 256)
    sums.add("w", (rng.normal(size=(3000, 256)) * scale).astype(np.float32))
    sums.tokens = 1000
    assert not asked(sums)  # before the first look
    assert asked.tokens == 0
    sums.tokens = 3000
    assert not asked(sums)
    assert (asked.tokens, asked.loses) == (3000, None)
    first = sums.means()["w"]
    sums.add("w", (rng.normal(size=(3000, 256)) * scale[::-1]).astype(np.float32))
    sums.tokens = 6000
    assert not asked(sums)
    both = sums.means()["w"]

    def error(importance: np.ndarray) -> float:
        rounded = quantizing.dequantize(quantizing.quantize(rows, TYPES["Q2_K"].id, importance), TYPES["Q2_K"].id, 256)
        return float((((rounded - rows).astype(np.float64) ** 2) * both).sum())

    assert asked.loses == pytest.approx(error(first) / error(both) - 1, rel=1e-6)
    assert asked.loses > convergence.LOSES
    sums.add("w", np.sqrt(np.tile(both, (6000, 1))))  # nothing new
    sums.tokens = 12000
    assert asked(sums)
    assert asked.loses == pytest.approx(0, abs=1e-4)


def test_a_stored_matrix_gives_the_same_file_and_decides_the_hash(f16: Path, text: TextTask, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    quantize_gguf(load(f16), GgufOptions("Q3_K_S"), context(text, tmp_path), tmp_path / "a")
    (stored,) = (tmp_path / "cache").iterdir()
    options = GgufOptions("Q3_K_S", str(stored))
    record = quantize_gguf(load(f16), options, context(text, tmp_path / "other"), tmp_path / "b")
    assert (tmp_path / "a" / "model.gguf").read_bytes() == (tmp_path / "b" / "model.gguf").read_bytes()
    assert record.seen == ()
    assert len(stored_hash(str(stored))["imatrix"]) == 64
    assert stored_hash(True) == {}
    with pytest.raises(BadData, match="there is no importance matrix"):
        stored_hash("nowhere.gguf")


def test_the_result_opens_in_llama_cpp_and_tells_its_costs(f16: Path, text: TextTask, tmp_path: Path) -> None:
    options = GgufOptions("q4_k_m", tensors=r"blk\.0\.attn_v = Q8_0, ffn_gate=Q5_K")
    record = quantize_gguf(load(f16), options, context(text, tmp_path), tmp_path)
    report = record.history["quantize"]
    with GgufFile(tmp_path / "model.gguf") as file:
        kinds = {name: tensor.type.name for name, tensor in file.tensors.items()}
        assert file.get("general.file_type") == 15
        stored = sum(tensor.size_bytes for tensor in file.tensors.values())
        parameters = sum(tensor.parameters for tensor in file.tensors.values())
    assert kinds["blk.0.attn_v.weight"] == "Q8_0"
    assert kinds["blk.1.attn_v.weight"] == "Q6_K"  # as the mixture has it in the last layers
    assert {kinds[f"blk.{layer}.ffn_gate.weight"] for layer in (0, 1)} == {"Q5_K"}
    assert report["size_bytes"] == (tmp_path / "model.gguf").stat().st_size
    assert sum(report["bytes_by_type"].values()) == stored
    assert report["bits_per_weight"] == pytest.approx(8 * stored / parameters)
    assert report["fallbacks"] == []
    network = Network(tmp_path / "model.gguf")
    run = network.context(32, threads=1, rows=1)
    assert np.isfinite(run.process([1, 2, 3], 1)).all()
    run.close()
    network.close()


def test_fallbacks_are_in_the_ledger(text: TextTask, tmp_path: Path) -> None:
    train_byte_level(tmp_path / "hf")
    write_network(tmp_path / "hf", "llama")  # rows of 64 and 96 values
    path = tmp_path / "small.gguf"
    convert_gguf.plan(tmp_path / "hf", "float32").write(path)
    said = Said()
    (tmp_path / "out").mkdir()
    record = quantize_gguf(load(path), GgufOptions("Q4_K_M"), context(text, tmp_path, said), tmp_path / "out")
    report = record.history["quantize"]
    first = {row["tensor"]: row for row in report["fallbacks"]}["blk.0.attn_q.weight"]
    assert first == {
        "tensor": "blk.0.attn_q.weight", "columns": 64, "wanted": "Q4_K", "type": "Q5_0",
        "extra_bytes": 64 * 64 * (22 / 32 - 144 / 256),
    }  # fmt: skip
    assert report["fallback_bytes"] == sum(row["extra_bytes"] for row in report["fallbacks"])
    assert any(
        "rows that are no multiple of their type's block" in line and "Q5_0 in place of Q4_K" in line
        for line in said.lines
    )


def test_quantizing_twice_is_warned_of(f16: Path, text: TextTask, tmp_path: Path) -> None:
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    quantize_gguf(load(f16), GgufOptions("Q8_0"), context(text, tmp_path), tmp_path / "once")
    assert not (tmp_path / "cache").exists()  # Q8_0 takes no importance matrix, so none was computed
    said = Said()
    model = load(tmp_path / "once" / "model.gguf")
    quantize_gguf(model, GgufOptions("Q4_0", imatrix=False), context(text, tmp_path, said), tmp_path / "twice")
    assert any("quantized already (Q8_0)" in line for line in said.lines)
    name = "blk.0.ffn_up.weight"
    exact, twice = weights(f16 / "model.gguf", name), weights(tmp_path / "twice" / "model.gguf", name)
    assert np.abs(twice - exact).max() < 0.15 * np.abs(exact).max()


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ2_XXS", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"])
def test_a_type_that_needs_a_matrix_is_refused_without_one(
    kind: str, f16: Path, text: TextTask, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match=f"{kind} needs an importance matrix .* leave imatrix=True"):
        quantize_gguf(load(f16), GgufOptions(kind, imatrix=False), context(text, tmp_path), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_bad_input(f16: Path, text: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, good = load(f16), context(text, tmp_path)
    with pytest.raises(InvalidOption, match="there is no type 'Q4_K_XL'; there are F32, "):
        quantize_gguf(model, GgufOptions("Q4_K_XL"), good, tmp_path)
    with pytest.raises(InvalidOption, match="is not of the form pattern=TYPE"):
        quantize_gguf(model, GgufOptions(tensors="attn_v"), good, tmp_path)
    with pytest.raises(ModelNotFound):
        quantize_gguf(model, GgufOptions(imatrix=str(tmp_path / "none.gguf")), good, tmp_path)
    with pytest.raises(UnsupportedModel, match="no importance matrix"):
        quantize_gguf(model, GgufOptions(imatrix=str(f16 / "model.gguf")), good, tmp_path)
    importance.save(tmp_path / "other.gguf", {"blk.0.attn_q.weight": np.ones(128, np.float32)}, 10)
    with pytest.raises(UnsupportedModel, match="computed for another model"):
        quantize_gguf(model, GgufOptions(imatrix=str(tmp_path / "other.gguf")), good, tmp_path)
    importance.save(tmp_path / "part.gguf", {"blk.0.attn_q.weight": np.ones(256, np.float32)}, 10)
    with pytest.raises(UnsupportedModel, match=r"has no values for blk.0.attn_k.weight, which IQ2_XS needs"):
        quantize_gguf(model, GgufOptions("IQ2_XS", imatrix=str(tmp_path / "part.gguf")), good, tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFull, match=r"the model takes .* but .* has 1.00 kB left"):
        quantize_gguf(model, GgufOptions(), good, tmp_path)


def test_a_stored_matrix_is_of_this_model_or_named(f16: Path, text: TextTask, tmp_path: Path) -> None:
    """One of another model, or of a part of it, was used without a word."""
    with GgufFile(f16 / "model.gguf") as file:
        sizes = {name: tensor.columns for name, tensor in file.tensors.items() if name.startswith("blk.")}
    matrices = {name: np.ones(size, np.float32) for name, size in sizes.items() if "norm" not in name}

    def quantized(kind: str, **changed: object) -> list[str]:
        importance.save(tmp_path / "stored.gguf", {**matrices, **changed}, 10)  # type: ignore[dict-item]
        said = Said()
        quantize_gguf(
            load(f16), GgufOptions(kind, str(tmp_path / "stored.gguf")), context(text, tmp_path, said), tmp_path
        )
        return [line for line in said.lines if "importance" in line]

    assert quantized("Q4_K_M") == []
    with pytest.raises(UnsupportedModel, match=r"has 1 tensors that the model does not have, such as blk\.77\.attn_q"):
        quantized("Q4_K_M", **{"blk.77.attn_q.weight": np.ones(256, np.float32)})
    matrices = {name: values for name, values in matrices.items() if not name.startswith("blk.0.ffn")}
    (warning,) = quantized("Q4_K_M")
    for name in ("lacks 3 of", "blk.0.ffn_down.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"):
        assert name in warning
    with pytest.raises(UnsupportedModel, match=r"no values for blk\.0\.ffn_.*, which IQ2_XS needs, nor for 2 others"):
        quantized("IQ2_XS")
    matrices = {"output.weight": np.ones(256, np.float32)}
    with pytest.raises(UnsupportedModel, match=r"covers no layer of the model|that the model does not have"):
        quantized("Q4_K_M")


def test_no_training_text_is_said(f16: Path, tmp_path: Path) -> None:
    class Photos:
        kind = "image-classification"

        def examples(self, split: str) -> list[object]:
            return [object()]

    with pytest.raises(BadData, match="needs training text"):
        quantize_gguf(load(f16), GgufOptions(), Context(Photos(), tmp_path), tmp_path)  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_refused(f16: Path, text: TextTask, tmp_path: Path) -> None:
    raw = bytearray((f16 / "model.gguf").read_bytes())
    with GgufFile(f16 / "model.gguf") as file:
        place = file.data_start + file.tensors["blk.1.ffn_up.weight"].offset
    raw[place : place + 2] = np.array([np.nan], np.float16).tobytes()
    (tmp_path / "nan.gguf").write_bytes(raw)
    with pytest.raises(UnsupportedModel, match=r"blk.1.ffn_up.weight has weights that are not finite"):
        quantize_gguf(load(tmp_path / "nan.gguf"), GgufOptions("Q4_0", False), context(text, tmp_path), tmp_path)


def test_a_model_is_read_only(f16: Path, text: TextTask, tmp_path: Path) -> None:
    before = (f16 / "model.gguf").read_bytes()
    model: Model = load(f16)
    quantize_gguf(model, GgufOptions("Q4_0", False), context(text, tmp_path), tmp_path)
    assert (f16 / "model.gguf").read_bytes() == before


def test_the_method_takes_gguf_files(f16: Path, text: TextTask, tmp_path: Path) -> None:
    from microbudget.recipes.build import build
    from microbudget.recipes.recipe import Recipe

    recipe = Recipe.parse("quantize(type='Q4_0', imatrix=False)")
    assert recipe.short() == "quantize(type='Q4_0', imatrix=False)"
    assert Recipe.parse(str(recipe)) == recipe
    (made,) = build(load(f16), recipe, context(text, tmp_path), tmp_path / "models")
    assert made.format == "gguf"
    assert made.record.history["quantize"]["type"] == "Q4_0"
    (again,) = build(
        load(f16), Recipe.parse("quantize(bits=4, imatrix=False)"), context(text, tmp_path), tmp_path / "m"
    )
    assert again.record.history["quantize"]["type"] == "Q4_K_M"


@pytest.mark.parametrize(
    "option",
    [
        "activations='float'",
        "observer='min_max'",
        "corrections='none'",
        "keep_float_activations=2",
        "size='1 MB'",
        "max_kl=0.1",
    ],
)
def test_options_of_the_other_format_are_refused(option: str) -> None:
    from microbudget.recipes.recipe import Recipe

    recipe = Recipe.parse(f"quantize({option})")
    assert recipe.formats("onnx") == ("onnx",)
    with pytest.raises(InvalidRecipe, match=f"{option.partition('=')[0]}=.* is for ONNX files, but it gets gguf"):
        recipe.formats("gguf")


@pytest.mark.parametrize("option", ["type='Q8_0'", "imatrix=False", "tensors='attn_v=Q8_0'"])
def test_options_of_gguf_are_refused_for_onnx(option: str) -> None:
    from microbudget.recipes.recipe import Recipe

    recipe = Recipe.parse(f"quantize({option})")
    assert recipe.formats("gguf") == ("gguf",)
    with pytest.raises(InvalidRecipe, match="is for GGUF files, but it gets onnx"):
        recipe.formats("onnx")


def test_a_stored_matrix_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while it is written leaves none that looks like one."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        importance.save(tmp_path / "imatrix.gguf", {"blk.0.attn_q.weight": np.ones(256, np.float32)}, 10)
    assert not (tmp_path / "imatrix.gguf").exists()


def test_a_type_is_for_gguf_files() -> None:
    from microbudget.recipes.recipe import Recipe

    with pytest.raises(InvalidRecipe, match="type='Q4_K_M' is for GGUF files, but it gets onnx"):
        Recipe.parse("quantize(type='Q4_K_M')").formats("onnx")
    with pytest.raises(InvalidOption, match="type must be one of 'F32', "):
        Recipe.parse("quantize(type='Q4_K_XL')")
    assert Recipe.parse("export(format='gguf') > quantize(type='Q4_K_M')").formats("hf") == ("gguf", "gguf")
