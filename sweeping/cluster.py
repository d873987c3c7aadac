"""The same trials on a Ray cluster: Ray Tune runs them, Optuna's study chooses and keeps them."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from sweeping.errors import SweepError
from sweeping.study import (
    FIRST_TENTHS,
    FIRST_WHOLE,
    FOLDER,
    Plan,
    Tell,
    finished,
    folder_of,
    suggest,
    take_up_again,
)
from sweeping.trial import TENTHS, run_trial

ROOT = Path(__file__).parents[1]
HERE = "local"  # an address: a cluster of this machine alone
# What a node needs of the project is its code; data and weights lie there already.
LEFT_AT_HOME = [".git", ".venv", "runs", "data", "mlflow-data", "weights", "photos", "tests", "*.mp4"]
METRIC = "val_map"
FOREVER = sys.maxsize  # Tune would pause a trial to let others begin, and a training begins anew after that


def connect(address: str) -> None:
    """Join the Ray cluster at an address, or start one of this machine's cores.

    Raises:
        SweepError: nobody answers there.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == HERE:
            ray.init(include_dashboard=False, **quiet)
        else:
            ray.init(address, runtime_env={"working_dir": str(ROOT), "excludes": LEFT_AT_HOME}, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SweepError(
            f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}): start one with "
            "`ray start --head` and give its address, or --ray local for this machine's cores; one that runs "
            "may want its token: set RAY_AUTH_MODE=token here, where ~/.ray/auth_token is the same"
        ) from error


def go(
    study: optuna.Study, plan: Plan, tell: Tell, after: Callable[[], None], *, cpus: float, gpus: float
) -> None:
    """Run the trials that are missing, as many at once as the cluster has room for.

    Args:
        study: what chooses and keeps them; no other sweep works on it meanwhile.
        plan: what they do.
        tell: takes a sentence for the person who waits.
        after: called after each.
        cpus: cores that one trial takes.
        gpus: graphics cards that one trial takes.

    Raises:
        KeyboardInterrupt: a person stopped it; the trials under way go on the next time.
    """
    _take_up_what_is_left(study)
    missing = plan.trials - len(finished(study))
    if missing <= 0:
        return
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    search = OptunaSearch(
        partial(_choose, plan=plan), metric=METRIC, mode="max", study_name=study.study_name,
        storage=study._storage, sampler=study.sampler,
    )  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(partial(_train, plan=plan), {"cpu": cpus, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=missing, scheduler=_scheduler(plan),
            trial_name_creator=_named, trial_dirname_creator=_named,
        ),
        run_config=tune.RunConfig(
            name="ray", storage_path=str(plan.output.resolve()), verbose=0, callbacks=[_Teller(tell, after)]
        ),
    )  # fmt: skip
    tell(f"{missing} trials to go, {len(waiting)} of them taken up again")
    try:
        with warnings.catch_warnings():  # Tune tells the study a trial's last result twice
            warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
            tuner.fit()
    finally:
        _take_up_what_is_left(study)
    if len(finished(study)) < plan.trials:
        raise KeyboardInterrupt  # which Tune has taken for itself


def _take_up_what_is_left(study: optuna.Study) -> None:
    """Queue anew what an earlier end left half done: Tune keeps no heartbeat by which to see that."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        take_up_again(study, trial)


def _scheduler(plan: Plan) -> TrialScheduler:
    if not plan.prune:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return MedianStoppingRule(
        time_attr="training_iteration", metric=METRIC, mode="max", grace_period=FIRST_TENTHS,
        min_samples_required=FIRST_WHOLE, hard_stop=True, min_time_slice=FOREVER,
    )  # fmt: skip


def _named(trial: Any) -> str:
    return str(trial.config[FOLDER])


def _choose(trial: Any, *, plan: Plan) -> dict[str, str]:
    """Have the study choose a trial's values, and return where it trains."""
    suggest(trial, plan.space)
    folder = trial.user_attrs.get(FOLDER, folder_of(trial.number))
    trial.set_user_attr(FOLDER, folder)
    return {FOLDER: folder}


def _train(values: dict[str, Any], *, plan: Plan) -> None:
    """Run one trial where Tune has put it."""
    folder = values.pop(FOLDER)

    def report(tenth: int, score: float) -> bool:
        if tenth < TENTHS:
            tune.report({METRIC: score})  # Tune ends this process where it is to stop
        return False

    outcome = run_trial(plan.order(folder, values), report)
    tune.report({METRIC: outcome.best})


class _Teller(tune.Callback):
    """Says how each trial ended."""

    def __init__(self, tell: Tell, after: Callable[[], None]) -> None:
        self._tell, self._after = tell, after

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        score = (trial.last_result or {}).get(METRIC, 0.0)
        self._tell(f"{trial}: validation mAP {score:.4f}")
        self._after()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        words = [line for line in str(trial.get_error() or "").splitlines() if "TrialCrashed" in line]
        said = (
            words[-1].partition("TrialCrashed: ")[2]
            if words
            else f"its process ended; see {trial.local_path}"
        )
        self._tell(f"{trial} crashed, the sweep goes on: {said}")
        self._after()
