import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.download import SOURCES, download
from hamsynth_utils.data.ham10000 import read_ham10000

CLASSES = HAM10000.classes.names

IDS = [f"ISIC_00243{n:02}" for n in range(14)]
TEST_IDS = [f"ISIC_00345{n:02}" for n in range(7)]
PART_1 = "HAM10000_images_part_1.zip"
LISTING = "/" + str(SOURCES["dataverse"].listing)


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def ham_table(ids: list[str], separator: str = "\t") -> bytes:
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    rows += [
        f"HAM_{k:07},{i},{CLASSES[k % 7]},histo,50.0,male,back,rosendahl" for k, i in enumerate(ids)
    ]
    return "\n".join(rows).replace(",", separator).encode()


def one_hot(ids: list[str]) -> bytes:
    order = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    rows = [",".join(["image", *order])]
    rows += [
        ",".join([i, *("1.0" if CLASSES[k % 7].upper() == name else "0.0" for name in order)])
        for k, i in enumerate(ids)
    ]
    return "\n".join(rows).encode()


def served() -> dict[str, bytes]:
    """Every official file at its official path, small: Dataverse's archives are flat, ISIC's a folder."""
    images = {f"{i}.jpg": jpeg(n) for n, i in enumerate([*IDS, *TEST_IDS])}

    def zipped(ids: list[str], folder: str = "") -> bytes:
        return archive({f"{folder}{i}.jpg": images[f"{i}.jpg"] for i in ids})

    train, test = "ISIC2018_Task3_Training_", "ISIC2018_Task3_Test_"
    dataverse = SOURCES["dataverse"].files | SOURCES["dataverse"].test_files
    files = {
        dataverse["HAM10000_metadata.tab"]: ham_table(IDS),
        dataverse[PART_1]: zipped(IDS[:7]),
        dataverse["HAM10000_images_part_2.zip"]: zipped(IDS[7:]),
        dataverse[test + "GroundTruth.tab"]: ham_table([*TEST_IDS, "ISIC_0035068"]),
        dataverse[test + "Images.zip"]: zipped(TEST_IDS, test + "Images/"),
        train + "GroundTruth.zip": archive(
            {f"{train}GroundTruth/{train}GroundTruth.csv": one_hot(IDS)}
        ),
        train + "LesionGroupings.csv": b"image,lesion_id\n"
        + b"".join(f"{i},L{i}\n".encode() for i in IDS),
        train + "Input.zip": zipped(IDS, train + "Input/"),
        test + "GroundTruth.zip": archive(
            {f"{test}GroundTruth/{test}GroundTruth.csv": one_hot(TEST_IDS)}
        ),
        test + "Input.zip": zipped(TEST_IDS, test + "Input/"),
    }
    listed = [
        {
            "dataFile": {
                "id": int(path.rsplit("/", 1)[-1]),
                "md5": hashlib.md5(files[path]).hexdigest(),
            }
        }
        for path in dataverse.values()
    ]
    listed[0]["dataFile"] |= {"md5": "0" * 32, "originalFileFormat": "text/csv"}
    files[LISTING[1:]] = json.dumps({"data": {"latestVersion": {"files": listed}}}).encode()
    return {"/" + path: content for path, content in files.items()}


