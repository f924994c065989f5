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
# # A flower classifier by transfer learning
#
# A network that was trained on ImageNet learns a dozen kinds of flowers from a few hundred photos, in minutes on a
# laptop, and then becomes a quarter of its size. You need a folder with a folder of photos for each kind.

# %%
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from microbudget import shrink

models = os.environ.get("MICROBUDGET_MODELS")  # a folder of models; without it the model comes from the hub
model = f"{models}/mobilenet_v2" if models else "google/mobilenet_v2_1.0_224"
photos = Path(os.environ.get("MICROBUDGET_PHOTOS", "photos"))
minutes = float(os.environ.get("MICROBUDGET_MINUTES", "6"))
work = Path(os.environ.get("MICROBUDGET_WORK", "runs/notebooks"))

# %% [markdown]
# Three photos of every kind are put aside before anything else. No step sees them: they are for us.

# %%
shutil.rmtree(work / "flowers", ignore_errors=True)
learn, aside, chance = work / "flowers" / "learn", work / "flowers" / "aside", random.Random(0)
for kind in sorted(path for path in photos.iterdir() if path.is_dir()):
    files = sorted(file for file in kind.iterdir() if file.is_file())
    chance.shuffle(files)
    for place, file in enumerate(files):
        target = (aside if place < 3 else learn) / kind.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
print({folder.name: len(list(folder.rglob("*.*"))) for folder in (learn, aside)})

# %% [markdown]
# ## The five lines
#
# The network does not know these flowers. So it is taught first, by a new head on its frozen features, and that float32
# network is the reference that all smaller ones are compared with.

# %%
result = shrink(model, learn, out=work / "flowers" / "run", max_drop="1pt", minutes=minutes)
result

# %%
result.plot()

# %% [markdown]
# ## Looking
#
# What the model that ships says of the photos that were put aside, the least certain first:

# %%
answers = result.best.predict(sorted(aside.rglob("*.*")))
table = pd.DataFrame(
    {
        "photo": Path(answer.input).name,
        "is": Path(answer.input).parent.name,
        "answer": answer.answer,
        "probability": round(answer.probabilities[answer.answer], 3),
    }
    for answer in answers
)
print(f"{(table['is'] == table['answer']).mean():.1%} of {len(table)} photos are right")
table.sort_values("probability").head(8)

# %% [markdown]
# Which kinds are taken for which:

# %%
pd.crosstab(table["is"], table["answer"])

# %% [markdown]
# A photo from elsewhere, in the size that the model sees. (The flower is `flower.jpg` of scikit-learn, by dany13,
# CC BY 2.0, a dahlia: no kind that the model knows. A classifier has no way to say so.)

# %%
from sklearn.datasets import load_sample_image

elsewhere = work / "flowers" / "elsewhere.png"
Image.fromarray(load_sample_image("flower.jpg")).resize((224, 149)).save(elsewhere)
answer = result.best.predict(elsewhere)
figure, axes = plt.subplots(figsize=(3, 2.4))
axes.imshow(Image.open(elsewhere))
axes.set_title(", ".join(f"{name} {share:.0%}" for name, share in list(answer.probabilities.items())[:3]), fontsize=9)
_ = axes.axis("off")
# %% [markdown]
# ## What 40 more photos of each kind would buy
#
# Trainings on parts of the photos, and a power law through them (Hestness et al. 2017).

# %%
curve = result.best.model.record.history["finetune"].get("learning_curve")
if curve:
    figure, axes = plt.subplots(figsize=(5, 3))
    axes.plot(curve["examples"], [100 * value for value in curve["accuracy"]], "o-")
    axes.set_xlabel("photos to learn from")
    axes.set_ylabel("accuracy on validation (%)")
    low, middle, high = (100 * curve[name] for name in ("gain_low", "gain", "gain_high"))
    print(f"{curve['more_per_class']} more of each kind: {middle:+.1f} points ({low:.1f} to {high:.1f})")

# %% [markdown]
# ## The model in the same page, without microbudget
#
# What ships needs onnxruntime, NumPy and Pillow. Its folder can be copied to another machine.

# %%
best = result.folder / "best"
print(sorted(path.name for path in best.iterdir()))
print(subprocess.run([sys.executable, best / "predict.py", elsewhere], capture_output=True, text=True).stdout)
