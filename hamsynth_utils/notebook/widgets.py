"""Figures with controls, and the numbers of the text, in a notebook that somebody works in.

A front end sends with every cell whether its code may ask the user for input (`allow_stdin` of
Jupyter's protocol). JupyterLab allows input. papermill, which executes through nbclient, does not.
So a batch run needs no setting, creates no widget, and stores no widget state.
"""

from __future__ import annotations

import base64
import html
import inspect
import io
import time
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import ipywidgets
import myst_nb
import numpy as np
from IPython import get_ipython
from IPython.display import Javascript, display
from matplotlib.figure import Figure

from hamsynth_utils.core.errors import InputError

NAMED_SLIDERS = """
const place = element.closest('.jp-OutputArea') || document.body;
new MutationObserver(() => place.querySelectorAll('.widget-slider').forEach((slider) => {
  const handle = slider.querySelector('[role=slider]');
  handle?.setAttribute('aria-label', slider.querySelector('.widget-label').textContent);
  handle?.setAttribute('aria-valuetext', slider.querySelector('.widget-readout').textContent);
})).observe(place, { childList: true, characterData: true, subtree: true });
"""
"""Gives each slider its label and its value for screen readers. ipywidgets alone gives neither."""


def is_interactive() -> bool:
    """Whether the cell that runs now was sent by a front end that can ask its user for input.

    Returns:
        True in JupyterLab; False in a batch run, in plain Python, and in a terminal.
    """
    shell = get_ipython()
    if shell is None or not hasattr(shell, "get_parent"):  # plain Python, or a terminal
        return False
    return bool(shell.get_parent().get("content", {}).get("allow_stdin", False))


def glue(name: str, value: Any, display: bool = True) -> None:
    """Keep a value for the text of a page (`myst_nb.glue`), and print it if somebody is there.

    Args:
        name: the name that the text uses.
        value: what the text shows. A NumPy number becomes one of Python, since the page could not
            format its text, `np.float64(2.3)`.
        display: as for `myst_nb.glue`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    myst_nb.glue(name, value, display=display)
    if is_interactive():
        fraction = isinstance(value, Real) and not isinstance(value, Integral)
        print(f"{name}: {value:.4g}" if fraction else f"{name}: {value}")


def interact(
    figure: Figure,
    draw: Callable[..., tuple[Figure, str]],
    slow: bool = False,
    **controls: Sequence[Any],
) -> Figure | ipywidgets.VBox:
    """A figure; in an interactive session, with controls that draw it again.

    Args:
        figure: what a batch run shows.
        draw: takes a value for each control, and returns a figure and a sentence that describes
            it. The sentence stands under the figure, and describes it to a screen reader.
        slow: draw when a slider is released, not while it is dragged.
        controls: by the name of a parameter of `draw`, the values to choose from: numbers for a
            slider, names for a list. A control starts at the parameter's default, and the
            parameter's name is its label.

    Returns:
        The figure in a batch run; otherwise the controls and what `draw` made.

    Raises:
        InputError: in a batch run too, for a control that is no parameter of `draw`, or whose
            default is not among its values.
    """
    start = _start_values(draw, controls)
    if not is_interactive():
        return figure
    display(figure)
    display(Javascript(NAMED_SLIDERS))
    widgets = {name: _control(name, values, start[name], slow) for name, values in controls.items()}
    picture = ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        """Draw again with the present values of the widgets."""
        try:
            began = time.perf_counter()
            result, words = draw(**{name: widget.value for name, widget in widgets.items()})
            words += f" Drawn in {time.perf_counter() - began:.2f} s."
            picture.value = _as_html(result, words)
        except Exception as error:  # a front end would only log the error, where nobody looks
            picture.value = f'<p role="alert">{html.escape(f"{type(error).__name__}: {error}")}</p>'
            raise

    for widget in widgets.values():
        widget.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([*widgets.values(), picture])


def _start_values(draw: Callable[..., Any], controls: dict[str, Sequence[Any]]) -> dict[str, Any]:
    """The default of each control's parameter."""
    parameters = inspect.signature(draw).parameters
    start = {name: parameters[name].default for name in controls if name in parameters}
    for name, values in controls.items():
        if name not in start or start[name] not in values:
            raise InputError(
                f"{draw.__name__} must have a parameter {name}, whose default is one of "
                f"{list(values)}: the control starts at the default"
            )
    return start


def _control(name: str, values: Sequence[Any], start: Any, slow: bool) -> ipywidgets.ValueWidget:
    """A slider over numbers, or a list of names."""
    look: dict[str, Any] = {
        "description": name.replace("_", " "),
        "style": {"description_width": "9em"},
        "layout": {"width": "32em"},
    }
    if all(isinstance(value, Real) for value in values):
        options = [(f"{value:g}", value) for value in values]
        return ipywidgets.SelectionSlider(
            options=options, value=start, continuous_update=not slow, **look
        )
    return ipywidgets.Dropdown(options=values, value=start, **look)


def _as_html(figure: Figure, words: str) -> str:
    """The figure as an image at the book's width, with its description."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    source = base64.b64encode(buffer.getvalue()).decode()
    words = html.escape(words)
    width = round(100 * figure.get_figwidth())
    return (
        f'<img src="data:image/png;base64,{source}" alt="{words}" '
        f'style="width: {width}px; max-width: 100%"><p role="status">{words}</p>'
    )
