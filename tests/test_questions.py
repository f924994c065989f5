"""Questions: how they are read, asked and scored; the naive likelihood of every choice is the oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from microbudget import cli
from microbudget.cli.tables import print_comparison, print_measurement
from microbudget.errors import BadData, BrokenModel, InvalidOption
from microbudget.judge import compare, measure
from microbudget.judge.evidence import Shares
from microbudget.judge.judging import judging_of, scored
from microbudget.judge.secondary import secondary_judging
from microbudget.judge.verdict import judge_pair
from microbudget.kinds.language_modelling.chats import ChatTask
from microbudget.kinds.language_modelling.network import KIND
from microbudget.kinds.language_modelling.questions.answer import divergence, read_answers
from microbudget.kinds.language_modelling.questions.question import Question, parse
from microbudget.kinds.language_modelling.questions.task import QuestionTask
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.runtimes import open_session
from microbudget.runtimes.hf.causal import CausalReader
from microbudget.runtimes.language.likelihood import log_likelihoods, split
from microbudget.runtimes.language.reader import Reader
from microbudget.runtimes.loading import load
from microbudget.task import TO_JUDGE, DataOptions, open_data
from microbudget.units import parse_drop
from quick import QUICK
from toy_language_models import train_sentencepiece, write_network
from toy_pair import Pair, needs_llama, prose, write_pair

ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "question": "def answer(question):",
        "choices": ["return 42", "fox", "the lazy dog jumps"],
        "answer": 0,
    },
    {"question": "The quick brown", "choices": ["fox", "Größe, naïve, Żółć"], "answer": "fox"},
    {"question": "", "choices": ["Don't panic.", "Panic don't we've, here been!"], "answer": 1},
    {"question": "x = ", "choices": ["1", "42"], "answer": 1},
    {"prompt": "The quick brown", "answer": "fox"},
    {"prompt": "What is lost?", "regex": "(?i)question", "tokens": 5},
]


def write(path: Path, rows: list[Any] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write(tmp_path / "questions.jsonl")


def naive(reader: Reader, network: Any, context: str, continuation: str) -> float:
    """ln p of a continuation: the whole sequence is read for each, without any cache."""
    before = reader.encode(context)
    after = reader.encode(context + continuation)[len(before) :]
    tokens = before + after if before else [reader.bos, *after]
    with torch.inference_mode():
        log_p = torch.log_softmax(network(input_ids=torch.tensor([tokens])).logits[0].double(), -1)
    begin = len(tokens) - len(after)
    return sum(float(log_p[place - 1, tokens[place]]) for place in range(begin, len(tokens)))


ASKED = [
    ("def answer(question):", [" return 42", " fox", " the lazy dog jumps over it, and over it again"]),
    ("The quick brown", [" fox", " Größe"]),
    ("", ["Don't panic.", "Panic!"]),
    ("x", ["x"]),
]


@pytest.mark.parametrize(("context", "continuations"), ASKED)
@pytest.mark.parametrize("rows", [512, 5, 2])
def test_likelihoods_are_those_of_each_continuation_read_alone(
    pair: Pair, context: str, continuations: list[str], rows: int
) -> None:
    """Also where so few rows of logits fit that a continuation is read in parts."""
    reader = CausalReader(pair.hf, threads=1)
    found = log_likelihoods(reader, context, continuations, rows)
    expected = [naive(reader, pair.network, context, each) for each in continuations]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)


@needs_llama
@pytest.mark.parametrize("rows", [512, 5])
def test_llama_finds_the_same(pair: Pair, rows: int) -> None:
    """Its branches share one prefix in one batch; the float16 cache is what differs."""
    from microbudget.runtimes.gguf.session import GgufReader

    reader = GgufReader(pair.gguf, threads=1)
    hf = CausalReader(pair.hf, threads=1)
    try:
        for context, continuations in ASKED * 2:  # also in a context that is there already
            found = log_likelihoods(reader, context, continuations, rows)
            assert found == pytest.approx([naive(hf, pair.network, context, each) for each in continuations], abs=0.02)
        many = [f" {number}" for number in range(40)]
        assert log_likelihoods(reader, "x =", many, 512) == pytest.approx(
            log_likelihoods(hf, "x =", many, 512), abs=0.02
        )
    finally:
        reader.close()


def test_context_and_continuation_are_tokenized_together(tmp_path: Path) -> None:
    """SentencePiece puts a space before every text: the second part of a text has none of its own."""
    train_sentencepiece(tmp_path / "sp")
    write_network(tmp_path / "sp", "llama")
    reader = CausalReader(tmp_path / "sp", threads=1)
    before, after = split(reader, "The quick ", "fox jumps")
    assert before == reader.encode("The quick")
    assert before + after == reader.encode("The quick fox jumps")
    (likelihood,) = log_likelihoods(reader, "The quick", [" fox"], 64)
    (again,) = log_likelihoods(reader, "The quick ", ["fox"], 64)
    assert likelihood == again


@pytest.mark.parametrize("form", ["hf", pytest.param("gguf", marks=needs_llama)])
def test_a_session_answers_every_kind_of_question(pair: Pair, questions: Path, form: str) -> None:
    task = open_data(questions, KIND, TO_JUDGE)
    assert isinstance(task, QuestionTask)
    examples = task.examples("test")
    session = open_session(load(getattr(pair, form)), threads=1)
    outputs = session.answer(task.collate(examples, {}))
    answers = task.answers(outputs, examples)
    hf = CausalReader(pair.hf, threads=1)
    for row, answer, example in zip(ROWS[:3], answers, examples, strict=False):
        space = " " if row["question"] else ""
        costs = [naive(hf, pair.network, row["question"], space + choice) for choice in row["choices"]]
        per_byte = [cost / len(choice.encode()) for cost, choice in zip(costs, row["choices"], strict=True)]
        assert answer.text == row["choices"][int(np.argmax(per_byte))]
        assert answer.unnormalized == (row["choices"][int(np.argmax(costs))] == task.question(example).right)
    begun = hf.encode("The quick brown")
    for _ in range(len(hf.encode(" fox")) + 2):
        with torch.inference_mode():
            begun.append(int(pair.network(input_ids=torch.tensor([begun])).logits[0, -1].argmax()))
    assert answers[4].text == hf.decode(begun[len(hf.encode("The quick brown")) :]).strip()
    assert (answers[4].chat, answers[5].chat) == (False, True), "a reply to a regex goes through the chat template"
    scores = task.score(outputs, examples)
    assert (scores.metric, scores.higher_is_better) == ("accuracy", True)
    assert scores.numerator.tolist() == [float(answer.right) for answer in answers]
    assert np.isfinite(task.loss(outputs, examples)).all()


def test_the_answer_is_the_likeliest_by_bytes() -> None:
    question = parse('{"question": "q", "choices": ["ab", "Größe"], "answer": 1}', "line 1")
    (answer,) = read_answers([question], np.array(['{"log_likelihoods": [-3.0, -6.0]}']))
    assert (answer.text, answer.right, answer.unnormalized) == ("Größe", True, False)  # -6/7 bytes is above -3/2
    assert answer.probability == answer.of_right == pytest.approx(1 / (1 + np.exp(4.5 * (-3 / 2 + 6 / 7))))
    with pytest.raises(BrokenModel, match="NaN"):
        read_answers([question], np.array(['{"log_likelihoods": [NaN, -6.0]}']))


@pytest.mark.parametrize(
    ("expected", "written", "right"),
    [
        ("993", " 993", True), ("993", "993.\nAnd", True), ("993", "9935", False), ("993", "The 993", False),
        ("fox", "foxes", False), ("fox", "fox, and", True), ("C++", "C++14", True), ("Paris", "paris", False),
    ],
)  # fmt: skip
def test_a_written_answer_is_whole_words(expected: str, written: str, right: bool) -> None:
    assert Question("q", expected=expected).is_right(written) == right


def test_a_regular_expression_is_searched_in_the_reply() -> None:
    question = parse('{"prompt": "q", "regex": "\\\\b4(2|3)\\\\b"}', "line 1")
    assert question.is_right("It is 42.")
    assert not question.is_right("It is 420.")
    assert (question.chat, question.chance) == (True, 0.0)


BAD = {
    "no JSON": ("{not json", r"line 7 is no JSON .*give one question a line"),
    "a list": ([1, 2], "line 7 is no question but list"),
    "nothing to ask": ({"text": "x"}, "line 7 is no question: it has 'text', and neither choices nor a prompt"),
    "no question": ({"choices": ["a", "b"], "answer": 0}, "line 7 has choices and no question"),
    "a question that is no text": ({"question": 3, "choices": ["a", "b"], "answer": 0}, "a question that is no text"),
    "no answer": ({"question": "q", "choices": ["a", "b"]}, "line 7 has no answer"),
    "out of range": ({"question": "q", "choices": ["a", "b"], "answer": 2}, "out of range: 2 choices .* places 0 to 1"),
    "below zero": ({"question": "q", "choices": ["a", "b"], "answer": -1}, "line 7 has the answer -1, .* out of range"),
    "not a choice": ({"question": "q", "choices": ["a", "b"], "answer": "c"}, "'c', which is not among .* 'a', 'b'"),
    "a yes": ({"question": "q", "choices": ["a", "b"], "answer": True}, "line 7 has the answer True: give the place"),
    "a fraction": ({"question": "q", "choices": ["a", "b"], "answer": 0.5}, "the answer 0.5: give the place"),
    "twice": ({"question": "q", "choices": ["a", "b", "a"], "answer": 1}, "line 7 has the choice 'a' twice"),
    "no choices": ({"question": "q", "choices": [], "answer": 0}, "line 7 has choices .*at least two"),
    "one choice": ({"question": "q", "choices": ["a"], "answer": 0}, "line 7 has choices .*at least two"),
    "a text as choices": ({"question": "q", "choices": "ab", "answer": 0}, "line 7 has choices 'ab': give a list"),
    "an empty choice": ({"question": "q", "choices": ["a", " "], "answer": 0}, "line 7 has the choice ' '"),
    "a choice that is no text": ({"question": "q", "choices": ["a", 2], "answer": 0}, "line 7 has the choice 2"),
    "an empty prompt": ({"prompt": " ", "answer": "a"}, "line 7 has the prompt ' ': give a text"),
    "nothing expected": ({"prompt": "p"}, "line 7 has neither an answer nor a regex"),
    "two expected": ({"prompt": "p", "answer": "a", "regex": "a"}, "line 7 has both an answer and a regex"),
    "a number": ({"prompt": "p", "answer": 993}, "line 7 has the answer 993: give a text, in quotation marks"),
    "no expression": ({"prompt": "p", "regex": "(a"}, r"line 7 has the regex '\(a', which is no regular expression"),
    "no tokens": ({"prompt": "p", "regex": "a", "tokens": 0}, "line 7 has tokens 0: give a number from 1"),
    "chat": ({"prompt": "p", "answer": "a", "chat": "yes"}, "line 7 has chat 'yes': give true or false"),
    "half a character": ({"prompt": "p\ud800", "answer": "a"}, "line 7 holds half of a surrogate pair"),
    "asked before": (ROWS[1], "line 7 asks the same as line 2, which would count twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, case: str) -> None:
    row, message = BAD[case]
    path = tmp_path / "q.jsonl"
    line = row if isinstance(row, str) else json.dumps(row)
    path.write_text("".join(json.dumps(each) + "\n" for each in ROWS) + line + "\n", encoding="utf-8")
    with pytest.raises(BadData, match=message) as caught:
        open_data(path, KIND, TO_JUDGE)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n \n", encoding="utf-8")
    with pytest.raises(BadData, match="is empty"):
        QuestionTask.open(tmp_path / "q.jsonl", TO_JUDGE)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadData, match="there are no questions at"):
        QuestionTask.open(tmp_path / "folder", TO_JUDGE)


def test_a_question_longer_than_the_context_is_refused(pair: Pair, tmp_path: Path) -> None:
    long = "fox " * 300
    for row in ({"question": long, "choices": ["a", "b"], "answer": 0}, {"prompt": long, "answer": "a"}):
        task = QuestionTask.open(write(tmp_path / "q.jsonl", [row]), TO_JUDGE)
        session = open_session(load(pair.hf), threads=1)
        with pytest.raises(BadData, match="the model reads at most 256: shorten it, or leave it out"):
            session.answer(task.collate(task.examples("test"), {}))


def test_the_command_exits_2_and_says_one_sentence(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "q.jsonl", [*ROWS, {"question": "q", "choices": ["a", "a"], "answer": 0}])
    assert cli.main(["measure", str(pair.hf), "--data", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip().count("\n") == 0
    assert "line 7 has the choice 'a' twice" in said.err


def test_conversations_stay_conversations(tmp_path: Path) -> None:
    """A question with an answer and without choices is one, as before; so is a prompt with a completion."""
    for row in ({"question": "Why?", "answer": "So."}, {"prompt": "Why?", "completion": "So."}):
        path = write(tmp_path / "talks.jsonl", [row])
        assert isinstance(open_data(path, KIND, TO_JUDGE), ChatTask)


def test_a_folder_of_questions_has_splits_by_its_files_names(tmp_path: Path) -> None:
    for name, rows in (("train", ROWS[:2]), ("validation", ROWS[2:4]), ("test", [*ROWS[4:], ROWS[0]])):
        write(tmp_path / f"{name}.jsonl", rows)
    task = open_data(tmp_path, KIND, DataOptions(use="calibration"))
    assert [len(task.examples(split)) for split in ("train", "validation", "test")] == [1, 2, 3], "none in two splits"
    assert task.examples("test")[0].name == "test.jsonl:1"


def test_a_folder_of_questions_and_text_is_neither(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl")
    (tmp_path / "more.txt").write_text("a text", encoding="utf-8")
    with pytest.raises(BadData, match=r"holds questions \(q.jsonl\) and text \(more.txt\)"):
        open_data(tmp_path, KIND)


def test_each_file_of_a_folder_has_its_accuracy(tmp_path: Path) -> None:
    for name, count in (("one", 1), ("two", 2)):
        rows = [{"question": f"{name} {number}", "choices": ["a", "b"], "answer": 0} for number in range(count)]
        write(tmp_path / f"{name}.jsonl", rows)
    task = QuestionTask.open(tmp_path, TO_JUDGE)
    found = scored(judging_of(task), task.examples("test"), np.array([*OUTPUTS, OUTPUTS[0]]))
    assert found.extra["by_file"] == {
        "one.jsonl": {"accuracy": 1.0, "examples": 1}, "two.jsonl": {"accuracy": 0.5, "examples": 2}
    }  # fmt: skip


def test_two_openings_are_the_same_data(questions: Path) -> None:
    first, second = (open_data(questions, KIND, TO_JUDGE) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert [each.key for each in first.examples("test")] == [each.key for each in second.examples("test")]


def test_calibration_reads_questions_with_their_right_answers(questions: Path) -> None:
    task = QuestionTask.open(questions, TO_JUDGE)
    texts = [task.text(example) for example in task.examples("test")]
    assert texts[:4] == [
        "def answer(question): return 42",
        "The quick brown fox",
        "Panic don't we've, here been!",
        "x = 42",
    ]
    assert texts[4:] == ["The quick brown fox", "What is lost?"]


OUTPUTS = np.array(['{"log_likelihoods": [-1.0, -2.0]}', '{"log_likelihoods": [-9.0, -2.0]}'])


def test_quality_has_an_interval_chance_and_how_it_was_asked(tmp_path: Path) -> None:
    rows = [
        {"question": "one", "choices": ["a", "b"], "answer": 0},
        {"question": "two", "choices": ["a", "b"], "answer": 0},
        {"prompt": "three", "answer": "c"},
    ]
    task = QuestionTask.open(write(tmp_path / "q.jsonl", rows), TO_JUDGE)
    outputs = np.array([*OUTPUTS, '{"text": " c", "log_likelihood": -1.5, "chat": false}'])
    found = scored(judging_of(task), task.examples("test"), outputs)
    assert found.scores.value == pytest.approx(2 / 3)
    assert 0.1 < found.low < 2 / 3 < found.high < 1
    assert found.extra["chance"] == pytest.approx(1 / 3)
    assert found.extra["accuracy_unnormalized"] == pytest.approx(2 / 3)
    assert found.extra["questions"] == {"choices": 2, "answer": 1, "by_chat_template": 0}
    verdict = judge_pair(found.scores, found.scores, parse_drop("1pt"))
    assert (verdict.change, verdict.decision) == (0, "not shown")
    assert Shares.of(found.scores, found.scores, (0, 0)).labelled == 3


def test_the_divergence_is_that_of_the_choices() -> None:
    other = np.array(['{"log_likelihoods": [-2.0, -1.0]}', '{"log_likelihoods": [-9.0, -2.0]}'])
    p, q = (torch.softmax(torch.tensor(each), 0) for each in ([-1.0, -2.0], [-2.0, -1.0]))
    assert divergence(OUTPUTS, other) == pytest.approx(float((p * (p / q).log()).sum()) / 2)
    assert divergence(np.array(['{"text": "a", "log_likelihood": -1, "chat": false}']), OUTPUTS[:1]) is None


def asked(folder: Path, count: int) -> Path:
    """Questions of one word and of its last letters, half of them with a wrong answer."""
    words = ["fox", "dog", "quick", "panic", "lazy", "brown", "answer", "question"]
    rows = [
        {"question": f"{number} The {word}", "choices": [f"{word} {number}", f"{number} Größe"], "answer": number % 2}
        for number, word in ((number, words[number % len(words)]) for number in range(count))
    ]
    return write(folder / "asked.jsonl", rows)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(prose(8000), encoding="utf-8")
    return path


def test_questions_with_a_text_decide_where_the_limit_is_in_points(text: Path, tmp_path: Path) -> None:
    """All of them are evidence; what is learnt from is the text."""
    asked_too = DataOptions(use="calibration", questions=asked(tmp_path, 40))
    plain = open_data(text, KIND, replace(asked_too, questions=None))
    for limit in (None, parse_drop("1%")):
        task = open_data(text, KIND, replace(asked_too, limit=limit))
        assert isinstance(task, TextTask)
        assert task.fingerprint == plain.fingerprint, "a run goes on with the models that it has"
        other = secondary_judging(task)
        assert other is not None
        assert [len(other.task.examples(split)) for split in ("train", "validation", "test")] == [0, 16, 24]
    task = open_data(text, KIND, replace(asked_too, limit=parse_drop("1pt")))
    assert isinstance(task, QuestionTask)
    assert isinstance(task.secondary, TextTask)
    assert task.examples("train") == plain.examples("train")
    assert task.text(task.examples("train")[0]) == task.secondary.text(plain.examples("train")[0])
    assert [len(task.examples(split)) for split in ("validation", "test")] == [16, 24]
    assert task.fingerprint not in (plain.fingerprint, other.task.fingerprint)
    assert secondary_judging(plain) is None


def test_what_is_learnt_from_conversations_stays_conversations(tmp_path: Path) -> None:
    """Where questions decide, a training still reads turns, and is validated on questions as one."""
    talks = write(tmp_path / "talks.jsonl", [{"prompt": f"Why {n}?", "completion": f"So {n}."} for n in range(30)])
    how = DataOptions(questions=asked(tmp_path, 10), limit=parse_drop("1pt"))
    task = open_data(talks, KIND, how)
    assert isinstance(task, QuestionTask)
    turns = task.conversation
    assert turns is not None
    assert turns(task.examples("train")[0])[0]["content"].startswith("Why")
    question, answer = turns(task.examples("validation")[0])
    assert (question["role"], answer["role"]) == ("user", "assistant")
    assert QuestionTask.open(asked(tmp_path, 10)).conversation is None


def test_questions_are_for_language_models_with_text(text: Path, tmp_path: Path) -> None:
    file = asked(tmp_path, 8)
    with pytest.raises(InvalidOption, match="questions are for language-modelling, and the model is for image-class"):
        open_data(text, "image-classification", DataOptions(questions=file))
    with pytest.raises(InvalidOption, match="the data are questions already"):
        open_data(file, KIND, DataOptions(questions=file))
    with pytest.raises(BadData, match="there are no questions at"):
        open_data(text, KIND, DataOptions(questions=tmp_path / "none.jsonl"))


@needs_llama
@pytest.mark.parametrize(
    ("limit", "metric", "other"), [("90%", "bits per byte", "accuracy"), ("60pt", "accuracy", "bits per byte")]
)
def test_a_run_on_text_asks_questions_too(
    pair: Pair, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_plots: None,
    limit: str, metric: str, other: str,
) -> None:  # fmt: skip
    """Either decides by its unit; of the other one the value and the paired change are said; the answers stay."""
    del without_plots
    monkeypatch.setattr("microbudget.kinds.language_modelling.search_space.LEVELS", ("Q2_K",))
    out = tmp_path / "run"
    command = ["shrink", str(pair.hf), "--data", str(text), "--questions", str(asked(tmp_path, 40))]
    command += ["--max-drop", limit, "--out", str(out), "--threads", "1"]
    assert cli.main(command, durations=QUICK) == 0
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    reference, best = result["reference"], result["best"]
    assert best["measurement"]["metric"] == metric
    assert best["verdict"]["limit"] == limit
    for row in (best["test"], best["measurement"]):
        secondary = row["extra"]["secondary"]
        assert secondary["metric"] == other
        assert secondary["quality_low"] <= secondary["quality"] <= secondary["quality_high"]
        assert secondary["change_low"] <= secondary["change"] <= secondary["change_high"]
        assert secondary["verdict"] in ("within", "exceeds", "not shown")
    assert reference["measurement"]["extra"]["secondary"]["examples"] >= secondary["examples"] > 0
    assert result["examples"]["train"] > 0, "an importance matrix is computed from the text"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"Change of {other}" in page
    assert "Guessing has 50 % of the questions right." in page
    assert "validation questions that both answered" in page


@needs_llama
def test_compare_and_measure_ask_too(
    pair: Pair, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TextTask.open(text, TO_JUDGE, most={"test": 3})
    task = replace(task, secondary=QuestionTask.open(asked(tmp_path, 9), TO_JUDGE))
    found = compare(pair.hf, pair.gguf, task, seconds=0.2, threads=1)
    secondary = found.extra["secondary"]
    assert (secondary["metric"], secondary["examples"]) == ("accuracy", 9)
    assert secondary["change_low"] <= secondary["change"] <= secondary["change_high"]
    assert secondary["same_top1"] > 0.8
    print_comparison(found)
    assert "on 9 questions accuracy is" in " ".join(capsys.readouterr().out.split())
    measured = measure(pair.gguf, task, seconds=0.2, threads=1)
    assert measured.extra["secondary"]["quality"] == secondary["quality"]
    print_measurement(measured)
    assert "on 9 questions" in capsys.readouterr().out
    alone = measure(pair.gguf, task.secondary, seconds=0.2, threads=1)
    assert (alone.metric, alone.quality, alone.extra["chance"]) == ("accuracy", secondary["quality"], 0.5)
    print_measurement(alone)
    assert "9 by likelihood per byte, without a chat template" in " ".join(capsys.readouterr().out.split())
