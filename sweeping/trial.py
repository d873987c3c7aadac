"""One trial: train.py in a process of its own, watched through its metrics.jsonl."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeping.errors import TrialCrashed, TrialStopped

ROOT = Path(__file__).parents[1]  # where train.py is
TENTHS = 10  # of its minutes: the times at which trials are compared
LOOK_SECONDS = 0.5  # between two looks at what a trial has logged
END_SECONDS = 120.0  # for the step under way and its checkpoint, before a trial that shall stop is killed
LOG_FILE = "train.log"
METRICS_FILE, CHECKPOINT = "metrics.jsonl", "checkpoint.pt"
PR_SET_PDEATHSIG = 1  # of Linux
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

Report = Callable[[int, float], bool]


@dataclass(frozen=True, slots=True)
class Order:
    """What one trial is to do.

    Attributes:
        folder: its own; a checkpoint there is gone on from.
        flags: of train.py, all but --output and --resume.
        minutes: how long it trains.
        tracking_uri: the tracker's address, which may hold a password and so is no flag.
    """

    folder: Path
    flags: tuple[str, ...]
    minutes: float
    tracking_uri: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended.

    Attributes:
        best: validation mAP.
        pruned: it was stopped because others were better at the same time.
    """

    best: float
    pruned: bool


def run_trial(order: Order, report: Report) -> Outcome:
    """Train, and report at each tenth of the minutes the best validation mAP so far.

    Args:
        order: what to train.
        report: takes the tenth (1 to 10) and the mAP, 0 where none is known yet; says whether to stop.

    Raises:
        TrialCrashed: it ended with an error, or without a validation mAP.
        TrialStopped: somebody else stopped it.
    """
    order.folder.mkdir(parents=True, exist_ok=True)
    with (order.folder / LOG_FILE).open("ab") as log:
        process = _start(order, log.fileno())
    told = Told(order, report)
    try:
        while not _ended(process):
            if told.prune():
                stop(process)
                (order.folder / CHECKPOINT).unlink(missing_ok=True)  # nobody goes on from here
                return Outcome(told.best, pruned=True)
    finally:
        stop(process)
    if process.returncode != 0:
        raise TrialCrashed(last_words(order.folder / LOG_FILE, process.returncode))
    if (order.folder / CHECKPOINT).exists():
        raise TrialStopped("its training was stopped from outside")
    told.prune()
    if not told.points:
        raise TrialCrashed("its validation split gave no mAP: are there boxes in it?")
    return Outcome(told.best, pruned=False)


def _start(order: Order, log: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "train.py"), *order.flags, "--output", str(order.folder)]
    if (order.folder / CHECKPOINT).exists():
        command.append("--resume")
    # In a session of its own: Ctrl-C at the terminal is for the sweep, which then stops its trial in order.
    environment = {**os.environ, "MLFLOW_TRACKING_URI": order.tracking_uri}  # noqa: TID251 - handed on, not read
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
        preexec_fn=_end_with_parent if LIBC else None,
    )  # fmt: skip


def _end_with_parent() -> None:
    """Have the system send SIGTERM when the sweep's thread is gone, however it went."""
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def stop(process: subprocess.Popen[bytes], *, seconds: float = END_SECONDS) -> None:
    """Have a trial write its checkpoint and end; kill it if it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:  # deaf, or a second Ctrl-C here
            _kill_all(process)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a trial and the processes that read its images."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # its own session, so its own group
        else:
            process.kill()
    process.wait()


class Told:
    """What a trial has said of itself, and which of it has been reported.

    Attributes:
        points: minutes of training and validation mAP, in order.
    """

    def __init__(self, order: Order, report: Report) -> None:
        self._path, self._minutes, self._report = order.folder / METRICS_FILE, order.minutes, report
        self.points: list[tuple[float, float]] = []
        self._tenth = 0

    @property
    def best(self) -> float:
        """The best validation mAP so far; 0 where there is none."""
        return max((score for _, score in self.points), default=0.0)

    def prune(self) -> bool:
        """Read what is new, report the tenths that are over, and return whether to stop the trial."""
        self.points = read_points(self._path)
        reached = min(TENTHS, int(TENTHS * self.points[-1][0] / self._minutes)) if self.points else 0
        stop_it = False
        while self._tenth < reached:
            self._tenth += 1
            until = self._tenth * self._minutes / TENTHS
            known = [score for minutes, score in self.points if minutes <= until or self._tenth == reached]
            stop_it = self._report(self._tenth, max(known, default=0.0))
        return stop_it and reached < TENTHS  # one that is through has nothing left to save


def read_points(path: Path) -> list[tuple[float, float]]:
    """Return minutes of training and validation mAP from a training's metrics.jsonl, in order."""
    if not path.is_file():
        return []
    points = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last line may be half written
            found = json.loads(line)["metrics"]
            if {"val/map", "val/minutes"} <= found.keys():
                points.append((float(found["val/minutes"]), float(found["val/map"])))
    return points


def last_words(log: Path, status: int) -> str:
    """Return what a process said that ended with a status: its last error, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = (errors or lines or ["nothing"])[-1]
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"train.py {how} and said: {said[:300]} (all of it: {log})"


def command(fixed: Sequence[str], chosen: Sequence[str], minutes: float) -> list[str]:
    """Return the words of the train.py command that repeats a trial as a training of its own."""
    return ["python", "train.py", *fixed, *chosen, "--minutes", f"{minutes:g}"]
