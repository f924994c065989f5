"""The report: the results of a run, as one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from the files in the run's folder, and return its path.

    A run that has not ended, or was killed, is reported as far as it came. Examples are shown where the data are still
    there. Raises BadInput for a folder that is no run, or one where nothing was measured yet.
    """
    from .page import write

    return write(Path(run_folder))


def write_index(folder: Path) -> Path:
    """Write FOLDER/index.html over the runs in a folder, and return its path.

    What each chose, and how the choices change over time; runs that have not ended or cannot be read are listed with
    the reason. Raises BadInput for a folder without runs.
    """
    from .many import write_many

    return write_many(Path(folder))
