"""The one place that touches process-wide settings of jax: devices, the compilation cache, compiler options."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax


def start() -> list[jax.Device]:
    """The devices a population is spread over: every core of the CPU is one, or every local accelerator.

    Called at the first training, not at import. Settings that the user made stay as they are; where jax has already
    been started with fewer CPU devices than cores, a warning says so and what there is is used.
    """
    cores = num_cores()
    flags = os.environ.get("XLA_FLAGS", "")
    asked = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    user_chose = asked > 0 or "host_platform_device_count" in flags
    too_late = False
    if not user_chose:
        try:
            jax.config.update("jax_num_cpu_devices", cores)
        except RuntimeError:  # jax's own word for a backend that is already running
            too_late = True
    _set_compilation_cache()
    devices = jax.local_devices()
    if too_late and devices[0].platform == "cpu" and len(devices) < cores:
        _warn_once(
            f"jax was started before lossjax with {len(devices)} CPU device(s) for {cores} cores, so cores stay idle; "
            f"train first, or call jax.config.update('jax_num_cpu_devices', {cores}) before the first jax operation"
        )
    return devices


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiler_options(platform: str, ynn_fusion: bool) -> Mapping[str, bool | str]:
    """Options of a population's programs: a fixed rule, never chosen by timing, as they can change the last bits.

    ``ynn_fusion`` is for LSTMs of more than 16 units: it costs smaller ones time, and elsewhere its last bits depend on
    the tile.
    """
    if platform != "cpu":
        return {}
    # each core is a device of its own, so a product must not be split over cores once more
    options: dict[str, bool | str] = {"xla_cpu_multi_thread_eigen": False}
    if not ynn_fusion:
        options["xla_cpu_experimental_ynn_fusion_type"] = ""
    return options


@contextlib.contextmanager
def quiet_compilation() -> Iterator[None]:
    """Drops one message of XLA's from standard error: that a cached CPU program's features differ from the host's.

    The two differ in "prefer-no-gather" and "prefer-no-scatter", which are tuning hints and no instructions (jax issue
    38445). Everything else that is written meanwhile is passed on.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().splitlines(keepends=True):
                if b"cpu_aot_loader" not in line:
                    os.write(2, line)


def memory_limit(device: jax.Device) -> int | None:
    """Bytes that programs on this device may use: an accelerator's limit, or what this process can still get."""
    if device.platform != "cpu":
        stats = device.memory_stats()
        return int(stats["bytes_limit"]) if stats and "bytes_limit" in stats else None
    limits = [_available_memory(), _cgroup_memory()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def level2_cache() -> int:
    """Bytes of a core's second-level cache; 1 MiB where the system does not say."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
    except OSError:
        return 2**20
    return int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1)


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_memory(membership: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left of the tightest limit of this process's control group and of those above it; None without a limit.

    The kernel takes back what it only keeps of files (``inactive_file``) before it refuses memory, so that is not used.
    """
    left: list[int] = []
    for folder, limit_name, used_name, cache_name in _cgroup_folders(membership, mounted):
        try:
            limit, used = ((folder / name).read_text().strip() for name in (limit_name, used_name))
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue  # the root has no files of a limit
        if limit != "max":
            left.append(int(limit) - int(used) + int(facts.get(cache_name, 0)))
    return min(left, default=None)


def _cgroup_folders(membership: Path, mounted: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Folders that may limit this process, from its own up; with the names of limit, use and cache there.

    Inside a container the path in ``membership`` may be the host's, of which only the mount's top is seen here.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)  # "0::/user.slice" of version 2, "4:memory:/user" of version 1
        if controllers == "":
            top, names = mounted, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = mounted / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = top / path.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top):
                yield folder, *names


def _set_compilation_cache() -> None:
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lossjax" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written to only costs compiling again
    jax.config.update("jax_compilation_cache_dir", str(folder))


_warned: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, stacklevel=3)
