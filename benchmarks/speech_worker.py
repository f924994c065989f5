"""One way to transcribe, in a process of its own: reads lines of JSON (paths of recordings), writes texts and times.

    python benchmarks/speech_worker.py transformers FOLDER
    python benchmarks/speech_worker.py faster-whisper FOLDER [--type int8] [--beam 1] [--window 10]
    python benchmarks/speech_worker.py microbudget FOLDER

A time is from waveform to text; reading the file is not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Hear = Callable[[np.ndarray], str]
RATE_HZ = 16_000


def with_transformers(folder: str, threads: int) -> Hear:
    """The notebook's way: feature extractor, `generate`, tokenizer, in float32."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    front = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.WhisperTokenizer.from_pretrained(folder)

    def transcribe(waveform: np.ndarray) -> str:
        with torch.inference_mode():
            features = front(waveform, sampling_rate=RATE_HZ, return_tensors="pt").input_features
            written = model.generate(features, do_sample=False, num_beams=1)
        return str(tokenizer.batch_decode(written, skip_special_tokens=True)[0]).strip()

    return transcribe


def with_faster_whisper(folder: str, threads: int, options: argparse.Namespace) -> Hear:
    """One temperature, and no guesses at what is no speech: the same work for all. With --defaults, as it is."""
    import faster_whisper

    if options.window:  # by itself it fills every piece up to 30 seconds
        faster_whisper.transcribe.pad_or_trim = lambda piece, length=options.window * 100: _pad(piece, length)
    model = faster_whisper.WhisperModel(folder, device="cpu", compute_type=options.type, cpu_threads=threads)

    def by_default(waveform: np.ndarray) -> str:
        segments, _ = model.transcribe(waveform, language="en")
        return " ".join(segment.text.strip() for segment in segments)

    def transcribe(waveform: np.ndarray) -> str:
        segments, _ = model.transcribe(
            waveform,
            language="en",
            beam_size=options.beam,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        return " ".join(segment.text.strip() for segment in segments)

    return by_default if options.defaults else transcribe


def _pad(piece: np.ndarray, length: int) -> np.ndarray:
    """Zeros after a piece, as faster-whisper's own function puts them."""
    piece = piece[..., :length]
    return np.pad(piece, [(0, 0)] * (piece.ndim - 1) + [(0, length - piece.shape[-1])])


def with_microbudget(folder: str, threads: int) -> Hear:
    from microbudget.runtimes import open_session
    from microbudget.runtimes.loading import load

    session = open_session(load(folder), threads=threads)

    def transcribe(waveform: np.ndarray) -> str:
        answer = session.answer({"waveform": waveform[None], "length": np.array([len(waveform)])})
        return str(answer[0])

    return transcribe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("transformers", "faster-whisper", "microbudget"))
    parser.add_argument("folder")
    parser.add_argument("--type", default="int8")
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--window", type=int, default=0)
    parser.add_argument("--defaults", action="store_true", help="faster-whisper: beam of 5, timestamps, fallbacks")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.kind == "transformers":
        transcribe = with_transformers(options.folder, options.threads)
    elif options.kind == "faster-whisper":
        transcribe = with_faster_whisper(options.folder, options.threads, options)
    else:
        transcribe = with_microbudget(options.folder, options.threads)
    from microbudget.audio import sound
    from microbudget.machine import memory

    sounds: dict[str, np.ndarray] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        texts, seconds = [], []
        for name in json.loads(line):
            if name not in sounds:
                sounds[name] = sound.read(Path(name))
            began = time.perf_counter()
            texts.append(transcribe(sounds[name]))
            seconds.append(time.perf_counter() - began)
        answer = {"texts": texts, "seconds": seconds, "peak_bytes": memory.read().peak_bytes}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
