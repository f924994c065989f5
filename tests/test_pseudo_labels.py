"""A teacher's pseudo-labels are what transformers writes, are computed once, and the loss is the paper's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.kinds.transcription.decoding import PseudoLabel, Rules, decode
from microbudget.kinds.transcription.objective import (
    IGNORED,
    LEAST,
    TrainingData,
    Weights,
    divergence,
    loss,
    objective,
    targets,
)
from microbudget.kinds.transcription.pseudo_labels import pseudo_labels
from microbudget.kinds.transcription.teaching import training_data
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.runtimes.hf.whisper import load_network
from microbudget.runtimes.loading import load
from microbudget.runtimes.speech.whisper import Prompt, Vocabulary
from microbudget.task import DataOptions
from toy_seq2seq import write_recordings, write_whisper


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(
        write_whisper(tmp_path_factory.mktemp("whisper") / "toy", max_target_positions=16, max_source_positions=150)
    )


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> TranscriptionTask:
    folder = tmp_path_factory.mktemp("speech")
    return TranscriptionTask.open(write_recordings(folder / "data", 12), DataOptions(cache=folder / "cache"))


@pytest.fixture(scope="session")
def data(whisper: Model, task: TranscriptionTask, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    context = Context(task, tmp_path_factory.mktemp("cache"))
    examples = tuple(task.examples("train"))
    return TrainingData(task, pseudo_labels(whisper, examples, context, language="en"), examples, (), {})


def test_it_writes_what_a_session_writes(whisper: Model, task: TranscriptionTask, data: TrainingData) -> None:
    from microbudget.runtimes.hf.whisper import TorchWhisper

    vocabulary, opened = Vocabulary(whisper.path), TorchWhisper(whisper.path)
    prompt = Prompt.of(whisper.path, vocabulary, opened.multilingual, "en")
    # A random network may write timestamps where it was asked not to; a pseudo-label never has one.
    opened.network.generation_config.suppress_tokens = Rules.of(opened.network, prompt).always.tolist()
    for example in task.examples("train")[:4]:
        expected = opened.generate(data.labels.front(task.waveform(example)), prompt)
        written = [int(token) for token in data.labels.labels[example.key].tokens]
        end = vocabulary.special("<|endoftext|>")
        assert [token for token in written if token != end] == [token for token in expected if token != end]


def test_the_same_words_alone_and_in_a_batch(whisper: Model) -> None:
    network, vocabulary = load_network(whisper.path), Vocabulary(whisper.path)
    prompt = Prompt.of(whisper.path, vocabulary, True, "de")
    rules = Rules.of(network, prompt)
    torch.manual_seed(1)
    states = torch.randn(5, 40, 32)
    together = decode(network, states, prompt, rules, 8)
    for row, state in zip(together, states, strict=True):
        (alone,) = decode(network, state[None], prompt, rules, 8)
        assert row.tokens.tolist() == alone.tokens.tolist()
        np.testing.assert_allclose(row.log_probabilities, alone.log_probabilities, atol=2e-2)


def test_the_log_probabilities_are_the_networks_along_its_own_words(whisper: Model) -> None:
    """Fed with all its words at once, the network gives the same probabilities as token by token."""
    network, vocabulary = load_network(whisper.path), Vocabulary(whisper.path)
    prompt = Prompt.of(whisper.path, vocabulary, True, "en")
    states = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(3))
    for row, state in zip(decode(network, states, prompt, Rules.of(network, prompt), 8), states, strict=True):
        fed = torch.tensor(np.concatenate([row.prompt, row.tokens])[None, :-1].astype(np.int64))
        with torch.inference_mode():
            logits = network(encoder_outputs=(state[None],), decoder_input_ids=fed).logits[0]
        expected = torch.log_softmax(logits[len(row.prompt) - 1 :], -1).gather(-1, torch.tensor(row.ids).long())
        np.testing.assert_allclose(expected, row.log_probabilities, atol=2e-2)


def test_forbidden_tokens_are_never_written(whisper: Model) -> None:
    network, vocabulary = load_network(whisper.path), Vocabulary(whisper.path)
    prompt = Prompt.of(whisper.path, vocabulary, True, "en")
    rules = Rules.of(network, prompt)
    torch.manual_seed(0)
    for row in decode(network, torch.randn(6, 30, 32) * 3, prompt, rules, 8):
        assert not set(row.tokens.tolist()) & set(rules.always.tolist())
        assert row.tokens[0] not in rules.first.tolist()
        assert max(row.tokens) <= prompt.no_timestamps
        assert len(row.tokens) <= rules.longest
        assert prompt.end not in row.tokens[:-1].tolist()


def test_the_language_is_detected_where_none_is_given(whisper: Model) -> None:
    network, vocabulary = load_network(whisper.path), Vocabulary(whisper.path)
    prompt = Prompt.of(whisper.path, vocabulary, True, None)
    states = torch.randn(4, 30, 32)
    with torch.inference_mode():
        start = torch.full((4, 1), prompt.start)
        logits = network(encoder_outputs=(states,), decoder_input_ids=start).logits[:, -1]
    for row, answer in zip(decode(network, states, prompt, Rules.of(network, prompt), 4), logits, strict=True):
        assert row.prompt[1] == max(prompt.languages.values(), key=lambda token: float(answer[token]))
        assert row.prompt.tolist()[2:] == [prompt.task, prompt.no_timestamps]


def test_the_teacher_hears_each_recording_once(
    whisper: Model, task: TranscriptionTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microbudget.kinds.transcription import pseudo_labels as module

    encoded: list[int] = []

    class Counted(module.TorchWhisper):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            encoder = self.network.model.encoder
            encoder.register_forward_hook(lambda _module, inputs, _outputs: encoded.append(len(inputs[0])))

    monkeypatch.setattr(module, "TorchWhisper", Counted)
    examples = task.examples("train")
    first = pseudo_labels(whisper, examples[:3], Context(task, tmp_path))
    again = pseudo_labels(whisper, [*examples, *examples[:2]], Context(task, tmp_path))
    third = pseudo_labels(whisper, examples, Context(task, tmp_path))
    assert (first.passes, again.passes, third.passes) == (3, len(examples) - 3, 0)
    assert sum(encoded) == len(examples)
    for example in examples:
        assert third.text(example) == again.text(example)
        assert third.states(example).shape == (150, 32)
        assert third.states(example).dtype == np.float16


def test_of_a_long_recording_a_window_is_read(
    whisper: Model, task: TranscriptionTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten hours of it the model hears three seconds; nothing else is decoded."""
    asked: list[float | None] = []
    waveform = TranscriptionTask.waveform

    def noted(self: TranscriptionTask, example: Any, seconds: float | None = None) -> Any:
        asked.append(seconds)
        return waveform(self, example, seconds)

    monkeypatch.setattr(TranscriptionTask, "waveform", noted)
    found = pseudo_labels(whisper, task.examples("train")[:2], Context(task, tmp_path))
    two = TrainingData(task, found, tuple(task.examples("train")[:2]), (), {})
    objective(two, front=found.front).batch(np.array([0, 1]), 0)
    assert asked == [3.0] * 4


