"""How much of the runtime's raw rate is left when a text is judged: llama.cpp alone against our session.

    python benchmarks/reading.py MODEL.gguf TEXT [PASSAGES] [THREADS]

Both read the same passages in turns, in one process. `decode` is `llama_decode` alone, with the logits that are judged;
`prefill` computes one row of logits, as llama.cpp's own benchmark does; `session` is all that judging a passage takes:
tokens, decoding and cross entropies. Rates are in tokens per second of processor time, so that other work on the
machine counts less, and of the clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from markdown import table
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.runtimes.gguf.llama.network import Context, Network
from microbudget.runtimes.gguf.session import GgufReader
from microbudget.runtimes.language.session import LanguageSession
from microbudget.task import DataOptions


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of processor time, and of the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def decode(context: Context, tokens: list[int], rows: int) -> None:
    """llama.cpp alone."""
    context.rewind()
    context.feed(tokens, rows)


def main(path: Path, text: Path, passages: int, threads: int) -> None:
    """Print the table."""
    task = TextTask.open(text, DataOptions(splits=False), most={"test": passages})
    network = Network(path)
    context = network.context(task.context, threads=threads, rows=task.context)
    session = LanguageSession(GgufReader(path, threads))
    spent = {name: [0.0, 0.0] for name in ("decode", "prefill", "session")}
    count = 0
    for number, example in enumerate(task.examples("test")):
        inputs = task.collate([example], {})
        words = network.vocabulary
        whole, begin = task.text(example).encode(), int(inputs["begin"][0])
        lead, rest = (words.encode(part.decode()) for part in (whole[:begin], whole[begin:]))
        tokens, rows = [*lead, *rest][: task.context], len(rest)
        works = {
            "decode": partial(decode, context, tokens[:-1], min(rows, len(tokens) - 1)),
            "prefill": partial(decode, context, tokens[:-1], 1),
            "session": partial(session.answer, inputs),
        }
        for name in list(works)[:: 1 if number % 2 else -1]:
            processor, clock = timed(works[name])
            if number:  # the first one warms up
                spent[name][0] += processor
                spent[name][1] += clock
        count += len(tokens) if number else 0
    rates = {name: [threads * count / seconds[0], count / seconds[1]] for name, seconds in spent.items()}
    lines = [
        (name, f"{rate[0]:.0f}", f"{rate[1]:.0f}", f"{rate[0] / rates['decode'][0]:.0%}")
        for name, rate in rates.items()
    ]
    print(f"{path.name}, {count} tokens in {passages - 1} passages, {threads} threads\n")
    print(table(("what", f"tokens/s of {threads} processors", "tokens/s by the clock", "of decode"), lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(value) for value in (*sys.argv[3:], "9", "1")[:2]))
