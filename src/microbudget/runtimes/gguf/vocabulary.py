"""The tokenizer of a Hugging Face folder in llama.cpp's terms: byte-level BPE, or SentencePiece's BPE with scores."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import ModelNotFound, UnsupportedModel
from . import pretokenizer, sentencepiece
from .file import Entry
from .write import entry

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"  # SentencePiece writes a space as this
SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_CLASSES = {  # where only vocab.json and merges.txt are there
    "Qwen2Tokenizer": "qwen2",
    "Qwen2TokenizerFast": "qwen2",
    "GPT2Tokenizer": "gpt-2",
    "GPT2TokenizerFast": "gpt-2",
}


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF keeps of a tokenizer."""

    model: str  # "gpt2" (byte-level BPE) or "llama" (SentencePiece)
    pre: str | None  # None: not known from the structure
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    special: dict[str, int] = field(default_factory=dict)  # "bos", "eos", "unknown", "padding"
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    chat_template: str | None = None

    def entries(self) -> tuple[Entry, ...]:
        """The metadata of a GGUF file."""
        prefix = "tokenizer.ggml."
        found = [entry(prefix + "model", self.model, "str"), entry(prefix + "pre", self.pre or "default", "str")]
        found += [entry(prefix + "tokens", self.tokens, "[str]")]
        if self.scores:
            found.append(entry(prefix + "scores", self.scores, "[f32]"))
        found.append(entry(prefix + "token_type", self.types, "[i32]"))
        if self.merges:
            found.append(entry(prefix + "merges", self.merges, "[str]"))
        found += [entry(f"{prefix}{name}_token_id", token, "u32") for name, token in self.special.items()]
        found.append(entry(prefix + "add_bos_token", self.add_bos, "bool"))
        found.append(entry(prefix + "add_eos_token", self.add_eos, "bool"))
        found.append(entry(prefix + "add_space_prefix", self.add_space_prefix, "bool"))
        if self.chat_template:
            found.append(entry("tokenizer.chat_template", self.chat_template, "str"))
        return tuple(found)


def read_vocabulary(folder: Path, size: int, beyond: Collection[str] = ()) -> Vocabulary:
    """The tokenizer of a folder, with as many tokens as the embedding has rows (`size`).

    beyond: tokens that may have no row, since the model never sees them; they are left out.

    Reads tokenizer.json, else tokenizer.model (SentencePiece), else vocab.json with merges.txt. Raises ModelNotFound
    when there is none, UnsupportedModel when it is of another kind or has more tokens than the model.
    """
    settings = _settings(folder)
    if (folder / "tokenizer.json").is_file():
        found = _from_json(_load(folder / "tokenizer.json"), settings, folder)
    elif (folder / "tokenizer.model").is_file():
        found = _from_sentencepiece(folder / "tokenizer.model", settings)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        found = _from_merges(folder, settings)
    else:
        raise ModelNotFound(
            f"{folder} has no tokenizer: tokenizer.json, tokenizer.model, or vocab.json with merges.txt must lie"
            " next to the weights"
        )
    if set(found.tokens[size:]) <= set(beyond):
        found = replace(found, tokens=found.tokens[:size], types=found.types[:size], scores=found.scores[:size])
    return replace(_padded(found, size, folder), chat_template=read_chat_template(folder, settings))


def read_chat_template(folder: Path, settings: dict[str, Any] | None = None) -> str | None:
    """The Jinja text that turns messages into a prompt; None for a model that knows no chat."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UnsupportedModel(f"{path} cannot be read as UTF-8 text: {error}") from error
    template = (settings if settings is not None else _settings(folder)).get("chat_template")
    if isinstance(template, list):  # several by name
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the ids of config.json where it names no special tokens, and added_tokens.json."""
    path = folder / "tokenizer_config.json"
    found: dict[str, Any] = _load(path) if path.is_file() else {}
    config = _load(folder / "config.json") if (folder / "config.json").is_file() else {}
    for text in SPECIAL.values():
        value = config.get(f"{text}_id")
        found.setdefault(f"{text}_id", value[0] if isinstance(value, list) and value else value)
    if (folder / "added_tokens.json").is_file():
        found["added_tokens_decoder"] = _with_added(folder, found)
    return found


