"""Images of lesions: grids, named rows, one row per class, heat maps over images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import LesionSet, to_uint8
from hamsynth_utils.notebook.plots.style import WIDTH, BookFigure, styled

Array = np.ndarray
Images = Tensor | Array | LesionSet
"""uint8 [N, 3, H, W], float [N, 3, H, W] in [-1, 1], or a LesionSet."""


def pixels(images: Images) -> Array:
    """Images as matplotlib draws them.

    Args:
        images: N >= 1 images.

    Returns:
        uint8 [N, H, W, 3].

    Raises:
        InputError: for another shape, type or value range.
    """
    images = images.images if isinstance(images, LesionSet) else images
    tensor = torch.as_tensor(images).detach().cpu()
    if tensor.ndim != 4 or tensor.shape[1] != 3 or len(tensor) == 0:
        raise InputError(f"images must be [N, 3, H, W] with N >= 1, not {list(tensor.shape)}")
    if tensor.is_floating_point():
        if not tensor.abs().max() <= 1.001:  # NaN fails too
            raise InputError(
                f"float images must lie in [-1, 1], not {tensor.min():.3g} to {tensor.max():.3g}: "
                "rescale or clamp them first"
            )
        tensor = to_uint8(tensor)
    if tensor.dtype != torch.uint8:
        raise InputError(f"images must be uint8, or float in [-1, 1], not {tensor.dtype}")
    return tensor.permute(0, 2, 3, 1).numpy()  # [N, 3, H, W] -> [N, H, W, 3]


def _tiles(
    tiles: Array,
    visible: Array,
    columns: int,
    scale: float,
    titles: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Figure:
    """A mosaic of tiles [N, H, W, 3]: `titles` above tiles, `rows` left of rows, gaps are white."""
    n, height, width, _ = tiles.shape
    n_rows = -(-n // columns)
    gap, head = max(1, round(0.04 * width)), round(0.24 * width / scale) if titles else 0
    left = 1.3 if rows else 0.0  # inches
    step_x, step_y = width + gap, height + gap + head
    sheet = np.full((n_rows * step_y - gap, columns * step_x - gap, 3), 255, dtype=np.uint8)
    inch = (8 * step_x - gap) / (WIDTH - left) / scale  # pixels of the sheet per inch
    figsize = (left + sheet.shape[1] / inch, sheet.shape[0] / inch)
    figure = BookFigure(figsize=figsize)
    axes = figure.add_axes((left / figsize[0], 0, 1 - left / figsize[0], 1))
    for i in np.flatnonzero(visible).tolist():
        x, y = i % columns * step_x, i // columns * step_y + head
        sheet[y : y + height, x : x + width] = tiles[i]
        if titles:
            place = x + width / 2, y - 0.04 * width
            axes.text(*place, titles[i], ha="center", va="bottom", fontsize=10)
    for row, name in enumerate(rows):
        y = row * step_y + head + height / 2
        name = textwrap.fill(name, 14, break_long_words=False)
        axes.text(-0.12 * width, y, name, ha="right", va="center", fontsize=10)
    axes.imshow(sheet, aspect="auto")
    axes.axis("off")
    return figure


@styled
def image_grid(
    images: Images, titles: Sequence[str] | None = None, columns: int = 8, scale: float = 1.0
) -> Figure:
    """Images row by row, each with its title.

    Args:
        images: N >= 1 images.
        titles: one per image.
        columns: images per row.
        scale: size of an image; at 1, eight columns fill the book's width.

    Returns:
        The figure.

    Raises:
        InputError: for images of another shape, type or value range, a number of titles that does
            not fit, or `columns` or `scale` that are not positive.
    """
    tiles = pixels(images)
    if titles is not None and len(titles) != len(tiles):
        raise InputError(f"{len(titles)} titles for {len(tiles)} images: give one per image")
    if columns < 1 or scale <= 0:
        raise InputError(
            f"columns must be at least 1 and scale positive, not {columns} and {scale}"
        )
    visible = np.ones(len(tiles), dtype=bool)
    return _tiles(tiles, visible, min(columns, len(tiles)), scale, titles=list(titles or ()))


@styled
def image_rows(rows: Mapping[str, Images], scale: float = 1.0) -> Figure:
    """One row of images per name, with the name at its left: before and after, or steps of a chain.

    Args:
        rows: images by name, all of one size. Rows may differ in length.
        scale: size of an image; at 1, eight images fill the book's width.

    Returns:
        The figure.

    Raises:
        InputError: for no row, images of different sizes, or another shape, type or value range.
    """
    parts = {name: pixels(images) for name, images in rows.items()}
    if len({part.shape[1:] for part in parts.values()}) != 1:
        raise InputError(
            f"rows must hold images of one size, not {[p.shape[1:3] for p in parts.values()]}"
        )
    columns = max(len(part) for part in parts.values())
    padded = [np.pad(p, ((0, columns - len(p)), *[(0, 0)] * 3)) for p in parts.values()]
    visible = np.concatenate([np.arange(columns) < len(part) for part in parts.values()])
    return _tiles(np.concatenate(padded), visible, columns, scale, rows=list(parts))


@styled
def class_grid(lesions: LesionSet, per_class: int = 8, seed: int = 0, scale: float = 1.0) -> Figure:
    """Random images of different lesions, one row per class that has images.

    Args:
        lesions: at least one image.
        per_class: images per row; fewer if a class has fewer lesions.
        seed: of the choice.
        scale: size of an image; at 1, eight images fill the book's width.

    Returns:
        The figure.

    Raises:
        InputError: if the set holds no image.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, Images] = {}
    for dx, name in lesions.classes.long_names.items():
        own = rng.permutation(np.flatnonzero((lesions.table["dx"] == dx).to_numpy()))
        ids = lesions.table["lesion_id"].iloc[own]
        own = own[(ids.isna() | ~ids.duplicated()).to_numpy()][:per_class]
        if len(own):
            rows[name] = lesions.images[torch.as_tensor(own)]
    if not rows:
        raise InputError("the lesion set holds no image: there is nothing to draw")
    return image_rows(rows, scale)


