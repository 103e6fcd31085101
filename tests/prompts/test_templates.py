"""Templates of all families render as in transformers, wherever they stand; faults with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from platen.core.errors import BundleError
from platen.prompts.encoding import chat_prompt
from platen.prompts.messages import Message, ToolCall, as_chat
from platen.prompts.templates import (
    ChatTemplateError,
    TemplateOptions,
    apply_chat_template,
    check_templates,
    training_ids,
)
from platen.tokens.chat_templates import PLAIN_CHAT_TEMPLATE
from platen.tokens.tokenizer import Tokenizer
from tests.prompts.family_templates import CHATML, FAMILIES, GENERATION, GRANITE, QWEN_3
from tests.small_tokenizer import small_tokenizer
from tests.toolmodels import TEMPLATES

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather <&> “quoted”.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = ToolCall("weather", '{"city": "Zürich <&>", "a": [1, null]}', "abcdefghi")
CONVERSATIONS = {
    "plain": [Message("user", "ROMEO:"), Message("assistant", "\nI am here. "), Message("user", "JULIET: ")],
    "system": [
        Message("system", "A tragedy."),
        Message("user", "ROMEO:"),
        Message("assistant", "<think>\nwhere?\n</think>\n\nI am here."),
        Message("user", "JULIET: “ü” <&>"),
    ],
    "reasoning": [
        Message("user", "2+2?"),
        Message("assistant", "4", reasoning="Two and two."),
        Message("user", "!"),
    ],
}
WITH_TOOLS = [
    Message("user", "Rain?"),
    Message("assistant", "", calls=(CALL,)),
    Message("tool", "wet", answers="abcdefghi"),
    Message("assistant", "Yes."),
    Message("user", "Sure?"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_tokenizer(
        ["I am here, said ROMEO to JULIET."],
        290,
        special=["<|im_start|>", "<|im_end|>", "<|begin|>"],
        bos_token="<|begin|>",
    )


def in_folder(tokenizer: Tokenizer, folder: Path, **files: str | dict[str, Any]) -> Path:
    """The tokenizer's files with others beside them. In a name `__` is a slash, the last `_` a dot."""
    tokenizer.save(folder)
    for name, content in files.items():
        stem, _, ending = name.replace("__", "/").rpartition("_")
        file = folder / f"{stem}.{ending}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def theirs_from(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_render_as_in_transformers(tokenizer: Tokenizer, tmp_path: Path, family: str) -> None:
    folder = in_folder(tokenizer, tmp_path, chat_template_jinja=FAMILIES[family])
    ours, theirs = Tokenizer.from_dir(folder), theirs_from(folder)
    conversations = {**CONVERSATIONS, "tools": WITH_TOOLS}
    rendered = 0
    for name, conversation in conversations.items():
        for prompt in (True, False):
            given: dict[str, Any] = {"tools": TOOLS} if name == "tools" else {}
            options = TemplateOptions(**given, add_generation_prompt=prompt)
            try:
                expected = theirs.apply_chat_template(
                    as_chat(conversation), tokenize=False, add_generation_prompt=prompt, **given
                )
            except Exception as error:
                with pytest.raises(ChatTemplateError, match=str(error)[:20]):
                    apply_chat_template(ours, as_chat(conversation), options)
                continue
            assert apply_chat_template(ours, as_chat(conversation), options) == expected
            rendered += 1
    assert rendered >= 4


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_tools_and_calls_render_as_in_transformers(tokenizer: Tokenizer, tmp_path: Path, style: str) -> None:
    folder = in_folder(tokenizer, tmp_path, chat_template_jinja=TEMPLATES[style])
    messages = as_chat(WITH_TOOLS[:3])
    rendered = apply_chat_template(Tokenizer.from_dir(folder), messages, TemplateOptions(tools=TOOLS))
    assert rendered == theirs_from(folder).apply_chat_template(
        messages, tools=TOOLS, add_generation_prompt=True, tokenize=False
    )
    assert '"city": "Zürich <&>", "a": [1, null]' in rendered


def test_plain_template_continues_the_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert not tokenizer.has_chat_template
    conversation = as_chat(CONVERSATIONS["plain"])
    assert apply_chat_template(tokenizer, conversation) == "ROMEO:\nI am here. \n\nJULIET: "
    folder = in_folder(tokenizer, tmp_path, chat_template_jinja=PLAIN_CHAT_TEMPLATE)
    expected = theirs_from(folder).apply_chat_template(conversation, tokenize=False)
    assert apply_chat_template(Tokenizer.from_dir(folder), conversation) == expected


