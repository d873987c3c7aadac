"""Fetch one folder of a git repository so that an interrupted download goes on where it stopped.

A partial clone (no file contents) tells what there is; a sparse checkout then fetches the folder's files in
batches. In somebody's own clone of that repository, only the folder's missing files are added. Needs git 2.25
or newer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

BATCH = 250  # files per request
ATTEMPTS = 3
KEEP_AT_TOP = ("/README.md", "/License.md", "/LICENSE")  # whose data this is and under which licence


class DownloadError(Exception):
    """The folder could not be fetched; the message says why and what to do."""


def download_folder(
    url: str, name: str, destination: Path, *, progress: Callable[[int, int], object]
) -> Path:
    """Fetch the folder called name, wherever it lies in the repository at url, into destination.

    Args:
        url: anything git can fetch from.
        name: the folder's own name, without its parents.
        destination: a new or empty folder, an earlier download, or one's own clone of the same repository.
        progress: called with the files that are there and the files there should be.

    Returns:
        The folder on disk, complete.

    Raises:
        DownloadError: git is missing, the address does not answer, it has no such folder, the destination
            holds something else, or the connection broke. After the last, the same call goes on.
    """
    if shutil.which("git") is None:
        raise DownloadError("expected git on this machine, found none: install it (apt install git)")
    _open_clone(url, destination)
    folder = _find_folder(name, destination, url)
    own_clone = _is_own_clone(destination)
    if not own_clone:
        (destination / ".git" / "index.lock").unlink(missing_ok=True)  # what a killed download leaves
    _show(f"/{folder}/", destination, everything_else=own_clone)
    wanted = _names(destination, "ls-tree", "-r", "-z", "--name-only", "HEAD", "--", folder)
    if own_clone:  # what its owner changed stays changed
        missing = sorted(name for name in wanted if not os.path.lexists(destination / name))
    else:
        missing = sorted(wanted - _present(folder, destination))
    progress(len(wanted) - len(missing), len(wanted))
    for start in range(0, len(missing), BATCH):
        _fetch(missing[start : start + BATCH], destination)
        progress(len(wanted) - len(missing) + min(start + BATCH, len(missing)), len(wanted))
    if not own_clone:
        _git(destination, "read-tree", "-m", "-u", "HEAD")  # the files at the top, and a clean git status
    return destination / folder


def _patterns(destination: Path) -> list[str] | None:
    """Return the patterns of the files that a sparse checkout shows, None where all are shown."""
    sparse = _git(destination, "config", "--default", "false", "--type=bool", "--get", "core.sparseCheckout")
    listed = destination / ".git" / "info" / "sparse-checkout"
    return listed.read_text().splitlines() if sparse.strip() == "true" and listed.is_file() else None


def _is_own_clone(destination: Path) -> bool:
    """Say whether this is somebody's own clone: a download of ours shows certain files at the top."""
    patterns = _patterns(destination)
    if patterns is None:  # a download that has just begun has nothing in the index yet
        return bool(_names(destination, "ls-files", "-z"))
    return not set(KEEP_AT_TOP) <= set(patterns)


def _show(pattern: str, destination: Path, *, everything_else: bool) -> None:
    """Let the checkout show what pattern names beside what it shows already.

    Args:
        pattern: of git's sparse checkout.
        destination: the clone.
        everything_else: leave a checkout that shows everything as it is, else show the files at the top.
    """
    patterns = _patterns(destination)
    if patterns is None and everything_else:
        return
    shown = list(KEEP_AT_TOP) if patterns is None else patterns
    if patterns is None or pattern not in patterns:
        _git(destination, "sparse-checkout", "set", "--no-cone", *shown, pattern)


def _open_clone(url: str, destination: Path) -> None:
    """Make destination a clone without contents; every step may have been done by an earlier attempt."""
    if not (destination / ".git").is_dir():
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise DownloadError(
                f"expected a new folder or an earlier download, {destination} holds other files"
            )
        destination.mkdir(parents=True, exist_ok=True)
        _git(destination, "init", "--quiet")
    known = _git(destination, "config", "--default", "", "--get", "remote.origin.url").strip()
    begun = _git(destination, "rev-parse", "--quiet", "--verify", "HEAD", accept=(0, 1)).strip()
    if known != url and (known or begun):
        raise DownloadError(
            f"{destination} is a clone of {known or 'something else'}, not of {url}: choose another folder"
        )
    if not known:
        _git(destination, "remote", "add", "origin", url)
    if begun:
        return  # stay with the version the download began with
    _git(destination, "fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", "HEAD")
    _git(destination, "update-ref", "HEAD", "FETCH_HEAD")


def _find_folder(name: str, destination: Path, url: str) -> str:
    folders = _names(destination, "ls-tree", "-r", "-d", "-z", "--name-only", "HEAD")
    found = sorted(folder for folder in folders if PurePosixPath(folder).name == name)
    if not found:
        raise DownloadError(f"expected a folder {name} in {url}, found none among its {len(folders)} folders")
    return found[0]


def _present(folder: str, destination: Path) -> set[str]:
    """Return the files checked out completely: in git's index and unchanged on disk since."""
    _git(destination, "update-index", "-q", "--refresh", accept=(0, 1))
    indexed = _names(destination, "ls-files", "-z", "--", folder)
    return indexed - _names(destination, "diff-files", "-z", "--name-only", "--", folder)


def _fetch(names: Sequence[str], destination: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _git(
                destination, "checkout", "--quiet", "HEAD", "--pathspec-from-file=-", "--pathspec-file-nul",
                standard_input="\0".join(names),
            )  # fmt: skip
        except DownloadError as error:
            if attempt == ATTEMPTS:
                raise DownloadError(f"{error}. Run the same command again: it goes on from here") from error
            time.sleep(attempt)
        else:
            return


def _names(destination: Path, *arguments: str) -> set[str]:
    return set(_git(destination, *arguments).split("\0")) - {""}


def _git(
    destination: Path, *arguments: str, standard_input: str | None = None, accept: Sequence[int] = (0,)
) -> str:
    done = subprocess.run(
        ["git", "--literal-pathspecs", *arguments],
        cwd=destination,
        input=standard_input,
        stdin=subprocess.DEVNULL if standard_input is None else None,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if done.returncode not in accept:
        said = [line for line in done.stderr.splitlines() if line.startswith(("fatal", "error"))]
        reason = "; ".join(said[:2]) or done.stderr.strip()[-300:] or f"exit status {done.returncode}"
        raise DownloadError(f"git {arguments[0]} did not work in {destination}: {reason}")
    return done.stdout