@styled
def overlay(
    images: Images, heat: Tensor | Array, titles: Sequence[str] | None = None, columns: int = 6
) -> Figure:
    """Each image, and beside it the image under its heat map.

    Args:
        images: N >= 1 images.
        heat: float [N, h, w] of any size. Each map is scaled to its own range.
        titles: one per image.
        columns: tiles per row, at least 2. An image and its overlay are two tiles.

    Returns:
        The figure.

    Raises:
        InputError: for images of another shape, type or value range, maps that do not fit or are
            not finite, a number of titles that does not fit, or fewer than two columns.
    """
    tiles = pixels(images)
    if columns < 2:
        raise InputError(f"columns must be at least 2, not {columns}")
    maps = torch.as_tensor(heat).detach().cpu().float()
    if maps.ndim != 3 or len(maps) != len(tiles) or not torch.isfinite(maps).all():
        raise InputError(f"heat must be finite [{len(tiles)}, h, w], not {list(maps.shape)}")
    maps = torch.nn.functional.interpolate(
        maps[:, None], tiles.shape[1:3], mode="bilinear", align_corners=False
    )[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    strength = ((maps - low) / (high - low).clamp_min(1e-12)).numpy()
    colour = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    weight = (0.2 + 0.55 * strength)[..., None]
    mixed = np.rint(tiles * (1 - weight) + colour * weight).astype(np.uint8)
    pairs = np.stack([tiles, mixed], axis=1).reshape(-1, *tiles.shape[1:]).transpose(0, 3, 1, 2)
    names = None if titles is None else [text for title in titles for text in (title, "")]
    columns -= columns % 2
    return image_grid(pairs, names, columns, scale=8 / columns)
