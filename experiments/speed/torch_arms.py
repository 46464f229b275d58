"""PyTorch: ``nn.LSTM`` and the like, one run after another; a hand-written cell under ``torch.func.vmap``; float64."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speed.workers import Work, timed
from speed.workloads import HEADS, KERNEL_SIZE, MLP_RATIO, Workload

try:
    import torch
except ImportError as error:
    raise ImportError('the benchmark needs PyTorch, a peer; run pip install "lossjax[peers]"') from error
from torch import nn
from torch.nn import functional


class LSTM(nn.Module):
    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.lstm = nn.LSTM(workload.features, workload.width, workload.layers, batch_first=True)
        self.output = nn.Linear(workload.width, workload.num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.output(self.lstm(inputs)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self, workload: Workload) -> None:
        super().__init__()
        width = workload.width
        self.features = nn.Linear(workload.features, width)
        self.positions = nn.Parameter(0.02 * torch.randn(workload.seq_len, width))
        layer = nn.TransformerEncoderLayer(
            width, HEADS, MLP_RATIO * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, workload.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.output = nn.Linear(width, workload.num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.output(self.encoder(self.features(inputs) + self.positions).mean(dim=1))


class Conv(nn.Module):
    def __init__(self, workload: Workload) -> None:
        super().__init__()
        width = workload.width
        self.features = nn.Linear(workload.features, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(workload.layers)])
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(width, width, KERNEL_SIZE, padding="same") for _ in range(workload.layers)]
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, workload.num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = self.features(inputs)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            values = values + functional.gelu(convolution(norm(values).mT).mT)
        return self.output(self.norm(values).mean(dim=1))


def network(workload: Workload) -> nn.Module:
    return {"lstm": LSTM, "transformer": Transformer, "conv": Conv}[workload.kind](workload)


class Sequence:
    """One run after another, with as many threads as are given; PyTorch's own number where none is."""

    def __init__(self, workload: dict[str, Any], threads: int | None = None, device: str = "cpu") -> None:
        self.workload = Workload(**workload)
        self.device = torch.device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # float32, as lossjax computes
        self.folder = tempfile.TemporaryDirectory(prefix="throughput-")

    def losses(self, path: str) -> list[float]:
        return self._losses(path, torch.float32)

    def reference(self, path: str, one_bias: bool) -> list[float]:
        """The same in float64; with one bias a gate where Flax has one."""
        return self._losses(path, torch.float64, one_bias)

    def prepare_runs(self, seconds: float, epochs: int) -> dict[str, Any]:
        self.epochs, self.members = epochs, 1
        clock = self.repeat_runs()
        self.members = max(1, round(seconds / (clock.stop - clock.start)))
        return {"members": self.members, "epochs": epochs, "threads": torch.get_num_threads()} | (
            {"device": torch.cuda.get_device_name()} if self.device.type == "cuda" else {}
        )

    def share(self, members: int) -> None:
        """As many runs as the other processes have, or some would wait for others."""
        self.members = members

    def repeat_runs(self) -> Work:
        with timed() as clock:
            for seed in range(self.members):
                np.save(Path(self.folder.name) / f"{seed}.npy", self._run(seed))
        return Work(self.members, *clock)

    def _run(self, seed: int) -> np.ndarray:
        """Loss and accuracy over the training set after each epoch, [epoch, 2]."""
        w = self.workload
        torch.manual_seed(seed)
        inputs = torch.randn(w.num_examples, w.seq_len, w.features, device=self.device)
        labels = torch.randint(0, w.num_classes, (w.num_examples,), device=self.device)
        model = network(w).to(self.device)
        # fused: the fastest of the three implementations here
        optimizer = torch.optim.Adam(model.parameters(), lr=w.learning_rate, fused=True)
        # all examples in one call are faster for the LSTM, blocks for the transformer
        block = w.batch_size if w.kind == "transformer" and self.device.type == "cpu" else w.num_examples
        curve = []
        for _ in range(self.epochs):
            model.train()
            for rows in torch.randperm(w.num_examples, device=self.device).split(w.batch_size):
                loss = functional.cross_entropy(model(inputs[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.inference_mode():
                logits = torch.cat([model(part) for part in inputs.split(block)])
                right = (logits.argmax(dim=1) == labels).float().mean()
                curve.append(torch.stack([functional.cross_entropy(logits, labels), right]))
        return torch.stack(curve).cpu().numpy()

    def _losses(self, path: str, dtype: torch.dtype, one_bias: bool = False) -> list[float]:
        given = np.load(path)
        model = network(self.workload).to(dtype)
        load(self.workload, model, given, one_bias)
        optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], lr=self.workload.learning_rate, fused=True
        )
        inputs, labels = torch.from_numpy(given["inputs"]).to(dtype), torch.from_numpy(given["labels"]).long()
        losses = []
        for rows in batches(given):
            loss = functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses


class Vmapped:
    """All members at once, the LSTM cell by hand (``nn.LSTM`` cannot be vmapped), in one process with all threads."""

    def __init__(self, workload: dict[str, Any], members: int) -> None:
        self.workload, self.members = Workload(**workload), members
        in_dims = (0, 0, 0)
        self.gradients = torch.func.vmap(torch.func.grad_and_value(self._loss), in_dims=in_dims)
        self.logits = torch.func.vmap(self._logits)

    def losses(self, path: str) -> list[float]:
        """Of two equal members."""
        given = np.load(path)
        one = network(self.workload)
        load(self.workload, one, given, one_bias=False)
        params = {name: torch.stack([p.detach(), p.detach()]) for name, p in one.named_parameters()}
        optimizer = torch.optim.Adam(params.values(), lr=self.workload.learning_rate, fused=True)
        inputs, labels = torch.from_numpy(given["inputs"]), torch.from_numpy(given["labels"]).long()
        losses = []
        for rows in batches(given):
            x, y = inputs[rows], labels[rows]
            losses.append(self._step(params, optimizer, torch.stack([x, x]), torch.stack([y, y]))[1].item())
        return losses

    def prepare_runs(self, seconds: float, epochs: int) -> dict[str, Any]:
        """Runs of as many epochs as take about so many seconds."""
        self.epochs = 1
        clock = self.repeat_runs()
        self.epochs = min(epochs, max(1, round(seconds / (clock.stop - clock.start))))
        return {"members": self.members, "epochs": self.epochs, "threads": torch.get_num_threads()}

    def repeat_runs(self) -> Work:
        with timed() as clock:
            self._run()
        return Work(self.members, *clock)

    def _run(self) -> np.ndarray:
        w = self.workload
        inputs = torch.randn(self.members, w.num_examples, w.seq_len, w.features)
        labels = torch.randint(0, w.num_classes, (self.members, w.num_examples))
        drawn = [dict(network(w).named_parameters()) for _ in range(self.members)]
        params = {name: torch.stack([member[name].detach() for member in drawn]) for name in drawn[0]}
        # every rule of Adam is elementwise, so one optimiser of stacked parameters is all members' own
        optimizer = torch.optim.Adam(params.values(), lr=w.learning_rate, fused=True)
        member = torch.arange(self.members)[:, None]
        curve = []
        for _ in range(self.epochs):
            order = torch.rand(self.members, w.num_examples).argsort(dim=1)
            for rows in order.split(w.batch_size, dim=1):
                self._step(params, optimizer, inputs[member, rows], labels[member, rows])
            with torch.no_grad():
                logits = self.logits(params, inputs)
                right = (logits.argmax(dim=2) == labels).float().mean(dim=1)
                loss = functional.cross_entropy(logits.mT, labels, reduction="none").mean(dim=1)
                curve.append(torch.stack([loss, right], dim=1))
        return torch.stack(curve).numpy()

    def _step(self, params: dict[str, Any], optimizer: Any, inputs: Any, labels: Any) -> torch.Tensor:
        gradients, losses = self.gradients(params, inputs, labels)
        for name, leaf in params.items():
            leaf.grad = gradients[name]
        optimizer.step()
        return losses

    def _loss(self, params: dict[str, Any], inputs: Any, labels: Any) -> torch.Tensor:
        return functional.cross_entropy(self._logits(params, inputs), labels)

    def _logits(self, params: dict[str, Any], inputs: Any) -> torch.Tensor:
        values = list(inputs.unbind(1))
        for layer in range(self.workload.layers):
            into, across, bias_ih, bias_hh = (
                params[f"lstm.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            state = cell = torch.zeros_like(values[0][:, :1] * across[:1])
            # the inputs' part of all steps in one product
            projected = (torch.stack(values) @ into.T + (bias_ih + bias_hh)).unbind(0)
            values = []
            for at in projected:
                i, f, g, o = (at + state @ across.T).chunk(4, dim=1)
                cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
                state = torch.sigmoid(o) * torch.tanh(cell)
                values.append(state)
        return functional.linear(state, params["output.weight"], params["output.bias"])


def batches(given: Any) -> Iterator[torch.Tensor]:
    """The examples of each batch, without those that only fill it up."""
    for rows, weights in zip(given["rows"], given["weights"], strict=True):
        yield torch.from_numpy(rows[weights > 0].astype(np.int64))


def load(workload: Workload, model: Any, given: Any, one_bias: bool) -> None:
    """Copies lossjax's parameters ``params/<path>`` into the network of the same function."""

    def copy(target: Any, path: str) -> None:
        """Matrices and the kernels of convolutions are transposed: [out, in] here."""
        array = np.asarray(given[f"params/{path}"])
        is_kernel = "kernel" in path.rpartition("/")[2]
        target.copy_(torch.from_numpy(np.ascontiguousarray(array.T if is_kernel else array)))

    def copy_linear(target: Any, path: str) -> None:
        copy(target.weight, f"{path}/kernel")
        copy(target.bias, f"{path}/bias")

    def copy_norm(target: Any, path: str) -> None:
        copy(target.weight, f"{path}/scale")
        copy(target.bias, f"{path}/bias")

    with torch.no_grad():
        copy_linear(model.output, "output")
        if workload.kind == "lstm":
            for index in range(workload.layers):
                for name in ("ih", "hh"):
                    copy(getattr(model.lstm, f"weight_{name}_l{index}"), f"layer_{index}/kernel_{name}")
                    copy(getattr(model.lstm, f"bias_{name}_l{index}"), f"layer_{index}/bias_{name}")
                if one_bias:
                    fixed, trained = (getattr(model.lstm, f"bias_{name}_l{index}") for name in ("ih", "hh"))
                    trained += fixed
                    fixed.zero_()
                    fixed.requires_grad_(False)
            return
        copy_linear(model.features, "features")
        if workload.kind == "conv":
            copy_norm(model.norm, "norm")
            for index, (norm, convolution) in enumerate(zip(model.norms, model.convolutions, strict=True)):
                copy_norm(norm, f"norm_{index}")
                copy_linear(convolution, f"convolution_{index}")
            return
        copy(model.positions, "positions")
        copy_norm(model.encoder.norm, "norm")
        for index, layer in enumerate(model.encoder.layers):
            path = f"layer_{index}"
            copy(layer.self_attn.in_proj_weight, f"{path}/query_key_value/kernel")
            copy(layer.self_attn.in_proj_bias, f"{path}/query_key_value/bias")
            copy_linear(layer.self_attn.out_proj, f"{path}/projection")
            copy_norm(layer.norm1, f"{path}/attention_norm")
            copy_norm(layer.norm2, f"{path}/mlp_norm")
            copy_linear(layer.linear1, f"{path}/mlp_in")
            copy_linear(layer.linear2, f"{path}/mlp_out")
