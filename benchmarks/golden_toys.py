"""Tiny models and data of the golden set, the same bytes on every machine. Nothing of microbudget is imported."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Toy = Callable[[Path], None]
PIXELS = 32
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
PREPROCESSING = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": PIXELS, "width": PIXELS},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def make_photos(folder: Path) -> None:
    """20 noisy photos each of three plain colours, and nine without a label."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "unlabelled").mkdir(parents=True)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for index in range(23):
            pixels = np.array(colour) + rng.normal(0, 70, (PIXELS, PIXELS, 3)) + rng.normal(0, 40, 3)
            path = folder / name / f"{index:03}.png" if index < 20 else folder / "unlabelled" / f"{name}{index}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def _classifier(kind: str) -> Any:
    import transformers as t

    small: dict[str, Any] = {"hidden_sizes": [16, 24], "depths": [2, 2]}
    vit = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 3}
    basic = {"embedding_size": 16, "layer_type": "basic", "downsample_in_first_stage": True}
    made: dict[str, Callable[[], Any]] = {
        "mobilenet": lambda: t.MobileNetV2ForImageClassification(
            t.MobileNetV2Config(image_size=PIXELS, depth_multiplier=0.25, min_depth=4, tf_padding=False)
        ),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(hidden_sizes=[16, 32], depths=[2, 1], **basic)  # type: ignore[arg-type]
        ),
        "regnet": lambda: t.RegNetForImageClassification(t.RegNetConfig(embedding_size=16, groups_width=4, **small)),
        "convnext": lambda: t.ConvNextForImageClassification(t.ConvNextConfig(num_stages=2, **small)),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(image_size=PIXELS, patch_size=8, **vit)),
    }
    return made[kind]()


def make_classifier(kind: str, folder: Path) -> None:
    """A random network of two classes that are not the photos', with statistics of batch norm that fit."""
    import torch

    torch.manual_seed(0)
    network = _classifier(kind).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(pixel_values=torch.randn(16, 3, PIXELS, PIXELS))
    network.eval().save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING), encoding="utf-8")


def make_student(folder: Path) -> None:
    """A config alone, narrower than the resnet."""
    from transformers import ResNetConfig

    labels = dict(enumerate(COLOURS))
    ResNetConfig(
        embedding_size=8, layer_type="basic", hidden_sizes=[8, 16], depths=[1, 1], id2label=labels
    ).save_pretrained(str(folder))


INPUT = "pixel_values"


