"""The recipes of the golden set: one for each method and kind of model, with its options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A recipe of a toy model on toy data. ships: measured to the end, and RUN/best is looked at too."""

    name: str
    model: str
    data: str
    recipe: str
    ships: bool = False


def cases() -> list[Case]:
    """All of them, in the order in which they run."""
    return [*_photo_cases(), *_onnx_cases(), *_language_cases(), *_gguf_cases(), *_speech_cases()]


def _photo_cases() -> Iterator[Case]:
    int8 = "finetune(epochs=2) > prune(size='0.7x', samples=8) > export > quantize"
    table = {
        "ship-int8": ("mobilenet", "resize(pixels=24) > finetune(views=2, epochs=4) > export > quantize"),
        "narrow": ("resnet", "finetune(epochs=3) > distill(width=0.5, views=2, epochs=1)"),
        "ship-adapter": ("resnet", "lora(rank=2, epochs=1, merge=False)"),
        "deep": (
            "mobilenet",
            "finetune(epochs=3, unfreeze='all', deep_epochs=1, deep_views=2) > prune(size='0.7x', samples=16)"
            " > distill(epochs=1, views=1) > export > resize(pixels=24) > quantize(bits=4)",
        ),
        "taylor": (
            "resnet",
            "lora(rank=2, epochs=1) > prune(sparsity=0.3, importance='taylor', samples=16) > finetune(epochs=2,"
            " unfreeze='last', deep_epochs=1, deep_views=1) > export > quantize(bits=4, activations='float')",
        ),
        "regnet": ("regnet", int8),
        "convnext": ("convnext", int8),
        "student": ("resnet", "finetune(epochs=2) > distill(student='student', epochs=1, views=1, curve=True)"),
        "mlp": ("resnet", "finetune(head='mlp', epochs=3) > quantize(bits=3, activations='float')"),
    }
    for name, (model, recipe) in {**table, **_pruned_photo_cases()}.items():
        yield Case(f"photos-{name}", model, "photos", recipe, name.startswith("ship"))


def _pruned_photo_cases() -> dict[str, tuple[str, str]]:
    """More of single weights, and of networks that are cut by blocks."""
    return {
        "batchnorm": (
            "resnet",
            "finetune(epochs=2) > prune(sparsity=0.25, importance='batchnorm', samples=8) > prune(structure='weights',"
            " sparsity=0.5, importance='wanda', samples=8) > lora(rank=2, epochs=1) > export >"
            " quantize(repair='equalize,bias')",
        ),
        "layers": (
            "mobilenet",
            "finetune(epochs=2) > prune(structure='layers', sparsity=0.3, samples=8) > prune(structure='weights',"
            " samples=8) > finetune(epochs=2, unfreeze='all', deep_epochs=1, deep_views=1) > export",
        ),
        "vit": (
            "vit",
            "finetune(epochs=2) > distill(depth=0.67, features=0.1, hard=0.5, views=1, epochs=1) > prune(size='0.8x',"
            " samples=8) > lora(rank=2, epochs=1) > export > quantize",
        ),
        "vit-layers": (
            "vit",
            "finetune(epochs=2) > prune(structure='layers', sparsity=0.4, samples=8) > distill(epochs=1, views=1) >"
            " export > quantize(activations='float')",
        ),
    }


def _onnx_cases() -> Iterator[Case]:
    table = {
        "ship": ("depthwise", "resize(pixels=12) > finetune(epochs=3) > quantize"),
        "mlp": ("residual", "finetune(head='mlp', views=2, epochs=2) > quantize(bits=4)"),
        "plain": ("residual", "quantize"),
        "few": ("depthwise", "quantize(samples=8, finer=2)"),
        "bits4": ("residual", "quantize(bits=4)"),
        "bits4-repairs": ("depthwise", "quantize(bits=4, repair='equalize,scales,gptq,bias')"),
        "bits3": ("residual", "quantize(bits=3, repair='none')"),
        "bits2": ("residual", "quantize(bits=2, activations='float')"),
        "size": ("residual", "quantize(size='14kB')"),
        "max-kl": ("depthwise", "quantize(max_kl=0.000016)"),
    }
    for observer in ("min_max", "percentile", "least_squares", "entropy"):
        table[observer] = ("depthwise", f"quantize(observer={observer!r}, repair='scales,bias')")
    for name, (model, recipe) in table.items():
        yield Case(f"onnx-{name}", f"onnx/{model}.onnx", "photos", recipe, name == "ship")


def _language_cases() -> Iterator[Case]:
    gguf = "export(format='gguf')"
    table = {
        "ship": ("llama", f"{gguf} > quantize(type='Q4_K_M')"),
        "adapter": ("llama", "lora(rank=2, epochs=1, length=64, merge=False)"),
        "pruned": (
            "llama",
            "lora(rank=4, epochs=1, length=64) > prune(size='0.85x', samples=4) > prune(structure='layers', samples=4)"
            f" > {gguf} > quantize(bits=8)",
        ),
        "heads": ("llama", f"prune(sparsity=0.2, importance='taylor', samples=4) > {gguf}"),
        "zeros": (
            "llama",
            "prune(structure='weights', importance='wanda', samples=4) > lora(rank=2, epochs=1, length=64,"
            " checkpointing=True) > export(format='gguf', dtype='bfloat16')",
        ),
        "sentencepiece": (
            "sentencepiece",
            "export(format='gguf', dtype='float32') > quantize(type='Q5_K_M', imatrix=False,"
            " tensors='attn_v=Q8_0, blk.0.=Q6_K')",
        ),
        "qwen2": ("qwen2", f"{gguf} > quantize(bits=4)"),
        "qwen3": ("qwen3", f"{gguf} > quantize(bits=3)"),
        "stablelm": ("stablelm", f"{gguf} > quantize(type='Q6_K')"),
        "gpt2": (
            "gpt2",
            "prune(size='0.85x', samples=4) > lora(rank=2, epochs=1, length=64) > prune(structure='layers', samples=4)",
        ),
    }
    for name, (model, recipe) in table.items():
        yield Case(f"language-{name}", model, "text", recipe, name.startswith("ship"))
    yield Case("language-chats", "llama", "chats.jsonl", f"lora(rank=2, epochs=1, length=64) > {gguf}")


def _gguf_cases() -> Iterator[Case]:
    for level in ("Q2_K", "Q4_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS"):
        yield Case(f"gguf-{level}", "gguf/llama.gguf", "text", f"quantize(type={level!r})")
    yield Case("gguf-Q4_K_M-no-imatrix", "gguf/llama.gguf", "text", "quantize(type='Q4_K_M', imatrix=False)")
    yield Case("gguf-Q3_K_L-few", "gguf/llama.gguf", "text", "quantize(type='Q3_K_L', samples=2)")


def _speech_cases() -> Iterator[Case]:
    table = {
        "ship": "window(seconds=3) > trim() > export(format='ct2')",
        "trim": "trim(coverage=0.5, keep=20)",
        "taught": "window(seconds='auto', epochs=1, max_wer=1e9) > trim(text='words.txt') > distill(decoder_layers=2,"
        " epochs=1, batch_size=8, max_wer=1e9) > export(format='ct2', type='float32')",
        "encoder": "distill(decoder_layers=2, encoder_layers=1, epochs=1, batch_size=8, max_wer=1e9) >"
        " window(seconds=4) > export(format='ct2', type='int8_float32')",
    }
    for name, recipe in table.items():
        yield Case(f"speech-{name}", "whisper", "recordings", recipe, name.startswith("ship"))


# Toys: photos and their classifiers.
