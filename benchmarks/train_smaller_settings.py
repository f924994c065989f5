"""The recipes that train_smaller.py compares, and what its tables are of."""

from __future__ import annotations

from train_smaller_peers import EPOCHS  # of every distillation, too

REFERENCE = "finetune"
DISTILL, TUNE = f"distill(views=4, epochs={EPOCHS})", f"finetune(unfreeze='all', deep_epochs={EPOCHS // 2})"


def cut(size: float) -> str:
    return f"prune(size='{size:g}x', samples=32)"


def narrow(width: float) -> str:
    return f"distill(width={width:g}, views=4, epochs={EPOCHS})"


# What is compared.
RECIPES = {
    "ONNX alone": "finetune > export",
    "int8": "finetune > export > quantize",
    "resize": "resize(pixels=160) > finetune > export",
    "distill": f"finetune > {narrow(0.5)} > export",
    "prune, finetune": f"finetune > {cut(0.5)} > {TUNE} > export",
    "lora": "lora > export",
    "resize, int8": "resize(pixels=160) > finetune > export > quantize",
    "distill, int8": f"finetune > {narrow(0.5)} > export > quantize",
    "prune, finetune, int8": f"finetune > {cut(0.5)} > {TUNE} > export > quantize",
    "resize, distill, int8": f"resize(pixels=160) > finetune > {narrow(0.5)} > export > quantize",
    "resize, prune, distill, int8": f"resize(pixels=160) > finetune > {cut(0.35)} > {DISTILL} > export > quantize",
}
# A teacher is worth more to the patient: Beyer et al. 2022, arXiv:2106.05237.
RECIPES["the same, trained 3 times as long"] = (
    f"resize(pixels=160) > finetune > {cut(0.35)} > distill(views=4, epochs={3 * EPOCHS}) > export > quantize"
)
ALL = "resize, prune, distill, int8"
# The same methods with the same options and epochs, in another order.
ORDERS = {
    "resize, prune, distill, quantize": (f"resize(pixels=128) > finetune > {cut(0.5)} > {DISTILL} > export > quantize"),
    "resize, distill, prune, quantize": (f"resize(pixels=128) > finetune > {DISTILL} > {cut(0.5)} > export > quantize"),
    "prune, distill, resize, quantize": (f"finetune > {cut(0.5)} > {DISTILL} > resize(pixels=128) > export > quantize"),
    "prune, distill, export, resize, quantize": (
        f"finetune > {cut(0.5)} > {DISTILL} > export > resize(pixels=128) > quantize"
    ),
    "resize, narrower by distill, prune, quantize": (
        f"resize(pixels=128) > finetune > {narrow(0.5)} > {cut(0.7)} > export > quantize"
    ),
}
# Accuracy against latency of each method alone and of all.
GRID = {
    "resize": [f"resize(pixels={pixels}) > finetune > export" for pixels in (192, 160, 128, 96)],
    "prune": [f"finetune > {cut(size)} > {TUNE} > export" for size in (0.5, 0.35)],
    "distill": [f"finetune > {narrow(width)} > export" for width in (0.5, 0.35)],
    "int8": [RECIPES["int8"]],
    "all": [
        f"resize(pixels={pixels}) > finetune > {cut(size)} > {DISTILL} > export > quantize"
        for pixels, size in ((192, 0.5), (160, 0.35), (128, 0.35))
    ],
}
SPLITS = (1, 2)  # of the photos; the rates of `finetune` were chosen with split 0 seen
STEPS, BATCH, PIXELS = 30, 16, 128  # of the overhead: steps in a turn, photos in a step, their side
