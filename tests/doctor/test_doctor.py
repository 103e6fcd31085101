"""`platen doctor`: what it finds on this machine, and what it says when something is amiss."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from platen.doctor import checks as doctor
from platen.doctor.checks import Check, examine
from platen.project.file import new_project

FACTS = {
    "version": "2.9.0",
    "built_for_cuda": None,
    "cpu": "AVX2",
    "bfloat16": False,
    "threads": 4,
    "cuda": [],
    "mps": False,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "hello"
    new_project(folder, "hello")
    return folder


@pytest.fixture
def torch_says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers for torch, so that no process is started; call it with the facts to change."""

    def say(*, code: int = 0, stderr: str = "", **facts: object) -> None:
        output = "a library's banner\n" + json.dumps(FACTS | facts) if not code else ""
        answer = SimpleNamespace(returncode=code, stdout=output, stderr=stderr)
        monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answer)

    say()
    return say


def look(folder: Path | None = None) -> dict[str, Check]:
    checks = examine(folder)
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.found
        assert bool(check.fix) == (check.status != "ok"), check
    return {check.name: check for check in checks}


def replace_line(folder: Path, old: str, new: str) -> None:
    text = (folder / "platen.yaml").read_text()
    assert old in text
    (folder / "platen.yaml").write_text(text.replace(old, new))


# -- this machine -----------------------------------------------------------------------------------


def test_this_machine_as_it_is(project: Path) -> None:
    """Nothing is simulated: torch really is asked, GPU or none."""
    found = look(project)
    assert sys.executable in found["Python"].found
    assert f"pydantic {metadata.version('pydantic')}" in found["platen"].found
    assert metadata.version("torch") in found["torch"].found
    assert found["torch"].status in ("ok", "warn")
    assert found["accelerator"].found
    assert found["project file"].status == "ok"
    assert found["store"].status == "ok"
    assert found["unfinished work"].status == "ok"
    assert not (project / ".platen").exists(), "looking leaves nothing behind"


def test_a_project_that_trains_nothing(project: Path, torch_says: Any) -> None:
    (project / "platen.yaml").write_text("name: words\ndata: {sources: [{path: corpus/*.txt}]}\n")
    assert look(project)["project file"].found.endswith("words, data, no model")


def test_looking_imports_nothing_heavy() -> None:
    code = (
        "import sys, platen.doctor.checks as d; d.examine(None); "
        "print(sorted({'torch', 'mlflow', 'dagster', 'transformers', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


def test_without_a_project(torch_says: Any) -> None:
    names = set(look())
    assert {"Python", "system", "cores", "memory", "disk", "platen", "extra train", "port 8000"} <= names
    assert not names & {"project file", "store", "unfinished work"}


Version = namedtuple("Version", "major minor micro releaselevel serial")


def test_an_old_python(monkeypatch: pytest.MonkeyPatch, torch_says: Any) -> None:
    monkeypatch.setattr(sys, "version_info", Version(3, 10, 4, "final", 0))
    check = look()["Python"]
    assert check.status == "fail"
    assert "3.11" in (check.fix or "")


def test_little_memory(monkeypatch: pytest.MonkeyPatch, torch_says: Any) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1 << 31, available=1 << 29))
    check = look()["memory"]
    assert (check.status, check.found) == ("warn", "0.5 GiB free of 2.0 GiB")


