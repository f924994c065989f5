"""The small tables of README.md: rows and columns of the tables in docs/results. No number is in the README alone.

python benchmarks/readme.py            writes all of them from docs/results; each benchmark writes its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markdown import ROOT, between, table, write_between


@dataclass(frozen=True)
class Excerpt:
    """Which rows and columns of a page's first table the README shows, by their names."""

    page: str
    marker: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]


EXCERPTS = {
    "images": Excerpt(
        "images.md",
        "images",
        ("size", "2 threads", "speedup, 2 threads", "accuracy", "change"),
        (
            "torch eager, float32, 224 px",
            "ONNX Runtime, float32, 224 px",
            "ONNX Runtime, int8, 224 px",
            "ONNX Runtime, int8, 96 px",
        ),
    ),
    "real": Excerpt(
        "real.md",
        "real",
        ("what ships", "MB", "times smaller", "times as fast", "quality"),
        ("EfficientNet-Lite0", "MiniLM-L6, fine-tuned", "SmolLM2-135M", "whisper-tiny.en"),
    ),
    "speech": Excerpt(
        "speech.md",
        "speech-levers",
        ("size", "memory", "time", "speedup", "wer", "change"),
        (
            "transformers, float32",
            "faster-whisper, int8",
            "window, trim, int8",
        ),
    ),
}


def excerpt(text: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    """The first table of a text, cut to the named rows and columns, and the line that says what wrote it.

    A text without a table (not measured yet) comes back whole.
    """
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    if not lines:
        return text
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    kept = [0, *(head.index(name) for name in columns)]
    found = {line[0]: [line[index] for index in kept] for line in body if len(line) == len(head)}
    source = [line for line in text.splitlines() if line.startswith("Written by `benchmarks/")]
    cut = table([head[index] for index in kept], [found[name] for name in rows if name in found])
    return "\n\n".join([cut, *source[-1:]])


def write(name: str, text: str) -> None:
    """Write the README's table of a kind from the text between its page's markers."""
    spec = EXCERPTS[name]
    write_between(ROOT / "README.md", name, excerpt(text, spec.columns, spec.rows))


def main() -> None:
    for name, spec in EXCERPTS.items():
        write(name, between(ROOT / "docs" / "results" / spec.page, spec.marker))


if __name__ == "__main__":
    main()
