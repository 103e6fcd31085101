"""A template that loops for ever or makes too much ends within a second, and says so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from platen.prompts.sandbox import TemplateEnvironment
from platen.prompts.template_limits import TemplateLimit
from platen.prompts.templates import ChatTemplateError, apply_chat_template
from platen.tokens.tokenizer import Tokenizer
from tests.prompts.family_templates import LLAMA_3, QWEN_3

GROW = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}"
KEEP = (
    "{% set big = 'a' * 9000000 %}{% set ns = namespace(x=[]) %}{% for i in range(99999) %}STEP{% endfor %}"
)

ENDLESS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macros that call themselves twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a recursive loop": (
        "{% for x in range(999) recursive %}{{ loop(range(99)) if loop.depth < 9 }}{% endfor %}"
    ),
    "filters in a filter": (
        "{% set l = range(99999) | list %}{% for i in l %}{{ l | map('string') | join | length }}{% endfor %}"
    ),
    "comparisons": (
        "{% set a = range(99999) | list %}{% set b = range(99999) | list %}"
        "{% for i in a %}{{ a == b }}{{ b in [a, a] }}{% endfor %}"
    ),
    "sorting": "{% for i in range(99999) %}{{ range(99999) | sort | length }}{% endfor %}",
}
TOO_MUCH = {
    "doubled": GROW.replace("STEP", "ns.x + ns.x"),
    "joined": GROW.replace("STEP", "ns.x ~ ns.x"),
    "replaced": GROW.replace("STEP", "ns.x | replace('a', 'aa')"),
    "replaced by a method": GROW.replace("STEP", "ns.x.replace('a', 'aa')"),
    "filled in": GROW.replace("STEP", "'%s%s' % (ns.x, ns.x)"),
    "filled in with braces": GROW.replace("STEP", "'{0}{0}'.format(ns.x)"),
    "filled in by a filter": GROW.replace("STEP", "'%s%s' | format(ns.x, ns.x)"),
    "a list in itself": GROW.replace("STEP", "[ns.x, ns.x]"),
    "a tuple in itself": GROW.replace("STEP", "(ns.x, ns.x)"),
    "a dict in itself": GROW.replace("STEP", "{'a': ns.x, 'b': ns.x}"),
    "a dict by its function": GROW.replace("STEP", "dict(a=ns.x, b=ns.x)"),
    "a list doubled": GROW.replace("'aaaaaaaaaa'", "['a']").replace("STEP", "ns.x * 2"),
    "arguments of a macro": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% else %}{{ varargs == 1 }}{{ varargs }}"
        "{% endif %}{% endmacro %}{{ f(60, 1) }}"
    ),
    "output": "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
    "output of a block": (
        "{% set x %}{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}{% endset %}{{ x }}"
    ),
    "copies": KEEP.replace("STEP", "{% set ns.x = big.upper() %}"),
    "slices": KEEP.replace("STEP", "{% set ns.x = big[1:] %}"),
    "a product": "{{ 'a' * 10 ** 10 }}",
    "powers": "{{ ((10 ** 999) ** 999) ** 999 }}",
    "products of numbers": (
        "{% set ns = namespace(x=10 ** 999) %}{% for i in range(9) %}{% set ns.x = ns.x * ns.x %}{% endfor %}"
    ),
    "ljust": "{{ 'a'.ljust(10 ** 10) }}",
    "zfill": "{{ 'a'.zfill(10 ** 10) }}",
    "expandtabs": "{{ ('\\t' * 100000).expandtabs(9999) }}",
    "center": "{{ 'a' | center(10 ** 10) }}",
    "indent": "{{ ('x\\n' * 90000) | indent(9999) }}",
    "indent by a text": "{{ ('x\\n' * 90000) | indent('a' * 9999) }}",
    "to_bytes": "{{ (5).to_bytes(10 ** 10, 'big') }}",
    "bytes": "{{ ('a' * 100000).encode() }}",
    "bytes of a number": "{{ (5).to_bytes(9, 'big') }}",
    "titles": "{{ ('a b ' * 1000000) | title }}",
    "a width": "{{ '%10000000000d' % 3 }}",
    "a width in the filter": "{{ '%10000000000d' | format(3) }}",
    "a width in braces": "{{ '{:10000000000d}'.format(3) }}",
    "a width that is given": "{{ '{:{}}'.format(3, 10 ** 10) }}",
    "a width for %": "{{ '%*d' % (10 ** 10, 3) }}",
    "the time": "{{ strftime_now('%10000000000d') }}",
    "JSON": "{{ [1] | tojson(indent=10 ** 9) }}",
    "separators": "{{ [1, 2] | tojson(separators=('a' * 9999, '')) }}",
    "joined by a long text": "{{ ('a' * 10000).join(['b'] * 10000) }}",
    "joined by a filter": "{{ (['b'] * 10000) | join('a' * 10000) }}",
    "a sum of lists": "{{ ([[1] * 9999] * 9999) | sum(start=[]) }}",
}


def run(template: str) -> None:
    environment = TemplateEnvironment()
    environment.render(environment.from_string(template), {"messages": []})


@pytest.mark.parametrize("case", sorted(ENDLESS))
def test_what_takes_for_ever_ends(case: str) -> None:
    began = time.thread_time()
    with pytest.raises(TemplateLimit, match="longer than 1 s"):
        run(ENDLESS[case])
    assert time.thread_time() - began < 10  # the limit is looked at between two steps of the template


@pytest.mark.parametrize("case", sorted(TOO_MUCH))
def test_what_grows_is_refused_before_it_is_made(case: str) -> None:
    began = time.thread_time()
    with pytest.raises(TemplateLimit):
        run(TOO_MUCH[case])
    assert time.thread_time() - began < 10  # the limit is looked at between two steps of the template


@pytest.mark.parametrize("name", ["urlize", "striptags", "wordwrap", "pprint", "xmlattr"])
def test_filters_that_nothing_could_stop_are_not_there(name: str) -> None:
    with pytest.raises(Exception, match="No filter named"):
        run("{{ 'a' | " + name + " }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ | length }}{{ ''.__class__.mro() }}",
        "{{ ('' | attr('__class__')).mro() }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ namespace(__class__=1) }}",
        "{{ dict.mro() }}",
        "{{ raise_exception.__globals__['time'] }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ (messages | map('attr', '__class__') | list).append(1) }}",
    ],
)
def test_python_is_out_of_reach(template: str) -> None:
    with pytest.raises(Exception, match=r"(?i)unsafe|undefined|no attribute|may not have"):
        run(template)


@pytest.mark.parametrize("source", [LLAMA_3, QWEN_3], ids=["llama-3", "qwen-3"])
def test_long_conversations_are_far_from_the_limits(
    tiny_tokenizer: Tokenizer, tmp_path: Path, source: str
) -> None:
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source)
    tokenizer = Tokenizer.from_dir(tmp_path)
    turns = [{"role": ("user", "assistant")[n % 2], "content": "word " * 100} for n in range(2047)]
    began = time.thread_time()
    assert len(apply_chat_template(tokenizer, turns)) > 1_000_000
    assert time.thread_time() - began < 0.5


def test_the_time_of_one_rendering_is_not_that_of_the_next(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    template = "{% if messages[0].content == 'loop' %}" + ENDLESS["nested loops"] + "{% endif %}fine"
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.from_dir(tmp_path)
    with pytest.raises(ChatTemplateError, match="takes longer than 1 s"):
        apply_chat_template(tokenizer, [{"role": "user", "content": "loop"}])
    assert apply_chat_template(tokenizer, [{"role": "user", "content": "go"}]) == "fine"
