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
# # A faster Whisper
#
# Whisper listens to 30 seconds whatever you say, and knows 50,000 pieces of words. A shorter window, a smaller
# vocabulary, fewer decoder layers and 8 bits make it faster. See, and hear, what is lost.

# %%
import os
from difflib import SequenceMatcher
from html import escape
from pathlib import Path

from IPython.display import HTML, Audio, display

from microbudget import load, run_recipe, shrink

models = os.environ.get("MICROBUDGET_MODELS")  # a folder of models; without it the model comes from the hub
model = f"{models}/whisper-tiny.en" if models else "openai/whisper-tiny.en"
recordings = Path(
    os.environ.get("MICROBUDGET_RECORDINGS", "recordings")
)  # with a metadata.csv: file_name,transcription
minutes = float(os.environ.get("MICROBUDGET_MINUTES", "10"))
seconds = int(os.environ.get("MICROBUDGET_SECONDS", "12"))  # of a shorter window
work = Path(os.environ.get("MICROBUDGET_WORK", "runs/notebooks"))

# %% [markdown]
# ## The smallest within a point of word errors

# %%
result = shrink(model, recordings, out=work / "whisper", max_drop="1pt", minutes=minutes)
result

# %%
result.plot()

# %% [markdown]
# ## Both transcripts
#
# Words that differ are marked. The player has the recording.


# %%
def marked(left, right):
    """The words of `right`, those that differ from `left` in bold."""
    before, after = left.split(), right.split()
    parts = []
    for kind, _, _, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        words = escape(" ".join(after[start:end]))
        parts.append(words if kind == "equal" else f"<b style='color:#b3261e'>{words or '(left out)'}</b>")
    return " ".join(parts)


names = sorted(path for path in recordings.rglob("*.*") if path.suffix in (".flac", ".wav"))[:2]
original = load(model).predict(names)
smaller = result.best.predict(names)
for name, one, other in zip(names, original, smaller, strict=True):
    display(Audio(filename=str(name)))
    display(HTML(f"original: {escape(one.answer)}<br>ships: {marked(one.answer, other.answer)}"))

# %% [markdown]
# ## One window for all, or one for each recording
#
# Most of a recording's window is silence. `window(seconds=...)` cuts it for good; `window(seconds='each')` takes what
# the recording needs, and is among the rows above. These join them, against the same reference.

# %%
for recipe in (f"window(seconds={seconds}) > export(format='ct2', type='int8')", "export(format='ct2', type='int8')"):
    result = run_recipe(model, recipe, recordings, out=work / "whisper", minutes=minutes / 2)
result.to_pandas()[["recipe", "size_bytes", "latency_s", "speedup", "quality", "change", "decision"]].round(4)

# %% [markdown]
# ## Distillation: fewer decoder layers
#
# A student with half of the decoder learns what the original writes. That takes recordings, but no transcripts. How
# many there are decides: a few minutes of audio do not teach a decoder to write English.
# A run of its own: here most recordings are learnt from, where above none had to be.

# %%
distilled = run_recipe(
    model,
    "distill(decoder_layers=2) > export(format='ct2', type='int8')",
    recordings,
    out=work / "distilled",
    max_drop="1pt",
    minutes=minutes,
)
print(distilled)
