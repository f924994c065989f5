"""The verb that shows models at work: try."""

from __future__ import annotations

import argparse
import signal
import time
import webbrowser
from pathlib import Path
from typing import Any

from ..errors import InvalidOption
from ..machine.processor import fixed_threads
from ..progress import Progress
from .options import DONE, add_verb, print_json

KEPT = "tried"


def add_verbs(verbs: Any) -> None:
    """Add the parser."""
    about = "a local page: your own photo, voice, prompt or text, answered by the models side by side"
    parser = add_verb(verbs, "try", _try, about, "runs/flowers")
    parser.add_argument("given", metavar="RUN", nargs="+", help="a run, or MODELs: folders, .onnx or .gguf files")
    about = "where what is kept goes, to be DATA afterwards (default RUN-tried, or tried)"
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help=about)
    about = "the address that is served (default 127.0.0.1, which only this machine reaches)"
    parser.add_argument("--host", default="127.0.0.1", help=about)
    parser.add_argument("--port", type=_port, default=7860, help="the first that is tried (default 7860)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def _try(options: argparse.Namespace, progress: Progress) -> int:
    from ..trying.entrants import entrants
    from ..trying.server import Options, check_gradio, served

    found = entrants(options.given, progress)
    check_gradio()
    kept = options.keep or _kept(options.given)
    if kept.exists() and not kept.is_dir():
        raise InvalidOption(f"--keep {kept} is a file: give a folder")
    how = Options(kept, options.host, options.port, fixed_threads(options.threads))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uploads are deleted then too
    with served(found, how, progress) as page:
        progress.clear()
        if options.json:
            print_json({"address": page.address, "models": [each.name for each in found.all], "kept": str(kept)})
        else:
            print(f"{page.address}\nPress Ctrl-C to end it; uploads are deleted then.", flush=True)
        if not options.no_browser and not _browser(page.address):
            progress.say("no browser was found: open the address yourself")
        try:
            while not page.server.should_exit:
                time.sleep(0.2)
        except KeyboardInterrupt:
            pass
        for tally in page.visit.votes.tallies():
            print(tally)
    return DONE


def _browser(address: str) -> bool:
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


def _kept(given: list[str]) -> Path:
    run = Path(given[0])
    is_run = (run / "run.toml").is_file()
    return run.parent / f"{run.name}-{KEPT}" if is_run else Path(KEPT)