def test_silence_has_an_empty_transcript(whisper: Model, task: TranscriptionTask, tmp_path: Path) -> None:
    """Of silence Whisper makes up a text, and a student would learn to."""
    import soundfile

    silent = write_recordings(tmp_path / "data", 6)
    soundfile.write(silent / "unlabelled.wav", np.zeros(16_000), 16_000)
    quiet = TranscriptionTask.open(silent, DataOptions(cache=tmp_path / "cache"))
    (example,) = quiet.examples("unlabelled")
    found = pseudo_labels(whisper, [example, *quiet.examples("train")], Context(quiet, tmp_path))
    assert found.text(example) == ""
    assert found.passes == len(quiet.examples("train"))
    chosen = training_data(whisper, Context(quiet, tmp_path, threads=1), max_wer=1e9, longest_s=3.0)
    assert chosen.left_out["the teacher wrote nothing"] >= 1
    assert example not in chosen.train


def test_a_killed_pass_goes_on_where_it_was(whisper: Model, task: TranscriptionTask, tmp_path: Path) -> None:
    examples = task.examples("train")
    whole = pseudo_labels(whisper, examples, Context(task, tmp_path))
    (whole.folder / f"{examples[0].key}.npz").unlink()
    (whole.folder / f"{examples[1].key}.partial").write_bytes(b"half")
    again = pseudo_labels(whisper, examples, Context(task, tmp_path))
    assert again.passes == 1
    assert again.labels[examples[0].key].tokens.tolist() == whole.labels[examples[0].key].tokens.tolist()


def test_another_model_or_window_has_other_labels(whisper: Model, task: TranscriptionTask, tmp_path: Path) -> None:
    one = pseudo_labels(whisper, task.examples("train")[:1], Context(task, tmp_path))
    other = pseudo_labels(whisper.with_record(fingerprint="other"), task.examples("train")[:1], Context(task, tmp_path))
    assert one.folder != other.folder
    assert other.passes == 1


logits = st.lists(st.floats(-8, 8), min_size=3, max_size=12)


