"""The server: the page on a free port of this machine, behind the guard, with a folder for uploads that goes away."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Failed, InvalidOption, MissingExtra
from ..progress import SILENT, Progress
from .asking import part_of
from .entrants import Entrants
from .opened import Opened

PORT, PORTS = 7860, 100  # the first that is tried, and how many
LOCAL = "127.0.0.1"
START_S = 30.0
UPLOADS = "GRADIO_TEMP_DIR"


@dataclass(frozen=True)
class Served:
    """A page that is served. address: with the token."""

    address: str
    port: int
    token: str
    visit: Any  # page.Visit
    uploads: Path
    server: Any  # uvicorn.Server


@dataclass(frozen=True)
class Options:
    """How the page is served. port: the first that is tried; kept: the folder of what is kept."""

    kept: Path
    host: str = LOCAL
    port: int = PORT
    threads: int = 0


def check_gradio() -> None:
    """Raise MissingExtra where the page's library is not installed."""
    try:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the page needs gradio: pip install 'microbudget[try]'") from error


@contextmanager
def served(entrants: Entrants, options: Options, progress: Progress = SILENT) -> Iterator[Served]:
    """Serve the page in threads of this process until the block ends; then uploads and processes are gone.

    Raises MissingExtra, InvalidOption for a host that is not this machine's, and what opening the models raises.
    """
    check_gradio()
    part = part_of(entrants.kind)
    with ExitStack() as stack:
        uploads = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="microbudget-try-")))
        stack.enter_context(_uploads_into(uploads))
        listening = stack.enter_context(listen(options.host, options.port, progress))
        progress.doing("opening the models")
        opened = stack.enter_context(Opened(entrants, part, options.threads))
        opened.open(*entrants.first)
        port, token = listening.getsockname()[1], secrets.token_urlsafe(24)

        from .page import Visit

        visit = Visit(opened, part, options.kept)
        server = stack.enter_context(_running(_app(visit, token, port, options.host), listening))
        shown = LOCAL if options.host in ("0.0.0.0", "::") else options.host
        shown = f"[{shown}]" if ":" in shown else shown
        yield Served(f"http://{shown}:{port}/?token={token}", port, token, visit, uploads, server)


@contextmanager
def _uploads_into(folder: Path) -> Iterator[None]:
    """Gradio reads the folder of uploads from the environment."""
    before = os.environ.get(UPLOADS)
    os.environ[UPLOADS] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(UPLOADS)
        if before is not None:
            os.environ[UPLOADS] = before


@contextmanager
def listen(host: str, port: int, progress: Progress = SILENT) -> Iterator[socket.socket]:
    """A socket on the first free port from `port` on. Raises InvalidOption for a host that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for each in range(port, min(port + PORTS, 65536)):
        found = socket.socket(family)
        try:
            if os.name == "posix":
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, each))
            found.listen(128)
        except OSError as error:
            found.close()
            if error.errno in (98, 48, 10048, 13, 10013):  # in use, on Linux, macOS and Windows; or not allowed
                continue
            raise InvalidOption(f"--host {host}: {error.strerror or error}; give an address of this machine") from error
        if each != port:
            progress.say(f"port {port} is taken: {each} is used")
        with found:
            yield found
        return
    raise Failed(f"no port from {port} to {min(port + PORTS, 65536) - 1} is free: give another --port")


def _hosts(host: str) -> frozenset[str]:
    if host in ("0.0.0.0", "::"):
        return frozenset()
    return frozenset({LOCAL, "localhost", "::1"} if host in (LOCAL, "localhost", "::1") else {host.lower()})


def _app(visit: Any, token: str, port: int, host: str) -> Any:
    import gradio
    from fastapi import FastAPI

    from . import page
    from .guard import Guard

    blocks, largest = page.build(visit), visit.part.MEDIUM.largest_bytes
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None, docs_url=None, redoc_url=None),
        blocks,
        path="",
        show_error=True,
        max_file_size=largest,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=page.theme(),
        css_paths=page.HERE / "style.css",
        head=page.head(),
    )
    return Guard(app, token, port, _hosts(host), largest + 10_000)  # and what a form has around its file


@contextmanager
def _running(app: Any, listening: socket.socket) -> Iterator[Any]:
    import uvicorn

    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise Failed("the page's server did not start")
        time.sleep(0.02)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(10)
