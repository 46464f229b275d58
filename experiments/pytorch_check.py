"""Are W1–W3 here what they are in PyTorch? The independent check of the engine; needs `pip install "lossjax[peers]"`.

Two comparisons. Step by step: PyTorch in float64 starts from a member's initial weights and takes its batches; the
losses of 20 steps must agree. In distribution: PyTorch trains runs of its own, with its own initialisation, data and
shuffling; final training loss and accuracy must be distributed as lossjax's are.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

import lossjax as lj
from lossjax.analysis.resampling import difference_interval

# The rules, written before the results
STEPS = 20
STEP_TOLERANCE = 1e-4  # relative; float32 rounding, amplified by 20 steps of Adam
P_VALUE = 0.01  # of each Kolmogorov–Smirnov test: six tests, so fewer than one experiment in 16 is a false alarm
RULE = (
    f"Rules: the batch losses of {STEPS} steps differ by less than {STEP_TOLERANCE:g} of themselves; and no two-sample "
    f"Kolmogorov–Smirnov test of final loss or accuracy has p below {P_VALUE:g}."
)

WORKLOADS = {"W1": (1, 16, 1), "W2": (5, 32, 1), "W3": (5, 32, 2)}  # features, hidden, layers
NUM_EXAMPLES, SEQ_LEN, BATCH_SIZE, LEARNING_RATE = 100, 20, 16, 1e-2


def cell(workload: str, **length: int) -> lj.Cell:
    features, hidden, layers = WORKLOADS[workload]
    return lj.Cell(
        lj.tasks.RandomLabels(num_examples=NUM_EXAMPLES, seq_len=SEQ_LEN, num_features=features),
        lj.models.LSTM(hidden=hidden, layers=layers),
        lj.TrainConfig(batch_size=BATCH_SIZE, measure=lj.Measure(splits=("train",), calibration=False), **length),
    )


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"
    return lj.Sweep(
        cells={workload: cell(workload, epochs=50 if full else 2, num_evals=1) for workload in WORKLOADS},
        hyperparams=lj.grid(learning_rate=LEARNING_RATE),
        seeds=200 if full else 8,
    )


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    torch = _torch()
    numbers: dict[str, lj.Interval] = {}
    notes = [RULE, f"PyTorch {torch.__version__}, one thread, float32 where it trains runs of its own."]
    runs: dict[str, list[Any]] = {key: [] for key in ("workload", "source", "seed", "loss", "accuracy")}
    tests: dict[str, list[Any]] = {key: [] for key in ("workload", "metric", "distance", "p")}
    steps: dict[str, list[Any]] = {key: [] for key in ("workload", "step", "lossjax", "pytorch")}
    for workload in WORKLOADS:
        ours, theirs = step_losses(workload)
        _extend(steps, workload, np.arange(1, STEPS + 1), ours, theirs)
        difference = float(np.max(np.abs(ours / theirs - 1)))
        name = f"{workload}: largest relative difference of the batch loss in {STEPS} steps"
        numbers[name] = lj.Interval(difference, float("nan"), float("nan"))
        notes += [
            f"{name}: a maximum over one member's steps, nothing is sampled",
            f"{workload}, step by step: {'agrees' if difference < STEP_TOLERANCE else 'DISAGREES'}.",
        ]
        finals = _finals(histories[workload])
        num_epochs = int(histories[workload].epochs[-1])
        samples = {"lossjax": finals, "PyTorch": torch_finals(workload, len(finals), num_epochs)}
        for source, values in samples.items():
            _extend(runs, workload, [source] * len(values), range(len(values)), values[:, 0], values[:, 1])
        for column, metric in enumerate(("loss", "accuracy")):
            a, b = (values[:, column] for values in samples.values())
            with warnings.catch_warnings():
                # where the exact p overflows, as with some 200 against 200, SciPy takes the asymptotic one
                warnings.filterwarnings("ignore", message="ks_2samp: Exact calculation unsuccessful")
                test = stats.ks_2samp(a, b)
            _extend(tests, workload, [metric], [test.statistic], [test.pvalue])
            numbers[f"{workload}: mean final training {metric}, PyTorch minus lossjax"] = difference_interval(a, b)
            word = "DIFFER" if test.pvalue < P_VALUE else "are not told apart"
            notes.append(f"{workload}, final training {metric}: distributions {word} (p = {test.pvalue:.3g}).")
    tables = {"steps": steps, "runs": runs, "tests": tests}
    return lj.Findings(
        numbers=numbers,
        tables={name: {key: np.array(column) for key, column in table.items()} for name, table in tables.items()},
        notes=tuple(notes),
    )


def step_losses(workload: str) -> tuple[np.ndarray, np.ndarray]:
    """Batch losses [step] of the member with seed 0: lossjax's, and PyTorch's in float64 from the same start."""
    import jax

    from lossjax.keys import streams_from_seeds

    torch = _torch()
    short = cell(workload, num_steps=STEPS, num_evals=STEPS)
    history = lj.train(short.task, short.model, short.config, hyperparams=lj.grid(learning_rate=LEARNING_RATE))
    streams = streams_from_seeds(jax.numpy.zeros(4, "uint32"))
    examples = short.task.splits(streams.data).train
    params = jax.device_get(short.network.init(streams.init, examples.inputs[:1])["params"])

    network = torch_lstm(*WORKLOADS[workload]).double()
    with torch.no_grad():
        for layer in range(network.lstm.num_layers):
            for name, array in params[f"layer_{layer}"].items():
                target = getattr(network.lstm, f"{name.replace('kernel', 'weight')}_l{layer}")
                target.copy_(torch.from_numpy(np.asarray(array, np.float64).T))
        network.output.weight.copy_(torch.from_numpy(np.asarray(params["output"]["kernel"].T, np.float64)))
        network.output.bias.copy_(torch.from_numpy(np.asarray(params["output"]["bias"], np.float64)))
    inputs = torch.from_numpy(np.array(examples.inputs, np.float64))
    labels = torch.from_numpy(np.array(examples.labels, np.int64))
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    losses: list[float] = []
    epoch = 0
    while len(losses) < STEPS:
        order = np.array(jax.random.permutation(jax.random.fold_in(streams.order, epoch), NUM_EXAMPLES))
        losses += train_epoch(network, optimizer, inputs, labels, torch.from_numpy(order))
        epoch += 1
    return history.metrics["batch_loss"][0, 1:].astype(np.float64), np.array(losses[:STEPS])


def torch_finals(workload: str, num_runs: int, num_epochs: int) -> np.ndarray:
    """[run, 2]: final loss and accuracy over the training set of PyTorch's own runs, one after another."""
    return np.array([torch_run(WORKLOADS[workload], seed, num_epochs) for seed in range(num_runs)])


