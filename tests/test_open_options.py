"""Open options: a recipe with `?` stands for one recipe for each value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget.errors import BadInput
from microbudget.recipes.open_options import MOST, recipes_of
from microbudget.recipes.recipe import Recipe


def test_each_value_is_a_recipe_the_safest_first() -> None:
    found = [recipe.short() for recipe in recipes_of("prune(size=?, samples=8) > export() > quantize(bits=?)")]
    assert len(found) == 16
    assert found[0] == "prune(size='0.7x', samples=8) > export > quantize"
    assert found[1] == "prune(size='0.7x', samples=8) > export > quantize(bits=4)"
    assert found[-1] == "prune(size='0.25x', samples=8) > export > quantize(bits=2)"


def test_without_open_options_it_is_one_recipe() -> None:
    text = "resize(pixels=96) > export() > quantize(size='1.2MB')"
    assert recipes_of(text) == [Recipe.parse(text)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune(sizes=?)", "prune has no option 'sizes'; it has structure"),
        ("quantize(samples=?)", "samples has no values to search over, give one; open may be bits, activations"),
        ("prun(size=?)", "prun"),
        ("prune(?)", "an open option is written method(option=?)"),
        ("prune(size='?')", "an open option is written"),
        ("? > export()", "an open option is written"),
        ("prune(size=?) > prune(sparsity=?) > quantize(bits=?)", f"stands for 48 recipes, and at most {MOST}"),
        ("prune(size=?, sparsity=0.5)", "are targets of the same cut"),
        ("prune(size=?) export()", "does not parse"),
    ],
)
def test_what_cannot_be_open_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        recipes_of(text)


@given(st.text(alphabet="prune(size=?, bits)>quantize' 0.5x", max_size=40))
def test_any_text_is_recipes_or_refused(text: str) -> None:
    try:
        found = recipes_of(text)
    except BadInput:
        return
    assert 1 <= len(found) <= MOST
    assert all(Recipe.parse(str(recipe)) == recipe for recipe in found)
