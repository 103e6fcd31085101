"""`platen schema`: the project file's JSON Schema, or its reference page."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def command(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page instead.")] = False,
) -> None:
    """Print the JSON Schema of platen.yaml.

    Example:  platen schema > platen.schema.json
    """
    from platen.project.file import json_schema, reference_markdown

    text = (
        reference_markdown() if markdown else json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    )
    typer.echo(text, nl=False)
