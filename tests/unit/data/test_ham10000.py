import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.ham10000 import (
    changes_since,
    dataset_name,
    read_ham10000,
    read_index,
    read_near_duplicates,
)
from hamsynth_utils.data.layouts import find_layout
from hamsynth_utils.data.lesion_set import LesionSet

CLASSES = HAM10000.classes.names

IDS = [f"ISIC_00243{n:02}" for n in range(14)]
DX = [CLASSES[n % 7] for n in range(14)]
PART_1, PART_2 = "HAM10000_images_part_1", "HAM10000_images_part_2"


def colour(image_id: str) -> tuple[int, int, int]:
    n = int(image_id[-2:])
    return (40 + 10 * n, 200 - 10 * n, 90 + 5 * n)


def paint(folder: Path, ids: list[str], suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        Image.new("RGB", (40, 30), colour(image_id)).save(
            folder / f"{image_id}{suffix}", quality=95
        )


def metadata(ids: list[str] = IDS) -> pd.DataFrame:
    n = len(ids)
    return pd.DataFrame(
        {
            "lesion_id": [f"HAM_{k // 2:07}" for k in range(n)],
            "image_id": ids,
            "dx": [CLASSES[k % 7] for k in range(n)],
            "dx_type": "histo",
            "age": ["45.0", "", *["60.0"] * (n - 2)],
            "sex": ["male", "unknown", *["female"] * (n - 2)],
            "localization": ["back", "unknown", *["face"] * (n - 2)],
            "dataset": "rosendahl",
        }
    )


def one_hot(ids: list[str] = IDS, order: tuple[str, ...] = CLASSES[::-1]) -> pd.DataFrame:
    table = pd.DataFrame({"image": ids})
    for name in order:
        table[name.upper()] = [1.0 if CLASSES[k % 7] == name else 0.0 for k in range(len(ids))]
    return table


def kaggle(folder: Path) -> None:
    for part, ids in [(PART_1, IDS[:7]), (PART_2, IDS[7:])]:
        paint(folder / part, ids)
        paint(folder / part.lower(), ids)
    metadata().drop(columns="dataset").to_csv(folder / "HAM10000_metadata.csv", index=False)
    (folder / "hmnist_8_8_L.csv").write_text("pixel0000,label\n1,2\n", encoding="utf-8")


def dataverse(folder: Path) -> None:
    paint(folder / PART_1, IDS[:7])
    paint(folder / PART_2 / PART_2, IDS[7:])
    metadata().to_csv(folder / "HAM10000_metadata", index=False)
    paint(
        folder / "HAM10000_segmentations_lesion_tschandl",
        [f"{i}_segmentation"[-12:] + "00" for i in IDS[:2]],
    )
    # the test set that Dataverse keeps beside the data must not take its place
    (folder / "ISIC2018_Task3_Test_GroundTruth.csv").write_text(
        "image_id,dx\nISIC_0034524,nv\n", encoding="utf-8"
    )


def dataverse_tab(folder: Path) -> None:
    paint(folder, IDS)
    metadata().to_csv(folder / "HAM10000_metadata.tab", sep="\t", index=False, quoting=2)


def one_folder(folder: Path) -> None:
    paint(folder / "images", IDS, ".png")
    (folder / "images" / "._ISIC_0024300.jpg").write_bytes(b"macOS")
    metadata().to_csv(
        folder / "HAM10000_metadata.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n"
    )


def isic(folder: Path, part: str = "Training") -> None:
    paint(folder / f"ISIC2018_Task3_{part}_Input", IDS)
    truth = folder / f"ISIC2018_Task3_{part}_GroundTruth"
    truth.mkdir()
    one_hot().to_csv(truth / f"ISIC2018_Task3_{part}_GroundTruth.csv", index=False)


def isic_with_groupings(folder: Path) -> None:
    isic(folder)
    groups = metadata().rename(columns={"image_id": "image"})[["image", "lesion_id", "dx_type"]]
    groups[::-1].to_csv(folder / "ISIC2018_Task3_Training_LesionGroupings.csv", index=False)


def isic_top(folder: Path) -> None:
    paint(folder, IDS)
    one_hot(order=CLASSES).to_csv(folder / "ISIC2018_Task3_Validation_GroundTruth.csv", index=False)


def isic_test(folder: Path) -> None:
    isic(folder, "Test")


LAYOUTS = [
    kaggle,
    dataverse,
    dataverse_tab,
    one_folder,
    isic,
    isic_with_groupings,
    isic_top,
    isic_test,
]


@pytest.mark.parametrize("make", LAYOUTS)
def test_every_layout_gives_the_same_images(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    reading = read_ham10000(tmp_path, image_size=16, progress=False)
    lesions = reading.lesions
    assert lesions.table["image_id"].tolist() == IDS
    assert lesions.table["dx"].tolist() == DX
    assert lesions.labels.tolist() == [CLASSES.index(dx) for dx in DX]
    expected = torch.tensor([colour(i) for i in IDS]).view(14, 3, 1, 1)
    assert (lesions.images.int() - expected).abs().max() <= 3
    assert not lesions.table["synthetic"].any() and reading.skipped.empty

    is_isic = make.__name__.startswith("isic")
    grouped = not is_isic or make is isic_with_groupings
    assert find_layout(tmp_path).name == ("ISIC 2018 Task 3" if is_isic else "HAM10000")
    assert lesions.table["lesion_id"].notna().all() == grouped
    if grouped:
        assert lesions.table["lesion_id"].tolist() == metadata()["lesion_id"].tolist()
    known = 0 if is_isic else 13
    assert lesions.table[["age", "sex", "localization"]].notna().sum().tolist() == [known] * 3
    assert lesions.table["dataset"].notna().sum() == (0 if is_isic or make is kaggle else 14)
    if not is_isic:
        assert (
            lesions.table["age"].tolist()[0] == 45.0
            and lesions.table["sex"].tolist()[2] == "female"
        )


def test_the_test_set_of_dataverse_is_read_without_its_image_that_is_no_lesion(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    paint(tmp_path / "ISIC2018_Task3_Test_Images", IDS)
    table = metadata([*IDS, "ISIC_0035068"])
    table.to_csv(tmp_path / "ISIC2018_Task3_Test_GroundTruth.tab", sep="\t", index=False)
    reading = read_ham10000(tmp_path, 16, progress=False)
    assert reading.lesions.table["image_id"].tolist() == IDS and reading.skipped.empty
    paint(tmp_path / "ISIC2018_Task3_Test_Images", ["ISIC_0035068"])
    reading = read_ham10000(tmp_path, 16, progress=False)
    assert reading.skipped.values.tolist() == [["ISIC_0035068", "not a lesion"]]


def test_images_that_the_metadata_does_not_name_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one_folder(tmp_path)
    metadata(IDS[:12]).to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    reading = read_ham10000(tmp_path, 16, progress=False)
    assert len(reading.lesions) == 12
    assert reading.skipped["image_id"].tolist() == IDS[12:]
    assert "2 images" in capsys.readouterr().err


def change(column: str, line: int, value: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        table = metadata().astype(object)
        table.loc[line - 2, column] = value
        table.to_csv(folder / "HAM10000_metadata.csv", index=False)

    return edit


def without(column: str) -> Callable[[Path], None]:
    return lambda folder: (
        metadata().drop(columns=column).to_csv(folder / "HAM10000_metadata.csv", index=False)
    )


def unlink_seven(folder: Path) -> None:
    for image_id in IDS[:7]:
        (folder / "images" / f"{image_id}.png").unlink()


def unequal_copies(folder: Path) -> None:
    paint(folder / "more", IDS[:1], ".jpg")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("localization"), r"lacks the column\(s\) localization"),
        (change("dx", 5, "scc"), r"line 5 has an unknown diagnosis .*'scc'"),
        (change("image_id", 9, IDS[0]), rf"line 9 repeats an image_id.*{IDS[0]}"),
        (change("image_id", 4, ""), r"line 4 has no image_id"),
        (change("age", 3, "old"), r"line 3 has an age that is not a number: 'old'"),
        (unlink_seven, rf"7 of the 14 images .*{', '.join(IDS[:5])}, \.\.\."),
        (unequal_copies, r"different files for one image"),
        (
            lambda folder: (folder / "HAM10000_metadata.csv").unlink(),
            r"no metadata in .*HAM10000_metadata.csv",
        ),
        (lambda folder: shutil.rmtree(folder / "images"), r"no image \("),
        (lambda folder: shutil.rmtree(folder), r"no folder at"),
        (
            lambda folder: (folder / "HAM10000_metadata.csv").write_bytes(b"\x89PNG\xff\xfe"),
            r"HAM10000_metadata.csv, line 1, is not in UTF-8",
        ),
        (
            lambda folder: (folder / "HAM10000_metadata.csv").write_text("", encoding="utf-8"),
            r"not a readable table",
        ),
        (
            lambda folder: metadata()[:0].to_csv(folder / "HAM10000_metadata.csv", index=False),
            r"names no image",
        ),
    ],
)
def test_bad_input_names_what_where(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    one_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        read_ham10000(tmp_path, 16, progress=False)


@pytest.mark.parametrize(
    ("nv", "mel"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5), ("x", 1.0), (2.0, -1.0)]
)
def test_rows_that_are_not_one_hot_are_refused(nv: float, mel: float, tmp_path: Path) -> None:
    isic_top(tmp_path)
    table = one_hot().astype(object)
    table.loc[5, [name.upper() for name in CLASSES]] = 0.0
    table.loc[5, ["NV", "MEL"]] = [nv, mel]
    table.to_csv(tmp_path / "ISIC2018_Task3_Validation_GroundTruth.csv", index=False)
    with pytest.raises(InputError, match=r"line 7 is not one-hot"):
        read_metadata(find_layout(tmp_path))


def break_images(folder: Path) -> list[str]:
    """Seven broken files: cut at several lengths, empty, and one that is text."""
    paint(folder / "images", IDS, ".jpg")
    for image_id in IDS:
        (folder / "images" / f"{image_id}.png").unlink()
    for image_id, share in zip(IDS, (0.0, 0.02, 0.3, 0.6, 0.9, 0.98), strict=False):
        file = folder / "images" / f"{image_id}.jpg"
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    (folder / "images" / f"{IDS[6]}.jpg").write_text("<html>404</html>", encoding="utf-8")
    return IDS[:7]


def test_broken_images_are_all_counted_and_can_be_skipped(tmp_path: Path) -> None:
    one_folder(tmp_path)
    broken = break_images(tmp_path)
    with pytest.raises(
        InputError, match=rf"7 of 14 images .*{broken[0]}.*{broken[4]}.*SKIP_BROKEN=1"
    ) as caught:
        read_ham10000(tmp_path, 16, progress=False)
    assert broken[5] not in str(caught.value)
    reading = read_ham10000(tmp_path, 16, skip_broken=True, progress=False)
    assert (
        reading.skipped["image_id"].tolist() == broken and reading.skipped["reason"].str.len().all()
    )
    assert reading.lesions.table["image_id"].tolist() == IDS[7:]
    expected = torch.tensor([colour(i) for i in IDS[7:]]).view(7, 3, 1, 1)
    assert (reading.lesions.images.int() - expected).abs().max() <= 3


def test_only_broken_images_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    dataverse_tab(tmp_path)
    for image_id in IDS:
        (tmp_path / f"{image_id}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="14 of 14 images"):
        read_ham10000(tmp_path, 16, skip_broken=True, progress=False)


def write_one(folder: Path, pixels: np.ndarray, suffix: str = ".png") -> torch.Tensor:
    """What becomes of one image, read at 64 pixels."""
    metadata(IDS[:2])[:1].to_csv(folder / "HAM10000_metadata.csv", index=False)
    Image.fromarray(pixels).save(folder / f"{IDS[0]}{suffix}", quality=95)
    return read_ham10000(folder, 64, progress=False).lesions.images[0]


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] / height
    waves = [np.sin(9 * x + 3 * y), np.cos(7 * y - 5 * x), np.sin(11 * x * y)]
    return np.stack([127 + 100 * wave for wave in waves], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(150, 200), (201, 151), (450, 600)])