def test_documents_and_variables(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = [{"title": "One", "text": "First."}, {"title": "Two", "text": "Second."}]
    variables = {"controls": {"length": "short"}}
    folder = in_folder(tokenizer, tmp_path, chat_template_jinja=GRANITE)
    messages = as_chat(CONVERSATIONS["plain"])
    rendered = apply_chat_template(
        Tokenizer.from_dir(folder), messages, TemplateOptions(documents=documents, variables=variables)
    )
    assert rendered == theirs_from(folder).apply_chat_template(
        messages, documents=documents, add_generation_prompt=True, tokenize=False, **variables
    )
    assert "Document 1\nSecond." in rendered
    assert '{"length": "short"}' in rendered


def test_thinking_can_be_turned_off(tokenizer: Tokenizer, tmp_path: Path) -> None:
    ours = Tokenizer.from_dir(in_folder(tokenizer, tmp_path, chat_template_jinja=QWEN_3))
    options = TemplateOptions(variables={"enable_thinking": False})
    rendered = apply_chat_template(ours, [{"role": "user", "content": "Hi"}], options)
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    with pytest.raises(ChatTemplateError, match="'tools' is no variable"):
        apply_chat_template(ours, [], TemplateOptions(variables={"tools": []}))


@pytest.mark.parametrize("family", ["chatml", "gemma", "qwen-3"])
def test_the_last_message_is_continued_as_in_transformers(
    tokenizer: Tokenizer, tmp_path: Path, family: str
) -> None:
    folder = in_folder(tokenizer, tmp_path, chat_template_jinja=FAMILIES[family])
    messages = as_chat([Message("user", "Count."), Message("assistant", "One, two, ")])
    rendered = apply_chat_template(
        Tokenizer.from_dir(folder), messages, TemplateOptions(continue_final_message=True)
    )
    assert rendered == theirs_from(folder).apply_chat_template(
        messages, continue_final_message=True, tokenize=False
    )
    assert rendered.rstrip().endswith("One, two,")
    with pytest.raises(ChatTemplateError, match="only an answer"):
        apply_chat_template(
            Tokenizer.from_dir(folder), messages[:1], TemplateOptions(continue_final_message=True)
        )


def test_answers_are_told_apart_for_training(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = in_folder(tokenizer, tmp_path, chat_template_jinja=GENERATION)
    messages = as_chat([*CONVERSATIONS["system"], Message("assistant", "Here ü.")])
    ids, inside = training_ids(Tokenizer.from_dir(folder), messages)
    expected = theirs_from(folder).apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    assert ids == expected["input_ids"]
    assert inside == [bool(one) for one in expected["assistant_masks"]]
    answers = tokenizer.decode([id for id, one in zip(ids, inside, strict=True) if one], skip_special=False)
    assert answers == "<think>\nwhere?\n</think>\n\nI am here.<|im_end|>Here ü.<|im_end|>"
    with pytest.raises(ChatTemplateError, match="marks no answers"):
        training_ids(
            Tokenizer.from_dir(in_folder(tokenizer, tmp_path / "x", chat_template_jinja=CHATML)), messages
        )


def named(name: str) -> str:
    return "{{ '" + name + "' }}{% for m in messages %}{{ m.content }}{% endfor %}"


PLACES: dict[str, dict[str, str | dict[str, Any]]] = {
    "a text in the config": {"tokenizer_config_json": {"chat_template": named("config")}},
    "a list in the config": {
        "tokenizer_config_json": {
            "chat_template": [
                {"name": "default", "template": named("first")},
                {"name": "tool_use", "template": named("tools")},
                {"name": "rag", "template": named("rag")},
            ]
        }
    },
    "a file": {
        "chat_template_jinja": named("file"),
        "tokenizer_config_json": {"chat_template": named("config")},
    },
    "files": {
        "chat_template_jinja": named("file"),
        "additional_chat_templates__tool_use_jinja": named("tools"),
        "additional_chat_templates__rag_jinja": named("rag"),
        "tokenizer_config_json": {"chat_template": named("config")},
    },
    "a file that lacks the default": {
        "additional_chat_templates__rag_jinja": named("rag"),
        "tokenizer_config_json": {"chat_template": named("config")},
    },
}


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("template", [None, "rag"])
def test_templates_are_found_where_transformers_finds_them(
    tokenizer: Tokenizer, tmp_path: Path, place: str, tools: bool, template: str | None
) -> None:
    folder = in_folder(tokenizer, tmp_path, **PLACES[place])
    ours, messages = Tokenizer.from_dir(folder), [{"role": "user", "content": "Hi"}]
    options = TemplateOptions(tools=TOOLS if tools else (), template=template)
    if template is not None and template not in ours.chat_templates:
        with pytest.raises(ChatTemplateError, match="no chat template named 'rag'; it has default"):
            apply_chat_template(ours, messages, options)
        return
    try:
        expected = theirs_from(folder).apply_chat_template(
            messages, tools=TOOLS if tools else None, chat_template=template, tokenize=False
        )
    except ValueError:
        with pytest.raises(ChatTemplateError, match="'default'; it has rag"):
            apply_chat_template(ours, messages, options)
        return
    assert apply_chat_template(ours, messages, options) == expected
    ours.save(tmp_path / "again")
    assert apply_chat_template(Tokenizer.from_dir(tmp_path / "again"), messages, options) == expected


def test_a_model_without_a_default_is_not_taken_for_a_base_model(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Its named template writes its own special tokens, so none are added."""
    folder = in_folder(tokenizer.beginning_with_bos(), tmp_path, **PLACES["a file that lacks the default"])
    ours, messages = Tokenizer.from_dir(folder), [{"role": "user", "content": "Hi"}]
    expected = theirs_from(folder).apply_chat_template(messages, chat_template="rag", return_dict=False)
    assert chat_prompt(ours, messages, TemplateOptions(template="rag")) == expected
    assert expected == tokenizer.encode("ragHi")


def test_a_processors_template_counts_where_there_is_no_other(tokenizer: Tokenizer, tmp_path: Path) -> None:
    ours = Tokenizer.from_dir(
        in_folder(tokenizer, tmp_path, chat_template_json={"chat_template": named("p")})
    )
    assert apply_chat_template(ours, [{"role": "user", "content": "Hi"}]) == "pHi"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"chat_template_jinja": "a\n{% for m in messages %}\n{% endif %}"}, r"chat_template\.jinja, line 3"),
        (
            {"chat_template_jinja": "a", "additional_chat_templates__rag_jinja": "\n{{ x | nonsense }}"},
            r"rag\.jinja, line 2: .*nonsense",
        ),
        (
            {"tokenizer_config_json": {"chat_template": "{% if %}"}},
            r"tokenizer_config\.json .*'default'.*line 1",
        ),
        ({"chat_template_jinja": "{{ " + "(" * 5000 + ")" * 5000 + " }}"}, "can't be compiled"),
        ({"chat_template_jinja": "a" * 2_000_000}, "too long"),
    ],
)
def test_a_fault_is_told_with_file_and_line(
    tokenizer: Tokenizer, tmp_path: Path, files: dict[str, Any], says: str
) -> None:
    ours = Tokenizer.from_dir(in_folder(tokenizer, tmp_path, **files))
    with pytest.raises(ChatTemplateError, match=says):
        check_templates(ours)


def test_a_config_of_another_shape(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = in_folder(tokenizer, tmp_path, tokenizer_config_json={"chat_template": [{"name": "x"}]})
    with pytest.raises(BundleError, match="neither a text nor a list"):
        Tokenizer.from_dir(folder)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "refused the messages: Roles must alternate"),
        ("\n{{ ''.__class__.__mro__[1].__subclasses__() }}", "refused.*line 2"),
        ("{{ messages.append(1) }}", "refused"),
        ("{{ messages[0].content + 1 }}", "fails on these messages.*line 1"),
        ("{% include 'x' %}", "fails on these messages"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_template_complaints(tokenizer: Tokenizer, tmp_path: Path, template: str, says: str) -> None:
    ours = Tokenizer.from_dir(in_folder(tokenizer, tmp_path, chat_template_jinja=template))
    check_templates(ours)
    with pytest.raises(ChatTemplateError, match=f"(?s){says}"):
        apply_chat_template(ours, as_chat(CONVERSATIONS["plain"]))
