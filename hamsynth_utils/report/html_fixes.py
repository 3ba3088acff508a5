"""What the book's theme leaves out of its pages and a reader who hears or types them needs."""

from __future__ import annotations

from pathlib import Path

SEARCH = """data-bs-placement="bottom"{}>
 <i class="fa-solid fa-magnifying-glass"></i>
 <span class="search-button__default-text">"""


TOGGLE = '<span class="toctree-toggle"'


REPAIRS = (
    # A button that folds a part of the contents has only an icon.
    (f"<summary>{TOGGLE}", f'<summary aria-label="pages below this one">{TOGGLE}'),
    # What is said of a button must hold what is to be read on it, or it cannot be called by that.
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
"""Text of the theme, and what stands in its place."""


def apply_html_fixes(html: Path) -> None:
    """Apply the `REPAIRS` to every page in a folder."""
    for page in html.rglob("*.html"):
        text = before = page.read_text()
        for old, new in REPAIRS:
            text = text.replace(old, new)
        if text != before:
            page.write_text(text)
