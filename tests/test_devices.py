"""What the machine allows: memory that a control group leaves to this process."""

from pathlib import Path

import pytest

from lossjax import devices

UNLIMITED = "9223372036854771712"  # as version 1 has it


def group(folder: Path, names: tuple[str, str, str], limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cache}\n{names[2]} {cache}\n")


@pytest.mark.parametrize(
    ("line", "top", "names"),
    [
        ("0::", "", ("memory.max", "memory.current", "inactive_file")),
        (
            "5:memory:",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_tightest_group_counts_and_what_is_kept_of_files_is_free(tmp_path, line, top, names):
    mounted, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text(f"3:cpu:/elsewhere\n{line}/jobs/job_1\n")
    assert devices._cgroup_memory(membership, mounted) is None
    group(mounted / top / "jobs", names, "900", used=500, cache=100)  # 500 left
    assert devices._cgroup_memory(membership, mounted) == 500
    group(mounted / top / "jobs" / "job_1", names, "400", used=390, cache=300)  # 310, and not 10
    assert devices._cgroup_memory(membership, mounted) == 310
    group(mounted / top / "jobs" / "job_1", names, "max" if line == "0::" else UNLIMITED, used=390, cache=300)
    assert devices._cgroup_memory(membership, mounted) == 500


def test_in_a_container_whose_path_is_the_hosts_the_top_of_the_mount_counts(tmp_path):
    mounted, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("0::/docker/0123456789ab\n")
    group(mounted, ("memory.max", "memory.current", "inactive_file"), "1000", used=200, cache=0)
    assert devices._cgroup_memory(membership, mounted) == 800
    assert devices._cgroup_memory(tmp_path / "no such file", mounted) is None
