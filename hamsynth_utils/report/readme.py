"""What the README shows: badges, the answer of the reference run, and synthetic images."""

from __future__ import annotations

import re
import tomllib
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hamsynth_utils.core.arm_names import ARM_NAMES, GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.paths import checkpoint_of, project_root
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import NOTICE
from hamsynth_utils.generators.loading import load_generator
from hamsynth_utils.notebook.plots.images import pixels
from hamsynth_utils.report.reference import short_answer

BEGIN, END = "<!-- {}: hamsynth readme -->\n", "<!-- end of {} -->"
"""Around each part of the README that is written here."""


SET_UP = ".colab/setup.ipynb"


ADDRESS = re.compile(r'ADDRESS = \\"[^"\\]*\\"')
"""In the JSON of that notebook: where it clones the repository from."""


PICTURE = "checkpoints/samples.jpg"


SEED = 0


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


TILE, GAP, LEFT, HEAD, FOOT = 128, 6, 116, 48, 34
"""Sizes in the picture in pixels: an image, the gap between two, and the margins for text."""


def repository(project: Path | None = None) -> str:
    """The address of the repository, from pyproject.toml.

    Args:
        project: the file; that of the project by default.

    Returns:
        `https://github.com/OWNER/NAME`, or "" if the file has no address.

    Raises:
        InputError: if the address has another form, so that there are no badges for it.
    """
    project = project or project_root() / "pyproject.toml"
    address = (
        tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        .get("urls", {})
        .get("Repository", "")
    )
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise InputError(
            f"{project}: Repository must be https://github.com/OWNER/NAME, not {address}"
        )
    return str(address)


def badges(address: str) -> str:
    """Links to the published report, Binder and Colab.

    Args:
        address: from `repository`.

    Returns:
        One line of Markdown, or "" without an address.
    """
    if not address:
        return ""
    owner, name = address.split("/")[-2:]
    links = {
        "report": f"https://{owner}.github.io/{name}/",
        "Binder": f"https://mybinder.org/v2/gh/{owner}/{name}/HEAD?urlpath=lab/tree/notebooks",
        "Colab": f"https://colab.research.google.com/github/{owner}/{name}/blob/HEAD/{SET_UP}",
    }
    shield = "https://img.shields.io/badge/open-{}-blue"
    return (
        " ".join(f"[![{what}]({shield.format(what)})]({link})" for what, link in links.items())
        + "\n"
    )


def update_readme(readme: str) -> str:
    """Write the badges and the answer of the reference run into the README.

    Args:
        readme: the text of the README, with a pair of marks around the badges and around the
            answer.

    Returns:
        The new text.

    Raises:
        InputError: if a mark is missing, occurs twice or is in the wrong order.
    """
    for name, content in {"badges": badges(repository()), "answer": short_answer()}.items():
        begin, end = BEGIN.format(name), END.format(name)
        if not (
            readme.count(begin) == readme.count(end) == 1
            and readme.index(begin) < readme.index(end)
        ):
            raise InputError(
                f"README.md must have {begin.strip()} and {end} once each, in this order"
            )
        readme = readme[: readme.index(begin) + len(begin)] + content + readme[readme.index(end) :]
    return readme


def add_repository_address(set_up: str) -> str:
    """Write the repository's address into the set-up notebook for Colab.

    Args:
        set_up: the notebook as a JSON text.

    Returns:
        The new text.
    """
    return ADDRESS.sub(lambda _: f'ADDRESS = \\"{repository()}\\"', set_up)


def tile_at(row: int, column: int) -> tuple[int, int, int, int]:
    """The place of an image in the picture.

    Args:
        row: of the generator, from 0.
        column: of the class, from 0.

    Returns:
        Left, top, right and bottom in pixels.
    """
    left, top = LEFT + column * (TILE + GAP), HEAD + row * (TILE + GAP)
    return left, top, left + TILE, top + TILE


def samples(name: str) -> np.ndarray:
    """One image per class from a released checkpoint.

    Args:
        name: the generator.

    Returns:
        uint8 [7, S, S, 3], in the order of the classes.
    """
    return pixels(
        load_generator(checkpoint_of(name)).sample(torch.arange(len(HAM10000.classes)), SEED)
    )


def sample_sheet() -> Image.Image:
    """The picture of the README: one row per released generator and one column per class.

    Returns:
        The picture; a line in it says that all images are synthetic.
    """
    released = [name for name in GENERATORS if checkpoint_of(name).is_file()]
    _, _, right, bottom = tile_at(len(released) - 1, len(HAM10000.classes) - 1)
    sheet = Image.new("RGB", (right + GAP, bottom + FOOT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, dx in enumerate(HAM10000.classes):
        left, top, right, _ = tile_at(0, column)
        name = HAM10000.classes.long_names[dx].replace(" ", "\n", 1)
        draw.multiline_text(
            ((left + right) / 2, top - 4), name, "black", font, "md", align="center"
        )
    for row, generator in enumerate(released):
        for column, image in enumerate(samples(generator)):
            tile = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile, tile_at(row, column))
        _, top, _, bottom = tile_at(row, 0)
        draw.text((LEFT - 10, (top + bottom) / 2), ARM_NAMES[generator], "black", font, "rm")
    said = f"SYNTHETIC: drawn by {NUMBERS[len(released)]} generators. {HAM10000.licence}."
    draw.text((LEFT, sheet.height - FOOT / 2), said, "black", font, "lm")
    return sheet


def update_documents() -> None:
    """Update README.md and the set-up notebook for Colab; raises InputError as their parts do."""
    for name, updated in {"README.md": update_readme, SET_UP: add_repository_address}.items():
        path = project_root() / name
        text = updated(path.read_text(encoding="utf-8"))
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_picture() -> None:
    """Draw the README's picture again, from the released checkpoints."""
    content = BytesIO()  # Pillow itself would not notice a full disk
    sample_sheet().save(content, "JPEG", quality=90, comment=f"{NOTICE} {HAM10000.licence}")
    with atomic_path(project_root() / PICTURE) as temporary:
        temporary.write_bytes(content.getvalue())
