"""Speech acts by rules, by a classifier of one's own labels, and by a language model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from platen.core.errors import DataError
from platen.data.instruct.act_classifier import ActClassifier, Labelled, read_labels, train_classifier
from platen.data.instruct.act_llm import LlmActs
from platen.data.instruct.acts import ACTS, Act, RuleActs
from platen.data.instruct.balance import balance_of
from platen.data.instruct.messages import Example
from platen.engines.local import open_model
from platen.prompts.messages import Message

# The first of each are the classic examples of the act.
SAID: dict[Act, list[str]] = {
    "expressive": [
        "You're the best!",
        "Hello everyone",
        "I'm so sorry about that.",
        "Thanks a lot! It works.",
    ],
    "commissive": [
        "I swear by the realm, the princess will come to no harm.",
        "I'll fix it tomorrow.",
        "We promise to be there.",
        "We are going to replace it.",
    ],
    "directive": [
        "Get it done in the next three days.",
        "Please restart the router.",
        "Could you send me the form?",
        "I'll order the #3 combo.",
        "My headset is broken, can I have another one?",
        "Could we please get a second screen?",
        "I need access to the folder of project 12.",
        "The old one broke and we urgently need a new one.",
        "We'd like two more seats.",
        "It would be great if you could look at it.",
    ],
    "declaration": [
        "You're hired!",
        "I hereby close this meeting.",
        "You are under arrest.",
        "Case dismissed.",
    ],
    "verdictive": [
        "You're out!",
        "I rate this 4 out of 5.",
        "That is unacceptable.",
        "The jury finds him guilty.",
    ],
    "question": [
        "Which model is best for my task?",
        "Is the server down?",
        "where is the form",
        "It still fails?",
        "How can I get a badge?",
        "Can we get to the roof?",
        "Do I need a ticket for that?",
    ],
    "representative": [
        "This model is best for your task.",
        "The printer is on the third floor.",
        "Settings has a page for passwords.",
        "It failed with error 42.",
        "I need to leave at five.",
        "That is all I need.",
        "Hello, my printer prints only blank pages. I changed the cartridge. Thanks!",
    ],
}


@pytest.mark.parametrize(("act", "text"), [(act, text) for act, texts in SAID.items() for text in texts])
def test_rules(act: Act, text: str) -> None:
    assert RuleActs().tag([text]) == [act]


def labelled() -> list[Labelled]:
    """Machine-made examples of three acts, thirty each."""
    things = ["printer", "router", "form", "invoice", "laptop", "screen"]
    frames: list[tuple[Act, str]] = [
        ("question", "where can I find the {}?"),
        ("question", "is the {} broken again?"),
        ("question", "who owns the {} now?"),
        ("question", "does the {} work on Monday?"),
        ("question", "why was the {} moved?"),
        ("directive", "restart the {} now"),
        ("directive", "send the {} to Ana today"),
        ("directive", "please replace the {}"),
        ("directive", "put the {} back"),
        ("directive", "order another {} for us"),
        ("representative", "the {} is in the cellar."),
        ("representative", "the {} was moved on Friday."),
        ("representative", "there is a new {} upstairs."),
        ("representative", "my {} has no paper left."),
        ("representative", "the {} works as it should."),
    ]
    return [Labelled(frame.format(thing), act) for act, frame in frames for thing in things]


def test_a_classifier_learns_from_labels_and_is_the_same_after_loading(tmp_path: Path) -> None:
    classifier = train_classifier(labelled())
    training = classifier.training
    assert (training.examples, training.counts["question"]) == (90, 30)
    assert training.accuracy is not None
    assert training.accuracy > 0.9
    unseen = [
        "where can I find the keyboard?",
        "please replace the keyboard",
        "the keyboard is in the cellar.",
    ]
    assert classifier.tag(unseen) == ["question", "directive", "representative"]
    assert classifier.probabilities(unseen).sum(axis=1) == pytest.approx([1, 1, 1])
    classifier.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"weights.safetensors", "classifier.json"}
    loaded = ActClassifier.load(tmp_path)
    assert (loaded.probabilities(unseen) == classifier.probabilities(unseen)).all()
    assert loaded.training == training


def test_an_act_without_labels_is_left_to_the_rules() -> None:
    assert train_classifier(labelled()).tag(["I promise to bring the printer."]) == ["commissive"]


def test_two_acts_are_enough_and_one_is_not() -> None:
    two = [example for example in labelled() if example.label != "representative"]
    assert train_classifier(two).tag(["where can I find the keyboard?", "put the keyboard back"]) == [
        "question",
        "directive",
    ]
    with pytest.raises(DataError, match="1 different acts"):
        train_classifier([example for example in two if example.label == "question"])


def test_labels_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    lines = [{"text": "Hi!", "label": "expressive"}, {"text": "Why?", "label": ["question"]}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert read_labels(file) == [Labelled("Hi!", "expressive"), Labelled("Why?", "question")]
    file.write_text('{"text": "Hi!", "label": "greeting"}\n')
    with pytest.raises(DataError, match="line 1: the label 'greeting' is no speech act"):
        read_labels(file)


def test_a_language_model_is_held_to_the_seven(tiny_bundle: Path) -> None:
    """Its weights are random, so what it answers is an act, and which one does not matter."""

    async def ask() -> list[Act]:
        model = open_model(tiny_bundle)
        try:
            return await LlmActs(model.engine, model.tokenizer).tag(["Why?", "Hello " * 500])
        finally:
            await model.engine.close()

    answers = asyncio.run(ask())
    assert len(answers) == 2
    assert set(answers) <= set(ACTS)


def example(act: Act) -> Example:
    messages = (Message("system", "Be kind."), Message("user", "x"), Message("assistant", "y"))
    return Example("1", messages, "s", "openai", ("directive", act, "representative"))


def test_balance_names_what_is_missing_and_what_is_rare() -> None:
    """Of a hundred messages: 60 questions, 35 directives, 3 expressives, 2 commissives."""
    counts: dict[Act, int] = {"question": 60, "directive": 35, "expressive": 3, "commissive": 2}
    examples = [example(act) for act, count in counts.items() for _ in range(count)]
    balance = balance_of(examples, min_share=0.025)
    assert balance is not None
    assert balance.user == {act: counts.get(act, 0) for act in ACTS}
    assert balance.assistant["representative"] == 100
    assert balance.gaps == ("commissive", "declaration", "verdictive", "representative")
    assert balance.summary == "no declarations, no verdictives, no representatives, 2% commissives"
    assert balance_of([Example("1", (), "s", "x")], 0.02) is None
