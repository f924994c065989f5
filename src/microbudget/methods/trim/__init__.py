"""trim: a vocabulary for the user's texts. Half of a small model's bytes are words that it will never write.

Rows of the embedding and of the head are removed, and with them tokens, merges and ids in the tokenizer and the
configuration files; the bytes stay, so that every text can still be written, in more pieces. The model's logits at the
tokens that stay are what they were.

A kind's part, `kinds/<kind>/trim.py`, has two functions: `texts(model, context)`, the texts of the training examples,
and `runtimes(folder, rows)`, what opens the trimmed model. For `keep='auto'` it has a third, `losses(model, context)`:
what vocabularies cost; where its record has ids of tokens, `reading(folder)` gives the new preprocessing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import BadData, Failed, InvalidOption, UnsupportedModel
from ...model import Model, Record
from ...task import Use
from .. import Context, Method, option
from . import configs, curve, tokenizer, weights, words

CONFIGS = ("config.json", "generation_config.json")
AUTO = "auto"
CHECKED = 1000  # texts that are written and read with the trimmed tokenizer


@dataclass(frozen=True)
class Trim(Method):
    """Keep only the tokens that your texts need; any other text can still be written, in smaller pieces."""

    formats: ClassVar[dict[str, str]] = {"hf": "hf"}
    grids: ClassVar[dict[str, tuple[Any, ...]]] = {"keep": (8000, 4000, 2000, 0)}

    coverage: float = option(1.0, "fraction of the words of the texts that keep tokens of their own", low=0, high=1)
    keep: int | str = option(
        0,
        "number of additional tokens: those that the tokenizer merged first, its most frequent; 'auto': as many as it"
        " takes to lose at most max_loss, measured on your examples",
    )
    max_loss: float = option(0.005, "error rate that keep='auto' may lose, 0.005 for half a point", low=0, high=1)
    text: str | None = option(None, "a .txt file, or a folder of them, with more of your language or domain")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep != AUTO and not (isinstance(self.keep, int) and self.keep >= 0):
            raise InvalidOption(f"trim: keep must be a whole number of tokens or {AUTO!r}, not {self.keep!r}")

    def learns_from(self, input_format: str) -> Use:
        """Which tokens the texts need; how many of the first merges are enough is measured on a few examples."""
        return "calibration" if self.keep == AUTO else "training"

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write the trimmed model. Raises UnsupportedModel for a tokenizer that cannot write every text in pieces."""
        part = self.part(context, model)
        found = tokenizer.FolderTokenizer(model.path)
        config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
        rows = _rows(config, model.path)
        if self.keep == AUTO:
            frequent, measured = self._measured(part, model, context, _levels(found, rows, _required(model.path)))
        else:
            frequent, measured = set(), {}
        texts = self._texts(part.texts(model, context))
        kept = found.kept(self._tokens(texts, found) | frequent, rows, _required(model.path))
        new = {int(old): index for index, old in enumerate(kept)}
        saved = _write(model, found, new, kept, rows, out)
        after = tokenizer.FolderTokenizer(out)
        report: dict[str, Any] = {
            "tokens_before": rows,
            "tokens_after": len(kept),
            "saved_bytes": saved,
            "texts": len(texts),
            **_check(texts, found, after),
            **measured,
            "runtimes": part.runtimes(model.path, rows),
        }
        context.progress.detail(
            f"trim      {rows:,} tokens to {len(kept):,}; your texts take"
            f" {report['pieces_after'] / max(report['pieces_before'], 1):.2f} times as many pieces"
        )
        record = model.record.with_report("trim", report)
        reread = getattr(part, "reading", None)  # of a kind whose record has ids of tokens
        return replace(record, preprocessing=reread(out)) if reread else record

    def extra_inputs(self, context: Context) -> dict[str, str]:
        """The contents of the texts in addition to the task's."""
        if self.text is None:
            return {}
        joined = "\0".join(_read(Path(self.text))).encode()
        return {"text": hashlib.sha256(joined).hexdigest()[:16]}

    def _texts(self, own: Iterable[str]) -> list[str]:
        """The texts of the training examples (own), and those that the user named. Raises BadData without any."""
        found = [*own, *(_read(Path(self.text)) if self.text else ())]
        found = [text for text in found if text.strip()]
        if not found:
            raise BadData(
                "trim needs texts to know which tokens to keep: training examples with a transcript, or text='FILE.txt'"
            )
        return found

    def _tokens(self, texts: list[str], found: tokenizer.FolderTokenizer) -> set[str]:
        chosen = words.covered(words.count_words(texts), self.coverage)
        tokens = words.needed(chosen, found.tokens) | {
            token for text in words.NON_SPEECH for token in found.tokens(text)
        }
        if self.coverage == 1.0:
            tokens |= {token for text in texts for token in found.tokens(text)}
        there = found.pieces.closed(tokens | found.pieces.alphabet())
        more = self.keep if isinstance(self.keep, int) else 0
        return tokens | set(itertools.islice((t for t in found.pieces.frequent() if t not in there), more))

    def _measured(
        self, part: Any, model: Model, context: Context, levels: Iterable[curve.Level]
    ) -> tuple[set[str], dict[str, Any]]:
        """The first merges that are enough, without those that the texts need, and the curve for the report.

        The texts' own tokens are left out of the measurement: the examples that it is made on would lose nothing.
        """
        if not hasattr(part, "losses"):
            raise InvalidOption(f"trim: keep={AUTO!r} is for speech models: give a number of tokens")
        losses = part.losses(model, context)
        try:
            chosen, points = curve.smallest(levels, losses, self.max_loss)
        finally:
            losses.close()
        lost = points[-1 if len(points) == 1 or chosen.tokens == points[-1].tokens else -2]
        context.progress.detail(
            f"trim      {lost.tokens:,} tokens lose {lost.added * 100:.1f} points of the error rate on"
            f" {losses.recordings} recordings of {losses.words:,} words"
        )
        about = {"recordings": losses.recordings, "words": losses.words, "max_loss": self.max_loss}
        return chosen.first, {"measured": {**about, "curve": curve.as_rows(points)}}


