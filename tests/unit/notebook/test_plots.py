"""Each figure shows its data: the right bars, intervals, names, pixels and colours."""

import io
from collections.abc import Callable

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import same_color, to_hex
from matplotlib.figure import Figure
from PIL import Image

from hamsynth_utils.core.arm_names import ARMS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.notebook import plots

CLASSES = HAM10000.classes.names


@pytest.fixture(scope="module")
def lesions() -> LesionSet:
    return make_phantom(90, image_size=32)


@pytest.fixture
def groups() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "attribute": ["sex", "sex", "sex", "age_band"],
            "group": ["female", "male", "missing", "70+"],
            "n": [800, 1900, 12, 500],
            "value": [0.7, 0.8, 0.5, 0.6],
            "low": [0.65, 0.75, 0.2, 0.5],
            "high": [0.75, 0.85, 0.8, 0.7],
            "enough": [True, True, False, True],
        }
    )


def class_rows(arms: list[str], dx: str = "mel") -> pd.DataFrame:
    """One measure of one class: 0.1, 0.2, ... of the arms, from 0.1 below to 0.2 above."""
    value = np.arange(1, len(arms) + 1) / 10
    bounds = {"value": value, "low": value - 0.1, "high": value + 0.2}
    return pd.DataFrame({"measure": "recall", "dx": dx, "arm": arms, **bounds})


