"""Fetches the official HAM10000 archives and unpacks them in a layout that `read_ham10000` reads.

`dataverse` (Harvard Dataverse, doi:10.7910/DVN/DBW86T) has age, sex, site and source of each image.
`isic` (ISIC 2018 Task 3) has only the diagnoses and the lesion ids. An archive takes about 2.8 GB,
and the same again while it is unpacked. With `include_test` the official test set (0.4 GB) is
fetched into FOLDER/test, as a data set of its own. After an interruption the next call continues
where the transfer stopped. A call does nothing if all files are there. The licence of the data is
CC BY-NC-SA 4.0: research and education only.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pooch
import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.layouts import find_layout


@dataclass(frozen=True)
class Source:
    """Where official files lie.

    Attributes:
        base_url: the server.
        files: for each file name its path below `base_url`.
        test_files: the same for the official test set.
        listing: the path of Dataverse's list of files with their MD5; None if there is no such
            list.
    """

    base_url: str
    files: dict[str, str]
    test_files: dict[str, str]
    listing: str | None = None


ISIC_FILES = ("GroundTruth.zip", "Input.zip", "LesionGroupings.csv")


SOURCES = {
    "dataverse": Source(
        "https://dataverse.harvard.edu",
        {
            "HAM10000_metadata.tab": "api/access/datafile/4338392",
            "HAM10000_images_part_1.zip": "api/access/datafile/3172585",
            "HAM10000_images_part_2.zip": "api/access/datafile/3172584",
        },
        {
            "ISIC2018_Task3_Test_GroundTruth.tab": "api/access/datafile/6924466",
            "ISIC2018_Task3_Test_Images.zip": "api/access/datafile/3855824",
        },
        "api/datasets/:persistentId/?persistentId=doi:10.7910/DVN/DBW86T",
    ),
    "isic": Source(
        "https://isic-challenge-data.s3.amazonaws.com/2018",
        {
            f"ISIC2018_Task3_Training_{name}": f"ISIC2018_Task3_Training_{name}"
            for name in ISIC_FILES
        },
        {f"ISIC2018_Task3_Test_{name}": f"ISIC2018_Task3_Test_{name}" for name in ISIC_FILES[:2]},
    ),
}


def download(
    folder: Path,
    source: str = "dataverse",
    include_test: bool = False,
    base_url: str | None = None,
    progress: bool = True,
    pause: float = 2.0,
) -> None:
    """Fetch missing files, verify and unpack them, and check that the data can be read.

    The SHA-256 of every file is recorded in `folder/sha256.json` at its first transfer, and
    compared at later transfers. Dataverse's files are also compared with its MD5.

    Args:
        folder: the data folder, created if it is missing.
        source: `dataverse` or `isic`.
        include_test: whether to fetch the official test set too, into `folder/test`.
        base_url: another server with the same paths (a mirror).
        progress: whether to show progress bars.
        pause: seconds before the first retry of a broken transfer; each further retry doubles them.

    Raises:
        InputError: for an unknown source, a broken transfer (the next call continues it), a wrong
            checksum, a damaged or unsafe archive, or a folder that cannot be written.
    """
    if source not in SOURCES:
        raise InputError(f"no source is called {source!r}; there are {', '.join(SOURCES)}")
    chosen, folder = SOURCES[source], Path(folder)
    wanted = {folder / name: path for name, path in chosen.files.items()}
    if include_test:
        wanted |= {folder / "test" / name: path for name, path in chosen.test_files.items()}
    missing = {file: path for file, path in wanted.items() if not _target(file).exists()}
    if missing:
        base = (base_url or chosen.base_url).rstrip("/")
        published = _published_md5(f"{base}/{chosen.listing}") if chosen.listing else {}
        with _workplace(folder) as work:
            for file, path in missing.items():
                known = _pinned(folder).get(file.name) or published.get(path.rsplit("/", 1)[-1])
                _fetch(f"{base}/{path}", work / file.name, known, progress, pause)
                sha256 = pooch.file_hash(str(work / file.name))
                _put(work / file.name, _target(file), progress)
                _pin(folder, work, file.name, sha256)
    for part in dict.fromkeys(file.parent for file in wanted):
        print(f"{part}: {len(read_metadata(find_layout(part))):,} images")


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A hidden folder for unfinished files, locked for this process; an error leaves it there."""
    work = folder / ".download"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "lock", timeout=0):
            yield work
        shutil.rmtree(work)
    except Timeout as error:
        raise InputError(
            f"another download into {folder} is at work: wait for it to end"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror or error}. Free space or make it writable. "
            "Then call again"
        ) from error


def _fetch(url: str, file: Path, known_hash: str | None, progress: bool, pause: float) -> None:
    downloader = ResumingDownloader(file.with_name(file.name + ".part"), progress, pause)
    try:
        pooch.retrieve(url, known_hash, fname=file.name, path=file.parent, downloader=downloader)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{url}: {error} Call again to fetch it anew; if its publisher changed it, take "
            f"{file.name} out of sha256.json first"
        ) from error


