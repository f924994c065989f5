"""Which of llama.cpp's pre-tokenizers a `tokenizer.json` means, by its structure.

llama.cpp's own converter compares a hash of some tokens with those of known models, so it refuses a tokenizer that
somebody trained. The file says how text is cut before the merges, and llama.cpp has a name for each way.
"""

from __future__ import annotations

from typing import Any

# (regular expressions in their order, whether merges are skipped for whole words) -> the name in llama.cpp.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _TAIL
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_TAIL}"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_CASED_TAIL}"
)
GPT2 = "byte-level"  # in place of ByteLevel's own expression
DIGITS = "single digits"
PUNCTUATION, NUMBERS, _THREE = "runs of punctuation", "runs of digits", "[0-9][0-9][0-9]"

_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGITS, GPT2), False): "smollm",
    ((PUNCTUATION, GPT2, NUMBERS, _THREE), False): "falcon",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
    ((_TEKKEN,), True): "tekken",
    ((_GPT4O,), False): "gpt-4o",
}
# Tried one after another, by what they do to a text, where the structure is not known.
CANDIDATES = (
    "gpt-2", "qwen2", "llama-bpe", "smaug-bpe", "smollm", "tekken", "gpt-4o", "qwen35", "deepseek-llm",
    "deepseek-coder", "deepseek-v3", "falcon", "command-r", "seed-coder", "bailingmoe", "jais-2", "bloom", "viking",
)  # fmt: skip


def name(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name of the way a `tokenizer.json` cuts text; None when its structure is not known."""
    cuts = _cuts(tokenizer.get("pre_tokenizer"))
    ignore_merges = bool(tokenizer.get("model", {}).get("ignore_merges", False))
    return None if cuts is None else _NAMES.get((cuts, ignore_merges))


def _cuts(step: Any) -> tuple[str, ...] | None:
    """The cuts of a pre-tokenizer in their order; None when one of them has no name here."""
    if not isinstance(step, dict):
        return None
    step_type = step.get("type")
    if step_type == "Sequence":
        parts = [_cuts(inner) for inner in step.get("pretokenizers", [])]
        return None if None in parts else tuple(cut for part in parts for cut in part or ())
    if step_type == "ByteLevel":
        if step.get("add_prefix_space"):
            return None
        return (GPT2,) if step.get("use_regex", True) else ()
    if step_type == "Digits":
        return (DIGITS if step.get("individual_digits") else NUMBERS,)
    if step_type == "Punctuation" and step.get("behavior") == "Contiguous":
        return (PUNCTUATION,)
    pattern = step.get("pattern")
    if (
        step_type == "Split"
        and step.get("behavior") == "Isolated"
        and not step.get("invert")
        and isinstance(pattern, dict)
    ):
        return (str(pattern.get("Regex")),)
    return None
