"""Interactive figures: alone in a batch run, with controls where somebody is at the notebook."""

import base64
import inspect
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ipywidgets
import nbformat
import numpy as np
import papermill
import pytest
from browser import headless
from conftest import ROOT
from jupyter_client.manager import start_new_kernel
from PIL import Image
from playwright.sync_api import TimeoutError as TooLate

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.notebook import widgets
from hamsynth_utils.notebook.plots import BookFigure

NOTEBOOKS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


def shade(noise_level: float = 0.5, diagnosis: str = "mel") -> tuple[BookFigure, str]:
    """A square whose red is the level, and whose blue says melanoma."""
    figure = BookFigure(figsize=(1, 1), facecolor=(noise_level, 0, float(diagnosis == "mel")))
    return figure, f"level {noise_level} <{diagnosis}>."


LEVELS = [0.0, 0.2, 0.5, 1.0]
CELL = f"""from hamsynth_utils.notebook import widgets
from hamsynth_utils.notebook.plots import BookFigure
{inspect.getsource(shade)}
widgets.interact(shade(0.0)[0], shade, noise_level={LEVELS}, diagnosis=["mel", "nv"])"""


def colour(source: str) -> list[int]:
    """The colour of a PNG that has one colour, given as base64."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB"))
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


def source_of(markup: str) -> str:
    (source,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', markup)
    return source


@pytest.fixture
def interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "is_interactive", lambda: True)
    monkeypatch.setattr(widgets, "display", lambda figure: None)


def test_plain_python_is_not_interactive() -> None:
    figure = BookFigure()
    assert not widgets.is_interactive()
    assert widgets.interact(figure, shade, noise_level=LEVELS) is figure


def test_the_front_end_says_whether_a_session_is_interactive() -> None:
    """JupyterLab sends with each cell that input may be asked for; papermill that it may not."""
    manager, client = start_new_kernel()
    messages: list[str] = []
    try:
        for asked in (True, False, True):
            client.execute_interactive(
                "from hamsynth_utils.notebook import widgets; print(widgets.is_interactive())",
                allow_stdin=asked,
                timeout=300,
                output_hook=lambda message: messages.append(
                    message["content"].get("text", message["msg_type"])
                ),
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert re.findall("True|False", "".join(messages)) == ["True", "False", "True"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (np.float32(1234.56), "1235"), (1050, "1050"), ("nearer", "nearer")],
)
def test_a_number_of_the_text_is_printed_in_an_interactive_session(
    monkeypatch, capsys, value, text
) -> None:
    glued = []
    monkeypatch.setattr(widgets.myst_nb, "glue", lambda *args, **how: glued.append((args, how)))
    for there, printed in ((True, f"vae-steps: {text}\n"), (False, "")):
        monkeypatch.setattr(widgets, "is_interactive", lambda there=there: there)
        widgets.glue("vae-steps", value, display=False)
        assert capsys.readouterr().out == printed
    assert glued == [(("vae-steps", value), {"display": False})] * 2
    assert not any(isinstance(args[1], np.generic) for args, _ in glued)


def test_papermill_leaves_the_figure_alone(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(
        tmp_path / "in.ipynb",
        tmp_path / "out.ipynb",
        {"data": "phantom"},
        progress_bar=False,
        kernel_name="python3",
    )
    executed = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"))
    assert "widgets" not in executed["metadata"]
    (output,) = executed["cells"][-1]["outputs"]
    assert set(output["data"]) == {"image/png", "text/plain"}
    assert colour("".join(output["data"]["image/png"])) == [
        0,
        0,
        255,
    ]  # the figure, not the controls' start


def test_moving_a_control_draws_again(interactive: None) -> None:
    box = widgets.interact(BookFigure(), shade, noise_level=LEVELS, diagnosis=("mel", "nv"))
    slider, choice, picture = box.children
    assert (slider.description, choice.description) == ("noise level", "diagnosis")
    assert isinstance(slider, ipywidgets.SelectionSlider) and slider.continuous_update
    assert colour(source_of(picture.value)) == [128, 0, 255]
    slider.value = 1.0
    assert colour(source_of(picture.value)) == [255, 0, 255]
    choice.value = "nv"
    assert colour(source_of(picture.value)) == [255, 0, 0]
    assert 'alt="level 1.0 &lt;nv&gt;. Drawn in ' in picture.value
    assert '<p role="status">level 1.0 &lt;nv&gt;. Drawn in ' in picture.value


def test_a_slow_figure_is_not_drawn_while_a_slider_is_dragged(interactive: None) -> None:
    box = widgets.interact(BookFigure(), shade, slow=True, noise_level=LEVELS)
    assert not box.children[0].continuous_update


def test_an_error_is_shown_and_raised(interactive: None) -> None:
    def draw(steps: int = 2) -> tuple[BookFigure, str]:
        if steps == 1:
            raise InputError("steps must be <2> or more")
        return BookFigure(figsize=(1, 1)), "well"

    steps, picture = widgets.interact(BookFigure(), draw, steps=range(1, 4)).children
    with pytest.raises(InputError):
        steps.value = 1
    assert picture.value == '<p role="alert">InputError: steps must be &lt;2&gt; or more</p>'
    steps.value = 3
    assert "well" in picture.value


@pytest.mark.parametrize(
    "controls", [{"noise": LEVELS}, {"noise_level": [0.1, 0.2]}, {"diagnosis": ["nv"]}]
)
def test_a_control_needs_a_start_value_in_a_batch_run_too(controls: dict) -> None:
    (name,) = controls
    with pytest.raises(
        InputError, match=f"shade must have a parameter {name}, whose default is one of"
    ):
        widgets.interact(BookFigure(), shade, **controls)


def test_every_interactive_figure_is_explained_and_described() -> None:
    count = 0
    for name, notebook in NOTEBOOKS.items():
        assert "widgets" not in notebook["metadata"], name
        words = ""
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                words = source
            elif "widgets.interact(" in source:
                count += 1
                assert "**Interactive.** In JupyterLab" in words, (name, cell["id"])
                assert (
                    cell["metadata"]["mystnb"]["figure"]["caption"]
                    and cell["metadata"]["mystnb"]["image"]["alt"]
                )
    assert count >= 5


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab server that shows one notebook and looks for no news."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks/shade.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        f"--notebook-dir={tmp_path / 'notebooks'}",
    ]
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "RUNTIME")}
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **own, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": python_path}
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{address}/api").close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
                time.sleep(0.1)
        yield f"{address}/doc/tree/shade.ipynb"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def test_in_jupyterlab_an_arrow_key_changes_the_picture(lab: str) -> None:
    with headless() as browser:
        page = browser.new_page()
        page.set_default_timeout(180_000)
        page.goto(lab)
        picture = page.locator(".jp-OutputArea-output img[alt^=level]")
        for _ in range(8):  # a cell that is run before its kernel is ready may be forgotten
            page.locator(".jp-CodeCell .cm-content").first.click()
            page.keyboard.press("Control+Enter")
            with suppress(TooLate):
                picture.wait_for(timeout=20_000)
                break
        assert colour(source_of(picture.evaluate("image => image.outerHTML"))) == [128, 0, 255]
        slider = page.get_by_role("slider", name="noise level", exact=True)
        assert slider.get_attribute("aria-valuetext") == "0.5"
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.locator(".jp-OutputArea-output img[alt^='level 1.0']").wait_for()
        assert colour(source_of(picture.evaluate("image => image.outerHTML"))) == [255, 0, 255]
        assert slider.get_attribute("aria-valuetext") == "1"
        page.get_by_role("combobox", name="diagnosis").select_option("nv")
        page.locator(".jp-OutputArea-output img[alt*=nv]").wait_for()
        assert colour(source_of(picture.evaluate("image => image.outerHTML"))) == [255, 0, 0]
