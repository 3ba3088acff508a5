"""The test set that `hamsynth download --include-test` leaves is accepted as external set, with its lesions.

Reports: https://github.com/DebeshJha/2020-CBMS-DoubleU-Net/issues/12, https://github.com/alceubissoto/gan-skin-lesion/issues/4
"""

import pytest
from drawn_sets import draw_lesion, drawn_table, save_jpeg

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.external import check_external, find_external, read_external, read_truth
from hamsynth_utils.data.layouts import NOT_A_LESION


def own_download(folder, name="ISIC2018_Task3_Test_GroundTruth.tab"):
    """28 photos of 14 lesions, and the one photo of the test set that is no lesion."""
    table = drawn_table(29, first=34524)
    table["lesion_id"] = [f"HAMTEST_{k // 2:07}" for k in range(29)]
    table["dx"] = [table["dx"][k // 2] for k in range(29)]
    table.loc[28, "image_id"] = NOT_A_LESION[0]
    photos = folder / "ISIC2018_Task3_Test_Images"
    photos.mkdir()
    for k, image_id in enumerate(table["image_id"]):
        save_jpeg(draw_lesion(k)[0], photos / image_id)
    separator = "\t" if name.endswith(".tab") else ","
    table[:28].to_csv(folder / name, sep=separator, index=False, quoting=2)
    return table[:28]


@pytest.mark.parametrize("end", ["tab", "csv"])
def test_the_own_download_is_an_external_set_with_its_lesions(end, tmp_path):
    table = own_download(tmp_path, f"ISIC2018_Task3_Test_GroundTruth.{end}")
    check_external(str(tmp_path), "data")
    lesions = read_external(str(tmp_path), 32, progress=False).lesions
    assert len(lesions) == 28 and lesions.table["lesion_id"].nunique() == 14
    assert lesions.table["lesion_id"].tolist() == table["lesion_id"].tolist()
    assert lesions.table["dx"].tolist() == table["dx"].tolist()
    assert (lesions.table["age"] == 45).all() and (lesions.table["sex"] == "male").all()
    assert NOT_A_LESION[0] not in set(lesions.table["image_id"])


def test_a_row_of_the_image_that_is_no_lesion_is_passed_over(tmp_path):
    own_download(tmp_path)
    with (tmp_path / "ISIC2018_Task3_Test_GroundTruth.tab").open("a", encoding="utf-8") as file:
        file.write(f'"HAMTEST_0000099"\t"{NOT_A_LESION[0]}"\t""' + '\t""' * 5 + "\n")
    assert len(read_truth(find_external(tmp_path))) == 28


def test_an_image_without_a_lesion_id_counts_as_a_lesion(tmp_path):
    path = tmp_path / "ISIC2018_Task3_Test_GroundTruth.tab"
    own_download(tmp_path)
    path.write_text(
        path.read_text(encoding="utf-8").replace("HAMTEST_0000003", "unknown"), encoding="utf-8"
    )
    truth = read_truth(find_external(tmp_path))
    assert truth["lesion_id"].nunique() == 15 and truth["lesion_id"][6] == "ISIC_0034530"


def test_two_truths_and_none_are_named(tmp_path):
    own_download(tmp_path)
    own = tmp_path / "ISIC2018_Task3_Test_GroundTruth.tab"
    (tmp_path / "ISIC2018_Task3_Test_GroundTruth.csv").write_bytes(own.read_bytes())
    with pytest.raises(InputError, match=r"2 ground truths, .*\.csv, .*\.tab"):
        find_external(tmp_path)
    for path in tmp_path.glob("*Truth.*"):
        path.unlink()
    (tmp_path / "notes.tsv").write_text("image\tremark\nISIC_1\tblurred\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no ground truth .*\(or \.tab\).*there: notes\.tsv"):
        find_external(tmp_path)
