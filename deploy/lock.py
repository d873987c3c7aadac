"""The locks: the exact version of every package that each requirement list brings.

    make lock                  # brings the locks in line with the lists; versions that still fit stay
    make lock ARGS=--upgrade   # the newest versions that the lists allow

A lock is a constraints file, `pip install -r LIST -c LOCK`: it pins what is installed and installs nothing by
itself, so one lock serves every system, with and without CUDA.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = (3, 11)  # the images', and the oldest supported: a newer one is offered versions it cannot use
# Lock -> its list. The first holds what make installs, and the images' locks take their versions from it.
LOCKS = {
    "requirements/everything.lock": "requirements/dev.txt",
    "requirements/api.lock": "requirements/api.txt",
    "requirements/api-torch.lock": "requirements/api-torch.txt",
    "requirements/train.lock": "requirements/train.txt",
    "requirements/cluster.lock": "requirements/cluster.txt",
    "requirements/web.lock": "requirements/web.txt",
    "requirements/watch.lock": "requirements/watch.txt",
    "requirements/tracker.lock": "requirements/tracker.txt",
}
WHOLE = next(iter(LOCKS))
MARK = "# made from: "


def requirements(path: Path) -> list[str]:
    """Return the sorted requirements of a list and of those it includes, without comments."""
    found: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        wanted = line.partition("#")[0].strip()
        if wanted.startswith("-r "):
            found.update(requirements(path.parent / wanted.removeprefix("-r ").strip()))
        elif wanted:
            found.add(wanted)
    return sorted(found)


def header(path: Path) -> str:
    """Return a lock's first lines, which change when the list at path asks for something else."""
    digest = hashlib.sha256("\n".join(requirements(path)).encode()).hexdigest()
    name = f"{path.parent.name}/{path.name}"
    return f"# What {name} brings, at exact versions. Not edited by hand: make lock.\n{MARK}{digest}\n"


def stale(root: Path = ROOT) -> list[str]:
    """Return the names of locks that are absent or were made from another list than the present one."""
    return [
        lock
        for lock, name in LOCKS.items()
        if not (root / lock).is_file() or not (root / lock).read_text().startswith(header(root / name))
    ]


def compile_lock(lock: str, name: str, arguments: list[str]) -> None:
    """Let pip-compile write one lock; no address of any package registry gets into it."""
    command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--no-header", "--no-emit-options"]
    command += ["--strip-extras", "--annotation-style", "line", "--unsafe-package", "pip"]
    command += ["--output-file", lock, name]
    if lock != WHOLE:
        command += ["--constraint", WHOLE]
    subprocess.run([*command, *arguments], cwd=ROOT, check=True)
    path = ROOT / lock
    path.write_text(header(ROOT / name) + path.read_text())


def main(arguments: list[str]) -> int:
    """Renew every lock and return the exit status; arguments go to pip-compile."""
    if sys.version_info[:2] != PYTHON or sys.platform != "linux":
        found = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}"
        print(f"Expected Python {PYTHON[0]}.{PYTHON[1]} on Linux, as in the images, found {found}")
        return 1
    try:
        for lock, name in LOCKS.items():
            compile_lock(lock, name, arguments)
    except subprocess.CalledProcessError:
        print("pip-compile found no set of versions: see its message above.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
