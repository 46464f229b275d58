"""Estimators of how runs of one configuration differ: the variance ratio, and disagreement against error."""

import dataclasses

import numpy as np

from lossjax.analysis.spread import disagreement, seed_variance
from simulated.targets import NOT_JUDGED, Row, covers


@dataclasses.dataclass(frozen=True)
class Alike:
    """Runs of a class-wise calibrated algorithm of two classes, some of which may be luckier than others.

    Of an example a share q of runs predicts class 1, which is its label with probability q: so the variance between
    runs is err/2n and two runs disagree as often as one errs. With ``luck`` a run turns its answers round at a rate of
    its own, uniform in [0, luck], and both are off by a known amount.
    """

    runs: int
    examples: int
    luck: float

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 17])
        share = rng.beta(PLACES, PLACES, size=self.examples)
        labels = (rng.random(self.examples) < share).astype(np.int64)
        shape = (self.runs, self.examples)
        turned = rng.random(shape) < self.luck * rng.random((self.runs, 1))
        predictions = (rng.random(shape) < share) ^ turned
        variance = seed_variance(predictions == labels, seed=seed)
        pairs = disagreement(predictions.astype(np.int64), labels, seed=seed)
        true = self.truth()
        assert variance.ratio is not None
        assert variance.independent_ratio is not None
        return {
            "ratio": covers(variance.ratio, true["ratio"]),
            "independent_ratio": covers(variance.independent_ratio, true["independent_ratio"]),
            "distribution": covers(variance.distribution, true["distribution"]),
            "disagreement": covers(pairs.disagreement, true["disagreement"]),
            "difference": covers(pairs.difference, true["difference"]),
        }

    def truth(self) -> dict[str, float]:
        """From the moments of q: a run is right with probability c = q or 1 − q, and turned round at rate t."""
        product = PLACES / (2 * (2 * PLACES + 1))  # E q(1 − q)
        right, right_squared = 1 - 2 * product, 1 - 3 * product  # E c, E c²
        turned, spread = self.luck / 2, self.luck**2 / 12  # mean and variance of t
        # of an example, the share of wrong runs is (1 − t) − (1 − 2t)·c with t's mean
        most, slope = 1 - turned, 1 - 2 * turned
        error = most - slope * right
        alone = error - (most**2 - 2 * most * slope * right + slope**2 * right_squared)
        distribution = spread * (2 * right - 1) ** 2
        n = self.examples
        return {
            "ratio": (alone / n + (1 - 1 / n) * distribution) / (error / (2 * n)),
            "independent_ratio": 2 * alone / error,
            "distribution": distribution,
            "disagreement": 2 * alone,
            "difference": 2 * alone - error,
        }

    def rows(self) -> dict[str, Row]:
        return {
            "ratio": Row("variance between runs over err/2n", NOT_JUDGED),
            "independent_ratio": Row("variance by independent errors over err/2n", NOT_JUDGED),
            "distribution": Row("variance of the error rate on the distribution", NOT_JUDGED),
            "disagreement": Row("disagreement of runs", NOT_JUDGED),
            "difference": Row("disagreement minus error", NOT_JUDGED),
        }


PLACES = 0.4  # both parameters of q's beta distribution: most examples are nearly certain
