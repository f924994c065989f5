"""Quantized GGUF files: byte for byte what llama.cpp's own quantizer writes."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import numpy as np
import pytest

from microbudget.methods.quantize.gguf.mixtures import choose
from microbudget.methods.quantize.gguf.rewrite import ordered, rewrite
from microbudget.methods.quantize.gguf.stock import Facts
from microbudget.runtimes.gguf.file import GgufFile
from microbudget.runtimes.gguf.types import FILE_TYPES
from mixture_cases import write_small

GOLDEN = Path(__file__).with_name("golden") / "quantized.txt"
LINES = [line.split() for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
ROWS = [line for line in LINES if line[2] != "-"]  # the refused ones are in test_gguf_quantize.py


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    return path, write_small(path)


def test_every_type_is_in_the_table() -> None:
    assert {(row[0], row[1]) for row in LINES} == {(name, when) for name in FILE_TYPES for when in ("plain", "imatrix")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_file_is_llama_cpps(row: list[str], small: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    path, importance = small
    weighted = row[1] == "imatrix"
    with GgufFile(path) as file:
        choices = choose(ordered(file), Facts.of(file), row[0], imatrix=weighted)
        made = rewrite(
            file, choices, row[0], tmp_path / "q.gguf", importance=importance if weighted else None, threads=2
        )
    raw = (tmp_path / "q.gguf").read_bytes()
    assert len(raw) == made.size_bytes == int(row[2])
    if platform.machine() in ("x86_64", "AMD64"):  # other processors round some scales differently
        assert hashlib.sha256(raw).hexdigest() == row[3]
