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
# # Which method gives what
#
# Transfer learning, a smaller input, pruning, distillation and fewer bits: each alone on the same network and photos,
# and some together. Every row is measured against the same reference, in the same run.

# %%
import os
from pathlib import Path

from microbudget import read_run, run_recipe

models = os.environ.get("MICROBUDGET_MODELS")  # a folder of models; without it the model comes from the hub
model = f"{models}/mobilenet_v2" if models else "google/mobilenet_v2_1.0_224"
photos = os.environ.get("MICROBUDGET_PHOTOS", "photos")
minutes = float(os.environ.get("MICROBUDGET_MINUTES", "4"))
pixels = int(os.environ.get("MICROBUDGET_PIXELS", "160"))  # of the smaller input
out = Path(os.environ.get("MICROBUDGET_WORK", "runs/notebooks")) / "methods"

recipes = {
    "transfer learning": "finetune > export",
    "smaller input": f"resize(pixels={pixels}) > finetune > export",
    "pruning": "finetune > prune(size='0.7x') > export",
    "8 bits": "finetune > export > quantize",
    "4 bits": "finetune > export > quantize(bits=4)",
    "smaller input, 8 bits": f"resize(pixels={pixels}) > finetune > export > quantize",
}

# %% [markdown]
# The first recipe makes the reference: the network, taught the classes of the photos, in float32.

# %%
for recipe in recipes.values():
    run_recipe(model, recipe, photos, out=out, minutes=minutes)
result = read_run(out)
result

# %%
table = result.to_pandas()
table["MB"] = table["size_bytes"] / 1e6
table["ms"] = table["latency_s"] * 1e3
table[["recipe", "MB", "ms", "speedup", "quality", "change", "decision"]].round(3)

# %%
result.plot()

# %% [markdown]
# ## How sure
#
# The change of quality of each row with its 95 % interval. A few hundred photos show large losses, and not small ones.

# %%
from microbudget.judge.figures import Estimate, intervals

rows = [
    Estimate(row.short, 100 * row.verdict.change, 100 * row.verdict.change_low, 100 * row.verdict.change_high)
    for row in result.candidates
    if row.verdict is not None
]
intervals([("change of accuracy (points)", rows, 0.0)])
