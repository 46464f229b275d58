"""Histories made by hand, for tests of what is concluded from them."""

from collections.abc import Mapping

import numpy as np

import lossjax as lj


def history_of(curves: Mapping[str, np.ndarray], *, missing: int = 0, broke_at: int = 0, **hyperparams) -> lj.History:
    """Runs with these curves, "val_loss" and the like, each [seed, eval], an evaluation every 10 steps.

    The first ``missing`` runs are not finite from the step ``broke_at`` on.
    """
    num_seeds, num_evals = next(iter(curves.values())).shape
    steps = 10 * np.arange(num_evals)
    broken = np.arange(num_seeds) < missing
    lost = broken[:, None] & (steps >= broke_at)
    return lj.History(
        metrics={name: np.where(lost, np.nan, values) for name, values in curves.items()},
        steps=steps,
        seeds={"data": np.arange(num_seeds, dtype=np.uint32)},
        hyperparams={name: np.full(num_seeds, value, np.float32) for name, value in hyperparams.items()},
        nonfinite_step=np.where(broken, broke_at, -1).astype(np.int32),
        info={"steps_per_epoch": 10, "num_classes": 2},
    )
