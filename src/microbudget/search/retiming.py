"""Retiming: candidates that were timed while the machine was busy are timed once more after all the others."""

from __future__ import annotations

import time

from ..errors import DiskFull, Failed
from ..judge import time_pair
from ..runs.candidates import Candidate
from ..runs.run import Run
from .evaluation import Evaluation, Setting
from .speeds import agreed, quieter, speed_of

OPENING_S = 10.0  # what opening a model may take besides


def time_busy_again(
    evaluation: Evaluation, run: Run, setting: Setting, reference: Candidate, found: list[Candidate]
) -> tuple[Candidate, list[Candidate]]:
    """The reference and the candidates with latencies that agree; those that still say `busy` were busy twice.

    What does not fit before the deadline keeps its mark, and so does the rest where the user interrupts it.
    """
    reference, found = agreed(reference, found)
    seconds, progress, deadline = setting.durations.again_s, setting.context.progress, setting.context.deadline
    marked = [row for row in found if row.busy and row.measurement is not None and "reference_s" in row.speed]
    try:
        for row in marked if seconds else ():
            if deadline is not None and time.monotonic() + seconds + OPENING_S > deadline:
                break
            progress.say(f"timing again, as {row.busy}: {row.recipe}")
            timed = _timed_again(evaluation, run, setting, row)
            found = [timed if each is row else each for each in found]
    except KeyboardInterrupt:
        progress.say("stopped: the timings that there are count")
    return agreed(reference, found)


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
