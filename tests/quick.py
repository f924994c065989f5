"""How long the runs of the tests time their models: what is tested there is not the numbers."""

from microbudget.search.options import Durations

# A quantized model is not timed against float: which of such small networks is faster is a toss-up.
QUICK = Durations(reference_s=0.2, pair_s=0.2, float_s=0.0, again_s=0.0, verb_s=0.2)
