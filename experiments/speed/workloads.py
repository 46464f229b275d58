"""The workloads that are timed: their sizes, the least arithmetic a step needs, and what is to be reached. No jax."""

import dataclasses
from typing import Final, Literal

Kind = Literal["lstm", "transformer", "conv"]
HEADS, MLP_RATIO = 4, 4  # of the transformer
KERNEL_SIZE = 5  # of the convolutions
SEQUENCE_EPOCHS = 50  # of a run of W1–W3, as in the discussion


@dataclasses.dataclass(frozen=True)
class Workload:
    """Random labels on standard normal sequences, trained with Adam; the last short batch of an epoch is kept."""

    name: str
    kind: Kind
    features: int
    width: int  # hidden units of an LSTM
    layers: int = 1
    seq_len: int = 20
    batch_size: int = 16
    num_classes: int = 2
    num_examples: int = 160
    epochs: int = 10  # of a whole run
    learning_rate: float = 1e-2

    @property
    def label(self) -> str:
        classes = f", {self.num_classes:,} classes" if self.num_classes > 2 else ""
        match self.kind:
            case "lstm":
                layers = f", {self.layers} layers" if self.layers > 1 else ""
                known = f" ({self.name})" if self.name in ("W1", "W2", "W3") else ""
                return f"LSTM {self.features}→{self.width}{layers}{known}"
            case "transformer":
                return f"transformer d={self.width}{classes}"
            case "conv":
                return f"conv d={self.width}"

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    @property
    def mean_batch(self) -> float:
        """Examples of a step: of W1–W3's seven in an epoch, six have 16 and one has 4."""
        return self.num_examples / self.steps_per_epoch

    @property
    def flops(self) -> float:
        """F: floating-point operations of the products of one member-step (BENCHMARKS.md), B being the mean batch.

        An LSTM layer: 3 · 2 · B·T·4H·(I+H), the 3 for the forward product and the two of the backward pass. Encoder
        and convolution layers are counted likewise, and the linear layers before and after them.
        """
        batch_time = self.mean_batch * self.seq_len
        output = self.mean_batch * self.width * self.num_classes
        entry = batch_time * self.features * self.width  # the linear layer of the features
        match self.kind:
            case "lstm":
                inputs = self.features + (self.layers - 1) * self.width
                products = batch_time * 4 * self.width * (inputs + self.layers * self.width) + output
            case "transformer":
                linear = (3 + 1 + 2 * MLP_RATIO) * self.width**2
                attention = 2 * self.seq_len * self.width  # scores, and the values they weigh
                products = self.layers * batch_time * (linear + attention) + entry + output
            case "conv":
                products = self.layers * batch_time * KERNEL_SIZE * self.width**2 + entry + output
        return 3.0 * 2.0 * products

    @property
    def transcendentals(self) -> float:
        """S: 5·B·T·H for an LSTM layer (four gates and the cell), as many as a forward pass has.

        The others: an error function for each GELU and an exponential for its derivative; an exponential for each
        score of the attention; and for each logit where classes are many enough to count.
        """
        batch_time = self.mean_batch * self.seq_len
        logits = self.mean_batch * self.num_classes
        match self.kind:
            case "lstm":
                return 5.0 * self.layers * batch_time * self.width
            case "transformer":
                return float(self.layers * batch_time * (2 * MLP_RATIO * self.width + HEADS * self.seq_len) + logits)
            case "conv":
                return float(self.layers * batch_time * 2 * self.width + logits)


@dataclasses.dataclass(frozen=True)
class Target:
    """What is asked for; None: nothing, but it is stated."""

    plain: float | None = None  # times the member-steps a second of jit(vmap) over 512 members
    eta: float | None = None
    runs: float | None = None  # times the runs a second of PyTorch, one process a core; 1: ahead


def _lstm(name: str, width: int, **sizes: int) -> Workload:
    return Workload(name, "lstm", 16, width, **sizes)


def _discussed(name: str, features: int, width: int, layers: int) -> Workload:
    return Workload(name, "lstm", features, width, layers, num_examples=100, epochs=SEQUENCE_EPOCHS)


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        _discussed("W1", 1, 16, 1),
        _discussed("W2", 5, 32, 1),
        _discussed("W3", 5, 32, 2),
        _lstm("lstm16", 16),
        _lstm("lstm32", 32),
        _lstm("lstm64", 64),
        _lstm("lstm128", 128),
        Workload(
            "transformer32",
            "transformer",
            16,
            32,
            2,
            batch_size=32,
            num_classes=10,
            num_examples=320,
            learning_rate=1e-3,
        ),
        Workload(
            "transformer64",
            "transformer",
            16,
            64,
            2,
            batch_size=64,
            num_classes=3000,
            num_examples=640,
            epochs=5,
            learning_rate=1e-3,
        ),
        # batches of 16: with 32 the products alone would take the 241 µs a member-step that were measured first
        Workload("conv32", "conv", 16, 32, 2, num_classes=10, learning_rate=1e-3),
    )
}
TARGETS: Final = {
    "W1": Target(3.3, 0.28, 8.0),
    "W2": Target(2.7, 0.45, 4.0),
    "W3": Target(2.4, 0.45, 2.7),
    "lstm64": Target(2.8, 0.65, runs=1.0),
    "lstm128": Target(2.0, 0.75, runs=1.0),
    "transformer32": Target(1.8, runs=1.0),
    "transformer64": Target(1.35, runs=1.0),
    "conv32": Target(25.0, runs=1.0),
}
