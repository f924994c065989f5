"""Classify photos with the model next to this file: python predict.py PHOTO...

Prints a line per photo: its path as given, the label and its probability, with tabs between.
Needs onnxruntime, NumPy and Pillow.
"""

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
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def prepare(image, plan):
    """The model's input for an image: (1, 3, height, width) float32."""
    if plan["edge"]:
        short = min(image.size)
        image = image.resize([int(plan["edge"] * side / short) for side in image.size], plan["resample"])
    elif plan["size"]:
        image = image.resize(plan["size"][::-1], plan["resample"])
    for height, width in plan["crops"]:
        top, left = (image.height - height) // 2, (image.width - width) // 2
        image = image.crop((left, top, left + width, top + height))
    channels = np.asarray(image)[..., :: -1 if plan["flipped"] else 1].transpose(2, 0, 1)
    table = np.array(plan["table"], np.float32)  # (3, 256): the float of each level of each channel
    return np.stack([levels[plane] for levels, plane in zip(table, channels, strict=True)])[None]


def main(photos):
    session, labels, plan = load(Path(__file__).with_name("model.onnx"))
    for photo in photos:
        try:
            image = upright_rgb(photo)
        except OSError as error:
            sys.exit(f"{photo} is no image that can be read: {error}")
        logits = session.run(None, {session.get_inputs()[0].name: prepare(image, plan)})[0][0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        print(photo, labels[odds.argmax()], f"{odds.max() / odds.sum():.4f}", sep="\t")


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit(__doc__))
