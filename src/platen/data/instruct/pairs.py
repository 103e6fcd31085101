"""Builds conversations out of what a team already has: support threads, FAQs and headed documents.

A document's own words become the answer; nothing is invented but the question to a heading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from platen.data.instruct.shapes import Conversation
from platen.prompts.messages import Message

Kind = Literal["conversations", "faqs", "documents"]
MIN_ANSWER = 20
"""Characters below which a section or paragraph answers nothing."""

_QUESTION = re.compile(
    r"^\s*(?:[*_]{0,2})(?:Q(?:uestion)?)\s*\d*\s*[:.)](?:[*_]{0,2})\s*(.+)$", re.IGNORECASE
)
_ANSWER = re.compile(r"^\s*(?:[*_]{0,2})(?:A(?:nswer)?)\s*\d*\s*[:.)](?:[*_]{0,2})\s*(.*)$", re.IGNORECASE)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")
_FENCE = re.compile(r"^\s*(?:```|~~~)")


@dataclass(frozen=True)
class Utterance:
    """What someone said in a conversation; `time` as its source has it."""

    speaker: str
    text: str
    time: str = ""


def turns_of(metadata: Mapping[str, Any]) -> tuple[Utterance, ...]:
    """The turns of a document that is a conversation, else none. Raises ValueError for broken ones."""
    conversation = metadata.get("conversation")
    if conversation is None:
        return ()
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise ValueError("'conversation' is no list of turns")
    turns = []
    for turn in conversation:
        speaker, text = turn.get("speaker"), turn.get("text")
        if not isinstance(speaker, str) or not isinstance(text, str):
            raise ValueError("a turn of the conversation has no speaker or no text")
        turns.append(Utterance(speaker, text, str(turn.get("ts", ""))))
    return tuple(turns)


def from_conversation(turns: Sequence[Utterance]) -> Conversation:
    """Who began is the user, all others answer; what one side says in a row is one message.

    Empty when nobody answered; what comes after the last answer is left out.
    """
    spoken = [turn for turn in turns if turn.text.strip()]
    if not spoken:
        return ()
    asker = spoken[0].speaker
    messages: list[Message] = []
    for turn in spoken:
        role: Literal["user", "assistant"] = "user" if turn.speaker == asker else "assistant"
        text = turn.text.strip()
        if messages and messages[-1].role == role:
            messages[-1] = Message(role, f"{messages[-1].text}\n{text}")
        else:
            messages.append(Message(role, text))
    if messages[-1].role == "user":
        messages.pop()
    return tuple(messages)


def from_faq(text: str) -> list[Conversation]:
    """Questions with their answers: lines `Q:` and `A:`, or Markdown headings that end with a question
    mark.
    """
    pairs: list[tuple[str, list[str]]] = []
    collecting = False
    for line, in_code in _lines(text):
        heading = None if in_code else _HEADING.match(line)
        question = None if in_code else _QUESTION.match(line)
        if heading and heading.group(1).rstrip("*_ ").endswith("?"):
            pairs.append((_plain(heading.group(1)), []))
            collecting = True
        elif question:
            pairs.append((_plain(question.group(1)), []))
            collecting = False  # until the line with its answer
        elif heading:
            collecting = False
        elif pairs and not in_code and not pairs[-1][1] and (answer := _ANSWER.match(line)):
            pairs[-1][1].append(answer.group(1))
            collecting = True
        elif collecting:
            pairs[-1][1].append(line)
    found = [(question, "\n".join(lines).strip()) for question, lines in pairs]
    return [(Message("user", asked), Message("assistant", answer)) for asked, answer in found if answer]


def from_document(text: str) -> list[Conversation]:
    """One a section: its heading asked for, its text as the answer.

    Without headings: paragraphs continued.
    """
    title, sections = _sections(text)
    pairs = [
        _pair(
            f"What does “{title}” say about “{heading}”?"
            if heading != title
            else f"What is “{title}” about?",
            body,
        )
        for heading, body in sections
        if len(body) >= MIN_ANSWER
    ]
    if sections:
        return pairs
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if len(part.strip()) >= MIN_ANSWER]
    return [
        (Message("user", "Continue this text with its next paragraph.", before), Message("assistant", after))
        for before, after in pairwise(paragraphs)
    ]


def _pair(asked: str, answer: str) -> Conversation:
    return Message("user", asked), Message("assistant", answer)


def _sections(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The document's title (its first heading) and each heading with the text below it."""
    sections: list[tuple[str, list[str]]] = []
    for line, in_code in _lines(text):
        heading = None if in_code else _HEADING.match(line)
        if heading:
            sections.append((_plain(heading.group(1)), []))
        elif sections:
            sections[-1][1].append(line)
    title = sections[0][0] if sections else ""
    return title, [(heading, "\n".join(lines).strip()) for heading, lines in sections]


def _lines(text: str) -> list[tuple[str, bool]]:
    """Each line and whether it is in a fenced block, where # begins no heading."""
    result, fenced = [], False
    for line in text.split("\n"):
        fence = bool(_FENCE.match(line))
        result.append((line, fenced or fence))
        fenced ^= fence
    return result


def _plain(text: str) -> str:
    return text.strip().strip("*_` ").strip()
