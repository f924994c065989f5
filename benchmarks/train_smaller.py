"""Train it smaller: each method alone and together on flowers12, what distillation recovers, and what the loop costs.

    python benchmarks/train_smaller.py --minutes 10         as much as fits; the next call goes on, until all is there
    python benchmarks/train_smaller.py --part overhead      one part (see PARTS), with its minutes on 2 cores
    python benchmarks/train_smaller.py --part recipes --threads 1     quality does not depend on the threads

The models and results stay in runs/train_smaller/; texts and pictures are written by train_smaller_tables.py, from the
rows that are there. The reference is MobileNetV2, finetuned, in torch eager float32, saved in float32. Accuracy is of
the test photos of the splits together; no model has seen its own.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import train_smaller_peers as peers
import train_smaller_tables
from markdown import ROOT
from microbudget.judge import Worker, time_pair
from microbudget.judge.judging import judging_of
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from results import Results
from train_smaller_settings import BATCH, EPOCHS, GRID, ORDERS, PIXELS, RECIPES, REFERENCE, SPLITS, STEPS, narrow

ASSETS, STORE = ROOT.parent / "shared" / "assets", ROOT / "runs" / "train_smaller"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
CUT_AT = "resize(pixels=128) > finetune"  # where recovery is measured: of the student that is cut here
PARTS = ("overhead", "recovery", "curve", "recipes", "peer", "orders", "grid", "latency")
SHORTEST_S = 1.0  # of a training: less was read from a cache


class Bench:
    """The data and the models of one number of threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._contexts: dict[int, Context] = {}

    def context(self, seed: int) -> Context:
        """With the reference as the teacher."""
        if seed not in self._contexts:
            task = ImageTask.open(PHOTOS, DataOptions(seed=seed, cache=STORE / "cache"))
            bare = Context(task, STORE / "cache", seed, threads=self.threads, progress=Progress())
            reference = build(load(MODEL), Recipe.parse(REFERENCE), bare, STORE / "models")[-1]
            self._contexts[seed] = replace(bare, reference=reference)
        return self._contexts[seed]

    def built(self, recipe: str, seed: int) -> Model:
        """Finished steps are not made again."""
        return build(load(MODEL), Recipe.parse(recipe), self.context(seed), STORE / "models")[-1]

    def right(self, model: Model, seed: int) -> list[int]:
        """1 for each test photo that the model answers rightly."""
        task = self.context(seed).task
        examples = task.examples("test")
        return [int(value) for value in task.score(judging_of(task).answers(model, examples), examples).numerator]

    def row(self, model: Model, seed: int) -> dict[str, Any]:
        return {"right": self.right(model, seed), "size_bytes": model.size_bytes, "path": str(model.path)}

    def recipe(self, recipe: str, seed: int) -> dict[str, Any]:
        return self.row(self.built(recipe, seed), seed)

    def overhead(self) -> dict[str, Any]:
        """Seconds of a step of our loop and of a plain torch loop, interleaved: same network, batches, optimizer.

        The network keeps its own 1001 outputs: what is timed does not depend on them.
        """
        import torch

        from microbudget.images.preprocess import Preprocessing
        from microbudget.runtimes.hf.image_classifier import load_network
        from microbudget.training import objectives
        from microbudget.training.classifiers import for_training
        from microbudget.training.settings import Execution, Settings
        from microbudget.training.train import train

        context = self.context(SPLITS[0])
        preprocessing = Preprocessing.parse(load(MODEL).record.preprocessing or {}).resized(PIXELS)
        examples = context.task.examples("train")[: STEPS * BATCH]
        objective = replace(objectives.labelled(context.task, preprocessing, train=examples), validate=None)
        settings = Settings(epochs=1, batch_size=BATCH, learning_rate=1e-4, patience=None)
        networks = [for_training(load_network(MODEL)) for _ in range(2)]

        def plain() -> None:
            network = networks[0]
            network.train()
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
            for batch in np.array_split(np.random.default_rng(0).permutation(len(examples)), STEPS):
                loss = objective.loss(network, objective.batch(batch, 0))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        def ours() -> None:
            train(networks[1], objective, settings, Execution(checkpoint=STORE / "overhead.pt", threads=2))
            (STORE / "overhead.pt").unlink()

        torch.set_num_threads(2)
        turns: list[tuple[float, float]] = []
        for _ in range(6):
            turns.append((_seconds(plain), _seconds(ours)))
        pairs = turns[1:]  # the first is for warming up
        ratios = [after / before for before, after in pairs]
        return {
            "plain_step_s": statistics.median(before for before, _ in pairs) / STEPS,
            "ours_step_s": statistics.median(after for _, after in pairs) / STEPS,
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }

    def recovery(self, seed: int) -> dict[str, Any]:
        """Test answers of the teacher, of the uncut model, of the student just cut, and of it trained with and without.

        The seconds are of one distillation with nothing in its caches but the decoded photos' originals.
        """
        uncut, context = self.built(CUT_AT, seed), self.context(seed)
        separate = STORE / "separate"
        shutil.rmtree(separate, ignore_errors=True)
        fresh = replace(
            context,
            task=ImageTask.open(PHOTOS, DataOptions(seed=seed, cache=separate / "cache")),
            cache=separate / "cache",
        )

        def step(text: str) -> Model:
            return build_step(uncut, Recipe.parse(text).steps[0], fresh, separate / "models")

        started = time.monotonic()
        distilled = step(narrow(0.5))
        seconds = time.monotonic() - started
        if seconds < SHORTEST_S:
            raise SystemExit(f"recovery: the distillation took {seconds:.2f} s: it was not made, but found")
        labels_alone = step(
            f"distill(width=0.5, views=4, epochs={EPOCHS}, hard=1.0)"
        )  # the same steps, and no weight for teaching
        just_cut = step("distill(width=0.5, epochs=0)")
        history = distilled.record.history["distill"]
        row = {
            "reference": self.right(context.reference or uncut, seed),
            "uncut": self.right(uncut, seed),
            "cut": self.right(just_cut, seed),
            "distilled": self.right(distilled, seed),
            "without_teacher": self.right(labels_alone, seed),
            "uncut_bytes": uncut.size_bytes,
            "distilled_bytes": distilled.size_bytes,
            "seconds": seconds,
            **{name: history[name] for name in ("teacher_passes", "photos", "views")},
        }
        shutil.rmtree(separate, ignore_errors=True)
        return row

    def curve(self, seed: int) -> dict[str, Any]:
        """With and without the teacher at several shares of the labels, on validation; of one split."""
        made = self.built(f"{CUT_AT} > distill(width=0.5, views=4, epochs={EPOCHS}, curve=True)", seed)
        return {"curve": made.record.history["distill"]["with_and_without"]}

    def peer(self, name: str, seed: int) -> dict[str, Any]:
        """One of the peers, see train_smaller_peers.py."""
        given, context = self.built(peers.START, seed), self.context(seed)
        return self.row(peers.PEERS[name].make(given, context, STORE / "peer" / str(seed)), seed)

    def latency(self, path: str, runtime: str | None) -> dict[str, Any]:
        """In turns with the reference in torch eager, 2 threads, one photo; runtime: another than its format's."""
        context = self.context(SPLITS[0])
        reference, model = context.reference, load(path)
        assert reference is not None
        task, examples = context.task, context.task.examples("test")
        with Worker() as first, Worker() as second:
            first.open(reference, threads=2)
            second.open(model, threads=2, runtime=runtime)
            timing = time_pair(
                first,
                second,
                *(judging_of(task).timing_input(each, examples) for each in (reference, model)),
                seconds=8,
            )
        return {
            "reference_s": timing.reference.median_s,
            "latency_s": timing.candidate.median_s,
            "speedup": timing.ratio,
            "low": timing.low,
            "high": timing.high,
        }


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


