"""MLflow: the server in MLFLOW_TRACKING_URI, or files in the run's folder."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tekapctl.errors import require
from tekapctl.settings import flat_items
from tekapctl.tracking.tracker import TRACKERS, Metrics, Tracker, grouped

_EXPERIMENT = "tekapctl"
_TAG = "tekapctl.run"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@TRACKERS.register("mlflow")
class MLflow(Tracker):
    """A run in the experiment `tekapctl` (or MLFLOW_EXPERIMENT_NAME), found by its tag when resumed."""

    @classmethod
    def check(cls) -> None:
        """Needs MLflow; `mlflow-skinny` is enough."""
        _allow_files()
        require("mlflow", "mlflow.tracking")

    def start(self, run: str, folder: Path, spec: dict[str, Any], epochs: int) -> int:
        _allow_files()
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        where = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlflow").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=where)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT)
        found = self._client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{run}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            steps = {entry.step for entry in self._client.get_metric_history(self._id, "train/loss")}
            return min(len(steps), epochs)
        self._id = self._client.create_run(experiment, run_name=run, tags={_TAG: run}).info.run_id
        parameters = [Param(name, str(value)[:500]) for name, value in flat_items(spec)]
        for first in range(0, len(parameters), 100):  # the maximum per request
            self._client.log_batch(self._id, params=parameters[first : first + 100])
        return 0

    def log(self, metrics: Metrics, epoch: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        entries = [Metric(name, value, now, epoch) for name, value in grouped(metrics).items()]
        self._client.log_batch(self._id, metrics=entries)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._client.set_terminated(self._id, _STATUS[summary["status"]])

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))


def _allow_files() -> None:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        # Newer versions need this to store runs in files, and report usage unless told not to.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
