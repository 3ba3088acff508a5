"""External test sets: what is read, what is refused, and which shared photos are found."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ISIC_ORDER, isic_ids, isic_truth, picture, write_isic_test_set
from PIL import Image

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.duplicates import SAME_PHOTO
from hamsynth_utils.data.external import find_external, read_external, read_truth
from hamsynth_utils.data.ham10000 import read_ham10000, read_near_duplicates
from hamsynth_utils.data.layouts import find_layout, first_names
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.data.split import Split, lesion_groups, lesion_split
from hamsynth_utils.experiment.external_test import (
    nearest_photos,
    require_no_overlap,
    shared_photos,
)

PHANTOM = make_phantom(42, 64, seed=5)
IDS = isic_ids(PHANTOM)
LESIONS = make_phantom(150, 64, seed=0)
"""Those of a run."""
TRUTH = "ISIC2018_Task3_Test_GroundTruth.csv"


def truth(order: tuple[str, ...] = ISIC_ORDER) -> pd.DataFrame:
    return isic_truth(PHANTOM, order)


def write_images(folder: Path, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, image in zip(IDS, PHANTOM.images, strict=True):
        picture(image).save(folder / f"{image_id}{suffix}", quality=95)


def official(folder: Path) -> None:
    write_isic_test_set(folder, PHANTOM)
    (folder / "ISIC2018_Task3_Test_Input/ATTRIBUTION.txt").write_text("by whom", encoding="utf-8")


def truth_in_its_folder(folder: Path) -> None:
    write_images(folder / "ISIC2018_Task3_Test_Input")
    (folder / TRUTH[:-4]).mkdir()
    truth().to_csv(folder / TRUTH[:-4] / TRUTH, index=False)


def other_names(folder: Path) -> None:
    write_images(folder / "photos", ".png")
    truth(ISIC_ORDER[::-1]).to_csv(folder / "clinic.csv", index=False)
    (folder / "notes.csv").write_text("image,remark\nISIC_1,blurred\n", encoding="utf-8")


def other_truths_beside(folder: Path) -> None:
    official(folder)
    truth().to_csv(folder / "ISIC2018_Task3_Training_GroundTruth.csv", index=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    official(tmp_path)
    return tmp_path


@pytest.mark.parametrize("make", [official, truth_in_its_folder, other_names, other_truths_beside])
def test_every_layout_and_order_of_columns_gives_the_same_labels(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path)
    lesions = read_external(str(tmp_path), 64, progress=False).lesions
    assert lesions.table["image_id"].tolist() == IDS
    assert lesions.table["dx"].tolist() == PHANTOM.table["dx"].tolist()
    assert torch.equal(lesions.labels, PHANTOM.labels) and set(lesions.labels.tolist()) == set(
        range(7)
    )
    assert lesions.table["lesion_id"].tolist() == IDS
    assert lesions.table[["age", "sex", "localization", "dataset"]].isna().all(axis=None)
    assert not lesions.table["synthetic"].any()
    assert (lesions.images.int() - PHANTOM.images.int()).abs().float().mean() < (
        0.1 if make is other_names else 3
    )


def test_images_are_cropped_and_shrunk_as_those_of_the_run(folder: Path) -> None:
    for image_id, image in zip(IDS, PHANTOM.images, strict=True):
        picture(image).resize((120, 90)).save(folder / f"ISIC2018_Task3_Test_Input/{image_id}.jpg")
    external = read_external(str(folder), 32, progress=False).lesions
    as_data = read_ham10000(folder, 32, progress=False).lesions
    assert external.images.shape[-1] == 32 and torch.equal(external.images, as_data.images)


def edit(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        change(truth().astype(object)).to_csv(folder / TRUTH, index=False)

    return spoil


def cells(line: int, **values: object) -> Callable[[Path], None]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[line - 2, ISIC_ORDER] = 0.0
        for column, value in values.items():
            table.loc[line - 2, column] = value
        return table

    return edit(change)


def rename_image(folder: Path) -> None:
    images = folder / "ISIC2018_Task3_Test_Input"
    (images / f"{IDS[3]}.jpg").rename(images / "ISIC_9999999.jpg")


def break_image(folder: Path) -> None:
    (folder / f"ISIC2018_Task3_Test_Input/{IDS[4]}.jpg").write_text(
        "<html>404</html>", encoding="utf-8"
    )


def without_truth(folder: Path) -> None:
    (folder / TRUTH).rename(folder / "truth.txt")
    (folder / "notes.csv").write_text("image,remark\nISIC_1,blurred\n", encoding="utf-8")


def two_truths(folder: Path) -> None:
    (folder / TRUTH).rename(folder / "a.csv")
    truth().to_csv(folder / "b.csv", index=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_truth, r"no ground truth in .*image, AKIEC, BCC.*there: notes\.csv"),
        (two_truths, r"2 ground truths, a\.csv, b\.csv"),
        (lambda folder: shutil.rmtree(folder), r"no folder at"),
        (lambda folder: shutil.rmtree(folder / "ISIC2018_Task3_Test_Input"), r"no image \("),
        (edit(lambda t: t.drop(columns="DF")), rf"{TRUTH} lacks the column\(s\) DF"),
        (
            edit(lambda t: t.rename(columns={"image": "name"})),
            rf"{TRUTH} lacks the column\(s\) image",
        ),
        (edit(lambda t: t.assign(SCC=0.0)), rf"{TRUTH} has the column\(s\) 'SCC'"),
        (
            edit(lambda t: t.rename(columns={"AKIEC": "AK"})),
            r"lacks the column\(s\) AKIEC; it has .*AK",
        ),
        (cells(9), rf"{TRUTH}, line 9 is not one-hot \(every column is 0\)"),
        (cells(9, MEL=1.0, NV=1.0), r"line 9 is not one-hot \(MEL is '1.0', NV is '1.0'\)"),
        (cells(9, MEL=0.5, NV=0.5), r"line 9 is not one-hot \(MEL is '0.5', NV is '0.5'\)"),
        (cells(9, BCC=2.0, DF=-1.0), r"line 9 is not one-hot \(BCC is '2.0', DF is '-1.0'\)"),
        (cells(9, VASC="yes"), r"line 9 is not one-hot \(VASC is 'yes'\)"),
        (cells(9, NV=1.0, image=IDS[2]), rf"line 9 repeats an image_id.*'{IDS[2]}'"),
        (cells(9, NV=1.0, image=""), r"line 9 has no image_id"),
        (
            cells(9, NV=1.0, image="ISIC_1"),
            r"1 of the 42 images in .*GroundTruth.csv have no file: ISIC_1",
        ),
        (
            edit(lambda t: t.drop(index=[3, 8])),
            rf"2 images have no row in .*{TRUTH}: {IDS[3]}, {IDS[8]}",
        ),
        (rename_image, rf"1 of the 42 images in .* have no file: {IDS[3]}"),
        (
            break_image,
            rf"1 of 42 images in .* are broken: ISIC2018_Task3_Test_Input/{IDS[4]}\.jpg \(is not an",
        ),
        (
            edit(lambda t: t.assign(**{**dict.fromkeys(ISIC_ORDER, 0.0), "NV": 1.0})),
            r"has only the class nv",
        ),
        (edit(lambda t: t[:0]), r"names no image"),
    ],
)
def test_bad_input_names_what_where(
    spoil: Callable[[Path], None], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        read_external(str(folder), 16, progress=False)
    assert "\n" not in str(caught.value) and "SKIP_BROKEN" not in str(caught.value)


def test_a_faulty_set_stops_a_run_before_it_begins(
    folder: Path,
    tmp_path_factory,
    tiny_profile: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch,
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    monkeypatch.setenv("HAMSYNTH_RUNS", str(runs))
    command = ["run", "--run", "a", "--profile", tiny_profile, "--external"]
    cells(9, MEL=1.0, NV=1.0)(folder)
    assert main([*command, str(folder)]) == 2 and not list(runs.iterdir())
    assert "line 9 is not one-hot" in capsys.readouterr().err
    assert main([*command, "phantom", "--data", str(folder)]) == 2 and not list(runs.iterdir())
    assert "only a run on the phantom" in capsys.readouterr().err
    truth().to_csv(folder / TRUTH, index=False)
    for source in (str(folder), "phantom", ""):
        assert main([*command, source]) == 0


def test_the_one_image_of_isic_without_a_lesion_is_passed_over(folder: Path) -> None:
    picture(PHANTOM.images[0]).save(folder / "ISIC2018_Task3_Test_Input/ISIC_0035068.jpg")
    assert read_truth(find_external(folder))["image_id"].tolist() == IDS
    table = truth()
    table.loc[len(table)] = ["ISIC_0035068", *([0.0] * 7)]
    table.to_csv(folder / TRUTH, index=False)
    assert read_truth(find_external(folder))["image_id"].tolist() == IDS


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(
    folder: Path, tmp_path_factory
) -> None:
    first = read_external(str(folder), 16, progress=False).sha256
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.copytree(folder, moved)
    truth(ISIC_ORDER[::-1])[::-1].to_csv(moved / TRUTH, index=False)
    assert read_external(str(moved), 16, progress=False).sha256 == first
    table = truth()
    table.loc[0, ["MEL", "NV"]] = 1 - table.loc[0, ["MEL", "NV"]]
    relabelled = table.copy()
    relabelled.loc[0, ISIC_ORDER] = [float(name == "VASC") for name in ISIC_ORDER]
    assert PHANTOM.table["dx"][0] != "vasc"
    relabelled.to_csv(moved / TRUTH, index=False)
    assert read_external(str(moved), 16, progress=False).sha256 != first
    shutil.copy(folder / TRUTH, moved / TRUTH)
    picture(PHANTOM.images[1]).save(moved / f"ISIC2018_Task3_Test_Input/{IDS[0]}.jpg", quality=95)
    assert read_external(str(moved), 16, progress=False).sha256 != first


def test_a_phantom_is_external_to_another_though_their_names_are_the_same() -> None:
    external = read_external("phantom", 64, seed=1)
    lesions = external.lesions
    assert set(LESIONS.table["image_id"]) <= set(lesions.table["image_id"])
    assert shared_photos(lesions, LESIONS, thirds(LESIONS)).empty
    assert read_external("phantom", 64, seed=0).sha256 != external.sha256


def thirds(lesions: LesionSet) -> Split:
    return Split(*np.array_split(np.arange(len(lesions)), 3))


def test_distance_is_the_root_mean_square_of_block_means() -> None:
    generator = np.random.default_rng(0)
    a, b = (
        torch.from_numpy(generator.integers(0, 256, (n, 3, 64, 64), dtype=np.uint8)) for n in (4, 7)
    )
    distance, row = nearest_photos(a, b)
    # 64 pixels are 8 blocks of 8
    blocks = [x.double().reshape(len(x), 3, 8, 8, 8, 8).mean(dim=(3, 5)).numpy() for x in (a, b)]
    expected = np.sqrt(((blocks[0][:, None] - blocks[1][None]) ** 2).mean(axis=(2, 3, 4)))
    assert distance == pytest.approx(expected.min(axis=1), rel=1e-5)
    assert row.tolist() == expected.argmin(axis=1).tolist()
    assert nearest_photos(b, b)[0].max() == 0


def stored(image: Image.Image, scale: float, quality: int) -> bytes:
    content = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(content, "JPEG", quality=quality)
    return content.getvalue()


@pytest.mark.parametrize(("scale", "quality"), [(1.0, 100), (1.0, 75), (2.0, 75), (0.5, 75)])
def test_planted_copies_are_found_and_named_with_their_part(
    scale: float, quality: int, folder: Path
) -> None:
    planted = {IDS[7]: 3, IDS[20]: 75, IDS[33]: 149}
    for image_id, row in planted.items():
        content = stored(picture(LESIONS.images[row]), scale, quality)
        (folder / f"ISIC2018_Task3_Test_Input/{image_id}.jpg").write_bytes(content)
    external = read_external(str(folder), 64, progress=False).lesions
    shared = shared_photos(external, LESIONS, thirds(LESIONS))
    own = LESIONS.table["image_id"]
    assert shared[["image_id", "run_image_id", "part"]].values.tolist() == [
        [image_id, own[row], part]
        for (image_id, row), part in zip(
            planted.items(), ("train", "validation", "test"), strict=True
        )
    ]
    with pytest.raises(
        InputError, match=r"3 of the 42 .*\(1 of its train part, 1 of its validation part, 1"
    ) as caught:
        require_no_overlap(shared, len(external))
    for image_id, row in planted.items():
        assert f"{image_id} is {own[row]}" in str(caught.value)
    require_no_overlap(shared[:0], len(external))


def test_one_photo_of_the_test_part_alone_is_refused(folder: Path) -> None:
    copy = stored(picture(LESIONS.images[149]), 1, 75)
    (folder / f"ISIC2018_Task3_Test_Input/{IDS[0]}.jpg").write_bytes(copy)
    external = read_external(str(folder), 64, progress=False).lesions
    with pytest.raises(
        InputError, match=rf"\(1 of its test part\): {IDS[0]} is PHANTOM_0000150 \(test\)"
    ):
        require_no_overlap(shared_photos(external, LESIONS, thirds(LESIONS)), 42)


def test_the_threshold_on_real_photos(ham10000_folder: Path) -> None:
    """Every photo that was stored again is found; no held-out photo is taken for one of another lesion."""
    lesions = read_ham10000(ham10000_folder, progress=False).lesions
    files = find_layout(ham10000_folder).images
    chosen = np.random.default_rng(1).choice(len(lesions), 150, replace=False)
    for scale, quality in ((1.0, 75), (0.5, 95), (0.5, 75)):
        again = []
        for image_id in lesions.table["image_id"][chosen]:
            with (
                Image.open(files[image_id]) as image,
                Image.open(io.BytesIO(stored(image, scale, quality))) as copy,
            ):
                left = (copy.width - copy.height) / 2
                box = (left, 0, left + copy.height, copy.height)
                small = copy.resize((64, 64), Image.Resampling.BICUBIC, box=box)
                again.append(torch.from_numpy(np.array(small)).permute(2, 0, 1))
        distance, _ = nearest_photos(torch.stack(again), lesions.images)
        missed = first_names(lesions.table["image_id"].to_numpy()[chosen][distance >= SAME_PHOTO])
        assert not missed, f"at scale {scale}, quality {quality}: {missed}"

    near_duplicates = read_near_duplicates(ham10000_folder)
    split = lesion_split(lesions.table, HAM10000.classes, near_duplicates, seed=0)
    heldout = lesions.subset(np.concatenate([split.validation, split.test]))
    groups = lesion_groups(lesions.table, near_duplicates)
    assert not set(groups[split.train]) & set(
        groups[np.concatenate([split.validation, split.test])]
    )
    distance, _ = nearest_photos(heldout.images, lesions.images[split.train])
    assert len(distance) == 3004 and distance.min() > 1.5 * SAME_PHOTO