@given(logits, st.integers(1, 12), st.randoms(use_true_random=False))
def test_divergence_against_the_plain_sum(values: list[float], top: int, random: Any) -> None:
    """KL of the distribution in which all but the k likeliest tokens are one outcome, by the definition."""
    log_p = torch.log_softmax(torch.tensor(values, dtype=torch.float64), -1)
    log_q = torch.log_softmax(torch.tensor([random.uniform(-6, 6) for _ in values], dtype=torch.float64), -1)
    top = min(top, len(values))
    best = log_p.topk(top)
    p, q = log_p.exp().tolist(), log_q.exp().tolist()
    inside = [int(index) for index in best.indices]
    expected = sum(p[i] * math.log(p[i] / q[i]) for i in inside)
    rest_p, rest_q = (sum(each[i] for i in range(len(p)) if i not in inside) for each in (p, q))
    if rest_p > LEAST:
        expected += rest_p * math.log(rest_p / max(rest_q, LEAST))
    found = float(divergence(best.values[None], best.indices[None], log_q[None])[0])
    assert found == pytest.approx(expected, abs=2e-5, rel=1e-6)
    whole = float((log_p.exp() * (log_p - log_q)).sum())
    assert found <= whole + 2e-5  # a coarser distribution distinguishes less
    if top == len(values):
        assert found == pytest.approx(whole, abs=2e-5)


class Fixed(torch.nn.Module):
    """A network with given logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **_: Any) -> Any:
        return type("Answer", (), {"logits": self.logits})


def row(prompt: list[int], tokens: list[int], log_p: np.ndarray) -> PseudoLabel:
    """All tokens of the vocabulary are known, likeliest first."""
    ids = np.argsort(-log_p, axis=1)
    values = np.take_along_axis(log_p, ids, 1)
    return PseudoLabel(np.array(prompt, np.int32), np.array(tokens, np.int32), ids.astype(np.int32), values)  # type: ignore[arg-type]


def test_the_loss_against_the_papers_equations() -> None:
    """arXiv:2311.00430: 1.0 * -log q(word) + 0.8 * sum p log(p / q), averaged over the tokens, then over the texts."""
    rng = np.random.default_rng(0)
    vocabulary, texts = 7, [([1, 2], [3, 4, 0]), ([1], [5, 0])]
    teachers = [np.log(rng.dirichlet(np.ones(vocabulary), len(tokens))) for _, tokens in texts]
    written = [row(prompt, tokens, log_p) for (prompt, tokens), log_p in zip(texts, teachers, strict=True)]
    batch = {**targets(written), "states": torch.zeros(2, 1, 1)}
    logits = torch.tensor(rng.normal(size=(2, batch["tokens"].shape[1], vocabulary)))
    expected = []
    for place, ((prompt, tokens), log_p) in enumerate(zip(texts, teachers, strict=True)):
        terms = []
        for step, token in enumerate(tokens):
            scores = logits[place, len(prompt) - 1 + step].numpy()
            q = np.exp(scores) / np.exp(scores).sum()
            p = np.exp(log_p[step])
            terms.append(1.0 * -np.log(q[token]) + 0.8 * (p * np.log(p / q)).sum())
        expected.append(np.mean(terms))
    found = loss(Fixed(logits), batch, Weights())
    assert float(found.detach()) == pytest.approx(np.mean(expected), rel=1e-5)
    found.backward()
    words_only = loss(Fixed(logits), batch, Weights(distribution=0.0))
    assert float(words_only.detach()) < float(found.detach())


def test_prompt_and_padding_are_not_learnt() -> None:
    written = [
        row([9, 8, 7], [3, 0], np.log(np.full((2, 10), 0.1))),
        row([9], [4, 5, 6, 1, 0], np.log(np.full((5, 10), 0.1))),
    ]
    batch = targets(written)
    assert batch["tokens"].tolist() == [[9, 8, 7, 3, 0], [9, 4, 5, 6, 1]]
    assert batch["next"].tolist() == [[IGNORED, IGNORED, 3, 0, IGNORED], [4, 5, 6, 1, 0]]
    logits = torch.randn(2, 5, 10)
    logits.requires_grad_()
    network = Fixed(logits)
    loss(network, {**batch, "states": torch.zeros(2, 1, 1)}, Weights()).backward()
    gradient = network.logits.grad
    assert gradient is not None
    assert gradient[0, [0, 1, 4]].abs().sum() == 0
    assert gradient[0, 2:4].abs().sum() > 0
    assert gradient.isfinite().all()


def test_states_or_features(whisper: Model, data: TrainingData) -> None:
    reads = objective(data, front=None).batch(np.array([0, 1]), 0)
    hears = objective(data, front=data.labels.front).batch(np.array([0, 1]), 0)
    assert reads["states"].shape == (2, 150, 32)
    assert hears["features"].shape == (2, 80, 300)
    network = load_network(whisper.path)
    with torch.inference_mode():
        a, b = (float(loss(network, batch, Weights())) for batch in (reads, hears))
    assert a == pytest.approx(b, abs=5e-3)  # states are kept in 16 bits


def test_the_teacher_itself_has_no_divergence(whisper: Model, data: TrainingData) -> None:
    batch = objective(data, front=None).batch(np.arange(4), 0)
    with torch.inference_mode():
        only = float(loss(load_network(whisper.path), batch, Weights(tokens=0.0, distribution=1.0)))
    assert 0 <= only + 1e-3 < 5e-3
