"""The generators in a page: which are shown, and that the browser draws what torch draws."""

import base64
import io
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import headless, opened, served
from made_runs import own_networks
from PIL import Image
from playwright.sync_api import Page
from scipy import stats

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.paths import checkpoint_of, project_root
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.weights import sha256_of
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import to_uint8
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.latent import SolverGenerator
from hamsynth_utils.generators.loading import build_generator, load_generator
from hamsynth_utils.report.interactive import playground

CLASSES = HAM10000.classes.names

ROOT = project_root()
DRAWN = """async ([name, noise, label, guidance, steps]) => {
    const network = hamsynthNetworks.networks[name], images = [], begun = performance.now();
    for await (const { image } of hamsynth.images(name, Float32Array.from(noise), label, guidance, steps))
        images.push([...hamsynth.pixels(image, network.size).data]);
    return [images, (performance.now() - begun) / 1000];
}"""


def bare_page(folder: Path, run: Path, data: str) -> Path:
    """The scripts of the page without the book around them."""
    shutil.copytree(ROOT / "book/_extra", folder)
    playground.write_playground(folder / "playground/networks", run, data)
    scripts = "".join(
        f'<script src="{name}.js"></script>'
        for name in ("files/files", "playground/networks/networks", "playground/sampling")
    )
    (folder / "index.html").write_text(
        f"<!doctype html><link rel=icon href=data:,><body>{scripts}", encoding="utf-8"
    )
    return folder


def described(target: Path) -> dict:
    text = (target / "networks.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("window.hamsynthNetworks = ").removesuffix(";\n"))


def torch_images(
    generator: Generator, noise: torch.Tensor, label: int, how: dict, monkeypatch
) -> np.ndarray:
    """What the package's own sampling makes of this noise: uint8 [images, S, S, 3]."""
    for module in ("base", "latent"):
        monkeypatch.setattr(f"hamsynth_utils.generators.{module}.seeded_noise", lambda *_: noise)
    labels = torch.tensor([label])
    if not isinstance(generator, SolverGenerator):
        return to_uint8(generator.sample(labels, 0)).permute(0, 2, 3, 1).numpy()
    images = torch.cat(
        [generator.decode_images(x) for x in generator.seeded_trajectory(labels, 0, **how)]
    )
    return to_uint8(images).permute(0, 2, 3, 1).numpy()


def agree(page: Page, path: Path, name: str, how: dict, monkeypatch) -> float:
    """Compare pictures of three classes, and return the least seconds that the browser took for one."""
    generator, seconds = load_generator(path, name), []
    for label in (0, 4, 6):
        shape = page.evaluate("name => hamsynthNetworks.networks[name].shape", name)
        noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(label))
        asked = [name, noise.flatten().tolist(), label, how.get("guidance"), how.get("steps")]
        images, took = page.evaluate(DRAWN, asked)
        seconds.append(took)
        drawn = np.array(images, dtype=np.int64).reshape(len(images), generator.image_size, -1, 4)
        wanted = torch_images(generator, noise, label, how, monkeypatch).astype(np.int64)
        assert drawn[..., :3].shape == wanted.shape
        assert wanted.std() > 5, "a picture without anything in it would agree with anything"
        assert np.abs(drawn[..., :3] - wanted).max() <= 2
    return min(seconds)


