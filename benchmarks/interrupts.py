"""Ctrl-C at random moments of `shrink` on each kind of model: how soon the prompt is back, and that nothing is lost.

    python benchmarks/interrupts.py                         50 moments of each kind, twice in a row at every third
    python benchmarks/interrupts.py --moments 5 --dry       a first look, writes no table

The same command is given again and again, and goes on each time; when a run ends whole a new one begins. SIGINT goes to
the whole process group, as a terminal sends it. Wrong are: no prompt within 5 s, an exit status that is neither 130 nor
that of a run that had just ended, a traceback, and a run folder that `report` cannot read once it has a candidate.
The table goes into docs/results/measuring.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import golden_toys
from markdown import RESULTS, ROOT, provenance, table, write_between

LIMIT_S = 5.0
KINDS = {  # model and data, of golden_toys; what a run of it is given besides
    "photos": ("mobilenet", "photos", ["--max-drop", "90pt"]),
    "language model": ("llama", "text", ["--max-drop", "90%"]),
    "speech": ("whisper", "recordings", ["--max-drop", "90pt"]),
    "texts": ("encoder", "texts", ["--max-drop", "90pt"]),  # of the tests
}
COMMAND = [sys.executable, "-m", "microbudget.cli"]


@dataclass
class Found:
    """What the interrupts of one kind of run have shown."""

    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    ended: int = 0  # runs that were whole before the moment came


def make_texts(toys: Path) -> None:
    """An encoder of the tests, and a table of texts."""
    sys.path.append(str(ROOT / "tests"))
    toy_texts = importlib.import_module("toy_texts")
    (toys / "encoder").mkdir()
    toy_texts.write_encoder(toys / "encoder")
    toy_texts.write_table(toys / "texts" / "rows.csv")


def interrupted(command: list[str], after_s: float, twice: bool, log: Path) -> tuple[float | None, int]:
    """Seconds from Ctrl-C to the prompt, None where the command had ended before; and its exit status."""
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        try:
            return None, process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            pass
        asked = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        if twice:
            time.sleep(0.3)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        try:
            status = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        return time.monotonic() - asked, status


def interrupt_often(name: str, toys: Path, work: Path, moments: int) -> Found:
    """Interrupt runs of one kind at random moments of the time that a whole one takes."""
    model, data, more = KINDS[name]
    out, log, coin, found = work / "run", work / "log", random.Random(name), Found()
    command = [*COMMAND, "shrink", str(toys / model), "--data", str(toys / data), "--out", str(out), *more]
    began = time.monotonic()
    whole = subprocess.run(command, capture_output=True, text=True, check=False)
    if whole.returncode not in (0, 1):
        sys.exit(f"{name}: a run that nothing interrupts ends with {whole.returncode}: {whole.stderr[-600:]}")
    whole_s = time.monotonic() - began
    shutil.rmtree(out, ignore_errors=True)
    while len(found.seconds) < moments:
        place = len(found.seconds)
        seconds, status = interrupted(command, coin.uniform(0.5, max(1.0, whole_s)), place % 3 == 2, log)
        if seconds is None:
            found.ended += 1
            shutil.rmtree(out, ignore_errors=True)
            continue
        found.seconds.append(seconds)
        text = log.read_text(encoding="utf-8")
        if seconds > LIMIT_S:
            found.faults.append(f"{seconds:.1f} s")
        if status not in (130, 0, 1):
            found.faults.append(f"exit status {status}: {text[-300:]}")
        if "Traceback" in text or "Exception ignored" in text:
            found.faults.append(text[-600:])
        if (out / "best").is_dir():
            done = subprocess.run([*COMMAND, "report", str(out)], capture_output=True, text=True, check=False)
            if done.returncode:
                found.faults.append(f"report: {done.stderr[-300:]}")
        print(f"{name} {place + 1}/{moments}: {seconds:.2f} s, status {status}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--kind", choices=tuple(KINDS))
    parser.add_argument("--dry", action="store_true", help="write no table")
    options = parser.parse_args()
    # A shell lets what it starts with & ignore SIGINT, and the runs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows, faults = [], []
    with tempfile.TemporaryDirectory() as folder:
        toys = Path(folder) / "toys"
        golden_toys.make_toys(toys)
        make_texts(toys)
        for name in (options.kind,) if options.kind else KINDS:
            work = Path(folder) / name
            work.mkdir()
            found = interrupt_often(name, toys, work, options.moments)
            faults += [f"{name}: {fault}" for fault in found.faults]
            ordered = sorted(found.seconds)
            rows.append(
                [name, len(ordered), f"{ordered[len(ordered) // 2]:.2f}", f"{ordered[-1]:.2f}", len(found.faults)]
            )
    text = table(("kind", "interrupts", "median, s", "longest, s", "faults"), rows)
    print(text, *faults, sep="\n")
    if not options.dry:
        write_between(RESULTS / "measuring.md", "interrupts", f"{text}\n\n{provenance('interrupts.py')}")


if __name__ == "__main__":
    main()
