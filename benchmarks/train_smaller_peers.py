"""The peers of train_smaller.py: they start from the same network, learn as long by the same loop, exported alike.

Torch-Pruning removes channels, onnxruntime quantizes. NNCF (since version 3, which removed its filter pruning) sets
single weights to zero and quantizes; its file is timed in OpenVINO, for which it is made, and judged in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prune
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.runtimes.loading import load

EPOCHS = 15
START, SHARE, ZEROS = "resize(pixels=160) > finetune", 0.35, 0.5


@dataclass(frozen=True)
class Peer:
    """A network cut and trained in place of the given one, and what quantizes its export."""

    about: str
    cut: Callable[[Any, Any], Any]  # of a network and an example input
    stripped: Callable[[Any], Any]
    quantize: Callable[[Path, Path, Context, dict[str, Any]], None]  # float file, int8 file
    runtime: str | None = None

    def make(self, given: Model, context: Context, folder: Path, epochs: int = EPOCHS) -> Model:
        """The trained int8 file in the folder, as a Model."""
        import onnx
        import torch

        from microbudget.runtimes.hf.image_classifier import load_network, onnx_bytes
        from microbudget.runtimes.onnx.session import write_metadata

        preprocessing = given.record.preprocessing or {}
        pixels = torch.from_numpy(
            context.task.collate(context.task.examples("train")[:2], preprocessing)["pixel_values"]
        )
        network = self.cut(load_network(given.path), pixels)
        prune.new_statistics(network, context, preprocessing)
        _learn(network, context, preprocessing, epochs)
        network = self.stripped(network)
        folder = folder / (self.runtime or "onnx")
        folder.mkdir(parents=True, exist_ok=True)
        whole, out = folder / "float.onnx", folder / "model.onnx"
        contiguous = network.to(memory_format=torch.contiguous_format)
        onnx.save(onnx.load_from_string(onnx_bytes(contiguous, *pixels.shape[2:])), str(whole))
        self.quantize(whole, out, context, preprocessing)
        whole.unlink()
        proto = onnx.load(str(out))
        write_metadata(proto, context.task.labels, preprocessing)
        onnx.save(proto, str(out))
        return load(folder)


def _learn(network: Any, context: Context, preprocessing: dict[str, Any], epochs: int) -> None:
    """As `distill` trains with fixed views, but from the labels alone."""
    from microbudget.methods.distill import FIXED_VIEWS, Distill
    from microbudget.training import classifiers, objectives
    from microbudget.training.modes import fresh_norms
    from microbudget.training.settings import Execution, Settings
    from microbudget.training.train import train

    as_ours, learning = Distill(), Distill().learning()
    settings = Settings(epochs, learning.learning_rate, as_ours.batch_size, patience=learning.patience)
    objective = objectives.labelled(context.task, preprocessing, views=FIXED_VIEWS)
    train(
        classifiers.for_training(network),
        objective,
        settings,
        Execution(seed=context.seed, threads=context.threads, name="peer", progress=context.progress),
        mode=fresh_norms,
    )
    network.eval()


def _onnxruntime_int8(path: Path, out: Path, context: Context, preprocessing: dict[str, Any]) -> None:
    """As its guide says: pre-processed, QDQ, U8 activations, S8 weights per channel, on training photos."""
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(_calibration(context, preprocessing))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    ort.quantize_static(
        str(prepared),
        str(out),
        Reader(),
        quant_format=ort.QuantFormat.QDQ,
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
    )
    prepared.unlink()


def _calibration(context: Context, preprocessing: dict[str, Any]) -> list[dict[str, Any]]:
    """Training photos, one by one."""
    return [context.task.collate([example], preprocessing) for example in prune.spread(context.task.examples("train"))]


def _nncf_int8(path: Path, out: Path, context: Context, preprocessing: dict[str, Any]) -> None:
    """`nncf.quantize` on the ONNX file, preset MIXED."""
    import nncf
    import onnx

    data = nncf.Dataset(_calibration(context, preprocessing))
    options = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": prune.SAMPLES}
    onnx.save(nncf.quantize(onnx.load(str(path)), data, **options), str(out))


PEERS = {
    "Torch-Pruning, trained, onnxruntime's int8": Peer(
        f"channels by Torch-Pruning down to {SHARE:.0%} of the parameters, int8 without `reduce_range`",
        lambda network, pixels: prune.torch_pruning(network, pixels, SHARE, everywhere=False),
        lambda network: network,
        _onnxruntime_int8,
    ),
    "NNCF, trained, its int8 in OpenVINO": Peer(
        f"{ZEROS:.0%} of the single weights set to zero by NNCF",
        lambda network, pixels: prune.nncf_zeros(network, 1 - ZEROS, pixels),
        prune.nncf_stripped,
        _nncf_int8,
        "openvino",
    ),
}
RUNTIMES = {name: peer.runtime for name, peer in PEERS.items()}
