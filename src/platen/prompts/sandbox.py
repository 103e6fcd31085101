"""Runs Jinja templates of strangers: they reach nothing outside, and end within bounds of time and memory.

A template comes with a model, and may loop for ever or double a text until memory is full. No thread of
Python can be stopped from outside, so the environment itself counts: every loop, call, filter, test and
comparison looks at the clock, and whatever could become large is measured before it is made.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from platen.prompts.template_limits import MOST_WIDTH, Meter, TemplateLimit

_SLOW = ("title", "wordcount", "urlencode")
_SLOWNESS = 16
"""For these filters a character counts as so many."""
# Nobody's chat template makes HTML or filler text, and these have loops of their own that nothing can stop.
_LEFT_OUT = ("urlize", "striptags", "wordwrap", "pprint", "xmlattr")
_BOUNDED_BY_NUMBERS = ("find", "rfind", "index", "rindex", "count", "split", "rsplit")
_TO_BYTES = ("encode", "to_bytes")  # which have methods of their own
_GROWING = ("+", "*", "**", "%")


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, within the limits of a Meter.

    `{% generation %}` marks what an assistant wrote, `{% break %}` and `{% continue %}` end loops,
    `raise_exception(message)` refuses the messages, `strftime_now(format)` tells the time.
    """

    intercepted_binops = frozenset(_GROWING)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=self._printed,
        )
        self._local = threading.local()
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        del self.globals["lipsum"]
        self.filters["tojson"] = _tojson
        for name in _LEFT_OUT:
            del self.filters[name]
        self.filters = {name: self._metered(name, work) for name, work in self.filters.items()}
        self.tests = {name: self._timed_test(cast(Any, work)) for name, work in self.tests.items()}
        # Names with a blank, which no template can write.
        self.filters["each of"] = lambda iterable: _Counted(iterable, self.meter)
        self.filters["joined by"] = self._joined
        self.filters["made here"] = lambda value: self.meter.admit(value)
        self.filters["in time"] = self._in_time

    @property
    def meter(self) -> Meter:
        """That of this thread's rendering. None while a template is compiled: AttributeError, so nothing is
        computed then."""
        meter: Meter = self._local.meter
        return meter

    @contextmanager
    def metered(self, meter: Meter) -> Iterator[None]:
        """What this thread renders inside counts on `meter`."""
        self._local.meter = meter
        try:
            yield
        finally:
            del self._local.meter

    def render(
        self, template: jinja2.Template, variables: dict[str, Any]
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the spans of it that `{% generation %}` blocks made. Raises what it raises."""
        meter = Meter()
        with self.metered(meter):
            meter.admit(variables)
            self._local.spans, self._local.length = [], 0
            text = self._counted_concat(
                template.root_render_func(template.new_context(variables)), outermost=True
            )
            return text, self._local.spans

    def _counted_concat(self, pieces: Iterable[str], *, outermost: bool = False) -> str:
        meter, found, length = self.meter, [], 0
        for piece in pieces:
            found.append(piece)
            length += len(piece)
            meter.allow(length)
            if outermost:
                self._local.length = length
        return str(meter.admit("".join(found)))

    concat = _counted_concat

    def generated(self, text: str) -> None:
        """A `{% generation %}` block has made this text, which comes next."""
        self._local.spans.append((self._local.length, self._local.length + len(text)))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed: nodes.Template = _Metered().visit(super()._parse(source, name, filename))
        return parsed

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        meter: Meter = self._local.meter
        if operator == "+":
            if type(left) is str and type(right) is str:  # most of what templates do
                meter.count(len(left) + len(right))
                return left + right
            meter.allow(meter.weigh(left) + meter.weigh(right))
        elif operator == "%" and isinstance(left, str):
            meter.allow_format(left, right)
        elif operator in ("*", "**"):
            meter.allow_power(operator, left, right)
        meter.tick()
        return meter.admit(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter, owner = __self.meter, getattr(__obj, "__self__", None)
        meter.tick()
        if isinstance(owner, (str, int, float)):
            large = any(isinstance(one, int) and abs(one) > MOST_WIDTH for one in (*args, *kwargs.values()))
            if __obj.__name__ in _TO_BYTES:
                raise TemplateLimit(f"{__obj.__name__} is not for chat templates")
            if large and __obj.__name__ not in _BOUNDED_BY_NUMBERS:
                raise TemplateLimit(f"it calls {__obj.__name__} with a number that is too large")
            if isinstance(owner, str):
                if __obj.__name__ == "join" and args:
                    args = (list(args[0]), *args[1:])
                meter.allow_method(owner, __obj.__name__, [*args, *kwargs.values()])
        return meter.admit(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @functools.wraps(wrapped)
        def checked(*args: Any, **kwargs: Any) -> str:
            self.meter.allow_format(value.__self__, [*args, kwargs])
            return str(self.meter.admit(wrapped(*args, **kwargs)))

        return checked

    def _metered(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that looks at the clock and at the sizes of what it is given and gives."""
        first = 1 if hasattr(work, "jinja_pass_arg") else 0

        @functools.wraps(work)
        def filtered(*args: Any, **kwargs: Any) -> Any:
            meter = self.meter
            meter.tick()
            value: Any = args[first] if len(args) > first else None
            rest = [*args[first + 1 :], *kwargs.values()]
            if name in ("replace", "join"):
                given = [list(value), *rest[1:]] if name == "join" else rest
                if name == "join":
                    args = (*args[:first], given[0], *args[first + 1 :])
                    between = str(rest[0]) if rest else ""
                    meter.allow_method(between, "join", given)
                else:
                    meter.allow_method(str(value), "replace", [str(one) for one in given])
            elif name in _SLOW:
                meter.allow(_SLOWNESS * meter.weigh(value))
            elif name == "format":
                meter.allow_format(str(value), rest)
            elif name in ("indent", "center", "batch", "slice", "truncate", "round"):
                _check_widths(meter, value, rest)
            elif name == "sum" and not isinstance(value, str):
                args = (*args[:first], value := list(value), *args[first + 1 :])
                meter.allow(sum(map(meter.weigh, value)) + sum(map(meter.weigh, rest)))
            return meter.admit(work(*args, **kwargs))

        return filtered

    def _timed_test(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def tested(*args: Any, **kwargs: Any) -> Any:
            self.meter.tick()
            return work(*args, **kwargs)

        return tested

    def _joined(self, values: tuple[Any, ...]) -> str:
        self.meter.allow(sum(map(self.meter.weigh, values)))
        return str(self.meter.admit("".join(map(str, values))))

    def _in_time(self, value: Any) -> Any:
        self.meter.tick()
        return value

    def _printed(self, value: Any) -> Any:
        """What is about to become text."""
        meter = getattr(self._local, "meter", None) if not isinstance(value, str) else None
        if meter is not None:
            meter.tick()
            meter.allow(meter.weigh(value))
        return value


class _Counted:
    """An iterable that looks at the clock before each of its items."""

    def __init__(self, iterable: Any, meter: Meter) -> None:
        self._iterable, self._meter = iterable, meter

    def __len__(self) -> int:
        return len(self._iterable)

    def __iter__(self) -> Iterator[Any]:
        return self._each(iter(self._iterable))

    def _each(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self._meter.tick()
            yield item


class _Metered(NodeTransformer):
    """Puts the counting into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "each of")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "joined by")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "in time")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._built(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._built(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._built(node, [pair.value for pair in node.items])

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "made here") if isinstance(node.arg, nodes.Slice) else node

    def _built(self, node: nodes.Expr, items: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        constant = all(isinstance(item, nodes.Const) for item in items)
        return node if constant else _filtered(node, "made here")


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`: what stands between was written by the assistant."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own way)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_block"), [], [], body, lineno=line)

    def _block(self, caller: Callable[[], str]) -> str:
        text = caller()
        environment = self.environment
        assert isinstance(environment, TemplateEnvironment)
        environment.generated(text)
        return text


class _Namespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, which could reach Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        given = dict(*args[1:], **kwargs)
        for name in given:
            _check_name(name)
        Namespace.__init__(args[0], given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Dict:
    """Makes dicts; the class itself would be a way to Python's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace may not have the name {name!r}")


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _check_widths(meter: Meter, value: Any, given: list[Any]) -> None:
    text = str(value) if isinstance(value, str) else ""
    for one in given:
        if isinstance(one, int):
            if abs(one) > MOST_WIDTH:
                raise TemplateLimit("it formats with a width that is too large")
            meter.allow((text.count("\n") + 1) * abs(one))
        elif isinstance(one, str):
            meter.allow((text.count("\n") + 1) * len(one))


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    if re.search(r"%\D?\d{4}", form):  # the C library pads to any width
        raise TemplateLimit("it tells the time with a width that is too large")
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it: nothing is escaped for HTML, and characters stay as they are."""
    widths = [indent if isinstance(indent, int) else len(indent or ""), *map(len, separators or ())]
    if any(width > 100 for width in widths):
        raise TemplateLimit("it writes JSON with an indent that is too large")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
