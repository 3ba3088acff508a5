"""A table as the ISIC archive gives it today is read: isic_id, diagnosis_1 to _5, IL_ lesions.

Reports: https://github.com/ImageMarkup/isic-cli/pull/95, https://github.com/ngessert/isic2019/issues/5,
https://github.com/ilyanovo/isic-2024/issues/1. The numbers of HAM10000's photos by diagnosis are those of the archive:
akiec is 130 times "Solar or actinic keratosis" and 197 times "Squamous cell carcinoma, NOS".
"""

import numpy as np
import pandas as pd
import pytest
from drawn_sets import CLASSES, draw_lesion, save_jpeg

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.external import find_external, read_truth
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.ham10000 import read_ham10000
from hamsynth_utils.data.layouts import find_layout

NAMES = {
    "akiec": ("", "Indeterminate epidermal proliferations", "Solar or actinic keratosis"),
    "bcc": ("Malignant", "Malignant adnexal epithelial proliferations", "Basal cell carcinoma"),
    "bkl": ("Benign", "Benign epidermal proliferations", "Pigmented benign keratosis"),
    "df": ("Benign", "Benign soft tissue proliferations - Fibro-histiocytic", "Dermatofibroma"),
    "mel": ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma, NOS"),
    "nv": ("Benign", "Benign melanocytic proliferations", "Nevus"),
    "vasc": ("Benign", "Benign soft tissue proliferations - Vascular", ""),
}
"""diagnosis_1 to diagnosis_3 of HAM10000's photos."""


def archive_table(n=14, first=24306):
    dx = [CLASSES[k % 7] for k in range(n)]
    columns = {
        "isic_id": [f"ISIC_{first + k:07}" for k in range(n)],
        "attribution": "ViDIR Group, Medical University of Vienna",
        "copyright_license": "CC-BY-NC",
        "age_approx": [45, "", *[60] * (n - 2)],
        "anatom_site_general": ["posterior torso", "", *["head/neck"] * (n - 2)],
        **{f"diagnosis_{k + 1}": [NAMES[name][k] for name in dx] for k in range(3)},
        "image_type": "dermoscopic",
        "lesion_id": [f"IL_{k // 14:03}{k % 7:04}" for k in range(n)],
        "sex": ["male", "", *["female"] * (n - 2)],
    }
    return pd.DataFrame(columns)


def write(folder, table, name="metadata.csv"):
    table.to_csv(folder / name, index=False)
    for k, image_id in enumerate(table["isic_id"]):
        save_jpeg(draw_lesion(k)[0], folder / image_id)
    return folder


@pytest.mark.parametrize("name", ["metadata.csv", "ham10000_metadata_2026-05-07.csv"])
def test_the_archives_table_is_read(name, tmp_path):
    folder = write(tmp_path, archive_table(), name)
    assert find_layout(folder).name == "ISIC archive"
    table = read_ham10000(folder, 32, progress=False).lesions.table
    assert table["image_id"].tolist() == archive_table()["isic_id"].tolist()
    assert table["dx"].tolist() == [*CLASSES, *CLASSES]
    assert table["lesion_id"].tolist() == archive_table()["lesion_id"].tolist()
    assert table["age"].tolist()[0] == 45 and np.isnan(table["age"][1])
    assert table["sex"].tolist()[0] == "male" and table["sex"].isna().tolist()[1]
    assert table["localization"].tolist()[::13] == ["posterior torso", "head/neck"]
    assert table["dataset"].isna().all()


def test_the_archives_table_is_an_external_set(tmp_path):
    truth = read_truth(find_external(write(tmp_path, archive_table())))
    assert len(truth) == 14 and truth["lesion_id"].nunique() == 7


def changed(row, **cells):
    table = archive_table().astype(object)
    for column, value in cells.items():
        table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"diagnosis_3": "Squamous cell carcinoma, NOS"}, "akiec"),
        ({"diagnosis_3": "Melanoma in situ"}, "mel"),
        ({"diagnosis_3": "Nevus", "diagnosis_4": "Nevus, Spitz"}, "nv"),
        (
            {"diagnosis_2": "Benign soft tissue proliferations - Vascular", "diagnosis_3": ""},
            "vasc",
        ),
        ({"diagnosis_2": "", "diagnosis_3": " NEVUS "}, "nv"),
    ],
)
def test_the_most_precise_known_diagnosis_decides(cells, expected, tmp_path):
    folder = write(tmp_path, changed(4, **cells))
    assert read_metadata(find_layout(folder))["dx"][4] == expected


@pytest.mark.parametrize("name", ["Scar", "Melanoma metastasis", ""])
def test_a_diagnosis_outside_the_classes_is_named_with_its_line(name, tmp_path):
    folder = write(tmp_path, changed(4, diagnosis_3=name))
    shown = rf"'Malignant / Malignant mel.* / {name}'" if name else r"'Malignant / Malignant mel"
    with pytest.raises(InputError, match=rf"metadata\.csv, line 6 has a diagnosis .*none.*{shown}"):
        read_metadata(find_layout(folder))


def test_a_squamous_cell_carcinoma_from_elsewhere_is_none_of_the_classes(tmp_path):
    table = archive_table(first=53453).assign(diagnosis_3="Squamous cell carcinoma, NOS")
    with pytest.raises(InputError, match=r"line 2 \(and 13 more lines\) has a diagnosis that is"):
        read_metadata(find_layout(write(tmp_path, table.assign(diagnosis_2=""))))


def test_the_archives_older_column_is_read(tmp_path):
    old = ["actinic keratosis", "basal cell carcinoma", "pigmented benign keratosis"]
    old += ["dermatofibroma", "melanoma", "nevus", "vascular lesion"]
    table = archive_table().drop(columns=["diagnosis_1", "diagnosis_2", "diagnosis_3"])
    folder = write(tmp_path, table.assign(diagnosis=[*old, *old]))
    assert read_metadata(find_layout(folder))["dx"].tolist() == [*CLASSES, *CLASSES]


def test_a_folder_without_a_table_says_which_tables_are_read(tmp_path):
    write(tmp_path, archive_table().drop(columns=[f"diagnosis_{k}" for k in (1, 2, 3)]))
    with pytest.raises(InputError, match=r"no metadata in .*isic_id and diagnosis_3"):
        find_layout(tmp_path)


def test_two_tables_that_may_be_the_metadata_are_named(tmp_path):
    write(tmp_path, archive_table())
    archive_table().to_csv(tmp_path / "more.csv", index=False)
    with pytest.raises(InputError, match=r"2 tables .*metadata\.csv, more\.csv.*keep one"):
        find_layout(tmp_path)
