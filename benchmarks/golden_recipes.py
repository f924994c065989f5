"""Whether the bytes of built models stay the same while the code moves.

    python golden_recipes.py write --src TREE/src OUT.json [--only PATTERN] [--data FOLDER] [--jobs 2] [--update]
    python golden_recipes.py compare A.json B.json [--only PATTERN]

`write` builds fifty tiny models by `microbudget run` of the tree, through every method and every kind of model, and
records the hash of every file: of RUN/best, and of every step of the recipe in RUN/models. Run it with the Python that
has the tree's dependencies. PATTERN is a shell pattern of case names, such as 'speech*'; --update keeps the other cases
of OUT.json. `compare` prints a line for each case, with the places where records differ, and exits with 1 where the
bytes of any differ.

The toy models and data lie in --data (by default runs/golden of the checkout), are made on the first use and kept:
give the same folder for A and B, on the same machine. Of microbudget only `microbudget.cli.main` is imported, so that
everything else can move.

Most cases do not ship: with a limit of 1 MB of memory the measurement, which takes most of a run's time, stops as soon
as the model is built. Left out: cards, reports, predict.py, and in microbudget.json the names of run and machine. Every
case is a fork of a process that has imported torch and transformers already.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from golden_cases import Case, cases
from golden_toys import make_toys

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
PRELOADED = ("numpy", "scipy.stats", "PIL.Image", "onnx", "onnxruntime", "torch", "transformers", "peft",
             "transformers.models.auto.modeling_auto", "microbudget.cli")  # fmt: skip
ALARM_S = 900
UNSHIPPED = ("--max-memory", "1MB")
LEFT_OUT = {"README.md", "predict.py", "report.html", "microbudget.json"}
TEXTS = {".json", ".txt", ".jinja", ""}  # files that may name the run's folder: it is replaced before they are hashed
VOLATILE = {"source", "versions", "fingerprint", "reference"}  # of a record
MEASURED = re.compile(r"(^|_)(seconds|duration|latency|energy|memory)(_|$)")
DEFAULT_DATA = Path(__file__).parents[1] / "runs" / "golden"


class Driver:
    """A process that has imported what takes long, and forks for every command."""

    def __init__(self, src: Path, data: Path, scratch: Path) -> None:
        own = {"PYTHONPATH": str(src), "MICROBUDGET_CACHE": str(scratch / "cache")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "drive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT, **own},
            cwd=data,
            text=True,
        )
        found = Path(self._ask(None)).resolve()
        if not found.is_relative_to(src.resolve()):
            raise SystemExit(f"microbudget is imported from {found}, not from {src}")

    def run(self, arguments: list[str], log: Path) -> int:
        """The exit status of `microbudget ARGUMENTS`, in the folder of the toys."""
        return int(self._ask({"arguments": arguments, "log": str(log)}))

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, command: dict[str, Any] | None) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if command is not None:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise SystemExit("the process that runs the commands has ended")
        return answer


def drive() -> None:
    """The other side of a Driver: print where microbudget lies, then run one command a line."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    print(importlib.import_module("microbudget").__file__, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            _perform(command["arguments"], command["log"])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _perform(arguments: list[str], log: str) -> None:
    """In the fork: the command, with all that it says in a file."""
    status = 70
    signal.alarm(ALARM_S)
    with Path(log).open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        sys.argv = ["microbudget", *arguments]
        status = importlib.import_module("microbudget.cli").main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_case(case: Case, driver: Driver, data: Path, scratch: Path) -> dict[str, Any]:
    """Build it; returns its entry in OUT.json. "failure" is there where not every step was built."""
    out, log = scratch / case.name, scratch / f"{case.name}.log"
    options = ["--data", case.data, "--out", str(out), "--threads", "1", "--seed", "0", "--json", "--quiet", "--keep"]
    status = driver.run(["run", case.model, case.recipe, *options, *_hurry(case)], log)
    places = {str(out): "RUN", str(data): "DATA"}
    built = dict(sorted(_built(out / "models")))
    files, last = {}, max(built, default="")
    for label, folder in {**built, **({"best": out / "best"} if (out / "best").is_dir() else {})}.items():
        files |= {f"{label}/{name}": digest for name, digest in _hashes(folder, places)}
    row: dict[str, Any] = {"recipe": case.recipe, "status": status, "files": files}
    record = _read(built[last]) if last else {}
    row["fingerprint"] = record.get("fingerprint")
    row["record"] = _normal({name: value for name, value in record.items() if name not in VOLATILE}, places)
    complete = last.startswith(f"{case.recipe.count(' > ') + 1} ") and (not case.ships or (out / "best").is_dir())
    if not complete or status not in (0, 1):
        row["failure"] = log.read_text(encoding="utf-8", errors="replace")[-600:]
    return row


def _hurry(case: Case) -> tuple[str, ...]:
    """Options that let the run end soon after the model is built."""
    if case.ships:
        return ()
    return (*UNSHIPPED, "--prompts", "prompts.txt") if case.data in ("text", "chats.jsonl") else UNSHIPPED


def _built(models: Path) -> Iterator[tuple[str, Path]]:
    """The folders of steps by their place in the recipe and their name, such as "2 export"."""
    for folder in models.iterdir() if models.is_dir() else ():
        steps = str(_read(folder).get("recipe", "")).split(" > ")
        yield f"{len(steps)} {steps[-1].partition('(')[0]}", folder


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "microbudget.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _hashes(folder: Path, places: dict[str, str]) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in LEFT_OUT:
            content = path.read_bytes()
            if path.suffix in TEXTS:
                for place, name in places.items():
                    content = content.replace(place.encode(), name.encode())
            yield path.relative_to(folder).as_posix(), hashlib.sha256(content).hexdigest()


