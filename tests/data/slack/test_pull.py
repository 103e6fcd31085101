"""The Slack API from pages to a folder like an export: every message once, whatever the network does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from platen.core.errors import DataError
from platen.data.slack.client import SlackClient
from platen.data.slack.pull import STATE, Wanted, pull
from tests.data.readers.making import records
from tests.data.slack.fake import TOKEN, Workspace, serving


def ts(second: int) -> str:
    return f"{1_767_225_600 + second}.000100"  # from 2026-01-01 on


def workspace() -> Workspace:
    """Seven messages in #help, of which one is a thread of four replies; a private channel, a group, a DM."""
    messages = [{"ts": ts(n * 7200), "user": "U1", "text": f"message {n}"} for n in range(7)]
    messages[3] |= {"thread_ts": ts(3 * 7200), "reply_count": 4}
    replies = [messages[3]] + [
        {"ts": ts(3 * 7200 + n), "thread_ts": ts(3 * 7200), "user": "U2", "text": f"reply {n}"}
        for n in range(1, 5)
    ]
    return Workspace(
        users=[{"id": f"U{n}", "name": f"user{n}", "real_name": f"User {n}"} for n in range(1, 6)],
        channels={
            "public_channel": [{"id": "C1", "name": "help"}, {"id": "C2", "name": "closed"}],
            "private_channel": [{"id": "G1", "name": "secret"}],
            "im": [{"id": "D1", "user": "U2"}],
            "mpim": [{"id": "G2", "name": "mpdm-a--b-1"}],
        },
        messages={
            "C1": messages,
            "G1": [{"ts": ts(1), "user": "U2", "text": "private"}],
            "D1": [{"ts": ts(2), "user": "U2", "text": "to you only"}],
            "G2": [{"ts": ts(3), "user": "U3", "text": "to a few"}],
        },
        replies={("C1", ts(3 * 7200)): replies},
    )


EVERYTHING = sorted(
    [f"message {n}" for n in range(7)]
    + [f"reply {n}" for n in range(1, 5)]
    + ["private", "to you only", "to a few"]
)


@pytest.fixture
def fake() -> Iterator[tuple[Workspace, str]]:
    made = workspace()
    with serving(made) as address:
        yield made, address


def texts(folder: Path) -> list[str]:
    """The text of every message in the folder's days."""
    days = [json.loads(day.read_text()) for day in folder.glob("*/*.json")]
    return sorted(message["text"] for day in days for message in day)


def test_every_kind_of_channel_with_its_threads(fake: tuple[Workspace, str], tmp_path: Path) -> None:
    made, address = fake
    client = SlackClient(TOKEN, address)
    pulled = pull(client, tmp_path, Wanted())
    assert texts(tmp_path) == EVERYTHING
    assert (pulled.channels, pulled.messages, pulled.users) == (5, 14, 5)
    assert [problem.detail for problem in pulled.problems] == [
        "slack:closed: conversations.history: not_in_channel"
    ]
    assert not (tmp_path / STATE).exists()
    assert len(made.calls) == len(set(made.calls))
    documents, broken, _ = records(tmp_path, format="slack")
    assert not broken
    thread = next(document for document in documents if document.metadata["threaded"])
    assert thread.text.startswith("User 1: message 3\n\nUser 2: reply 1\n\nUser 2: reply 2")
    assert {document.metadata["kind"] for document in documents} == {"public", "private", "dm", "group-dm"}


HOUR = 3600


def grown(made: Workspace) -> None:
    """An hour later there are one more message and a fifth reply in the thread."""
    made.calls.clear()
    messages, thread = made.messages["C1"], made.replies["C1", ts(6 * HOUR)]
    messages.append({"ts": ts(13 * HOUR), "user": "U3", "text": "message 7"})
    reply = {"ts": ts(13 * HOUR + 1), "thread_ts": ts(6 * HOUR), "user": "U2", "text": "reply 5"}
    thread.append(reply)
    thread[0] |= {"reply_count": 5, "latest_reply": reply["ts"]}


def asked(made: Workspace, method: str) -> list[str]:
    return [about for called, about, _ in made.calls if called == f"conversations.{method}"]


def test_a_further_pull_reads_only_threads_that_have_grown(
    fake: tuple[Workspace, str], tmp_path: Path
) -> None:
    made, address = fake
    made.messages["C1"][3]["latest_reply"] = ts(6 * HOUR + 4)
    client = SlackClient(TOKEN, address)
    assert pull(client, tmp_path, Wanted()).new == 14
    made.calls.clear()
    again = pull(client, tmp_path, Wanted())
    assert (again.messages, again.new, asked(made, "replies")) == (14, 0, [])
    assert texts(tmp_path) == EVERYTHING
    grown(made)
    made.messages["C1"][5]["text"] = "edited"
    del made.messages["C1"][4]
    assert pull(client, tmp_path, Wanted()).new == 2
    assert set(asked(made, "replies")) == {"C1" + ts(6 * HOUR)}
    changed = sorted({*EVERYTHING} - {"message 4", "message 5"} | {"edited", "message 7", "reply 5"})
    assert texts(tmp_path) == changed


