"""Every quantizer of the benchmark, ours and the peers', as one function each; run in a process of its own.

    python benchmarks/quantizers.py '{"setting": ..., "network": FOLDER, "draw": 0, "samples": 128, "out": FILE}'

prints one JSON line: seconds of the call without imports, the process's peak memory and what the quantizer said. All
settings get the same calibration images of a draw, read from disk bit by bit, so the data themselves cost no memory.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 16  # images at once for ours; the peers are fed one by one, as their guides do
VALIDATED = 500  # images with labels that accuracy control validates on, none of them in the calibration set


class Images:
    """Rows of an .npy file in small batches, read again each time: nothing stays in memory."""

    def __init__(self, path: Path, rows: NDArray[np.int64], batch: int = 1) -> None:
        self.path, self.rows, self.batch = path, rows, batch
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            assert version == (1, 0)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            self._start, self._kind = file.tell(), kind
        self._shape = (1, *shape[1:])
        self._bytes = int(np.prod(self._shape)) * kind.itemsize

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        for start in range(0, len(self.rows), self.batch):
            chosen = self.rows[start : start + self.batch]
            yield {"pixel_values": np.concatenate([self.read(int(row)) for row in chosen])}

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch)

    def read(self, row: int) -> NDArray[np.float32]:
        """One image, (1, 3, height, width)."""
        with self.path.open("rb") as file:
            file.seek(self._start + row * self._bytes)
            return np.frombuffer(file.read(self._bytes), self._kind).reshape(self._shape)


@dataclass(frozen=True)
class Job:
    """What a quantizer gets: a float model, a draw of calibration images, and where to write."""

    network: Path
    draw: int
    samples: int
    out: Path

    @property
    def model(self) -> Path:
        return self.network / "model.onnx"

    @property
    def transformer(self) -> bool:
        return self.network.name == "vit"

    def _order(self) -> NDArray[np.int64]:
        pool = len(np.load(self.network / "pool_labels.npy"))
        return np.random.default_rng(self.draw).permutation(pool)

    def calibration(self, batch: int = 1) -> Images:
        """The images of this draw; if more are wanted than there are, they repeat."""
        return Images(self.network / "pool.npy", np.resize(self._order(), self.samples), batch)

    def validation(self) -> tuple[Images, NDArray[np.int64]]:
        """Other images of the pool, with labels."""
        rows = self._order()[self.samples : self.samples + VALIDATED]
        return Images(self.network / "pool.npy", rows), np.load(self.network / "pool_labels.npy")[rows]


Said = str | None
Quantizer = Callable[[Job], Callable[[], Said]]  # imports first, then what is timed


def ours_options(setting: str) -> dict[str, Any]:
    """The options of `quantize_graph` that the method `quantize` chooses for a setting of ours."""
    from microbudget.methods.quantize import Quantize

    method = Quantize(**OURS[setting])
    return {
        "bits": method.bits,
        "activation_bits": 8 if method.activations == "int8" else None,
        "observer": method.observer,
        "corrections": method.chosen_corrections(),
        "keep_float_activations": method.keep_float_activations,
    }


def ours(setting: str) -> Quantizer:
    """What the method `quantize` does with the options of a setting."""

    def prepare(job: Job) -> Callable[[], Said]:
        from microbudget.methods.quantize.quantizing import quantize_graph

        options = ours_options(setting)
        return lambda: "; ".join(quantize_graph(job.model, job.calibration(BATCH), job.out, **options).notes)

    return prepare


class _Reader:
    """What onnxruntime's quantizer reads from."""

    def __init__(self, images: Images) -> None:
        self._batches = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _preprocessed(job: Job, folder: str) -> str:
    """Pre-processed as onnxruntime's guide says; where its symbolic shapes fail, without them."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = str(Path(folder) / "prepared.onnx")
    try:
        quant_pre_process(str(job.model), path)
    except Exception:
        quant_pre_process(str(job.model), path, skip_symbolic_shape=True)
    return path


def onnxruntime_static(method: str, *, reduce_range: bool = False) -> Quantizer:
    """onnxruntime's best recipe: pre-processed, QDQ, U8 activations, S8 weights per channel.

    reduce_range: weights of 7 bits, as its guide says for CPUs without VNNI.
    """

    def prepare(job: Job) -> Callable[[], Said]:
        from onnxruntime import quantization as ort

        def run() -> Said:
            with TemporaryDirectory() as scratch:
                ort.quantize_static(
                    _preprocessed(job, scratch),
                    str(job.out),
                    _Reader(job.calibration()),
                    quant_format=ort.QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=reduce_range,
                    activation_type=ort.QuantType.QUInt8,
                    weight_type=ort.QuantType.QInt8,
                    calibrate_method=getattr(ort.CalibrationMethod, method),
                )
            return None

        return run

    return prepare


def naive_dynamic(job: Job) -> Callable[[], Said]:
    """The one-liner `quantize_dynamic`; where it crashes, again without `value_info`."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    def run() -> Said:
        try:
            quantize_dynamic(str(job.model), str(job.out))
            return None
        except Exception as error:
            proto = onnx.load(str(job.model))
            del proto.graph.value_info[:]
            with TemporaryDirectory() as scratch:
                bare = Path(scratch) / "bare.onnx"
                onnx.save(proto, str(bare))
                quantize_dynamic(str(bare), str(job.out))
            return f"crashed ({type(error).__name__}) until `value_info` was dropped"

    return run


