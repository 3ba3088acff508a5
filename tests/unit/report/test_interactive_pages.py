"""The quiz and the gallery: what is written of a run, and what the reader can do with it."""

import base64
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from browser import headless, opened, problems_of, served
from PIL import Image

from hamsynth_utils.classifier.attention import rollout_image
from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import load_classifier
from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import to_unit_range
from hamsynth_utils.data.synthetic import read_manifest, read_synthetic
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.metrics.privacy.nearest_neighbours import nearest_aligned
from hamsynth_utils.report.interactive import gallery, quiz

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns


def script(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(text[text.index("{") :].removesuffix(";\n"))


def record(run: Run) -> dict:
    return yaml.safe_load((run.folder / "run.yaml").read_text(encoding="utf-8"))


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def test_the_quiz_pairs_heldout_images_with_synthetic_ones_of_the_same_classes(
    finished_run, tmp_path
) -> None:
    quiz.write_quiz(tmp_path, finished_run.folder, record(finished_run))
    images = script(tmp_path / "quiz.js")["images"]
    real = [image for image in images if image["source"] == "real"]
    made = [image for image in images if image["source"] != "real"]
    assert len(real) == len(made) == quiz.PAIRS
    assert sorted(image["dx"] for image in real) == sorted(image["dx"] for image in made)
    assert {image["source"] for image in made} == set(finished_run.profile.generators)
    heldout = finished_run.images("validation") + finished_run.images("test")
    known = {
        image.permute(1, 2, 0).numpy().tobytes(): dx
        for image, dx in zip(heldout.images, heldout.table["dx"], strict=True)
    }
    assert all(known[pixels(image["png"]).tobytes()] == image["dx"] for image in real)
    sets = {
        name: read_synthetic(
            finished_run.folder / f"generators/{name}/seed-0/synthetic", HAM10000.classes
        )
        for name in finished_run.profile.generators
    }
    drawn = {
        name: {i.permute(1, 2, 0).numpy().tobytes() for i in each.images}
        for name, each in sets.items()
    }
    assert all(pixels(image["png"]).tobytes() in drawn[image["source"]] for image in made)
    assert len({image["png"] for image in images}) == 2 * quiz.PAIRS
    # No file gives the answer away before the page does.
    assert all(not Image.open(io.BytesIO(base64.b64decode(image["png"]))).text for image in images)
    quiz.write_quiz(tmp_path / "again", finished_run.folder, record(finished_run))
    assert (tmp_path / "again/quiz.js").read_bytes() == (tmp_path / "quiz.js").read_bytes()


def test_the_probe_tells_noise_from_the_phantom_and_not_the_phantom_from_itself(
    finished_run, tmp_path, monkeypatch
) -> None:
    quiz.write_quiz(tmp_path, finished_run.folder, record(finished_run))
    about = script(tmp_path / "quiz.js")
    assert about["probe"]["accuracy"] > 0.95, "untrained networks make noise"
    right = [(image["synthetic"] < 0.5) == (image["source"] == "real") for image in about["images"]]
    assert np.mean(right) > 0.9
    train = finished_run.images("train")

    def real_ones(_: object, rows: pd.DataFrame) -> torch.Tensor:
        """Other real images in the place of the synthetic ones."""
        return torch.cat(
            [
                train.images[np.flatnonzero(train.table["dx"] == row.dx)[row.seed % 3 :: 3]][:1]
                for row in rows.itertuples()
            ]
        )

    monkeypatch.setattr(quiz, "_synthetic_images", real_ones)
    quiz.write_quiz(tmp_path, finished_run.folder, record(finished_run))
    shares = np.array([image["synthetic"] for image in script(tmp_path / "quiz.js")["images"]])
    assert ((shares > 0.5).mean() < 0.95) and ((shares > 0.5).mean() > 0.05)


def test_real_images_are_shown_unless_the_run_is_marked(finished_run, tmp_path) -> None:
    def written(change: dict) -> dict:
        quiz.write_quiz(tmp_path, finished_run.folder, record(finished_run) | change)
        return script(tmp_path / "quiz.js")

    marked = written({"data": "/photographs", quiz.MARK: True})
    assert marked["images"] == [] and marked["marked"]
    assert len(written({"data": "/photographs"})["images"]) == 2 * quiz.PAIRS
    assert len(written({quiz.MARK: True})["images"]) == 2 * quiz.PAIRS, "the phantom shows nobody"


def test_grain_is_the_laplacian() -> None:
    even = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    ramp = (torch.arange(8) * 10).to(torch.uint8).expand(1, 3, 8, 8)
    board = (
        ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 200).to(torch.uint8).expand(1, 3, 8, 8)
    )
    assert quiz.mean_abs_laplacian(torch.cat([even, ramp, board])).tolist() == [0, 0, 200]


