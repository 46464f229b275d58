"""Doses: the arms of one remedy by dose, the dose that validation chooses, and tables of what each does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lossjax.analysis.arms import Arm, weighted_mean
from lossjax.analysis.contrasts import Limits, Pair
from lossjax.analysis.interval import Interval
from lossjax.analysis.tables import table

Doses = Mapping[float, Arm]  # ascending

MEASURED = ("loss_best", "accuracy_best", "loss_end", "accuracy_end", "loss_paid", "accuracy_gained")


def validation_cost(one: Arm, most_nonfinite: float) -> float:
    """Mean best validation loss, by which doses are tuned; infinite where too many runs are not finite."""
    if (~one.finite).mean() > most_nonfinite:
        return float("inf")
    return float(one.values["val_loss"][one.finite].mean())


def tuned(doses: Doses, most_nonfinite: float, *, among: Collection[float] | None = None) -> float:
    """The dose of the lowest mean validation loss."""
    return min(doses if among is None else among, key=lambda dose: validation_cost(doses[dose], most_nonfinite))


def slope(doses: Doses, name: str) -> Interval:
    """Of a value over the places of the doses, not their sizes: what one dose more changes, by least squares."""
    arms = list(doses.values())
    along = np.arange(len(arms)) - (len(arms) - 1) / 2
    return weighted_mean(list(zip((along / (along**2).sum()).tolist(), arms, strict=True)), name)


def onset_share(one: Arm) -> Interval:
    """Of all runs, those with onset; nan for runs that were stopped."""
    return Interval(float("nan"), float("nan"), float("nan")) if one.onset is None else one.onset.share()


def dose_table(
    found: Mapping[str, Mapping[str, Doses]], baselines: Mapping[str, float], limits: Limits
) -> dict[str, np.ndarray]:
    """A row a place, remedy and dose, from place → remedy → doses.

    ``worse``: the best loss or accuracy is resolved as inferior to that at the remedy's dose in ``baselines``.
    """
    return table(
        {
            "place": place,
            "remedy": remedy,
            "dose": float(dose),
            "worse": Pair(one, doses[baselines[remedy]]).gate(limits).outcome == "inferior",
            **{name: one.mean(name) for name in MEASURED},
            "nonfinite": one.share_nonfinite,
            "parted": one.share("O/K"),
            "both_worse": one.share("W"),
            "onset": onset_share(one),
        }
        for place, remedies in found.items()
        for remedy, doses in remedies.items()
        for dose, one in doses.items()
    )


def onset_table(found: Mapping[str, Mapping[str, Doses]], remedies: Sequence[str]) -> dict[str, np.ndarray]:
    """The share of runs with onset by each part of training, of every place, remedy and dose but of stopped runs."""
    return table(
        {
            "place": place,
            "remedy": remedy,
            "dose": float(dose),
            "progress": np.linspace(0, 1, one.num_evals),
            "share": one.onset.curve(one.num_evals),
        }
        for place, own in found.items()
        for remedy in remedies
        for dose, one in own.get(remedy, {}).items()
        if one.onset is not None
    )
