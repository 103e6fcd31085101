"""The page for labelling and its small HTTP interface, on this machine only.

`GET /api/set` says what is asked, `GET /api/items` gives what an annotator has to do and has done, and
`POST /api/judgements` answers only when the judgement is on the disk. Agreement comes with every answer.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from platen.data.labelling.agreement import agreement, ratings_of
from platen.data.labelling.items import Judgement, TaskSet
from platen.data.labelling.store import LabelStore
from platen.web.errors import ApiError, install_handlers
from platen.web.origin_guard import Guard
from platen.web.server_state import ServerState

STATIC = Path(__file__).parent / "static"
MAX_BODY_BYTES = 2**20
Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^\S(.*\S)?$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JudgementBody(_Body):
    """What the page sends. An empty value takes the annotator's last judgement of the item back."""

    item: str
    annotator: Name
    value: str
    text: str = ""


class Standing(BaseModel):
    """How far everyone is and how far they agree; figures that can't be told are null."""

    total: int
    done: dict[str, int]
    alpha: float | None
    shared_items: int
    pairs: list[dict[str, Any]]
    disagreed: int


class Work(BaseModel):
    """All items in order, and for one annotator which are judged how."""

    items: list[dict[str, Any]]
    standing: Standing


def create_label_app(store: LabelStore, tasks: TaskSet) -> FastAPI:
    """The application; it asks for no name but the annotator's own, for it answers only on loopback names."""
    app = FastAPI(title="Platen labelling", docs_url=None, redoc_url=None)
    install_handlers(app)
    app.add_middleware(Guard, state=ServerState(), allow_any_host=False, max_body_bytes=MAX_BODY_BYTES)
    values = {choice.value for choice in tasks.choices}
    items = {item.id: item for item in store.items()}
    suggestions = store.suggestions()

    def standing() -> Standing:
        return _standing(store, len(items))

    @app.get("/api/set")
    def describe() -> dict[str, Any]:
        return asdict(tasks)

    @app.get("/api/items")
    def work(annotator: Annotated[str, Query(min_length=1, max_length=60)]) -> Work:
        judged: dict[str, dict[str, Judgement]] = {}
        for one in store.judgements():
            judged.setdefault(one.item, {})[one.annotator] = one
        rows = []
        for item in items.values():
            others = judged.get(item.id, {})
            mine = others.get(annotator)
            rows.append(
                {
                    "id": item.id,
                    "text": item.text,
                    "answers": item.answers,
                    "suggestion": suggestions.get(item.id),
                    "value": mine.value if mine else None,
                    "correction": mine.text if mine else "",
                    # Only after one's own: what others said would lead.
                    "disagreed": mine is not None and len({one.value for one in others.values()}) > 1,
                }
            )
        return Work(items=rows, standing=standing())

    @app.post("/api/judgements")
    def judge(body: JudgementBody) -> Standing:
        if body.item not in items:
            raise ApiError(404, f"There is no item '{body.item}'.", param="item")
        if body.value and body.value not in values:
            raise ApiError(
                400, f"'{body.value}' is none of {', '.join(c.value for c in tasks.choices)}.", param="value"
            )
        if body.value == "correct" and tasks.task == "review" and not body.text.strip():
            raise ApiError(400, "A correction needs its text.", param="text")
        store.judge([Judgement(body.item, body.annotator, body.value, body.text)])
        return standing()

    @app.get("/api/standing")
    def how_far() -> Standing:
        return standing()

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "label.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _standing(store: LabelStore, total: int) -> Standing:
    judgements = store.judgements()
    done: dict[str, int] = {}
    for one in judgements:
        done[one.annotator] = done.get(one.annotator, 0) + 1
    found = agreement(ratings_of(judgements))
    return Standing(
        total=total,
        done=dict(sorted(done.items())),
        alpha=found.alpha,
        shared_items=found.shared_items,
        pairs=[asdict(pair) for pair in found.pairs],
        disagreed=len(found.disagreed),
    )
