"""A worker whose timings are computed from a seed: what the judge makes of them does not depend on the load."""

import numpy as np

from microbudget.machine.stopwatch import Block


class Simulated:
    """A worker whose calls take `call_s`, with noise that a seed fixes. Trouble comes at every `ill`-th block.

    hog: block -> by how much another program makes it longer: the process waits for a processor meanwhile.
    """

    def __init__(self, call_s, noise=0.05, seed=0, ill=0, trouble="the machine slept", cores=lambda block: 4, hog=None):
        self.hog = hog or (lambda block: 1.0)
        self.call_s, self.noise, self.coin = call_s, noise, np.random.default_rng(seed)
        self.ill, self.trouble, self.cores, self.blocks, self.log = ill, trouble, cores, 0, []
        self.places = []

    def prepare(self, inputs):
        self.inputs = inputs

    def time_block(self, calls, dropped, place=None):
        self.blocks += 1
        self.log.append((calls, dropped))
        self.places.append(place)
        slower = self.hog(self.blocks)
        factor = slower * np.exp(self.noise * self.coin.normal())
        durations = (self.call_s * factor * np.exp(0.01 * self.coin.normal(size=calls)) * 1e9).astype(int)
        trouble = self.trouble if self.ill and self.blocks % self.ill == 0 else None
        return Block(durations, int(2e9 * self.call_s * calls), self.cores(self.blocks), trouble, 1 - 1 / slower)
