"""The chapters of an EPUB in the order of its spine, by EPUB 3.3: container, package document, XHTML."""

from __future__ import annotations

import io
import posixpath
import re
from urllib.parse import unquote

from platen.data.readers.archive import Archive
from platen.data.readers.charset import page_encoding
from platen.data.readers.config import ReadLimits
from platen.data.readers.parser import Parsed, Problem

_BLOCKS = frozenset(
    ("address", "article", "aside", "blockquote", "body", "dd", "div", "dl", "dt", "figcaption", "figure")
).union(
    ("footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre"),
    ("section", "table", "td", "th", "tr", "ul"),
)
_SILENT = frozenset(("script", "style", "head", "title"))


def parse(raw: bytes, limits: ReadLimits) -> Parsed:
    from lxml import etree

    archive = Archive(io.BytesIO(raw), entry_bytes=limits.document_bytes, expansion=limits.expansion)
    archive.check(limits.expanded_bytes)
    secure = etree.XMLParser(resolve_entities=False, no_network=True)
    container = etree.fromstring(archive.read("META-INF/container.xml"), secure)
    package_path = container.find(".//{*}rootfile").get("full-path")
    package = etree.fromstring(archive.read(package_path), secure)
    manifest = {item.get("id"): item.get("href") for item in package.iterfind(".//{*}manifest/{*}item")}
    chapters, problems = [], []
    for number, item in enumerate(package.iterfind(".//{*}spine/{*}itemref"), start=1):
        try:
            href = unquote(manifest[item.get("idref")])
            page = archive.read(posixpath.normpath(posixpath.join(posixpath.dirname(package_path), href)))
            chapters.append(page_text(page.decode(page_encoding(page, header=None, otherwise="utf-8"))))
        except (KeyError, ValueError, etree.LxmlError) as error:
            problems.append(Problem("malformed", f"{error} ({type(error).__name__})", f"chapter {number}"))
    title = package.findtext(".//{http://purl.org/dc/elements/1.1/}title")
    text = "\n\n".join(chapter for chapter in chapters if chapter)
    return Parsed(text, {"title": title} if title else {}, tuple(problems))


def page_text(page: str) -> str:
    """All visible text of an XHTML page, blocks as paragraphs."""
    from lxml import html

    page = re.sub(r"^\s*<\?xml[^>]*\?>", "", page)
    parts: list[str] = []
    _walk(html.document_fromstring(page), parts)
    lines = ("".join(parts)).split("\0")
    return "\n\n".join(line for line in (" ".join(line.split()) for line in lines) if line)


def _walk(root: object, parts: list[str]) -> None:
    """Append texts in order, with a NUL where a block begins or ends. No recursion: pages nest deeply."""
    from lxml import etree

    for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        name = element.tag if isinstance(element.tag, str) else ""
        edge = "\0" if name in _BLOCKS or name == "br" else ""
        if event == "start":
            hidden = not name or name in _SILENT
            parts.append(edge + ("" if hidden else element.text or ""))
        else:
            parts.append(edge + (element.tail or ""))