def _published_md5(url: str) -> dict[str, str]:
    """Dataverse's MD5 by file id; tables are left out, because Dataverse sends them converted."""
    try:
        response = requests.get(url, timeout=(10, 60))
        check_status(response)
        files = [entry["dataFile"] for entry in response.json()["data"]["latestVersion"]["files"]]
        return {
            str(file["id"]): f"md5:{file['md5']}"
            for file in files
            if "originalFileFormat" not in file
        }
    except (requests.RequestException, KeyError, TypeError) as error:
        raise InputError(
            f"{url} cannot be read: {error!r}. Try again later, or --source isic"
        ) from error


def _pinned(folder: Path) -> dict[str, str]:
    path = folder / "sha256.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}): mend it or remove it") from error


def _pin(folder: Path, work: Path, name: str, sha256: str) -> None:
    temporary = work / "sha256.json"
    temporary.write_text(
        json.dumps(_pinned(folder) | {name: sha256}, indent=2, sort_keys=True) + "\n",
        encoding="utf-8",
    )
    temporary.replace(folder / "sha256.json")


def _target(file: Path) -> Path:
    return file.with_suffix("") if file.suffix == ".zip" else file


def _put(file: Path, target: Path, progress: bool) -> None:
    """Move a file, or the content of an archive, to `target` in one step, so it is complete."""
    target.parent.mkdir(exist_ok=True)
    if file.suffix != ".zip":
        file.replace(target)
        return
    unpacked = file.with_suffix("")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            _refuse_outside(file, members)
            for member in tqdm(
                members, f"unpacking {file.name}", unit=" files", disable=not progress
            ):
                archive.extract(member, unpacked)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        file.unlink()
        raise InputError(
            f"{file.name} is damaged ({error}) and was removed: call again to fetch it anew"
        ) from error
    inner = [path for path in unpacked.iterdir() if path.name != "__MACOSX"]
    (inner[0] if len(inner) == 1 and inner[0].is_dir() else unpacked).replace(target)
    shutil.rmtree(unpacked, ignore_errors=True)
    file.unlink()


def _refuse_outside(file: Path, members: Iterable[str]) -> None:
    for member in members:
        for path in (PurePosixPath(member), PureWindowsPath(member)):
            if path.is_absolute() or path.drive or ".." in path.parts:
                raise InputError(
                    f"{file.name} would write outside its folder ({member!r}): it is not unpacked"
                )


CHUNK = 64 * 1024
"""Bytes that are read at once."""


BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
"""Errors of a transfer after which a retry may help."""


ATTEMPTS = 5
"""Failures in a row, without a new byte, after which a transfer stops with an error."""


class ResumingDownloader:
    """A downloader for pooch that resumes a broken transfer, in the same call or in a later call.

    Args:
        partial: the unfinished file, kept until the transfer is complete.
        progress: whether to show a progress bar.
        pause: seconds before the first retry; each further retry doubles them.
    """

    def __init__(self, partial: Path, progress: bool, pause: float) -> None:
        self.partial, self.progress, self.pause = partial, progress, pause

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        failures = 0
        while True:
            before = self._size()
            try:
                self._transfer(url)
                break
            except BROKEN as error:
                failures = 1 if self._size() > before else failures + 1
                if failures == ATTEMPTS:
                    raise InputError(
                        f"the transfer of {url} broke {ATTEMPTS} times in a row: {error}. "
                        f"{self._size():,} bytes are kept: call again to go on from there"
                    ) from error
                wait = self.pause * 2 ** (failures - 1)
                print(f"the transfer broke ({error}): going on in {wait:.0f} s", file=sys.stderr)
                time.sleep(wait)
        self.partial.replace(output_file)

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _transfer(self, url: str) -> None:
        """Append what is missing to the partial file; raises one of BROKEN if a retry may help."""
        start = self._size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
            sent = response.headers.get("Content-Range", "")
            if response.status_code == 416 and sent == f"bytes */{start}":
                return
            if response.status_code == 416 or (
                response.status_code == 206 and not sent.startswith(f"bytes {start}-")
            ):
                self.partial.unlink()
                raise requests.ConnectionError(
                    f"the server cannot go on at byte {start:,}: starting over"
                )
            check_status(response)
            if response.status_code == 200:
                start = 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            with (
                self.partial.open("ab" if start else "wb") as file,
                tqdm(
                    desc=self.partial.stem,
                    initial=start,
                    total=total,
                    unit="B",
                    unit_scale=True,
                    disable=not self.progress,
                ) as bar,
            ):
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and self._size() != total:
            raise requests.ConnectionError(f"got {self._size():,} of {total:,} bytes")


def check_status(response: requests.Response) -> None:
    """Check the status code of a response.

    Args:
        response: the answer of a server.

    Raises:
        requests.ConnectionError: for status 429 and from 500 up, because a retry may help.
        InputError: for any other failure.
    """
    if response.status_code == 429 or response.status_code >= 500:
        raise requests.ConnectionError(f"the server answers {response.status_code}")
    if not response.ok:
        raise InputError(
            f"{response.url} cannot be fetched: the server answers {response.status_code}"
        )
