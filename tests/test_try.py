"""The page of `try`: who may use it, what is refused, votes, what is kept; and once in Chromium from end to end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from microbudget.cli import main
from microbudget.errors import AlreadyExists, BadData, BadInput, InvalidOption
from microbudget.kind import facet
from microbudget.progress import SILENT, Progress
from microbudget.task import TO_TRAIN
from microbudget.trying.asking import Answer, part_of
from microbudget.trying.cards import html_of
from microbudget.trying.entrants import entrants
from microbudget.trying.guard import REQUEST_BYTES, UPLOAD, Guard
from microbudget.trying.keeping import folder_name
from microbudget.trying.opened import Opened
from microbudget.trying.server import Options, listen, served
from microbudget.trying.votes import Tally, Votes

CHROMIUM = Path("/usr/bin/chromium")
PHOTOS = part_of("image-classification")


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


# Who may use it


async def _inside(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    status = 499 if message["type"] == "http.disconnect" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def asked(
    query: str = "",
    path: str = "/",
    body: bytes = b"",
    hosts: frozenset[str] = frozenset({"127.0.0.1"}),
    **headers: str,
) -> tuple[int, dict[str, str]]:
    """Status and headers of what the guard answers."""
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        said.append(message)

    given = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    rows = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "path": path, "query_string": query.encode(), "headers": rows}
    asyncio.run(Guard(_inside, "secret", 7860, hosts, 5_000_000)(scope, receive, send))
    return said[0]["status"], {name.decode(): value.decode() for name, value in said[0]["headers"]}


COOKIE = "microbudget-7860=secret"


def test_the_token_is_taken_from_the_address_once() -> None:
    status, headers = asked("token=secret&__theme=dark")
    assert status == 303
    assert headers["location"] == "/?__theme=dark"
    assert headers["set-cookie"].startswith(f"{COOKIE}; ")
    assert "HttpOnly" in headers["set-cookie"]
    status, headers = asked(cookie=COOKIE)
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"query": "token=wrong"},
        {"query": "token="},
        {"query": "token=wrong", "cookie": COOKIE},
        {"cookie": "microbudget-7860=wrong"},
        {"cookie": "microbudget-7861=secret"},
        {"cookie": COOKIE, "host": "example.com"},
        {"cookie": COOKIE, "host": "127.0.0.1.example.com:7860"},
        {"cookie": COOKIE, "host": ""},
        {"query": "token=secret", "host": "evil.test:7860"},
    ],
)
def test_another_host_or_a_wrong_token_is_refused(request_: dict[str, str]) -> None:
    assert asked(**request_)[0] == 403  # type: ignore[arg-type]


def test_where_the_network_is_served_hosts_are_addresses() -> None:
    everything = frozenset[str]()
    assert asked(cookie=COOKIE, host="192.168.1.4:7860", hosts=everything)[0] == 200
    assert asked(cookie=COOKIE, host="[fe80::1]:7860", hosts=everything)[0] == 200
    assert asked(cookie=COOKIE, host="rebound.test:7860", hosts=everything)[0] == 403


def test_a_request_that_is_too_large_is_refused() -> None:
    assert asked(cookie=COOKIE, content_length=str(2_000_000_000), path=UPLOAD)[0] == 413
    assert asked(cookie=COOKIE, content_length=str(REQUEST_BYTES + 1))[0] == 413
    assert asked(cookie=COOKIE, content_length="-1")[0] == 413
    assert asked(cookie=COOKIE, path=UPLOAD, body=b"x" * 6_000_000)[0] == 499  # it did not say how long it is


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, said = taken.getsockname()[1], Said()
        with listen("127.0.0.1", port, said) as found:
            assert found.getsockname()[1] > port
            assert said.lines == [f"port {port} is taken: {found.getsockname()[1]} is used"]


def test_a_host_of_another_machine_is_refused() -> None:
    with (
        pytest.raises(InvalidOption, match=r"--host 192.0.2.1: .*; give an address of this machine"),
        listen("192.0.2.1", 7860),
    ):
        pass


# What is put in


def test_a_zip_named_jpg_is_no_photo(tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(BadData, match="no photo that can be read: it is not an image"):
        PHOTOS.check(str(path))


def test_a_photo_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (12_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(BadData, match="12000 x 10000 pixels; at most 100,000,000 are taken"):
        PHOTOS.check(str(path))


def test_a_recording_of_ten_hours_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(1000)
        file.writeframes(b"\x80" * 36_000_000)
    with pytest.raises(BadData, match="lasts 36,000 s; at most"):
        part_of("transcription").check(str(path))


def test_a_recording_whose_header_promises_ten_hours_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    path = tmp_path / "short.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(3200))
    data = bytearray(path.read_bytes())
    data[40:44] = (36_000 * 32_000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(BadData, match=r"^short\.wav"):
        part_of("transcription").check(str(path))


@pytest.mark.parametrize("kind", ["language-modelling", "text-classification"])
def test_a_prompt_of_a_megabyte_is_refused(kind: str) -> None:
    with pytest.raises(BadData, match="1,000,000 characters; at most 20,000"):
        part_of(kind).check("x" * 1_000_000)


def test_what_models_say_is_text_and_no_markup() -> None:
    shown = html_of(("<b>a</b>", "b"), (Answer(text="<script>1</script> yes"), Answer(text="<img src=x> yes")))
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "<mark>&lt;img src=x&gt;</mark> yes" in shown


# Votes


def test_six_votes_for_one_decide() -> None:
    tally = Tally(("a", "b"), first=5)
    assert not tally.decided
    assert tally.more == 1
    tally = Tally(("a", "b"), first=6, same=4)
    assert tally.p == pytest.approx(2 / 64)
    assert str(tally) == "6 for a, 0 for b, 4 the same: people prefer a (sign test, p = 0.031)"


def test_a_tie_says_nothing() -> None:
    assert str(Tally(("a", "b"), 2, 2)) == "2 for a, 2 for b, 0 the same: no preference so far"


def test_votes_count_for_the_models_whatever_side_they_were_on() -> None:
    votes = Votes()
    votes.add(("b", "a"), "left")
    votes.add(("a", "b"), "right")
    tally = votes.add(("a", "b"), "same")
    assert (tally.names, tally.first, tally.second, tally.same) == (("a", "b"), 0, 2, 1)
    assert votes.tallies() == [tally]


# What is kept


def test_kept_photos_are_data(finished: Path, photos: Path, tmp_path: Path) -> None:
    for label in ("red", "green", "blue"):
        for path in sorted((photos / label).iterdir())[:3]:
            PHOTOS.keep(tmp_path / "kept", str(path), label)
    with pytest.raises(AlreadyExists, match="kept already, as red/"):
        PHOTOS.keep(tmp_path / "kept", str(min((photos / "red").iterdir())), "blue")
    task = facet("image-classification", "data").open_task(tmp_path / "kept", TO_TRAIN)
    assert task.labels == ("blue", "green", "red")
    assert sum(len(task.examples(split)) for split in ("train", "validation", "test")) == 9


def test_kept_recordings_texts_and_prompts_are_data(tmp_path: Path) -> None:
    import json

    voice, texts, prompts = (part_of(kind) for kind in ("transcription", "text-classification", "language-modelling"))
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    kept = voice.keep(tmp_path / "voice", str(tmp_path / "a.wav"), 'he said "no",\nand left')
    assert (tmp_path / "voice" / "metadata.csv").read_text(encoding="utf-8") == (
        f'file_name,transcription\n{kept.name},"he said ""no"", and left"\n'
    )
    texts.keep(tmp_path / "texts", "so\ngood", "yes")
    assert (
        texts.keep(tmp_path / "texts", "bad", "no").read_text(encoding="utf-8") == "text,label\nso good,yes\nbad,no\n"
    )
    row = json.loads(prompts.keep(tmp_path / "prompts", "2 + 2?", "4").read_text(encoding="utf-8"))
    assert [each["content"] for each in row["messages"]] == ["2 + 2?", "4"]
    from microbudget.kinds.language_modelling.layouts import messages
    from microbudget.kinds.text_classification.tables import read

    assert len(messages(row, "row 1")) == 2
    assert len(read(tmp_path / "texts" / "texts.csv").rows) == 2


@pytest.mark.parametrize("label", ["", "  ", "..", "../up", "a/b", "a\\b", ".hidden", "x" * 100, "a\0b"])
def test_a_label_that_is_no_folder_is_refused(label: str) -> None:
    with pytest.raises(BadData):
        folder_name(label)


# The models


def test_the_reference_and_what_ships_come_first(finished: Path) -> None:
    found = entrants([str(finished)], SILENT)
    assert len(found.first) == 2
    assert found.first[0].startswith("reference: ")
    assert found.first[1].endswith(" (ships)")
    assert found.kind == "image-classification"
    assert found.labels == ("blue", "green", "red")


def test_a_run_whose_models_were_moved(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.move(run / "models", tmp_path / "elsewhere")
    said = Said()
    only = entrants([str(run)], said)
    assert [each.name.endswith("(ships)") for each in only.all] == [True]  # RUN/best is there
    assert any("cannot be tried" in line for line in said.lines)
    shutil.rmtree(run / "best")
    with pytest.raises(BadInput, match=r"no model of the run .* is there any more"):
        entrants([str(run)], SILENT)


def test_an_unfinished_run_shows_what_it_has(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    assert len(entrants([str(run)], SILENT).all) >= 2
    (run / "candidates.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="no candidates yet"):
        entrants([str(run)], SILENT)


def test_models_of_two_kinds_or_a_run_and_a_model_are_refused(finished: Path, onnx_model: Path) -> None:
    with pytest.raises(InvalidOption, match="give one RUN, or MODELs"):
        entrants([str(finished), str(onnx_model)], SILENT)


def test_two_models_of_one_name_have_two_names(onnx_model: Path) -> None:
    assert [each.name for each in entrants([str(onnx_model)] * 2, SILENT).all] == ["tiny-onnx", "tiny-onnx (2)"]


def test_a_worker_that_dies_is_replaced_and_that_is_said(onnx_model: Path, photos: Path) -> None:
    photo = str(next(photos.rglob("*.png")))
    with Opened(entrants([str(onnx_model)], SILENT), PHOTOS, threads=1) as opened:
        opened.open("tiny-onnx")
        (first,) = opened.answers("tiny-onnx", photo)
        assert first.labels[0][1] >= first.labels[1][1]
        assert first.picture.startswith(b"\x89PNG")
        assert not first.note
        pid = opened.pids()["tiny-onnx"]
        os.kill(pid, signal.SIGKILL)
        (second,) = opened.answers("tiny-onnx", photo)
        assert second.labels == first.labels or second.note  # it may have answered before it was gone
        assert "process" in second.note
        assert opened.pids()["tiny-onnx"] != pid
        (third,) = opened.answers("tiny-onnx", photo)
        assert (third.labels, third.note) == (first.labels, "")


def test_without_gradio_one_sentence(
    onnx_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["try", str(onnx_model), "--no-browser"]) == 2
    assert capsys.readouterr().err == "error: the page needs gradio: pip install 'microbudget[try]'\n"


def test_every_kind_can_be_tried() -> None:
    from microbudget.kind import having, names

    assert having("trying") == names()
    for kind in names():
        assert facet(kind, "trying").MEDIUM.largest_bytes > 0


# In Chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_of_run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    kept = tmp_path_factory.mktemp("try") / "kept"
    with served(entrants([str(finished)], SILENT), Options(kept, threads=1)) as found:
        yield found
    assert not found.uploads.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_photo_is_answered_voted_on_and_kept_and_nothing_is_loaded_from_elsewhere(
    browser: Any, page_of_run: Any, photos: Path, tmp_path: Path
) -> None:
    asked_for: list[str] = []
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page, other = context.new_page(), context.new_page()
    context.on("request", lambda request: asked_for.append(request.url))
    photo = min((photos / "red").iterdir())
    page.goto(page_of_run.address)
    page.set_input_files("input[type=file]", photo)
    page.wait_for_selector(".card .time")
    assert "token" not in page.url
    assert page.locator(".card").count() == 2
    assert page.locator(".card figure img").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # another tab has its own photo
    other.goto(page_of_run.address)
    other.wait_for_selector("input[type=file]", state="attached")
    assert other.locator(".card").count() == 0
    bad = tmp_path / "bad.jpg"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("a.txt", "hello")
    other.set_input_files("input[type=file]", bad)
    other.wait_for_selector("#answers .failure")
    assert "no photo that can be read" in other.inner_text("#answers")
    assert page.locator(".card").count() == 2
    # a vote, by keyboard
    page.get_by_label("Without names").focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#vote-left", state="visible")
    assert [each.lower() for each in page.locator(".card h3").all_inner_texts()] == ["left", "right"]
    page.locator("#vote-left").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#verdict .line")
    assert "5 more votes at this share would decide" in page.inner_text("#verdict")
    page.wait_for_selector("#vote-left", state="hidden")
    # and the photo is kept
    page.get_by_label("Right label").fill("red")
    page.keyboard.press("Enter")
    page.click("#keep button, button#keep")
    page.wait_for_selector("#kept .line")
    kept = [path for path in page_of_run.visit.kept.rglob("*") if path.is_file()]
    assert [path.parent.name for path in kept] == ["red"]
    assert kept[0].read_bytes() == photo.read_bytes()
    assert {url.split("/")[2].split(":")[0] for url in asked_for if url.startswith("http")} == {"127.0.0.1"}
    context.close()


@pytest.mark.filterwarnings("ignore")
def test_without_the_token_nothing_is_served(browser: Any, page_of_run: Any) -> None:
    context = browser.new_context()
    for path in ("/", "/?token=wrong", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd"):
        answered = context.request.get(f"http://127.0.0.1:{page_of_run.port}{path}")
        assert answered.status == 403, path
    context.close()
