"""Fixes of the theme's HTML for readers who use a screen reader or a keyboard."""

from __future__ import annotations

from pathlib import Path

SEARCH = """data-bs-placement="bottom"{}>
 <i class="fa-solid fa-magnifying-glass"></i>
 <span class="search-button__default-text">"""


TOGGLE = '<span class="toctree-toggle"'


HTML_FIXES = (
    # A button that folds a part of the contents has only an icon.
    (f"<summary>{TOGGLE}", f'<summary aria-label="pages below this one">{TOGGLE}'),
    # The name of a button must contain its visible text, so that voice control finds the button.
    (
        ' title="Search" aria-label="Search" ' + SEARCH.format(' data-bs-toggle="tooltip"'),
        " " + SEARCH.format(""),
    ),
    ('<summary aria-label="Toggle hidden content">', "<summary>"),
    # Titles of icons count as words on their button, which is called "Color mode".
    *((f' title="{mode}"></i>', "></i>") for mode in ("Light", "Dark", "System Settings")),
    # Its entries are no list items.
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),
)
"""Pairs of a text of the theme and its replacement."""


def apply_html_fixes(html: Path) -> None:
    """Apply the `HTML_FIXES` to every page.

    Args:
        html: the folder of the built book.
    """
    for page in html.rglob("*.html"):
        text = before = page.read_text(encoding="utf-8")
        for old, new in HTML_FIXES:
            text = text.replace(old, new)
        if text != before:
            page.write_text(text, encoding="utf-8")
