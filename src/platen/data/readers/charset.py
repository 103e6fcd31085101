"""Which encoding an HTML page says it is in, by the HTML standard's order, and its text by that, strictly."""

from __future__ import annotations

import codecs
import re

_SNIFFED = 2048
_META = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]+)", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.\-]+)", re.IGNORECASE)
# By the encoding standard these labels mean Windows' superset.
_SUPERSET = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def page_encoding(raw: bytes, *, header: str | None, otherwise: str) -> str:
    """The byte order mark's encoding, or the HTTP header's, the page's own, or the source's."""
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return name
    inside = _META.search(raw[:_SNIFFED]) or _XML.search(raw[:_SNIFFED])
    for label in (header, inside.group(1).decode() if inside else None):
        if label is None:
            continue
        try:
            name = codecs.lookup(label).name
            "".encode(name)
        except (LookupError, ValueError):
            continue
        if label is not header and name.startswith(("utf-16", "utf-32")):
            name = "utf-8"  # it could not have been read so far
        return _SUPERSET.get(name, name)
    return otherwise
