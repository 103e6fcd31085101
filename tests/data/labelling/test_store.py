"""Judgements are on the disk when they are confirmed, and nothing but the page's own host is answered."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from platen.core.errors import DataError
from platen.data.labelling.app import create_label_app
from platen.data.labelling.items import Item, Judgement, task_set
from platen.data.labelling.store import LabelStore
from tests.data.labelling.running import labelling

LABELS = task_set("Test", "label", ("yes", "no"))


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    store = LabelStore(tmp_path / "labels.db")
    store.set_up(LABELS)
    store.add_items([Item(str(n), f"Text {n}", metadata={"page": n}) for n in range(3)])
    return store


@pytest.fixture
def client(store: LabelStore) -> TestClient:
    store.suggest({"0": "yes"})
    return TestClient(create_label_app(store, LABELS), base_url="http://localhost")


def test_the_last_judgement_counts_and_can_be_taken_back(store: LabelStore, tmp_path: Path) -> None:
    store.judge([Judgement("0", "ana", "yes"), Judgement("1", "ana", "no"), Judgement("0", "ben", "no")])
    store.judge([Judgement("0", "ana", "no"), Judgement("1", "ana", "")])
    store.close()
    again = LabelStore(tmp_path / "labels.db")
    assert [(one.item, one.annotator, one.value) for one in again.judgements()] == [
        ("0", "ben", "no"),
        ("0", "ana", "no"),
    ]
    assert all(one.time.endswith("+00:00") for one in again.judgements())
    assert again.tasks() == LABELS
    assert [item.metadata["page"] for item in again.items()] == [0, 1, 2]


def test_reading_a_file_again_adds_only_what_is_new(store: LabelStore) -> None:
    items = [Item("2", "changed"), Item("3", "Text 3")]
    assert store.add_items(items, [Judgement("2", "eve", "yes"), Judgement("3", "eve", "yes")]) == 1
    assert [item.text for item in store.items()] == ["Text 0", "Text 1", "Text 2", "Text 3"]
    assert [one.item for one in store.judgements()] == ["3"]


def test_a_file_asks_one_thing(store: LabelStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels of another task: label with yes, no"):
        store.set_up(task_set("Test", "compare"))
    (tmp_path / "text.db").write_text("no database at all, but long enough to look like one" * 10)
    with pytest.raises(DataError, match="can't be opened for labels"):
        LabelStore(tmp_path / "text.db")


def test_the_interface(client: TestClient) -> None:
    work = client.get("/api/items", params={"annotator": "ana"}).json()
    assert [(row["id"], row["suggestion"], row["value"]) for row in work["items"]] == [
        ("0", "yes", None),
        ("1", None, None),
        ("2", None, None),
    ]
    judged = {"item": "0", "annotator": "ana", "value": "yes"}
    assert client.post("/api/judgements", json=judged).json()["done"] == {"ana": 1}
    standing = client.post("/api/judgements", json=judged | {"annotator": "ben", "value": "no"}).json()
    assert (standing["shared_items"], standing["disagreed"], standing["pairs"][0]["kappa"]) == (1, 1, 0.0)
    rows = {name: client.get("/api/items", params={"annotator": name}).json()["items"][0] for name in "ac"}
    assert not rows["c"]["disagreed"]  # who has not judged yet is not told


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"item": "9", "annotator": "ana", "value": "yes"}, 404, "no item '9'"),
        ({"item": "0", "annotator": "ana", "value": "maybe"}, 400, "none of yes, no"),
        ({"item": "0", "annotator": " ", "value": "yes"}, 400, "annotator"),
        ({"item": "0", "annotator": "ana"}, 400, "value"),
    ],
)
def test_refusals_are_error_objects(client: TestClient, body: dict[str, str], status: int, says: str) -> None:
    answer = client.post("/api/judgements", json=body)
    assert answer.status_code == status
    assert says in json.dumps(answer.json()["error"])


def test_other_pages_and_names_are_refused(client: TestClient) -> None:
    elsewhere = {"origin": "https://elsewhere.example"}
    body = {"item": "0", "annotator": "ana", "value": "yes"}
    assert client.post("/api/judgements", json=body, headers=elsewhere).status_code == 403
    assert client.get("/api/set", headers={"host": "elsewhere.example"}).status_code == 403


@pytest.mark.slow
def test_twenty_kills_lose_no_confirmed_judgement(tmp_path: Path) -> None:
    """Two annotators write as fast as they can while the server is killed again and again."""
    items = [json.dumps({"id": str(n), "text": f"Text {n}"}) for n in range(4000)]
    (tmp_path / "m.jsonl").write_text("\n".join(items))
    with labelling(tmp_path, "m.jsonl") as server:
        for kill in range(20):
            confirmed: dict[str, list[str]] = {"ana": [], "ben": []}

            def work(name: str, seen: list[str], kill: int = kill) -> None:
                with httpx.Client(base_url=server.url) as client:
                    for number in range(200 * kill, 200 * kill + 200):
                        body = {"item": str(number), "annotator": name, "value": "question"}
                        try:
                            client.post("/api/judgements", json=body).raise_for_status()
                        except httpx.TransportError:
                            return
                        seen.append(str(number))
                        if len(seen) == 20 + kill and name == "ana":
                            server.kill()

            threads = [threading.Thread(target=work, args=pair) for pair in confirmed.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            store = LabelStore(tmp_path / "labels.db")
            there = {(one.annotator, one.item) for one in store.judgements()}
            store.close()
            assert len(confirmed["ana"]) == 20 + kill
            assert there >= {(name, item) for name, seen in confirmed.items() for item in seen}
            server.start()
