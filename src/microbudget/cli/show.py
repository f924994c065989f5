"""The verbs that show what is there, or hand it out: report, deliver, kit, methods."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..progress import Progress
from .options import DONE, add_verb, print_json


def add_verbs(verbs: Any) -> None:
    """Add the parsers."""
    about = "write the report of a run again, or of a folder of runs the page over them, index.html"
    parser = add_verb(verbs, "report", _report, about, "runs/flowers")
    parser.add_argument("run", metavar="RUN", type=Path, help="of one run, or a folder that holds runs")
    parser = add_verb(
        verbs,
        "deliver",
        _deliver,
        "put any row of a run into a folder, tested, with card and script",
        "runs/flowers 3 --out small/",
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("row", metavar="ROW", help="number or recipe, as the report has them")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--force", action="store_true", help="replace FOLDER where it holds files")
    about = "a folder that times and checks the models of a run on another machine"
    parser = add_verb(verbs, "kit", _kit, about, "runs/flowers --out kit")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default RUN/kit")
    parser.add_argument("--force", action="store_true", help="replace FOLDER where it holds files")
    parser = add_verb(verbs, "methods", _methods, "the methods of recipes; of those named, their options", "quantize")
    parser.add_argument("names", metavar="NAME", nargs="*", help="of a method: show its options")


def _report(options: argparse.Namespace, _progress: Progress) -> int:
    from ..report import write_index, write_report

    folder: Path = options.run
    one = (folder / "run.toml").is_file() or not folder.is_dir()
    path = write_report(folder) if one else write_index(folder)
    print(json.dumps({"report": str(path)}) if options.json else path)
    return DONE


def _deliver(options: argparse.Namespace, progress: Progress) -> int:
    from ..search.delivery import deliver_row

    found = deliver_row(options.run, options.row, options.out, force=options.force, progress=progress)
    if options.json:
        print_json(found.as_dict())
    else:
        from .tables import print_delivered

        print_delivered(found)
    return DONE


def _kit(options: argparse.Namespace, progress: Progress) -> int:
    from ..search.kit import make_kit

    kit = make_kit(options.run, options.out, force=options.force, progress=progress)
    if options.json:
        print_json(kit.as_dict())
    else:
        from .tables import print_kit

        print_kit(kit)
    return DONE


def _methods(options: argparse.Namespace, _progress: Progress) -> int:
    from ..methods import describe, names

    rows = [describe(name) for name in options.names or names()]
    if options.json:
        print_json(rows)
        return DONE
    from .tables import print_method, print_methods

    if not options.names:
        print_methods(rows)
    for row in rows if options.names else ():
        print_method(row)
    return DONE
