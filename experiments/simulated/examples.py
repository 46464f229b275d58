"""Estimators over examples: one model's loss, refinement, calibration, accuracy and ECE; two models' differences."""

import dataclasses

import numpy as np

from lossjax.analysis.calibration import decompose, scores
from lossjax.analysis.calibration_error import Scheme, ece
from lossjax.analysis.comparison import compare
from lossjax.analysis.proportions import bonett_price, clustered_bonett_price, newcombe, wilson
from simulated.targets import (
    ABOVE_ZERO,
    CALIBRATION,
    LARGE_CALIBRATION,
    MEANS_OF_EXAMPLES,
    NOT_JUDGED,
    SHARES,
    SMALL_CALIBRATION,
    Row,
    covers,
)
from simulated.truth import Model, Posterior, binned_error, labels_of, truth


@dataclasses.dataclass(frozen=True)
class OneModel:
    """L, R, C and accuracy of one model."""

    posterior: Posterior
    model: Model
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 1])
        log_posterior = self.posterior.draw(self.examples, rng)
        labels = labels_of(log_posterior, rng)
        logits = self.model.scale * log_posterior + self.model.noise * rng.standard_normal(log_posterior.shape)
        found, true = decompose(logits, labels, seed=seed), truth(self.posterior, self.model)
        correct = scores(logits, labels).correct
        return {
            "loss": covers(found.loss, true.loss),
            "refinement": covers(found.refinement, true.refinement),
            # in name that of a calibrated model; its C is 0 by construction, not by a minimiser's last digits
            "calibration": covers(found.calibration, 0.0 if self.calibrated else true.loss - true.refinement),
            "above_zero": float(not found.calibration.low > 0),
            "accuracy": covers(wilson(int(correct.sum()), self.examples), true.accuracy),
        }

    @property
    def calibrated(self) -> bool:
        return self.model == Model(1.0, 0.0)

    def rows(self) -> dict[str, Row]:
        n = f"n = {self.examples:,}"
        rows = {
            "loss": Row(f"loss L, {n}", MEANS_OF_EXAMPLES[self.examples]),
            "refinement": Row(f"refinement R, {n}", MEANS_OF_EXAMPLES[self.examples]),
            "accuracy": Row("accuracy (Wilson)", SHARES),
        }
        if self.calibrated:
            return rows | {"above_zero": Row("C = 0: lower bound not above 0", ABOVE_ZERO)}
        true = truth(self.posterior, self.model)
        large = self.examples * (true.loss - true.refinement) >= LARGE_CALIBRATION
        name = "nC ≥ 100" if large else "nC < 100"
        return rows | {"calibration": Row(f"calibration C, {name}", CALIBRATION if large else SMALL_CALIBRATION)}


