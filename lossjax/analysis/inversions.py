"""Inversions: pairs of configurations of which one has the better loss and the other the better accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from lossjax.analysis.interval import Interval
from lossjax.analysis.pairs import crossed_variance, crossed_weights, pair_share
from lossjax.analysis.resampling import StudentMeans
from lossjax.analysis.significance import fewest_pairs, refusal

Fate = Literal["reversed", "unresolved", "persists"]
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Inversions:
    """How often loss and accuracy order configurations differently; intervals hold for fresh configurations and seeds.

    Attributes:
        relation: [config config] 1 where the pair is resolved and concordant, −1 inverted, 0 not resolved.
        inverted, concordant, unresolved: numbers of pairs.
        rate: inverted/(inverted + concordant); nan without a resolved pair.
        kendall: Kendall's τ_b of mean accuracy and minus mean loss, over all pairs, resolved or not: 1 where both order
            the configurations alike.
        tempered: the same with the losses at T*, where they are given.
        fates: what becomes of the inverted pairs at T*: the shares that are reversed (resolved as concordant), not
            resolved, or persist. None without losses at T*, nan without inverted pairs.
        kendall_change: τ_b at T* minus τ_b. None without losses at T*.
        nonfinite: [config] share of its seeds that were not finite, which are left out.
        num_seeds: of each configuration.
        refused: why no pair is resolved whatever they are: too few seeds for any test (``significance.refusal``).
    """

    relation: np.ndarray
    inverted: int
    concordant: int
    unresolved: int
    rate: Interval
    kendall: Interval
    tempered: Inversions | None
    fates: Mapping[Fate, Interval] | None
    kendall_change: Interval | None
    nonfinite: np.ndarray
    num_seeds: int
    refused: str | None


def inversions(
    losses: Float[np.ndarray, "config seed"],
    accuracies: Float[np.ndarray, "config seed"],
    *,
    tempered_losses: Float[np.ndarray, "config seed"] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Inversions:
    """Counts the inverted and the concordant among all pairs of configurations.

    A pair is resolved by p = max(p_loss, p_accuracy), each a paired t-test over the seeds at which both are finite,
    adjusted over all pairs by Benjamini & Yekutieli (2001), which holds however the pairs depend on one another. Too
    few seeds in common for any exact test at ``level``, below 6 at 95 %, resolve no pair, as they give ``compare`` no
    verdict (``Inversions.refused``); τ_b needs no pair resolved. Pairs share configurations, so intervals come from
    configurations × seeds drawn anew, never from pairs. In a resample the differences are drawn; by how much they must
    exceed 0 to be resolved stays.

    Args:
        losses: of each configuration's runs, column i having the same seed in all; nan where a run was not finite.
        accuracies: of the same runs.
        tempered_losses: losses at each run's own temperature (``refinement``). Accuracy does not depend on it.
        level: of the intervals; the false discovery rate is 1 − level.
    """
    scores = [-np.asarray(losses, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)]  # more is better
    if tempered_losses is not None:
        scores.append(-np.asarray(tempered_losses, dtype=np.float64))
    table = _Table.of(scores, level)
    num_configs, num_seeds = table.finite.shape
    configs, seeds = crossed_weights(num_configs, num_seeds, resamples, seed)
    ones, same_seeds = np.ones((1, num_configs)), np.ones((1, num_seeds))
    of_configs = table.statistics(np.concatenate([ones, configs])[None], same_seeds)[0]
    of_seeds = table.statistics(np.stack([np.broadcast_to(ones, configs.shape), configs], axis=1), seeds)
    variance, df = crossed_variance(
        of_configs[0], of_configs[1:], of_seeds[:, 0], of_seeds[:, 1], shape=(num_configs, num_seeds)
    )
    found = list(zip(of_configs[0].tolist(), variance.tolist(), df.tolist(), strict=True))
    relations = [loss[0] * accuracy[0] for loss, accuracy in table.moves(table.differences(same_seeds))]
    before = _inversions(relations[0], table.finite, found[_RATE], found[_KENDALL], level)
    if tempered_losses is None:
        return before
    inverted = int((relations[0] < 0).any(axis=1).sum())
    change, error, freedom = (np.array([value]) for value in found[_CHANGE])
    return dataclasses.replace(
        before,
        tempered=_inversions(relations[1], table.finite, found[_TEMPERED_RATE], found[_TEMPERED_KENDALL], level),
        fates={fate: pair_share(*found[place], inverted, level=level) for fate, place in _FATES.items()},
        kendall_change=StudentMeans(change, np.sqrt(error), freedom).intervals(level)[0],
    )


# the places of the statistics that are drawn; those after the first two need losses at T*
_RATE, _KENDALL, _TEMPERED_RATE, _TEMPERED_KENDALL, _CHANGE = range(5)
_FATES: Final[Mapping[Fate, int]] = {"reversed": 5, "unresolved": 6, "persists": 7}


class _Table(NamedTuple):
    """The scores of all configurations, with what is needed to order them again under weights.

    ``scores`` are minus losses, accuracies and, perhaps, minus losses at T*: more is better, 0 where not finite.
    ``bars`` say for losses, then for those at T*, by how much the losses and the accuracies of a pair must differ to be
    resolved; differences of at most ``least`` are rounding.
    """

    scores: Sequence[Float[np.ndarray, "config seed"]]
    finite: Bool[np.ndarray, "config seed"]
    least: Sequence[float]
    bars: Sequence[tuple[Float[np.ndarray, "config config"], Float[np.ndarray, "config config"]]]

    @staticmethod
    def of(scores: Sequence[Float[np.ndarray, "config seed"]], level: float) -> _Table:
        shapes = {score.shape for score in scores}
        if len(shapes) > 1 or len(scores[0].shape) != 2 or scores[0].shape[0] < 3 or scores[0].shape[1] < 2:
            raise ValueError(
                f"losses, accuracies and tempered_losses have shapes {sorted(shapes)}; all must be [config, seed] "
                "with three configurations and two seeds at least"
            )
        finite = np.isfinite(np.stack(scores)).all(axis=0)
        if finite.any(axis=1).sum() < 3:
            raise ValueError("fewer than three configurations have a finite run; there is no order to compare")
        scores = [np.where(finite, score, 0.0) for score in scores]
        least = [1e-12 * float(np.abs(score).max()) for score in scores]
        tests = [_paired_tests(score, finite, rounding, level) for score, rounding in zip(scores, least, strict=True)]
        return _Table(scores, finite, least, [_bars(loss, tests[1], level) for loss in (tests[0], *tests[2:])])

    def differences(
        self, seeds: Float[np.ndarray, "resample seed"]
    ) -> list[Float[np.ndarray, "resample config config"]]:
        """Of each score, weighted means over seeds at j minus those at i; nan where no seed is finite in both."""
        if self.finite.all():
            means = [seeds @ score.T / seeds.sum(axis=1, keepdims=True) for score in self.scores]
            return [mean[:, None, :] - mean[:, :, None] for mean in means]
        weighted = self.finite * seeds[:, None, :]
        count = weighted @ self.finite.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return [(weighted @ score.T - (score * seeds[:, None, :]) @ self.finite.T) / count for score in self.scores]

    def moves(
        self, differences: list[Float[np.ndarray, "resample config config"]]
    ) -> list[tuple[Int[np.ndarray, "resample config config"], Int[np.ndarray, "resample config config"]]]:
        """For losses, then for those at T*: whether loss and accuracy are resolved as better at j, 1, or worse, −1."""
        loss, accuracy, *tempered = differences
        return [
            (_beyond(change, bars[0]), _beyond(accuracy, bars[1]))
            for change, bars in zip((loss, *tempered), self.bars, strict=True)
        ]

    def statistics(
        self, configs: Float[np.ndarray, "resample weighting config"], seeds: Float[np.ndarray, "resample seed"]
    ) -> Float[np.ndarray, "resample weighting statistic"]:
        """Everything that is counted, for weights of seeds and, with each, several of configurations.

        A pair weighs the product of its configurations' weights. Shares are nan where they are of nothing.
        """
        size = max(1, 1_000_000 // configs.shape[2] ** 2)
        chunks = [slice(start, start + size) for start in range(0, len(configs), size)]
        return np.concatenate([self._chunk(configs[chunk], seeds[chunk]) for chunk in chunks])

    def _chunk(self, configs: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        weights = configs.astype(np.float32)  # sums of whole numbers this small are exact

        def total(pairs: np.ndarray) -> np.ndarray:
            """[resample weighting]"""
            return np.einsum("rki,rki->rk", weights @ pairs.astype(np.float32), weights, dtype=np.float64)

        changes = self.differences(seeds)
        signs = [_beyond(change, np.asarray(least)) for change, least in zip(changes, self.least, strict=True)]
        untied = total(signs[1] != 0)
        found, relations = [], []
        for sign, (loss, accuracy) in zip((signs[0], *signs[2:]), self.moves(changes), strict=True):
            relation = loss * accuracy
            resolved = total(relation != 0)
            found.append(_share(resolved - total(relation), 2 * resolved))
            found.append(_share(total(sign * signs[1]), np.sqrt(total(sign != 0) * untied)))
            relations.append(relation)
        if len(relations) == 2:
            inverted = relations[0] < 0
            among = total(inverted)
            concordant, still = (total(inverted & (relations[1] == sign)) for sign in (1, -1))
            found.append(found[_TEMPERED_KENDALL] - found[_KENDALL])
            found += [_share(part, among) for part in (concordant, among - concordant - still, still)]
        return np.stack(found, axis=-1)


def _inversions(
    relation: Int[np.ndarray, "config config"],
    finite: Bool[np.ndarray, "config seed"],
    rate: tuple[float, float, float],
    kendall: tuple[float, float, float],
    level: float,
) -> Inversions:
    """``rate`` and ``kendall`` are an estimate, its variance and the degrees of freedom of that."""
    num_configs, num_seeds = finite.shape
    inverted, concordant = (int((relation == sign).sum()) // 2 for sign in (-1, 1))
    tau, variance, df = kendall
    agreeing = pair_share((1 + tau) / 2, variance / 4, df, int(finite.any(axis=1).sum()), level=level)
    return Inversions(
        relation=relation,
        inverted=inverted,
        concordant=concordant,
        unresolved=num_configs * (num_configs - 1) // 2 - inverted - concordant,
        rate=pair_share(*rate, int((relation != 0).any(axis=1).sum()), level=level),
        kendall=Interval(tau, 2 * agreeing.low - 1, 2 * agreeing.high - 1, level),
        tempered=None,
        fates=None,
        kendall_change=None,
        nonfinite=1 - finite.mean(axis=1),
        num_seeds=num_seeds,
        refused=refusal(num_seeds, level=level),
    )


class _Tests(NamedTuple):
    """Paired t-tests of all pairs of configurations; p is 1 where nothing differs, and with too few seeds."""

    p_value: Float[np.ndarray, "config config"]
    error: Float[np.ndarray, "config config"]  # the standard error of the mean difference
    df: Float[np.ndarray, "config config"]  # 0 with too few seeds
    least: float


def _paired_tests(
    score: Float[np.ndarray, "config seed"], finite: Bool[np.ndarray, "config seed"], least: float, level: float
) -> _Tests:
    num_configs, enough = len(score), fewest_pairs(level)
    mean, error, df = np.zeros((3, num_configs, num_configs))
    for config in range(num_configs):
        both = finite & finite[config]
        count = both.sum(axis=1)
        difference = np.where(both, score - score[config], 0.0)
        mean[config] = difference.sum(axis=1) / np.maximum(count, 1)
        residuals = np.where(both, difference - mean[config][:, None], 0.0)
        df[config] = np.where(count >= enough, count - 1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt((residuals**2).sum(axis=1) / df[config])
            error[config] = np.where(spread > least, spread, 0.0) / np.sqrt(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = 2 * stats.t.sf(np.abs(mean) / error, df)
    return _Tests(np.where((df > 0) & (np.abs(mean) > least), p_value, 1.0), error, df, least)


def _bars(
    loss: _Tests, accuracy: _Tests, level: float
) -> tuple[Float[np.ndarray, "config config"], Float[np.ndarray, "config config"]]:
    """By how much losses, and accuracies, must differ for the pair to be resolved."""
    never = np.full_like(loss.error, np.inf)
    judged = np.triu(loss.df > 0, k=1)
    if not judged.any():
        return never, never
    p_values = np.maximum(loss.p_value, accuracy.p_value)[judged]
    resolved = stats.false_discovery_control(p_values, method="by") <= 1 - level
    if not resolved.any():
        return never, never
    bars = []
    for tests in (loss, accuracy):
        with np.errstate(invalid="ignore"):
            bar = stats.t.isf(p_values[resolved].max() / 2, tests.df) * tests.error
        # a pair at the bar itself is resolved; and without an error, any difference beyond rounding
        bar = np.where(tests.error > 0, bar * (1 - 1e-9), tests.least)
        bars.append(np.where(tests.df > 0, bar, np.inf))
    return bars[0], bars[1]


def _beyond(
    change: Float[np.ndarray, "resample config config"], bar: Float[np.ndarray, "*config"]
) -> Int[np.ndarray, "resample config config"]:
    """1 above the bar, −1 below minus the bar, else 0; where there is nothing to compare, 0."""
    return (change > bar).view(np.int8) - (change < -bar).view(np.int8)


def _share(
    part: Float[np.ndarray, "resample weighting"], whole: Float[np.ndarray, "resample weighting"]
) -> Float[np.ndarray, "resample weighting"]:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
