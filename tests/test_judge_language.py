"""The judge on language models: measure and compare of hf and gguf, KL per token, ledger."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from microbudget import cli
from microbudget.errors import BrokenModel, InvalidOption
from microbudget.judge import compare, measure
from microbudget.judge.judging import judging_of
from microbudget.judge.ledger import ledger
from microbudget.judge.ledger.gguf import nominal_bits
from microbudget.kinds.language_modelling.divergence import Comparison, compare_both, passage_divergence
from microbudget.kinds.language_modelling.task import LanguageTask
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.methods.quantize.gguf.mixtures import choose
from microbudget.methods.quantize.gguf.rewrite import ordered, rewrite
from microbudget.methods.quantize.gguf.stock import Facts
from microbudget.runtimes import open_session
from microbudget.runtimes.gguf import convert as convert_gguf
from microbudget.runtimes.gguf.file import GgufFile
from microbudget.runtimes.gguf.types import TYPES
from microbudget.runtimes.language.session import LanguageSession
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, Task
from microbudget.units import parse_drop
from quick import QUICK
from toy_language_models import train_sentencepiece, write_network
from toy_pair import Pair, needs_llama, prose, write_pair

pytestmark = needs_llama


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def rounded(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in Q4_0."""
    path = tmp_path_factory.mktemp("q") / "toy-q4_0.gguf"
    with GgufFile(pair.gguf) as file:
        choices = choose(ordered(file), Facts.of(file), "Q4_0", imatrix=False)
        rewrite(file, choices, "Q4_0", path, importance=None, threads=1)
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(prose(4000), encoding="utf-8")
    return path


def test_a_text_task_is_a_language_task(text: Path) -> None:
    task = TextTask.open(text, DataOptions(splits=False))
    assert isinstance(task, LanguageTask)
    assert isinstance(task, Task)


def test_a_passage_counts_its_judged_bytes(text: Path) -> None:
    task = TextTask.open(text, DataOptions(splits=False))
    lengths = judging_of(task).lengths(task.examples("test"))
    assert lengths is not None
    assert (lengths > 0).all()
    assert 0.6 * text.stat().st_size < lengths.sum() <= text.stat().st_size  # the first part of each is not judged


