"""Makes export.zip, a Slack-shaped export of an IT help desk that never was: the same one for the same seed.

    python make_export.py [--threads 600] [--seed 7] [--out export.zip]

How: thirty made-up people ask about eight kinds of problems (made_up.json) in #help-desk, a private channel,
direct messages and a group's. Each has several ways to ask, a question back, an answer and thanks; things,
places and numbers are filled in by chance. Threads may go over days, some are never answered. Between them
people chat and join, and a bot reports, as in any workspace. 600 threads are 2,877 messages.
"""

from __future__ import annotations

import argparse
import json
import random
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MADE_UP = json.loads(Path(__file__).with_name("made_up.json").read_text(encoding="utf-8"))
"""Names, places, things, and problems: how each is asked, asked back and answered, with {thing} and so on."""
START = datetime(2026, 1, 5, 8, tzinfo=UTC)

THANKS = [
    "Thanks, that did it!",
    "Works now, thank you.",
    "Great, solved in {number} minutes.",
    "Perfect :pray:",
]
CHAT = ["Lunch at {hour}?", "Cake in {place}!", "Who parked in spot {number}?", "Good morning all."]


@dataclass
class Workspace:
    """What is being made: messages by folder and day."""

    chance: random.Random
    people: list[dict[str, Any]]
    desk: list[dict[str, Any]]
    days: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    used: set[str] = field(default_factory=set)

    def say(self, folder: str, at: float, user: str, text: str, **more: Any) -> str:
        """Add a message; its time stamp, which is unique."""
        ts = f"{at:.6f}"
        while ts in self.used:
            at += 0.001
            ts = f"{at:.6f}"
        self.used.add(ts)
        day = datetime.fromtimestamp(at, UTC).date().isoformat()
        self.days[folder, day].append({"type": "message", "user": user, "ts": ts, "text": text, **more})
        return ts

    def some(self) -> dict[str, Any]:
        """What may be filled into a text, by chance."""
        thing, place = (self.chance.choice(MADE_UP[kind]) for kind in ("things", "places"))
        number = self.chance.randrange(2, 1000)
        day, hour = 4 + number % 17, 2 + number % 10
        return {"thing": thing, "place": place, "number": number, "error": number, "day": day, "hour": hour}


def thread(made: Workspace, folder: str, at: float) -> None:
    """A question, and most times an answer, with the turns between."""
    chance = made.chance
    problem = chance.choice(MADE_UP["problems"])
    asker, helper = chance.choice(made.people)["id"], chance.choice(made.desk)["id"]
    mention = f"<@{helper}> " if chance.random() < 0.2 else ""
    ask, asked = chance.choice(problem["ask"]), made.some()
    root = made.say(folder, at, asker, mention + ask.format(**asked))
    about = {key: asked[key] for key in ("thing", "place", "error")}  # who answers speaks of the same ones
    turns: list[tuple[str, str]] = []
    if chance.random() < 0.6:
        turns += [
            (helper, problem["ask_back"]),
            (asker, chance.choice(["Yes.", "No, it is not.", "I think so, {number} maybe."])),
        ]
    if chance.random() < 0.93:
        turns.append((helper, chance.choice(problem["answer"])))
        turns.append((asker, chance.choice(THANKS)))
        if chance.random() < 0.4:
            turns.append((helper, f"You're welcome, <@{asker}>. See also <#C01DESK|help-desk>."))
    for user, text in turns:
        at += chance.choice([40, 300, 2_000, 60_000]) * (0.5 + chance.random())
        made.say(folder, at, user, text.format(**made.some() | about), thread_ts=root)


def workspace(threads: int, seed: int) -> Workspace:
    chance = random.Random(seed)
    names = [
        f"{chance.choice(MADE_UP['first_names'])} {last}" for last in MADE_UP["last_names"] for _ in range(2)
    ]
    people = [
        {
            "id": f"U{number:03}",
            "name": f"{name.split()[0].lower()}{number}",
            "real_name": name,
            "profile": {"display_name": name if number % 3 else "", "real_name": name},
            "is_bot": False,
        }
        for number, name in enumerate(names)
    ]
    made = Workspace(chance, people[4:], people[:4])
    at = START.timestamp()
    for _ in range(threads):
        at += chance.expovariate(1 / 3600)
        thread(made, chance.choice(["help-desk"] * 7 + ["help-finance", "D01", "mpdm-ada--ben-1"]), at)
        person = chance.choice(people)["id"]
        if chance.random() < 0.15:
            made.say("random", at + 60, person, chance.choice(CHAT).format(**made.some()))
        if chance.random() < 0.1:
            made.say(
                "help-desk", at + 90, person, f"<@{person}> has joined the channel", subtype="channel_join"
            )
        if chance.random() < 0.1:
            made.say(
                "help-desk", at + 95, "U999", "Ticket {number} is open.".format(**made.some()), bot_id="B1"
            )
    return made


def write(made: Workspace, out: Path) -> int:
    """Write the ZIP; how many messages it holds."""
    bot = {"id": "U999", "name": "ticketbot", "real_name": "Ticket Bot", "is_bot": True}
    lists: dict[str, list[dict[str, Any]]] = {
        "users.json": [*made.desk, *made.people, bot],
        "channels.json": [{"id": "C01DESK", "name": "help-desk"}, {"id": "C02RAND", "name": "random"}],
        "groups.json": [{"id": "G01FIN", "name": "help-finance"}],
        "dms.json": [{"id": "D01", "members": ["U000", "U007"]}],
        "mpims.json": [{"id": "G02MANY", "name": "mpdm-ada--ben-1"}],
    }
    files = lists | {
        f"{folder}/{day}.json": messages for (folder, day), messages in sorted(made.days.items())
    }
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))  # the same bytes each time
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, json.dumps(content, ensure_ascii=False, indent=1))
    return sum(len(messages) for messages in made.days.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("export.zip"))
    arguments = parser.parse_args()
    count = write(workspace(arguments.threads, arguments.seed), arguments.out)
    print(f"{count} messages: {arguments.out}")


if __name__ == "__main__":
    main()