def _normal(value: Any, places: dict[str, str]) -> Any:
    """Without what is measured, and without the names of folders."""
    if isinstance(value, dict):
        return {key: _normal(each, places) for key, each in value.items() if not MEASURED.search(key)}
    if isinstance(value, list):
        return [_normal(each, places) for each in value]
    if isinstance(value, str):
        for place, name in places.items():
            value = value.replace(place, name)
    return value


def make_gguf(driver: Driver, data: Path, scratch: Path) -> None:
    """The llama as a GGUF file in float32; this toy alone is made by the tree."""
    if not (data / "gguf").exists():
        case = Case("toy", "llama", "text", "export(format='gguf', dtype='float32')")
        row = run_case(case, driver, data, scratch)
        if "failure" in row:
            raise SystemExit(row["failure"])
        (data / ".gguf").mkdir(exist_ok=True)
        shutil.copyfile(next(scratch.glob("toy/models/*/model.gguf")), data / ".gguf" / "llama.gguf")
        (data / ".gguf").rename(data / "gguf")


def write(src: Path, out: Path, data: Path, only: str, jobs: int, table: dict[str, Any]) -> int:
    """Run the cases and write them into the table; 1 where one of them did not build."""
    make_toys(data)
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        scratch = Path(folder)
        drivers = [Driver(src, data, scratch) for _ in range(jobs)]
        free: Queue[Driver] = Queue()
        for driver in drivers:
            free.put(driver)
        chosen = [case for case in cases() if fnmatch.fnmatch(case.name, only)]
        if any(case.model.startswith("gguf/") for case in chosen):
            make_gguf(drivers[0], data, scratch)

        def run(case: Case) -> tuple[str, dict[str, Any]]:
            driver, started = free.get(), time.monotonic()
            row = run_case(case, driver, data, scratch)
            free.put(driver)
            shutil.rmtree(scratch / case.name, ignore_errors=True)
            result = f"FAILED: {row['failure']}" if "failure" in row else f"{len(row['files'])} files"
            print(f"{time.monotonic() - started:5.1f} s  {case.name}: status {row['status']}, {result}", flush=True)
            return case.name, row

        with ThreadPoolExecutor(jobs) as pool:
            made = dict(pool.map(run, chosen))
        for driver in drivers:
            driver.close()
    table = {**table, **made}
    out.write_text(json.dumps(table, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    failed = [name for name, row in table.items() if "failure" in row]
    print(f"{len(made)} cases built, {len(table)} in {out}, {len(failed)} failed")
    return 1 if failed else 0


# Comparing.


def compare(a: Path, b: Path, only: str) -> int:
    """A line for each case; 1 where the bytes of any differ, or where one of the files lacks it.

    Records may differ in names and sentences: where they do is printed, and is no difference of bytes.
    """
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in (a, b)]
    names = [name for name in sorted({*tables[0], *tables[1]}) if fnmatch.fnmatch(name, only)]
    different = 0
    for name in names:
        first, second = (table.get(name) for table in tables)
        if first is None or second is None:
            result, places = [f"only in {(b if first is None else a).name}"], []
        else:
            result, places = (
                list(_differences(first, second)),
                list(_places(first["record"], second["record"], "record")),
            )
        different += bool(result)
        more = f"; {len(places) - 5} more" if len(places) > 5 else ""
        record = f"  ({'; '.join(places[:5])}{more})" if places else ""
        print(f"{'DIFFERS' if result else 'same bytes'} {name}{': ' if result else ''}{'; '.join(result)}{record}")
    print(f"{len(names)} cases, the bytes of {different} differ")
    return 1 if different or not names else 0


def _differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    for name in ("recipe", "status"):
        if a[name] != b[name]:
            yield f"{name} {a[name]!r} and {b[name]!r}"
    if "failure" in a or "failure" in b:
        yield "not built"
    for name in sorted({*a["files"], *b["files"]}):
        if a["files"].get(name) != b["files"].get(name):
            yield name if name in a["files"] and name in b["files"] else f"{name} (in one alone)"


def _places(a: Any, b: Any, at: str) -> Iterator[str]:
    """Where two records differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            if key in a and key in b:
                yield from _places(a[key], b[key], f"{at}.{key}")
            else:
                yield f"{at}.{key} (in one alone)"
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from _places(*pair, f"{at}[{index}]")
    elif a != b:
        yield at


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("write", help="build the models of a tree and note their hashes")
    verb.add_argument("out", type=Path, metavar="OUT.json")
    verb.add_argument("--src", type=Path, required=True, help="the tree's src folder")
    verb.add_argument("--only", default="*", metavar="PATTERN")
    verb.add_argument("--data", type=Path, default=DEFAULT_DATA, help=f"folder of the toys (default {DEFAULT_DATA})")
    verb.add_argument("--jobs", type=int, default=1, help="cases at a time, of one thread each (default 1)")
    verb.add_argument("--update", action="store_true", help="keep the other cases that stand in OUT.json")
    verb = verbs.add_parser("compare", help="list the cases that differ")
    verb.add_argument("a", type=Path, metavar="A.json")
    verb.add_argument("b", type=Path, metavar="B.json")
    verb.add_argument("--only", default="*", metavar="PATTERN")
    verbs.add_parser("drive", help="not for you: what `write` starts")
    chosen = parser.parse_args()
    if chosen.verb == "drive":
        drive()
        return 0
    if chosen.verb == "compare":
        return compare(chosen.a, chosen.b, chosen.only)
    os.environ.update(ENVIRONMENT)
    known = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.update and chosen.out.is_file() else {}
    places = (chosen.src.resolve(), chosen.out.resolve(), chosen.data.resolve())
    return write(*places, chosen.only, chosen.jobs, known)


if __name__ == "__main__":
    sys.exit(main())
