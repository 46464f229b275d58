"""From measurements to what is reported: medians with the range of the repetitions, ratios, limits, exponents."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from scipy import stats

import lossjax as lj
from lossjax.analysis.tables import table
from speed.record import Section
from speed.sections import DISCUSSED, GATE_STEPS, LOOP, OURS, PER_CORE, PLAIN
from speed.workloads import WORKLOADS, Workload

Sections = Mapping[str, Section]
GIB: Final = 2**30
CUDNN: Final = "cuDNN in sequence"
NEAR: Final = 0.9  # a section whose machine was slower than this share of the best section's says so


def findings(sections: Sections) -> lj.Findings:
    """Everything that the sections hold, in tables and numbers."""
    numbers: dict[str, lj.Interval] = {}
    measured = [name for name in WORKLOADS if name in sections]
    for name in measured:
        numbers |= _workload_numbers(workload_of(sections[name]), sections[name])
    if "scale" in sections:
        numbers |= _scale_numbers(sections["scale"])
    if "startup" in sections:
        numbers["lossjax --help, seconds"] = median(np.array(sections["startup"]["help"]["seconds"]))
    for name, sizes in sections.get("gpu", {}).items():
        for members, arms in sizes.items() if name in WORKLOADS else ():
            numbers[f"GPU, {name}, {members} members: runs a second over cuDNN's in sequence"] = median(
                rates(arms[OURS]) / rates(arms[CUDNN])
            )
    tables = {
        "steps": table(_step_rows(sections, measured)),
        "runs": table(_run_rows(sections, measured)),
        "scale": table(_scale_rows(sections.get("scale", {}))),
        "startup": table(_startup_rows(sections.get("startup", {}))),
        "gpu": table(_gpu_rows(sections.get("gpu", {}))),
        "gate": table(_gate_rows(sections, measured)),
        "repetitions": table(_repetition_rows(sections)),
    }
    return lj.Findings(
        numbers=numbers,
        tables={name: columns for name, columns in tables.items() if columns},
        notes=_notes(sections, measured),
        meta=_meta(sections),
    )


def median(values: np.ndarray) -> lj.Interval:
    """The median of n repetitions, with their range: an interval for the true median at the level 1 - 2^(1-n).

    That holds for any distribution of independent repetitions (Conover 1999, sec. 3.2).
    """
    level = 1 - 2.0 ** (1 - len(values))
    bounds = (float(values.min()), float(values.max())) if level else (math.nan, math.nan)
    return lj.Interval(float(np.median(values)), *bounds, level or 0.95)


def rates(result: Mapping[str, Any]) -> np.ndarray:
    """[repetition] counts a second."""
    return np.array(result["count"]) / np.array(result["seconds"])


def run_rates(result: Mapping[str, Any], workload: Workload) -> np.ndarray:
    """[repetition] whole runs a second; an arm that trained fewer epochs counts for as much less of a run."""
    return rates(result) * result["epochs"] / workload.epochs


def limit_seconds(workload: Workload, machine: Section, product: str) -> float:
    """t_bound = F / F_peak + S / S_peak of a member-step (BENCHMARKS.md), by the fastest repetition of each."""
    return workload.flops / rates(machine[product]).max() + workload.transcendentals / rates(machine["tanh"]).max()


def exponent(sizes: np.ndarray, costs: np.ndarray) -> lj.Interval:
    """b of cost ∝ size^b by least squares on logarithms, with its 95 % t-interval; curvature widens it."""
    fit = stats.linregress(np.log(sizes), np.log(costs))
    if len(sizes) < 3:
        return lj.Interval(float(fit.slope), math.nan, math.nan)
    half = float(stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr)
    return lj.Interval(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


def workload_of(section: Section) -> Workload:
    return Workload(**section["workload"])


def over_plain(workload: Workload, section: Section) -> str:
    members = section["steps"][PLAIN]["members"]
    return f"{workload.name}: member-steps a second over jit(vmap) of {members} members"


def over_torch(name: str) -> str:
    return f"{name}: whole runs a second over PyTorch, a process a core"


def _workload_numbers(workload: Workload, section: Section) -> dict[str, lj.Interval]:
    name, steps, runs, machine = workload.name, section["steps"], section["runs"], section["machine"]
    ours = rates(steps[OURS])
    numbers = {
        over_plain(workload, section): median(ours / rates(steps[PLAIN])),
        f"{name}: η": median(min(limit_seconds(workload, machine, product) for product in ("xla", "blas")) * ours),
        f"{name}: η against XLA's own product": median(limit_seconds(workload, machine, "xla") * ours),
    }
    for arm in runs:
        if arm != OURS:
            ratio = run_rates(runs[OURS], workload) / run_rates(runs[arm], workload)
            numbers[over_torch(name) if arm == PER_CORE else f"{name}: whole runs a second over {arm}"] = median(ratio)
    return numbers


def _scale_numbers(scale: Section) -> dict[str, lj.Interval]:
    numbers = {}
    members = {int(size): rates(result) for size, result in scale["members"].items()}
    sizes = sorted(members)
    every = np.array([members[size] for size in sizes])  # [size, repetition]
    numbers[f"W1, {sizes[0]} to {sizes[-1]:,} members: slowest member-steps a second over fastest"] = median(
        every.min(axis=0) / every.max(axis=0)
    )
    for variable in (variable for variable in VARIABLES if len(scale.get(variable, {})) > 1):
        numbers[f"exponent of the cost in {VARIABLES[variable]}"] = exponent(*_medians(scale, variable))
    for name in (name for name in scale if name.startswith("devices ")):
        one, *_, most = sorted(scale[name], key=int)
        if one != most:
            ratio = rates(scale[name][most]) / rates(scale[name][one])
            numbers[f"{name.split()[1]}: {most} CPU devices over {one}"] = median(ratio)
    return numbers


VARIABLES: Final = {"members": "members", "width": "hidden size", "seq_len": "time steps", "num_classes": "classes"}


def _medians(scale: Section, variable: str) -> tuple[np.ndarray, np.ndarray]:
    """Sizes, and the median cost at each: of the whole population for members, of a member-step for the others."""
    sizes = sorted(scale[variable], key=int)
    seconds = [np.median(1 / rates(scale[variable][size])) for size in sizes]
    x = np.array(sizes, float)
    return x, np.array(seconds) * (x if variable == "members" else 1)


def _step_rows(sections: Sections, measured: Iterable[str]) -> Iterable[dict[str, Any]]:
    for name in measured:
        section, workload = sections[name], workload_of(sections[name])
        for arm, result in section["steps"].items():
            yield {"workload": name, "label": workload.label, "arm": arm} | _microseconds(result) | _facts(result)


def _run_rows(sections: Sections, measured: Iterable[str]) -> Iterable[dict[str, Any]]:
    for name in measured:
        section, workload = sections[name], workload_of(sections[name])
        for arm, result in section["runs"].items():
            speed = median(run_rates(result, workload))
            yield {
                "workload": name,
                "label": workload.label,
                "arm": arm,
                "runs_per_second": speed,
                "epochs_of_a_run": workload.epochs,
                "epochs_measured": result["epochs"],
            } | _facts(result)


def _scale_rows(scale: Section) -> Iterable[dict[str, Any]]:
    for variable, sizes in scale.items():
        for size, result in sizes.items() if variable != "made" else ():
            yield {"variable": variable, "value": int(size)} | _microseconds(result) | _facts(result)


def _startup_rows(startup: Section) -> Iterable[dict[str, Any]]:
    for name in (name for name in WORKLOADS if name in startup):
        for cache, first in startup[name].items():
            yield {
                "workload": name,
                "cache": "empty" if cache == "cold" else "filled by another process",
                "compile_seconds": first["compile_seconds"],
                "first_step_seconds": first["seconds"],
                "process_seconds": first["process_seconds"],
                "tile": first["tile"],
            }


def _gpu_rows(gpu: Section) -> Iterable[dict[str, Any]]:
    for name in (name for name in WORKLOADS if name in gpu):
        workload = WORKLOADS[name]
        for members, arms in gpu[name].items():
            for arm, result in arms.items():
                # every run has as many steps as the workload says
                speed = median(rates(result))
                yield {
                    "workload": name,
                    "members": int(members),
                    "arm": arm,
                    "runs_per_second": speed,
                    "us_per_member_step": 1e6 / speed.estimate / (workload.epochs * workload.steps_per_epoch),
                    "device": result["device"],
                    "tile": result.get("tile", 1),
                }


def _gate_rows(sections: Sections, measured: Iterable[str]) -> Iterable[dict[str, Any]]:
    for name in measured:
        for arm, difference in sections[name]["gate"]["largest_relative_difference"].items():
            yield {"workload": name, "arm": arm, "largest_relative_difference": difference}


def _repetition_rows(sections: Sections) -> Iterable[dict[str, Any]]:
    """Every repetition of every section, as it was measured."""

    def walk(path: tuple[str, ...], node: Any) -> Iterable[dict[str, Any]]:
        if not isinstance(node, dict):
            return
        if "count" in node and "seconds" in node:
            for index, (count, seconds) in enumerate(zip(node["count"], node["seconds"], strict=True)):
                yield {"what": " / ".join(path), "repetition": index, "count": float(count), "seconds": float(seconds)}
            return
        for key, value in node.items():
            yield from walk((*path, key), value)

    return walk((), dict(sections))


def _microseconds(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"us_per_member_step": median(1e6 / rates(result))}


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is stated beside a figure; 0 where it has no meaning for the arm."""
    return {
        "members": result["members"],
        "tile": result.get("tile", 0),
        "processes": result["processes"],
        "devices": result.get("devices", 0),
        "threads": result.get("threads", 0),
        "compile_seconds": float(result.get("compile_seconds", 0.0)),
        "peak_gib": result["peak_bytes"] / GIB,
    }


