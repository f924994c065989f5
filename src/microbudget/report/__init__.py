"""The report: what a run found, as one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from what stands in the run's folder, and return its path.

    A run that is going on or was killed is reported as far as it came. Photos are shown where the data folder is
    still there. Raises BadInput for a folder that is no run, or one where nothing was measured yet.
    """
    from .page import write

    return write(Path(run_folder))