def torch_run(size: tuple[int, int, int], seed: int, num_epochs: int) -> tuple[float, float]:
    """One run as the published discussion has it: everything is PyTorch's."""
    torch = _torch()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    inputs = torch.randn(NUM_EXAMPLES, SEQ_LEN, size[0])
    labels = torch.randint(0, 2, (NUM_EXAMPLES,))
    network = torch_lstm(*size)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(num_epochs):
        train_epoch(network, optimizer, inputs, labels, torch.randperm(NUM_EXAMPLES))
    with torch.no_grad():
        logits = network(inputs)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return float(loss), int((logits.argmax(dim=1) == labels).sum()) / NUM_EXAMPLES


def train_epoch(network: Any, optimizer: Any, inputs: Any, labels: Any, order: Any) -> list[float]:
    """The loss of each batch before its update; the last batch of 4 is kept."""
    torch = _torch()
    losses = []
    for rows in order.split(BATCH_SIZE):
        loss = torch.nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def torch_lstm(features: int, hidden: int, layers: int) -> Any:
    """A torch.nn.Module, made in a function so that this file can be read without PyTorch."""
    torch = _torch()

    class Network(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(features, hidden, layers, batch_first=True)
            self.output = torch.nn.Linear(hidden, 2)

        def forward(self, inputs: Any) -> Any:
            return self.output(self.lstm(inputs)[0][:, -1])

    return Network()


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import plots

    runs, tests = findings.tables["runs"], findings.tables["tests"]

    def comparison(workload: str, metric: str) -> plots.Comparison:
        row = np.flatnonzero((tests["workload"] == workload) & (tests["metric"] == metric))[0]
        sources = {
            source: runs[metric][(runs["workload"] == workload) & (runs["source"] == source)]
            for source in ("lossjax", "PyTorch")
        }
        x_label = "final training accuracy"
        if metric == "loss":  # from 1e-4 to 1: the test is the same in any unit
            sources = {source: np.log10(losses) for source, losses in sources.items()}
            x_label = "log₁₀ of final training loss (nats)"
        return plots.Comparison(workload, x_label, sources, float(tests["distance"][row]), float(tests["p"][row]))

    captions = {
        "loss": "Final training loss of independent runs: empirical distributions and the Kolmogorov–Smirnov test.",
        "accuracy": "The same for final training accuracy.",
    }
    return {
        f"final_{metric}": lj.Figure(plots.distributions([comparison(w, metric) for w in WORKLOADS]), caption)
        for metric, caption in captions.items()
    }


def _finals(history: lj.History) -> np.ndarray:
    """[run, 2]: final loss and accuracy over the training set of lossjax's runs, the finite ones."""
    metrics = history[history.finite].metrics
    # float32's 0.55 is another number than PyTorch's: back to whole examples, or the test would see no ties
    num_correct = np.rint(metrics["train_accuracy"][:, -1].astype(np.float64) * NUM_EXAMPLES)
    return np.stack([metrics["train_loss"][:, -1].astype(np.float64), num_correct / NUM_EXAMPLES], axis=1)


def _extend(table: dict[str, list[Any]], workload: str, *columns: Any) -> None:
    for key, column in zip(list(table)[1:], columns, strict=True):
        table[key] += list(column)
    table["workload"] += [workload] * len(columns[0])


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError('this check needs PyTorch; run pip install "lossjax[peers]"') from error
    return torch


experiment = lj.Experiment(
    name="pytorch_check",
    question="Are W1–W3 here what they are in PyTorch: step by step, and in the distribution of runs?",
    claims=(),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
