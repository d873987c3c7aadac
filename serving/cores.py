"""The processor's cores: how many this process may use, and idle threads that sleep.

Import it before torch, whose OpenMP library reads OMP_WAIT_POLICY when it is loaded.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # noqa: TID251 - told to OpenMP, not read by us


def granted_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1.

    The smaller of the affinity mask and the cgroup quota (version 2 and 1), rounded down: a thread more
    than the quota allows is stopped in mid-step and all others wait for it.

    Args:
        root: where proc and sys are; for tests.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(mask, _cgroup_quota(root))))


def _cgroup_quota(root: Path) -> float:
    quotas = [math.inf]
    for folder in _cgroup_folders(root):
        limit, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
        if not limit:
            limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if limit.isdecimal() and period.isdecimal() and int(period) > 0:
            quotas.append(int(limit) / int(period))
    return min(quotas)


def _cgroup_folders(root: Path) -> list[Path]:
    """Return the folders whose quota binds this process: its own group and every one above."""
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.strip("/")
        folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return folders


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
