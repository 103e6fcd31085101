"""Items and judgements from files and back: plain JSON lines, instruction sets, doccano's and Label Studio's
forms.

Reading gives items with the judgements that came with them; all three exports can be read again. A record
that is no item is an error with its place: a set to be labelled is small and somebody is there to mend it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from platen.core.errors import DataError
from platen.core.wording import counted
from platen.data.labelling.items import Item, Judgement, Task, TaskSet

Format = Literal["jsonl", "doccano", "label-studio"]
FORMATS: tuple[Format, ...] = get_args(Format)
UNKNOWN_ANNOTATOR = "imported"
_CORRECTION = "correction"
_PAIRWISE = {"left": "first", "right": "second"}


@dataclass(frozen=True)
class Imported:
    """What a file holds."""

    items: tuple[Item, ...]
    judgements: tuple[Judgement, ...]


def read_items(file: Path, task: Task) -> Imported:
    """Read any of the forms; which one is told by the records. Raises DataError with the place.

    An instruction set gives one item an example: the prompt with its answer, or for the task `label` the last
    thing the user said.
    """
    records = _records(file)
    items: list[Item] = []
    judgements: list[Judgement] = []
    for number, record in enumerate(records, start=1):
        try:
            item, judged = _read_record(record, f"{file.stem}-{number}", task)
            _check(item, task)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            said = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{file}, record {number}: {said}",
                hint='Write lines such as {"text": "…"}, with "answer" to review or "answers" to compare.',
            ) from None
        items.append(item)
        judgements += judged
    if not items:
        raise DataError(f"{file} holds nothing to label", hint="Give a file with one record a line.")
    twice = len(items) - len({item.id for item in items})
    if twice:
        raise DataError(
            f"{file}: {counted(twice, 'record')} with the id of another",
            hint="Give each its own id, or none.",
        )
    return Imported(tuple(items), tuple(judgements))


def write_items(
    format: Format,
    tasks: TaskSet,
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    settled: Mapping[str, str],
) -> str:
    """The text of an export. `settled` has the value of each item that annotators decided.

    `jsonl` has one line a judged item: its settled `label` (absent after a tie), the correction where one was
    settled on, and every annotator's value. doccano's form has one line an item and annotator.
    """
    said: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        said.setdefault(judgement.item, []).append(judgement)
    writers: Mapping[Format, Callable[..., str]] = {
        "jsonl": _write_jsonl,
        "doccano": _write_doccano,
        "label-studio": _write_label_studio,
    }
    return writers[format](tasks, items, said, settled)


# -- reading ----------------------------------------------------------------------------------------


def _records(file: Path) -> list[Any]:
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix.lower() == ".json":
            whole = json.loads(text)
            return whole if isinstance(whole, list) else [whole]
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read: {error}", hint="Give JSON lines, or a .json list.") from None


def _read_record(record: Any, default_id: str, task: Task) -> tuple[Item, list[Judgement]]:
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if isinstance(record.get("data"), dict):
        return _from_label_studio(record, default_id)
    if "messages" in record:
        return _from_example(record, default_id, task), []
    return _from_plain(record, default_id)


def _from_plain(record: Mapping[str, Any], default_id: str) -> tuple[Item, list[Judgement]]:
    """Our own lines, which are doccano's with more keys: `label` is a text or a list, `annotator` its
    author.
    """
    own = {
        "id",
        "text",
        "answer",
        "answers",
        "label",
        "labels",
        "annotator",
        "judgements",
        "metadata",
        "correction",
    }
    answers = record.get("answers", [record["answer"]] if "answer" in record else [])
    metadata = dict(record.get("metadata") or {}) | {
        key: value for key, value in record.items() if key not in own
    }
    item = Item(
        str(record.get("id", default_id)), _text(record["text"]), tuple(map(_text, answers)), metadata
    )
    if "judgements" in record:
        return item, [
            Judgement(
                item.id, str(one["annotator"]), str(one["value"]), str(one.get("text", "")), str(one["time"])
            )
            for one in record["judgements"]
        ]
    label = record.get("label", record.get("labels"))
    values = label if isinstance(label, list) else [label] if label else []
    if any(isinstance(value, list) for value in values):
        raise ValueError("labels of spans, which this page does not have")
    if len(values) > 1:
        raise ValueError(f"{len(values)} labels, where one is asked for")
    annotator, text = str(record.get("annotator", UNKNOWN_ANNOTATOR)), str(record.get("correction", ""))
    return item, [Judgement(item.id, annotator, _text(value), text) for value in values]


def _from_example(record: Mapping[str, Any], default_id: str, task: Task) -> Item:
    """An example of an instruction set."""
    turns = [(str(message["role"]), _text(message["content"])) for message in record["messages"]]
    id = str(record.get("id", default_id))
    if task == "label":
        asked = [content for role, content in turns if role == "user"]
        return Item(id, asked[-1], (), {"source": record.get("source", "")})
    *before, (_, answer) = turns
    prompt = (
        before[0][1] if len(before) == 1 else "\n\n".join(f"{role}: {content}" for role, content in before)
    )
    return Item(id, prompt, (answer,), {"source": record.get("source", "")})


def _from_label_studio(task: Mapping[str, Any], default_id: str) -> tuple[Item, list[Judgement]]:
    data = dict(task["data"])
    text, answers = _text(data.pop("text")), data.pop("answers", None)
    if answers is None:
        answers = [data.pop(key) for key in ("answer", "answer_1", "answer_2") if key in data]
    id = str(data.pop("id", task.get("id", default_id)))
    item = Item(id, text, tuple(map(_text, answers)), data)
    judgements = []
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        value, correction, author = "", "", ""
        for result in annotation.get("result") or ():
            given = result["value"]
            if "choices" in given:
                value = _text(given["choices"][0])
            elif "selected" in given:
                value = _PAIRWISE[given["selected"]]
            elif "text" in given:
                correction = (
                    "\n".join(given["text"]) if isinstance(given["text"], list) else _text(given["text"])
                )
            author = next(iter((result.get("meta") or {}).get("annotator") or ()), author)
        if value:
            by = author or _author(annotation.get("completed_by"))
            judgements.append(Judgement(id, by, value, correction, str(annotation.get("created_at") or "")))
    return item, judgements


def _author(completed_by: object) -> str:
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id") or UNKNOWN_ANNOTATOR)
    return UNKNOWN_ANNOTATOR if completed_by is None else f"user {completed_by}"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"found {json.dumps(value)[:60]} where a text should be")
    return value


def _check(item: Item, task: Task) -> None:
    needed = {"label": 0, "review": 1, "compare": 2}[task]
    if len(item.answers) != needed and not (task == "label" and item.answers):
        raise ValueError(f"{len(item.answers)} answers, where the task {task} needs {needed}")


# -- writing ----------------------------------------------------------------------------------------

_Said = Mapping[str, list[Judgement]]


def _write_jsonl(tasks: TaskSet, items: Sequence[Item], said: _Said, settled: Mapping[str, str]) -> str:
    lines = []
    for item in items:
        if item.id not in said:
            continue
        record = _plain(item)
        if item.id in settled:
            record["label"] = settled[item.id]
        if (corrected := _correction(said[item.id], settled.get(item.id))) is not None:
            record[_CORRECTION] = corrected
        record["judgements"] = [
            {"annotator": one.annotator, "value": one.value, "text": one.text, "time": one.time}
            for one in said[item.id]
        ]
        lines.append(record)
    return _lines(lines)


def _write_doccano(tasks: TaskSet, items: Sequence[Item], said: _Said, settled: Mapping[str, str]) -> str:
    return _lines(
        _plain(item)
        | {"label": [one.value], "annotator": one.annotator}
        | ({_CORRECTION: one.text} if one.text else {})
        for item in items
        for one in said.get(item.id, ())
    )


def _write_label_studio(
    tasks: TaskSet, items: Sequence[Item], said: _Said, settled: Mapping[str, str]
) -> str:
    """Tasks with annotations.

    Who made one stands in its results' `meta`: Label Studio refuses unknown users.
    """
    exported = []
    for item in items:
        data: dict[str, Any] = {"id": item.id, "text": item.text, **item.metadata}
        data |= {"answer": item.answers[0]} if len(item.answers) == 1 else {}
        data |= {"answer_1": item.answers[0], "answer_2": item.answers[1]} if len(item.answers) == 2 else {}
        annotations = [
            {"result": _results(one), "created_at": one.time, "was_cancelled": False}
            for one in said.get(item.id, ())
        ]
        exported.append({"data": data, "annotations": annotations})
    return json.dumps(exported, indent=2, ensure_ascii=False) + "\n"


def _results(one: Judgement) -> list[dict[str, Any]]:
    by = {"to_name": "text", "meta": {"annotator": [one.annotator]}}
    choice = {"from_name": "label", "type": "choices", "value": {"choices": [one.value]}} | by
    if not one.text:
        return [choice]
    return [choice, {"from_name": _CORRECTION, "type": "textarea", "value": {"text": [one.text]}} | by]


def label_studio_config(tasks: TaskSet) -> str:
    """The labelling interface that goes with the export, to paste into a Label Studio project."""
    from xml.sax.saxutils import quoteattr

    shown = {"label": ("text",), "review": ("text", "answer"), "compare": ("text", "answer_1", "answer_2")}[
        tasks.task
    ]
    lines = [f'  <Text name="{name}" value="${name}"/>' for name in shown]
    lines += ['  <Choices name="label" toName="text" choice="single">']
    lines += [f"    <Choice value={quoteattr(choice.value)}/>" for choice in tasks.choices]
    lines += ["  </Choices>"]
    if tasks.task == "review":
        lines.append(f'  <TextArea name="{_CORRECTION}" toName="text" editable="true" maxSubmissions="1"/>')
    return "\n".join(["<View>", *lines, "</View>", ""])


def _plain(item: Item) -> dict[str, Any]:
    record: dict[str, Any] = {"id": item.id, "text": item.text}
    if len(item.answers) == 1:
        record["answer"] = item.answers[0]
    elif item.answers:
        record["answers"] = list(item.answers)
    return record | ({"metadata": dict(item.metadata)} if item.metadata else {})


def _correction(said: Sequence[Judgement], value: str | None) -> str | None:
    """The last correction, when correcting is what was settled on."""
    texts = [one.text for one in said if one.value == value == "correct" and one.text]
    return texts[-1] if texts else None


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
