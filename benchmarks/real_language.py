"""SmolLM2-135M as it is: `shrink` against what a person does by hand; part of `benchmarks/real.py`.

    python benchmarks/real_language.py                     everything; can be killed and goes on
    python benchmarks/real_language.py --part hand         export, importance matrix, five levels, perplexity of each
    python benchmarks/real_language.py --part tool         microbudget shrink
    python benchmarks/real_language.py --part tables       print the table

By hand: float16, an importance matrix of 32,000 tokens, five levels, and the perplexity of all six files on the
whole validation text as llama.cpp's tool computes it, in windows of 512 tokens that are judged in their second half.
The steps are this project's own functions, which write the same bytes as llama.cpp's tools and call its library; each
is a command of its own. Needs ../shared/assets and the weights of `../shared/real/make.py smollm2-135m`.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path

from markdown import ROOT, table
from results import Results

STORE = ROOT / "runs" / "real_language"
MODEL = Path.home() / ".cache" / "microbudget-real" / "smollm2-135m"
TEXT = ROOT.parent / "shared" / "assets" / "text" / "wikitext-2" / "valid.txt"
LEVELS = ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K")
PASSAGES = 128  # of the importance matrix: 32,000 tokens
WINDOW = 512  # tokens, judged in their second half
THREADS = 2
DROP, MINUTES = "2%", "15"
NOT_MET = 1  # exit status of `shrink` where nothing is within the limit


def perplexity(path: Path, text: Path, threads: int, most_bytes: int) -> float:
    """As llama.cpp's tool: contiguous windows, each after BOS where the model has it, judged in their second half."""
    from microbudget.runtimes.gguf.llama.network import Network
    from microbudget.runtimes.language.likelihood import nats

    network = Network(path)
    words = network.vocabulary
    first = [words.begin] if words.adds_begin and words.begin is not None else []
    tokens = words.encode(text.read_bytes()[:most_bytes].decode("utf-8", "ignore"))
    size = min(WINDOW, network.trained_context)
    context = network.context(size, threads=threads, rows=size // 2)
    lost, count, step = 0.0, 0, size - len(first)
    for start in range(0, len(tokens) - step, step):
        window = [*first, *tokens[start : start + step]]
        context.rewind()
        logits = context.view(window, size // 2)
        lost += float(nats(logits[:-1], window[size - size // 2 + 1 :]).sum())
        count += size // 2 - 1
    context.close()
    network.close()
    return math.exp(lost / count)


def command(results: Results, name: str, *arguments: str, fine: tuple[int, ...] = (0,)) -> None:
    """Run a command once and keep its seconds and the last line that it printed. fine: exit statuses that count."""
    if results.get(name) is not None:
        return
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode not in fine:
        done.check_returncode()
    lines = done.stdout.splitlines()
    results.put(name, {"s": time.perf_counter() - started, "printed": lines[-1] if lines else ""})


def by_hand(results: Results, model: Path, text: Path, most_bytes: int) -> None:
    """Each step in a process of its own."""
    STORE.mkdir(parents=True, exist_ok=True)
    steps, threads = str(ROOT / "benchmarks" / "language_steps.py"), str(THREADS)
    f16, matrix = STORE / "F16.gguf", STORE / "imatrix.gguf"
    command(results, "hand/export", steps, "convert", str(model), str(f16))
    command(results, "hand/imatrix", steps, "imatrix", str(f16), str(text), str(matrix), str(PASSAGES), threads)
    for level in LEVELS:
        made = STORE / f"{level}.gguf"
        command(results, f"hand/quantize/{level}", steps, "quantize", str(f16), level, str(matrix), str(made), threads)
    for level in ("F16", *LEVELS):
        own = (__file__, "--perplexity", str(STORE / f"{level}.gguf"), "--text", str(text), "--bytes", str(most_bytes))
        command(results, f"hand/perplexity/{level}", *own)


def by_tool(results: Results, model: Path, text: Path) -> None:
    """One command; its choice is in the run's result.json."""
    arguments = ("--data", str(text), "--max-drop", DROP, "--minutes", MINUTES, "--threads", str(THREADS))
    made = ("-m", "microbudget.cli", "shrink", str(model), *arguments, "--out", str(STORE / "run"))
    command(results, "tool/shrink", *made, fine=(0, NOT_MET))


def summary(results: Results) -> str:
    """The table in Markdown; `real.py` puts it on its page."""
    names = ["hand/export", "hand/imatrix", *(f"hand/quantize/{level}" for level in LEVELS)]
    names += [f"hand/perplexity/{level}" for level in ("F16", *LEVELS)]
    found = {name: results.get(name) for name in names}
    total = sum(row["s"] for row in found.values() if row)
    rows = [
        (name.removeprefix("hand/"), f"{row['s']:.0f}", row["printed"] if "perplexity" in name else "")
        for name, row in found.items()
        if row
    ]
    rows.append(("**by hand**", f"**{total:.0f}**", ""))
    read = sum(row["s"] for name, row in found.items() if row and "perplexity" in name)
    part = results.get("text") or {"bytes": 1, "of": 1}
    whole = total + read * (part["of"] / part["bytes"] - 1)
    if part["bytes"] < part["of"]:
        rows.append(("**by hand, the whole text**", f"**{whole:.0f}**", "perplexities in proportion to the bytes"))
    tool = results.get("tool/shrink")
    if tool:
        against = " and ".join(f"{tool['s'] / each:.2f}" for each in sorted({total, whole}))
        rows.append(("**shrink**", f"**{tool['s']:.0f}**", f"{against} of that; goal: 0.5 at most"))
    note = f"Perplexity by hand is that of {part['bytes']:,} of {part['of']:,} bytes; `shrink` may read all of them."
    return f"{table(('step', 'seconds', ''), rows)}\n\n{note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("hand", "tool", "tables"))
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--bytes", type=int, default=1 << 20, help="of the text whose perplexity is computed")
    parser.add_argument("--perplexity", type=Path, help="only print that of a file")
    options = parser.parse_args()
    if options.perplexity:
        print(f"{perplexity(options.perplexity, options.text, THREADS, options.bytes):.3f}")
        return
    results = Results(STORE / "results.json")
    if options.part in (None, "hand"):
        size = options.text.stat().st_size
        results.put("text", {"bytes": min(size, options.bytes), "of": size})
        by_hand(results, options.model, options.text, options.bytes)
    if options.part in (None, "tool"):
        by_tool(results, options.model, options.text)
    print(summary(results))


if __name__ == "__main__":
    main()
