"""Classify texts with the model next to this file: python predict.py TEXT..., or lines from standard input.

Prints label, probability and text of each, with tabs between; the two texts of a pair have a tab between them.
Needs onnxruntime, NumPy and tokenizers."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def load(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    plan = json.loads(metadata["microbudget.plan"])
    tokenizer = Tokenizer.from_file(str(Path(path).with_name("tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(plan["max_length"])
    labels = json.loads(metadata["microbudget.labels"])
    return SimpleNamespace(session=session, tokenizer=tokenizer, labels=labels, plan=plan)


def probabilities(model, *text):
    tokens = model.tokenizer.encode(*text)
    known = {"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}
    empty = {"input_ids": [model.plan["pad"]], "attention_mask": [1], "token_type_ids": [0]}
    names = model.plan["inputs"]
    inputs = {name: np.array([known[name] or empty[name]], np.int64) for name in names}
    scores = model.session.run([model.plan["output"]], inputs)[0][0].astype(np.float64).ravel()
    odds = np.exp(scores - scores.max())
    return odds / odds.sum() if model.plan["scale"] == "logits" else scores  # else they are probabilities already


def classify(model, *text):
    found = probabilities(model, *text)
    return model.labels[int(found.argmax())], float(found.max())


def main(texts):
    model = load(Path(__file__).with_name("model.onnx"))
    for text in texts:
        label, probability = classify(model, *text.rstrip("\r\n").split("\t")[:2])
        print(label, f"{probability:.4f}", text.rstrip("\r\n"), sep="\t")


if __name__ == "__main__":
    main(sys.argv[1:] or (line for line in sys.stdin if line.strip()))
