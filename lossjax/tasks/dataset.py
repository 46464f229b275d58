"""What data sets have in common: partitions, class counts, standardisation by training statistics. NumPy only."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int, Key

from lossjax.tasks.task import Bayes, Split, Splits, Task


class Examples(NamedTuple):
    """What a Split holds, before it is one."""

    inputs: np.ndarray  # [example, time, feature], or tokens [example, time]
    labels: np.ndarray  # [example]
    mask: np.ndarray | None = None  # [example, time]


class DataSet:
    """The part of the Task protocol that holds for every data set, to inherit from."""

    @property
    def shared(self) -> bool:
        return True

    @property
    def num_tokens(self) -> int | None:
        return None

    @property
    def bayes(self) -> Bayes | None:
        """Unknown for real data."""
        return None


def class_counts(task: Task, key: Key[Array, ""] | None = None) -> Int[np.ndarray, " class"]:
    """How many training examples each class has; ``key`` is a member's data key where each has its own examples."""
    labels = np.asarray(task.splits(key).train.labels)  # type: ignore[arg-type]  # shared tasks ignore the key
    return np.bincount(labels, minlength=task.num_classes)


def seen_often(task: Task, least: int = 5, key: Key[Array, ""] | None = None) -> Bool[np.ndarray, " example"]:
    """Which test examples are of a class that was seen at least ``least`` times in training; ``key`` as above."""
    labels = np.asarray(task.splits(key).test.labels)  # type: ignore[arg-type]
    return np.asarray(class_counts(task, key)[labels] >= least)


def check_digest(what: str, found: str, expected: str | None, remedy: str) -> None:
    """ValueError where a digest is expected and another is found."""
    if expected is not None and found != expected:
        raise ValueError(f"{what} has SHA-256 {found} and not {expected}: the data were changed; {remedy}")


def check_fractions(**fractions: float) -> None:
    """Raises ValueError unless each lies in [0, 1) and together they leave something to train on."""
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"{name}={fraction} must lie in [0, 1)")
    if sum(fractions.values()) >= 1:
        given = " and ".join(f"{name}={fraction}" for name, fraction in fractions.items())
        raise ValueError(f"{given} leave nothing to train on; lower them")


def hold_out(examples: Examples, num_held_out: int, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """The remaining and the held-out examples, each in random order; within one example of proportional in every class.

    The order is random because ``train_size`` uses the first examples of a training split.
    """
    num_examples = len(examples.labels)
    if not 0 <= num_held_out < num_examples:
        raise ValueError(
            f"holding out {num_held_out} of {num_examples} examples leaves none for training; "
            "lower val_fraction or test_fraction"
        )
    # every n-th example of the list sorted by class, each class in random order, is a stratified sample
    by_class = np.lexsort((rng.random(num_examples), examples.labels))
    positions = (np.arange(num_held_out) + rng.random()) * num_examples / max(num_held_out, 1)
    held_out = by_class[positions.astype(np.int64)]
    rest = np.setdiff1d(np.arange(num_examples), held_out)
    return take(examples, rng.permutation(rest)), take(examples, rng.permutation(held_out))


def hold_out_repeated(
    examples: Examples, num_val: int, num_test: int, rng: np.random.Generator
) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test examples, each in random order; every class has an example in training.

    One example of each class, drawn at random, is trained on. Validation and test are held out of the others, each
    within one or two examples of proportional to how many these are in the class. So what is held out is of classes
    that are trained on, and a class with a single example is not held out.
    """
    num_examples = len(examples.labels)
    shuffled = rng.permutation(num_examples)
    kept = shuffled[np.unique(examples.labels[shuffled], return_index=True)[1]]
    if num_val + num_test >= num_examples - len(kept):
        raise ValueError(
            f"holding out {num_val} + {num_test} of {num_examples} examples leaves too few for training, where one of "
            f"each of the {len(kept)} classes stays; lower val_fraction or test_fraction"
        )
    rest, test = hold_out(take(examples, np.setdiff1d(shuffled, kept)), num_test, rng)
    rest, val = hold_out(rest, num_val, rng)
    return take(join(rest, take(examples, kept)), rng.permutation(num_examples - num_val - num_test)), val, test


def count(name: str, fraction: float, num_examples: int) -> int:
    """How many of ``num_examples`` a fraction stands for, by rounding; never none unless the fraction is 0."""
    number = round(fraction * num_examples)
    if fraction > 0 and number == 0:
        raise ValueError(f"{name}={fraction} of {num_examples} examples is none; raise it, or set it to 0")
    return number


def take(examples: Examples, index: np.ndarray) -> Examples:
    """The examples at these positions."""
    mask = None if examples.mask is None else examples.mask[index]
    return Examples(examples.inputs[index], examples.labels[index], mask)


def join(first: Examples, second: Examples) -> Examples:
    """The examples of both; both have a mask, or neither."""
    masks = [part.mask for part in (first, second) if part.mask is not None]
    return Examples(
        np.concatenate([first.inputs, second.inputs]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate(masks) if masks else None,
    )


def standardise(train: Examples, *others: Examples) -> tuple[Examples, ...]:
    """Features with mean 0 and standard deviation 1 over the existing steps of the training examples.

    The others are shifted and scaled by the same numbers. A feature that is constant in training is only shifted.
    Values at steps that do not exist become 0.
    """
    values = np.asarray(train.inputs, dtype=np.float64)
    steps = values.reshape(-1, values.shape[-1]) if train.mask is None else values[train.mask]
    mean, deviation = steps.mean(axis=0), steps.std(axis=0)
    # rounding alone may give a constant a tiny deviation
    deviation = np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)

    def scaled(examples: Examples) -> Examples:
        inputs = (np.asarray(examples.inputs, dtype=np.float64) - mean) / deviation
        if examples.mask is not None:
            inputs = np.where(examples.mask[..., None], inputs, 0.0)
        return examples._replace(inputs=inputs)

    return tuple(scaled(examples) for examples in (train, *others))


def as_splits(train: Examples, val: Examples, test: Examples) -> Splits:
    """The same examples as read-only arrays: inputs float32 (tokens int32), labels int32, masks bool."""

    def constant(values: np.ndarray, dtype: type) -> Any:
        array: np.ndarray = np.ascontiguousarray(values, dtype=dtype)
        # one copy serves the whole process
        array.setflags(write=False)
        return array

    def split(examples: Examples) -> Split:
        tokens = np.issubdtype(examples.inputs.dtype, np.integer)
        return Split(
            inputs=constant(examples.inputs, np.int32 if tokens else np.float32),
            labels=constant(examples.labels, np.int32),
            mask=None if examples.mask is None else constant(examples.mask, np.bool_),
        )

    return Splits(train=split(train), val=split(val), test=split(test))
