"""The stock mixtures, tensor for tensor against what llama.cpp's own quantizer chose (golden/mixtures.txt)."""

from __future__ import annotations

from pathlib import Path

import pytest

from microbudget.errors import InvalidOption, UnsupportedModel
from microbudget.methods.quantize.gguf.mixtures import Choice, choose, needs_imatrix, overrides
from microbudget.methods.quantize.gguf.stock import MIXTURES, Facts
from microbudget.runtimes.gguf.file import TensorInfo
from microbudget.runtimes.gguf.types import FILE_TYPES, TYPES
from mixture_cases import CASES, EXPERTS, NAMES, layout, shorten

GOLDEN = Path(__file__).with_name("golden") / "mixtures.txt"
NEEDS = "needs-imatrix "


def facts(name: str) -> Facts:
    if name == EXPERTS:
        return Facts("llama", 32, 32, 8, experts=8)
    config = CASES[name]
    architecture = "llama" if config["model_type"] == "mistral" else config["model_type"]
    return Facts(
        architecture, config["num_hidden_layers"], config["num_attention_heads"], config["num_key_value_heads"]
    )


def line(choices: tuple[Choice, ...], file_type: str) -> str:
    needs = NEEDS if any(needs_imatrix(choice, file_type) for choice in choices) else ""
    kinds = {choice.tensor.name: choice.type.name for choice in choices if len(choice.tensor.shape) > 1}
    return needs + shorten(kinds)


def golden() -> dict[str, list[tuple[str, str, str]]]:
    rows: dict[str, list[tuple[str, str, str]]] = {name: [] for name in NAMES}
    for text in GOLDEN.read_text(encoding="utf-8").splitlines():
        name, file_type, when, *kinds = text.split(" ", 3)
        rows[name].append((file_type, when, kinds[0] if kinds else ""))
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_every_mixture_is_llama_cpps(name: str) -> None:
    tensors, about = layout(name).tensors, facts(name)
    rows = golden()[name]
    assert {file_type for file_type, _, _ in rows} == set(FILE_TYPES) == set(MIXTURES)
    for file_type, when, expected in rows:
        for imatrix in (False, True) if when == "any" else (when == "imatrix",):
            if not expected:
                with pytest.raises(UnsupportedModel, match="has rows of"):
                    choose(tensors, about, file_type, imatrix=imatrix)
                continue
            chosen = line(choose(tensors, about, file_type, imatrix=imatrix), file_type)
            if imatrix:
                chosen, expected = chosen.removeprefix(NEEDS), expected.removeprefix(NEEDS)
            assert chosen == expected, (name, file_type, when)


def test_patterns_change_only_what_they_name() -> None:
    tensors, about = layout("lm-python").tensors, facts("lm-python")
    stock = choose(tensors, about, "Q4_K_M", imatrix=True)
    changed = choose(tensors, about, "Q4_K_M", imatrix=True, overrides=overrides(r"blk\.[01]\.attn_v=q8_0, attn=Q5_K"))
    for before, after in zip(stock, changed, strict=True):
        name = before.tensor.name
        if name in ("blk.0.attn_v.weight", "blk.1.attn_v.weight"):
            assert after.type.name == "Q8_0"
        elif "attn" in name and "norm" not in name:
            assert after.type.name == "Q5_K"
        else:
            assert after == before


def test_a_fallback_tells_what_it_costs() -> None:
    tensor = TensorInfo("blk.0.attn_q.weight", (100, 576), TYPES["F16"])
    (choice,) = choose([tensor], Facts("llama", 1, 1, 1), "Q4_K_M", imatrix=False)
    assert (choice.wanted.name, choice.type.name, choice.fell_back) == ("Q4_K", "Q5_0", True)
    assert choice.extra_bytes == 100 * 576 * (22 / 32 - 144 / 256)


def test_unknown_mixtures_types_and_patterns_are_refused() -> None:
    tensors, about = layout("rows-of-96").tensors, facts("rows-of-96")
    with pytest.raises(InvalidOption, match="there is no type 'Q4_K_XL' of GGUF files; there are F32, "):
        choose(tensors, about, "Q4_K_XL", imatrix=False)
    with pytest.raises(InvalidOption, match="there is no type 'Q9' of tensors"):
        overrides("attn=Q9")
    with pytest.raises(InvalidOption, match="is not a valid pattern"):
        overrides("(=Q8_0")
