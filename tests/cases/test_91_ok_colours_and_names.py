"""CMYK, palettes, WEBP and TIFF under .jpg, and ids that look like numbers come through the run's cache.

Report: https://github.com/alankbi/detecto/issues/29
"""

import numpy as np
from drawn_sets import CLASSES, draw_lesion, drawn_table
from PIL import Image

from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.ham10000 import read_ham10000
from hamsynth_utils.data.lesion_set import LesionSet

FORMS = [
    lambda image, path: image.convert("CMYK").save(path.with_name(f"{path.name}.jpg"), quality=95),
    lambda image, path: image.quantize(128).save(path.with_name(f"{path.name}.png")),
    lambda image, path: image.save(path.with_name(f"{path.name}.jpg"), "WEBP", quality=95),
    lambda image, path: image.save(path.with_name(f"{path.name}.jpg"), "TIFF"),
    lambda image, path: image.save(path.with_name(f"{path.name}.JPG"), "JPEG", quality=95),
]
IDS = ["0001", "0002", "12", "1e5", "a,b"]


def test_colours_and_names_come_through(tmp_path):
    for number, (form, image_id) in enumerate(zip(FORMS, IDS, strict=True)):
        form(Image.fromarray(draw_lesion(number)[0]), tmp_path / image_id)
    table = drawn_table(5, CLASSES).assign(image_id=IDS)
    table.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    lesions = read_ham10000(tmp_path, 32, progress=False).lesions
    (tmp_path / "cache").mkdir()
    lesions.save(tmp_path / "cache")
    kept = LesionSet.load(tmp_path / "cache", HAM10000.classes)
    assert kept.table["image_id"].tolist() == IDS
    for number in range(5):
        expected = draw_lesion(number)[0][:, 20:140].mean((0, 1))
        assert np.abs(kept.images[number].float().mean((1, 2)).numpy() - expected).max() < 6
