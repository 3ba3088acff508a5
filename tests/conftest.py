import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def ham10000_folder() -> Path:
    """The real HAM10000: `HAMSYNTH_TEST_DATA`, or `shared/ham10000` beside the project."""
    folder = Path(os.environ.get("HAMSYNTH_TEST_DATA", ROOT.parent / "shared/ham10000"))
    if not (folder / "HAM10000_metadata.csv").is_file():
        message = f"no HAM10000 at {folder}: name its folder in HAMSYNTH_TEST_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
