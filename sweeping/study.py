"""The study over the trials, kept in a database, so that it goes on after an end and on several machines."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeping.errors import SweepError, TrialCrashed, TrialStopped
from sweeping.space import Choice, Space, flags_of
from sweeping.trial import Order, Report, run_trial

HEARTBEAT_SECONDS, GRACE_SECONDS = 20, 90  # a machine that says nothing for so long has lost its trial
FIRST_WHOLE = 4  # trials that run to the end before one is pruned
FIRST_TENTHS = 3  # of its minutes: no trial is pruned before
FOLDER, AGAIN, SENTENCE = "folder", "again_of", "sentence"  # what the study keeps of a trial
PLAN, RUN = "plan", "mlflow_run"  # and of itself

Tell = Callable[[str], None]
RunTrial = Callable[[Order, Report], Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep does.

    Attributes:
        space: what trials choose from.
        fixed: flags of train.py that they share.
        minutes: of training, each.
        trials: how many.
        output: folder of their folders.
        tracking_uri: the tracker that they log to.
        experiment: MLflow's, of all of them.
        parent_run: the run that theirs stand under.
        seed: of the choices.
        prune: stop those that are behind.
    """

    space: Space
    fixed: tuple[str, ...]
    minutes: float
    trials: int
    output: Path
    tracking_uri: str
    experiment: str
    parent_run: str = ""
    seed: int = 0
    prune: bool = True

    @property
    def identity(self) -> dict[str, object]:
        """What must be the same when a study goes on: else its numbers could not be compared."""
        return {
            "space": {name: str(choice) for name, choice in self.space.items()},
            "fixed": list(self.fixed),
            "minutes": self.minutes,
        }

    def order(self, folder: str, values: dict[str, Any]) -> Order:
        """Return what the trial of that folder, with these values of the knobs, is to do."""
        own = [
            "--minutes", f"{self.minutes:g}", "--run-name", folder, "--no-register-model", "--no-export",
            "--experiment", self.experiment, "--parent-run", self.parent_run,
        ]  # fmt: skip
        flags = (*self.fixed, *flags_of(values), *own)
        return Order(self.output / folder, flags, self.minutes, self.tracking_uri)


def open_study(plan: Plan, storage: str, name: str, *, heartbeat: bool = True) -> optuna.Study:
    """Open the study of that name, or begin it.

    Args:
        plan: what its trials do.
        storage: address of its database.
        name: its name there.
        heartbeat: take up again what other machines leave behind; Tune sees to that itself.

    Raises:
        SweepError: the storage cannot be used, or holds another sweep under that name.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with _experimental():
            # The same seed after a resumption would choose the first trials' values again.
            study = optuna.create_study(
                study_name=name, storage=open_storage(storage, heartbeat=heartbeat), load_if_exists=True,
                direction="maximize", pruner=pruner(plan),
            )  # fmt: skip
            study.sampler = optuna.samplers.TPESampler(seed=plan.seed + len(study.trials), constant_liar=True)
        before = study.user_attrs.get(PLAN)
        if before is None:
            study.set_user_attr(PLAN, plan.identity)
    except (SQLAlchemyError, ImportError) as error:
        said = str(error).splitlines()[0]
        raise SweepError(
            f"the storage {_without_password(storage)} cannot be used ({said}); expected for instance "
            "sqlite:///runs/sweep/study.db or postgresql+psycopg://user:password@host/name"
        ) from error
    if before not in (None, plan.identity):
        different = [key for key, value in plan.identity.items() if before.get(key) != value]
        raise SweepError(
            f"the sweep {name!r} in {_without_password(storage)} was begun with other "
            f"{' and '.join(different)}, so its numbers cannot be compared: say the same again, or choose "
            "another --name"
        )
    return study


def _without_password(address: str) -> str:
    head, at, tail = address.rpartition("@")
    return f"{head.partition('://')[0]}://{tail}" if at else address


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Keep Optuna from saying that heartbeats are new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def open_storage(address: str, *, heartbeat: bool) -> optuna.storages.RDBStorage:
    """Open the database of a study."""
    if address.startswith("sqlite:///"):
        Path(address.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with _experimental():
        return optuna.storages.RDBStorage(
            address, heartbeat_interval=HEARTBEAT_SECONDS if heartbeat else None, grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=take_up_again,
        )  # fmt: skip


def pruner(plan: Plan) -> optuna.pruners.BasePruner:
    """Return what says which trials to stop: those below the median of the others at the same tenth."""
    if not plan.prune:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=FIRST_WHOLE, n_warmup_steps=FIRST_TENTHS)


def suggest(trial: Trial, space: Space) -> None:
    """Have a trial choose a value for every knob."""
    for name, choice in space.items():
        if isinstance(choice, Choice):
            trial.suggest_categorical(name, choice.values)
        elif choice.whole:
            step = 1 if choice.step is None else int(choice.step)
            trial.suggest_int(name, int(choice.low), int(choice.high), log=choice.log, step=step)
        else:
            trial.suggest_float(name, choice.low, choice.high, log=choice.log, step=choice.step)


def take_up_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the values of a trial that was broken off, to be gone on with from its checkpoint."""
    again = {FOLDER: trial.user_attrs.get(FOLDER, folder_of(trial.number)), AGAIN: trial.number}
    study.enqueue_trial(trial.params, user_attrs=again)


