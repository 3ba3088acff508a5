"""The layout of the package: imports point downward, nothing goes in a circle, folders stay small."""

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import hamsynth_utils
from hamsynth_utils.core.lazy import lazy_exports

PACKAGE = Path(hamsynth_utils.__file__).parent
LAYERS = (
    "core",
    "data",
    "training",
    "notebook",
    "classifier",
    "generators",
    "metrics",
    "experiment",
    "release",
    "report",
    "cli",
)
MOST_ENTRIES = 12


def module_name(path: Path) -> str:
    """`hamsynth_utils.data.split` for its file; a package has the name of its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def layer_of(module: str) -> str:
    return module.split(".")[1]


def imports(tree: ast.AST) -> list[str]:
    """Every dotted name of the package that a module imports, at any depth, by statement or by string."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                as_module = f"{node.module}.{alias.name}"
                found.append(as_module if as_module in MODULES else node.module)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
        ):
            argument = node.args[0]
            if isinstance(argument, ast.JoinedStr):
                argument = argument.values[0]
            if isinstance(argument, ast.Constant):
                found.append(str(argument.value).rstrip("."))
    return [name for name in found if name.startswith("hamsynth_utils.")]


def upward(module: str, tree: ast.AST) -> list[str]:
    """The imports of a module that point to a higher layer than its own."""
    own = LAYERS.index(layer_of(module))
    return [name for name in imports(tree) if LAYERS.index(layer_of(name)) > own]


INNER = {name: path for name, path in MODULES.items() if name.count(".")}


def test_no_import_points_upward():
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in INNER.items()}
    assert {name: upward(name, tree) for name, tree in trees.items() if upward(name, tree)} == {}


@pytest.mark.parametrize(
    "code",
    [
        "from hamsynth_utils.report.build import build",
        "def late():\n    from hamsynth_utils.experiment import run",
        "import importlib\nimportlib.import_module('hamsynth_utils.cli')",
        "from importlib import import_module\nimport_module(f'hamsynth_utils.report.{name}')",
    ],
)
def test_an_upward_import_is_found_however_it_is_written(code):
    assert len(upward("hamsynth_utils.metrics.fidelity", ast.parse(code))) == 1


def test_no_imports_go_in_a_circle():
    graph = defaultdict(set)
    for name, path in INNER.items():
        graph[name] = set(imports(ast.parse(path.read_text(encoding="utf-8")))) - {name}
    list(
        graphlib.TopologicalSorter(graph).static_order()
    )  # raises CycleError, which names the circle


def test_folders_are_the_ten_subpackages_and_stay_small():
    here = {
        path.name for path in PACKAGE.iterdir() if not path.name.startswith((".", "__pycache__"))
    }
    project = {"project"} & here  # the files of the project, in an installed package
    assert here - project == {"__init__.py", "cli.py", *LAYERS[:-1]}
    for folder in {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}:
        entries = [p for p in folder.iterdir() if p.name not in {"__init__.py", "__pycache__"}]
        assert len(entries) <= MOST_ENTRIES, f"{folder} has {len(entries)} entries"


def test_re_exports_are_lazy_and_none_has_the_name_of_a_module():
    for name in LAYERS[:-1]:
        package = __import__(f"hamsynth_utils.{name}", fromlist=["*"])
        modules = {path.stem for path in (PACKAGE / name).iterdir()}
        exported = set(getattr(package, "__all__", ()))
        assert not exported & modules, name
        for attribute in exported:
            assert getattr(package, attribute) is not None
    with pytest.raises(ValueError, match="twice"):
        lazy_exports("some.package", {"run": "Run", "stages": "Run"})
    with pytest.raises(ValueError, match="name of a module"):
        lazy_exports("some.package", {"export": "export"})


@pytest.mark.parametrize(
    "code", ["import hamsynth_utils.core.profile as p; p.load_profile('smoke')"]
)
def test_what_must_be_fast_imports_no_heavy_library(code):
    heavy = "torch", "pandas", "matplotlib", "sklearn", "timm"
    script = f"{code}\nimport sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "[]"


RUN_PATH = re.compile(
    r"(^|/)(generators|classifiers|probes|metrics|private|privacy|site|logs|snapshots|data/lesions)/"
    r"|(^|/)(run\.yaml|(\w+_)?predictions\.csv|history\.csv|snapshot_distances\.csv|sampling\.csv"
    r"|split(-\w+)?\.csv|skipped\.csv|exports\.csv|provenance\.json|external\.json|extractors\.json"
    r"|weights\.safetensors|checkpoint\.safetensors)$"
    r"|(^|/)seed-$"
)
"""A part of a path in a run folder, as the text of a constant."""
KNOWS_PATHS = {"hamsynth_utils.core.paths", "hamsynth_utils.experiment.run"}


