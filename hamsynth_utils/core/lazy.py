"""Lazy re-exports (PEP 562): a name of a subpackage is imported at its first use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, exports: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that re-exports names of its modules.

    Args:
        package: the package's `__name__`.
        exports: for each module, by its name in the package, the re-exported names, separated by
            spaces.

    Returns:
        The three attributes, in this order.

    Raises:
        ValueError: if a name is exported twice, or is also the name of one of these modules.
    """
    module_of: dict[str, str] = {}
    for module, exported in exports.items():
        for name in exported.split():
            if name in module_of or name in exports:
                raise ValueError(f"{package} exports {name} twice, or under the name of a module")
            module_of[name] = module

    def load(name: str) -> Any:
        """Import a re-exported name, and keep it in the package."""
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        """The names of the package, sorted."""
        return sorted({*vars(sys.modules[package]), *module_of})

    return load, names, sorted(module_of)