def _levels(found: tokenizer.FolderTokenizer, rows: int, required: set[int]) -> Iterator[curve.Level]:
    """Vocabularies of the first merges, from the largest to the smallest, with what runtimes cannot do without."""
    merged = list(found.pieces.frequent())
    always = {token for text in words.NON_SPEECH for token in found.tokens(text)}
    always = found.pieces.closed(always | found.pieces.alphabet())
    for share in curve.shares():
        first = set(merged[: round(share * len(merged))])
        yield curve.Level(first, found.ids(always | first, rows, required))


def _read(path: Path) -> list[str]:
    """The lines of a text file, or of all `.txt` files in a folder. Raises BadData."""
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    try:
        return [line for file in files for line in file.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"trim: the text {path} cannot be read: {error}") from error


def _rows(config: dict[str, Any], folder: Path) -> int:
    rows = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    if not isinstance(rows, int):
        raise UnsupportedModel(
            f"{folder / 'config.json'} has no vocab_size: trim is for models that read or write text"
        )
    return rows


def _required(folder: Path) -> set[int]:
    """The ids that the configuration files cannot do without."""
    return {token for _, config in _configs(folder) for token in configs.required(config)}


def _configs(folder: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    for name in CONFIGS:
        if (folder / name).is_file():
            yield name, json.loads((folder / name).read_text(encoding="utf-8"))


def _write(
    model: Model,
    found: tokenizer.FolderTokenizer,
    new: dict[int, int],
    kept: NDArray[np.int64],
    rows: int,
    out: Path,
) -> int:
    """All files of the trimmed model. Returns the bytes that the weights lost."""
    saved = weights.write_rows(model.path, kept, rows, out)
    for file in model.files:
        name = model.name_of(file)
        if name not in (*tokenizer.WRITTEN, *tokenizer.STALE, *CONFIGS) and not name.startswith("model.safetensors"):
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, out / name)
    for name, config in _configs(model.path):
        text = json.dumps(configs.renumbered(config, new, rows), indent=2)
        (out / name).write_text(text, encoding="utf-8")
    found.write(new, out)
    return saved


def _check(texts: list[str], before: tokenizer.FolderTokenizer, after: tokenizer.FolderTokenizer) -> dict[str, int]:
    """Pieces of the texts with both tokenizers. Raises Failed when the trimmed one writes another text."""
    pieces_before = pieces_after = 0
    for text in texts[:CHECKED]:
        old, new = (each.encoder.encode(text, add_special_tokens=False).ids for each in (before, after))
        if before.encoder.decode(old) != after.encoder.decode(new):
            raise Failed(f"the trimmed tokenizer writes {after.encoder.decode(new)!r} for {text!r}: please report it")
        pieces_before, pieces_after = pieces_before + len(old), pieces_after + len(new)
    return {"pieces_before": pieces_before, "pieces_after": pieces_after}
