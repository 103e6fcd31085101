"""The HTML reports on a desk and on a phone: nothing sticks out, nothing is too small to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from platen.core.stage import StageContext
from platen.data.config import DataConfig
from platen.data.prepare import prepare
from platen.loadtest.load import Load, Run
from platen.loadtest.load_report import Measured, Report, write_report
from platen.loadtest.records import Record, Slo, summarize
from tests.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def data_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of blocks with long names, of which some change and some remove documents."""
    folder = tmp_path_factory.mktemp("data")
    texts = [f"The nurse asked number {n}, and she wrote to jane{n}@example.org. " * 6 for n in range(12)]
    rows = (json.dumps({"text": text}) + "\n" for text in [*texts, texts[0].upper(), "A vile worm."])
    (folder / "corpus.jsonl").write_text("".join(rows))
    (folder / "words.txt").write_text("vile worm")
    blocks = [{"block": "exact_duplicates"}, {"block": "toxicity", "words": "words.txt"}, {"block": "pii"}]
    config = DataConfig.model_validate({"sources": [{"path": "corpus.jsonl"}], "filters": {"blocks": blocks}})
    (folder / "out").mkdir()
    prepare(StageContext("data", "0" * 16, config, {}, folder / "out", project_dir=folder, seed=1))
    return folder / "out" / "data_report.html"


@pytest.fixture(scope="module")
def load_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a sweep over three numbers of users, with figures as wide as they come."""
    slo, measured = Slo(ttft=0.3, e2e=0.9), []
    for users in (8, 64, 512):
        records = [
            Record(
                scheduled=at / 7000,
                sent=at / 7000,
                ended=at / 7000 + 12.5,
                pieces=[at / 7000 + 0.1, at / 7000 + 12.5],
                outcome="ok",
                prompt_tokens=900,
                output_tokens=40,
            )
            for at in range(1200)
        ]
        measured.append(Measured(Run(Load(users=users), records), summarize(records, slo)))
    report = Report(
        "http://127.0.0.1:8000", "m", "chat", "made up", "2026-01-02T03:04:05", slo, tuple(measured), True
    )
    return write_report(report, tmp_path_factory.mktemp("load") / "report")


MEASURE = """() => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const texts = [...document.querySelectorAll("td, th, li, summary, p, svg text")]
    .filter((one) => one.textContent.trim() && one.getClientRects().length);
  const those = (what) => texts.filter(what).map((one) => one.textContent);
  const scale = (one) => one.ownerSVGElement ? one.getScreenCTM().a : 1;
  return {
    width: document.documentElement.scrollWidth,
    outside: those((one) => one.getBoundingClientRect().right > innerWidth),
    cut: those((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth),
    small: those((one) => parseFloat(getComputedStyle(one).fontSize) * scale(one) < 11),
  };
}"""


@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("report", ["data_report", "load_report"])
def test_a_report_fits_the_screen(
    browser: Browser, request: pytest.FixtureRequest, report: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    try:
        page = context.new_page()
        page.goto(request.getfixturevalue(report).as_uri())
        found = page.evaluate(MEASURE)
    finally:
        context.close()
    assert found == {"width": width, "outside": [], "cut": [], "small": []}