@pytest.mark.parametrize(("free", "status"), [(100 << 20, "fail"), (1 << 30, "warn"), (5 << 30, "ok")])
def test_disk(monkeypatch: pytest.MonkeyPatch, torch_says: Any, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    check = look()["disk"]
    assert check.status == status
    assert "platen gc" in (check.fix or "platen gc")


# -- extras and torch -------------------------------------------------------------------------------


def without(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Pretend that packages have other versions, or (None) are missing."""
    real = metadata.version

    def version(name: str) -> str:
        if name not in versions:
            return real(name)
        said = versions[name]
        if said is None:
            raise metadata.PackageNotFoundError(name)
        return said

    monkeypatch.setattr(metadata, "version", version)


def test_a_missing_extra_names_the_command_that_adds_it(
    monkeypatch: pytest.MonkeyPatch, torch_says: Any
) -> None:
    without(monkeypatch, fastapi=None, uvicorn=None)
    found = look()
    check = found["extra serve"]
    assert check.status == "warn"
    assert "fastapi is missing, uvicorn is missing" in check.found
    assert "platen serve" in check.found
    assert check.fix == "pip install 'platen[serve]'"
    assert found["extra train"].status == "ok"


def test_too_old_a_version(monkeypatch: pytest.MonkeyPatch, torch_says: Any) -> None:
    without(monkeypatch, torch="2.3.1+cu121", pydantic="1.10.2")
    found = look()
    assert "torch 2.3.1+cu121 is not >=" in found["extra train"].found
    assert found["platen"].status == "fail"
    assert "pydantic 1.10.2 is not >=" in found["platen"].found


def test_no_torch_at_all(monkeypatch: pytest.MonkeyPatch, torch_says: Any) -> None:
    without(monkeypatch, torch=None)
    found = look()
    assert "torch is missing" in found["extra train"].found
    assert "torch" not in found


def test_a_torch_that_breaks(torch_says: Any) -> None:
    torch_says(code=1, stderr="Traceback ...\nImportError: libfoo.so.1: cannot open shared object file\n")
    check = look()["torch"]
    assert check.status == "fail"
    assert "libfoo.so.1" in check.found
    assert "Traceback" not in check.found


def test_a_torch_that_dies_silently(torch_says: Any) -> None:
    torch_says(code=-4)
    assert "exit status -4" in look()["torch"].found


def test_a_torch_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(doctor.subprocess, "run", hang)
    assert look()["torch"].status == "fail"


@pytest.mark.parametrize(
    ("facts", "name", "status", "phrase"),
    [
        ({}, "torch", "ok", "2.9.0, AVX2, 4 threads, no bfloat16"),
        ({"bfloat16": True, "cpu": "AVX512"}, "torch", "ok", "AVX512, 4 threads, bfloat16 in hardware"),
        ({"cpu": "DEFAULT"}, "torch", "warn", "DEFAULT"),
        ({}, "accelerator", "ok", "none"),
        ({"cuda": [["NVIDIA H100", 9, 0, 80 << 30]]}, "accelerator", "ok", "H100, capability 9.0, 80 GiB"),
        ({"mps": True}, "accelerator", "ok", "Apple"),
    ],
)
def test_what_torch_can_do(
    torch_says: Any, facts: dict[str, Any], name: str, status: str, phrase: str
) -> None:
    torch_says(**facts)
    check = look()[name]
    assert check.status == status
    assert phrase in check.found


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are compiled on Linux")
def test_a_compiler_for_the_kernels(monkeypatch: pytest.MonkeyPatch, torch_says: Any, tmp_path: Path) -> None:
    own = tmp_path / "my-compiler"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CXX", str(own))
    assert str(own) in look()["compiler"].found
    own.unlink()
    assert look()["compiler"].status == "warn"
    assert "g++" in (look()["compiler"].fix or "")


def test_a_gpu_that_this_torch_cannot_use(monkeypatch: pytest.MonkeyPatch, torch_says: Any) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert look()["accelerator"].status == "warn"
    torch_says(built_for_cuda="12.8")
    assert look()["accelerator"].status == "ok"


# -- surroundings -----------------------------------------------------------------------------------


def test_a_port_in_use_and_a_free_one(project: Path, torch_says: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        replace_line(project, "port: 8000", f"port: {port}")
        check = look(project)[f"port {port}"]
        assert check.status == "warn"
        assert "in use" in check.found
    assert look(project)[f"port {port}"].status == "ok"


def test_any_port(project: Path, torch_says: Any) -> None:
    replace_line(project, "port: 8000", "port: 0")
    assert look(project)["port 0"].status == "ok"


def test_an_address_that_is_not_ours(project: Path, torch_says: Any) -> None:
    replace_line(project, "  port: 8000", "  host: 192.0.2.1\n  port: 8000")
    assert look(project)["port 8000"].status == "fail"


@pytest.mark.parametrize("value", ["0", "false"])
def test_telemetry_that_the_environment_asks_for(
    monkeypatch: pytest.MonkeyPatch, torch_says: Any, value: str
) -> None:
    for name in ("DO_NOT_TRACK", "DAGSTER_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    assert look()["telemetry"].status == "ok"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", value)
    check = look()["telemetry"]
    assert check.status == "warn"
    assert check.fix == "unset MLFLOW_DISABLE_TELEMETRY"


# -- the project ------------------------------------------------------------------------------------


def test_a_broken_project_file(project: Path, torch_says: Any) -> None:
    replace_line(project, "minutes: 1", "mintues: 1")
    check = next(check for check in examine(project) if check.name == "project file")
    assert check.status == "fail"
    assert "did you mean minutes" in check.found


def test_no_project_there(tmp_path: Path, torch_says: Any) -> None:
    check = look(tmp_path)["project file"]
    assert check.status == "fail"
    assert "platen new" in (check.fix or "")


def test_stores(project: Path, torch_says: Any) -> None:
    replace_line(project, "seed: 1337", "store: memory://there")
    assert look(project)["store"].status == "ok"
    replace_line(project, "memory://there", "gopher://there")
    assert look(project)["store"].status == "fail"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_cannot_be_written(project: Path, torch_says: Any) -> None:
    project.chmod(0o500)
    assert look(project)["store"].status == "fail"


def test_a_store_on_a_read_only_file_system(
    project: Path, torch_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = look(project)["store"]
    assert check.status == "fail"
    assert "Read-only file system" in check.found


def test_unfinished_work(project: Path, torch_says: Any) -> None:
    left = project / ".platen/work/train-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "last.safetensors").write_bytes(bytes(2_000_000))
    check = look(project)["unfinished work"]
    assert check.status == "warn"
    assert "train-0123456789abcdef (2.0 MB)" in check.found


# -- upstreams --------------------------------------------------------------------------------------


def test_a_gateways_file(tmp_path: Path, torch_says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as service, socket.socket() as nobody:
        for each in (service, nobody):
            each.bind(("127.0.0.1", 0))
        service.listen()
        here, nowhere = (f"http://127.0.0.1:{each.getsockname()[1]}/v1" for each in (service, nobody))
        big = {"name": "big", "base_url": here, "api_key_env": "BIG_KEY"}
        serve = {"port": 0, "upstreams": [big, {"name": "spare", "base_url": nowhere}]}
        (tmp_path / "platen.yaml").write_text(f"name: desk\nserve: {json.dumps(serve)}\n")
        monkeypatch.delenv("BIG_KEY", raising=False)
        found = look(tmp_path)
        assert found["project file"].found.endswith("desk, a gateway")
        assert found["port 0"].status == "ok"
        assert (found["upstream big"].status, found["upstream big"].found) == (
            "ok",
            f"{here} takes connections",
        )
        assert (found["key of big"].status, found["key of big"].fix) == ("fail", "export BIG_KEY=…")
        assert (found["upstream spare"].status, "key of spare" in found) == ("warn", False)
        assert f"{nowhere} can't be reached: Connection refused" in found["upstream spare"].found
        assert "store" not in found
        monkeypatch.setenv("BIG_KEY", "sk-1234")
        assert look(tmp_path)["key of big"].found == "in the environment as BIG_KEY"


def test_the_upstreams_of_a_whole_project(project: Path, torch_says: Any) -> None:
    upstream = '{name: big, base_url: "http://127.0.0.1:1/v1"}'
    replace_line(project, "port: 8000", f"port: 8000\n  upstreams: [{upstream}]")
    found = look(project)
    assert (found["upstream big"].status, found["store"].status) == ("warn", "ok")


# -- paths in the project file ----------------------------------------------------------------------


def look_with(folder: Path, blocks: list[dict[str, Any]], **sections: Any) -> dict[str, Check]:
    """What is found of a project of one text with these blocks and sections."""
    (folder / "a.txt").write_text("hello")
    data = {"sources": [{"path": "a.txt"}]} | ({"filters": {"blocks": blocks}} if blocks else {})
    project = {"name": "paths", "data": data, "serve": {"port": 0}} | sections
    (folder / "platen.yaml").write_text(json.dumps(project))
    return look(folder)


TOXIC = {"block": "toxicity", "classifier": "kind", "label": "bad"}


@pytest.mark.parametrize(
    ("blocks", "sections", "key", "words", "fix"),
    [
        ([{"block": "toxicity", "words": "w.txt"}], {}, "blocks.0.words", "w.txt can't be read", "relative"),
        ([TOXIC], {}, "blocks.0.classifier", "kind does not exist", "save a classifier of platen.baselines"),
        ([{"block": "pii", "names": "ner"}], {}, "blocks.0.names", "ner does not exist", "hf download"),
        (
            [{"block": "perplexity", "model": "ngrams", "max_perplexity": 9}],
            {},
            "blocks.0.model",
            "ngrams holds no n-gram model",
            "platen baselines ngram CORPUS --out",
        ),
        (
            [{"block": "perplexity", "reference": {"path": "clean/*.txt"}, "max_perplexity": 9}],
            {},
            "blocks.0.reference",
            "clean/*.txt matches no file",
            "glob",
        ),
        (
            [{"block": "contamination", "against": ["a.txt", "mmlu.jsonl"]}],
            {},
            "blocks.0.against: mmlu.jsonl",
            "mmlu.jsonl does not exist",
            "relative",
        ),
        ([], {"tokenizer": {"chat_template": "t.jinja"}}, "chat_template", "t.jinja can't be read", "Jinja"),
        ([], {"instruct": {"sources": [{"path": "pairs.jsonl"}]}}, "sources", "matches no file", "correct"),
        (
            [],
            {"instruct": {"build": ["faqs"], "acts": {"by": "classifier", "labels": "acts.jsonl"}}},
            "instruct.sources",
            "acts.jsonl does not exist",
            "Export labels",
        ),
        (
            [],
            {"instruct": {"build": ["faqs"], "acts": {"by": "llm", "bundle": "judge"}}},
            "instruct.acts.bundle",
            "judge does not exist",
            "folder",
        ),
        (
            [],
            {"serve": {"draft": {"ngram": "draft"}}},
            "serve.draft.ngram",
            "draft holds no counts",
            "platen baselines draft TOKENS --out",
        ),
        (
            [],
            {"serve": {"guards": {"blocklist": {"input": "log", "words": "no.txt"}}}},
            "serve.guards.blocklist.words",
            "no.txt can't be read",
            "relative",
        ),
        (
            [],
            {"serve": {"models": [{"name": "e", "path": "./embedder"}]}},
            "serve.models: e",
            "no model folder",
            "serve.models",
        ),
        (
            [],
            {"serve": {"models": [{"name": "e", "path": "mine@3"}]}},
            "serve.models: e",
            "'mine' is registered",
            "run",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_what_a_path_should_lead_to_is_missing(
    tmp_path: Path,
    torch_says: Any,
    blocks: list[dict[str, Any]],
    sections: dict[str, Any],
    key: str,
    words: str,
    fix: str,
) -> None:
    failed = {
        name: one for name, one in look_with(tmp_path, blocks, **sections).items() if one.status == "fail"
    }
    ((name, check),) = failed.items()
    assert name.endswith(key)
    assert words in check.found
    assert fix in (check.fix or "")


def test_what_is_there_is_named(tmp_path: Path, torch_says: Any) -> None:
    (tmp_path / "w.txt").write_text("# a comment\nfoul\nplay\n")
    for folder in ("kind", "ner", "embedder"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
    models = [{"name": name, "path": path} for name, path in (("e", "embedder"), ("u", "s3://a:b@c/d?e=f"))]
    found = look_with(
        tmp_path,
        [TOXIC | {"words": "w.txt"}, {"block": "pii", "names": "ner"}],
        serve={"port": 0, "models": [*models, {"name": "h", "path": "hub/name"}]},
    )
    assert not [one for one in found.values() if one.status == "fail"]
    assert found["data.sources.0"].found == "a.txt: 1 file"
    assert found["data.filters.blocks.0.words"].found.endswith("w.txt: 2 entries")
    assert found["serve.models: u"].found == "s3://c/d (not contacted)"
    assert "a name on the Hub" in found["serve.models: h"].found


def test_a_source_that_is_missing_and_one_with_a_password(
    project: Path, torch_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "s3://secret-4711")
    replace_line(project, "- path: corpus/*.txt", "- path: corpse/*.txt\n    - path: ${PLACE}/texts")
    found = look(project)
    assert (found["data.sources.0"].status, found["data.sources.1"].status) == ("fail", "ok")
    assert "corpse/*.txt matches no file" in found["data.sources.0"].found
    assert found["data.sources.1"].found == "${PLACE}/texts (not contacted)"


def test_the_paths_of_a_gateways_file(tmp_path: Path, torch_says: Any) -> None:
    serve = {"port": 0, "models": [{"name": "e", "path": "/no/such/folder"}]}
    (tmp_path / "platen.yaml").write_text(json.dumps({"name": "desk", "serve": serve}))
    assert look(tmp_path)["serve.models: e"].status == "fail"