def nncf_onnx(job: Job) -> Callable[[], Said]:
    """NNCF on the ONNX file: its result runs in both runtimes."""
    import nncf
    import onnx

    def run() -> Said:
        onnx.save(nncf.quantize(onnx.load(str(job.model)), nncf.Dataset(job.calibration()), **_nncf(job)), str(job.out))
        return None

    return run


def nncf_openvino(job: Job) -> Callable[[], Said]:
    """NNCF on OpenVINO's own form of the network."""
    import nncf
    import openvino

    def run() -> Said:
        model = openvino.Core().read_model(str(job.model))
        openvino.save_model(nncf.quantize(model, nncf.Dataset(job.calibration()), **_nncf(job)), str(job.out))
        return None

    return run


def nncf_accuracy_control(job: Job) -> Callable[[], Said]:
    """The same with accuracy control: layers go back to float until at most a point is lost on labelled images."""
    import nncf
    import openvino

    def run() -> Said:
        images, labels = job.validation()
        labelled = [(batch, label) for batch, label in zip(images, labels, strict=True)]

        def accuracy(model: Any, data: Any) -> tuple[float, None]:
            right = [int(np.argmax(model(batch)[0]) == label) for batch, label in data]
            return float(np.mean(right)), None

        quantized = nncf.quantize_with_accuracy_control(
            openvino.Core().read_model(str(job.model)),
            calibration_dataset=nncf.Dataset(job.calibration()),
            validation_dataset=nncf.Dataset(labelled),
            validation_fn=accuracy,
            max_drop=0.01,
            **_nncf(job),
        )
        openvino.save_model(quantized, str(job.out))
        return None

    return run


def _nncf(job: Job) -> dict[str, Any]:
    import nncf

    options = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": job.samples}
    return options | ({"model_type": nncf.ModelType.TRANSFORMER} if job.transformer else {})


def round_to_nearest(bits: int) -> Quantizer:
    """Weights of `bits` bits, symmetric, the largest of each output channel on the last level; stored as floats."""

    def prepare(job: Job) -> Callable[[], Said]:
        import onnx

        from anatomy import drop_unused, layers, replace_weight

        def run() -> Said:
            model = onnx.load(str(job.model))
            for layer in layers(model):
                W = layer.weight
                others = tuple(axis for axis in range(W.ndim) if axis != layer.outputs_axis)
                most = 2 ** (bits - 1) - 1
                S = np.abs(W).max(axis=others, keepdims=True) / most
                S[S == 0] = 1
                replace_weight(model, layer, (np.clip(np.rint(W / S), -most - 1, most) * S).astype(np.float32))
            drop_unused(model)
            onnx.save(model, str(job.out))
            return None

        return run

    return prepare


OURS: dict[str, dict[str, Any]] = {  # options of the method
    "ours 8": {},
    "ours 8 gptq": {"corrections": "scales,gptq,bias"},
    "ours 8 finer": {"keep_float_activations": 1},
    "ours 8 minmax": {"observer": "min_max", "corrections": "none"},
    "ours 4": {"bits": 4},
    "ours 3": {"bits": 3},
    "ours 2": {"bits": 2},
    "ours 8 none": {"corrections": "none"},
    "ours 8 scales": {"corrections": "scales"},
    "ours 8 bias": {"corrections": "scales,bias"},
    "ours 8 equalize": {"corrections": "equalize,scales,gptq,bias"},
    "ours 4 none": {"bits": 4, "corrections": "none"},
    "ours 4 scales": {"bits": 4, "corrections": "scales"},
    "ours 4 bias": {"bits": 4, "corrections": "scales,bias"},
    "ours 4 equalize": {"bits": 4, "corrections": "equalize,scales,gptq,bias"},
}
QUANTIZERS: dict[str, Quantizer] = {
    **{setting: ours(setting) for setting in OURS},
    "onnxruntime minmax": onnxruntime_static("MinMax"),
    "onnxruntime minmax reduced": onnxruntime_static("MinMax", reduce_range=True),
    "onnxruntime entropy": onnxruntime_static("Entropy"),
    "onnxruntime percentile": onnxruntime_static("Percentile"),
    "nncf openvino": nncf_openvino,
    "nncf accuracy control": nncf_accuracy_control,
    "nncf onnx": nncf_onnx,
    "quantize_dynamic": naive_dynamic,
    "nearest 4": round_to_nearest(4),
    "nearest 3": round_to_nearest(3),
    "nearest 2": round_to_nearest(2),
}


def main() -> None:
    spec = json.loads(sys.argv[1])
    job = Job(Path(spec["network"]), spec["draw"], spec["samples"], Path(spec["out"]))
    with contextlib.redirect_stdout(sys.stderr):
        began = time.perf_counter()
        run = QUANTIZERS[spec["setting"]](job)
        started = time.perf_counter()
        said = run()
        ended = time.perf_counter()
    from microbudget.machine import memory

    row = {"seconds": ended - started, "import_seconds": started - began, "said": said or ""}
    print(json.dumps(row | {"peak_bytes": memory.read().peak_bytes}))


if __name__ == "__main__":
    main()
