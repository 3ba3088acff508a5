"""Transfers of large files that go on where they broke."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from hamsynth_utils.errors import InputError

CHUNK = 64 * 1024
BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
ATTEMPTS = 5
"""Failures in a row, without one new byte, after which a transfer is given up."""


class ResumingDownloader:
    """A downloader for pooch that goes on where a transfer broke, in this call or in an earlier one.

    partial: the unfinished file, kept until the transfer is complete.
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
                        f"the transfer of {url} broke {ATTEMPTS} times in a row: {error}. {self._size():,} "
                        "bytes are kept: call again to go on from there"
                    ) from error
                wait = self.pause * 2 ** (failures - 1)
                print(f"the transfer broke ({error}): going on in {wait:.0f} s", file=sys.stderr)
                time.sleep(wait)
        self.partial.replace(output_file)

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _transfer(self, url: str) -> None:
        """Append what is missing to the partial file; raises one of BROKEN where a new try may help."""
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
                raise requests.ConnectionError(f"the server cannot go on at byte {start:,}: starting over")
            check_status(response)
            if response.status_code == 200:
                start = 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            with (
                self.partial.open("ab" if start else "wb") as file,
                tqdm(
                    desc=self.partial.stem, initial=start, total=total, unit="B", unit_scale=True,
                    disable=not self.progress,
                ) as bar,
            ):  # fmt: skip
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and self._size() != total:
            raise requests.ConnectionError(f"got {self._size():,} of {total:,} bytes")


def check_status(response: requests.Response) -> None:
    """Server trouble may pass, so it counts as BROKEN; a refusal will not, so it is an InputError."""
    if response.status_code == 429 or response.status_code >= 500:
        raise requests.ConnectionError(f"the server answers {response.status_code}")
    if not response.ok:
        raise InputError(f"{response.url} cannot be fetched: the server answers {response.status_code}")
