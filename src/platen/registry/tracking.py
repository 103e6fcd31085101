"""Sends a stage's parameters and curves to an MLflow run.

The run belongs to the artifact that is being made: it is found by its fingerprint, so a stage that was
killed and resumed goes on in the same run, and points that it logs a second time are left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from platen.core.errors import RegistryError
from platen.registry.backend import Backend
from platen.registry.runs import find_run
from platen.registry.snapshot import Snapshot
from platen.registry.version import FINGERPRINT, PARENT_CHECKPOINT, PARENT_RUN

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

FLUSH_SECONDS = 5.0  # a write costs tens of milliseconds, which training waits for
BATCH = 1000  # MLflow takes at most so many points in one call
PARAM_CHARACTERS = 6000


class MlflowTracker:
    """A `stages.Tracker` on an MLflow run; use it as a context manager.

    `parent_fingerprint` is the checkpoint that a finetuned model starts from: the run records it, and is
    linked to the run that made it. Points are buffered and written every few seconds. A database that
    is busy or full doesn't stop the stage; what could not be written by the end is an error then.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        experiment: str,
        run_name: str,
        fingerprint: str,
        parent_fingerprint: str | None = None,
    ) -> None:
        self.backend = backend
        self.experiment = experiment
        self.run_name = run_name
        self.fingerprint = fingerprint
        self.parent_fingerprint = parent_fingerprint
        self.run_id = ""
        self._client: MlflowClient | None = None
        self._buffer: list[Metric] = []
        self._logged_to: dict[str, int] = {}
        self._resumed = False
        self._flushed_at = time.monotonic()

    def __enter__(self) -> MlflowTracker:
        with self.backend.writing(f"tracking {self.run_name}") as client:
            self._client = client
            found = find_run(client, self.fingerprint)
            if found is None:
                run = client.create_run(
                    self._experiment_id(client), run_name=self.run_name, tags=self._tags(client)
                )
                self.run_id = run.info.run_id
            else:
                self.run_id, self._resumed = found, True
                client.update_run(found, status="RUNNING")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED"
        failed = None
        try:
            self.flush()
            self.client.set_terminated(self.run_id, status=status)
            Snapshot(self.backend).renew(self.client)
        except self._failures() as problem:
            failed = problem
        self._client = None
        if failed is not None and kind is None:
            raise RegistryError(
                f"The curves of {self.run_name} did not get into {self.backend.shown}: {failed}",
                hint="check that the disk has room and nothing holds the file; then run again",
            ) from failed

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            raise RuntimeError("MlflowTracker is used outside its `with` block")
        return self._client

    def params(self, params: Mapping[str, object]) -> None:
        """Record settings, nested ones as `train.steps`. A resumed run keeps those that it has."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params if self._resumed else {}
        new = [Param(k, str(v)[:PARAM_CHARACTERS]) for k, v in _flat(params) if k not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.run_id, params=new[start : start + 100])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each curve, in memory; written every few seconds."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        for key, value in metrics.items():
            if step > self._last_step(key):
                self._buffer.append(Metric(key, float(value), now, step))
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            try:
                self.flush()
            except self._failures():  # busy or full: the points stay for the next time
                self._flushed_at = time.monotonic()

    def flush(self) -> None:
        """Write what is buffered. Raises MLflow's or SQLAlchemy's error when the database refuses."""
        while self._buffer:
            self.client.log_batch(self.run_id, metrics=self._buffer[:BATCH])
            del self._buffer[:BATCH]
            Snapshot(self.backend).renew(self.client)  # a reader sees that only the curves have changed
        self._flushed_at = time.monotonic()

    def _last_step(self, key: str) -> float:
        """The last step of a curve that the run had before this process; none in a new run."""
        if not self._resumed:
            return -math.inf
        if key not in self._logged_to:
            history = self.client.get_metric_history(self.run_id, key)
            self._logged_to[key] = max((point.step for point in history), default=-1)
        return self._logged_to[key]

    def _experiment_id(self, client: MlflowClient) -> str:
        known = client.get_experiment_by_name(self.experiment)
        if known is not None:
            return str(known.experiment_id)
        files = self.backend.files  # else MLflow's server says where files go
        location = None if files is None else files.resolve().as_uri()
        return str(client.create_experiment(self.experiment, artifact_location=location))

    def _tags(self, client: MlflowClient) -> dict[str, Any]:
        tags = {FINGERPRINT: self.fingerprint}
        if self.parent_fingerprint is not None:
            tags[PARENT_CHECKPOINT] = self.parent_fingerprint
            parent_run = find_run(client, self.parent_fingerprint)
            if parent_run is not None:
                tags[PARENT_RUN] = parent_run
        return tags

    @staticmethod
    def _failures() -> tuple[type[Exception], ...]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        return (MlflowException, SQLAlchemyError, OSError)


def _flat(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
