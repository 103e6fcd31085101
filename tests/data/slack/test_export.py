"""A Slack export from its ZIP to conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from platen.data.readers.config import ReadLimits
from platen.data.slack.markup import plain_text
from tests.data.readers.making import archive, records

USERS = [
    {"id": "U1", "name": "anna", "profile": {"display_name": "Anna", "real_name": "Anna Berg"}},
    {"id": "U2", "name": "ben", "real_name": "Ben Cole", "profile": {}},
    {"id": "U3", "name": "robot", "is_bot": True},
]
T = 1_767_225_600


def said(second: int, user: str, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "ts": f"{T + second}.000000", "user": user, "text": text, **more}


def write(path: Path, days: dict[str, Any], **lists: Any) -> Path:
    files: dict[str, str | bytes] = {"users.json": json.dumps(USERS)}
    files |= {f"{name}.json": json.dumps(entries) for name, entries in lists.items()}
    files |= {name: day if isinstance(day, str | bytes) else json.dumps(day) for name, day in days.items()}
    path.write_bytes(archive(files))
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    root = f"{T}.000000"
    return write(
        tmp_path / "export.zip",
        {
            "general/2026-01-01.json": [
                said(0, "U1", "Who can <@U2|x> help?", thread_ts=root, reply_count=2),
                said(5, "U3", "Beep.", subtype="bot_message", bot_id="B1"),
                said(6, "U2", "<@U2> has joined the channel", subtype="channel_join"),
                said(60, "U2", "I &amp; Anna, see <https://x.org/a|this>", thread_ts=root),
                said(100, "U2", "Lunch?"),
                said(200, "U1", "Yes."),
                said(300, "U1", "", files=[{}]),
            ],
            "general/2026-01-02.json": [
                said(86_400, "U1", "Thanks!", thread_ts=root, subtype="thread_broadcast"),
                said(86_500, "U2", "Morning."),
            ],
            "D1/2026-01-01.json": [said(0, "U2", "Just us.")],
            "secret/2026-01-01.json": [said(0, "U9", "Hidden.", user_profile={"real_name": "Guest"})],
            "mpdm-x/2026-01-01.json": [said(0, "U1", "Us four.")],
        },
        channels=[{"id": "C1", "name": "general"}],
        groups=[{"id": "G1", "name": "secret"}],
        dms=[{"id": "D1", "members": ["U1", "U2"]}],
        mpims=[{"id": "G2", "name": "mpdm-x"}],
    )


def test_conversations(export: Path) -> None:
    documents, broken, left_out = records(export)
    assert not broken
    by_kind: dict[str, list[str]] = {}
    for document in documents:
        by_kind.setdefault(document.metadata["kind"], []).append(document.text)
    assert by_kind == {
        "public": [
            "Anna: Who can @Ben Cole help?\n\nBen Cole: I & Anna, see this (https://x.org/a)\n\n"
            "Anna: Thanks!",
            "Ben Cole: Lunch?\n\nAnna: Yes.",
            "Ben Cole: Morning.",
        ],
        "private": ["Guest: Hidden."],
        "dm": ["Ben Cole: Just us."],
        "group-dm": ["Anna: Us four."],
    }
    assert sorted(record.reason for record in left_out) == ["bot", "join or leave", "message without text"]
    thread = documents[0]
    assert thread.id == f"export.zip:general/{T}.000000"
    assert thread.metadata["started"] == "2026-01-01T00:00:00+00:00"
    assert thread.metadata["conversation"][1] == {
        "user": "U2",
        "speaker": "Ben Cole",
        "ts": f"{T + 60}.000000",
        "text": "I & Anna, see this (https://x.org/a)",
    }
    assert next(d for d in documents if d.metadata["kind"] == "dm").metadata["channel"] == "Anna, Ben Cole"


def test_only_chosen_people_channels_and_kinds(export: Path) -> None:
    documents, _, left_out = records(export, users=["@anna"], kinds=["public"], channels=["#general"])
    assert [document.text for document in documents] == ["Who can @Ben Cole help?\n\nThanks!", "Yes."]
    assert not any("I & Anna" in json.dumps(document.metadata) for document in documents)
    assert [record.reason for record in left_out].count("someone else's message") == 3
    _, [nobody], _ = records(export, users=["carl"])
    assert "nobody in users.json is called carl" in nobody.detail
    _, [nowhere], _ = records(export, channels=["random"])
    assert "no channel random" in nowhere.detail


def test_broken_days_do_not_hide_others(tmp_path: Path) -> None:
    path = write(
        tmp_path / "export.zip",
        {
            "general/2026-01-01.json": json.dumps([said(0, "U1", "One.")])[:-1],
            "general/2026-01-02.json": [said(90_000, "U1", "Two."), {"ts": "soon", "text": "x"}, 3],
            "general/2026-01-03.json": "[" + " " * 3_000_000 + "]",
        },
        channels=[{"id": "C1", "name": "general"}],
    )
    documents, broken, _ = records(path)
    assert [document.text for document in documents] == ["Anna: One.", "Anna: Two."]
    assert [record.reason for record in broken] == ["malformed", "no-message", "no-message", "expansion"]
    assert broken[1].place == "export.zip:general/2026-01-02.json, message 2"


def test_what_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive({"readme.txt": "x"}))
    _, [broken], _ = records(tmp_path / "a.zip")
    assert "no Slack export" in broken.detail
    whole = write(tmp_path / "b.zip", {}, channels=[]).read_bytes()
    (tmp_path / "c.zip").write_bytes(whole[: len(whole) // 2])
    _, [broken], _ = records(tmp_path / "c.zip")
    assert "no ZIP archive" in broken.detail
    bomb = archive({"users.json": b"[" + b" " * 20_000_000 + b"]", "channels.json": "[]"})
    (tmp_path / "d.zip").write_bytes(bomb)
    _, [broken], _ = records(tmp_path / "d.zip", limits=ReadLimits())
    assert "unpacks to more than 200 times its size" in broken.detail


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("<@U1> and <@U8> and <@U8|eve>", "@Anna and @U8 and @eve"),
        ("<#C1> <#C1|old> <#C9>", "#general #old #C9"),
        ("<!here> <!subteam^S1|@desk> <!subteam^S1> <!date^1^{date}|May 1>", "@here @desk @subteam May 1"),
        ("<https://a.b/c?d=1&amp;e=2>", "https://a.b/c?d=1&e=2"),
        ("<mailto:a@b.c|a@b.c> <tel:+1|call>", "a@b.c call (+1)"),
        ("1 &lt; 2 &amp;&amp; 3 &gt; 2, &amp;lt; stays", "1 < 2 && 3 > 2, &lt; stays"),
        ("a <b", "a <b"),
    ],
)
def test_markup(markup: str, plain: str) -> None:
    assert plain_text(markup, {"U1": "Anna"}, {"C1": "general"}) == plain
