"""What several tests of the report share."""

from pathlib import Path

import pytest
from made_runs import make_run

from hamsynth_utils.report.build import build


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that looks finished, built once."""
    return build(make_run(tmp_path_factory.mktemp("report") / "tiny")).parent
