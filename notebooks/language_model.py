# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A language model at different levels of quantization
#
# The same weights in 16, 8, 4, 3 and 2 bits: what does each level weigh, how fast does it write, and what is lost?

# %%
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from microbudget import load, measure, shrink

models = os.environ.get("MICROBUDGET_MODELS")  # a folder of models; without it the model comes from the hub
model = f"{models}/smollm2-135m" if models else "HuggingFaceTB/SmolLM2-135M-Instruct"
text = Path(os.environ.get("MICROBUDGET_TEXT", "text.txt"))
questions = os.environ.get("MICROBUDGET_QUESTIONS")  # JSON lines with question, choices, answer
minutes = float(os.environ.get("MICROBUDGET_MINUTES", "8"))
work = Path(os.environ.get("MICROBUDGET_WORK", "runs/notebooks"))

# %% [markdown]
# ## Before anything is built
#
# Sizes follow from the shapes. The time of a token is at least the time to read the weights once.


# %%
def microbudget(*arguments):
    """The command line, as in a terminal."""
    command = [sys.executable, "-m", "microbudget.cli", *map(str, arguments)]
    print(subprocess.run(command, capture_output=True, text=True).stdout)


microbudget("fits", model)

# %% [markdown]
# ## Which level keeps the quality
#
# Levels are built by llama.cpp's own blocks, and read your text only until it is decided whether the loss is within
# the limit. The loss is in bits per byte of that text, and as the divergence (KL) from the reference's answers.

# %%
result = shrink(model, text, out=work / "levels", max_drop="2%", minutes=minutes)
result

# %%
levels = pd.DataFrame(
    {
        "recipe": row.short,
        "MB": row.measurement.size_bytes / 1e6,
        "ms a token": 1e3 * row.measurement.latency_s,
        "bits per byte": row.measurement.quality,
        "KL (nats a token)": row.measurement.divergence,
        "tokens read": row.measurement.extra.get("tokens"),
        "verdict": row.verdict.decision if row.verdict else "",
    }
    for row in [result.reference, *result.candidates]
    if row.measurement is not None and row.measurement.latency_s is not None
)
levels.round(4)

# %%
result.plot()

# %% [markdown]
# ## What they write
#
# The same prompt, the most likely token at each place. Numbers do not replace reading.

# %%
prompt = "Explain in one sentence why bread rises."
for name, opened in (("original", load(model)), ("ships", result.best.model)):
    print(f"{name}: {opened.predict(prompt).answer.strip()[:600]}\n")

# %% [markdown]
# ## What they can do
#
# Multiple choice by likelihood, as in lm-evaluation-harness. Chance is one in the number of choices.

# %%
if questions:
    for name, opened in (("original", model), ("ships", result.folder / "best")):
        found = measure(opened, questions)
        low, high = found.quality_low, found.quality_high
        print(f"{name}: {found.quality:.1%} ({low:.1%} to {high:.1%}), {found.examples} questions")

# %% [markdown]
# ## Use it
#
# With an Ollama server on this machine the next line makes the model there; without one it prints how to.

# %%
microbudget("ollama", result.folder, "--name", "smaller")
