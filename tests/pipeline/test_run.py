"""A project run end to end: what is made, what is skipped, what stops it, what survives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from platen.cli.main import app
from platen.core.artifacts import Store
from platen.core.errors import ArtifactError, ConfigError, GateFailed
from platen.pipeline.housekeeping import collect, find_garbage
from platen.pipeline.runner import Pipeline, RunReport
from platen.project.file import load_project
from tests.postgres import PASSWORD

from .conftest import PLATEN_YAML, write_project

STAGES = ["data", "tokenizer", "tokens", "train", "evaluate", "register"]


def pipeline_of(directory: Path, overrides: Sequence[str] = ()) -> Pipeline:
    return Pipeline(load_project(directory, overrides))


def run(directory: Path, *targets: str, overrides: Sequence[str] = ()) -> RunReport:
    return pipeline_of(directory, overrides).run(targets)


def platen(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "platen", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project run once from the command line; tests copy it or leave it as it is."""
    directory = write_project(tmp_path_factory.mktemp("finished") / "tiny")
    result = platen(directory, "run")
    assert result.returncode == 0, result.stdout + result.stderr
    return directory


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def test_one_command_makes_every_stage_and_a_second_makes_none(finished: Path) -> None:
    result = platen(finished, "run")
    assert result.returncode == 0
    assert "nothing to do" in result.stdout
    assert all(entry.fresh for entry in pipeline_of(finished).plan())


