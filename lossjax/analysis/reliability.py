"""Reliability: whether the order that a metric puts configurations in holds on fresh seeds and fresh examples."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lossjax.analysis.interval import Interval
from lossjax.analysis.pairs import crossed_variance, crossed_weights, pair_share

RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How well one measurement of configurations predicts the next. Intervals are over configurations and seeds.

    Attributes:
        kept: probability that a random pair of configurations keeps its order; ½ is chance. A tie keeps it half.
        kept_top: the same for pairs of which both are in the better half of the first measurement. Fresh luck brings
            these together, so it lies below ``kept`` where there is much noise. Which configurations are in that half
            is not resampled: its interval covers 95–98 %, those of the others 96–97 % (results/coverage).
        rank_correlation: intraclass correlation of ranks, ICC(C,1) (McGraw & Wong 1996): the mean Spearman correlation
            between a measurement and a fresh one.
        num_configs, num_seeds: what it was estimated from; the seeds of the first measurement.
    """

    kept: Interval
    kept_top: Interval
    rank_correlation: Interval
    num_configs: int
    num_seeds: int


def metric_reliability(
    first: Float[np.ndarray, "config seed"],
    fresh: Float[np.ndarray, "config fresh_seed"],
    *,
    same_seeds: bool,
    higher: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Reliability:
    """Compares the order of configurations by each measurement in ``first`` with that by each one in ``fresh``.

    One column is one measurement of all configurations, with one seed each; to ask for the reliability of means over
    seeds, average columns first. Non-finite scores rank last.

    Args:
        first: scores by one set of examples.
        fresh: scores by other examples.
        same_seeds: whether column i of both are the same runs; measurements are then never compared with themselves.
        higher: whether more is better.
    """
    costs = [_costs(np.asarray(scores), higher) for scores in (first, fresh)]
    num_configs = len(costs[0])
    if len(costs[1]) != num_configs or num_configs < 3:
        raise ValueError(f"first {costs[0].shape} and fresh {costs[1].shape} must be of the same configs, 3 at least")
    if same_seeds and (costs[0].shape != costs[1].shape or costs[0].shape[1] < 2):
        raise ValueError(
            f"same_seeds=True needs two seeds or more, the same in both; first and fresh are {costs[0].shape} and "
            f"{costs[1].shape}"
        )
    measured = _Measured.of(costs, same_seeds)
    seeds = [cost.shape[1] for cost in costs]
    configs, first_seeds = crossed_weights(num_configs, seeds[0], resamples, seed)
    fresh_seeds = first_seeds if same_seeds else crossed_weights(num_configs, seeds[1], resamples, seed + 1)[1]
    ones = np.ones((1, num_configs))
    same = [np.ones((1, count)) for count in seeds]
    of_configs = measured.statistics(np.concatenate([ones, configs])[None], *same)[0]
    of_seeds = measured.statistics(
        np.stack([np.broadcast_to(ones, configs.shape), configs], axis=1), first_seeds, fresh_seeds
    )
    variance, df = crossed_variance(
        of_configs[0], of_configs[1:], of_seeds[:, 0], of_seeds[:, 1], shape=(num_configs, min(seeds))
    )
    kept, kept_top, correlation = (
        pair_share(estimate, spread, freedom, num_configs, level=level)
        for estimate, spread, freedom in zip(of_configs[0].tolist(), variance.tolist(), df.tolist(), strict=True)
    )
    return Reliability(
        kept=kept,
        kept_top=kept_top,
        rank_correlation=Interval(
            2 * correlation.estimate - 1, 2 * correlation.low - 1, 2 * correlation.high - 1, level
        ),
        num_configs=num_configs,
        num_seeds=seeds[0],
    )


class _Measured(NamedTuple):
    """Two sets of measurements, as signs of the differences of each pair of configurations."""

    first: Float[np.ndarray, "seed pair"]
    fresh: Float[np.ndarray, "fresh_seed pair"]
    top: Float[np.ndarray, "seed pair"]  # whether both are in the better half of the first
    full: tuple[Float[np.ndarray, "seed config config"], Float[np.ndarray, "fresh_seed config config"]]
    same_seeds: bool

    @staticmethod
    def of(costs: list[Float[np.ndarray, "config _"]], same_seeds: bool) -> _Measured:
        ranks = [stats.rankdata(cost, axis=0).T for cost in costs]  # [seed, config]; what is not finite ties as last
        full = tuple(np.sign(rank[:, None, :] - rank[:, :, None]).astype(np.float32) for rank in ranks)
        pairs = np.triu_indices(len(costs[0]), 1)
        better = ranks[0] <= (len(costs[0]) + 1) / 2
        top = (better[:, pairs[0]] & better[:, pairs[1]]).astype(np.float32)
        return _Measured(full[0][:, *pairs], full[1][:, *pairs], top, (full[0], full[1]), same_seeds)

    def statistics(
        self,
        configs: Float[np.ndarray, "resample weighting config"],
        first_seeds: Float[np.ndarray, "resample seed"],
        fresh_seeds: Float[np.ndarray, "resample fresh_seed"],
    ) -> Float[np.ndarray, "resample weighting statistic"]:
        """P(order kept), the same in the top half, and (1 + rank correlation)/2, under weights; nan without pairs."""
        num_resamples, num_weightings, _ = configs.shape
        found = np.empty((num_resamples, num_weightings, 3))
        size = max(1, 2_000_000 // self.first.shape[1])
        for start in range(0, num_resamples, size):
            chosen = slice(start, start + size)
            for weighting in range(0, num_weightings, size):
                within = slice(weighting, weighting + size)
                found[chosen, within] = self._chunk(configs[chosen, within], first_seeds[chosen], fresh_seeds[chosen])
        return found

    def _chunk(self, configs: np.ndarray, first_seeds: np.ndarray, fresh_seeds: np.ndarray) -> np.ndarray:
        rows, columns = np.triu_indices(configs.shape[2], 1)
        weights = configs[..., rows] * configs[..., columns]
        # float32: counts of seeds are whole and small, hence exact; sums over pairs are not small
        u, v = first_seeds.astype(np.float32), fresh_seeds.astype(np.float32)
        fresh, num_fresh = v @ self.fresh, v.sum(axis=1, keepdims=True)
        found = []
        for counted in (np.ones((len(self.first), 1), dtype=np.float32), self.top):
            signs = self.first * counted
            agree, compared = (u @ signs) * fresh, (u @ counted) * num_fresh
            if self.same_seeds:  # never a measurement with itself
                agree -= u**2 @ (signs * self.fresh)
                compared -= u**2 @ counted
            compared = np.broadcast_to(compared, agree.shape)
            totals = [np.matmul(weights, part[..., None].astype(np.float64))[..., 0] for part in (agree, compared)]
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append((1 + totals[0] / totals[1]) / 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append((1 + self._rank_correlation(configs, first_seeds, fresh_seeds)) / 2)
        return np.stack(found, axis=-1)

    def _rank_correlation(self, configs: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """[resample weighting]"""
        # a rank about its mean is half the sum of signs, so weighted signs are ranks within the resample
        first, fresh = (np.einsum("sij,rki->rksj", signs, configs, optimize=True) for signs in self.full)
        of_first, of_fresh = np.einsum("rs,rksj->rkj", u, first), np.einsum("rs,rksj->rkj", v, fresh)
        covariance = np.einsum("rkj,rkj,rkj->rk", of_first, of_fresh, configs)
        pairs = u.sum(axis=1) * v.sum(axis=1)
        if self.same_seeds:
            covariance -= np.einsum("rkj,rkj->rk", np.einsum("rs,rksj->rkj", u**2, first * fresh), configs)
            pairs = pairs - (u**2).sum(axis=1)
        spread = [
            np.einsum("rkj,rkj->rk", np.einsum("rs,rksj->rkj", seeds, ranks**2), configs) / seeds.sum(axis=1)[:, None]
            for seeds, ranks in ((u, first), (v, fresh))
        ]
        return covariance / pairs[:, None] / np.sqrt(spread[0] * spread[1])


def _costs(scores: np.ndarray, higher: bool) -> Float[np.ndarray, "config seed"]:
    if scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} must be [config, seed]")
    scores = scores.astype(np.float64)
    return np.where(np.isfinite(scores), -scores if higher else scores, np.inf)