def test_centre_crop_and_resize_agree_with_torch(height: int, width: int, tmp_path: Path) -> None:
    pixels = smooth(height, width)
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = torch.from_numpy(pixels[top : top + short, left : left + short].copy()).permute(
        2, 0, 1
    )
    expected = torch.nn.functional.interpolate(
        square[None].float(), 64, mode="bicubic", antialias=True
    )[0]
    difference = (write_one(tmp_path, pixels).float() - expected).abs()
    # the reader may use the pixels just outside the square for its outermost pixels
    assert difference[:, 2:-2, 2:-2].max() < 2 and difference.max() < 12


def test_fine_patterns_turn_grey_instead_of_aliasing(tmp_path: Path) -> None:
    checkers = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = write_one(tmp_path, np.stack([checkers] * 3, axis=2))
    assert (image[:, 2:-2, 2:-2].float() - 127.5).abs().max() < 2


def test_a_large_jpeg_decoded_at_reduced_size_looks_the_same(tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir(), (tmp_path / "png").mkdir()
    pixels = smooth(900, 1200)
    difference = (
        write_one(tmp_path / "jpg", pixels, ".jpg").int()
        - write_one(tmp_path / "png", pixels).int()
    )
    assert difference.abs().max() <= 5


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert (write_one(tmp_path / "a", np.full((80, 90), 77, dtype=np.uint8)) == 77).all()
    assert write_one(tmp_path / "b", np.full((80, 90, 4), 99, dtype=np.uint8)).shape == (3, 64, 64)


def test_changes_are_noticed_and_a_mere_copy_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    isic_with_groupings(folder)
    read_ham10000(folder, 16, progress=False).index.to_csv(tmp_path / "index.csv", index=False)
    index = read_index(tmp_path / "index.csv")
    assert len(index) == 16
    assert changes_since(folder, index) is None
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert changes_since(copy, index) is None

    image = copy / "ISIC2018_Task3_Training_Input" / f"{IDS[3]}.jpg"
    content = bytearray(image.read_bytes())
    content[-10] ^= 1
    image.write_bytes(content)
    truth = copy / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    truth.write_text(truth.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    told = changes_since(copy, index)
    assert told and told.startswith("2 of 16") and IDS[3] in told and "GroundTruth.csv" in told
    image.unlink()
    told = changes_since(copy, index)
    assert told and told.startswith("2 of 16")


def test_a_folder_is_ham10000_by_its_images_and_diagnoses(ham10000_folder: Path) -> None:
    """Not by its name: neither a part of it, nor the whole with one diagnosis changed."""
    table = read_metadata(find_layout(ham10000_folder))
    assert dataset_name("anywhere", table.sample(frac=1, random_state=0)) == "HAM10000"
    changed = table.assign(dx=table["dx"].where(table.index != 0, "vasc"))
    for other in (table[1:], changed):
        assert dataset_name("/data/ham10000", other) == "the folder ham10000, which is not HAM10000"
    assert dataset_name("phantom", table) == "the phantom"


def test_near_duplicates(tmp_path: Path) -> None:
    assert read_near_duplicates(tmp_path).empty
    (tmp_path / "near_duplicates.csv").write_text(
        "similarity,image_id_a,image_id_b\n0.98,ISIC_1,ISIC_2\n", encoding="utf-8"
    )
    assert read_near_duplicates(tmp_path).values.tolist() == [["ISIC_1", "ISIC_2"]]
    (tmp_path / "near_duplicates.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="image_id_a, image_id_b"):
        read_near_duplicates(tmp_path)


def test_real_metadata_has_the_published_counts(ham10000_folder: Path) -> None:
    table = read_metadata(find_layout(ham10000_folder))
    counts = {
        "akiec": 327,
        "bcc": 514,
        "bkl": 1099,
        "df": 115,
        "mel": 1113,
        "nv": 6705,
        "vasc": 142,
    }
    lesions = {"akiec": 228, "bcc": 327, "bkl": 727, "df": 73, "mel": 614, "nv": 5403, "vasc": 98}
    assert table["dx"].value_counts().to_dict() == counts
    assert table.groupby("dx")["lesion_id"].nunique().to_dict() == lesions
    assert table[["age", "sex", "localization"]].isna().sum().tolist() == [57, 57, 234]
    sources = {"vidir_molemax": 3954, "vidir_modern": 3363, "rosendahl": 2259, "vienna_dias": 439}
    assert table["dataset"].value_counts().to_dict() == sources
    assert len(read_near_duplicates(ham10000_folder)) == 18


def test_all_real_images_are_read_and_kept(ham10000_folder: Path, tmp_path: Path) -> None:
    reading = read_ham10000(ham10000_folder, progress=False)
    assert reading.lesions.images.shape == (10015, 3, 64, 64) and reading.skipped.empty
    assert changes_since(ham10000_folder, reading.index) is None
    reading.lesions.save(tmp_path)
    kept = LesionSet.load(tmp_path, HAM10000.classes)
    assert torch.equal(kept.images, reading.lesions.images)
    pd.testing.assert_frame_equal(kept.table, reading.lesions.table)
    row = 4321
    with Image.open(find_layout(ham10000_folder).images[kept.table["image_id"][row]]) as image:
        expected = image.crop((25, 0, 175, 150)).resize((64, 64), Image.Resampling.BICUBIC)
    difference = (
        kept.images[row].permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()
    )
    assert difference.abs().float().mean() < 0.5