def _notes(sections: Sections, measured: list[str]) -> tuple[str, ...]:
    notes = [
        "Arms alternate (A B A B …) within a section, each in processes of its own that idle meanwhile; numbers are "
        "the median of the repetitions and their range, which is an interval for the median at the stated level. "
        "Ratios are of neighbouring repetitions.",
        "Variables that set flags, devices or threads are taken away from every process: each library has its "
        "defaults, lossjax what it sets by itself. PyTorch's Adam is the fused one.",
        "A member-step is an optimiser step of one member with the shuffling of every epoch and no evaluation. A whole "
        "run draws examples and parameters, trains, evaluates on the training set each epoch and stores what it "
        "measured; arms that trained fewer epochs than a run has (runs.csv says which) are scaled by epochs. lossjax "
        "measures more at each evaluation (calibration errors, Brier score, entropy) and stores it durably.",
        "Compilation is in no rate: compile_seconds gives it, with an empty cache.",
        "η = t_bound / t, t_bound = F / F_peak + S / S_peak of BENCHMARKS.md, F_peak being the best matrix product of "
        "XLA and NumPy's BLAS in that call, and beside it XLA's own. For the transformer and the convolutions F and S "
        "are those of experiments/speed/workloads.py. F of an LSTM counts the gradient by the first layer's inputs, "
        "which nobody needs: 1.02 times what is needed for 1→16, 1.2 times for 16→16.",
    ]
    best = max((_best_product(sections[name]["machine"]) for name in measured), default=0.0)
    for name in measured:
        gate, machine = sections[name]["gate"], sections[name]["machine"]
        worst = max(gate["largest_relative_difference"].values())
        peaks = ", ".join(
            f"{label} {rates(machine[key]).max() / 1e9:.3g} {unit}"
            for key, label, unit in (
                ("xla", "XLA's product", "GFLOP/s"),
                ("blas", "NumPy's", "GFLOP/s"),
                ("tanh", "tanh", "a ns"),
            )
        )
        share = _best_product(machine) / best
        slowed = "" if share >= NEAR else f": {share:.0%} of the best section's, so its η is that of a slowed machine"
        notes.append(
            f"{name}: all arms' losses of {GATE_STEPS} steps are within {worst:.1g} of float64's (allowed: "
            f"{gate['tolerance']:g}). Peaks in the same call: {peaks}{slowed}."
        )
    if any(name in sections for name in DISCUSSED):
        notes.append(
            f"Flax's LSTM has one bias a gate, PyTorch's and lossjax's two; {PLAIN} and {LOOP} are held against a "
            "float64 reference with one. As plain JAX has one shape a program, they fill an epoch's last batch of "
            "W1–W3 up to 16 examples: 112 rows an epoch, where the others compute 100. PyTorch evaluates all examples "
            "in one call, or, where that is faster, with the transformers, in blocks of a batch."
        )
    for variable in VARIABLES:
        if "scale" in sections and len(sections["scale"].get(variable, {})) == 2:
            notes.append(f"exponent of the cost in {VARIABLES[variable]}: two sizes only")
    return tuple(notes)


