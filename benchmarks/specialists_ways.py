"""The ways and the data sets of `specialists.py`."""

from __future__ import annotations

from dataclasses import dataclass

SHOTS = 16
TORCH, PEER, COMMON = "fine-tuned, torch float32", "the same, onnxruntime's dynamic int8", "most frequent class"
WORDS, STATIC, FROZEN = (
    "words, logistic regression",
    "static embeddings taught by it",
    "frozen encoder, linear head, ONNX",
)
INT8, LORA, HALF = "the same, int8", "LoRA, ONNX", "half its layers, distilled, int8"
SMALLEST = "the same, trimmed, int8, tokens in 4 bits"
ZERO, FEW, ADAPTED = "SmolLM2-135M, zero-shot", f"SmolLM2-135M, {SHOTS} examples", "SmolLM2-135M, LoRA"
# name -> the recipe, "" for what is none; {taught} is what `shrink` begins with, {prompt} that of the set.
WAYS = {
    COMMON: "",
    WORDS: "tfidf",
    "characters, logistic regression": "tfidf(unit='char')",
    FROZEN: "finetune > export",
    LORA: "lora > export",
    TORCH: "{taught}",
    STATIC: "{taught} > distill(student='static', epochs=28)",
    "the same, ONNX": "{taught} > export",
    PEER: "",
    INT8: "{taught} > export > quantize",
    "the same, trimmed, int8": "{taught} > trim(keep=8000) > export > quantize",
    SMALLEST: "{taught} > trim(keep=4000) > export > quantize(table_bits=4)",
    HALF: "{taught} > distill(depth=0.5, epochs=8) > export > quantize",
    ZERO: "prompt(model='{llm}', {prompt})",
    FEW: f"prompt(model='{{llm}}', shots={SHOTS}, {{prompt}})",
    ADAPTED: "prompt(model='{folder}', {prompt}) > lora(epochs=3)",
}
ASKED = (ZERO, FEW, ADAPTED)


@dataclass(frozen=True)
class Set:
    """A data set: what a language model is asked, and the words for its labels."""

    template: str
    words: str = ""

    @property
    def options(self) -> str:
        """As options of `prompt`."""
        return f"text='{self.template}', words='{self.words}'"


SETS = {
    "sst2": Set(r"Review: {text}\nSentiment: {label}", "0=negative, 1=positive"),
    "ag_news": Set(r"Article: {text}\nTopic: {label}", "Sci/Tech=Technology"),
    "trec": Set(
        r"Question: {text}\nAnswer type: {label}",
        "ABBR=abbreviation, DESC=description, ENTY=entity, HUM=person, LOC=location, NUM=number",
    ),
    "subjectivity": Set(r"Sentence: {text}\nThis sentence is {label}"),
    "banking77": Set(r"Customer: {text}\nIntent: {label}"),
    "rte": Set(
        r"{text_1}\nQuestion: {text_2} True or False?\nAnswer: {label}", "entailment=True, not_entailment=False"
    ),
}
