"""Training runs in MLflow, known by the fingerprint of the artifact that they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from platen.registry.version import FINGERPRINT, PARENT_CHECKPOINT, PARENT_RUN, Ancestor, Version

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def find_run(client: MlflowClient, fingerprint: str) -> str | None:
    """The id of the latest run that made, or is making, the artifact with this fingerprint."""
    runs = client.search_runs(
        list(_experiments(client)),
        filter_string=f"tags.`{FINGERPRINT}` = '{fingerprint}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return str(runs[0].info.run_id) if runs else None


def lineage(client: MlflowClient, version: Version) -> list[Ancestor]:
    """From the version's own training run back to the first checkpoint it descends from."""
    chain, fingerprint, run_id = list[Ancestor](), version.fingerprint, version.run_id
    seen: set[str] = set()
    while fingerprint not in seen:
        seen.add(fingerprint)
        tags: dict[str, str] = client.get_run(run_id).data.tags if run_id else {}
        chain.append(Ancestor(run_id, tags.get("mlflow.runName"), fingerprint))
        if PARENT_CHECKPOINT not in tags:
            break
        fingerprint = tags[PARENT_CHECKPOINT]
        run_id = tags.get(PARENT_RUN)
    return chain


def _experiments(client: MlflowClient) -> Iterator[str]:
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        for experiment in page:
            yield str(experiment.experiment_id)
        token = page.token
        if not token:
            return