def test_divergence_is_that_of_the_definition() -> None:
    coin = np.random.default_rng(0)
    a, b = (coin.normal(size=(150, 40), scale=2).astype(np.float32) for _ in range(2))
    ids = coin.integers(0, 40, 150)
    row = passage_divergence((ids, a), (ids, b))
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), 1) for x in (a, b))
    assert row[0] == pytest.approx(-float(p[torch.arange(150), ids].sum()))
    assert row[2] == pytest.approx(-float(q[torch.arange(150), ids].sum()))
    assert row[4] == pytest.approx(float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")))
    assert row[5] == int((p.argmax(1) == q.argmax(1)).sum())


def test_other_tokens_have_costs_but_no_divergence() -> None:
    logits = np.zeros((3, 8), np.float32)
    row = passage_divergence((np.array([1, 2, 3]), logits), (np.array([1, 2]), logits[:2]))
    assert row[:4] == pytest.approx((3 * np.log(8), 3, 2 * np.log(8), 2))
    table = np.array([row])
    assert Comparison(table[:, :2], table[:, 2:4], table[:, 4], table[:, 5]).divergence() is None


def test_intervals_hold_the_mean() -> None:
    coin = np.random.default_rng(1)
    counts = np.full(100, 50.0)
    kl = coin.gamma(2, 0.5, 100)
    comparison = Comparison(np.stack([kl, counts], 1), np.stack([kl, counts], 1), kl, np.full(100, 45.0))
    found = comparison.divergence()
    assert found is not None
    assert found.kl == pytest.approx(kl.sum() / 5000)
    assert found.kl_low < found.kl < found.kl_high
    assert (found.same_top1_low, found.same_top1, found.same_top1_high) == pytest.approx((0.9, 0.9, 0.9))


def test_a_rounded_model_diverges_and_itself_does_not(pair: Pair, rounded: Path, text: Path) -> None:
    task = TextTask.open(text, DataOptions(splits=False), most={"test": 5})
    with judging_of(task).start_worker() as first, judging_of(task).start_worker() as second:
        first.open(load(pair.gguf), threads=1)
        second.open(load(pair.gguf), threads=1)
        itself = compare_both(first, second, task, task.examples("test")).divergence()
        second.open(load(rounded), threads=1)
        other = compare_both(first, second, task, task.examples("test")).divergence()
    assert itself is not None
    assert (itself.kl, itself.same_top1) == (0, 1)
    assert other is not None
    assert 0.005 < other.kl_low < other.kl < other.kl_high < 1
    assert 0.3 < other.same_top1 < 1


@pytest.mark.usefixtures("fresh_workers")
def test_measure_tells_reading_and_writing_apart(pair: Pair, text: Path) -> None:
    task = TextTask.open(text, DataOptions(splits=False), most={"test": 6})
    found = measure(pair.gguf, task, seconds=0.3, threads=1, ledger=True)
    assert (found.task, found.metric, found.format) == ("language-modelling", "bits per byte", "gguf")
    assert found.runtime.startswith("llama.cpp")
    assert found.quality_low <= found.quality <= found.quality_high
    extra = found.extra
    judged = task.score(np.zeros((6, 2)), task.examples("test")).denominator.sum()
    assert 4 * extra["stride_bytes"] < judged < 5 * extra["stride_bytes"]  # a quarter of five, and of the first nothing
    assert extra["perplexity"] == pytest.approx(2 ** (found.quality * judged / extra["tokens"]))
    assert found.latency_s is not None
    assert extra["decode_tokens_per_s"] == pytest.approx(1 / found.latency_s)
    assert extra["prefill_tokens_per_s"] > extra["decode_tokens_per_s"]  # many tokens share each read of the weights
    assert extra["language"]["kv_cache_bytes"] == 256 * 256  # 129 tokens are rounded up to 256, of 256 bytes each
    assert extra["ledger"]["size_bytes"] == found.size_bytes
    assert found.memory_bytes is not None
    assert found.memory_bytes > 100_000


def test_compare_has_kl_and_a_relative_change(pair: Pair, rounded: Path, text: Path) -> None:
    task = TextTask.open(text, DataOptions(splits=False), most={"test": 12})
    found = compare(pair.hf, rounded, task, max_drop=parse_drop("50%"), seconds=0.5, threads=1)
    assert found.size_ratio > 2
    assert 0.005 < found.extra["kl"] < 1
    assert found.extra["tokens"]["kl_low"] < found.extra["kl"] < found.extra["tokens"]["kl_high"]
    assert found.quality_change == pytest.approx(1 - found.b.quality / found.a.quality, abs=1e-6)
    assert found.quality_change_low < found.quality_change < found.quality_change_high
    assert found.verdict is not None
    assert json.loads(json.dumps(found.as_dict()))["extra"]["same_top1"] < 1


def test_a_loss_in_points_is_refused(pair: Pair, text: Path) -> None:
    task = TextTask.open(text, DataOptions(splits=False), most={"test": 2})
    with pytest.raises(InvalidOption, match="give a relative one"):
        compare(pair.gguf, pair.gguf, task, max_drop=parse_drop("1pt"), seconds=0.1, threads=1)


def test_the_command_line_measures_a_gguf_file(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.txt"
    path.write_text(prose(200), encoding="utf-8")
    command = ["measure", str(pair.gguf), "--data", str(path), "--json", "--quiet", "--threads", "1"]
    status = cli.main(command, durations=QUICK)
    assert status == 0
    row = json.loads(capsys.readouterr().out)
    assert row["metric"] == "bits per byte"
    assert row["extra"]["prefill_tokens_per_s"] > 0


@pytest.mark.parametrize("which", ["gguf", "rounded"])
def test_the_ledger_adds_up(pair: Pair, rounded: Path, which: str) -> None:
    model = load(pair.gguf if which == "gguf" else rounded)
    found = ledger(model)
    assert found.size_bytes == model.size_bytes
    assert found.parameters == sum(parameter.numel() for parameter in pair.network.parameters())
    assert found.vocabulary_bytes > 200 > found.parts()["padding"]  # every token's text
    assert sum(found.parts().values()) == found.size_bytes
    kinds = {row.type: row for row in found.rows}
    if which == "rounded":
        assert kinds["Q4_0"].effective_bits == 4.5
        assert kinds["Q4_0"].bits == 4
    assert kinds["F32"].scale_bytes == 0


@pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: kind.name)
def test_nominal_bits_leave_room_for_the_scales(kind: object) -> None:
    assert 0 < nominal_bits(kind) <= kind.bits_per_weight  # type: ignore[arg-type, attr-defined]


def test_a_passage_begins_with_no_space_that_is_not_in_it(tmp_path: Path) -> None:
    """With a SentencePiece tokenizer that puts one before every text; the same in torch and in llama.cpp."""
    train_sentencepiece(tmp_path / "hf", size=600)
    write_network(tmp_path / "hf", "llama", vocab_size=700)
    convert_gguf.plan(tmp_path / "hf", "float32").write(tmp_path / "toy.gguf")
    history, passage = b"the quick fox\n", b"jumps over the dog"
    inputs = {
        "text": np.frombuffer(history + passage, np.uint8)[None], "begin": np.array([len(history)]),
        "end": np.array([len(history + passage)]), "context": np.array([64]),
    }  # fmt: skip
    for path in (tmp_path / "hf", tmp_path / "toy.gguf"):
        session = open_session(load(path), threads=1)
        assert isinstance(session, LanguageSession)
        encode = session.reader.encode
        ids, _ = session.logits(inputs)
        assert encode((history + passage).decode()) == [*encode(history.decode()), *ids]
        assert encode(passage.decode()) != ids.tolist()
        ends = {"begin": np.array([0]), "end": np.array([len(passage)])}
        alone = {**inputs, **ends, "text": inputs["text"][:, len(history) :]}
        assert session.logits(alone)[0].tolist() == encode(passage.decode())  # the beginning of a file
        session.close()


def test_weights_that_are_not_numbers_make_a_broken_language_model(pair: Pair, text: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = shutil.copytree(pair.hf, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if name.endswith("norm.weight"))
    save_file({**tensors, name: np.full_like(tensors[name], np.nan)}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(BrokenModel, match="NaN or infinity"):
        measure(broken, text, threads=1, seconds=0)
    with pytest.raises(BrokenModel, match="not finite"):
        compare(pair.gguf, broken, text, threads=1, seconds=0)
