"""Scikit-learn's handwritten digits, bundled with it: 1,797 images of 8 by 8 pixels, ten classes."""

import dataclasses
import functools
from typing import Literal, get_args

import numpy as np
from jaxtyping import Array, Key

from lossjax.tasks.dataset import DataSet, Examples, as_splits, check_fractions, count, hold_out, standardise
from lossjax.tasks.task import Splits, check_whole

View = Literal["rows", "pixels"]


@dataclasses.dataclass(frozen=True)
class Digits(DataSet):
    """The digits as sequences, the same for every member: eight rows of eight pixels, or 64 pixels one after another.

    The partition is stratified by class and drawn from ``split_seed``, the same for both views. Pixels have mean 0 and
    standard deviation 1 over all pixels of the training images; one number each for the whole image, because some
    pixels are blank in nearly every image.

    ``splits`` raises ImportError where scikit-learn is missing.
    """

    view: View = "rows"
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.view not in get_args(View):
            raise ValueError(f"view={self.view!r} is none of {', '.join(get_args(View))}")
        check_fractions(val_fraction=self.val_fraction, test_fraction=self.test_fraction)
        check_whole(self, split_seed=0)

    @property
    def num_classes(self) -> int:
        return 10

    def splits(self, key: Key[Array, ""] | None = None) -> Splits:
        return _splits(self)


@functools.cache
def _splits(task: Digits) -> Splits:
    images, labels = _images()
    rng = np.random.default_rng(task.split_seed)
    # standardised as sequences of single pixels, so that both views hold the same numbers
    examples = Examples(images.reshape(len(images), -1, 1), labels)
    rest, test = hold_out(examples, count("test_fraction", task.test_fraction, len(labels)), rng)
    train, val = hold_out(rest, count("val_fraction", task.val_fraction, len(labels)), rng)
    shape = (8, 8) if task.view == "rows" else (64, 1)
    return as_splits(*(part._replace(inputs=part.inputs.reshape(-1, *shape)) for part in standardise(train, val, test)))


@functools.cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('Digits needs scikit-learn; run pip install "lossjax[data]"') from error
    digits = load_digits()
    return digits.images, digits.target