class Server(ThreadingHTTPServer):
    """Counts requests; can cut connections, ignore ranges, or answer with an error."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = served()
        self.requests: list[tuple[str, str | None]] = []
        self.cut: dict[str, list[int]] = {}
        """Path -> how many bytes of the body to send before closing, one entry a request."""
        self.status: dict[str, list[int]] = {}
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self, path: str) -> list[str | None]:
        return [requested for p, requested in self.requests if p == path]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.requests.append((self.path, requested))
        statuses = self.server.status.get(self.path)
        if self.path not in self.server.files or statuses:
            self.send_error(statuses.pop(0) if statuses else 404)
            return
        content = self.server.files[self.path]
        start = (
            int(requested.removeprefix("bytes=").rstrip("-"))
            if requested and self.server.ranges
            else 0
        )
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cuts = self.server.cut.get(self.path)
        self.wfile.write(content[start : start + cuts.pop(0)] if cuts else content[start:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(
    folder: Path, server: Server, source: str = "dataverse", include_test: bool = False
) -> None:
    download(folder, source, include_test, server.url, progress=False, pause=0.001)


def path_of(name: str) -> str:
    return "/" + SOURCES["dataverse"].files[name]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("source", ["dataverse", "isic"])
def test_what_is_fetched_can_be_read(source: str, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    fetch(folder, server, source, include_test=True)
    for part, ids in [(folder, IDS), (folder / "test", TEST_IDS)]:
        lesions = read_ham10000(part, 16, progress=False).lesions
        assert lesions.table["image_id"].tolist() == ids
        assert lesions.table["dx"].tolist() == [CLASSES[k % 7] for k in range(len(ids))]
    assert read_ham10000(folder, 16, progress=False).lesions.table["lesion_id"].notna().all()
    assert left_over(folder) == [] and not list(folder.rglob("*.zip"))

    chosen = SOURCES[source]
    recorded = json.loads((folder / "sha256.json").read_text(encoding="utf-8"))
    paths = chosen.files | chosen.test_files
    assert recorded == {
        n: hashlib.sha256(server.files["/" + p]).hexdigest() for n, p in paths.items()
    }

    before = len(server.requests)
    fetch(folder, server, source, include_test=True)
    assert len(server.requests) == before


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    path = path_of(PART_1)
    size = len(server.files[path])
    assert size > 3 * 65536
    server.cut[path] = [size // 2, 70_000]
    fetch(tmp_path, server)
    first, second, third = server.fetched(path)
    assert first is None
    start, again = (int(str(r).removeprefix("bytes=").rstrip("-")) for r in (second, third))
    assert size // 2 - 65536 <= start <= size // 2 and start < again < size
    assert len(read_ham10000(tmp_path, 16, progress=False).lesions) == 14


def test_a_transfer_that_stays_broken_is_resumed_by_the_next_call(
    server: Server, tmp_path: Path
) -> None:
    path = path_of(PART_1)
    server.cut[path] = [100_000, *[0] * 5]
    with pytest.raises(InputError, match=r"bytes are kept: call again"):
        fetch(tmp_path, server)
    kept = (tmp_path / ".download" / f"{PART_1}.part").stat().st_size
    assert 0 < kept <= 100_000 and not (tmp_path / "HAM10000_images_part_1").exists()
    server.requests.clear()
    server.cut.clear()
    fetch(tmp_path, server)
    assert server.fetched(path) == [f"bytes={kept}-"]
    assert server.fetched(path_of("HAM10000_metadata.tab")) == []
    assert len(read_ham10000(tmp_path, 16, progress=False).lesions) == 14
    assert left_over(tmp_path) == []


def test_a_complete_partial_file_is_taken_and_a_stale_one_replaced(
    server: Server, tmp_path: Path
) -> None:
    work = tmp_path / ".download"
    work.mkdir()
    content = server.files[path_of(PART_1)]
    (work / f"{PART_1}.part").write_bytes(content)
    (work / "HAM10000_images_part_2.zip.part").write_bytes(b"x" * (len(content) + 100_000))
    fetch(tmp_path, server)
    assert server.fetched(path_of(PART_1)) == [f"bytes={len(content)}-"]
    assert server.fetched(path_of("HAM10000_images_part_2.zip"))[1:] == [None]
    assert len(read_ham10000(tmp_path, 16, progress=False).lesions) == 14


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut[path_of(PART_1)] = [150_000]
    fetch(tmp_path, server)
    assert len(read_ham10000(tmp_path, 16, progress=False).lesions) == 14


def test_server_trouble_is_waited_out_and_a_refusal_is_not(server: Server, tmp_path: Path) -> None:
    path = path_of(PART_1)
    server.status[path] = [503, 429]
    fetch(tmp_path / "a", server)
    assert len(server.fetched(path)) == 3
    server.status[path] = [404] * 9
    with pytest.raises(InputError, match=r"3172585 cannot be fetched: the server answers 404"):
        fetch(tmp_path / "b", server)
    assert len(server.fetched(path)) == 4


@pytest.mark.parametrize("pinned", [True, False])
def test_a_wrong_checksum_names_file_expected_and_found(
    pinned: bool, server: Server, tmp_path: Path
) -> None:
    """Against the sha256 recorded at an earlier download, or else against Dataverse's md5."""
    path = path_of(PART_1)
    algorithm = hashlib.sha256 if pinned else hashlib.md5
    expected = algorithm(server.files[path]).hexdigest()
    if pinned:
        (tmp_path / "sha256.json").write_text(json.dumps({PART_1: expected}), encoding="utf-8")
    content = bytearray(server.files[path])
    content[1000] ^= 1
    good, server.files[path] = server.files[path], bytes(content)
    with pytest.raises(InputError) as caught:
        fetch(tmp_path, server)
    for part in (PART_1, expected, algorithm(content).hexdigest()):
        assert part in str(caught.value)
    assert not (tmp_path / "HAM10000_images_part_1").exists()
    assert not [file for file in (tmp_path / ".download").iterdir() if PART_1 in file.name]
    server.files[path] = good
    fetch(tmp_path, server)
    assert len(read_ham10000(tmp_path, 16, progress=False).lesions) == 14


def test_a_damaged_archive_is_removed_and_its_checksum_not_recorded(
    server: Server, tmp_path: Path
) -> None:
    path = "/ISIC2018_Task3_Training_Input.zip"
    content = bytearray(server.files[path])
    content[5000] ^= 1
    good, server.files[path] = server.files[path], bytes(content)
    with pytest.raises(InputError, match=r"Training_Input.zip is damaged"):
        fetch(tmp_path, server, "isic")
    assert "ISIC2018_Task3_Training_Input.zip" not in json.loads(
        (tmp_path / "sha256.json").read_text(encoding="utf-8")
    )
    assert not (tmp_path / "ISIC2018_Task3_Training_Input").exists()
    server.files[path] = good
    fetch(tmp_path, server, "isic")
    assert len(read_ham10000(tmp_path, 16, progress=False).lesions) == 14


@pytest.mark.parametrize(
    "name",
    ["../outside.jpg", "/outside.jpg", "a/../../outside.jpg", "..\\outside.jpg", "C:\\x.jpg"],
)
def test_an_archive_that_reaches_outside_is_not_unpacked(
    name: str, server: Server, tmp_path: Path
) -> None:
    server.files["/ISIC2018_Task3_Training_Input.zip"] = archive(
        {"a/ISIC_0024300.jpg": jpeg(0), name: b"x"}
    )
    folder = tmp_path / "data"
    with pytest.raises(InputError, match="outside its folder"):
        fetch(folder, server, "isic")
    assert (
        not list(tmp_path.rglob("*outside*"))
        and not (folder / "ISIC2018_Task3_Training_Input").exists()
    )


def test_command_line(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["download", str(tmp_path), "--source", "isic", "--base-url", server.url]) == 0
    assert "14 images" in capsys.readouterr().out
    server.status["/ISIC2018_Task3_Training_Input.zip"] = [403]
    assert (
        main(["download", str(tmp_path / "new"), "--source", "isic", "--base-url", server.url]) == 2
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: http://127.0.0.1")


def test_a_folder_that_cannot_be_made_is_an_input_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write to"):
        fetch(tmp_path / "file" / "data", server)
