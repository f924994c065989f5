"""Classify photos with the model next to this file: python predict.py PHOTO...

Prints path, label and probability of each photo, with tabs between. Needs onnxruntime, NumPy and Pillow."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def load(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return session, json.loads(metadata["microbudget.labels"]), json.loads(metadata["microbudget.plan"])


def upright_rgb(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit grey
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if "A" in image.getbands() or image.info.get("transparency") is not None:  # transparency is laid over white
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image.convert("RGBA"))
    return image.convert("RGB")


def prepare(image, plan):
    if plan["edge"]:
        image = image.resize([int(plan["edge"] * side / min(image.size)) for side in image.size], plan["resample"])
    elif plan["size"]:
        image = image.resize(plan["size"][::-1], plan["resample"])
    for height, width in plan["crops"]:
        top, left = (image.height - height) // 2, (image.width - width) // 2
        image = image.crop((left, top, left + width, top + height))
    channels = np.asarray(image)[..., :: -1 if plan["flipped"] else 1].transpose(2, 0, 1)
    shift, mean, std, top = (np.array(plan[key], np.float32)[:, None, None] for key in ("shift", "mean", "std", "top"))
    planes = ((channels * np.float64(plan["factor"])).astype(np.float32) - shift - mean) / std / top
    return np.stack(planes, -1 if plan["channels_last"] else 0)[None].repeat(plan["batch"], 0).astype(plan["dtype"])


def classify(session, pixels, plan):
    scores = session.run([plan["output"]], {plan["input"]: pixels})[0][0].astype(np.float64).ravel()
    odds = np.exp(scores - scores.max())
    return odds / odds.sum() if plan["scale"] == "logits" else scores  # else they are probabilities already


def main(photos):
    session, labels, plan = load(Path(__file__).with_name("model.onnx"))
    for photo in photos:
        try:
            probabilities = classify(session, prepare(upright_rgb(photo), plan), plan)
        except OSError as error:
            sys.exit(f"{photo} is no image that can be read: {error}")
        print(photo, labels[probabilities.argmax()], f"{probabilities.max():.4f}", sep="\t")


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit(__doc__))
