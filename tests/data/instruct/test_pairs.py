"""Pairs made of what a team has: threads, FAQs, documents with headings."""

from __future__ import annotations

import pytest

from platen.data.instruct.pairs import Utterance, from_conversation, from_document, from_faq, turns_of
from platen.prompts.messages import Message


def test_a_thread_is_a_conversation_with_who_began_it() -> None:
    metadata = {
        "conversation": [
            {"speaker": "ana", "text": "The printer is down.", "ts": "1700000000.1"},
            {"speaker": "ana", "text": "Third floor.", "ts": "1700000001.1"},
            {"speaker": "ben", "text": "Is it plugged in?", "ts": "1700000002.1"},
            {"speaker": "ana", "text": "Yes."},
            {"speaker": "ben", "text": "I'll come."},
            {"speaker": "cy", "text": "Me too."},
            {"speaker": "ana", "text": "Thanks!"},
        ]
    }
    assert from_conversation(turns_of(metadata)) == (
        Message("user", "The printer is down.\nThird floor."),
        Message("assistant", "Is it plugged in?"),
        Message("user", "Yes."),
        Message("assistant", "I'll come.\nMe too."),
    )


def test_a_question_that_nobody_answered_is_no_conversation() -> None:
    assert (
        from_conversation([Utterance("ana", "Anyone?"), Utterance("ana", "Hello?"), Utterance("ben", "  ")])
        == ()
    )
    assert turns_of({"topic": "x"}) == ()
    with pytest.raises(ValueError, match="no speaker"):
        turns_of({"conversation": [{"text": "x"}]})


FAQ = """\
# Help

## How do I reset my password?

Open *Settings* and choose **Reset**.

```
# not a heading?
```

## Contact

Write to us.

Q: Where are you?
A: In Lisbon,
   by the river.

**Q2:** When are you open?
**A2:** Always.
"""


def test_a_faq_in_headings_and_in_lines() -> None:
    pairs = {asked.text: answer.text for asked, answer in from_faq(FAQ)}
    assert pairs == {
        "How do I reset my password?": (
            "Open *Settings* and choose **Reset**.\n\n```\n# not a heading?\n```"
        ),
        "Where are you?": "In Lisbon,\n   by the river.",
        "When are you open?": "Always.",
    }


def test_a_document_answers_for_its_sections() -> None:
    text = (
        "# Manual\n\nHow the machine is to be used.\n\n## Cleaning\n\nWipe it with a dry cloth.\n\n## Empty\n"
    )
    assert from_document(text) == [
        (Message("user", "What is “Manual” about?"), Message("assistant", "How the machine is to be used.")),
        (
            Message("user", "What does “Manual” say about “Cleaning”?"),
            Message("assistant", "Wipe it with a dry cloth."),
        ),
    ]


def test_a_document_without_headings_is_continued() -> None:
    first, second = "The first paragraph of it.", "The second paragraph of it."
    assert from_document(f"{first}\n\nshort\n\n{second}") == [
        (
            Message("user", "Continue this text with its next paragraph.", first),
            Message("assistant", second),
        )
    ]
