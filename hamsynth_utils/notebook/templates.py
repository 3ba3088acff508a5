"""Texts of pages and cards: jinja2 templates in `book/templates/`, filled with numbers of a run."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hamsynth_utils.core.paths import project_root
from hamsynth_utils.notebook.tables import markdown_table


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(project_root() / "book/templates"),
        undefined=StrictUndefined,
        autoescape=False,  # most texts are Markdown, and none has a value from a stranger
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["table"] = markdown_table
    return environment


def render(template: str, /, **values: Any) -> str:
    """Fill a template.

    Args:
        template: name of the written text, e.g. `run.md`; the file is `book/templates/run.md.j2`.
        values: the values by the names that the template uses. The filter `table` writes a data
            frame as a Markdown table.

    Returns:
        The text.

    Raises:
        jinja2.UndefinedError: if the template uses a name that has no value.
    """
    return _environment().get_template(f"{template}.j2").render(values)