def _with_added(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The added tokens by id, with those that older folders keep in a file of their own."""
    path, map_path = folder / "added_tokens.json", folder / "special_tokens_map.json"
    named = {**settings, **(_load(map_path) if map_path.is_file() else {})}
    values = [*(named.get(key) for key in SPECIAL.values()), *(named.get("additional_special_tokens") or [])]
    special = {value.get("content") if isinstance(value, dict) else value for value in values}
    found = dict(settings.get("added_tokens_decoder") or {})
    for text, index in _load(path).items():
        if type(index) is not int or index < 0:
            raise UnsupportedModel(f"{path} gives the token {text!r} the id {index!r}, not a whole number")
        found.setdefault(str(index), {"content": text, "special": text in special})
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise UnsupportedModel(f"{path} holds no settings")
    return loaded


def _from_json(tokenizer: dict[str, Any], settings: dict[str, Any], folder: Path) -> Vocabulary:
    try:
        model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
        if model.get("type", "BPE") != "BPE":
            raise UnsupportedModel(
                f"{folder}: a {model['type']} tokenizer cannot be written to GGUF here; byte-level BPE and"
                " SentencePiece's BPE can"
            )
        build = _sentencepiece_from_json if model.get("byte_fallback") else _byte_level
        found = build(tokenizer, added)
        special = special_token_ids(settings, found.tokens)
        bos, eos = _added_ends(tokenizer.get("post_processor"), found.tokens, special)
        bos, eos = _llama_ends(settings, bos, eos)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UnsupportedModel(f"{folder / 'tokenizer.json'} is damaged: {error!r}") from error
    return replace(found, special=special, add_bos=bos, add_eos=eos)


def _byte_level(tokenizer: dict[str, Any], added: list[dict[str, Any]]) -> Vocabulary:
    model = tokenizer["model"]
    tokens = _by_id(model["vocab"], added)
    types = [UNUSED if token is None else NORMAL for token in tokens]
    for item in added:
        types[item["id"]] = CONTROL if item.get("special") else USER_DEFINED
    names = tuple(f"[PAD{index}]" if token is None else token for index, token in enumerate(tokens))
    pre = pretokenizer.name(tokenizer)
    return Vocabulary("gpt2", pre, names, tuple(types), merges=tuple(map(_merge, model["merges"])))


def _sentencepiece_from_json(tokenizer: dict[str, Any], added: list[dict[str, Any]]) -> Vocabulary:
    """Scores by the order of merges: SentencePiece joins the pair whose result scores highest, BPE the earliest."""
    model = tokenizer["model"]
    tokens = _by_id(model["vocab"], added)
    names = tuple(f"[PAD{index}]" if token is None else token for index, token in enumerate(tokens))
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(map(_merge, model["merges"])):
        left, _, right = merge.partition(" ")
        ranks.setdefault(left + right, rank)
    types = [UNUSED if token is None else BYTE if _is_byte(token) else NORMAL for token in tokens]
    for item in added:
        types[item["id"]] = CONTROL if item.get("special") else USER_DEFINED
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    shown = tuple(
        name.replace(SPACE, " ") if token_type == USER_DEFINED else name
        for name, token_type in zip(names, types, strict=True)
    )
    scores = tuple(-float(ranks.get(name, len(ranks) + 1)) for name in names)  # what no merge makes comes last
    return Vocabulary("llama", "default", shown, tuple(types), scores, add_space_prefix=_prefixes(tokenizer))


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _prefixes(tokenizer: dict[str, Any]) -> bool:
    """Whether a space is put before the text: by the normalizer (older files) or by Metaspace."""
    normalizer, metaspace = tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if any(step.get("type") == "Prepend" for step in steps):
        return True
    if metaspace.get("type") != "Metaspace":
        return False
    old = "always" if metaspace.get("add_prefix_space", True) else "never"
    return str(metaspace.get("prepend_scheme", old)) != "never"


def _by_id(vocab: dict[str, int], added: list[dict[str, Any]]) -> list[str | None]:
    """Tokens in the order of their ids; None where no token has that id."""
    both = {**{index: token for token, index in vocab.items()}, **{item["id"]: item["content"] for item in added}}
    if min(both) < 0 or max(both) >= 2 * len(both) + 1024:
        raise ValueError(f"ids from {min(both)} to {max(both)} for {len(both)} tokens")
    return [both.get(index) for index in range(max(both) + 1)]


def _merge(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def special_token_ids(settings: dict[str, Any], tokens: tuple[str, ...]) -> dict[str, int]:
    """Ids of the special tokens by their texts, else by the ids that config.json gives."""
    places = {token: index for index, token in enumerate(tokens)}
    found = {}
    for name, key in SPECIAL.items():
        value = settings.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        index = places.get(text) if isinstance(text, str) else None
        index = settings.get(f"{key}_id") if index is None else index
        if type(index) is int and 0 <= index < len(tokens):
            found[name] = index
    return found


def _added_ends(processor: Any, tokens: tuple[str, ...], special: dict[str, int]) -> tuple[bool, bool]:
    """Whether the post-processor puts the beginning's token before a text, and the end's after it."""
    steps = (processor or {}).get("processors", [processor]) if processor else []
    for step in steps:
        if step.get("type") != "TemplateProcessing":
            continue
        parts = step["single"]
        ends = [part.get("SpecialToken", {}).get("id") for part in (parts[0], parts[-1])]
        texts = [tokens[special[name]] if name in special else None for name in ("bos", "eos")]
        return (ends[0] is not None and ends[0] == texts[0], ends[1] is not None and ends[1] == texts[1])
    return False, False


def _llama_ends(settings: dict[str, Any], bos: bool, eos: bool) -> tuple[bool, bool]:
    """transformers' Llama classes go by tokenizer_config.json instead."""
    if settings.get("tokenizer_class") not in _LLAMA_CLASSES:
        return bos, eos
    return bool(settings.get("add_bos_token", bos)), bool(settings.get("add_eos_token", eos))


def _from_sentencepiece(path: Path, settings: dict[str, Any]) -> Vocabulary:
    pieces = sentencepiece.read(path)
    tokens, scores, types = ([*column] for column in zip(*pieces, strict=True))
    added = settings.get("added_tokens_decoder") or {}
    for key, item in sorted(added.items(), key=lambda pair: int(pair[0])):
        _put(tokens, scores, types, int(key), item)
    names = tuple(tokens)
    return Vocabulary(
        "llama", "default", names, tuple(types), tuple(scores), special=special_token_ids(settings, names),
        add_bos=bool(settings.get("add_bos_token", True)), add_eos=bool(settings.get("add_eos_token", False)),
        add_space_prefix=bool(settings.get("add_prefix_space", True)),
    )  # fmt: skip


def _put(tokens: list[str], scores: list[float], types: list[int], index: int, item: dict[str, Any]) -> None:
    """An added token at its id; those that SentencePiece knows already keep their type."""
    if index > len(tokens):
        raise UnsupportedModel(f"tokenizer_config.json adds the token {index} to {len(tokens)}: some are missing")
    token_type = CONTROL if item.get("special") else USER_DEFINED
    if index == len(tokens):
        tokens.append(str(item["content"]))
        scores.append(0.0)
        types.append(token_type)


def _from_merges(folder: Path, settings: dict[str, Any]) -> Vocabulary:
    lines = (folder / "merges.txt").read_text(encoding="utf-8-sig").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    decoder = settings.get("added_tokens_decoder") or {}
    added = [{**item, "id": int(key)} for key, item in decoder.items()]
    tokenizer = {"model": {"vocab": _load(folder / "vocab.json"), "merges": merges}}
    found = _byte_level(tokenizer, added)
    pre = _CLASSES.get(str(settings.get("tokenizer_class")))
    return replace(found, pre=pre, special=special_token_ids(settings, found.tokens))


def _padded(found: Vocabulary, size: int, folder: Path) -> Vocabulary:
    """As many tokens as the embedding has rows: models round their vocabulary up."""
    missing = size - len(found.tokens)
    if missing < 0:
        extra = [repr(name) for name in found.tokens[size:]]
        shown = ", ".join(extra[:3]) + (f" and {len(extra) - 3} more" if len(extra) > 3 else "")
        raise UnsupportedModel(
            f"{folder}: the tokenizer has {len(found.tokens)} tokens, the model only {size}: they do not belong"
            f" together: {shown} {'has no row in the embedding' if len(extra) == 1 else 'have no rows'}. Give the model"
            " rows for them (resize_token_embeddings, then save_pretrained), or take the tokenizer that it was trained"
            " with"
        )
    names = (f"[PAD{index}]" for index in range(len(found.tokens), size))
    return replace(
        found,
        tokens=(*found.tokens, *names),
        types=(*found.types, *_repeated(UNUSED, missing)),
        scores=(*found.scores, *_repeated(0.0, missing)) if found.scores else (),
    )


def _repeated(value: Any, count: int) -> Iterable[Any]:
    return (value for _ in range(count))
