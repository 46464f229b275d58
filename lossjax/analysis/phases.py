"""Phases: how often each regime occurs over a plane of two hyperparameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Real, Shaped
from scipy import stats

from lossjax.analysis.interval import Intervals
from lossjax.analysis.proportions import wilson_intervals
from lossjax.analysis.tables import table, with_bounds


@dataclasses.dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """The share of members in each regime at each point of a plane.

    Attributes:
        x, y: the values along each axis, ascending.
        counts: regime → [y, x] members in it.
        totals: [y, x] all members there, non-finite ones too; 0 where the design has none.
        shares: regime → [y, x] of all members, with Wilson's intervals; nan where there are none.
        commonest: [y, x] the regime of most members, the first of ``counts`` if tied; "" where there are none.
    """

    x: np.ndarray
    y: np.ndarray
    counts: Mapping[str, np.ndarray]
    totals: np.ndarray
    shares: Mapping[str, Intervals]
    commonest: np.ndarray

    def q_values(self, regime: str, null_share: float) -> Float[np.ndarray, "y x"]:
        """How surely the share of ``regime`` differs from ``null_share`` at each point: two-sided exact binomial p,
        adjusted over the map so that of the points below q at most a share q is wrong (Benjamini & Hochberg 1995).

        nan where there are no members.
        """
        if not 0 < null_share < 1:
            raise ValueError(f"null_share={null_share} must lie between 0 and 1")
        there = self.totals > 0
        return self._adjusted(self._counts(regime)[there], self.totals[there], null_share)

    def q_commonest(self) -> Float[np.ndarray, "y x"]:
        """How surely ``commonest`` is the commonest at each point: two-sided exact binomial p of it against the next,
        of the members in either, adjusted over the map.

        That the two are chosen by their counts takes nothing from the test (Hung & Fithian 2019, rank verification).
        nan where there are no members.
        """
        second, first = np.sort(np.stack([*self.counts.values(), np.zeros_like(self.totals)]), axis=0)[-2:]
        there = self.totals > 0
        return self._adjusted(first[there], (first + second)[there], 0.5)

    def pooled_share(self, regime: str) -> float:
        """The share of ``regime`` among all members of the plane: what each point would have, did they not differ."""
        return float(self._counts(regime).sum() / self.totals.sum())

    def table(self, regimes: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns for ``Findings.tables``, a row a point, y by y.

        x, y, runs, commonest, its share with bounds, ``q_commonest``, ``q_differs`` (its share from the pooled one),
        and ``share_<regime>`` of each of ``regimes`` with bounds.
        """
        ys, xs = np.meshgrid(self.y, self.x, indexing="ij")
        nowhere = wilson_intervals(np.zeros_like(self.totals), self.totals)
        shares = {name: self.shares.get(name, nowhere) for name in (*regimes, *self.shares)}
        differs = np.full(self.totals.shape, np.nan)
        own = np.full((3, *self.totals.shape), np.nan)
        for name, share in self.shares.items():
            here = self.commonest == name
            own[:, here] = np.stack([share.estimate, share.low, share.high])[:, here]
            if 0 < self.pooled_share(name) < 1:
                differs[here] = self.q_values(name, self.pooled_share(name))[here]
        columns = {
            "x": xs,
            "y": ys,
            "runs": self.totals,
            "commonest": self.commonest,
            **dict(zip(with_bounds("share"), own, strict=True)),
            "q_commonest": self.q_commonest(),
            "q_differs": differs,
        }
        flat = {name: np.asarray(values).ravel() for name, values in columns.items()}
        listed = {
            f"share_{name}": Intervals(share.estimate.ravel(), share.low.ravel(), share.high.ravel(), share.level)
            for name, share in shares.items()
        }
        return flat | table([listed])

    def _adjusted(
        self, counts: Int[np.ndarray, " point"], totals: Int[np.ndarray, " point"], share: float
    ) -> Float[np.ndarray, "y x"]:
        pairs = zip(counts.tolist(), totals.tolist(), strict=True)
        p_values = [stats.binomtest(count, total, share).pvalue for count, total in pairs]
        found = np.full(self.totals.shape, np.nan)
        found[self.totals > 0] = stats.false_discovery_control(p_values, method="bh")
        return found

    def _counts(self, regime: str) -> Int[np.ndarray, "y x"]:
        # a regime that no member is in has the share 0, everywhere
        return self.counts.get(regime, np.zeros_like(self.totals))


def phase_diagram(
    regimes: Shaped[np.ndarray, " member"],
    x: Real[np.ndarray, " member"],
    y: Real[np.ndarray, " member"],
    *,
    order: tuple[str, ...] = ("P", "O", "K", "O/K", "S", "G", "W", "N", "nonfinite"),
    level: float = 0.95,
) -> PhaseDiagram:
    """P(regime) over the plane of two hyperparameters.

    Args:
        regimes: each member's letter, as ``windows.letters[member, start, -1]``, or ``"nonfinite"``: every member
            counts, whatever came of it.
        x: each member's value of one hyperparameter; put those of a random search into bins first.
        y: of the other.
        order: in which regimes are listed; those that do not occur are left out, others are added at the end.
    """
    regimes, x, y = np.asarray(regimes), np.asarray(x), np.asarray(y)
    if not regimes.shape == x.shape == y.shape or regimes.ndim != 1 or len(regimes) == 0:
        raise ValueError(f"regimes {regimes.shape}, x {x.shape} and y {y.shape} must all be [member], with some member")
    xs, column = np.unique(x, return_inverse=True)
    ys, row = np.unique(y, return_inverse=True)
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ValueError("x or y has values that are not finite, which have no place on a plane")

    def count(chosen: np.ndarray) -> Int[np.ndarray, "y x"]:
        found = np.zeros((len(ys), len(xs)), dtype=np.int64)
        np.add.at(found, (row[chosen], column[chosen]), 1)
        return found

    occurring = np.unique(regimes).tolist()
    names = [name for name in order if name in occurring] + [name for name in occurring if name not in order]
    counts = {name: count(regimes == name) for name in names}
    totals = count(np.ones(len(regimes), dtype=bool))
    most = np.array(names)[np.stack(list(counts.values())).argmax(axis=0)]
    return PhaseDiagram(
        x=xs,
        y=ys,
        counts=counts,
        totals=totals,
        shares={name: wilson_intervals(counts[name], totals, level=level) for name in names},
        commonest=np.where(totals > 0, most, ""),
    )
