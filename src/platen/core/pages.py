"""Pages of HTML from the Jinja templates that lie beside the modules that fill them."""

from __future__ import annotations


def render_page(package: str, template: str, **values: object) -> str:
    """The template of that name in a package's folder, filled in; values are escaped."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader(package, ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(values)
