import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget import methods
from microbudget.errors import InvalidOption, InvalidRecipe
from microbudget.methods.export import Export
from microbudget.methods.finetune import Finetune
from microbudget.methods.quantize import Quantize
from microbudget.methods.resize import Resize
from microbudget.recipes.recipe import Recipe


def test_parse_and_print() -> None:
    recipe = Recipe.parse("finetune(epochs=5) > export > quantize(bits=8)")
    assert recipe.steps == (Finetune(epochs=5), Export(), Quantize(bits=8))
    assert Recipe.parse(str(recipe)) == recipe


def test_everything_is_printed() -> None:
    assert "views=1" in str(Recipe.parse("finetune"))


def test_the_short_form_leaves_defaults_out_and_can_be_read_back() -> None:
    recipe = Recipe.parse("resize() > finetune(views=3) > export > quantize")
    assert recipe.short() == "resize(pixels=160) > finetune(views=3) > export > quantize"
    assert Recipe.parse(recipe.short()) == recipe


STEPS = st.one_of(
    st.builds(Resize, pixels=st.integers(8, 4096)),
    st.builds(
        Finetune,
        head=st.sampled_from(["linear", "mlp"]),
        views=st.integers(1, 64),
        epochs=st.integers(1, 10_000),
        learning_rate=st.floats(1e-7, 1.0),
        weight_decay=st.floats(0, 10),
    ),
    st.builds(Export),
    st.builds(Quantize, samples=st.integers(1, 100_000)),
)


@given(st.lists(STEPS, min_size=1, max_size=6))
def test_what_is_printed_can_be_read_back(steps: list[methods.Method]) -> None:
    recipe = Recipe(tuple(steps))
    assert Recipe.parse(str(recipe)) == recipe
    assert str(Recipe.parse(str(recipe))) == str(recipe)


@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(InvalidRecipe, InvalidOption):
        assert Recipe.parse(text).steps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "finetune(",
        "finetune() < export()",
        "finetune() >> export()",
        "finetune(5)",
        "__import__('os').system('true')",
        "export(format=__import__('os'))",
        "(lambda: 1)()",
        "finetune(**{'epochs': 1})",
        "finetune(epochs=[x for x in (1,)])",
        "finetune.__class__",
        "'finetune'",
        "export() > 3",
        "(" * 5000,
        "export() > " * 2000,
        "finetune(epochs=" + "9" * 5000 + ")",
        "exp\x00ort",
    ],
)
def test_code_and_nonsense_are_refused(text: str) -> None:
    with pytest.raises((InvalidRecipe, InvalidOption)):
        Recipe.parse(text)


def test_an_unknown_method_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidRecipe, match=r"no method 'prun'.*export.*finetune"):
        Recipe.parse("prun(sparsity=0.5)")


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(
        InvalidRecipe, match=r"finetune has no option 'epoch' \(did you mean epochs\?\); it has .*epochs"
    ):
        Recipe.parse("finetune(epoch=3)")


@dataclass(frozen=True)
class Renamed(methods.Method):
    """A method with an option that had another name."""

    rate: float = methods.option(0.5, "of something", low=0.0, alias="speed")


def test_the_earlier_name_of_an_option_works_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda _: Renamed)
    for made in (lambda: Renamed(speed=2), lambda: Recipe.parse("renamed(speed=2)").steps[0]):  # type: ignore[call-arg]
        with pytest.warns(UserWarning, match=r"renamed: speed is now called rate"):
            assert made() == Renamed(rate=2.0)
    assert str(Renamed(rate=2)) == "renamed(rate=2.0)"


def test_the_earlier_name_is_checked_as_the_present_one() -> None:
    with pytest.raises(InvalidOption, match="rate must be at least"), pytest.warns(UserWarning, match="now called"):
        Renamed(speed=-1)  # type: ignore[call-arg]


def test_both_names_of_an_option_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda _: Renamed)
    with pytest.raises(InvalidOption, match="speed is the earlier name of rate: give rate alone"):
        Recipe.parse("renamed(speed=1, rate=2)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("finetune(epochs=0)", "epochs must be"),
        ("finetune(head='tree')", "must be one of 'linear', 'mlp'"),
        ("finetune(epochs='many')", "epochs must be int"),
        ("finetune(epochs=True)", "epochs must be int"),
        ("finetune(learning_rate=1e999)", "learning_rate must be"),
        ("quantize(bits=7.5)", "bits must be"),
        ("resize(pixels=2)", "pixels must be"),
    ],
)
def test_an_option_out_of_range_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Recipe.parse(text)


@pytest.mark.parametrize(
    ("text", "start"),
    [("quantize()", "hf"), ("export() > finetune() > export()", "hf"), ("finetune(head='mlp') > export()", "hf")],
)
def test_formats_that_do_not_fit_are_refused(text: str, start: str) -> None:
    with pytest.raises(InvalidRecipe, match="takes"):
        Recipe.parse(text).formats(start)


def test_formats_that_fit() -> None:
    assert Recipe.parse("resize > finetune > export > quantize").formats("hf") == ("hf", "hf", "onnx", "onnx")
    assert Recipe.parse("finetune(head='mlp') > quantize").formats("hf") == ("onnx", "onnx")


def test_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('# int8\nrecipe = "export() > quantize()"\n', encoding="utf-8")
    assert Recipe.read(str(path)) == Recipe((Export(), Quantize()))
    path.write_text("recipes = 3", encoding="utf-8")
    with pytest.raises(InvalidRecipe, match="'recipe'"):
        Recipe.read(str(path))
    with pytest.raises(InvalidRecipe, match="cannot be read"):
        Recipe.read(str(tmp_path / "none.toml"))


def test_every_method_is_found_and_described() -> None:
    assert {"export", "finetune", "quantize", "resize"} <= set(methods.names())
    for name in methods.names():
        row = methods.describe(name)
        assert row["purpose"]
        assert row["formats"]
        assert all(option["doc"] for option in row["options"])


def test_a_recipe_may_have_several_lines_and_comments() -> None:
    text = "finetune(epochs=3,  # few\n  views=2) >\n\nexport\n > quantize(bits=4)  # last\n"
    assert Recipe.parse(text) == Recipe.parse("finetune(epochs=3, views=2) > export > quantize(bits=4)")
