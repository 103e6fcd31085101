"""A whole load test: from the command line to its report, a sweep to a known knee, refused addresses."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from platen.core.errors import ConfigError, DataError
from platen.loadtest.load import Load
from platen.loadtest.load_prompts import Ask, Listed, read_prompts
from platen.loadtest.load_report import write_report
from platen.loadtest.records import Slo
from platen.loadtest.session import Plan, run_plan
from platen.loadtest.target import Target, check_address
from tests.loadtest.scripted import DONE, Script, piece, scripted

ASK = Listed((Ask("to be <b>or</b> not", 3),))


async def test_a_sweep_finds_what_the_server_bears_and_reports_it(tmp_path: Path) -> None:
    """It answers three at once and refuses more: three users is its knee."""
    script = Script()

    async def slow(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield piece(index=0, text="a")
        await asyncio.sleep(0.03)
        yield DONE

    script.stream = slow
    script.refuse = lambda number: 429 if script.at_once >= 3 else None
    async with scripted(script):
        load = Load(users=1, requests=40, seconds=5)
        plan = Plan(Target(script.url), ASK, load, "one <prompt>", Slo(ttft=5.0), sweep=True, most=8)
        report = await run_plan(plan)
    assert report.knee == 3
    assert "3 users" in report.verdict()
    assert "95%" in report.verdict()
    assert report.shown is not None
    assert report.shown.load.users == 3
    page = write_report(report, tmp_path / "report").read_text()
    assert "3 users" in page
    assert "one &lt;prompt&gt;" in page
    assert not re.search(r'(src|href)=(?!"data:)', page), "the page must need nothing else"
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert figures["knee"] == 3
    assert {row["outcome"] for rows in figures["requests"] for row in rows} == {"ok", "429"}
    assert len(list((tmp_path / "report").glob("*.png"))) == page.count("data:image/png") == 4


async def test_a_server_that_bears_all_that_was_tried_has_no_knee_there() -> None:
    async with scripted(Script()) as script:
        load = Load(users=1, requests=10, seconds=5)
        report = await run_plan(
            Plan(Target(script.url), ASK, load, "one prompt", Slo(ttft=5.0), sweep=True, most=2)
        )
    assert report.knee == 2
    assert "No knee up to 2 users" in report.verdict()


@pytest.mark.parametrize("begin", [("--users", "4"), ("--rate", "8")])
def test_a_search_that_would_end_before_it_begins_is_refused(begin: tuple[str, str], tmp_path: Path) -> None:
    limit = ("--find-knee", "--slo", "ttft=1s", "--up-to", "0.5")
    done = subprocess.run(
        bench("http://127.0.0.1:9", *begin, *limit, cwd=tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "--up-to 0.5 is below" in done.stderr


def bench(*arguments: str, cwd: Path) -> list[str]:
    return [sys.executable, "-m", "platen", "bench", "serve", *arguments]


async def test_the_command_prints_json_and_writes_its_report(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('"to be"\n{"prompt": "or not", "max_tokens": 5}\n\n')
    async with scripted(Script()) as script:
        done = await asyncio.to_thread(
            subprocess.run,
            bench(script.url, "--rate", "200", "--requests", "10", "--prompts", "p.jsonl", "--slo", "e2e=9s",
                  "--json", "--out", "r", cwd=tmp_path),
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["runs"][0]["summary"]["outcomes"] == {"ok": 10}
    assert figures["runs"][0]["summary"]["slo_share"] == 1.0
    assert {body["max_tokens"] for body in script.seen} == {64, 5}
    assert (tmp_path / "r" / "report.html").is_file()
    assert not list(tmp_path.glob(".*partial"))


async def test_ctrl_c_writes_the_report_of_what_was_measured(tmp_path: Path) -> None:
    second = asyncio.Event()

    async def hangs(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield piece(index=0, text="a")
        if len(script.seen) > 1:
            second.set()
            await asyncio.Event().wait()
        yield DONE

    (tmp_path / "p.txt").write_text("to be\n")
    async with scripted(Script(hangs)) as script:
        process = await asyncio.create_subprocess_exec(
            *bench(script.url, "--prompts", "p.txt", "--out", "r", cwd=tmp_path),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell has what it starts in the background ignore the signal.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        await asyncio.wait_for(second.wait(), 60)
        process.send_signal(signal.SIGINT)
        out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert b"Stopped early" in out
    assert b"Traceback" not in errors
    figures = json.loads((tmp_path / "r" / "report.json").read_text())
    assert figures["runs"][0]["summary"]["outcomes"] == {"ok": 1, "unfinished": 1}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1/v1", "http://[::1]:1"])
def test_this_machine_may_be_loaded(url: str) -> None:
    check_address(url, own=False)


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "http://[2001:db8::1]", "http://0.0.0.0:8000"])
def test_another_machine_may_not_unless_it_is_the_users(url: str) -> None:
    with pytest.raises(ConfigError, match="not this machine"):
        check_address(url, own=False)
    check_address(url, own=True)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://localhost", "http://", "http://me:secret@localhost"]
)
def test_what_is_no_address_is_refused_and_no_password_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_address(url, own=True)
    assert "secret" not in str(refused.value)


def test_prompt_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"text": "x", "max_tokens": 2}\n')
    assert read_prompts(file, 9).entries == (Ask([{"role": "user", "content": "hi"}], 9), Ask("x", 2))
    plain = tmp_path / "prompts.txt"
    plain.write_text('first\n\n"second"\n')
    assert read_prompts(plain, 9).entries == (Ask("first", 9), Ask('"second"', 9))
    for wrong in ("{", "7", "{}", '{"prompt": 1}', '{"text": "x", "max_tokens": 0}', '{"messages": []}'):
        file.write_text(f'"good"\n{wrong}\n')
        with pytest.raises(DataError, match=r"jsonl:2"):
            read_prompts(file, 9)
    file.write_text("\n")
    with pytest.raises(DataError, match="no prompts"):
        read_prompts(file, 9)
