"""Numbers of the text that a run could not measure: a dash or words instead of `nan`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from hamsynth_utils.notebook.tables import dash

GLUED = re.compile(r"\{glue:text\}`([^`:]+)(:[^`]+)?`")
"""A value in the text: its name, and how a number is written."""


def show_unmeasured(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook with plain text where its prose asks for a number that was not measured.

    A chapter glues NaN, or words that give the reason. Words cannot be written as a number, and the
    page could not be built.

    Args:
        notebook: an executed notebook as JSON.

    Returns:
        The notebook, in whose text NaN is a dash, and words stand without the number's format.
    """
    values = {
        output["metadata"]["scrapbook"]["name"]: _plain_text(output["data"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "scrapbook" in output.get("metadata", {})
    }

    def shown(match: re.Match[str]) -> str:
        """The text that replaces one value of the prose."""
        name, number_format = match.groups()
        text = values.get(name, "")
        if number_format and re.fullmatch(r"'.*'|\".*\"", text, re.DOTALL):
            return f"{{glue:text}}`{name}`"
        # Escaped: at the beginning of a line, a dash would begin a list.
        return f"\\{dash()}" if text == str(math.nan) else match[0]

    cells = [
        {**cell, "source": GLUED.sub(shown, "".join(cell["source"]))}
        if cell["cell_type"] == "markdown"
        else cell
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def _plain_text(data: Mapping[str, Any]) -> str:
    """The text of a glued value, under whichever name it is kept."""
    return next(
        ("".join(content) for kind, content in data.items() if kind.endswith("text/plain")), ""
    )