def path_literals(code: str) -> list[str]:
    """The text constants of some code that name a file or folder of a run; docstrings are left out."""
    tree = ast.parse(code)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]
    of_run = [text for text in texts if " " not in text and not text.startswith("benchmarks/")]
    return [text for text in of_run if RUN_PATH.search(text)]


def test_no_module_and_no_notebook_spells_a_path_of_the_run_folder():
    codes = {
        name: path.read_text(encoding="utf-8")
        for name, path in MODULES.items()
        if name not in KNOWS_PATHS
    }
    for path in sorted((PACKAGE.parent / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        codes[path.name] = "\n".join(code)
    found = {name: path_literals(code) for name, code in codes.items()}
    assert {name: texts for name, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    "code",
    [
        'pd.read_csv(run.folder / "metrics/fidelity.csv")',
        'path = folder / f"generators/{name}/weights.safetensors"',
        'record = folder / "run.yaml"',
        'folder / "classifiers" / arm / f"seed-{seed}"',
    ],
)
def test_a_path_of_the_run_folder_is_found_however_it_is_written(code):
    assert path_literals(f"def f():\n    {code}")
    assert not path_literals(f"def f():\n    '''{code}'''")


MOST_LINES = 60


def functions(code: str) -> dict[str, ast.FunctionDef]:
    """The functions and methods of a module by dotted name; those inside a function are left out."""
    found = {}

    def collect(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                collect(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                found[f"{prefix}{child.name}"] = child

    collect(ast.parse(code), "")
    return found


def without_args_section(code: str) -> list[str]:
    """The public functions with two or more arguments whose docstring explains no argument.

    A method that overrides another one may say "As `Base.method`" instead.
    """
    found = []
    for name, function in functions(code).items():
        arguments = [
            argument.arg
            for argument in (
                *function.args.posonlyargs,
                *function.args.args,
                *function.args.kwonlyargs,
            )
            if argument.arg not in {"self", "cls"}
        ]
        doc = ast.get_docstring(function) or ""
        explained = "\nArgs:\n" in doc or ("." in name and doc.startswith("As `"))
        if (
            "_" not in {part[0] for part in name.split(".")}
            and len(arguments) > 1
            and not explained
        ):
            found.append(name)
    return found


def too_long(code: str) -> list[str]:
    """The functions of more than `MOST_LINES` lines, without the docstring."""
    found = []
    for name, function in functions(code).items():
        first = function.body[0]
        has_docstring = ast.get_docstring(function) is not None
        docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
        if function.end_lineno - function.lineno + 1 - docstring > MOST_LINES:
            found.append(name)
    return found


def test_public_functions_explain_their_arguments():
    codes = {
        name: path.read_text(encoding="utf-8")
        for name, path in INNER.items()
        if name != "hamsynth_utils.cli"
    }
    found = {name: without_args_section(code) for name, code in codes.items()}
    assert {name: functions for name, functions in found.items() if functions} == {}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(a, b): ...", ["f"]),
        ("def f(a, /, *, b):\n    '''A sum of a and b.'''", ["f"]),
        ("class C:\n    def f(self, a, b):\n        '''A sum.'''", ["C.f"]),
        ("class C:\n    def f(self, a, b):\n        '''As `B.f`.'''", []),
        ("def f(a, b):\n    '''As `g`.'''", ["f"]),
        ("def f(a, b):\n    '''A sum.\n\n    Args:\n        a: one.\n        b: two.\n    '''", []),
        ("class C:\n    def f(self, a):\n        '''A sum.'''", []),
        ("def _f(a, b): ...", []),
        ("class _C:\n    def f(self, a, b): ...", []),
    ],
)
def test_a_function_without_explained_arguments_is_found(code, expected):
    assert without_args_section(code) == expected


def test_no_function_is_long():
    found = {name: too_long(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_a_long_function_is_found():
    docstring = "    '''A sum." + 80 * "\n    More." + "'''\n"
    code = f"class C:\n    def f(self):\n{docstring.replace('    ', '        ')}"
    assert too_long(code + (MOST_LINES - 1) * "        a = 1\n") == []
    assert too_long(code + MOST_LINES * "        a = 1\n") == ["C.f"]