@dataclasses.dataclass(frozen=True)
class TwoModels:
    """ΔL, ΔR, the O/K contrast and ΔA of two models whose noise is partly the same."""

    posterior: Posterior
    a: Model
    b: Model
    shared: float  # correlation of the two models' noise
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 2])
        log_posterior = self.posterior.draw(self.examples, rng)
        labels = labels_of(log_posterior, rng)
        common, *own = rng.standard_normal((3, *log_posterior.shape))
        logits_a, logits_b = (
            model.scale * log_posterior
            + model.noise * (np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * noise)
            for model, noise in zip((self.a, self.b), own, strict=True)
        )
        found = compare(logits_a, logits_b, labels, seed=seed)
        a, b = truth(self.posterior, self.a), truth(self.posterior, self.b)
        delta_loss, delta_refinement = b.loss - a.loss, b.refinement - a.refinement
        assert found.delta_refinement is not None
        assert found.contrast is not None
        return {
            "delta_loss": covers(found.delta_loss, delta_loss),
            "delta_refinement": covers(found.delta_refinement, delta_refinement),
            "contrast": covers(found.contrast, 0.2 * delta_loss - delta_refinement),
            "delta_accuracy": covers(found.delta_accuracy, b.accuracy - a.accuracy),
        }

    def rows(self) -> dict[str, Row]:
        n, target = f"n = {self.examples:,}", MEANS_OF_EXAMPLES[self.examples]
        return {
            "delta_loss": Row(f"ΔL, {n}", target),
            "delta_refinement": Row(f"ΔR, {n}", target),
            "contrast": Row(f"O/K contrast, {n}", target),
            "delta_accuracy": Row("ΔA (Bonett–Price)", SHARES),
        }


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A share near its limit: Wilson."""

    share: float
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        hits = np.random.default_rng([seed, 3]).binomial(self.examples, self.share)
        return {"accuracy": covers(wilson(int(hits), self.examples), self.share)}

    def rows(self) -> dict[str, Row]:
        return {"accuracy": Row("accuracy (Wilson)", SHARES)}


@dataclasses.dataclass(frozen=True)
class Discordant:
    """Few examples on which two models differ: Bonett–Price."""

    gained: float
    lost: float
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        chances = [self.gained, self.lost, 1 - self.gained - self.lost]
        gained, lost, _ = np.random.default_rng([seed, 4]).multinomial(self.examples, chances)
        interval = bonett_price(int(gained), int(lost), self.examples)
        return {"delta_accuracy": covers(interval, self.gained - self.lost)}

    def rows(self) -> dict[str, Row]:
        return {"delta_accuracy": Row("ΔA (Bonett–Price)", SHARES)}


@dataclasses.dataclass(frozen=True)
class Clustered:
    """``Discordant`` where examples come in clusters: with probability √correlation one changes as its cluster does."""

    gained: float
    lost: float
    clusters: int
    size: int
    correlation: float

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 12])
        chances = [self.gained, self.lost, 1 - self.gained - self.lost]
        together, alone = (rng.choice([1.0, -1.0, 0.0], (self.clusters, k), p=chances) for k in (1, self.size))
        as_one = rng.random((self.clusters, self.size)) < np.sqrt(self.correlation)
        change = np.where(as_one, together, alone).ravel()
        interval = clustered_bonett_price(change, np.repeat(np.arange(self.clusters), self.size))
        return {"delta_accuracy": covers(interval, self.gained - self.lost)}

    def rows(self) -> dict[str, Row]:
        return {"delta_accuracy": Row("ΔA in clusters of examples", SHARES)}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two independent groups' shares: Newcombe."""

    share_a: float
    total_a: int
    share_b: float
    total_b: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 19])
        a, b = (int(rng.binomial(*of)) for of in ((self.total_a, self.share_a), (self.total_b, self.share_b)))
        return {"difference": covers(newcombe(a, self.total_a, b, self.total_b), self.share_b - self.share_a)}

    def rows(self) -> dict[str, Row]:
        return {"difference": Row("difference of shares (Newcombe)", NOT_JUDGED)}


@dataclasses.dataclass(frozen=True)
class BinnedError:
    """The expected calibration error in bins, and the p-value by which it is to be read.

    What is true is the error of the same bins on the whole distribution.
    """

    posterior: Posterior
    model: Model
    scheme: Scheme
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 20])
        log_posterior = self.posterior.draw(self.examples, rng)
        labels = labels_of(log_posterior, rng)
        logits = self.model.scale * log_posterior + self.model.noise * rng.standard_normal(log_posterior.shape)
        found = ece(logits, labels, scheme=self.scheme, seed=seed)
        true = 0.0 if self.calibrated else binned_error(self.posterior, self.model, self.scheme)
        return {"error": covers(found.estimate, true), "no_alarm": float(found.p_value > 0.05)}

    @property
    def calibrated(self) -> bool:
        return self.model == Model(1.0, 0.0)

    def rows(self) -> dict[str, Row]:
        rows = {"error": Row("expected calibration error", NOT_JUDGED)}
        if self.calibrated:
            rows["no_alarm"] = Row("no miscalibration of a calibrated model", NOT_JUDGED)
        return rows