@pytest.fixture(scope="module")
def own_site(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("own")
    run = own_networks(folder / "run")
    return bare_page(folder / "site", run, "phantom"), run


def test_released_networks_draw_in_the_browser_what_torch_draws_and_in_time(
    tmp_path, monkeypatch
) -> None:
    site = bare_page(tmp_path / "site", tmp_path / "no run", "/some/photographs")
    files = list((site / "playground/networks").glob("*.onnx"))
    assert sum(path.stat().st_size for path in files) <= playground.LIMIT
    with served(site) as address, headless() as browser:
        page, problems = opened(browser, address, "index.html")
        for name, most, how in (
            ("vae", 1, {}),
            ("gan", 1, {}),
            ("diffusion", 10, {"guidance": 2.0, "steps": 12}),
        ):
            assert agree(page, checkpoint_of(name), name, how, monkeypatch) < most
        assert problems == []


def test_a_runs_own_networks_survive_half_precision(own_site, monkeypatch) -> None:
    site, run = own_site
    with served(site) as address, headless() as browser:
        page, problems = opened(browser, address, "index.html")
        hows = {
            "diffusion": [{"guidance": 1.0, "steps": 4}],
            "flow": [{"guidance": 1.0, "steps": 1}, {"guidance": 2.0, "steps": 4}],
        }
        for name in GENERATORS:
            for how in hows.get(name, [{}]):
                agree(
                    page,
                    run / f"generators/{name}/seed-0/weights.safetensors",
                    name,
                    how,
                    monkeypatch,
                )
        assert problems == []


@pytest.mark.parametrize(
    ("name", "solver"),
    [("diffusion", "ddim"), ("diffusion", "dpm++"), ("flow", "euler"), ("flow", "midpoint")],
)
def test_a_page_that_does_what_it_is_told_goes_the_solvers_way(edited_tiny, name, solver) -> None:
    """With a network that is not linear in x, in the place of the real one."""
    generator = build_generator(
        name, load_profile(edited_tiny({name: {"solver": solver}})), n_classes=7
    )
    noise, shown = (
        torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        [],
    )

    def predict(x: torch.Tensor, time: float) -> torch.Tensor:
        return torch.sin(3 * x + time)

    terms = [noise]
    for weights, at in generator.trace_solver(5):
        x = sum(weight * term for weight, term in zip(weights, terms, strict=True))
        if at is None:
            shown.append(x)
        else:
            terms.append(predict(x, at))
    wanted = list(generator.solver_steps(noise, predict, 5, solver))
    assert len(terms) == 1 + 5 * (2 if solver == "midpoint" else 1) and len(wanted) >= 5
    torch.testing.assert_close(torch.stack(shown), torch.stack(wanted), atol=1e-5, rtol=0)


def test_noise_is_normal_and_the_seeds_own(own_site) -> None:
    with served(own_site[0]) as address, headless() as browser:
        page, _ = opened(browser, address, "index.html")
        one, again, other = (
            np.array(page.evaluate("s => [...hamsynth.noise(s, 20000)]", s)) for s in (7, 7, 8)
        )
        middle = np.array(
            page.evaluate(
                "([a, b]) => [...hamsynth.between(Float32Array.from(a), Float32Array.from(b), 0.5)]",
                [one.tolist(), other.tolist()],
            )
        )
        ends = page.evaluate(
            "([a, b]) => [0, 1].map(w => [...hamsynth.between(Float32Array.from(a), Float32Array.from(b), w)])",
            [one.tolist(), other.tolist()],
        )
    assert stats.kstest(one, "norm").pvalue > 1e-3
    assert (
        abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.03
        and abs(np.corrcoef(one, other)[0, 1]) < 0.03
    )
    assert (one == again).all()
    np.testing.assert_allclose(ends, [one, other], atol=1e-5)
    assert np.linalg.norm(middle) == pytest.approx(np.linalg.norm(one), rel=0.02)
    assert np.linalg.norm(middle - one) == pytest.approx(np.linalg.norm(middle - other), rel=0.02)


def test_own_networks_are_shown_only_of_the_phantom(tmp_path, monkeypatch) -> None:
    run = own_networks(tmp_path / "run", ("vae", "gan"))
    released = own_networks(tmp_path / "released", ("gan",))
    monkeypatch.setattr(
        playground,
        "checkpoint_of",
        lambda name: released / f"generators/{name}/seed-0/weights.safetensors",
    )

    def shown(data: str, folder: Path = run) -> dict:
        playground.write_playground(tmp_path / "networks", folder, data)
        return described(tmp_path / "networks")

    def sources(about: dict) -> dict:
        return {name: network["checkpoint"] for name, network in about["networks"].items()}

    own = {
        name: sha256_of(run / f"generators/{name}/seed-0/weights.safetensors")
        for name in ("vae", "gan")
    }
    theirs = {"gan": sha256_of(released / "generators/gan/seed-0/weights.safetensors")}
    phantom = shown("phantom")
    assert sources(phantom) == own and "this run's own" in phantom["note"]
    photographs = shown("/data/ham10000")
    assert sources(photographs) == theirs and "not released" in photographs["note"]
    assert [path.name for path in (tmp_path / "networks").glob("*.onnx")] == ["gan-draw.onnx"]
    untrained = shown("phantom", tmp_path / "nothing")
    assert sources(untrained) == theirs and "no network of its own" in untrained["note"]
    size = sum(path.stat().st_size for path in (tmp_path / "networks").glob("*.onnx"))
    monkeypatch.setattr(playground, "LIMIT", size)
    large = shown("phantom")
    assert sources(large) == theirs and "a page may have" in large["note"]
    of_run = "generators/{}/seed-0/weights.safetensors"
    monkeypatch.setattr(playground, "checkpoint_of", lambda name: run / of_run.format(name))
    monkeypatch.setattr(playground, "LIMIT", size)  # the VAE is larger, and the GAN fits
    crowded = shown("/data/ham10000")
    assert list(sources(crowded)) == ["gan"] and crowded["note"].endswith("MB: VAE.")
    assert [path.name for path in (tmp_path / "networks").glob("*.onnx")] == ["gan-draw.onnx"]
    monkeypatch.setattr(playground, "checkpoint_of", lambda name: tmp_path / "nothing")
    none = shown("/data/ham10000")
    assert sources(none) == {} and "at hand" in none["note"]


def test_weights_too_large_for_half_precision_stay_whole(tmp_path) -> None:
    import onnx

    run = own_networks(tmp_path / "run", ("gan",))
    generator = load_generator(run / "generators/gan/seed-0/weights.safetensors")
    with torch.no_grad():
        generator.synthesis.enter.weight[0, 0] = 1e6
    playground.export(generator, tmp_path / "networks")
    stored = onnx.load(tmp_path / "networks/gan-draw.onnx").graph.initializer
    kinds = {each.name: each.data_type for each in stored}
    assert kinds["generator.synthesis.enter.weight"] == onnx.TensorProto.FLOAT
    assert kinds["generator.synthesis.down.weight.half"] == onnx.TensorProto.FLOAT16


def lesion(page: Page, name: str) -> np.ndarray:
    """The pixels [S, S, 3] of a canvas's picture, one of each enlarged square, and the band below it."""
    url = page.locator(f"canvas[data-name={name}]").evaluate("canvas => canvas.toDataURL()")
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    )


