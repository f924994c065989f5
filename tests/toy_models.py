"""Tiny real ONNX models and misbehaving sessions for the judge's tests."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from microbudget.model import Model
from microbudget.runtimes.loading import load

CLASSES = ("ant", "bee", "cat")
SIZE = 8


def linear(path: Path, weights: NDArray, bias: NDArray, labels: tuple[str, ...] | None = CLASSES) -> Model:
    """pixel_values (batch, 3, 8, 8) -> Flatten -> Gemm -> logits (batch, classes)."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("Gemm", ["flat", "W", "b"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights.astype("f"), "W"), numpy_helper.from_array(bias.astype("f"), "b")],
    )
    return save(path, graph, labels)


def save(
    path: Path,
    graph: onnx.GraphProto,
    labels: tuple[str, ...] | None = CLASSES,
    preprocessing: dict | None = None,
) -> Model:
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    from microbudget.runtimes.onnx.session import write_metadata

    write_metadata(proto, labels, preprocessing or {"do_resize": False})
    onnx.save(proto, str(path))
    return load(path)


def parameters(seed: int = 0) -> tuple[NDArray, NDArray]:
    coin = np.random.default_rng(seed)
    return coin.normal(size=(3 * SIZE * SIZE, 3)), coin.normal(size=3)


def random_linear(path: Path, seed: int = 0, **options) -> Model:
    return linear(path, *parameters(seed), **options)


class _Session:
    runtime = "toy 1"

    def __init__(self, do) -> None:
        self._do = do

    def answer(self, inputs):
        return self._do(inputs)

    def close(self) -> None:
        pass


def _identity(inputs):
    return next(iter(inputs.values()))


def polite(model, *, threads=0, runtime=None):
    return _Session(_identity)


def printing(model, *, threads=0, runtime=None):
    print("noise on stdout")
    os.write(1, b"noise on descriptor 1")
    return _Session(_identity)


def killed(model, *, threads=0, runtime=None):
    return _Session(lambda inputs: os.kill(os.getpid(), signal.SIGKILL))


def crashing(model, *, threads=0, runtime=None):
    def crash(inputs):
        print("the last word", file=sys.stderr, flush=True)
        os._exit(7)

    return _Session(crash)


def hanging(model, *, threads=0, runtime=None):
    return _Session(lambda inputs: threading.Event().wait())


def hungry(model, *, threads=0, runtime=None):
    def eat(inputs):
        held = [np.ones(5_000_000) for _ in range(50)]  # 2 GB in steps of 40 MB
        return held[0][:1]

    return _Session(eat)


def failing(model, *, threads=0, runtime=None):
    def fail(inputs):
        raise ValueError("no such thing\nsecond line")

    return _Session(fail)


def exhausted(model, *, threads=0, runtime=None):
    return _Session(lambda inputs: np.ones((1 << 50,)))