def test_the_gallery_says_what_the_measures_say(finished_run, tmp_path) -> None:
    gallery.write_gallery(tmp_path, finished_run.folder, record(finished_run))
    about = script(tmp_path / "gallery.js")
    table = pd.DataFrame(about["images"])
    assert (
        table.groupby(["generator", "dx"]).size().eq(gallery.MAX_IMAGES).all()
        and len(table) == len(GENERATORS) * 7 * gallery.MAX_IMAGES
    )
    files = {}
    for path in tmp_path.glob("*-*.js"):
        files |= json.loads(
            path.read_text(encoding="utf-8").partition("= {}, ")[2].removesuffix(");\n")
        )
    assert set(files) == set(table["image_id"])
    train = finished_run.images("train").images
    vit = load_classifier(
        finished_run.profile.classifier,
        finished_run.folder / "classifiers/real/seed-0/weights.safetensors",
    )
    for name in finished_run.profile.generators:
        folder = finished_run.folder / f"generators/{name}/seed-0/synthetic"
        whole, of = (
            read_synthetic(folder, HAM10000.classes),
            table[table["generator"] == name].set_index("image_id"),
        )
        rows = whole.table["image_id"].isin(of.index).to_numpy()
        part = whole.subset(rows)
        of = of.loc[part.table["image_id"]]
        assert all(
            base64.b64decode(files[i]) == (folder / of.loc[i, "file"]).read_bytes()
            for i in of.index
        )
        unlabelled = replace(part, table=part.table.assign(synthetic=False))
        wanted = predict(vit, unlabelled)[list(PROBABILITIES)].to_numpy()
        np.testing.assert_allclose(np.stack(of["p"]), wanted, atol=1e-4)
        distances, _ = nearest_aligned(part.images.numpy(), train.numpy())
        np.testing.assert_allclose(of["distance"], distances, atol=0.006)
        heat = rollout_image(vit.vit, vit.prepare(to_unit_range(part.images)))
        side = of["side"].iloc[0]
        grids = np.stack(of["map"]).reshape(len(of), -1, side)
        wanted = np.stack(
            [np.asarray(each)[8::16, 8::16] for each in heat]
        )  # patches of 16 pixels, at their middles
        assert (
            grids.shape == wanted.shape and np.corrcoef(grids.ravel(), wanted.ravel())[0, 1] > 0.9
        )


def test_a_copy_of_a_training_image_is_at_distance_0(finished_run, tmp_path, monkeypatch) -> None:
    copied = finished_run.images("train").images[:1].flip(3)
    monkeypatch.setattr(
        gallery.SyntheticSets,
        "images",
        lambda self, name, rows: copied.expand(len(rows), -1, -1, -1),
    )
    gallery.write_gallery(tmp_path, finished_run.folder, record(finished_run))
    assert {image["distance"] for image in script(tmp_path / "gallery.js")["images"]} == {0.0}


