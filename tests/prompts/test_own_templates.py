"""The instruct template, named in the project file, through the tokenizer that models are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from platen.data.instruct.shapes import read_shape
from platen.prompts.messages import Message
from platen.prompts.templates import TemplateOptions, apply_chat_template
from platen.tokens.chat_templates import CHAT_TEMPLATES
from platen.tokens.folder import TEMPLATE_FILE
from platen.tokens.tokenizer import Tokenizer


@pytest.fixture
def instruct(tiny_bundle: Path, tmp_path: Path) -> Tokenizer:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_bundle / name).read_bytes())
    (tmp_path / TEMPLATE_FILE).write_text(CHAT_TEMPLATES["instruct"])
    return Tokenizer.from_dir(tmp_path)


ASKED = Message("user", "Translate this sentence to Japanese.", "Good morning.")


def test_task_material_and_answer_have_their_landmarks(instruct: Tokenizer) -> None:
    assert apply_chat_template(instruct, [ASKED.as_chat()]) == (
        "###Instruction\nTranslate this sentence to Japanese.\n###Input\nGood morning.\n###Response\n"
    )


def test_a_rendered_conversation_reads_back(instruct: Tokenizer) -> None:
    conversation = (
        Message("system", "Be brief."),
        ASKED,
        Message("assistant", "おはようございます。"),
        Message("user", "And good night?"),
        Message("assistant", "おやすみなさい。"),
    )
    text = apply_chat_template(
        instruct, [m.as_chat() for m in conversation], TemplateOptions(add_generation_prompt=False)
    )
    assert text.endswith("<|end|>\n")
    assert read_shape({"text": text.replace("<|end|>", "")}) == ("instruct", [conversation])


def test_other_templates_get_task_and_material_as_one_text() -> None:
    assert ASKED.as_chat()["content"] == "Translate this sentence to Japanese.\n\nGood morning."
