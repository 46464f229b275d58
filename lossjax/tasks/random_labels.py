"""Random labels: nothing to learn but the examples themselves."""

import dataclasses
import math

import jax
from jaxtyping import Array, Key

from lossjax.tasks.task import Bayes, Split, Splits, check_whole


@dataclasses.dataclass(frozen=True)
class RandomLabels:
    """Standard normal sequences whose labels are uniform over the classes and independent of them.

    Every member draws its own examples from its data key. The training examples do not depend on ``num_heldout``.
    The defaults are the training data of workload W1 (CLAIMS.md); ``num_features=5`` is that of W2 and W3.
    """

    num_examples: int = 100
    seq_len: int = 20
    num_features: int = 1
    num_classes: int = 2
    num_heldout: int = 0  # fresh examples, the first half for validation and the second for testing
    input_scale: float = 1.0  # multiplies the features, for example 1 / sqrt(num_features)

    def __post_init__(self) -> None:
        check_whole(self, num_examples=1, seq_len=1, num_features=1, num_classes=2, num_heldout=0)
        if self.num_heldout % 2:
            raise ValueError(f"num_heldout={self.num_heldout} must be even; half is validation, half is test")
        if not (math.isfinite(self.input_scale) and self.input_scale > 0):
            raise ValueError(f"input_scale={self.input_scale} must be finite and > 0")

    @property
    def shared(self) -> bool:
        return False

    @property
    def num_tokens(self) -> None:
        return None

    @property
    def bayes(self) -> Bayes:
        """Exact: no input says anything about its label."""
        return Bayes(loss=math.log(self.num_classes), accuracy=1 / self.num_classes)

    def splits(self, key: Key[Array, ""]) -> Splits:
        train_key, val_key, test_key = jax.random.split(key, 3)
        num_each = self.num_heldout // 2
        return Splits(
            train=self._draw(train_key, self.num_examples),
            val=self._draw(val_key, num_each),
            test=self._draw(test_key, num_each),
        )

    def _draw(self, key: Key[Array, ""], num_examples: int) -> Split:
        inputs_key, labels_key = jax.random.split(key)
        shape = (num_examples, self.seq_len, self.num_features)
        return Split(
            inputs=self.input_scale * jax.random.normal(inputs_key, shape, "float32"),
            labels=jax.random.randint(labels_key, (num_examples,), 0, self.num_classes, "int32"),
        )
