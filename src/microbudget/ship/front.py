"""Front: the models that no other of a run beats in size, latency and quality at once, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..machine.files import whole_folder, write_text
from ..model import Model
from ..report import phrases
from ..runs.candidates import Candidate
from ..runs.choice import pareto
from ..runs.run import Run
from . import ship
from .shipment import Shipment

HEAD = """# The front of this run

No other candidate is better than one of these in size, latency and quality at once. The folders have the numbers of
the report. Only what the table calls tested has read the test split: `microbudget deliver RUN NUMBER --out FOLDER`
tests and delivers another one.

| folder | recipe | size | latency | change on validation | tested |
|---|---|---:|---:|---:|---|
"""


def deliver_front(
    run: Run, shipment: Shipment, found: Sequence[Candidate], model_of: Callable[[Candidate], Model]
) -> None:
    """Replace RUN/front. shipment: of the choice. found: all candidates, in the order of their numbers from 1.

    Weights are not copied where the disk knows links. Raises OSError.
    """
    numbers = {candidate.fingerprint: number for number, candidate in enumerate(found, 1)}
    lines = []
    with whole_folder(run.front) as folder:
        for row in pareto(found):
            number = numbers[row.fingerprint]
            ship(replace(shipment, model=model_of(row), candidate=row), folder / str(number), linked=True)
            lines.append(f"| {number} | {' | '.join(_cells(row))} |")
        write_text(folder / "README.md", HEAD + "\n".join(lines) + "\n")


def _cells(row: Candidate) -> tuple[str, ...]:
    measured = row.there.measurement
    assert measured is not None
    change = phrases.MISSING if row.verdict is None else phrases.change(row.verdict)
    tested = phrases.quality(row.test) if row.test else "no"
    return f"`{row.short}`", phrases.size(measured), phrases.latency(measured), change, tested
