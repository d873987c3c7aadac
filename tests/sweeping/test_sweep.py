"""sweep.py: what may be chosen, trials that are trainings, and a study that goes on after any end."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from conftest import LONGEST_S, wait_until
from mlflow import MlflowClient
from optuna.storages import RDBStorage
from optuna.trial import TrialState

import sweep
from arguments import UsageError
from commands import sweep_config
from photosets import synthetic
from sweeping import study as studies
from sweeping import trial as trials
from sweeping.errors import SweepError, TrialCrashed, TrialStopped
from sweeping.space import Choice, Range, check_flags, flags_of, read_space
from sweeping.study import Plan
from sweeping.trial import Order, Outcome, run_trial

ROOT = Path(__file__).parents[2]


# --- the space ------------------------------------------------------------------------------------------


def space_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return path


def test_the_example_is_a_space_that_train_py_takes():
    space = read_space(ROOT / "config" / "sweeps" / "example.toml")
    assert space["lr"] == Range(1e-4, 3e-3, log=True)
    assert space["batch_size"] == Choice((4, 8, 16))
    check_flags(space, ["--preset", "cpu", "--data", "anywhere"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning = [1]", "learning is no knob of train.py"),
        ("batch_sise = [1]", "did you mean batch_size?"),
        ("minutes = [1, 2]", "minutes is no knob of a trial"),
        ("lr = {low = 1.0, high = 0.1}", "expected low below high, got 1 and 0.1"),
        ("lr = {low = 0.0, high = 0.1, log = true}", "log wants low above 0"),
        ("lr = {low = 0.1}", "a list of values, or {low = ..., high = ...}"),
        ("lr = []", "a list of values"),
        ('lr = {low = "a", high = "b"}', "a list of values"),
        ("lr = ", "is no TOML"),
        ("", "names no knob"),
    ],
)
def test_a_space_that_is_none_is_refused_in_a_sentence(tmp_path, text, said):
    with pytest.raises(
        SweepError, match=said.replace("?", r"\?").replace("{", r"\{").replace("...", r"\.\.\.")
    ):
        read_space(space_file(tmp_path, text))


def test_a_value_that_train_py_does_not_take_is_refused_before_the_first_trial(capsys):
    with pytest.raises(UsageError):
        check_flags({"momentum": Range(0.5, 1.5)}, ["--data", "anywhere"])
    assert "momentum: Input should be less than 1 (got '1.5')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        (["--output", "x"], "set by the sweep itself"),
        (["--no-export"], "itself"),
        (["--lr=1"], "in the space too"),
    ],
)
def test_a_shared_flag_that_is_not_the_persons_to_set_is_refused(fixed, said):
    with pytest.raises(SweepError, match=said):
        check_flags({"lr": Choice((0.1,))}, fixed)


def test_a_choice_is_said_in_flags():
    values: dict[str, bool | int | float | str] = {
        "lr": 0.00012345678,
        "batch_size": 8,
        "negatives": False,
        "channels_last": True,
        "norm": "batch",
    }
    assert flags_of(values) == [
        "--lr", "0.000123457", "--batch-size", "8", "--no-negatives", "--channels-last", "--norm", "batch",
    ]  # fmt: skip


# --- one trial ------------------------------------------------------------------------------------------

FAKE_TRAINING = """
import json, pathlib, signal, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(flags["--output"])
checkpoint = folder / "checkpoint.pt"
def stop(*_):
    checkpoint.write_text("to be gone on with")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with (folder / "metrics.jsonl").open("a") as log:
    for minutes, score in json.loads(flags["--said"]):
        line = {"val/minutes": minutes, "val/map": score}
        print(json.dumps({"step": 0, "timestamp": 0, "metrics": line}), file=log, flush=True)
then = flags["--then"]
if then == "wait":
    (folder / "waits").touch()
    while True:
        time.sleep(0.05)
if then == "crash":
    print("error: no card has that much memory", file=sys.stderr)
    sys.exit(1)
