"""The networks, settings and peers of quantize.py, and where its files are."""

from __future__ import annotations

from pathlib import Path

from markdown import ROOT

STORE = ROOT / "runs" / "quantize"
SAMPLES = {"resnet20": 256, "resnet56": 256, "mobilenet_v2": 128, "vit": 256}  # calibration images of a draw
INT8 = ("ours 8", "ours 8 gptq", "ours 8 finer")
PEERS = {
    "onnxruntime": (
        "onnxruntime minmax",
        "onnxruntime minmax reduced",
        "onnxruntime entropy",
        "onnxruntime percentile",
    ),
    "NNCF": ("nncf openvino", "nncf accuracy control", "nncf onnx"),
    "quantize_dynamic": ("quantize_dynamic",),
}
# One repair more in each than in the one before; the last but one is what `auto` does, where it may take its time.
REPAIRS = ("none", "+ scales by least squares", "+ bias correction", "+ error-compensated rounding", "+ equalization")
REPAIRED = {
    8: ("ours 8 none", "ours 8 scales", "ours 8 bias", "ours 8 gptq", "ours 8 equalize"),
    4: ("ours 4 none", "ours 4 scales", "ours 4 bias", "ours 4", "ours 4 equalize"),
}
LOW_BITS = ("ours 4", "nearest 4", "ours 3", "nearest 3", "ours 2", "nearest 2")
# Accuracy control takes minutes, and within its limit gives the file of `nncf openvino`; onnxruntime's entropy gives
# the file of min/max; the others see no images.
ONE_DRAW = (
    "nncf accuracy control",
    "onnxruntime entropy",
    "quantize_dynamic",
    "nearest 4",
    "nearest 3",
    "nearest 2",
    *(setting for settings in REPAIRED.values() for setting in settings if setting not in (*INT8, "ours 4")),
)
SETTINGS = tuple(
    dict.fromkeys(
        (
            *INT8,
            *(setting for settings in PEERS.values() for setting in settings),
            *LOW_BITS,
            *(setting for settings in REPAIRED.values() for setting in settings),
        )
    )
)
AGREEING = 8  # calibration images that three runtimes answer: ONNX's own evaluator takes seconds for each
REFERENCE_OPSET = 19  # the first whose DequantizeLinear ONNX's own evaluator knows
COST_NETWORK, SAMPLE_COUNTS = "mobilenet_v2", (32, 128, 512, 2048)
MANY_COUNTS = ("ours 8 minmax", "ours 8 gptq")  # settings that all of these are measured with
COST_SETTINGS = ("ours 8 minmax", *INT8, "ours 4", *(s for settings in PEERS.values() for s in settings))
TIMED = (
    "float",
    "ours 8 finer",
    "ours 4",
    "onnxruntime minmax",
    "nncf openvino",
    "nncf accuracy control",
    "nncf onnx",
    "quantize_dynamic",
)
BOTH_RUNTIMES = ("float", "ours 8", "nncf onnx")


def result_file(setting: str, network: str, draw: int) -> Path:
    kind = "xml" if setting in ("nncf openvino", "nncf accuracy control") else "onnx"
    return STORE / "files" / network / f"{setting.replace(' ', '_')}.{draw}.{kind}"
