"""Two time-series data sets of the UCR and UEA archives that aeon bundles; nothing is downloaded.

Dau et al. 2019, "The UCR time series archive"; Bagnall et al. 2018, "The UEA multivariate time series classification
archive".
"""

import dataclasses
import functools
import pathlib

import numpy as np
from jaxtyping import Array, Key

from lossjax.tasks.dataset import DataSet, Examples, as_splits, check_fractions, count, hold_out, standardise
from lossjax.tasks.task import Splits, check_whole


@dataclasses.dataclass(frozen=True)
class ItalyPowerDemand(DataSet):
    """A day of electricity demand in Italy, 24 hours of one feature: October to March, or April to September.

    67 training and 1,029 test examples. The archive's test set stays the test set; validation is a stratified part of
    its training set, drawn from ``split_seed``. The data are the same for every member, standardised by training
    statistics.

    ``splits`` raises ImportError where aeon is missing.
    """

    val_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_fractions(val_fraction=self.val_fraction)
        check_whole(self, split_seed=0)

    @property
    def num_classes(self) -> int:
        return 2

    def splits(self, key: Key[Array, ""] | None = None) -> Splits:
        return _splits("ItalyPowerDemand", self.val_fraction, self.split_seed)


@dataclasses.dataclass(frozen=True)
class JapaneseVowels(DataSet):
    """Nine speakers saying two Japanese vowels in succession: 12 cepstral coefficients over 7 to 29 steps, with a mask.

    270 training and 370 test examples. The archive's test set stays the test set; validation is a stratified part of
    its training set, drawn from ``split_seed``. The data are the same for every member, standardised by training
    statistics over the steps that exist; the steps after them are 0.

    ``splits`` raises ImportError where aeon is missing.
    """

    val_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_fractions(val_fraction=self.val_fraction)
        check_whole(self, split_seed=0)

    @property
    def num_classes(self) -> int:
        return 9

    def splits(self, key: Key[Array, ""] | None = None) -> Splits:
        return _splits("JapaneseVowels", self.val_fraction, self.split_seed)


@functools.cache
def _splits(name: str, val_fraction: float, split_seed: int) -> Splits:
    official_train, test = _official(name)
    num_val = count("val_fraction", val_fraction, len(official_train.labels))
    train, val = hold_out(official_train, num_val, np.random.default_rng(split_seed))
    return as_splits(*standardise(train, val, test))


@functools.cache
def _official(name: str) -> tuple[Examples, Examples]:
    """The archive's training and test examples, padded to the longest of both."""
    try:
        import aeon.datasets
    except ImportError as error:
        raise ImportError(f'{name} needs aeon; run pip install "lossjax[data]"') from error
    # by path: aeon's loaders by name download what they do not find
    folder = pathlib.Path(aeon.datasets.__file__).parent / "data" / name
    (train_series, train_classes), (test_series, test_classes) = (
        aeon.datasets.load_from_ts_file(str(folder / f"{name}_{part}.ts")) for part in ("TRAIN", "TEST")
    )
    classes = np.unique(np.concatenate([train_classes, test_classes]))
    seq_len = max(series.shape[1] for series in (*train_series, *test_series))
    return (
        _padded(train_series, np.searchsorted(classes, train_classes), seq_len),
        _padded(test_series, np.searchsorted(classes, test_classes), seq_len),
    )


def _padded(series: np.ndarray | list[np.ndarray], labels: np.ndarray, seq_len: int) -> Examples:
    """Series [feature, time] as [example, time, feature]; a mask where any is shorter than ``seq_len``."""
    inputs = np.stack([np.pad(one.T, ((0, seq_len - one.shape[1]), (0, 0))) for one in series])
    mask = np.arange(seq_len) < np.array([one.shape[1] for one in series])[:, None]
    return Examples(inputs, labels, None if mask.all() else mask)
