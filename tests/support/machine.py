"""A Python without HamSynth, in a folder that has nothing to do with this checkout."""

import os
import subprocess
import sys
import venv
from pathlib import Path


class Machine:
    """A Python that has what HamSynth needs but not HamSynth, an empty folder, and no package index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "content"
        self.folder.mkdir()
        venv.create(folder / "env", symlinks=True)
        self.python = folder / "env/bin/python"
        (site,) = (folder / "env/lib").glob("python*/site-packages")
        # Not those folders' own .pth files: they would bring this checkout along.
        (site / "needed.pth").write_text(
            "\n".join(path for path in sys.path if path.endswith("site-packages")), encoding="utf-8"
        )
        (folder / "env/share/jupyter").mkdir(parents=True)
        (folder / "env/share/jupyter/nbconvert").symlink_to(
            Path(sys.prefix) / "share/jupyter/nbconvert"
        )
        hidden = {"PYTHONPATH", "HAMSYNTH_RUNS", "VIRTUAL_ENV"}
        outer = {key: value for key, value in os.environ.items() if key not in hidden}
        self.environment = {
            **outer,
            "PATH": f"{self.python.parent}:{outer['PATH']}",
            "MPLBACKEND": "agg",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_NO_DEPS": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def run(self, *command: str, where: str = ".") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder / where,
            env=self.environment,
            text=True,
            capture_output=True,
            encoding="utf-8",
        )
