"""What the README shows: the answer of the reference run, and a picture of what comes out.

python -m hamsynth_utils.front_door             write the answer into README.md, between its two marks
python -m hamsynth_utils.front_door --picture   draw checkpoints/samples.jpg again, from the checkpoints
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hamsynth_utils.checkpoints import checkpoint_of
from hamsynth_utils.data.lesions import CLASS_NAMES, CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.figures import ARM_NAMES
from hamsynth_utils.figures.images import pixels
from hamsynth_utils.generators import load_generator
from hamsynth_utils.profile import GENERATORS, project_root
from hamsynth_utils.results import answer_in_words
from hamsynth_utils.synthesis import LICENCE, NOTICE
from hamsynth_utils.writing import replacing

BEGIN, END = "<!-- answer: python -m hamsynth_utils.front_door -->", "<!-- end of answer -->"
PICTURE = "checkpoints/samples.jpg"
SEED = 0
TILE, GAP, LEFT, HEAD, FOOT = 128, 6, 104, 48, 34
"""Of the picture, in its pixels: a lesion, the room between two, and the margins with the words."""


def with_answer(text: str) -> str:
    """The README `text` with the answer of the reference run, or that there is none, between its marks.

    Raises InputError if it has not exactly one mark of either kind, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise InputError(f"README.md must have the marks {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{answer_in_words()}{END}{after}"


def tile_at(row: int, column: int) -> tuple[int, int, int, int]:
    """Where a lesion lies in the picture: left, top, right and bottom, in pixels."""
    left, top = LEFT + column * (TILE + GAP), HEAD + row * (TILE + GAP)
    return left, top, left + TILE, top + TILE


def samples(name: str) -> np.ndarray:
    """One image of each class, in their order, by a committed checkpoint: uint8 [7, S, S, 3]."""
    return pixels(load_generator(checkpoint_of(name)).sample(torch.arange(len(CLASSES)), SEED))


def picture() -> Image.Image:
    """One row a generator, one column a class, and in words that nothing in it is a photograph."""
    _, _, right, bottom = tile_at(len(GENERATORS) - 1, len(CLASSES) - 1)
    sheet = Image.new("RGB", (right + GAP, bottom + FOOT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, dx in enumerate(CLASSES):
        left, top, right, _ = tile_at(0, column)
        name = CLASS_NAMES[dx].replace(" ", "\n", 1)
        draw.multiline_text(((left + right) / 2, top - 4), name, "black", font, "md", align="center")
    for row, generator in enumerate(GENERATORS):
        for column, image in enumerate(samples(generator)):
            tile = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile, tile_at(row, column))
        _, top, _, bottom = tile_at(row, 0)
        draw.text((LEFT - 10, (top + bottom) / 2), ARM_NAMES[generator], "black", font, "rm")
    said = f"SYNTHETIC: drawn by three generators. {LICENCE}."
    draw.text((LEFT, sheet.height - FOOT / 2), said, "black", font, "lm")
    return sheet


def main(arguments: list[str] | None = None) -> int:
    """Bring README.md up to date with the reference run; 2 with one line if its marks are missing."""
    parser = argparse.ArgumentParser(prog="python -m hamsynth_utils.front_door", description=main.__doc__)
    parser.add_argument("--picture", action="store_true", help=f"draw {PICTURE} instead")
    options = parser.parse_args(arguments)
    target = project_root() / (PICTURE if options.picture else "README.md")
    try:
        if options.picture:
            with replacing(target) as temporary:
                picture().save(temporary, "JPEG", quality=90, comment=f"{NOTICE} {LICENCE}")
        else:
            _rewrite(target)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(target)
    return 0


def _rewrite(readme: Path) -> None:
    text = with_answer(readme.read_text())
    with replacing(readme) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
