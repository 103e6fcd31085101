"""What a stage sends arrives in MLflow once, in the run of its artifact, whatever happens in between."""

import pytest

from platen.registry.backend import Backend
from platen.registry.tracking import MlflowTracker


@pytest.fixture
def client(project):
    from mlflow.tracking import MlflowClient

    return MlflowClient(Backend(project).url)


def tracker(project, fingerprint, **more):
    return MlflowTracker(
        Backend(project), experiment="plays", run_name="train", fingerprint=fingerprint, **more
    )


def curve(client, run_id, key):
    return [(p.step, p.value) for p in client.get_metric_history(run_id, key)]


def test_curves_and_params_arrive(project, client):
    with tracker(project, "a1") as run:
        run.params({"train": {"steps": 3}, "model": {"hidden_size": 64, "rope": None}})
        for step in range(1500):  # more than one call to MLflow takes
            run.log({"loss": 5 - step / 500, "learning_rate": 1e-3}, step)
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "train"
    assert stored.data.params == {"train.steps": "3", "model.hidden_size": "64", "model.rope": "None"}
    points = client.get_metric_history(run.run_id, "loss")
    assert sorted((p.step, p.value) for p in points) == [(s, 5 - s / 500) for s in range(1500)]
    experiment = client.get_experiment(stored.info.experiment_id)
    assert experiment.name == "plays"
    assert experiment.artifact_location == (project / ".platen" / "mlflow").as_uri()


def test_a_resumed_stage_goes_on_in_its_run_without_doubled_points(project, client):
    class Killed(BaseException):
        pass

    first = tracker(project, "b1")

    def killed_after_three_steps():
        with first:
            first.params({"steps": 4})
            for step in (1, 2, 3):
                first.log({"loss": 10.0 - step}, step)
            raise Killed

    with pytest.raises(Killed):
        killed_after_three_steps()
    assert client.get_run(first.run_id).info.status == "FAILED"

    with tracker(project, "b1") as second:
        second.params({"steps": 4, "note": "resumed"})
        for step in (2, 3, 4):  # the checkpoint was at step 1
            second.log({"loss": 10.0 - step}, step)
        second.log({"other": 1.0}, 4)
    assert second.run_id == first.run_id
    assert curve(client, first.run_id, "loss") == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]
    assert curve(client, first.run_id, "other") == [(4, 1.0)]
    stored = client.get_run(first.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"steps": "4", "note": "resumed"}


def test_points_are_written_while_the_stage_runs(project, client, monkeypatch):
    monkeypatch.setattr("platen.registry.tracking.FLUSH_SECONDS", 0.0)
    with tracker(project, "c1") as run:
        run.log({"loss": 2.0}, 1)
        assert curve(client, run.run_id, "loss") == [(1, 2.0)]


def test_a_busy_database_does_not_stop_the_stage(project, client, monkeypatch):
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr("platen.registry.tracking.FLUSH_SECONDS", 0.0)
    with tracker(project, "d1") as run:
        with monkeypatch.context() as patch:

            def busy(*args, **kwargs):
                raise MlflowException("database is locked")

            patch.setattr(run.client, "log_batch", busy)
            run.log({"loss": 2.0}, 1)
        run.log({"loss": 1.0}, 2)
    assert curve(client, run.run_id, "loss") == [(1, 2.0), (2, 1.0)]


def test_a_finetuned_models_run_names_its_parent(project, client):
    with tracker(project, "parent9") as parent:
        pass
    with tracker(project, "child9", parent_fingerprint="parent9") as child:
        pass
    tags = client.get_run(child.run_id).data.tags
    assert tags["platen.parent_checkpoint"] == "parent9"
    assert tags["mlflow.parentRunId"] == parent.run_id
    assert tags["platen.fingerprint"] == "child9"