def test_the_page_draws_steps_walks_and_saves(finished_site, tmp_path) -> None:
    with served(finished_site) as address, headless() as browser:
        page, problems = opened(browser, address, "playground.html")
        status = page.get_by_role("status")
        assert "phantom, which is not skin" in page.locator("[data-name=note]").inner_text()
        page.get_by_label("Generator").select_option("gan")
        page.get_by_label("Class").select_option("2")
        page.get_by_label("Seed", exact=True).fill("11")
        page.get_by_label("Seed", exact=True).press("Enter")
        status.filter(has_text="seed 11: made in").wait_for()
        canvas = lesion(page, "lesion")
        drawn, _ = page.evaluate(
            DRAWN, ["gan", page.evaluate("[...hamsynth.noise(11, 8)]"), 2, None, None]
        )
        assert (
            canvas[2:256:4, 2:256:4].reshape(-1, 3) == np.array(drawn[0]).reshape(-1, 4)[:, :3]
        ).all()
        assert 0.02 < (canvas[256:] > 128).mean() < 0.5, "no words below the picture"
        name = page.locator("canvas[data-name=lesion]").get_attribute("aria-label")
        assert "Synthetic" in name and "benign keratosis, GAN, seed 11" in name
        with page.expect_download() as download:
            page.locator("[data-name=save]").click()
        saved = Image.open(download.value.path())
        assert (np.asarray(saved.convert("RGB")) == canvas).all()
        assert saved.text["hamsynth:synthetic"] == "true" and "SYNTHETIC" in saved.text["Comment"]
        assert (saved.text["hamsynth:generator"], saved.text["hamsynth:seed"]) == ("gan", "11")
        assert saved.text["hamsynth:class"] == CLASSES[2]

        page.get_by_role("button", name="Next seed").click()
        status.filter(has_text="seed 12: made in").wait_for()
        assert (lesion(page, "lesion") != canvas).any()

        page.get_by_label("Generator").select_option("diffusion")
        page.get_by_role("button", name="Draw").click()
        status.filter(has_text="diffusion, seed 12: made in").wait_for()
        assert "after 4 of 4 passes" in page.locator("[data-name=time]").inner_text()
        last = lesion(page, "lesion")
        page.get_by_role("slider", name="Step").press("Home")
        assert "after 1 of 4 passes" in page.locator("[data-name=time]").inner_text()
        assert (lesion(page, "lesion") != last).any()

        page.get_by_label("Generator").select_option("flow")
        assert page.get_by_label("Steps").locator("option").all_inner_texts() == ["1", "2", "4"]
        page.get_by_label("Steps").select_option("1")
        page.get_by_role("slider", name="Guidance", exact=True).press("End")
        assert page.locator("[data-name=guidance]").inner_text() == "5"
        page.get_by_role("button", name="Draw").click()
        status.filter(has_text="flow matching, seed 12: made in").wait_for()
        assert (
            "after 1 of 1 passes of the network, the last at time 0"
            in page.locator("[data-name=time]").inner_text()
        )
        page.get_by_role("slider", name="Step").press("Home")
        assert "the noise" in page.locator("[data-name=time]").inner_text()
        assert "the noise" in page.get_by_role("slider", name="Step").get_attribute(
            "aria-valuetext"
        )

        page.get_by_role("slider", name="Way").press("Home")
        status.filter(has_text="0 % of the way from seed 1 to seed 2").wait_for()
        at_start = lesion(page, "walk")
        page.get_by_label("Generator").select_option("vae")
        page.get_by_label("Seed", exact=True).fill("1")
        page.get_by_role("button", name="Draw").click()
        status.filter(has_text="VAE, seed 1: made in").wait_for()
        assert (lesion(page, "lesion")[:256] == at_start[:256]).all()
        page.get_by_role("slider", name="Way").press("End")
        status.filter(has_text="100 % of the way").wait_for()
        assert (lesion(page, "walk") != at_start).any()
        assert problems == []


