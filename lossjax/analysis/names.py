"""Names of what examples belong to: clusters and groups."""

import numpy as np
from jaxtyping import Shaped


def check_names(names: Shaped[np.ndarray, " example"], what: str) -> None:
    """Raises ValueError where a name is missing or of another kind than the others, so that equal ones are not told."""
    names = np.asarray(names)
    kinds = {type(name) for name in names.tolist()} if names.dtype.hasobject else set()
    missing = names.dtype.kind in "fc" and np.isnan(names)
    if len(kinds) > 1 or not kinds <= {str, int} or np.any(missing):
        raise ValueError(
            f"{what} has names that are missing or of several kinds; give all whole numbers or all texts, and to an "
            "example without a name one of its own"
        )