checkpoint.unlink(missing_ok=True)
"""


@pytest.fixture
def order(tmp_path, monkeypatch):
    """Make the order of a trial that logs (minutes, mAP) and then ends, waits or crashes."""
    (tmp_path / "train.py").write_text(FAKE_TRAINING)
    monkeypatch.setattr(trials, "ROOT", tmp_path)
    monkeypatch.setattr(trials, "LOOK_SECONDS", 0.05)

    def make(said: str, then: str) -> Order:
        return Order(tmp_path / "trial", ("--said", said, "--then", then), 10.0, "sqlite://")

    return make


def test_a_trial_reports_the_best_so_far_at_every_tenth_of_its_minutes(order):
    reported: list[tuple[int, float]] = []

    def go_on(tenth, score):
        reported.append((tenth, score))
        return False

    outcome = run_trial(order("[[2.5, 0.2], [4.5, 0.1], [10.2, 0.4]]", "end"), go_on)
    assert outcome == Outcome(0.4, pruned=False)
    # 0.2 is first known after 2.5 of 10 minutes, 0.4 at the very end.
    assert reported == [
        *((tenth, 0.0) for tenth in (1, 2)),
        *((tenth, 0.2) for tenth in range(3, 10)),
        (10, 0.4),
    ]


def test_a_trial_that_is_behind_is_stopped_and_leaves_no_checkpoint(order, tmp_path):
    outcome = run_trial(order("[[3.0, 0.1]]", "wait"), lambda tenth, score: tenth == 3)
    assert outcome == Outcome(0.1, pruned=True)
    assert not (tmp_path / "trial" / "checkpoint.pt").exists()


def test_a_trial_that_crashes_says_its_last_error(order):
    with pytest.raises(TrialCrashed, match=r"ended with status 1 and said: no card has that much memory"):
        run_trial(order("[]", "crash"), lambda *_: False)


def test_a_trial_without_boxes_to_validate_on_is_a_crash_and_no_zero(order):
    with pytest.raises(TrialCrashed, match="gave no mAP"):
        run_trial(order("[]", "end"), lambda *_: False)


def test_a_trial_that_somebody_stops_keeps_its_checkpoint(order, tmp_path):
    def stop_it(tenth, score):
        if tenth < 3:
            return False
        waits = tmp_path / "trial" / "waits"
        wait_until(waits.exists)
        (child,) = children()
        os.kill(child, signal.SIGTERM)
        return False

    with pytest.raises(TrialStopped):
        run_trial(order("[[3.0, 0.1]]", "wait"), stop_it)
    assert (tmp_path / "trial" / "checkpoint.pt").exists()


def children() -> list[int]:
    """The processes that this one has started and that run train.py."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            is_training = b"train.py" in (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and is_training:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_sweep_that_is_killed_takes_its_trial_along(order, tmp_path):
    given = order("[]", "wait")
    script = (
        "import pathlib, sys\n"
        "from sweeping import trial\n"
        f"trial.ROOT = pathlib.Path({str(tmp_path)!r})\n"
        f"order = trial.Order(pathlib.Path({str(given.folder)!r}), {given.flags!r}, 10.0, 'sqlite://')\n"
        "trial.run_trial(order, lambda *_: False)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    wait_until((given.folder / "waits").exists, process=parent)
    parent.kill()
    parent.wait(LONGEST_S)
    wait_until((given.folder / "checkpoint.pt").exists)  # which it writes when it is told to end


# --- the study ------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path) -> Plan:
    return Plan(
        space={"lr": Range(0.1, 0.9), "batch_size": Choice((4, 8))}, fixed=("--data", "d"), minutes=1,
        trials=4, output=tmp_path, tracking_uri="sqlite://", experiment="e",
    )  # fmt: skip


@pytest.fixture
def storage(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def lr_of(order: Order) -> float:
    return float(order.flags[order.flags.index("--lr") + 1])


def as_good_as_its_lr(order, report):
    return Outcome(lr_of(order), pruned=False)


def test_the_best_trial_is_the_one_with_the_best_map(plan, storage):
    told: list[str] = []
    study = studies.open_study(plan, storage, "s")
    studies.go(study, plan, told.append, lambda: None, as_good_as_its_lr)
    best = studies.best_of(study)
    assert best is not None
    assert best.value == pytest.approx(max(trial.params["lr"] for trial in study.trials), rel=1e-4)
    assert studies.summary(study) == "trials over: 4 (4 whole)"


def test_a_trial_that_crashes_is_counted_with_its_sentence_and_the_sweep_goes_on(plan, storage):
    def crash_once(order, report):
        if order.folder.name == "trial-0001":
            raise TrialCrashed("out of memory")
        return as_good_as_its_lr(order, report)

    told: list[str] = []
    study = studies.open_study(plan, storage, "s")
    studies.go(study, plan, told.append, lambda: None, crash_once)
    assert studies.summary(study) == "trials over: 4 (3 whole, 1 crashed)"
    assert "trial-0001 crashed, the sweep goes on: out of memory" in told
    assert study.trials[1].user_attrs["sentence"] == "out of memory"


def test_a_sweep_that_was_stopped_goes_on_with_the_same_values_in_the_same_folder(plan, storage):
    begun: list[Order] = []

    def stop_the_second(order, report):
        begun.append(order)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return as_good_as_its_lr(order, report)

    study = studies.open_study(plan, storage, "s")
    with pytest.raises(KeyboardInterrupt):
        studies.go(study, plan, lambda _: None, lambda: None, stop_the_second)
    again = studies.open_study(plan, storage, "s")
    studies.go(again, plan, lambda _: None, lambda: None, stop_the_second)
    assert begun[2] == begun[1]
    assert len({order.folder for order in begun}) == 4
    assert studies.summary(again) == "trials over: 4 (4 whole)"


def test_a_trial_whose_machine_is_gone_is_taken_up_again(plan, storage, monkeypatch):
    monkeypatch.setattr(studies, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(studies, "GRACE_SECONDS", 1)
    lost = studies.open_study(plan, storage, "s")
    trial = lost.ask()
    studies.suggest(trial, plan.space)
    cast(RDBStorage, lost._storage).record_heartbeat(trial._trial_id)  # its last one
    folders: list[str] = []

    def note_folder(order, report):
        folders.append(order.folder.name)
        return as_good_as_its_lr(order, report)

    study = studies.open_study(plan, storage, "s")
    time.sleep(2.5)  # longer than the grace that it is given
    studies.go(study, plan, lambda _: None, lambda: None, note_folder)
    assert folders[0] == "trial-0000"
    assert study.trials[1].params == trial.params
    assert studies.summary(study) == "trials over: 4 (4 whole)"


def test_a_trial_below_the_others_at_the_same_tenth_is_pruned(plan, storage):
    def by_number(order, report):
        score = 0.1 if order.folder.name == "trial-0004" else 0.5
        for tenth in range(1, 10):
            if report(tenth, score):
                return Outcome(score, pruned=True)
        return Outcome(score, pruned=False)

    plan = dataclasses.replace(plan, trials=5)
    study = studies.open_study(plan, storage, "s")
    studies.go(study, plan, lambda _: None, lambda: None, by_number)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED]
    assert max(study.trials[4].intermediate_values) == studies.FIRST_TENTHS


def test_the_same_name_over_another_space_is_refused(plan, storage):
    studies.open_study(plan, storage, "s")
    with pytest.raises(SweepError, match="begun with other minutes"):
        studies.open_study(dataclasses.replace(plan, minutes=2), storage, "s")


@pytest.mark.parametrize(
    "storage", ["nonsense", "postgresql+psycopg://me:s3cret@127.0.0.1:1/x", "oddbase://x"]
)
def test_a_storage_that_is_none_is_refused_without_its_password(plan, storage):
    with pytest.raises(SweepError, match="cannot be used") as refused:
        studies.open_study(plan, storage, "s")
    assert "s3cret" not in str(refused.value)


def test_a_cluster_that_does_not_answer_may_want_its_token(monkeypatch):
    from sweeping import cluster

    def refuse(*_, **__):
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(SweepError, match=r"at 10\.0\.0\.1:6379 .*--ray local.*RAY_AUTH_MODE=token"):
        cluster.connect("10.0.0.1:6379")


def test_tables_and_plots_are_written_as_far_as_the_trials_allow(plan, storage, tmp_path):
    study = studies.open_study(plan, storage, "s")
    studies.write_tables(study, tmp_path / "none")
    assert (tmp_path / "none" / "trials.csv").exists()
    studies.go(study, plan, lambda _: None, lambda: None, as_good_as_its_lr)
    studies.write_tables(study, tmp_path / "four")
    assert {"trials.csv", "history.png", "importances.png"} <= {
        path.name for path in (tmp_path / "four").iterdir()
    }
    assert (tmp_path / "four" / "trials.csv").read_text().count("\n") == 5


# --- the whole program ----------------------------------------------------------------------------------

TINY = [
    "--preset", "smoke", "--eval-epochs", "1", "--min-size", "64", "--max-size", "64", "--fpn-channels", "16",
    "--box-head-width", "16", "--threads", "1", "--workers", "0",
]  # fmt: skip


@pytest.fixture
def words(tmp_path) -> list[str]:
    synthetic.draw_synthetic(tmp_path / "drawn", train=12, test=2, seed=0)
    space = space_file(tmp_path, "lr = {low = 1e-4, high = 3e-3, log = true}")
    output = ["--output", str(tmp_path / "sweep"), "--minutes", "0.02", "--trials", "1"]
    return [str(space), *output, "--", *TINY, "--data", str(tmp_path / "drawn")]


@pytest.mark.slow
def test_a_sweep_ends_with_a_command_and_a_run_for_each_trial_below_one(words, tmp_path, monkeypatch, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sweep.sweep(*sweep_config(words))
    said = capsys.readouterr().out
    assert "trials over: 1 (1 whole)" in said
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("weapon-detector")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    (below,) = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert below.info.run_name == "trial-0000"
    assert {run.info.status for run in runs} == {"FINISHED"}
    last = said.strip().splitlines()[-1]
    assert last == parent.data.tags["best.command"]
    scores = [each.value for each in client.get_metric_history(below.info.run_id, "val/map")]
    assert parent.data.metrics["best/val/map"] == pytest.approx(max(scores))
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"trials.csv", "best.txt", "history.png"} <= files
    sweep.sweep(*sweep_config(words))  # nothing is left to do
    assert "trials over: 1 (1 whole)" in capsys.readouterr().out
    assert len(client.search_runs([parent.info.experiment_id])) == 2


def test_flags_behind_the_hyphens_are_train_pys():
    config, fixed = sweep_config(["s.toml", "--trials", "3", "--no-prune", "--", "--data", "a", "b"])
    assert (config.trials, config.prune, fixed) == (3, False, ["--data", "a", "b"])
