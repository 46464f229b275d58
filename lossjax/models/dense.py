"""Fully connected network on the whole sequence at once."""

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from lossjax.models.model import Inputs, check_counts, drop, required_classes, time_steps


class Dense(nn.Module):
    """The steps of an example side by side in one vector, hidden layers of ReLU, and a linear layer.

    Tokens are replaced by learned vectors first. Steps that do not exist are zeros; every input has as many steps as
    the one at initialisation. Hidden kernels are drawn from a truncated normal distribution of variance 2 / fan in
    (He et al. 2015, eq. 10). Dropout is applied after each hidden layer.
    """

    width: int
    layers: int = 2
    embedding: int | None = None  # width of a token's vector; None: width
    num_classes: int | None = None
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "width", "layers", "embedding", "num_classes", "num_tokens")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        mask: Bool[Array, "batch time"] | None = None,
        *,
        dropout_rate: Float[Array, ""] | None = None,
    ) -> Float[Array, "batch class"]:
        num_classes = required_classes(self)
        steps = time_steps(inputs, mask, self.num_tokens, self.embedding or self.width)
        values = steps.reshape(len(steps), -1)
        for index in range(self.layers):
            values = nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), name=f"layer_{index}")(values)
            values = drop(self, jax.nn.relu(values), dropout_rate)
        return nn.Dense(num_classes, name="output")(values)