Job = tuple[str, str, Callable[[], Any]]  # part, key of its row, what makes it


def jobs(splits: Sequence[int], bench: Bench) -> list[Job]:
    """Everything but the timing: recipes, recovery and peer on all splits, the rest on the first."""
    first = splits[0]
    found: list[Job] = [("overhead", "overhead", bench.overhead)]
    for split in splits:
        found += [
            ("recovery", f"recovery {split}", partial(bench.recovery, split)),
            *recipes("recipes", [REFERENCE, *RECIPES.values()], split, bench),
            *(("peer", f"recipe {name} {split}", partial(bench.peer, name, split)) for name in peers.PEERS),
        ]
    found += [("curve", "curve", partial(bench.curve, first))]
    found += recipes("grid", [text for texts in GRID.values() for text in texts], first, bench)
    return found + recipes("orders", list(ORDERS.values()), first, bench)


def recipes(part: str, texts: list[str], seed: int, bench: Bench) -> list[Job]:
    return [(part, f"recipe {text} {seed}", partial(bench.recipe, text, seed)) for text in dict.fromkeys(texts)]


def timings(rows: dict[str, Any], first: int, bench: Bench) -> list[Job]:
    """Of all models of the first split that are there."""
    paths = {
        key.removeprefix("recipe ").removesuffix(f" {first}"): row["path"]
        for key, row in rows.items()
        if key.startswith("recipe ") and key.endswith(f" {first}")
    }
    return [
        ("latency", f"latency {text}", partial(bench.latency, path, peers.RUNTIMES.get(text)))
        for text, path in paths.items()
        if text != REFERENCE
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="all", choices=("all", *PARTS, "tables"))
    parser.add_argument("--splits", type=int, nargs="+", default=SPLITS)
    parser.add_argument("--threads", type=int, default=2, help="of what is not timed")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--again", action="store_true", help="make rows again that stand")
    options = parser.parse_args()
    results, bench = Results(STORE / "results.json"), Bench(options.threads)
    deadline = time.monotonic() + options.minutes * 60
    for made in (jobs(options.splits, bench), None):
        for part, key, make in timings(results.rows, options.splits[0], bench) if made is None else made:
            if options.part not in ("all", part) or (key in results.rows and not options.again):
                continue
            if time.monotonic() > deadline:
                print(f"time is up before {key}: the same call goes on", file=sys.stderr)
                break
            results.put(key, make())
    train_smaller_tables.write(results.rows, options.splits)


if __name__ == "__main__":
    main()
