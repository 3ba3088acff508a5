"""The `hamsynth` command: help with examples that can be copied, one line for bad input, a fast start."""

import shlex
import subprocess
import sys
import time

import pytest
import typer

from hamsynth_utils import cli
from hamsynth_utils.cli import main


def commands(group, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Every command by the words that call it, those of its groups included."""
    found = {}
    for name, command in group.commands.items():
        inner = commands(command, (*words, name)) if hasattr(command, "commands") else {}
        found |= inner or {(*words, name): command}
    return found


ROOT_COMMAND = typer.main.get_command(cli.app)
COMMANDS = commands(ROOT_COMMAND)
CHEAP = {
    ("run",): "trial: profile smoke, data phantom, seed 0; classifiers: arms real,vae, seeds 0,1",
    ("student",): "notebooks without solutions in",
    ("phantom",): "noisy-phantom: 300 images",
    ("job",): "",
}
"""Commands whose example takes seconds, and what it prints."""


def example_in_help(words: tuple[str, ...], capsys) -> list[str]:
    """The arguments after `hamsynth` of the example that `--help` of a command shows."""
    assert main([*words, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    _, _, example = shown.partition("Example: hamsynth ")
    assert example, f"hamsynth {' '.join(words)} --help shows no example"
    return shlex.split(example)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_example_of_each_help_is_a_valid_call(words, capsys):
    arguments = example_in_help(words, capsys)
    assert tuple(arguments[: len(words)]) == words
    command = COMMANDS[words]
    with typer.Context(ROOT_COMMAND) as parent:
        command.make_context(words[-1], arguments[len(words) :], parent=parent)


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_cheap_examples_work(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "runs"))
    arguments = example_in_help(words, capsys)
    assert main(arguments) == 0
    assert CHEAP[words] in capsys.readouterr().out


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in ROOT_COMMAND.commands)
    assert "..." not in shown.split("Commands:")[1], "a command's first line is too long"


def test_the_version_is_the_packages(capsys):
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hamsynth {version('hamsynth')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nothing-here"], "nothing to verify at nothing-here"),
        (["build", "nothing-here"], "is not a run"),
        (["run", "--data", "no such folder"], "neither 'phantom' nor a folder"),
        (["train", "generator", "wavelet", "--run", "a"], "no generator is called 'wavelet'"),
        (["train", "classifier", "wavelet", "--run", "a"], "no arm is called 'wavelet'"),
        (["serve", "--run", "none"], "there is no report in"),
        (["download", "x", "--source", "elsewhere"], "no source is called 'elsewhere'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "runs"))
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1 and message in shown


@pytest.mark.parametrize("arguments", [["report", "--cores"], ["explain"], ["verify"]])
def test_a_wrong_call_ends_with_code_2(arguments, capsys):
    assert main(arguments) == 2
    assert "Error: " in capsys.readouterr().err


def test_help_takes_at_most_three_times_as_long_as_importing_numpy():
    def seconds(*arguments: str) -> float:
        """The least CPU-bound wall time of five calls, since other work only adds to it."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        return min(times)

    numpy = seconds("-c", "import numpy")
    assert seconds("-m", "hamsynth_utils.cli", "--help") <= 3 * numpy