def mosaic(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def segments(figure: Figure) -> list[np.ndarray]:
    """The dark, inner line of each interval of bars."""
    return intervals(figure.axes[0], 1)


def intervals(axes: Axes, number: int = 0) -> list[np.ndarray]:
    """Both ends of each interval, [2, 2], of the first set of intervals or another."""
    lines = [each for each in axes.collections if isinstance(each, LineCollection)]
    return [np.asarray(path.vertices) for path in lines[number].get_paths()]


def dots(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Places [N, 2] and colours [N, 4] of all points."""
    drawn = [each for each in axes.collections if type(each) is PathCollection]
    places, colours = (
        [getattr(each, f"get_{what}")() for each in drawn] for what in ("offsets", "facecolors")
    )
    return np.concatenate(places), np.concatenate(colours)


def cells(figure: Figure) -> np.ndarray:
    """The fractions that a heat map shows."""
    return np.asarray(figure.axes[0].collections[0].get_array())


def test_style_stays_inside_and_no_figure_is_left_in_pyplot() -> None:
    before = dict(matplotlib.rcParams)
    figure = plots.bars_with_intervals(["real"], [0.5])
    assert figure.axes[0].yaxis.label.get_fontsize() == plots.THEME["axes.labelsize"]
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_a_notebook_gets_a_png_of_book_width() -> None:
    png = plots.bars_with_intervals(["real"], [0.5])._repr_png_()  # type: ignore[attr-defined]
    picture = Image.open(io.BytesIO(png))
    assert picture.width == pytest.approx(plots.WIDTH * 130, abs=1)


def test_colours_are_fixed_and_all_different() -> None:
    assert tuple(plots.ARM_COLOURS) == ARMS
    class_colours = plots.class_colours(HAM10000.classes)
    assert tuple(class_colours) == CLASSES
    assert len(set(plots.ARM_COLOURS.values())) == len(ARMS)
    assert len(set(class_colours.values())) == len(CLASSES)
    assert plots.class_colours(CLASSES[:3]) == {dx: class_colours[dx] for dx in CLASSES[:3]}
    assert len(set(plots.class_colours("abcdefghijkl").values())) == 12
    for labels in (["real", "vae", "gan", "diffusion"], ["diffusion", "gan"]):
        bars = plots.bars_with_intervals(labels, [0.5] * len(labels)).axes[0].patches
        for label, bar in zip(labels, bars, strict=True):
            assert same_color(bar.get_facecolor(), plots.ARM_COLOURS[label])
        axes = plots.class_panels(class_rows(labels), dict.fromkeys(CLASSES, 1)).axes[0]
        for label, colour in zip(labels, dots(axes)[1], strict=True):
            assert same_color(colour, plots.ARM_COLOURS[label])


def test_image_grid_holds_the_pixels_in_reading_order(lesions: LesionSet) -> None:
    figure = plots.image_grid(lesions.images[:5], columns=3)
    sheet = mosaic(figure)
    gap = (sheet.shape[1] - 3 * 32) // 2
    assert sheet.shape == (64 + gap, 96 + 2 * gap, 3)
    fourth = sheet[32 + gap :, :32]
    np.testing.assert_array_equal(fourth, lesions.images[3].permute(1, 2, 0).numpy())
    assert (sheet[32 + gap :, 2 * (32 + gap) :] == 255).all()
    assert len(figure.axes) == 1


def test_image_grid_accepts_floats_arrays_and_lesion_sets(lesions: LesionSet) -> None:
    truth = mosaic(plots.image_grid(lesions.images[:4]))
    few = lesions.subset(np.arange(4))
    for same in (
        to_unit_range(few.images),
        to_unit_range(few.images).numpy(),
        few.images.numpy(),
        few,
    ):
        np.testing.assert_array_equal(mosaic(plots.image_grid(same)), truth)


def test_image_grid_titles(lesions: LesionSet) -> None:
    assert texts(plots.image_grid(lesions.images[:3], titles=["a", "b", "c"], columns=2)) == [
        "a",
        "b",
        "c",
    ]


def test_eight_columns_fill_the_width_of_the_book(lesions: LesionSet) -> None:
    for figure in (plots.image_grid(lesions.images[:16]), plots.class_grid(lesions, per_class=8)):
        assert figure.get_figwidth() == pytest.approx(plots.WIDTH, abs=0.1)


def test_class_grid_has_a_named_row_a_class_of_its_own_lesions(lesions: LesionSet) -> None:
    painted = LesionSet(
        lesions.labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32).contiguous(),
        lesions.labels,
        lesions.table,
        lesions.classes,
    )
    figure = plots.class_grid(painted, per_class=3)
    assert [name.replace("\n", " ") for name in texts(figure)] == list(
        HAM10000.classes.long_names.values()
    )
    sheet = mosaic(figure)
    step = (sheet.shape[0] - 32) // 6
    for label in range(7):
        assert set(sheet[label * step : label * step + 32, :32].ravel()) == {label}
    np.testing.assert_array_equal(
        mosaic(plots.class_grid(lesions, 3, seed=1)), mosaic(plots.class_grid(lesions, 3, seed=1))
    )
    assert not np.array_equal(
        mosaic(plots.class_grid(lesions, 3, 1)), mosaic(plots.class_grid(lesions, 3, 2))
    )


def test_class_grid_shows_a_lesion_once(lesions: LesionSet) -> None:
    twice = lesions.subset(np.repeat(np.flatnonzero(lesions.labels.numpy() == 3), 5))
    sheet = mosaic(plots.class_grid(twice, per_class=8))
    known = twice.table["lesion_id"].nunique()
    gap = (sheet.shape[1] - known * 32) / max(known - 1, 1)
    assert 0 < gap < 4


def test_image_rows_of_different_lengths(lesions: LesionSet) -> None:
    figure = plots.image_rows({"real": lesions.images[:3], "rebuilt": lesions.images[3:4]})
    assert texts(figure) == ["real", "rebuilt"]
    sheet = mosaic(figure)
    np.testing.assert_array_equal(sheet[-32:, :32], lesions.images[3].permute(1, 2, 0).numpy())
    assert (sheet[-32:, 34:] == 255).all()


def test_overlay_is_brightest_where_the_heat_is(lesions: LesionSet) -> None:
    heat = torch.zeros(1, 4, 4)
    heat[0, 0, 3] = 5.0
    sheet = mosaic(plots.overlay(lesions.images[:1], heat, columns=2)).astype(float)
    image, mixed = sheet[:, :32], sheet[:, -32:]
    np.testing.assert_array_equal(image, lesions.images[0].permute(1, 2, 0).numpy())
    assert mixed[:8, 24:].sum() > 1.3 * mixed[:8, :8].sum()
    assert (mixed[16:, :16] <= image[16:, :16]).all()


def test_class_counts(lesions: LesionSet) -> None:
    figure = plots.class_counts({"train": lesions, "test": lesions.subset(np.arange(10))})
    axes = figure.axes[0]
    counts = list(lesions.counts.values()) + list(lesions.subset(np.arange(10)).counts.values())
    bars = [bar for container in axes.containers for bar in container]
    assert [bar.get_width() for bar in bars] == counts
    assert texts(figure) == [str(count) for count in counts]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(
        HAM10000.classes.long_names.values()
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "train (90)",
        "test (10)",
    ]


def test_loss_curves_name_each_column_and_leave_out_missing_values() -> None:
    history = pd.DataFrame(
        {"step": range(100), "train": np.linspace(2, 1, 100), "validation": np.nan}
    )
    history.loc[[10, 60], "validation"] = [1.9, 1.8]
    figure = plots.loss_curves(history, ["train", "validation"], smooth=10)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert sorted(texts(figure)) == ["train", "validation"]
    np.testing.assert_array_equal(lines["validation"].get_xdata(), [10, 60])
    assert lines["train"].get_ydata()[-1] == pytest.approx(history["train"].iloc[-10:].mean())


def test_names_at_the_curves_ends_do_not_overlap() -> None:
    history = pd.DataFrame(
        {"step": [0, 1], **{name: [1.0, 0.5] for name in "abcde"}, "f": [3.0, 3.0]}
    )
    heights = sorted(
        text.get_position()[1] for text in plots.loss_curves(history, list("abcdef")).axes[0].texts
    )
    assert min(np.diff(heights)) > 0.08
    assert heights[-1] <= 1


@pytest.mark.parametrize(("low", "high"), [(1.1, 1.9), (0.01, 0.2), (1e-4, 30.0)])
def test_a_logarithmic_axis_has_plain_readable_ticks(low: float, high: float) -> None:
    history = pd.DataFrame({"step": [0, 1], "loss": [high, low]})
    axes = plots.loss_curves(history, ["loss"], log=True).axes[0]
    bottom, top = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    assert 2 <= len(ticks) <= 8


def test_bars_have_intervals_where_there_are_some() -> None:
    figure = plots.bars_with_intervals(
        ["real", "vae", "gan"], [0.7, 0.8, 0.9], [0.6, np.nan, 0.85], [0.75, np.nan, 0.95]
    )
    drawn = segments(figure)
    assert len(drawn) == 2
    np.testing.assert_allclose(drawn[0], [[0, 0.6], [0, 0.75]])
    np.testing.assert_allclose(drawn[1], [[2, 0.85], [2, 0.95]])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.7, 0.8, 0.9]
    assert texts(figure) == ["0.70", "0.80", "0.90"]
    assert figure.axes[0].get_ylim()[0] == 0


def test_bars_show_reference_and_claims_within_the_axes() -> None:
    figure = plots.bars_with_intervals(
        ["vae", "gan"],
        [50, 40],
        ylabel="FID",
        reference=(9.0, "real-vs-real baseline"),
        claims=[None, 60.0],
        digits=0,
    )
    points, line = figure.axes[0].lines
    np.testing.assert_array_equal(points.get_ydata(), [np.nan, 60.0])
    assert set(line.get_ydata()) == {9.0}
    assert "real-vs-real baseline" in texts(figure)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "source report"
    assert figure.axes[0].get_ylim()[1] > 60


def test_negative_bars_and_absent_values_stay_within_the_axes() -> None:
    figure = plots.bars_with_intervals(
        ["real", "vae"], [-2.5, np.nan], [-4.0, np.nan], [-1, np.nan]
    )
    (axes,) = figure.axes
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    assert low < -4 < 0 <= high and left <= -0.5 and right >= 1.5
    assert texts(figure) == ["-2.50", "no value"]
    assert axes.texts[0].xy == (0, 0)  # above the bar, not in it
    for values in ([0.0, np.nan], [np.nan, np.nan]):
        bottom, top = plots.bars_with_intervals(["real", "vae"], values).axes[0].get_ylim()
        assert bottom == 0 < top


def test_a_figure_of_nothing_shows_a_dash_and_the_reason() -> None:
    figure = plots.not_measured("none of the images has a mask of its lesion")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [
        "- (none of the images has a mask of its lesion)"
    ]
    assert not axes.axison


def test_estimates_are_rows_from_top_to_bottom() -> None:
    rows = pd.DataFrame(
        {"arm": ["gan", "other", "gan"], "value": [1.0, -2, 3], "low": [0, np.nan, 2]}
    ).assign(high=[2, np.nan, 5])
    (axes,) = plots.estimate_rows(rows, "points", reference=0.5, digits=0).axes
    places, colours = dots(axes)
    assert places.tolist() == [[1, 0], [-2, 1], [3, 2]] and axes.yaxis_inverted()
    np.testing.assert_allclose(intervals(axes), [[[0, 0], [2, 0]], [[2, 2], [5, 2]]])
    assert same_color(colours[0], plots.ARM_COLOURS["gan"]) and same_color(colours[1], plots.GREY)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["GAN", "other", "GAN"]
    assert [text.get_text() for text in axes.texts] == ["1", "-2", "3"]
    assert set(axes.lines[0].get_xdata()) == {0.5}


def test_curves_have_intervals_names_and_what_they_are_compared_with() -> None:
    steps = pd.DataFrame({"solver": ["b", "a", "b", "a"], "steps": [4, 4, 8, 8]})
    mean = np.array([9.0, 8, 7, 4])
    points = steps.assign(mean=mean, low=mean - 1, high=mean + 2, real_baseline=3.0)
    (axes,) = plots.distance_curves(points, "steps", "FD", series="solver").axes
    curves = {to_hex(line.get_color()).upper(): list(line.get_ydata()) for line in axes.lines}
    assert curves == {plots.PALETTE[0]: [8, 4], plots.PALETTE[1]: [9, 7], plots.GREY: [3, 3]}
    ends = sorted(interval[:, 1].tolist() for interval in intervals(axes))
    assert ends == [[3, 6], [6, 9], [7, 10], [8, 11]]
    assert [text.get_text() for text in axes.texts] == ["real images", "a", "b"]
    assert axes.get_ylim()[0] == 0 and axes.get_xticks().tolist() == [4, 8]
    gains = points.rename(columns={"mean": "value"}).assign(arm=["vae", "gan"] * 2)
    (axes,) = plots.gain_curves(gains.astype({"value": object}), "steps", "points").axes
    curves = {to_hex(line.get_color()).upper(): list(line.get_ydata()) for line in axes.lines}
    assert curves == {
        plots.ARM_COLOURS["vae"]: [9, 7],
        plots.ARM_COLOURS["gan"]: [8, 4],
        plots.INK: [0, 0],
    }
    assert [text.get_text() for text in axes.texts] == ["GAN", "VAE"]


def test_each_class_has_one_point_per_arm_and_marked_classes_have_grey_ground() -> None:
    rows = pd.concat([class_rows(["vae", "gan"], dx) for dx in ("akiec", "vasc")])
    counts = dict.fromkeys(CLASSES, 7) | {"vasc": 1234}
    axes = plots.class_panels(rows, counts, marked=["vasc"], reference=0.0, xlabel="points").axes[0]
    (zero,) = axes.lines
    assert set(zero.get_xdata()) == {0.0}
    values, heights = dots(axes)[0].T.tolist()
    np.testing.assert_allclose(values, [0.1, 0.2, 0.1, 0.2])
    assert heights == sorted(heights) and len(set(heights)) == 4
    np.testing.assert_allclose(intervals(axes)[0][:, 0], [0.0, 0.3], atol=1e-12)
    (ground,) = axes.patches
    low, high = sorted((ground.get_y(), ground.get_y() + ground.get_height()))
    assert [low < y < high for y in heights] == [False, False, True, True]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "akiec\nn = 7" and labels[-1] == "vasc\nn = 1,234"
    assert [text.get_text() for text in axes.texts] == ["VAE", "GAN"] * len(CLASSES)


def training_rows(seeds: int) -> pd.DataFrame:
    """Two generators and two measures; in seed k of a measure each value is k above that of seed 0."""
    return pd.DataFrame(
        [
            {"measure": m, "arm": arm, "seed": s, "value": value + s, "baseline": base}
            for m, base in (("FD", 3.0), ("coverage", 9.0))
            for arm, value in (("gan", 5.0), ("vae", 7.0))
            for s in range(seeds)
        ]
    )


def test_each_training_is_a_point_beside_the_value_of_real_images() -> None:
    distance, coverage = plots.training_panels(training_rows(3)).axes
    places, colours = dots(distance)
    assert places.tolist() == [[5, 0], [6, 0], [7, 0], [7, 1], [8, 1], [9, 1]]
    for colour, arm in zip(colours, ["gan"] * 3 + ["vae"] * 3, strict=True):
        assert same_color(colour[:3], plots.ARM_COLOURS[arm])
    assert [label.get_text() for label in distance.get_yticklabels()] == ["GAN", "VAE"]
    assert distance.yaxis_inverted()
    for axes, base in ((distance, 3.0), (coverage, 9.0)):
        real, *seeds = axes.lines
        assert set(real.get_xdata()) == {base} and same_color(real.get_color(), plots.GREY)
        assert [list(line.get_xdata()) for line in seeds] == [[5, 7], [6, 8], [7, 9]]
        assert [text.get_text().strip() for text in axes.texts] == ["real images"]


def test_one_training_has_points_and_no_lines_between_them() -> None:
    for axes in plots.training_panels(training_rows(1)).axes:
        assert len(axes.lines) == 1, "the value of real images"
        assert dots(axes)[0].tolist() == [[5, 0], [7, 1]]


def test_precision_recall_panels_have_each_arm_beside_the_reference_with_bands() -> None:
    def band(value: list[float]) -> pd.DataFrame:
        bounds = {"low": np.subtract(value, 0.1), "high": np.add(value, 0.1)}
        return pd.DataFrame({"recall": [0.0, 1.0], "value": value, **bounds})

    by_arm = {"real": band([1.0, 0.3]), "vae": band([0.9, 0.2]), "gan": band([0.8, 0.4])}
    figure = plots.precision_recall_panels({"a": by_arm, "b": by_arm}, {"a": 0.25, "b": 0.5})
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes[::2]] == [
        ["real only", "VAE"],
        ["real only", "GAN"],
    ]
    chance, real, gan = figure.axes[3].lines
    assert set(chance.get_ydata()) == {0.5}
    assert (list(real.get_ydata()), list(gan.get_ydata())) == ([1.0, 0.3], [0.8, 0.4])
    edges = figure.axes[3].patches[1].get_path().vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((0.3, 0.9))
    alone = plots.precision_recall_panels({"a": {"real": band([1.0, 0.3])}}, {"a": 0.2})
    assert [text.get_text() for text in alone.axes[0].texts] == ["real only"]


def test_confusion_matrix_is_normalised_by_row() -> None:
    counts = np.array([[3, 1], [0, 0]])
    figure = plots.confusion_matrix(counts, ["mel", "nv"])
    np.testing.assert_allclose(cells(figure), [[0.75, 0.25], [0, 0]])
    assert " ".join(texts(figure)).split() == ["75%", "3", "25%", "1"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "mel\nn = 4",
        "nv\nn = 0",
    ]


def test_confusion_panels_have_per_cent_of_the_row_and_hide_unused_axes() -> None:
    counts = np.zeros((7, 7), dtype=int)
    counts[1, 1], counts[1, 4], counts[6, 5] = 3, 1, 2
    figure = plots.confusion_panels(
        {arm: counts for arm in ("real", "vae", "gan")}, plots.ARM_NAMES, CLASSES
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["real only", "VAE", "GAN", ""]
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
    for axes in figure.axes[:3]:
        np.testing.assert_allclose(
            np.asarray(axes.collections[0].get_array())[1], [0, 0.75, 0, 0, 0.25, 0, 0]
        )
        assert [text.get_text() for text in axes.texts if text.get_text()] == ["75", "25", "100"]


def test_group_bars_grey_out_small_groups(groups: pd.DataFrame) -> None:
    figure = plots.group_bars(groups, "recall", reference=(0.72, "all images"))
    sex, age = figure.axes
    assert [bar.get_width() for bar in sex.patches] == [0.7, 0.8, 0.5]
    assert [same_color(bar.get_facecolor(), plots.FAINT) for bar in sex.patches] == [
        False,
        False,
        True,
    ]
    assert [label.get_text() for label in sex.get_yticklabels()] == ["female", "male", "missing"]
    np.testing.assert_allclose(segments(figure)[1], [[0.75, 1], [0.85, 1]])
    assert texts(figure) == ["n = 800", "n = 1,900", "n = 12", "n = 500"]
    assert len(age.patches) == 1
    assert all(set(axes.lines[0].get_xdata()) == {0.72} for axes in figure.axes)


def test_histogram_pair_shows_shares_on_common_bins() -> None:
    rng = np.random.default_rng(0)
    figure = plots.histogram_pair(
        rng.normal(0, 1, 50), rng.normal(3, 1, 900), ("a", "b"), threshold=-1.5
    )
    outlines = [each.get_paths()[0].vertices for each in figure.axes[0].collections[::-1]]
    peaks = [outline[:, 1].max() for outline in outlines]
    assert all(0.05 < peak < 0.5 for peak in peaks)  # shares of each n, not counts
    np.testing.assert_array_equal(outlines[0][:, 0], outlines[1][:, 0])
    low, high = (outline[:, 0][outline[:, 1] > 0].mean() for outline in outlines)
    assert low < 0.5 and high > 2  # each outline is that of its own values
    assert set(figure.axes[0].lines[0].get_xdata()) == {-1.5}
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["a, n = 50", "b, n = 900"]


ZEROS = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.image_grid(ZEROS[:, :1]), r"\[N, 3, H, W\]"),
        (lambda: plots.image_grid(ZEROS + 2), "clamp"),
        (lambda: plots.image_grid(ZEROS * np.nan), "clamp"),
        (lambda: plots.image_grid(ZEROS.long()), "uint8"),
        (lambda: plots.image_grid(ZEROS, titles=["one"]), "titles"),
        (lambda: plots.image_grid(ZEROS, columns=0), "columns"),
        (lambda: plots.image_rows({"a": ZEROS, "b": ZEROS[..., :4]}), "one size"),
        (lambda: plots.image_rows({}), "one size"),
        (lambda: plots.class_grid(make_phantom(1, 16).subset(np.arange(0))), "no image"),
        (lambda: plots.overlay(ZEROS, torch.zeros(1, 4, 4)), "heat"),
        (lambda: plots.class_counts({}), "empty"),
        (lambda: plots.loss_curves(pd.DataFrame({"step": [1]}), ["loss"]), "no column.*loss"),
        (
            lambda: plots.loss_curves(pd.DataFrame({"step": [1], "l": [-1]}), ["l"], log=True),
            "log=False",
        ),
        (lambda: plots.bars_with_intervals(["a"], [1, 2]), "2 values for 1 labels"),
        (lambda: plots.bars_with_intervals(["a"], [1], [2], [1]), "low"),
        (lambda: plots.bars_with_intervals(["a"], [1], low=[0.5]), "both or neither"),
        (lambda: plots.precision_recall_panels({}, {}), "same titles"),
        (lambda: plots.precision_recall_panels({"a": {"vae": None}}, {"a": 0.1}), "each with real"),
        (lambda: plots.class_panels(pd.DataFrame({"dx": ["mel"]}), {}), "lack.*measure"),
        (lambda: plots.training_panels(training_rows(0)), "lack|at least one row"),
        (lambda: plots.training_panels(training_rows(1).drop(columns="seed")), "lack.*seed"),
        (lambda: plots.confusion_matrix(np.eye(3), CLASSES), "counts"),
        (lambda: plots.confusion_panels({}, {}, CLASSES), "matrices"),
        (lambda: plots.group_bars(pd.DataFrame({"attribute": ["sex"]})), "value"),
        (lambda: plots.histogram_pair([], [1.0], ("a", "b")), "at least one value"),
    ],
)
def test_bad_input(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw()


def test_a_threshold_separates_the_scores_at_its_value() -> None:
    scores, truth = np.array([0.1, 0.4, 0.6, 0.9, 0.3]), np.array([False, False, True, True, True])
    sensitivity = {"value": 2 / 3, "low": 0.2, "high": 0.9}
    figure = plots.threshold_panels(
        scores, truth, 0.5, sensitivity, {"value": 1.0, "low": 0.5, "high": 1.0}, "melanoma"
    )
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "melanoma, n = 3",
        "other, n = 2",
    ]
    curves = {line.get_label(): line.get_xydata() for line in right.lines}
    for name, at in {
        "sensitivity": {0.0: 100, 0.35: 200 / 3, 0.5: 200 / 3, 0.7: 100 / 3, 1.0: 0},
        "specificity": {0.0: 0, 0.35: 50, 0.5: 100, 1.0: 100},
    }.items():
        for threshold, value in at.items():
            assert curves[name][np.isclose(curves[name][:, 0], threshold), 1] == pytest.approx(
                value
            )
    np.testing.assert_allclose(intervals(right)[0], [[0.5, 20], [0.5, 90]])
    with pytest.raises(InputError, match="of one kind"):
        plots.threshold_panels(scores[2:], truth[2:], 0.5, sensitivity, sensitivity, "melanoma")


def test_a_mixture_shows_the_images_of_each_class_and_the_gain_at_its_ratio() -> None:
    real, synthetic = (
        dict(zip(CLASSES, range(100, 800, 100), strict=True)),
        dict.fromkeys(CLASSES, 0) | {"df": 50},
    )
    gains = pd.DataFrame(
        {"arm": "gan", "ratio": [0, 0.5], "value": [0, 2.0], "low": [0, -1.0], "high": [0, 4.0]}
    )
    figure = plots.mixture_panels(real, synthetic, gains, 0.5)
    left, right = figure.axes
    own, added = (left.containers[number] for number in (0, 1))
    assert [bar.get_width() for bar in own] == list(real.values())
    assert [(bar.get_x(), bar.get_width()) for bar in added] == [
        (real[dx], synthetic[dx]) for dx in CLASSES
    ]
    assert "400 + 50" in texts(figure) and "700" in texts(figure)
    assert same_color(added[0].get_facecolor(), plots.ARM_COLOURS["gan"])
    np.testing.assert_allclose(intervals(right, 1)[0], [[0.5, -1], [0.5, 4]])
    places, colours = dots(right)
    coloured = [same_color(colour, plots.ARM_COLOURS["gan"]) for colour in colours]
    assert places[coloured].tolist() == [[0.5, 2.0]]
    with pytest.raises(InputError, match=r"one row at ratio 0\.7"):
        plots.mixture_panels(real, synthetic, gains, 0.7)


def ratios(**change: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "images": ["real_baseline"] * 3 + ["gan"] * 3,
            "cycles": [1, 2, 3] * 2,
            "value": [1.0, 1, 1, 1, 0.1, 2],
        }
    )
    return frame.assign(low=frame["value"] * 0.9, high=frame["value"] * 1.1).assign(**change)


def test_spectra_are_drawn_on_a_logarithmic_axis_with_their_names() -> None:
    axes = plots.spectrum_curves(ratios()).axes[0]
    at_one, floor, gan = axes.lines
    assert axes.get_yscale() == "log" and at_one.get_ydata()[0] == 1
    assert list(gan.get_ydata()) == [1, 0.1, 2] and same_color(
        gan.get_color(), plots.ARM_COLOURS["gan"]
    )
    assert same_color(floor.get_color(), plots.GREY)
    assert {text.get_text() for text in axes.texts} == {"GAN", "other real images"}
    assert len(axes.patches) == 2  # the bands


@pytest.mark.parametrize(
    "frame",
    [ratios().iloc[:0], ratios(low=0.0), ratios().drop(columns="high")],
    ids=["empty", "zero", "no high"],
)
def test_bad_spectra_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="at least one row|lack the columns"):
        plots.spectrum_curves(frame)
