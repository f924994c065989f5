"""Retiming: candidates that were timed while the machine was busy are timed once more after all the others."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import DiskFull, Failed
from ..judge import time_pair
from ..machine.waiting import WAITED, waiting_share
from ..runs.candidates import Candidate
from ..runs.run import Run
from .evaluation import Evaluation, Setting
from .speeds import agreed, quieter, speed_of

LOOKS, PAUSE_S = 10, 0.4  # at whether the machine is quiet
OPENING_S = 10.0  # what opening a model may take besides


def time_busy_again(
    evaluation: Evaluation, run: Run, setting: Setting, reference: Candidate, found: list[Candidate]
) -> tuple[Candidate, list[Candidate]]:
    """The reference and the candidates with latencies that agree; those that still say `busy` were busy twice.

    What does not fit before the end of the search keeps its mark.
    """
    reference, found = agreed(reference, found)
    seconds, progress = setting.durations.again_s, setting.context.progress
    marked = [row for row in found if row.busy and row.measurement is not None and "reference_s" in row.speed]
    for row in marked if seconds else ():
        if time.monotonic() + seconds + OPENING_S > setting.schedule.search_end:
            break
        if not quiet_soon():
            progress.say("the machine is still busy: give the same command again when it is quiet")
            break
        progress.say(f"timing again, as {row.busy}: {row.short}")
        timed = _timed_again(evaluation, run, setting, row)
        found = [timed if each is row else each for each in found]
    return agreed(reference, found)


def quiet_soon(
    waiting: Callable[[], float | None] = waiting_share, pause: Callable[[float], None] = time.sleep, looks: int = LOOKS
) -> bool:
    """Whether the machine is quiet now, or within some seconds: another timing would otherwise find what this one did.

    waiting: for what share of the time a thread waits for a processor now.
    """
    for look in range(looks):
        if look:
            pause(PAUSE_S)
        if (waiting() or 0.0) < WAITED:
            return True
    return False


def _timed_again(evaluation: Evaluation, run: Run, setting: Setting, candidate: Candidate) -> Candidate:
    """The candidate with another timing, where that is of a quieter machine; as it is where that fails."""
    judging, reference = evaluation.judging, evaluation.reference
    examples = setting.context.task.examples("validation")
    try:
        model = evaluation.model(candidate)
        samples = [judging.timing_input(each, examples) for each in (reference.model, model)]
        standing = reference.worker()
        with judging.start_worker(setting.budget.max_memory_bytes) as worker:
            worker.open(model, threads=setting.threads)
            seconds, seed = setting.durations.again_s, setting.context.seed + 1
            pair = time_pair(standing, worker, *samples, seconds=seconds, seed=seed)
    except DiskFull:
        raise
    except Failed:  # it has been measured: its row stays
        return candidate
    found = quieter(candidate, speed_of(pair, reference.model.fingerprint))
    if found is not candidate:
        run.add(found)
    return found
