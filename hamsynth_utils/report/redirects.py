"""Redirects: a page whose name has changed can still be reached at its old address."""

from __future__ import annotations

from pathlib import Path

from hamsynth_utils.notebook.templates import render

RENAMED = {
    "notebooks/04_flow": "notebooks/05_flow",
    "notebooks/05_vit": "notebooks/06_vit",
    "notebooks/05_probes": "notebooks/07_controls",
    "notebooks/06_fidelity": "notebooks/08_fidelity",
    "notebooks/06_evaluation": "notebooks/09_evaluation",
    "notebooks/07_privacy": "notebooks/10_privacy",
    "notebooks/07_guarantee": "notebooks/11_guarantee",
    "notebooks/07_fairness": "notebooks/12_fairness",
    "notebooks/07_release": "notebooks/14_release",
    "notebooks/08_claims": "notebooks/15_claims",
    "notebooks/09_external": "notebooks/16_external",
    "bench": "gallery",
}
"""New name of each page by its old name, without `.html`."""


def write_redirects(html: Path) -> None:
    """Write a page at every old address that leads to the page of today.

    Args:
        html: the folder of the built book. The executions of a notebook, such as
            `notebooks/06_vit-gan-0.html`, have old addresses as well.
    """
    for old, new in RENAMED.items():
        pages = [html / f"{new}.html", *html.glob(f"{new}-*.html")]
        for page in pages:
            name = page.name.replace(Path(new).name, Path(old).name, 1)
            page.with_name(name).write_text(
                render("redirect.html", target=page.name), encoding="utf-8"
            )