def test_beyond_the_look_back_only_newer_messages_are_read(
    fake: tuple[Workspace, str], tmp_path: Path
) -> None:
    made, address = fake
    wanted = Wanted(kinds=("public",), channels=("help",), look_back=0)
    client = SlackClient(TOKEN, address)
    pull(client, tmp_path, wanted)
    grown(made)
    pull(client, tmp_path, wanted)
    kept = sorted(text for text in EVERYTHING if text.split()[0] in ("message", "reply"))
    assert texts(tmp_path) == sorted([*kept, "message 7"])  # the reply to an old thread is not told of
    assert (asked(made, "history"), asked(made, "replies")) == (["C1"], [])
    made.messages["C1"].append(
        made.replies["C1", ts(6 * HOUR)][-1] | {"ts": ts(14 * HOUR), "text": "to the channel too"}
    )
    made.replies["C1", ts(6 * HOUR)].append(made.messages["C1"][-1])
    pull(client, tmp_path, wanted)
    assert texts(tmp_path) == sorted([*kept, "message 7", "reply 5", "to the channel too"])
    made.calls.clear()
    pull(client, tmp_path, wanted)
    assert asked(made, "replies") == []


def test_a_channel_that_was_not_pulled_alike_is_read_whole(
    fake: tuple[Workspace, str], tmp_path: Path
) -> None:
    made, address = fake
    since = float(ts(4 * 7200))
    client = SlackClient(TOKEN, address)
    pull(client, tmp_path, Wanted(kinds=("public",), channels=("help",), since=since, look_back=0))
    made.messages["C2"] = [{"ts": ts(0), "user": "U1", "text": "the app was let in"}]
    pulled = pull(client, tmp_path, Wanted(look_back=0))
    assert texts(tmp_path) == sorted([*EVERYTHING, "the app was let in"])
    assert (pulled.new, pulled.problems) == (15, [])
    day = next((tmp_path / "help").glob("*.json"))
    day.write_text(day.read_text()[:-20])
    pull(client, tmp_path, Wanted(look_back=0))
    assert texts(tmp_path) == sorted([*EVERYTHING, "the app was let in"])


def test_what_is_refused_or_fails_is_asked_for_again(fake: tuple[Workspace, str], tmp_path: Path) -> None:
    made, address = fake
    made.trouble = [None, "429", "429", None, "500", None, "hang up", None, None, "503", "hang up", "429"]
    waits: list[float] = []
    client = SlackClient(TOKEN, address, wait=waits.append)
    pull(client, tmp_path, Wanted())
    assert texts(tmp_path) == EVERYTHING
    assert waits == [7, 7, 2, 2, 2, 4, 7]
    assert len(made.calls) == len(set(made.calls))


def test_a_pull_that_failed_goes_on(fake: tuple[Workspace, str], tmp_path: Path) -> None:
    made, address = fake
    made.trouble = [None] * 14 + ["500"] * 6
    client = SlackClient(TOKEN, address, wait=lambda _: None)
    with pytest.raises(DataError, match=r"no answer to .*: status 500") as caught:
        pull(client, tmp_path, Wanted())
    assert "goes on where it stopped" in (caught.value.hint or "")
    with pytest.raises(DataError, match="a pull of other channels"):
        pull(client, tmp_path, Wanted(kinds=("dm",)))
    assert len(made.calls) == 14
    pull(client, tmp_path, Wanted())
    assert texts(tmp_path) == EVERYTHING
    assert len(made.calls) == len(set(made.calls))


def test_a_pull_that_was_killed_goes_on(fake: tuple[Workspace, str], tmp_path: Path) -> None:
    made, address = fake
    made.hold_at = 15
    command = [sys.executable, "-m", "platen", "data", "slack", "--out", str(tmp_path / "slack")]
    environment = os.environ | {"SLACK_TOKEN": TOKEN, "SLACK_API_URL": address}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert made.held.wait(60)
    first.kill()
    said = b"".join(first.communicate())
    made.hold_at = None
    made.go_on.set()
    done = subprocess.run(command, env=environment, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0
    assert b"14 messages of 5 people in 5 channels" in done.stdout
    assert texts(tmp_path / "slack") == EVERYTHING
    assert len(made.calls) == len(set(made.calls))
    assert TOKEN.encode() not in said + done.stdout + done.stderr
    assert all(TOKEN.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_only_what_is_wanted(fake: tuple[Workspace, str], tmp_path: Path) -> None:
    _, address = fake
    since = float(ts(4 * 7200))
    client = SlackClient(TOKEN, address)
    pull(client, tmp_path / "a", Wanted(kinds=("public",), channels=("help",), since=since))
    assert texts(tmp_path / "a") == ["message 5", "message 6"]
    with pytest.raises(DataError, match="no channel nowhere"):
        pull(client, tmp_path / "b", Wanted(channels=("nowhere",)))


def test_refused_tokens_and_addresses(fake: tuple[Workspace, str], tmp_path: Path) -> None:
    _, address = fake
    with pytest.raises(DataError, match="invalid_auth"):
        pull(SlackClient("xoxp-wrong", address), tmp_path, Wanted())
    with pytest.raises(DataError, match="in the clear"):
        SlackClient(TOKEN, "http://slack.example.com/api")


def test_the_api_as_a_source(
    fake: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = fake
    monkeypatch.setenv("SLACK_TOKEN", TOKEN)
    monkeypatch.setenv("SLACK_API_URL", address)
    documents, [refused], left_out = records(
        tmp_path / "slack", format="slack-api", users=["User 2"], kinds=["public", "dm"]
    )
    assert refused.reason == "refused"
    assert [document.text for document in documents] == [
        "reply 1\n\nreply 2\n\nreply 3\n\nreply 4",
        "to you only",
    ]
    assert len(left_out) == 7