def test_from_the_file_system_the_page_says_what_to_do(finished_site) -> None:
    with headless() as browser:
        page = browser.new_page()
        page.goto((finished_site / "playground.html").as_uri())
        assert page.get_by_text("make serve").first.is_visible()
        assert page.get_by_role("button", name="Draw").is_disabled()
    with served(finished_site) as address, headless() as browser:
        page, _ = opened(browser, address, "playground.html")
        assert not page.get_by_text("make serve").first.is_visible()


def test_make_serve_shows_the_report_and_says_when_there_is_none(tmp_path) -> None:
    def make(runs: Path, port: int) -> subprocess.Popen:
        environment = {**os.environ, "HAMSYNTH_RUNS": str(runs)}
        command = ["make", "-s", "-o", ".venv/ready", "serve", "RUN=mine", f"PORT={port}"]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    with served(tmp_path) as address:  # a port that was free a moment ago
        port = int(address.rpartition(":")[2])
    nothing = make(tmp_path / "my runs", port)
    assert "make report" in nothing.communicate()[1] and nothing.returncode
    (tmp_path / "my runs/mine/site").mkdir(parents=True)
    (tmp_path / "my runs/mine/site/index.html").write_text("the report", encoding="utf-8")
    (tmp_path / "my runs/mine/secret").write_text("not the report", encoding="utf-8")
    serving = make(tmp_path / "my runs", port)
    try:
        assert serving.stdout.readline().startswith(f"http://127.0.0.1:{port}/")
        for _ in range(100):
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html").read()
                break
            except OSError:
                time.sleep(0.1)
        assert page == b"the report"
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/../secret")
    finally:
        serving.terminate()
        serving.wait()