def folder_of(number: int) -> str:
    """Return the name of a new trial's folder and run."""
    return f"trial-{number:04d}"


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are over: whole, pruned or crashed."""
    trials = study.get_trials(deepcopy=False)
    broken_off = {trial.user_attrs.get(AGAIN) for trial in trials}
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in broken_off]


def running(study: optuna.Study) -> int:
    """Return how many trials are under way, on any machine."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Return the whole trial with the best validation mAP; None where there is none yet."""
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(whole, key=lambda trial: trial.value or 0.0, default=None)


def go(
    study: optuna.Study, plan: Plan, tell: Tell, after: Callable[[], None], run: RunTrial = run_trial
) -> None:
    """Run trials, one after the other, until there are enough, those of other machines counted in.

    Args:
        study: where they are kept.
        plan: what they do.
        tell: takes a sentence for the person who waits.
        after: called after each.
        run: runs one.

    Raises:
        KeyboardInterrupt: a person stopped it; the trial under way goes on the next time.
    """
    while len(finished(study)) + running(study) < plan.trials:
        with _experimental():
            study.optimize(
                lambda trial: _objective(study, plan, trial, tell, run), n_trials=1, catch=(TrialCrashed,)
            )
        after()


def _objective(study: optuna.Study, plan: Plan, trial: Trial, tell: Tell, run: RunTrial) -> float:
    suggest(trial, plan.space)
    folder = trial.user_attrs.get(FOLDER, folder_of(trial.number))
    trial.set_user_attr(FOLDER, folder)
    tell(f"{folder}: {' '.join(flags_of(trial.params))}")

    def report(tenth: int, score: float) -> bool:
        trial.report(score, tenth)
        return trial.should_prune()

    try:
        outcome = run(plan.order(folder, trial.params), report)
    except (KeyboardInterrupt, TrialStopped) as error:
        take_up_again(study, study.trials[trial.number])
        tell(f"{folder} was stopped; the same command goes on with it")
        raise KeyboardInterrupt from error
    except TrialCrashed as error:
        trial.set_user_attr(SENTENCE, str(error))
        tell(f"{folder} crashed, the sweep goes on: {error}")
        raise
    if outcome.pruned:
        tell(f"{folder} was pruned at validation mAP {outcome.best:.4f}: others were better by then")
        raise optuna.TrialPruned
    tell(f"{folder}: validation mAP {outcome.best:.4f}")
    return float(outcome.best)


def summary(study: optuna.Study) -> str:
    """Return in a sentence how the trials ended."""
    states = [trial.state for trial in finished(study)]
    counts = {
        "whole": states.count(TrialState.COMPLETE),
        "pruned": states.count(TrialState.PRUNED),
        "crashed": states.count(TrialState.FAIL),
        "more still running elsewhere": running(study),
    }
    said = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    return f"trials over: {len(states)} ({said or 'none'})"


def write_tables(study: optuna.Study, folder: Path) -> None:
    """Write trials.csv and, as far as the trials allow, history.png, curves.png and importances.png."""
    folder.mkdir(parents=True, exist_ok=True)
    study.trials_dataframe(("number", "value", "state", "duration", "params", "user_attrs")).to_csv(
        folder / "trials.csv", index=False
    )
    for name, plot in _plots():
        # Too few trials, or all alike: then there is nothing to see.
        with warnings.catch_warnings(), contextlib.suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            figure = plot(study).figure
            figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            figure.clear()


def _plots() -> Iterator[tuple[str, Callable[[optuna.Study], Any]]]:
    mpl.use("agg")  # no window
    from optuna.visualization import matplotlib as plots

    yield "history", plots.plot_optimization_history
    yield "curves", plots.plot_intermediate_values
    yield "importances", plots.plot_param_importances
