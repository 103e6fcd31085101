"""Gathers the conversations of an instruction set: each once, in one split, with an account of what was left
out.

Conversations from documents are in their document's split, so that nothing of a document that training
never sees comes back as an answer. Finished pairs go by the hash of their prompt: adding some moves no
other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platen.core.kinds.data_splits import SPLITS, DataSplits
from platen.data.instruct.config import InstructConfig
from platen.data.instruct.messages import Example, prompt_id
from platen.data.instruct.pairs import Kind, from_conversation, from_document, from_faq, turns_of
from platen.data.instruct.shapes import Conversation
from platen.data.instruct.sources import Found, Reject, read_pairs
from platen.data.split import hash_place
from platen.prompts.messages import Message


@dataclass
class Collected:
    """Examples by split; what could not be read; what was left out, by reason; what was made, by shape."""

    splits: dict[str, list[Example]] = field(default_factory=lambda: {name: [] for name in SPLITS})
    rejects: list[Reject] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)

    def examples(self) -> Iterator[Example]:
        for name in SPLITS:
            yield from self.splits[name]


@dataclass(frozen=True)
class _Candidate:
    messages: Conversation
    place: str
    shape: str
    split: str


def collect(project_dir: Path, data: Path, config: InstructConfig) -> Collected:
    """Everything that `config` asks for; `data` is the folder of the data stage's artifact.

    The held-out splits come first: a prompt that is in one of them is left out of the others.
    """
    collected = Collected()
    candidates: dict[str, list[_Candidate]] = {name: [] for name in SPLITS}
    for candidate in _candidates(project_dir, data, config, collected):
        candidates[candidate.split].append(candidate)
    split_of: dict[str, str] = {}
    answers: dict[str, set[str]] = {}
    for split in reversed(SPLITS):
        for candidate in candidates[split]:
            messages = _with_system(candidate.messages, config.system)
            key = prompt_id(messages)
            if split_of.setdefault(key, split) != split:
                collected.left_out[f"its prompt is in {split_of[key]}"] += 1
                continue
            known = answers.setdefault(key, set())
            if messages[-1].content in known:
                collected.left_out["duplicate"] += 1
                continue
            known.add(messages[-1].content)
            id = key if len(known) == 1 else f"{key}-{len(known)}"
            collected.splits[split].append(Example(id, messages, candidate.place, candidate.shape))
            collected.shapes[candidate.shape] += 1
    return collected


def _candidates(
    project_dir: Path, data: Path, config: InstructConfig, collected: Collected
) -> Iterator[_Candidate]:
    for source in config.sources:
        for found in read_pairs(project_dir, source):
            if isinstance(found, Reject):
                collected.rejects.append(found)
                continue
            place = hash_place(_first_prompt(found), config.validation, config.test)
            yield _Candidate(found.messages, found.place, found.shape, place)
    for split in SPLITS if config.build else ():
        for document in DataSplits(data).documents(split):
            yield from _from_document(document, split, config, collected)


def _first_prompt(found: Found) -> str:
    """Conversations that begin alike are placed together."""
    return next(" ".join(message.content.split()) for message in found.messages if message.role == "user")


def _from_document(
    record: Mapping[str, Any], split: str, config: InstructConfig, collected: Collected
) -> Iterator[_Candidate]:
    """Pairs of one document, as the first of the wanted kinds that it is."""
    text, name = record["text"], str(record["id"])
    try:
        turns = turns_of(record.get("metadata") or {})
    except ValueError as error:
        collected.rejects.append(Reject(name, str(error), ""))
        return
    kind: Kind = "conversations"
    if turns:
        conversation = from_conversation(turns) if "conversations" in config.build else ()
        pairs = [conversation] if conversation else []
        reason = "nobody answered" if "conversations" in config.build else "a conversation"
    else:
        kind, pairs = "faqs", from_faq(text) if "faqs" in config.build else []
        if not pairs and "documents" in config.build:
            kind, pairs = "documents", from_document(text)
        reason = "no pair in it"
    if not pairs:
        collected.left_out[reason] += 1
    for messages in pairs:
        yield _Candidate(messages, name, kind, split)


def _with_system(messages: Conversation, system: str | None) -> Conversation:
    if system is None or messages[0].role == "system":
        return messages
    return (Message("system", system), *messages)
