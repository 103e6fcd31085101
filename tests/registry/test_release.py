"""The release stage: through the gate into the registry, once, whatever happens in between."""

import json

import pytest

from platen.core.errors import ArtifactError, GateFailed
from platen.core.stage import StageContext
from platen.evaluate.metrics import OWN
from platen.registry.config import GateRule, ReleaseConfig
from platen.registry.gate import GateOutcome
from platen.registry.release import Release, register
from platen.registry.tracking import MlflowTracker
from platen.registry.versions import Registry
from tests.evaluate.conftest import Said, artifact


@pytest.fixture
def release(project, tmp_path):
    """Run the stage for a bundle with the given fingerprint and figures; gives its context and result."""

    def run(model, fingerprint, bits_per_byte, *, gate=(), promote="production", text="cafe"):
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        ctx = StageContext(
            name="register",
            fingerprint="r" * 16,
            config=ReleaseConfig(model=model, promote=promote, gate=gate),
            inputs={
                "train": artifact(tmp_path, "train", "model", fingerprint=fingerprint),
                "evaluate": artifact(
                    tmp_path,
                    "evaluate",
                    "evaluation",
                    metrics={"bits_per_byte": bits_per_byte, "parameters": 9.0},
                    notes={"evaluated_text": text},
                ),
            },
            out=out,
            project_dir=project,
            seed=0,
            progress=Said(),
            metrics={metric.name: metric for metric in OWN},
        )
        return ctx, register(ctx)

    return run


NO_WORSE = (GateRule(metric="bits_per_byte", no_worse_than="production", by=0.01),)


def test_a_model_that_passes_is_registered_and_promoted(release, project, tmp_path):
    with MlflowTracker(
        Registry(project).backend, experiment="x", run_name="train", fingerprint="rel-a"
    ) as run:
        pass
    ctx, result = release("passing", "rel-a", 2.1, gate=(GateRule(metric="bits_per_byte", max=2.2),))
    version = Registry(project).get("passing", "production")
    assert (version.number, version.artifact, version.run_id) == (1, "train/rel-a", run.run_id)
    assert version.metrics["bits_per_byte"] == 2.1
    from mlflow.tracking import MlflowClient

    in_run = MlflowClient(Registry(project).backend.url).get_run(run.run_id).data.metrics
    assert in_run == {"evaluation.bits_per_byte": 2.1, "evaluation.parameters": 9.0}
    assert version.evaluated_text == "cafe"
    written = Release.read(ctx.out)
    assert (written.model, written.version, written.alias) == ("passing", 1, "production")
    assert written.fingerprint == "rel-a"
    assert "at most 2.2 wanted: met with 0.1" in written.gate[0]
    assert json.loads((ctx.out / "release.json").read_text())["artifact"] == "train/rel-a"
    assert result.metrics == {"version": 1.0}


def test_a_missed_gate_registers_nothing_and_says_by_how_much(release, project):
    with pytest.raises(GateFailed, match=r"bits_per_byte 2\.5, at most 2\.2 wanted: missed by 0\.3"):
        release("missing", "rel-b", 2.5, gate=(GateRule(metric="bits_per_byte", max=2.2),))
    assert Registry(project).versions("missing") == []


def test_a_run_killed_after_registering_ends_up_the_same(release, project):
    release("again", "rel-c", 2.1, gate=NO_WORSE)
    release("again", "rel-d", 2.0, gate=NO_WORSE)
    release("again", "rel-d", 2.0, gate=NO_WORSE)  # the same stage once more
    (first, second) = Registry(project).versions("again")
    assert (first.aliases, second.aliases) == ((), ("production",))
    assert len(second.promotions) == 1


def test_worse_than_production_is_refused_and_production_stays(release, project):
    release("compared", "rel-e", 2.0, gate=NO_WORSE)
    with pytest.raises(GateFailed, match=r"production 2, 0\.01 worse allowed: missed by 0\.09"):
        release("compared", "rel-f", 2.1, gate=NO_WORSE)
    assert Registry(project).production("compared").fingerprint == "rel-e"


def test_a_comparison_between_two_texts_is_pointed_out(release):
    release("texts", "rel-g", 2.0, gate=NO_WORSE)
    ctx, _ = release("texts", "rel-h", 1.9, gate=NO_WORSE, text="beef")
    assert any("has changed since texts@1 was measured" in line for line in ctx.progress.lines)


def test_a_candidate_leaves_production_alone(release, project):
    release("careful", "rel-i", 2.0)
    release("careful", "rel-j", 1.9, promote="candidate")
    registry = Registry(project)
    assert registry.get("careful", "production").number == 1
    assert registry.get("careful", "candidate").number == 2
    assert registry.get("careful", 2).promotions[0].gate == ()
    registry.promote(registry.get("careful", 2), "production", GateOutcome(True, ()))
    assert registry.production("careful").number == 2


def test_a_damaged_release_file_is_a_clear_error(tmp_path):
    (tmp_path / "release.json").write_text('{"model": "x"}')
    with pytest.raises(ArtifactError, match="can't be read"):
        Release.read(tmp_path)
