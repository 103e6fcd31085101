"""The registry's rules, checked through its own answers and through MLflow's."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from platen.core.errors import RegistryError
from platen.registry.gate import GateOutcome
from platen.registry.runs import find_run
from platen.registry.tracking import MlflowTracker
from platen.registry.versions import Registry

PASSED = GateOutcome(True, ("✓ bits_per_byte 2.1, at most 2.2 wanted: met with 0.1",))
FAILED = GateOutcome(False, ("✗ loss 3, at most 2 wanted: missed by 1",), ("loss 3: missed by 1",))


@pytest.fixture
def registry(project):
    return Registry(project)


def add(registry, model, fingerprint, **metrics):
    return registry.register(
        model, fingerprint=fingerprint, source=f"file:///store/train/{fingerprint}", metrics=metrics
    )


def database(project):
    return project / ".platen" / "mlflow.db"


def found(project, fingerprint):
    return find_run(mlflow_client(project), fingerprint)


def tracker(project, name, fingerprint, parent=None):
    return MlflowTracker(
        Registry(project).backend,
        experiment="x",
        run_name=name,
        fingerprint=fingerprint,
        parent_fingerprint=parent,
    )


def mlflow_client(project):
    from mlflow.tracking import MlflowClient

    return MlflowClient(Registry(project).backend.url)


def test_reading_an_empty_project_makes_nothing(tmp_path):
    assert Registry(tmp_path).versions() == []
    assert Registry(tmp_path).production("poet") is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RegistryError, match="No model called 'poet'"):
        Registry(tmp_path).get("poet", "production")


def test_a_registered_version_reads_back_as_mlflow_has_it(registry, project):
    made = registry.register(
        "poet",
        fingerprint="aa11",
        source="file:///store/train/aa11",
        artifact="train/aa11",
        metrics={"bits_per_byte": 2.1, "parameters": 12.0},
        evaluated_text="cafe",
        tags={"origin": "trained here"},
    )
    registry.promote(made, "production", PASSED)
    theirs = mlflow_client(project).get_model_version_by_alias("poet", "production")
    ours = registry.get("poet", "production")
    assert (ours.number, ours.source, ours.name) == (int(theirs.version), theirs.source, "poet@1")
    assert int(ours.created_at.timestamp() * 1000) == pytest.approx(theirs.creation_timestamp, abs=1)
    assert ours.artifact == "train/aa11"
    assert ours.fingerprint == theirs.tags["platen.fingerprint"] == "aa11"
    assert ours.metrics == {"bits_per_byte": 2.1, "parameters": 12.0}
    assert ours.evaluated_text == "cafe"
    assert ours.tags == {"origin": "trained here"}
    assert registry.production("poet") == ours


def test_registering_the_same_bundle_again_gives_the_same_version(registry):
    first = add(registry, "twice", "b1", loss=2.0)
    other = add(registry, "twice", "b2", loss=1.9)
    again = add(registry, "twice", "b1", loss=1.8)
    assert (first.number, other.number, again.number) == (1, 2, 1)
    assert [v.metrics["loss"] for v in registry.versions("twice")] == [1.8, 1.9]


def test_the_fingerprint_that_a_server_tells_leads_to_its_version(registry, project):
    content = "3f2a91c0de11aa77"
    made = registry.register("poet", fingerprint="abc", source="file:///x", metrics={}, content=content)
    add(registry, "poet", "def")
    for told in (content, content[:12], f"fp_{content[:12]}"):
        assert registry.with_content(told) == [made]
    assert Registry(project).get("poet", made.number).content == content
    with pytest.raises(RegistryError, match="No registered version has a bundle with the fingerprint 123456"):
        registry.with_content("fp_123456")
    with pytest.raises(RegistryError, match="too short"):
        registry.with_content("fp_")


def test_promotion_needs_a_passed_gate_or_a_reason(registry):
    version = add(registry, "gated", "c1", loss=3.0)
    for reason in (None, "  "):
        with pytest.raises(RegistryError, match="missed by 1"):
            registry.promote(version, "production", FAILED, override_reason=reason)
    assert registry.production("gated") is None

    promoted = registry.promote(version, "production", FAILED, override_reason="only a rehearsal")
    (record,) = promoted.promotions
    assert promoted.aliases == ("production",)
    assert record.override_reason == "only a rehearsal"
    assert record.gate == FAILED.lines
    assert record.by
    assert record.replaced is None


def test_an_alias_moves_and_the_move_is_recorded(registry):
    first, second = add(registry, "moving", "d1"), add(registry, "moving", "d2")
    registry.promote(first, "production", PASSED)
    registry.promote(second, "candidate", PASSED)
    assert registry.get("moving", "candidate").number == 2
    promoted = registry.promote(second, "production", PASSED)
    assert promoted.aliases == ("production",)  # no candidate any more
    assert [(p.alias, p.replaced) for p in promoted.promotions] == [("candidate", None), ("production", 1)]
    assert registry.get("moving", 1).aliases == ()
    # Saying it twice changes nothing; going back is one more promotion.
    assert len(registry.promote(second, "production", PASSED).promotions) == 2
    back = registry.promote(registry.get("moving", 1), "production", PASSED)
    assert back.promotions[-1].replaced == 2


def test_an_unknown_alias_or_version_names_what_there_is(registry):
    version = add(registry, "naming", "e1")
    with pytest.raises(RegistryError, match=r"candidate, production"):
        registry.promote(version, "live", PASSED)
    with pytest.raises(RegistryError, match=r"no version or alias 'production'(.|\n)*versions: 1"):
        registry.get("naming", "production")
    with pytest.raises(RegistryError, match="'7'"):
        registry.get("naming", 7)


def test_a_live_version_cannot_be_deleted_and_numbers_are_not_reused(registry, project):
    first, second = add(registry, "deleting", "f1"), add(registry, "deleting", "f2")
    registry.promote(first, "candidate", PASSED)
    with pytest.raises(RegistryError, match=r"deleting@1 is live \(candidate\)"):
        registry.delete(first)
    registry.delete(second)
    assert [v.number for v in registry.versions("deleting")] == [1]
    assert add(registry, "deleting", "f2").number == 3
    assert {int(v.version) for v in mlflow_client(project).search_model_versions("name = 'deleting'")} == {
        1,
        3,
    }


def test_lineage_walks_from_child_to_base(registry, project):
    with tracker(project, "pretrain", "base1"):
        pass
    with tracker(project, "finetune", "child1", parent="base1"):
        pass
    with tracker(project, "adapt", "grandchild1", parent="child1"):
        pass
    chain = registry.lineage(add(registry, "family", "grandchild1"))
    assert [(a.run_name, a.fingerprint) for a in chain] == [
        ("adapt", "grandchild1"),
        ("finetune", "child1"),
        ("pretrain", "base1"),
    ]
    bought = add(registry, "family", "bought1")
    assert [(a.run_id, a.fingerprint) for a in registry.lineage(bought)] == [(None, "bought1")]


def test_reading_is_quick_and_loads_no_mlflow(registry, project):
    registry.promote(add(registry, "quick", "g1", loss=1.0), "production", PASSED)
    code = (
        "import sys, pathlib; from platen.registry.versions import Registry; "
        f"print(Registry(pathlib.Path({str(project)!r})).production('quick').number, "
        "'mlflow' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    started = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == ["1", "False", "False"]
    assert time.monotonic() - started < 5


def test_writing_is_silent_and_sends_nothing(tmp_path):
    code = (
        "import sys, pathlib, socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "from platen.registry.versions import Registry\n"
        f"r = Registry(pathlib.Path({str(tmp_path)!r}))\n"
        "r.register('m', fingerprint='a', source='s', metrics={})\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "assert is_telemetry_disabled()\n"
    )
    environment = {k: v for k, v in os.environ.items() if "MLFLOW" not in k and k != "DO_NOT_TRACK"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")


def _register_many(project, worker, count):
    registry = Registry(project)
    for index in range(count):
        registry.register("shared", fingerprint=f"same{index}", source="s", metrics={"worker": worker})
        registry.register("shared", fingerprint=f"own{worker}-{index}", source="s", metrics={})


def test_two_processes_at_once_make_each_version_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_register_many, args=(tmp_path, worker, 2)) for worker in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = Registry(tmp_path).versions("shared")
    assert [v.number for v in found] == list(range(1, 7))
    assert len({v.fingerprint for v in found}) == 6


def test_a_database_that_is_none_is_a_clear_error(tmp_path):
    database(tmp_path).parent.mkdir()
    database(tmp_path).write_bytes(b"not a database" * 100)
    with pytest.raises(RegistryError, match=r"mlflow\.db: .*not a database"):
        Registry(tmp_path).versions()
    with pytest.raises(RegistryError, match=r"mlflow\.db"):
        add(Registry(tmp_path), "m", "a")
    assert database(tmp_path).read_bytes() == b"not a database" * 100


def test_find_run_takes_the_latest_active_run(project):
    with tracker(project, "train", "h1") as first:
        pass
    mlflow_client(project).delete_run(first.run_id)
    assert found(project, "h1") is None
    with tracker(project, "train", "h1") as second:
        pass
    assert found(project, "h1") == second.run_id != first.run_id


def test_a_kill_in_the_middle_of_a_commit_is_rolled_back(tmp_path):
    registry = Registry(tmp_path)
    add(registry, "m", "a", loss=1.0)
    code = (
        "import sqlite3, os\n"
        f"c = sqlite3.connect({str(database(tmp_path))!r}, isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
        "c.execute(\"UPDATE model_version_tags SET value = '{}'\")\n"
        "c.execute('CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n '\n"
        "          'WHERE i < 3000) SELECT hex(randomblob(200)) AS x FROM n')\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert database(tmp_path).with_name("mlflow.db-journal").stat().st_size > 0
    assert registry.get("m", 1).metrics == {"loss": 1.0}
    assert add(registry, "m", "b").number == 2


def test_a_kill_while_the_database_is_made_leaves_none(tmp_path):
    code = (
        "import os, pathlib, threading, time\n"
        "from platen.registry.versions import Registry\n"
        f"root = pathlib.Path({str(tmp_path)!r})\n"
        "def kill():\n"
        "    while not any(f.stat().st_size for f in (root / '.platen').glob('mlflow.db*')):\n"
        "        time.sleep(0.005)\n"
        "    os._exit(9)\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
        "Registry(root).register('m', fingerprint='a', source='s', metrics={})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert killed.returncode == 9
    assert not database(tmp_path).exists()
    assert database(tmp_path).with_name("mlflow.db.tmp").exists()
    assert Registry(tmp_path).versions() == []
    assert add(Registry(tmp_path), "m", "a").number == 1
    assert not database(tmp_path).with_name("mlflow.db.tmp").exists()