def test_the_released_bundle_opens_in_transformers(finished: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pipeline = pipeline_of(finished)
    train = next(entry for entry in pipeline.plan() if entry.stage.name == "train")
    path = pipeline.artifact(train).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    logits = model(torch.tensor([tokenizer.encode("the king")])).logits
    assert logits.shape[-1] == 300
    assert torch.isfinite(logits).all()


def test_the_manifest_leads_back_to_every_source_file(finished: Path) -> None:
    manifests = {m.ref: m for m in pipeline_of(finished).store.manifests()}
    release = next(m for m in manifests.values() if m.kind == "release")
    refs, sources = list(release.inputs.values()), set()
    while refs:
        manifest = manifests[refs.pop()]
        sources |= {source.path for source in manifest.sources}
        refs += manifest.inputs.values()
    assert sources == {f"corpus/{name}.txt" for name in "abcd"}
    shown = platen(finished, "show", "register").stdout
    assert all(source in shown for source in sources)
    assert "train/" in shown


def test_a_change_makes_stale_what_depends_on_it_and_says_why(finished: Path) -> None:
    planned = {e.stage.name: e for e in pipeline_of(finished, ["train.steps=13"]).plan()}
    assert [name for name in STAGES if not planned[name].fresh] == ["train", "evaluate", "register"]
    assert "train.steps: 12 → 13" in planned["train"].why
    assert planned["evaluate"].why == "train is stale"
    assert [e.stage.name for e in pipeline_of(finished, ["seed=8"]).plan() if e.fresh] == STAGES[:3]


def test_a_changed_source_file_is_named(again: Path) -> None:
    (again / "corpus" / "b.txt").write_text("Another text altogether, and long enough.\n")
    planned = pipeline_of(again).plan()
    assert not any(entry.fresh for entry in planned)
    assert planned[0].why == "changed: corpus/b.txt"


def test_status_tells_the_same_as_json(again: Path) -> None:
    result = platen(again, "status", "--json", "--set", "train.steps=13")
    rows = {row["stage"]: row for row in json.loads(result.stdout)}
    assert rows["tokens"]["fresh"] is True
    assert rows["train"]["fresh"] is False


def test_only_the_named_stage_and_what_it_needs_are_made(tiny_project: Path) -> None:
    report = run(tiny_project, "tokens")
    assert report.made == ["data", "tokenizer", "tokens"]
    with pytest.raises(ConfigError, match="no stage is called 'trian'"):
        run(tiny_project, "trian")


DATA_ALONE = "name: words\ndata:\n  sources:\n    - path: corpus/*.txt\n"


@pytest.mark.parametrize(
    ("sections", "stages"),
    [
        ("", ["data"]),
        ("instruct: {build: [documents]}\n", ["data", "instruct"]),
        ("tokenizer: {vocab_size: 300}\n", ["data", "tokenizer", "tokens"]),
    ],
)
def test_a_project_without_training_ends_with_its_data(
    tmp_path: Path, sections: str, stages: list[str]
) -> None:
    directory = write_project(tmp_path / "words", DATA_ALONE + sections)
    assert [entry.stage.name for entry in pipeline_of(directory).plan()] == stages
    with pytest.raises(ConfigError, match="no stage is called 'train'") as caught:
        run(directory, "train")
    assert "`train`" in str(caught.value)


def test_a_project_of_data_alone_runs(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "words", DATA_ALONE)
    assert run(directory).made == ["data"]
    assert run(directory).fresh == ["data"]


@pytest.mark.parametrize("command", ["serve", "generate x", "plan", "compile", "run --serve"])
def test_what_needs_a_model_says_that_the_project_trains_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(write_project(tmp_path / "words", DATA_ALONE))
    with pytest.raises(ConfigError, match="the project words trains no model"):
        app(command.split(), standalone_mode=False)
    assert not (tmp_path / "words" / ".platen" / "store").exists()


def test_a_failed_gate_releases_nothing_says_by_how_much_and_needs_no_retraining(again: Path) -> None:
    result = platen(again, "run", "--set", "gate.0.max=0.5")
    assert result.returncode == GateFailed.exit_code
    assert "bits_per_byte" in result.stderr
    assert "missed by" in result.stderr
    assert "Traceback" not in result.stderr
    assert sum(m.kind == "release" for m in pipeline_of(again).store.manifests()) == 1  # the first run's
    report = run(again, overrides=["gate.0.max=19"])
    assert report.errors == {}
    assert report.made == ["register"]


def test_no_worse_than_production_compares_with_the_registered_model(again: Path) -> None:
    gate = ["gate.0={metric: bits_per_byte, no_worse_than: production}", "train.learning_rate=1e-9"]
    report = run(again, overrides=gate)
    assert isinstance(report.errors["gate"], GateFailed)
    assert "production" in str(report.errors["gate"])
    assert run(again, overrides=[*gate, "gate.0.by=15"]).errors == {}


def test_a_stage_that_asks_for_it_is_tried_again(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from platen.data import prepare

    real, tries = prepare.prepare, []

    def flaky(ctx: object) -> object:
        tries.append(ctx)
        if len(tries) < 3:
            raise ConnectionResetError("the store hiccuped")
        return real(ctx)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "prepare", flaky)
    retries = ["retries.data={max_retries: 2, delay_seconds: 0}"]
    report = run(tiny_project, "data", overrides=retries)
    assert (len(tries), report.made, report.errors) == (3, ["data"], {})


def test_without_retries_a_failure_is_final_and_keeps_what_was_done(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from platen.tokens import train

    def broken(_: object) -> object:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(train, "train_tokenizer", broken)
    report = run(tiny_project)
    assert report.made == ["data"]
    assert isinstance(report.errors["tokenizer"], ConnectionResetError)
    assert [e.stage.name for e in pipeline_of(tiny_project).plan() if e.fresh] == ["data"]


def test_a_second_run_waits_for_the_first_or_gives_up(tiny_project: Path) -> None:
    with pipeline_of(tiny_project).lock():
        result = platen(tiny_project, "run", "data", "--wait", "0.5")
    assert result.returncode == 4
    assert "another run" in result.stderr
    two = [
        subprocess.Popen([sys.executable, "-m", "platen", "run", "tokenizer"], cwd=tiny_project)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in two] == [0, 0]
    names = [m.name for m in pipeline_of(tiny_project).store.manifests()]
    assert sorted(names) == ["data", "tokenizer"]


def test_the_whole_pipeline_on_an_object_store(tiny_project: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    (tiny_project / "platen.yaml").write_text(f"store: {url}\n{PLATEN_YAML}")
    assert run(tiny_project).made == STAGES
    elsewhere = Store(url, base=tiny_project, scratch=tiny_project / "other")
    assert [m.name for m in elsewhere.manifests()] == STAGES
    assert run(tiny_project).fresh == STAGES


def test_gc_frees_what_neither_a_release_nor_the_latest_run_needs(again: Path) -> None:
    run(again, "train", overrides=["train.steps=3"])  # an experiment, not released
    pipeline = pipeline_of(again)
    pipeline.run()
    (pipeline.store.work_dir("evaluate", "0" * 16, keep=False) / "half").write_text("x" * 1000)
    garbage = find_garbage(pipeline)
    assert [m.name for m in garbage.artifacts] == ["train"]
    assert [path.name for path in garbage.leftovers] == ["evaluate-" + "0" * 16]
    assert garbage.size == garbage.artifacts[0].size + 1000
    collect(pipeline, garbage)
    assert find_garbage(pipeline).size == 0
    assert all(entry.fresh for entry in pipeline.plan())


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_artifact_is_made_anew(again: Path, damage: str) -> None:
    pipeline = pipeline_of(again)
    tokens = next(entry for entry in pipeline.plan() if entry.stage.name == "tokens")
    folder = pipeline.artifact(tokens).path
    before = (folder / "train.bin").read_bytes()
    if damage == "gone":
        (folder / "train.bin").unlink()
    else:
        (folder / {"cut": "train.bin", "manifest": "manifest.json"}[damage]).write_bytes(b"")
    plan = {entry.stage.name: entry for entry in pipeline_of(again).plan()}
    assert "damaged" in plan["tokens"].why or "missing or has changed" in plan["tokens"].why
    assert run(again).made == ["tokens"]  # what was made from it was made from the same bytes
    assert (folder / "train.bin").read_bytes() == before
    assert all(entry.fresh for entry in pipeline_of(again).plan())


def test_what_the_environment_holds_is_not_recorded(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = 'pa"ss\\word-of-mine'
    monkeypatch.setenv("SECRET", secret)
    overrides = ["evaluate.prompts=['${SECRET}']"]
    plan = pipeline_of(tiny_project, overrides).plan()
    recorded = json.dumps([entry.config for entry in plan])
    assert "word-of-mine" not in recorded
    assert "${SECRET}" in recorded
    monkeypatch.setenv("SECRET", "another-long-one")
    again = pipeline_of(tiny_project, overrides).plan()
    assert [entry.fingerprint for entry in plan] == [entry.fingerprint for entry in again]


def test_state_and_registry_in_a_database_leave_no_trace_of_its_password(
    again: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.replace(PASSWORD, "${DB_PASSWORD}")
    text = (again / "platen.yaml").read_text()
    (again / "platen.yaml").write_text(f"{text}state: {url}\nregistry: {url}\n")
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    stale = [entry.stage.name for entry in pipeline_of(again).plan() if not entry.fresh]
    assert stale == ["register"]  # a release in another registry is another release
    done = platen(again, "run")
    assert done.returncode == 0, done.stderr
    copy = shutil.copytree(again, again.parent / "elsewhere", ignore=shutil.ignore_patterns(".platen"))
    assert [v.name for v in pipeline_of(copy).registry.versions("tiny")] == ["tiny@1"]
    assert "tiny@1" in platen(copy, "models").stdout
    assert pipeline_of(copy).latest()["register"].startswith("register/")
    with pipeline_of(copy).lock():
        waiting = platen(again, "run", "--wait", "0.2")
    assert (waiting.returncode, "another run (process" in waiting.stderr) == (4, True)
    written = b"".join(file.read_bytes() for file in again.rglob("*") if file.is_file())
    assert PASSWORD.encode() not in written + done.stdout.encode() + done.stderr.encode()


def test_a_store_that_is_none_keeps_its_secret(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2hunter2")
    with pytest.raises(ArtifactError) as refused:
        pipeline_of(tiny_project, ["store='nosuch://${TOKEN}/x'"])
    assert "hunter2" not in str(refused.value)
    assert "${TOKEN}" in str(refused.value)


def test_a_changed_chat_template_makes_the_tokenizer_stale(tiny_project: Path) -> None:
    template = tiny_project / "chat.jinja"
    template.write_text("{{ messages[0].content }}")
    overrides = ["tokenizer.chat_template=chat.jinja"]
    run(tiny_project, "tokenizer", overrides=overrides)
    template.write_text("{{ messages[-1].content }}")
    plan = {entry.stage.name: entry for entry in pipeline_of(tiny_project, overrides).plan()}
    assert plan["data"].fresh
    assert plan["tokenizer"].why == "changed: chat.jinja"


def test_a_run_of_some_stages_does_not_let_the_others_be_removed(again: Path) -> None:
    changed = ["train.steps=14"]
    run(again, "train", overrides=changed)
    run(again, "data")
    names = {manifest.ref for manifest in find_garbage(pipeline_of(again)).artifacts}
    latest = next(e for e in pipeline_of(again, changed).plan() if e.stage.name == "train")
    assert f"train/{latest.fingerprint}" not in names


def test_dagster_gets_assets_gate_job_and_schedule(tiny_project: Path) -> None:
    from platen.pipeline.orchestration import pipeline_definitions

    definitions = pipeline_definitions(pipeline_of(tiny_project, ["schedule='0 3 * * 1'"]))
    graph = definitions.resolve_asset_graph()
    assert sorted(key.to_user_string() for key in graph.get_all_asset_keys()) == sorted(STAGES)
    assert [check.name for check in graph.asset_check_keys] == ["gate"]
    schedule = definitions.resolve_schedule_def("all_schedule")
    assert schedule.cron_schedule == "0 3 * * 1"
    assert schedule.default_status.value == "RUNNING"
    result = definitions.resolve_job_def("all").execute_in_process()
    assert result.success
    assert all(entry.fresh for entry in pipeline_of(tiny_project).plan())


def test_a_released_model_is_compiled_and_then_served(tiny_project: Path) -> None:
    pytest.importorskip("openvino")
    from platen.models.compiled import read_compiled
    from platen.pipeline.registered import ProjectModels

    wanted = ["compile.weights=int4"]
    assert run(tiny_project, overrides=wanted).made == [*STAGES, "compile"]
    assert run(tiny_project, overrides=wanted).made == []
    pipeline = pipeline_of(tiny_project)
    released = ProjectModels(lambda: pipeline).find(None)
    bundle, path = released.folders
    assert (released.model, released.version) == ("tiny", "tiny@1")
    assert read_compiled(bundle) is None
    found = read_compiled(path)
    assert found is not None
    assert (found.to, found.weights) == ("openvino", "int4")
    said = platen(tiny_project, "generate", "the king", "-m", str(path), "--max-tokens", "5", "--seed", "1")
    assert said.returncode == 0, said.stderr


def test_artifacts_of_earlier_versions_stay_fresh(tiny_project: Path) -> None:
    """What a store holds of an unchanged project is still found: these were its fingerprints at first."""
    variants = ["variants={a: {model: {architecture: swiglu}}, b: {train: {steps: 3}}}"]
    plans = {
        name: {entry.stage.name: entry.fingerprint for entry in pipeline_of(tiny_project, overrides).plan()}
        for name, overrides in {"plain": ["compile.weights=int4"], "variants": variants}.items()
    }
    assert plans["plain"] == {
        "data": "b2c5ed1d7b0d6ee2",
        "tokenizer": "51e2a99cef205d5b",
        "tokens": "1d0a5289b10f1b4d",
        "train": "595be87fcad43ae7",
        "evaluate": "a929b76408e59e20",
        "register": "6195c5bcd56caded",
        "compile": "6a32f8940a1749db",
    }
    assert plans["variants"]["train@a"] == "4d6107628181c129"
    assert plans["variants"]["compare"] == "69d0fdd10fbb4e9d"


def test_a_stage_that_lacks_a_library_names_its_own_extra(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from platen.data import prepare
    from platen.train import pretrain

    def lacking(_: object) -> object:
        raise ModuleNotFoundError("No module named 'regex'", name="regex")

    monkeypatch.setattr(prepare, "prepare", lacking)
    assert "pip install 'platen[data]'" in str(run(tiny_project, "data").errors["data"])
    monkeypatch.undo()
    monkeypatch.setattr(pretrain, "pretrain", lacking)
    assert "pip install 'platen[train]'" in str(run(tiny_project, "train").errors["train"])
