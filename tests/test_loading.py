import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import CONFIG, write_hf_model
from microbudget.errors import LabelsDisagree, ModelNotFound, UnsafeModel, UnsupportedModel
from microbudget.runtimes import open_session
from microbudget.runtimes.labels import for_labels, match_labels
from microbudget.runtimes.loading import load
from microbudget.runtimes.onnx.session import write_metadata


def classifier(shape: tuple[object, ...] = ("batch", 3, 8, 8), inputs: int = 1, classes: int = 3) -> onnx.ModelProto:
    """Mean of each channel, then a linear layer."""
    values = [helper.make_tensor_value_info(f"pixels{i}", TensorProto.FLOAT, list(shape)) for i in range(inputs)]
    weight = np.arange(3 * classes, dtype=np.float32).reshape(classes, 3)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels0"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "W"], ["logits"], transB=1),
    ]
    if inputs > 1:
        nodes.append(helper.make_node("Identity", ["pixels1"], ["other"]))
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "tiny", values, [output], [numpy_helper.from_array(weight, "W")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_a_hugging_face_folder(hf_model: Path) -> None:
    model = load(hf_model)
    assert (model.format, model.labels) == ("hf", ("cat", "dog"))
    assert model.record.preprocessing == CONFIG
    assert model.size_bytes == sum(file.stat().st_size for file in hf_model.iterdir())
    assert load(model) is model


def test_the_newer_processor_file(hf_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(hf_model, folder)
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": CONFIG}), encoding="utf-8")
    assert load(folder).record.preprocessing == CONFIG


def test_a_bare_onnx_file_warns_of_its_preprocessing(tmp_path: Path) -> None:
    onnx.save(classifier(), str(tmp_path / "net.onnx"))
    with pytest.warns(UserWarning, match=r"8 x 8 pixels with ImageNet's mean"):
        model = load(tmp_path / "net.onnx")
    assert model.record.preprocessing is not None
    assert model.record.preprocessing["size"] == {"height": 8, "width": 8}


def test_preprocessing_beside_an_onnx_file_and_inside_it(tmp_path: Path) -> None:
    proto = classifier()
    onnx.save(proto, str(tmp_path / "net.onnx"))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert load(tmp_path / "net.onnx").record.preprocessing == CONFIG
    inside = {**CONFIG, "image_mean": [0.1, 0.2, 0.3]}
    write_metadata(proto, ("a", "ä", "c"), inside)
    onnx.save(proto, str(tmp_path / "net.onnx"))
    model = load(tmp_path / "net.onnx")
    assert model.record.preprocessing == inside
    assert model.labels == ("a", "ä", "c")


def test_an_onnx_file_without_names_takes_the_datas_when_the_counts_agree(tmp_path: Path) -> None:
    onnx.save(classifier(), str(tmp_path / "net.onnx"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(tmp_path / "net.onnx")
    assert for_labels(model, ("x", "y", "z")).labels == ("x", "y", "z")
    assert for_labels(model, ("x", "y")).labels is None


@pytest.mark.parametrize("name", ["no/such/folder", "nobody/such-a-model", "such-a-model", "what is this?"])
def test_a_name_out_of_reach_says_what_would_do(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"folder"):
        load(name)


def test_a_hub_id_offline_names_the_cache_and_the_command() -> None:
    with pytest.raises(ModelNotFound, match=r"(?s)not in the cache .*HF_HUB_OFFLINE.*hf download nobody/model"):
        load("nobody/model")


def test_a_cached_hub_id_loads_offline(hf_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(hf_model, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    import huggingface_hub

    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: original(name, cache_dir=tmp_path, **options)
    )
    assert load("someone/tiny").labels == ("cat", "dog")


def test_pickles_are_never_loaded(hf_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(hf_model, folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(UnsafeModel, match="pickle"):
        load(folder)
    with pytest.raises(UnsafeModel, match="pickle"):
        load(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (classifier(inputs=2), "2 inputs"),
        (classifier(shape=("batch", 1, 8, 8)), r"pixels0 \(float32, any, 1, 8, 8\).*\(batch, H, W, 3\)"),
        (classifier(shape=("batch", 7)), r"\(batch, 3, H, W\)"),
    ],
)
def test_graphs_that_are_no_image_classifier(proto: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    onnx.save(proto, str(tmp_path / "net.onnx"))
    with pytest.raises(UnsupportedModel, match=words):
        load(tmp_path / "net.onnx")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"this is not ONNX at all" * 9)
    with pytest.raises(UnsupportedModel, match="not an ONNX model"):
        load(tmp_path / "net.onnx")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="no model that we know"):
        load(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="holds no model"):
        load(tmp_path / "empty")


def test_a_truncated_onnx_file(tmp_path: Path) -> None:
    data = classifier().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnsupportedModel):
        load(tmp_path / "net.onnx")


def test_external_data_must_be_there_and_inside(tmp_path: Path) -> None:
    onnx.save(
        classifier(), str(tmp_path / "net.onnx"), save_as_external_data=True, location="net.data", size_threshold=0
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert [file.name for file in load(tmp_path / "net.onnx").files] == ["net.onnx", "net.data"]
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelNotFound, match="missing next to it"):
        load(tmp_path / "net.onnx")
    proto = classifier()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UnsupportedModel, match="outside its folder"):
        load(tmp_path / "net.onnx")


def test_a_damaged_config_and_a_damaged_record(hf_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(hf_model, folder)
    (folder / "microbudget.json").write_text('{"version": 1, "colour": 3}', encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="damaged"):
        load(folder)
    (folder / "microbudget.json").unlink()
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        load(folder)


def test_missing_weights_are_an_error_not_random_numbers(hf_model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "gaps"
    shutil.copytree(hf_model, folder)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "conv" in name and name.endswith("weight"))
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match="lacks 1 weights"):
        open_session(load(folder))


def test_a_model_that_sees_and_reads_is_refused_with_a_way_out(tmp_path: Path) -> None:
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(UnsupportedModel, match=r"Gemma3ForConditionalGeneration, which sees .*convert_hf_to_gguf\.py"):
        load(tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=8, vocab_size=30)
    T5ForConditionalGeneration(config).save_pretrained(str(tmp_path))
    message = r"T5ForConditionalGeneration, which no kind knows.*image-classification"
    with pytest.raises(UnsupportedModel, match=message):
        load(tmp_path)


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    model = load(write_hf_model(tmp_path, ("red", "green", "blue")))
    assert match_labels(model, ("blue", "green", "red")) == (2, 1, 0)
    assert match_labels(model, ("green", "red")) == (1, 0)
    twice = model.with_record(labels=("crane", "owl", "crane"))
    assert match_labels(twice, ("crane", "crane", "owl")) == (0, 2, 1)
    with pytest.raises(LabelsDisagree, match=r"such as 'pink'.*finetune"):
        match_labels(model, ("pink", "red"))


def test_a_folder_of_timm_and_a_hole_among_the_labels_are_refused_by_name(hf_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hf_model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    holed = {**config, "id2label": {"0": "cat", "2": "dog"}}
    (folder / "config.json").write_text(json.dumps(holed), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"config\.json: id2label names 2 outputs up to 2, but not output 1"):
        load(folder)
    timm = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": {"mean": [0.5]}}
    (folder / "config.json").write_text(json.dumps(timm), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"is a model of timm \(resnet18\).*export it to ONNX"):
        load(folder)


def test_missing_preprocessing_is_named_before_anything_is_trained(
    hf_model: Path, tmp_path: Path, photos: Path
) -> None:
    from microbudget import measure, run_recipe

    folder = tmp_path / "model"
    shutil.copytree(hf_model, folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UnsupportedModel, match=r"model has no preprocessor_config\.json.*save_pretrained writes it"):
        run_recipe(folder, "finetune()", photos, out=tmp_path / "run")
    with pytest.raises(UnsupportedModel, match=r"model has no preprocessor_config\.json"):
        measure(folder, photos)
