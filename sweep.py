"""Try many settings of train.py, each for a few minutes, and say which is best.

    python sweep.py config/sweeps/example.toml --minutes 20 --trials 30 -- --preset cpu --data FOLDER
    python sweep.py ...                 # the same again goes on where the last one stopped
    python sweep.py --storage postgresql+psycopg://... ...   # on several machines at once
    python sweep.py --ray ADDRESS ...   # over a Ray cluster

Every trial is a run of its own below one run of the sweep. Every flag: python sweep.py --help
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
from pathlib import Path

import optuna

from commands import SweepConfig, sweep_config
from sweeping import study as studies
from sweeping.errors import SweepError
from sweeping.space import check_flags, flags_of, read_space
from sweeping.study import Plan
from sweeping.trial import command
from tracking.sweeps import SweepRun, open_sweep
from tracking.tracker import RegistryError


def main() -> None:
    """Sweep as the command line says."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a person's
    config, fixed = sweep_config()
    try:
        sweep(config, fixed)
    except (SweepError, RegistryError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here")
        raise SystemExit(130) from None


def sweep(config: SweepConfig, fixed: list[str]) -> None:
    """Run the trials that are missing and print what came of all of them.

    Raises:
        SweepError: the space, the flags or the storage cannot be used.
        RegistryError: the tracker cannot.
    """
    space = read_space(config.space)
    check_flags(space, fixed)
    if config.ray:
        check_paths(fixed)
    plan = Plan(
        space=space, fixed=tuple(fixed), minutes=config.minutes, trials=config.trials,
        output=config.output.resolve(), tracking_uri=config.mlflow_tracking_uri, experiment=config.experiment,
        seed=config.seed, prune=config.prune,
    )  # fmt: skip
    storage = config.storage or f"sqlite:///{plan.output / 'study.db'}"
    study = studies.open_study(plan, storage, config.name, heartbeat=config.ray is None)
    run = open_parent(study, plan, config)
    plan = dataclasses.replace(plan, parent_run=run.run_id)
    try:
        run_trials(study, plan, config, run)
    except BaseException as error:
        end(study, plan, run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    end(study, plan, run, "FINISHED")


def check_paths(fixed: list[str]) -> None:
    """Refuse a path that means something only in this folder of this machine."""
    for word in fixed:
        if not Path(word).is_absolute() and Path(word).exists() and ("/" in word or Path(word).is_dir()):
            raise SweepError(
                f"--ray has the trials run elsewhere: say {Path(word).resolve()} instead of {word}, and "
                "have it there on each machine"
            )


def open_parent(study: optuna.Study, plan: Plan, config: SweepConfig) -> SweepRun:
    """Return the MLflow run above the trials: the study's, or a new one."""
    settings = {
        "space": str(config.space), "train_flags": shlex.join(plan.fixed), "minutes": plan.minutes,
        "trials": plan.trials, "seed": plan.seed, "prune": plan.prune,
    }  # fmt: skip
    known = study.user_attrs.get(studies.RUN)
    run = open_sweep(config.mlflow_tracking_uri, config.experiment, config.name, settings, run_id=known)
    study.set_user_attr(studies.RUN, run.run_id)
    return run


def run_trials(study: optuna.Study, plan: Plan, config: SweepConfig, run: SweepRun) -> None:
    """Run what is missing, here or on a cluster."""

    def after() -> None:
        best = studies.best_of(study)
        if best is not None and best.value is not None:
            run.log_best(best.value, len(studies.finished(study)))

    if config.ray is None:
        studies.go(study, plan, say, after)
        return
    from sweeping import cluster  # what nobody needs without --ray

    cluster.connect(config.ray)
    cluster.go(study, plan, say, after, cpus=config.trial_cpus, gpus=config.trial_gpus)


def end(study: optuna.Study, plan: Plan, run: SweepRun, status: str) -> None:
    """Write and log the tables, end the run, and print the best trial as a command."""
    folder = plan.output / "report"
    studies.write_tables(study, folder)
    say(studies.summary(study))
    best = studies.best_of(study)
    if best is not None:
        repeated = shlex.join(command(plan.fixed, flags_of(best.params), plan.minutes))
        (folder / "best.txt").write_text(repeated + "\n", encoding="utf-8")
        run.set_tags({"best.trial": best.user_attrs[studies.FOLDER], "best.command": repeated})
        say(f"best: {best.user_attrs[studies.FOLDER]}, validation mAP {best.value:.4f}; train with it:")
        print(repeated)
    run.log_files(folder)
    run.end(status)


def say(sentence: str) -> None:
    """Print a sentence at once."""
    print(sentence, flush=True)


if __name__ == "__main__":
    main()
