"""The prose of a page never says `nan`, and words are not written as numbers."""

from hamsynth_utils.report.pages.unmeasured import show_unmeasured


def glued(name: str, text: str, kind: str = "application/papermill.record/text/plain") -> dict:
    data = {kind: text}
    return {"output_type": "display_data", "data": data, "metadata": {"scrapbook": {"name": name}}}


def prose(source: str | list[str], *outputs: dict) -> str:
    """What `source` becomes in a notebook with these glued values."""
    cells = [
        {"cell_type": "markdown", "source": source},
        {"cell_type": "code", "source": "{glue:text}`gap:.1f`", "outputs": list(outputs)},
    ]
    notebook = show_unmeasured({"cells": cells})
    assert notebook["cells"][1] == cells[1], "code stays as it is"
    return notebook["cells"][0]["source"]


def test_a_missing_number_is_a_dash_and_words_lose_the_format_of_a_number():
    source = ["{glue:text}`gap:+.1f` points,\n", "{glue:text}`passes:.0f` times, {glue:text}`n`"]
    assert prose(source, glued("gap", "nan"), glued("passes", "'- (no masks)'")) == (
        "\\- points,\n{glue:text}`passes` times, {glue:text}`n`"
    )


def test_what_was_measured_stays_as_it_is():
    source = "{glue:text}`gap:.1f`, {glue:text}`n`, {glue:text}`word` and {eq}`nan`"
    outputs = glued("gap", "0.25"), glued("n", "12"), glued("word", "'nan'", "text/plain")
    assert prose(source, *outputs) == source