def test_the_gallery_stays_small_and_says_how_many_it_shows(
    finished_run, tmp_path, monkeypatch
) -> None:
    gallery.write_gallery(tmp_path, finished_run.folder, record(finished_run))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 5e6
    monkeypatch.setattr(gallery, "MAX_BYTES", size // 2)
    gallery.write_gallery(tmp_path / "smaller", finished_run.folder, record(finished_run))
    about = script(tmp_path / "smaller/gallery.js")
    assert sum(path.stat().st_size for path in (tmp_path / "smaller").iterdir()) < size * 0.6
    assert (
        0 < about["each"] < gallery.MAX_IMAGES
        and len(about["images"]) == len(GENERATORS) * 7 * about["each"]
    )


def test_an_altered_image_is_not_shown(finished_run, tmp_path) -> None:
    path = next((finished_run.folder / "generators/vae/seed-0/synthetic/images").glob("*.png"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    try:
        with pytest.raises(Exception, match="altered|readable"):
            for name in finished_run.profile.generators:
                gallery.SyntheticSets(finished_run, {}).images(
                    name, read_manifest(finished_run.folder / f"generators/{name}/seed-0/synthetic")
                )
    finally:
        path.write_bytes(content)


@pytest.mark.slow
def test_every_page_of_a_whole_run_works_from_the_file_system(finished_site) -> None:
    assert problems_of(finished_site) == []


def test_the_reader_plays_the_quiz(finished_site) -> None:
    images = script(finished_site / "quiz/quiz.js")["images"]
    with served(finished_site) as address, headless() as browser:
        page, problems = opened(browser, address, "quiz.html")
        for number in range(len(images)):
            page.get_by_role("status").filter(has_text=f"Image {number + 1} of 20").wait_for()
            page.get_by_role("button", name="Real").press("Enter")
        page.get_by_role("heading", name="You were right on 10 of 20").wait_for()
        text = page.locator("[data-name=result]").inner_text()
        assert "10 or more come with a probability of 59 %" in text
        rows = [row.split("\t") for row in page.locator("#quiz table tr").all_inner_texts()]
        cells = {row[0]: [int(cell) for cell in row[1:]] for row in rows[1:]}
        assert cells["real"][:2] == [10, 10] and cells["all"][:2] == [20, 10]
        titles = [registration.title for registration in REGISTRY.values()]
        right = [(image["synthetic"] < 0.5) == (image["source"] == "real") for image in images]
        assert cells["all"][2] == sum(right)
        assert sum(cells[name][0] for name in titles) == 10
        assert all(cells[name][1] == 0 for name in titles)
        missed = page.locator("#quiz li p").all_inner_texts()
        assert len(missed) == 10 and all(text.startswith("SYNTHETIC, by") for text in missed)
        page.get_by_role("button", name="Again").click()
        assert page.get_by_role("status").inner_text() == "Image 1 of 20"
        assert problems == []


def test_the_reader_filters_selects_and_downloads(finished_site, tmp_path) -> None:
    about = script(finished_site / "gallery/gallery.js")
    table = pd.DataFrame(about["images"])
    with served(finished_site) as address, headless() as browser:
        page, problems = opened(browser, address, "gallery.html")
        assert (
            f"first {gallery.MAX_IMAGES} of each class"
            in page.locator("[data-name=about]").inner_text()
        )
        page.get_by_label("Generator").select_option("gan")
        page.locator("#gallery [name=class]").select_option("mel")
        page.get_by_label("Order").select_option("near")
        texts = page.locator("#gallery li > p").all_inner_texts()
        wanted = table[(table["generator"] == "gan") & (table["dx"] == "mel")].sort_values(
            "distance"
        )
        said = [float(text.split()[1].strip(",")) for text in texts]
        np.testing.assert_allclose(said, wanted["distance"], atol=0.051)
        canvas = page.locator("#gallery canvas").first
        canvas.scroll_into_view_if_needed()
        page.wait_for_function(
            "document.querySelector('#gallery canvas').toDataURL().length > 5000"
        )
        plain = canvas.evaluate("c => c.toDataURL()")
        assert f"Synthetic {HAM10000.classes.long_names['mel']} by GAN" in canvas.get_attribute(
            "aria-label"
        )
        page.get_by_label("Attention map").check()
        page.wait_for_function(
            "document.querySelector('#gallery canvas').toDataURL().length > 5000"
        )
        assert page.locator("#gallery canvas").first.evaluate("c => c.toDataURL()") != plain
        page.locator("#gallery li summary").first.press("Enter")
        shares = page.locator("#gallery li").first.locator("td").all_inner_texts()
        assert [int(share.removesuffix(" %")) for share in shares] == [
            int(100 * p + 0.5) for p in wanted["p"].iloc[0]
        ]
        page.get_by_label("select melanoma").first.press("Space")
        page.get_by_label("Generator").select_option("vae")
        page.locator("#gallery [name=class]").select_option("df")
        page.get_by_role("button", name="Select all shown").click()
        assert (
            f"{gallery.MAX_IMAGES} shown, {gallery.MAX_IMAGES + 1} selected"
            in page.get_by_role("status").inner_text()
        )
        with page.expect_download() as download:
            page.get_by_role("button", name="Download selection").click()
        assert problems == []
        with zipfile.ZipFile(download.value.path()) as file:
            assert file.testzip() is None
            file.extractall(tmp_path / "selection")
    selection = read_synthetic(tmp_path / "selection", HAM10000.classes)
    assert selection.counts == dict.fromkeys(CLASSES, 0) | {"mel": 1, "df": gallery.MAX_IMAGES}
    scores = pd.read_csv(tmp_path / "selection/scores.csv").set_index("image_id")
    assert scores.loc[wanted["image_id"].iloc[0], "distance"] == wanted["distance"].iloc[0]
    assert "SYNTHETIC" in (tmp_path / "selection/README.txt").read_text(encoding="utf-8")


def test_the_gallery_answers_from_the_file_system_too(finished_site) -> None:
    with headless() as browser:
        page = browser.new_page()
        page.goto((finished_site / "gallery.html").as_uri())
        page.locator("#gallery canvas").first.scroll_into_view_if_needed()
        page.wait_for_function(
            "document.querySelector('#gallery canvas').toDataURL().length > 5000"
        )
        page.get_by_label("select").first.check()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download selection").click()
        assert zipfile.is_zipfile(download.value.path())
