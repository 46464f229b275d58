"""What is known by construction: posteriors, models made from them, and each model's true loss and accuracy."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from lossjax.analysis.calibration_error import Scheme

POPULATION = 10**6


@dataclasses.dataclass(frozen=True)
class Posterior:
    """log p*(·|x) = log softmax of normal scores: the wider they are spread, the surer the labels."""

    classes: int
    spread: float

    def draw(self, num_examples: int, rng: np.random.Generator) -> np.ndarray:
        """[example, class] log p*."""
        scores = self.spread * rng.standard_normal((num_examples, self.classes))
        return np.asarray(special.log_softmax(scores, axis=1))


@dataclasses.dataclass(frozen=True)
class Model:
    """Logits = scale · log p* + noise · normal. Calibrated with scale 1 and no noise."""

    scale: float
    noise: float


class Truth(NamedTuple):
    loss: float  # nats
    refinement: float  # the least loss over temperatures
    accuracy: float


@functools.cache
def truth(posterior: Posterior, model: Model) -> Truth:
    """Over ``POPULATION`` points, the label's distribution taken whole: its sampling adds no error."""
    rng = np.random.default_rng(0)
    log_posterior = posterior.draw(POPULATION, rng)
    probabilities = np.exp(log_posterior)
    logits = model.scale * log_posterior + model.noise * rng.standard_normal(log_posterior.shape)
    label_logit = float((probabilities * logits).sum(axis=1).mean())
    highest = logits.max(axis=1)
    # float32 is exact enough for each example's part: the mean over a million is taken in float64
    shifted = (logits - highest[:, None]).astype(np.float32)

    def loss(log_inverse_temperature: float) -> float:
        inverse = np.exp(log_inverse_temperature)
        rest = np.log(np.exp(np.float32(inverse) * shifted).sum(axis=1))
        return inverse * (float(highest.mean()) - label_logit) + float(rest.mean(dtype=np.float64))

    best = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-3})
    hit = np.take_along_axis(probabilities, logits.argmax(axis=1)[:, None], axis=1)
    return Truth(loss(0.0), float(best.fun), float(hit.mean()))


@functools.cache
def binned_error(posterior: Posterior, model: Model, scheme: Scheme, bins: int = 15) -> float:
    """The expected calibration error over ``POPULATION`` points, of bins of equal width or of equal mass on it."""
    rng = np.random.default_rng(0)
    log_posterior = posterior.draw(POPULATION, rng)
    logits = model.scale * log_posterior + model.noise * rng.standard_normal(log_posterior.shape)
    confidence = special.softmax(logits, axis=1).max(axis=1)
    hit = np.exp(np.take_along_axis(log_posterior, logits.argmax(axis=1)[:, None], axis=1)[:, 0])
    inner = np.arange(1, bins) / bins
    edges = inner if scheme == "width" else np.quantile(confidence, inner)
    gaps = np.bincount(np.searchsorted(edges, confidence), hit - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / POPULATION)


def labels_of(log_posterior: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[example], each drawn from its own posterior."""
    return np.asarray((log_posterior + rng.gumbel(size=log_posterior.shape)).argmax(axis=1))
