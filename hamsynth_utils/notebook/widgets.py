"""What a notebook shows where somebody is at it: controls under a figure, and the numbers of its text.

Jupyter's protocol says which: with every cell a front end sends whether its code may ask the user for input
(`allow_stdin`). JupyterLab allows it; papermill, and nbclient by which it executes, do not. So nothing has to
be set, and a batch run creates no widget and stores no widget state.
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
"""ipywidgets tells a screen reader no name of a slider, and of its option only the number."""


def is_interactive() -> bool:
    """Whether the cell that runs now was sent by a front end that can ask its user something."""
    shell = get_ipython()
    if shell is None or not hasattr(shell, "get_parent"):  # plain Python, or a terminal
        return False
    return bool(shell.get_parent().get("content", {}).get("allow_stdin", False))


def glue(name: str, value: Any, display: bool = True) -> None:
    """As `myst_nb.glue`, for the text of a page; where somebody is there, the value is printed, too."""
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
    """`figure` in a batch run; where somebody is there, also controls and what `draw` makes of them.

    draw: called with a value for each control; returns a figure, and a sentence that says what is to be seen,
    which is printed under the figure and describes it to those who cannot see it.
    slow: draw when a slider is let go, not while it is dragged.
    controls: what each offers, by the name of draw's parameter, whose default it starts at and whose words
    label it: numbers to slide over, or names to choose from.
    Raises InputError, in a batch run too, for a control that is no parameter of draw with a default among
    what it offers.
    """
    start = _start_values(draw, controls)
    if not is_interactive():
        return figure
    display(figure)
    display(Javascript(NAMED_SLIDERS))
    widgets = {name: _control(name, values, start[name], slow) for name, values in controls.items()}
    picture = ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        try:
            began = time.perf_counter()
            drawn, words = draw(**{name: widget.value for name, widget in widgets.items()})
            picture.value = _as_html(
                drawn, f"{words} Drawn in {time.perf_counter() - began:.2f} s."
            )
        except Exception as error:  # which a front end would only log, out of sight
            picture.value = f'<p role="alert">{html.escape(f"{type(error).__name__}: {error}")}</p>'
            raise

    for widget in widgets.values():
        widget.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([*widgets.values(), picture])


def _start_values(draw: Callable[..., Any], controls: dict[str, Sequence[Any]]) -> dict[str, Any]:
    parameters = inspect.signature(draw).parameters
    start = {name: parameters[name].default for name in controls if name in parameters}
    for name, offered in controls.items():
        if name not in start or start[name] not in offered:
            raise InputError(
                f"{draw.__name__} must have a parameter {name}, whose default is one of {list(offered)}: "
                "there the control starts"
            )
    return start


def _control(name: str, offered: Sequence[Any], start: Any, slow: bool) -> ipywidgets.ValueWidget:
    look: dict[str, Any] = {
        "description": name.replace("_", " "),
        "style": {"description_width": "9em"},
        "layout": {"width": "32em"},
    }
    if all(isinstance(value, Real) for value in offered):
        options = [(f"{value:g}", value) for value in offered]
        return ipywidgets.SelectionSlider(
            options=options, value=start, continuous_update=not slow, **look
        )
    return ipywidgets.Dropdown(options=offered, value=start, **look)


def _as_html(figure: Figure, words: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    source = base64.b64encode(buffer.getvalue()).decode()
    words = html.escape(words)
    width = round(100 * figure.get_figwidth())
    return (
        f'<img src="data:image/png;base64,{source}" alt="{words}" style="width: {width}px; max-width: 100%">'
        f'<p role="status">{words}</p>'
    )
