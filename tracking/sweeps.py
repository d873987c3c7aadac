"""The MLflow run above a sweep's trials: its settings, its curve of the best, its tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Param

from tracking.provenance import shortened
from tracking.run import open_experiment, origin_tags
from tracking.tracker import check_tracker, connection


class SweepRun:
    """One parent run. Every method raises RegistryError where the tracker cannot be used.

    Attributes:
        run_id: MLflow's.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._tracking_uri, self.run_id = tracking_uri, run_id

    def log_best(self, score: float, finished: int) -> None:
        """Log the best validation mAP after that many trials."""
        with connection(self._tracking_uri) as client:
            client.log_metric(self.run_id, "best/val/map", score, step=finished)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        with connection(self._tracking_uri) as client:
            for key, value in tags.items():
                client.set_tag(self.run_id, key, shortened(value))

    def log_files(self, folder: Path) -> None:
        """Log all files of a folder."""
        with connection(self._tracking_uri) as client:
            client.log_artifacts(self.run_id, str(folder))

    def end(self, status: str) -> None:
        """End the run as FINISHED, KILLED or FAILED."""
        with connection(self._tracking_uri) as client:
            client.set_terminated(self.run_id, status)


def open_sweep(
    tracking_uri: str, experiment: str, name: str, config: Mapping[str, Any], *, run_id: str | None
) -> SweepRun:
    """Start the parent run of a sweep, or go on with run_id.

    Raises:
        RegistryError: the tracker cannot be used.
    """
    check_tracker(tracking_uri)
    with connection(tracking_uri) as client:
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return SweepRun(tracking_uri, run_id)
        experiment_id = open_experiment(client, experiment, tracking_uri)
        made = client.create_run(experiment_id, tags=origin_tags(), run_name=name).info.run_id
        parameters = [Param(key, shortened(str(value))) for key, value in config.items()]
        client.log_batch(made, params=parameters)
        return SweepRun(tracking_uri, made)
