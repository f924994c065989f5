"""The tokenizer of a Whisper folder: `tokenizer.json`, or what older fine-tuning scripts leave in its place.

Those save `vocab.json` and `merges.txt`, the byte pairs, and the tokens behind them in `added_tokens.json` or in
`tokenizer_config.json`. Together they say the same as a `tokenizer.json`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModel

NAME = "tokenizer.json"
PARTS = ("vocab.json", "merges.txt")
SPECIAL = re.compile(r"<\|[^|]*\|>")
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def description(folder: Path) -> dict[str, Any]:
    """What `tokenizer.json` holds, of the file or made of the older files. Raises UnsupportedModel."""
    path = folder / NAME
    if path.is_file():
        return read_json(path)
    if all((folder / name).is_file() for name in PARTS):
        return _of_parts(folder)
    raise UnsupportedModel(
        f"{folder} has no {NAME}, nor {' and '.join(PARTS)}: save the model's tokenizer in the same folder, with"
        " `WhisperTokenizerFast.from_pretrained(MODEL).save_pretrained(FOLDER)` of transformers, where MODEL is the one"
        " that was fine-tuned"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, with or without a byte order mark; empty where there is no such file.

    Raises UnsupportedModel for one that is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _of_parts(folder: Path) -> dict[str, Any]:
    vocabulary = read_json(folder / "vocab.json")
    added = _added(folder, vocabulary)
    try:
        lines = (folder / "merges.txt").read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{folder / 'merges.txt'} cannot be read: {error}") from error
    pairs = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    bad = next((pair for pair in pairs if len(pair) != 2), None)
    if bad is not None:
        raise UnsupportedModel(f"{folder / 'merges.txt'} has a line that is no pair of tokens: {' '.join(bad)!r}")
    # The vocabulary names the added tokens too: their ids stay, even where there is a hole before them.
    named = {**vocabulary, **{row["content"]: row["id"] for row in added}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL, "post_processor": None, "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": named, "merges": pairs,
        },
    }  # fmt: skip


def _added(folder: Path, vocabulary: dict[str, Any]) -> list[dict[str, Any]]:
    """The added tokens by ascending id: those of either file, and what the vocabulary itself has in <| |>."""
    settings = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    ids = {token: index for token, index in vocabulary.items() if SPECIAL.fullmatch(token)}
    ids |= read_json(folder / "added_tokens.json")
    rows = {int(index): {"special": bool(SPECIAL.fullmatch(token)), "content": token} for token, index in ids.items()}
    for index, row in settings.items():
        content = str(row["content"])
        rows[int(index)] = {"special": bool(row.get("special", SPECIAL.fullmatch(content))), "content": content}
    return [{"id": index, **_FLAGS, **rows[index]} for index in sorted(rows)]
