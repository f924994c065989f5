"""Photos under a limit on size: which widths and bits meet it, and what is built to find out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_photos
from microbudget.judge.budget import Budget, Measurement
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.image_classification.search_space import SearchSpace
from microbudget.kinds.image_classification.sized import NARROWEST, Bytes, size_of
from microbudget.methods.finetune import Finetune
from microbudget.recipes.recipe import Recipe
from microbudget.runs.candidates import Candidate
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions

WHOLE = Measurement(
    "m", "onnx", "", "image-classification", 10, "accuracy", 0.9, 0.8, 1.0, 2_430_000, parameters=2_250_000
)


def shown(kl: float) -> Candidate:
    return Candidate("", "", "", replace(WHOLE, extra={"kl": kl}))


@given(st.integers(20_000, 10_000_000), st.floats(0.05, 0.5), st.integers(10_000, 12_000_000))
def test_the_widths_meet_the_limit_and_nothing_wider_does(parameters: int, others: float, limit: int) -> None:
    known = Bytes(parameters, parameters * others)
    for share, bits in known.widths(limit):
        assert NARROWEST <= share < 1
        assert known.at(share, bits) <= limit
        assert known.at(share * 1.1, bits) > 0.97 * limit


def test_sizes_follow_from_the_whole_network() -> None:
    known = Bytes.of(WHOLE)
    assert known is not None
    sizes = {
        "export() > quantize()": 2_430_000,
        "resize(pixels=96) > finetune() > export() > quantize()": 2_430_000,
        "export() > quantize(bits=4)": 1_305_000,
        "prune(size='0.5x') > distill() > export() > quantize()": 1_252_279,
        "prune(size='0.5x') > export() > quantize(bits=4)": 689_779,
        "export() > quantize(size='1MB')": None,
        "prune(sparsity=0.5) > export() > quantize()": None,
        "distill(width=0.5) > export() > quantize()": None,
        "export()": 9_180_000,
        "resize(pixels=96)": None,
    }
    assert {text: size_of(Recipe.parse(text), known) for text in sizes} == sizes
    assert Bytes.of(replace(WHOLE, parameters=None)) is None
    assert Bytes.of(replace(WHOLE, parameters=3_000_000)) is None


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ImageTask:
    folder = tmp_path_factory.mktemp("sized")
    return ImageTask.open(write_photos(folder / "photos"), DataOptions(cache=folder))


def space_of(resnet: Path, task: ImageTask, limit: int | None) -> SearchSpace:
    space = SearchSpace(load(resnet), task)
    space.budget = Budget(max_size_bytes=limit)
    return space


def test_a_limit_on_size_is_met_by_width_and_bits_and_the_cut_in_8_bits_is_taught(
    resnet: Path, task: ImageTask
) -> None:
    space = space_of(resnet, task, 1_000_000)
    recipes = list(space.recipes((Finetune(),)))
    assert not any("distill" in recipe.short() for recipe in recipes)
    assert space.size_bytes(recipes[0]) is None, "not weighed yet"
    narrow, wide = space.further(recipes[0], Candidate("", "", "", WHOLE))
    assert narrow.short() == "finetune > prune(size='0.38x', samples=32) > export > quantize"
    assert wide.short() == "finetune > prune(size='0.72x', samples=32) > export > quantize(bits=4)"
    assert [size <= 1_000_000 for each in (narrow, wide) if (size := space.size_bytes(each))] == [True, True]
    assert list(space.further(narrow, shown(0.3))) == []
    (taught,) = space.further(wide, shown(0.1))
    assert taught.short().endswith("prune(size='0.38x', samples=32) > distill > export > quantize")
    assert list(space.further(taught, shown(0.01))) == []


def test_where_no_cut_in_8_bits_meets_the_limit_the_one_in_4_is_taught(resnet: Path, task: ImageTask) -> None:
    space = space_of(resnet, task, 400_000)
    whole = next(iter(space.recipes((Finetune(),))))
    (wide,) = space.further(whole, Candidate("", "", "", WHOLE))
    (taught,) = space.further(wide, shown(0.1))
    assert "> distill > export > quantize(bits=4)" in taught.short()


def test_a_limit_on_latency_makes_the_input_smaller_too(resnet: Path, task: ImageTask) -> None:
    """The network takes 4 ms at 32 pixels: at 20 of them about 1.6 ms."""
    space = space_of(resnet, task, 1_000_000)
    space.budget = Budget(max_size_bytes=1_000_000, max_latency_s=0.002)
    whole = next(iter(space.recipes((Finetune(),))))
    narrow, wide = space.further(whole, Candidate("", "", "", replace(WHOLE, latency_s=0.004)))
    for recipe in (narrow, wide):
        assert recipe.short().startswith("resize(pixels=20) > finetune > prune(")
    assert list(space.further(narrow, shown(0.1))) == []
    (taught,) = space.further(wide, shown(0.3))
    assert taught.short().startswith("resize(pixels=20) > finetune > prune(size='0.38x', samples=32) > distill")


def test_a_limit_between_4_and_8_bits_is_met_by_both(resnet: Path, task: ImageTask) -> None:
    space = space_of(resnet, task, 2_000_000)
    whole = next(iter(space.recipes((Finetune(),))))
    found = [recipe.short() for recipe in space.further(whole, Candidate("", "", "", WHOLE))]
    assert found[0] == "finetune > export > quantize(size='1940kB')"
    assert "prune(size='0.79x'" in found[1]


def test_a_limit_that_8_bits_meet_changes_nothing(resnet: Path, task: ImageTask) -> None:
    space = space_of(resnet, task, 3_000_000)
    whole = next(iter(space.recipes((Finetune(),))))
    (taught,) = space.further(whole, Candidate("", "", "", WHOLE))
    assert "prune(size='0.35x', samples=32) > distill" in taught.short()


def test_what_the_limit_takes_is_said_before_anything_is_trained(resnet: Path, task: ImageTask) -> None:
    def said(limit: int) -> list[str]:
        space = space_of(resnet, task, limit)
        whole, *others = space.recipes((Finetune(),))
        assert not list(space.about_limits(others[0], Candidate("", "", "", WHOLE)))
        return list(space.about_limits(whole, Candidate("", "", "", WHOLE)))

    start = "limit     the whole network has 2.43 MB in 8 bits"
    assert said(1_000_000) == [
        f"{start}; 1.00 MB takes 38 % of the parameters in 8 bits, or 73 % of the parameters in 4 bits"
    ]
    assert said(2_000_000) == [
        f"{start}; 2.00 MB takes 79 % of the parameters in 8 bits, or all of them in 8 and 4 bits"
    ]
    assert said(200_000) == [
        f"{start}, and the smallest that is tried about 238 kB (15 % of the parameters in 4 bits): no shape meets"
        " 200 kB"
    ]
    assert said(2_500_000) == []


def test_where_no_shape_meets_the_limit_the_smallest_is_built(resnet: Path, task: ImageTask) -> None:
    space = space_of(resnet, task, 200_000)
    whole = next(iter(space.recipes((Finetune(),))))
    (smallest,) = space.further(whole, Candidate("", "", "", WHOLE))
    assert smallest.short() == "finetune > prune(size='0.15x', samples=32) > export > quantize(bits=4)"


def test_nothing_is_taught_to_a_model_that_knows_the_labels(resnet: Path, task: ImageTask) -> None:
    space = space_of(resnet, task, 1_000_000)
    whole = next(iter(space.recipes(())))
    narrow, wide = space.further(whole, Candidate("", "", "", WHOLE))
    assert list(space.further(narrow, shown(0.3))) == list(space.further(wide, shown(0.1))) == []
