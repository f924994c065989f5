"""The verbs that show what is there: report, methods."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..progress import Progress
from .options import DONE, add_verb, print_json


def add_verbs(verbs: Any) -> None:
    """Add the parsers."""
    parser = add_verb(verbs, "report", _report, "regenerate the run's report, one HTML file")
    parser.add_argument("run", metavar="RUN", type=Path)
    add_verb(verbs, "methods", _methods, "the methods of recipes, with their options")


def _report(options: argparse.Namespace, _progress: Progress) -> int:
    from ..report import write_report

    path = write_report(options.run)
    print(json.dumps({"report": str(path)}) if options.json else path)
    return DONE


def _methods(options: argparse.Namespace, _progress: Progress) -> int:
    from ..methods import describe, names

    rows = [describe(name) for name in names()]
    if options.json:
        print_json(rows)
    else:
        from .tables import print_methods

        print_methods(rows)
    return DONE
