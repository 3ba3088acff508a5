"""Redaction: the paths of this machine are removed from everything that is published."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any


class PathRedactor:
    """Replaces the paths of this machine by short names.

    Args:
        folder: the run folder; becomes `runs/<name>`.
        root: the folder of the project; becomes `.`.
        *sources: folders of data and the file of a profile; only the last part remains.
    """

    def __init__(self, folder: Path, root: Path, *sources: str) -> None:
        names = {
            str(folder.resolve()): f"runs/{folder.name}",
            str(root.resolve()): ".",
            str(Path(sys.prefix).resolve()): "python",
            str(Path.home()): "~",
        }
        names |= {source: Path(source).name for source in sources if source != "phantom"}
        # Longest first: the run folder usually lies in the checkout, and the checkout in the home
        # folder.
        paths = sorted((path for path in names if len(path) > 1), key=len, reverse=True)
        self._names = names
        self._pattern = re.compile(rf"(?<![\w.+/-])({'|'.join(map(re.escape, paths))})(?![\w.-])")

    def __call__(self, value: Any, key: str = "") -> Any:
        """Replace the paths in a value.

        Args:
            value: a text, or lists and dictionaries of texts such as a notebook.
            key: the key of the value in its dictionary. Values of keys `image/...` are left as they
                are.

        Returns:
            The same structure without paths of this machine.
        """
        if isinstance(value, str):
            return (
                value
                if key.startswith("image/")
                else self._pattern.sub(lambda m: self._names[m[1]], value)
            )
        if isinstance(value, list):
            return [self(item, key) for item in value]
        return (
            {name: self(item, name) for name, item in value.items()}
            if isinstance(value, dict)
            else value
        )