def _best_product(machine: Section) -> float:
    """Floating-point operations a second of the faster of both products, at its fastest."""
    return max(float(rates(machine[product]).max()) for product in ("xla", "blas"))


def _short(commit: str | None) -> str:
    """Twelve digits, and whether the code was changed since."""
    return f"{str(commit)[:12]}{'-dirty' if str(commit).endswith('-dirty') else ''}"


def _meta(sections: Sections) -> dict[str, Any]:
    made: dict[str, dict[str, Any]] = {name: section["made"] for name, section in sections.items()}
    latest: dict[str, Any] = max(made.values(), key=lambda m: m["when"], default={})
    shared = ("versions", "processor", "cores", "memory_gib", "system", "python", "flags")
    meta = {"command": latest.get("command")} | {key: latest.get(key) for key in shared}
    meta["wall_seconds"] = round(sum(m["wall_seconds"] for m in made.values()), 1)
    meta["members"] = "stated with each figure"
    meta["core_seconds"] = None
    # sections may come from several calls, each with its own conditions
    meta["sections"] = {
        name: f"{m['when']}, lossjax {m['versions'].get('lossjax')} at {_short(m['git_commit'])}, "
        f"in {m['wall_seconds']:.0f} s"
        + "".join(f", {key} {m[key]}" for key in shared if m[key] != latest[key] and key != "versions")
        for name, m in made.items()
    }
    return meta
