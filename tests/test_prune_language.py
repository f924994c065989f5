"""prune and lora on language models of other kinds than Llama's, and conversations of unequal length."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from microbudget.kinds.language_modelling.prune import open_target
from microbudget.methods import Context
from microbudget.methods.prune import Prune
from microbudget.methods.prune.allocate import widths
from microbudget.methods.prune.channels import plan
from microbudget.methods.prune.costs import parameters
from microbudget.methods.prune.target import choose_examples
from microbudget.model import Model
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes import open_session
from microbudget.runtimes.hf import causal
from microbudget.runtimes.loading import load
from microbudget.training import next_tokens
from microbudget.training.settings import Execution, Settings
from microbudget.training.train import train
from toy_language_models import text_context, train_byte_level, write_network

SHAPES = {
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": {"model_type": "gpt_neox"},
}


def written(folder: Path, kind: str) -> Model:
    train_byte_level(folder)
    write_network(folder, **SHAPES[kind])
    return load(folder)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return text_context(tmp_path_factory)


def bits(model: Model, context: Context) -> float:
    examples = context.task.examples("test")
    return context.task.score(open_session(model, threads=1).answer(context.task.collate(examples, {})), examples).value


@pytest.mark.parametrize("importance", ["magnitude", "wanda"])
def test_gpt_2s_matrices_are_weights(importance: str, text: Context, tmp_path: Path) -> None:
    """Its only linear layer is the one that names the words."""
    given = written(tmp_path / "gpt2", "gpt2")
    pruned = build_step(
        given, Prune(structure="weights", sparsity=0.5, importance=importance, samples=4), text, tmp_path / "s"
    )
    assert pruned.record.history["prune"]["zeros_of_pruned"] == pytest.approx(0.5, abs=0.01)
    network = causal.load_network(pruned.path)
    assert len(pruned.record.state["zeros"]) == 8
    if importance == "wanda":  # in each output's weights, which are a column here
        for name in pruned.record.state["zeros"]:
            weight = network.get_parameter(name)
            assert set((weight == 0).sum(dim=0).tolist()) == {weight.shape[0] // 2}


@pytest.mark.parametrize("kind", list(SHAPES))
def test_what_is_pruned_opens_and_goes_on(kind: str, text: Context, tmp_path: Path) -> None:
    """Whatever the config calls its widths, and where it has no word for them."""
    given = written(tmp_path / kind, kind)
    recipe = "prune(size='0.85x', samples=4) > lora(rank=2, epochs=1, length=64) > prune(structure='layers', samples=4)"
    pruned, *rest = build(given, Recipe.parse(recipe), text, tmp_path / "s")
    before, after = (sum(one.numel() for one in causal.load_network(m.path).parameters()) for m in (given, pruned))
    assert 0.8 * before < after <= 0.85 * before
    assert all(np.isfinite(bits(model, text)) for model in (pruned, *rest))


@pytest.mark.parametrize("share", [0.9, 0.8])
def test_tied_embeddings_count_once(share: float, text: Context, tmp_path: Path) -> None:
    """The words' matrix is the last layer too: one step of neurons or heads less, and the target would be missed."""
    given = written(tmp_path / "gpt2", "gpt2")
    network = causal.load_network(given.path)
    assert network.lm_head.weight is network.transformer.wte.weight
    target = open_target(Prune(), given, text, choose_examples(text, 4))
    made = plan(target, "magnitude", text.progress, uniform=True)
    whole = sum(one.numel() for one in network.parameters())
    cost = parameters(made.graph, made.sites)
    assert cost(widths(made.families, [0] * len(made.families))) == whole
    counts = made.for_size(share)
    smaller = made.cut(counts)
    left = sum(one.numel() for one in smaller.parameters())
    assert left == cost(widths(made.families, counts))
    steps = [one.step if count else 0 for one, count in zip(made.families, counts, strict=True)]
    last = max(
        cost(widths(made.families, [count - step * (index == which) for index, count in enumerate(counts)])) - left
        for which, step in enumerate(steps)
    )
    assert share * whole - last < left <= share * whole
    assert smaller.lm_head.weight is smaller.transformer.wte.weight


def test_the_share_of_zeros_counts_tied_embeddings_once(text: Context, tmp_path: Path) -> None:
    given = written(tmp_path / "gpt2", "gpt2")
    pruned = build_step(given, Prune(structure="weights", samples=4), text, tmp_path / "s")
    numbers = list(causal.load_network(pruned.path).parameters())
    zeros = sum(int((one == 0).sum()) for one in numbers)
    share = zeros / sum(one.numel() for one in numbers)
    assert pruned.record.history["prune"]["zeros_of_all"] == pytest.approx(share)


def test_neurons_of_gpt_2_stand_in_its_config(text: Context, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    pruned = build_step(written(tmp_path / "gpt2", "gpt2"), Prune(size="0.85x", samples=4), text, tmp_path / "s")
    config = json.loads((pruned.path / "config.json").read_text())
    assert config["n_inner"] < 256
    assert "widths" not in pruned.record.state
    AutoModelForCausalLM.from_pretrained(str(pruned.path), dtype=torch.float32)


def test_parts_of_a_batch_count_by_their_targets() -> None:
    """Gradient checkpointing takes a batch row by row: a short answer must not weigh as much as a long one."""
    tokens = torch.arange(24).reshape(4, 6) % 7
    targets = tokens.clone()
    for row, learnt in enumerate((1, 5, 2, 0)):
        targets[row, : 6 - learnt] = next_tokens.IGNORED
    rows = next_tokens.TokenRows(tokens, targets)

    class Bigrams(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.logits = torch.nn.Embedding(7, 7)

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> argparse.Namespace:
            return argparse.Namespace(logits=self.logits(input_ids))

    weights, losses = [], []
    for parts in (1, 4):
        network = Bigrams()
        settings = Settings(3, 0.1, batch_size=4, patience=None, parts=parts)
        done = train(network, next_tokens.next_tokens(rows, None), settings, Execution(threads=1))
        weights.append(network.logits.weight.detach())
        losses.append([row["train_loss"] for row in done.epochs])
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
