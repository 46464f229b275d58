"""Components: where the variance between runs of a task comes from, of one history or over several teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lossjax.analysis.interval import Interval
from lossjax.analysis.proportions import wilson
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.spread import deviation_of
from lossjax.analysis.streams import StreamVariance, variance_by_stream
from lossjax.history import History


@dataclasses.dataclass(frozen=True)
class Components:
    """One task's variance of a metric; of a teacher means over teachers, with their intervals."""

    streams: tuple[str, ...]
    deviation: Interval  # standard deviation between runs whose streams are all drawn anew
    first: tuple[Interval, ...]  # shares
    total: tuple[Interval, ...]
    interactions: Interval
    sampling: Interval | None  # share that a fresh test set of this size alone would give
    nonfinite: Interval


def components(histories: Sequence[History], metric: str) -> Components:
    """Of one history, or the mean of several (one a teacher)."""
    each = []
    for history in histories:
        values = np.where(history.finite, history.metrics[f"test_{metric}"][:, -1].astype(np.float64), np.nan)
        each.append(variance_by_stream(values, history.seeds))
    broken = sum(int((~history.finite).sum()) for history in histories)
    members = sum(history.num_members for history in histories)
    if len(each) == 1:
        (one,) = each
        assert one.first_share is not None
        assert one.total_share is not None
        assert one.interaction_share is not None
        return Components(
            streams=one.streams,
            deviation=deviation_of(one.variance),
            first=tuple(one.first_share[k] for k in range(len(one.streams))),
            total=tuple(one.total_share[k] for k in range(len(one.streams))),
            interactions=one.interaction_share,
            sampling=None,
            nonfinite=wilson(broken, members),
        )

    def over_teachers(values: Sequence[float]) -> Interval:
        return mean_interval(np.array(values))

    def share(part: str, stream: int) -> Interval:
        return over_teachers([getattr(one, part).estimate[stream] for one in each])

    streams = each[0].streams
    return Components(
        streams=streams,
        deviation=deviation_of(over_teachers([one.variance.estimate for one in each])),
        first=tuple(share("first_share", k) for k in range(len(streams))),
        total=tuple(share("total_share", k) for k in range(len(streams))),
        interactions=over_teachers([_interaction(one) for one in each]),
        sampling=over_teachers(
            [sampling(history, metric) / one.variance.estimate for history, one in zip(histories, each, strict=True)]
        ),
        nonfinite=wilson(broken, members),
    )


def _interaction(found: StreamVariance) -> float:
    assert found.interaction_share is not None
    return found.interaction_share.estimate


def sampling(history: History, metric: str) -> float:
    """Mean over runs of s²/n: the variance of a mean over n test examples."""
    values = history[history.finite].metrics["test_example_" + ("loss" if metric == "loss" else "correct")][:, -1]
    values = values.astype(np.float64)
    return float(values.var(axis=1, ddof=1).mean() / values.shape[1])
