"""What starts without jax, and that every public name is there. Each question is asked of a fresh interpreter."""

import json
import pkgutil
import subprocess
import sys
import types

import pytest

import lossjax

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "matplotlib", "scipy", "sklearn", "aeon", "pandas", "xarray")
# read by whoever only looks at stored results
WITHOUT_JAX = (
    "lossjax.history",
    "lossjax.frequency",
    "lossjax.npz",
    "lossjax.analysis.arms",
    "lossjax.analysis.attribution",
    "lossjax.analysis.baselines",
    "lossjax.analysis.calibration",
    "lossjax.analysis.calibration_error",
    "lossjax.analysis.comparison",
    "lossjax.analysis.components",
    "lossjax.analysis.conditions",
    "lossjax.analysis.contrasts",
    "lossjax.analysis.doses",
    "lossjax.analysis.families",
    "lossjax.analysis.findings",
    "lossjax.analysis.groups",
    "lossjax.analysis.interval",
    "lossjax.analysis.inversions",
    "lossjax.analysis.onset",
    "lossjax.analysis.pairs",
    "lossjax.analysis.phases",
    "lossjax.analysis.plateaus",
    "lossjax.analysis.populations",
    "lossjax.analysis.proportions",
    "lossjax.analysis.records",
    "lossjax.analysis.regimes",
    "lossjax.analysis.reliability",
    "lossjax.analysis.replacement",
    "lossjax.analysis.rescaling",
    "lossjax.analysis.resampling",
    "lossjax.analysis.searches",
    "lossjax.analysis.selection",
    "lossjax.analysis.significance",
    "lossjax.analysis.spread",
    "lossjax.analysis.stopping",
    "lossjax.analysis.streams",
    "lossjax.analysis.summary",
    "lossjax.analysis.tables",
    "lossjax.analysis.verdicts",
    "lossjax.diagnosis.advice",
    "lossjax.diagnosis.answer",
    "lossjax.diagnosis.carried",
    "lossjax.diagnosis.choices",
    "lossjax.diagnosis.curve_answer",
    "lossjax.diagnosis.curves",
    "lossjax.diagnosis.diagnose",
    "lossjax.diagnosis.examine",
    "lossjax.diagnosis.measured",
    "lossjax.diagnosis.outputs",
    "lossjax.diagnosis.page",
    "lossjax.diagnosis.phrases",
    "lossjax.diagnosis.reading",
    "lossjax.diagnosis.repairs",
    "lossjax.diagnosis.story",
    "lossjax.diagnosis.subject",
    "lossjax.diagnosis.text",
    "lossjax.diagnosis.window",
    "lossjax.diagnosis.wording",
    "lossjax.recorder",
    "lossjax.reports.charts",
    "lossjax.reports.doses",
    "lossjax.reports.imbalanced",
    "lossjax.reports.labels",
    "lossjax.reports.levels",
    "lossjax.reports.maps",
    "lossjax.reports.page",
    "lossjax.reports.results",
    "lossjax.reports.panels",
    "lossjax.reports.plots",
    "lossjax.reports.report",
    "lossjax.reports.selecting",
    "lossjax.cli",
    "lossjax.endings",
    "lossjax.options",
    "lossjax.sweeps.store",
    "lossjax.sweeps.parts",
    "lossjax.sweeps.plan",
    "lossjax.sweeps.durable",
    "lossjax.sweeps.provenance",
    "lossjax.sweeps.experiment",
    "lossjax.sweeps.simulation",
    "lossjax.sweeps.signals",
    "lossjax.training.config",
)


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running ``code``."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_lossjax_starts_nothing():
    assert loaded_after("import lossjax").isdisjoint({*HEAVY, "numpy"})


def test_reading_statistics_and_the_command_import_no_jax():
    # in one interpreter after another import, so that the first that imports jax is named
    code = "import importlib, sys\n" + "\n".join(
        f"importlib.import_module({name!r}); assert 'jax' not in sys.modules, {name!r}" for name in WITHOUT_JAX
    )
    assert loaded_after(code).isdisjoint({"jax", "jaxlib", "flax", "optax", "orbax"})


def test_the_list_above_is_complete():
    found = {module.name for module in pkgutil.walk_packages(lossjax.__path__, "lossjax.") if not module.ispkg}
    named = {name for name in found if name.startswith(("lossjax.analysis.", "lossjax.diagnosis.", "lossjax.reports."))}
    assert named <= set(WITHOUT_JAX), f"add {sorted(named - set(WITHOUT_JAX))} to WITHOUT_JAX"
    assert set(WITHOUT_JAX) <= found


def test_a_grid_a_task_a_model_and_a_sweep_start_no_backend():
    loaded_after(
        """
import lossjax as lj
cell = lj.Cell(lj.tasks.RandomLabels(), lj.models.LSTM(hidden=4), lj.TrainConfig(16, epochs=2))
sweep = lj.Sweep({"a": cell}, lj.grid(learning_rate=[1e-2, 1e-3]), seeds=4)
sweep.description("a"), sweep.members("a")
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    )


@pytest.mark.parametrize("name", lossjax.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name):
    value = getattr(lossjax, name)
    assert isinstance(value, types.ModuleType) or value.__doc__
    assert name in dir(lossjax)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"lossjax has no 'trian'; it has Cell, "):
        lossjax.trian  # noqa: B018  # looking it up is what is tested
