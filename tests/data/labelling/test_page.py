"""The labelling page in a real browser: two annotators, a server killed in the middle, agreement by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from platen.data.labelling.agreement import agreement, ratings_of
from platen.data.labelling.store import LabelStore
from tests.browser import chromium
from tests.data.labelling.running import labelling

expect.set_options(timeout=15_000)

# What ana and ben say of fifty items, in pairs: 40 alike, so observed agreement is 0.8.
PAIRS = [
    *[("question", "question")] * 16,
    *[("question", "directive")] * 4,
    *[("directive", "directive")] * 15,
    *[("directive", "question")] * 3,
    *[("directive", "representative")] * 2,
    *[("representative", "representative")] * 9,
    *[("representative", "directive")] * 1,
]
KEYS = {"directive": "3", "question": "6", "representative": "7"}
# Cohen: ana says 20, 20, 10 and ben 19, 20, 11, so chance gives (380 + 400 + 110) / 2500 = 0.356, and
# kappa is (0.8 - 0.356) / (1 - 0.356) = 0.6894.
KAPPA = "0.689"
# Krippendorff: of 100 values 39, 40 and 21, so 100² - 39² - 40² - 21² = 6438, and 10 of 50 items differ:
# alpha is 1 - 99 · 20 / 6438 = 0.6925.
ALPHA = "0.692"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def write_messages(folder: Path, count: int) -> None:
    lines = [json.dumps({"id": f"m{n}", "text": f"Message number {n}."}) for n in range(count)]
    (folder / "messages.jsonl").write_text("\n".join(lines) + "\n")


def enter(browser: Browser, url: str, name: str) -> tuple[Page, list[str]]:
    """A fresh profile's page after its annotator has said who they are, and what the browser complains of."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(10_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#work")).to_be_visible()
    return page, complaints


@pytest.mark.parametrize(
    "on_the_page", [("ben",), pytest.param(("ana", "ben"), marks=pytest.mark.slow)], ids="+".join
)
def test_fifty_items_two_annotators_and_a_kill(
    browser: Browser, tmp_path: Path, on_the_page: tuple[str, ...]
) -> None:
    write_messages(tmp_path, len(PAIRS))
    with labelling(tmp_path, "messages.jsonl") as server:
        for who, name in enumerate(("ana", "ben")):
            if name not in on_the_page:
                post_all(server.url, name, [pair[who] for pair in PAIRS])
                continue
            page, complaints = enter(browser, server.url, name)
            for number, pair in enumerate(PAIRS):
                expect(page.locator("#text")).to_have_text(f"Message number {number}.")
                killed = (who, number) == (1, 25)
                if killed:
                    server.kill()
                page.keyboard.press(KEYS[pair[who]])
                if killed:
                    expect(page.get_by_role("alert")).to_contain_text("Not saved yet")
                    server.start()
            expect(page.locator("#finished")).to_contain_text("All done.")
            assert complaints == []
        expect(page.locator("#alpha")).to_have_text(ALPHA)
        expect(page.locator("#pairs")).to_contain_text("50 items, 80% alike")
        expect(page.locator("#pairs td").last).to_have_text(KAPPA)
        expect(page.locator("#disagreed")).to_have_text("10")
        assert server.interrupt() == (0, "")
    store = LabelStore(tmp_path / "labels.db")
    said = {(one.item, one.annotator): one.value for one in store.judgements()}
    found = agreement(ratings_of(store.judgements()))
    store.close()
    assert said == {
        (f"m{n}", name): pair[who] for n, pair in enumerate(PAIRS) for who, name in enumerate(("ana", "ben"))
    }
    assert found.alpha == pytest.approx(1 - 99 * 20 / 6438, abs=1e-12)
    assert found.pairs[0].kappa == pytest.approx((0.8 - 0.356) / (1 - 0.356), abs=1e-12)


def post_all(url: str, name: str, values: list[str]) -> None:
    """The same judgements without a browser, which is quicker."""
    with httpx.Client(base_url=url) as client:
        for number, value in enumerate(values):
            body = {"item": f"m{number}", "annotator": name, "value": value}
            client.post("/api/judgements", json=body).raise_for_status()


def test_reviewing_with_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"Question {n}?", "answer": f"Answer {n}."}) for n in range(4)]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    with labelling(tmp_path, "answers.jsonl", "--task", "review", "--db", "a.db") as server:
        page, complaints = enter(browser, server.url, "ana")
        page.keyboard.press("a")
        expect(page.locator("#text")).to_have_text("Question 1?")
        page.keyboard.press("e")
        page.get_by_label("A better answer").fill("A better one.")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#text")).to_have_text("Question 2?")
        page.keyboard.press("r")
        expect(page.locator("#text")).to_have_text("Question 3?")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#state")).to_have_text("done")
        page.keyboard.press("u")  # takes the rejection back
        expect(page.locator("#state")).to_have_text("")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#answers")).to_contain_text("A better one.")
        assert complaints == []
    store = LabelStore(tmp_path / "a.db")
    said = [(one.item, one.value, one.text) for one in store.judgements()]
    store.close()
    assert said == [("answers-1", "accept", ""), ("answers-2", "correct", "A better one.")]
