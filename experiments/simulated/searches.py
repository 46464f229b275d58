"""Estimators over searches: the share of inverted pairs, the order a metric keeps, differences between selectors."""

import dataclasses
import functools

import numpy as np
from scipy import integrate, stats

from lossjax.analysis.inversions import inversions
from lossjax.analysis.reliability import metric_reliability
from lossjax.analysis.selection import selection_regret
from simulated.targets import MEANS_OF_SEEDS, NOT_JUDGED, Row, covers

SEARCHES = 1000  # from which the share of inverted pairs is known: to a thirtieth of one search's standard deviation
SETS = 20_000  # from which the order kept in the better half is known


@dataclasses.dataclass(frozen=True)
class Inverted:
    """The share of inverted among the resolved pairs of configurations of normal qualities.

    What is true is the share over many fresh searches of the same design, pairs that are not resolved left out.
    """

    agreement: float  # correlation of the qualities that loss and accuracy measure
    noise: float  # standard deviation of a run's error, half of it common to both; that of the qualities is 1
    configs: int
    seeds: int

    def __call__(self, seed: int) -> dict[str, float]:
        return {"rate": covers(inversions(*self.draw(seed), seed=seed).rate, self.truth())}

    def draw(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Losses and accuracies, [config, seed]; a seed is easy or hard for all configurations alike."""
        rng = np.random.default_rng([seed, 14])
        quality = rng.standard_normal((2, self.configs, 1))
        quality[1] = self.agreement * quality[0] + np.sqrt(1 - self.agreement**2) * quality[1]
        error = rng.standard_normal((2, self.configs, self.seeds))
        error[1] = 0.5 * error[0] + np.sqrt(0.75) * error[1]
        found = quality + self.noise * error + 0.3 * rng.standard_normal((2, 1, self.seeds))
        return -found[0], found[1]

    def truth(self) -> float:
        return inverted_share(self)

    def rows(self) -> dict[str, Row]:
        return {"rate": Row("share of inverted pairs", NOT_JUDGED)}


@functools.cache
def inverted_share(case: Inverted) -> float:
    # seeds that no draw of a case has
    found = [inversions(*case.draw(10**6 + number), resamples=2) for number in range(SEARCHES)]
    inverted, concordant = (sum(getattr(one, name) for one in found) for name in ("inverted", "concordant"))
    return inverted / (inverted + concordant)


@dataclasses.dataclass(frozen=True)
class Kept:
    """How often a pair of configurations of normal qualities keeps its order on fresh seeds and fresh examples.

    Two measurements correlate by ρ = 1/(1 + noise²), and so do their differences between two configurations: the order
    is kept with probability ½ + arcsin(ρ)/π (Sheppard 1899). The mean Spearman correlation of n pairs of normals is
    6/(π(n + 1)) · (arcsin ρ + (n − 2) arcsin(ρ/2)) (Moran 1948).
    """

    noise: float  # of a measurement, half of its variance being the run's and half the examples'; qualities have 1
    configs: int
    seeds: int
    same_seeds: bool  # whether the fresh examples are asked of the same runs

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 15])
        quality = rng.standard_normal((self.configs, 1))
        shape = (2, self.configs, self.seeds)
        by_run, by_examples = self.noise / np.sqrt(2) * rng.standard_normal((2, *shape))
        if self.same_seeds:
            by_run[1] = by_run[0]
        common = rng.standard_normal((2, 1, self.seeds))  # of a seed, for all configurations
        first, fresh = quality + by_run + by_examples + common
        found = metric_reliability(first, fresh, same_seeds=self.same_seeds, seed=seed)
        return {
            "kept": covers(found.kept, 0.5 + np.arcsin(self.correlation) / np.pi),
            "kept_top": covers(found.kept_top, kept_in_the_better_half(self.correlation, self.configs)),
            "rank_correlation": covers(found.rank_correlation, self.spearman),
        }

    @property
    def correlation(self) -> float:
        return 1 / (1 + self.noise**2)

    @property
    def spearman(self) -> float:
        rho, n = self.correlation, self.configs
        return float(6 / np.pi / (n + 1) * (np.arcsin(rho) + (n - 2) * np.arcsin(rho / 2)))

    def rows(self) -> dict[str, Row]:
        return {
            "kept": Row("order kept by a metric", NOT_JUDGED),
            "kept_top": Row("order kept in the better half", NOT_JUDGED),
            "rank_correlation": Row("rank correlation with a fresh measurement", NOT_JUDGED),
        }


@functools.cache
def kept_in_the_better_half(correlation: float, num_configs: int) -> float:
    """P(order kept) of a pair that is in the better half of the first measurement, which has this many."""
    rng = np.random.default_rng(0)
    first, own = rng.standard_normal((2, SETS, num_configs))
    fresh = correlation * first + np.sqrt(1 - correlation**2) * own
    order = np.argsort(first, axis=1)[:, : (num_configs + 1) // 2]
    better = np.take_along_axis(fresh, order, axis=1)
    a, b = np.triu_indices(better.shape[1], 1)
    return float((better[:, a] < better[:, b]).mean())


@dataclasses.dataclass(frozen=True)
class Selected:
    """The difference in judged score between two selectors, which see the same qualities through noise of their own.

    With noise s the chosen of k configurations has, in expectation, ρ = 1/√(1 + s²) times the quality of the best of
    k normals, and what is left of the variance of qualities, 1 − ρ², about that.
    """

    noises: tuple[float, float]  # standard deviation of either selector's error; that of the qualities is 1
    shared: float  # correlation of their errors
    searches: int
    configs: int
    skewed: bool  # whether judged by e to the quality, and not by the quality with noise

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 16])
        costs = rng.standard_normal((self.searches, self.configs))
        common, *own = rng.standard_normal((3, *costs.shape))
        selecting = {
            name: costs + noise * (np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * each)
            for name, noise, each in zip(("loss", "brier"), self.noises, own, strict=True)
        }
        judged = np.exp(costs) if self.skewed else costs + 0.3 * rng.standard_normal(costs.shape)
        found = selection_regret(selecting, {"loss": judged}, seed=seed)
        return {"difference": covers(found.difference[0, 1, 0], self.truth())}

    def truth(self) -> float:
        first, second = (judged_score(noise, self.configs, self.skewed) for noise in self.noises)
        return first - second

    def rows(self) -> dict[str, Row]:
        # METHODS has numbers for means of few and of many seeds; searches are the units here
        return {"difference": Row("difference between selectors", MEANS_OF_SEEDS[5 if self.searches < 20 else 50])}


@functools.cache
def judged_score(noise: float, num_configs: int, skewed: bool) -> float:
    """Expected score of the chosen: of the lowest of k normals, of which ρ is seen."""
    rho = 1 / np.sqrt(1 + noise**2)

    def density(x: float) -> float:
        return float(num_configs * stats.norm.sf(x) ** (num_configs - 1) * stats.norm.pdf(x))

    def score(x: float) -> float:
        return float(np.exp(rho * x + (1 - rho**2) / 2) if skewed else rho * x)

    return float(integrate.quad(lambda x: score(x) * density(x), -10, 10, points=[-2, 0])[0])