class Net:
    """Collects the nodes and constants of an ONNX network; every method returns the name of what it made."""

    def __init__(self) -> None:
        import numpy as np

        self.random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def const(self, value: Any) -> str:
        """A constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def normal(self, spread: float, *shape: int) -> str:
        """A random constant."""
        return self.const(self.random.normal(0, spread, shape).astype("f"))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node."""
        from onnx import helper

        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}{len(self.nodes)}", **attributes))
        return output

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, groups: int = 1, **more: Any) -> str:
        """A convolution with a bias."""
        width = inputs // groups
        weight = self.normal((2 / (width * kernel**2)) ** 0.5, outputs, width, kernel, kernel)
        return self.op("Conv", x, weight, self.normal(0.1, outputs), group=groups, pads=[kernel // 2] * 4, **more)

    def save(self, x: str, inputs: int, path: Path) -> None:
        """Pooling and a last layer after `x`; the whole as a file."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        answer = self.op("Gemm", flat, self.normal(inputs**-0.5, 3, inputs), self.normal(0.1, 3), transB=1)
        graph = helper.make_graph(
            self.nodes,
            "toy",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, 16, 16])],
            [helper.make_tensor_value_info(answer, TensorProto.FLOAT, ["batch", 3])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(onnx.shape_inference.infer_shapes(made), str(path))


def make_onnx(folder: Path) -> None:
    """Two bare files: residual blocks, and an inverted residual block with ReLU6."""
    import numpy as np

    folder.mkdir()
    net = Net()
    a = net.op("Relu", net.conv(INPUT, 3, 8))
    b = net.conv(net.op("Relu", net.conv(a, 8, 8)), 8, 8)
    c = net.op("Relu", net.op("Add", b, a))
    d = net.conv(net.op("Relu", net.conv(c, 8, 16, strides=[2, 2])), 16, 16)
    e = net.op("Relu", net.op("Add", d, net.conv(c, 8, 16, 1, strides=[2, 2])))
    net.save(e, 16, folder / "residual.onnx")
    net = Net()
    limits = [net.const(np.float32(0)), net.const(np.float32(6))]
    a = net.op("Clip", net.conv(INPUT, 3, 8, strides=[2, 2]), *limits)
    b = net.op("Clip", net.conv(a, 8, 24, 1), *limits)
    c = net.op("Clip", net.conv(b, 24, 24, groups=24), *limits)
    d = net.op("Add", net.conv(c, 24, 8, 1), a)
    net.save(net.op("Clip", net.conv(d, 8, 32, 1), *limits), 32, folder / "depthwise.onnx")


# Toys: texts and language models.

LINES = [
    "def answer(question):\n    return 42  # the question is lost, isn't it?\n",
    "The quick brown fox jumps over the lazy dog. Don't panic, we've been here before, they'll say!\n",
    "Größe, naïve, Żółć, привет мир, 你好世界, こんにちは, 🙂🚀 and  double  spaces\tand tabs\n\n",
    "1234567890 3.14159 0xff 1e-9 100,000 2026-11-22\n" * 3,
    "<div class='a'>x &lt; y</div> {'key': [1, 2, 3]} a != b && c || d;\n",
] * 4
WORDS = ["def", "answer(question):", "return", "42", "# lost,", "isn't it?", "Größe", "你好", "fox", "jumps", "x += 1"]
NETWORKS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_key_value_heads": 2},
    "sentencepiece": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32},
    "stablelm": {"model_type": "stablelm", "num_key_value_heads": 4, "use_qkv_bias": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
}
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": 512,
}


def make_text(folder: Path) -> None:
    """Random lines of a few words."""
    coin = random.Random(0)
    folder.mkdir()
    words = (coin.choice(WORDS) + ("\n" if coin.random() < 0.15 else " ") for _ in range(4000))
    (folder / "source.txt").write_text("".join(words), encoding="utf-8")


def make_chats(path: Path) -> None:
    """40 short conversations."""
    said = [[("user", f"what is {n} plus one?"), ("assistant", f"it is {n + 1}, I think")] for n in range(40)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in one]} for one in said]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def make_prompts(path: Path) -> None:
    """A single one: what language models write to it is not looked at, but takes time."""
    path.write_text("def\n", encoding="utf-8")


def make_network(kind: str, folder: Path) -> None:
    """A random network with a tokenizer trained on the spot."""
    import torch
    import transformers

    folder.mkdir()
    (_sentencepiece if kind == "sentencepiece" else _byte_level)(folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**{**SMALL, **NETWORKS[kind]})
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # norms and biases that do something
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
            else:
                parameter *= 4
    network.save_pretrained(str(folder))


def _byte_level(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=497, initial_alphabet=alphabet, show_progress=False)
    )
    _save(tokenizer, folder, ["<|begin|>", "<|end|>"], ["<tool>"])


def _sentencepiece(folder: Path) -> None:
    """All splits of every token are merges, by the order of tokens: what SentencePiece's conversion does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator([line.replace("\n", " ") for line in LINES], trainer)
    spec = json.loads(tokenizer.to_str())
    vocab, merges = spec["model"]["vocab"], []
    for token in sorted((token for token in vocab if not token.startswith("<")), key=lambda token: vocab[token]):
        splits = [[token[:place], token[place:]] for place in range(1, len(token))]
        merges += [pair for pair in splits if pair[0] in vocab and pair[1] in vocab]
    spec["model"]["merges"] = merges
    spec["added_tokens"] = [item for item in spec["added_tokens"] if not item["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    _save(tokenizer, folder, ["<s>", "</s>"], [])


def _save(tokenizer: Any, folder: Path, special: list[str], users: list[str]) -> None:
    from tokenizers import AddedToken

    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in users])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    settings["chat_template"] = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


# Toys: recordings and a Whisper.

STAMPS, PIECES = 51, 400  # one second of time stamps
SPECIAL = [f"<|{name}|>" for name in ("endoftext", "startoftranscript", "en", "zh", "de", "translate", "transcribe",
                                      "startoflm", "startofprev", "nospeech", "notimestamps")]  # fmt: skip


def make_words(path: Path) -> None:
    """More of the language, for `trim`."""
    path.write_text("seven foxes\neleven dogs, don't panic\n", encoding="utf-8")


def make_recordings(folder: Path) -> None:
    """Tones of 0.5 to 2.5 seconds with their names as transcripts."""
    import numpy as np
    import soundfile

    rng, words, rows = np.random.default_rng(0), ("seven", "eleven", "fox"), ["file_name,transcription"]
    folder.mkdir()
    for index in range(24):
        length = int(16_000 * (2.5 if index == 0 else rng.uniform(0.5, 2.4)))
        word = int(rng.integers(len(words)))
        tone = 0.3 * np.sin(2 * np.pi * (300 + 400 * word) * np.arange(length) / 16_000)
        tone += 0.01 * rng.normal(size=length)
        soundfile.write(folder / f"{index:03}.wav", tone.astype(np.float32), 16_000)
        rows.append(f"{index:03}.wav,{words[word]}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def make_whisper(folder: Path) -> None:
    """A random one of 2 + 4 layers and width 32, with a window of six seconds."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder.mkdir()
    ids, text = _whisper_tokenizer(folder)
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    tokens = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_layers": 2, "decoder_layers": 4}
    sizes = {"vocab_size": text + len(ids) + STAMPS, "max_target_positions": 16, "max_source_positions": 300}
    torch.manual_seed(0)
    WhisperForConditionalGeneration(WhisperConfig(**tokens, **heads, **widths, **sizes)).save_pretrained(str(folder))
    generation = {
        "is_multilingual": True,
        "lang_to_id": {f"<|{name}|>": ids[f"<|{name}|>"] for name in ("en", "zh", "de")},
        "task_to_id": {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "suppress_tokens": [1, 2, 7, 8, 300, 301, ids["<|startoflm|>"]],
        "begin_suppress_tokens": [220, end],
        "forced_decoder_ids": [[1, None], [2, ids["<|transcribe|>"]]],
        "alignment_heads": [[0, 1], [1, 0], [3, 1]],
        "max_length": 16,
        **tokens,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    WhisperFeatureExtractor(chunk_length=6).save_pretrained(str(folder))


def _whisper_tokenizer(folder: Path) -> tuple[dict[str, int], int]:
    """The ids of the special tokens, and the number of those for text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*LINES, *(f" {word}" * 9 for word in ("seven", "eleven", "Seven"))], trainer)
    text = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * step:.2f}|>", normalized=False) for step in range(STAMPS)])
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> $A <|endoftext|>", special_tokens=list(ids.items())
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings: dict[str, Any] = {f"{role}_token": SPECIAL[0] for role in ("bos", "eos", "unk", "pad")}
    settings |= {"tokenizer_class": "WhisperTokenizer", "extra_special_tokens": SPECIAL[1:]}
    settings["added_tokens_decoder"] = {str(index): {"content": name, **flags} for name, index in ids.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in spec["model"]["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    added = {row["content"]: row["id"] for row in spec["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    return ids, text


def toys() -> dict[str, Toy]:
    """By their names in --data."""
    made: dict[str, Toy] = {
        "photos": make_photos,
        "student": make_student,
        "onnx": make_onnx,
        "text": make_text,
        "chats.jsonl": make_chats,
        "words.txt": make_words,
        "prompts.txt": make_prompts,
        "recordings": make_recordings,
        "whisper": make_whisper,
    }
    for kind in ("mobilenet", "resnet", "regnet", "convnext", "vit"):
        made[kind] = lambda folder, kind=kind: make_classifier(kind, folder)
    for kind in NETWORKS:
        made[kind] = lambda folder, kind=kind: make_network(kind, folder)
    return made


def make_toys(data: Path) -> None:
    """Those that are not there yet."""
    data.mkdir(parents=True, exist_ok=True)
    for name, make in toys().items():
        if not (data / name).exists():
            partial = data / f".partial-{name}"
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(data / name)


# Runs.
