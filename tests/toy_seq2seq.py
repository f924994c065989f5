"""A tiny random Whisper with a tokenizer trained on the spot, in the files that transformers writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toy_language_models import TEXT

LANGUAGES = ("en", "zh", "de")  # as far as the last, those of Whisper: transformers counts their tokens
TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
TIMESTAMPS = 51  # one second of them
# Of Whisper's whole vocabulary of 51,865, by which CTranslate2 knows a multilingual model.
WHOLE_TEXT, WHOLE_TIMESTAMPS, WHOLE_LANGUAGES = 50_257, 1501, 99


def special_tokens(languages: tuple[str, ...] = LANGUAGES) -> list[str]:
    """In Whisper's order: end, start, languages, tasks."""
    return [f"<|{name}|>" for name in ("endoftext", "startoftranscript", *languages, *TASKS)]


def write_whisper(
    folder: Path, *, pieces: int = 400, seed: int = 0, older: bool = True, whole: bool = False, **shape: Any
) -> Path:
    """A multilingual Whisper of 2 + 4 layers and width 32. older: vocab.json, merges.txt and added_tokens.json too.

    whole: with 51,865 tokens, most of them never used, and 99 languages.
    """
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    languages, stamps = (whole_languages(), WHOLE_TIMESTAMPS) if whole else (LANGUAGES, TIMESTAMPS)
    ids, text = _write_tokenizer(folder, pieces, older, languages, stamps, WHOLE_TEXT if whole else 0)
    config = WhisperConfig(
        **{
            "vocab_size": text + len(ids) + stamps,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 4,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 80,
            "max_target_positions": 64,
            "pad_token_id": ids["<|endoftext|>"],
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|endoftext|>"],
            "decoder_start_token_id": ids["<|startoftranscript|>"],
            **shape,
        }
    )
    torch.manual_seed(seed)
    network = WhisperForConditionalGeneration(config)
    network.save_pretrained(str(folder))
    (folder / "generation_config.json").write_text(json.dumps(_generation(ids, languages)), encoding="utf-8")
    WhisperFeatureExtractor(chunk_length=config.max_source_positions // 50).save_pretrained(str(folder))
    return folder


def whole_languages() -> tuple[str, ...]:
    """Those of whisper-tiny, in its order."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as CODES

    return tuple(CODES)[:WHOLE_LANGUAGES]


def _write_tokenizer(
    folder: Path, pieces: int, older: bool, languages: tuple[str, ...], stamps: int, least: int
) -> tuple[dict[str, int], int]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=pieces, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*TEXT, *(f" {word}" * 9 for word in ["seven", "eleven", "Seven"])], trainer)
    if least:
        description = json.loads(tokenizer.to_str())
        vocabulary = description["model"]["vocab"]
        vocabulary |= {f"unused{index}": index for index in range(len(vocabulary), least - 1)}
        vocabulary |= {"": least - 1}  # as in Whisper's: newer versions of CTranslate2 look for it
        tokenizer = Tokenizer.from_str(json.dumps(description))
    text, special = tokenizer.get_vocab_size(), special_tokens(languages)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * step:.2f}|>", normalized=False) for step in range(stamps)])
    ids = {name: tokenizer.token_to_id(name) for name in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> $A <|endoftext|>", special_tokens=[(name, ids[name]) for name in ids]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "extra_special_tokens": special[1:],
        "added_tokens_decoder": {
            str(index): {"content": name, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                         "special": True}
            for name, index in ids.items()
        },
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if older:
        _write_older(folder)
    return ids, text


def _write_older(folder: Path) -> None:
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(description["model"]["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in description["model"]["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    added = {row["content"]: row["id"] for row in description["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def _generation(ids: dict[str, int], languages: tuple[str, ...]) -> dict[str, Any]:
    return {
        "is_multilingual": True,
        "lang_to_id": {f"<|{name}|>": ids[f"<|{name}|>"] for name in languages},
        "task_to_id": {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "suppress_tokens": [1, 2, 7, 8, 300, 301, ids["<|startoflm|>"]],
        "begin_suppress_tokens": [220, ids["<|endoftext|>"]],
        "forced_decoder_ids": [[1, None], [2, ids["<|transcribe|>"]]],
        "max_length": 64,
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
    }


def write_recordings(folder: Path, count: int = 30, seed: int = 0, *, transcribed: bool = True) -> Path:
    """Tones of 0.5 to 2.5 seconds with their names as transcripts, in the layout of audiofolder."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(seed)
    words = ("seven", "eleven", "fox")
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["file_name,transcription"]
    for index in range(count):
        length = int(16_000 * (2.5 if index == 0 else rng.uniform(0.5, 2.4)))
        word = int(rng.integers(len(words)))
        time = np.arange(length) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * (300 + 400 * word) * time) + 0.01 * rng.normal(size=length)
        soundfile.write(folder / f"{index:03}.wav", tone.astype(np.float32), 16_000)
        rows.append(f"{index:03}.wav,{words[word]}")
    if transcribed:
        (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
