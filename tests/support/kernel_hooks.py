"""An IPython startup file: tries answers to exercises and moves controls while a notebook is executed.

`solving.py` puts this file into the profile of the kernels. After a cell with a check, other answers are
checked in the very same state. After a cell with an interactive figure, the cell runs again as if somebody
were there, and each control is moved. The notebook sees nothing of it: what is tried has a copy of the
notebook's names, and its output is caught.
"""


# ruff: noqa: F821
def _install() -> None:
    import json
    import os
    from pathlib import Path

    from IPython.utils.capture import capture_output

    folder, shell = Path(os.environ["HAMSYNTH_TRIALS"]), get_ipython()
    trials = json.loads((folder / "trials.json").read_text(encoding="utf-8"))

    def record(file: str, /, **what: object) -> None:
        with (folder / file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(what) + "\n")

    def try_answers(check: str) -> None:
        for trial in trials.get(check, []):
            names = dict(shell.user_ns)
            with capture_output() as caught:
                try:
                    exec(trial["code"], names)
                    exec(check, names)
                except Exception as error:
                    print(f"{type(error).__name__}: {error}")
            record("outcomes.jsonl", **trial, said=caught.stdout.strip())

    def move_controls(cell: str) -> None:
        from hamsynth_utils.notebook import widgets

        boxes: list = []
        original = widgets.interact, widgets.is_interactive

        def interact(*given: object, **more: object) -> None:
            boxes.append(original[0](*given, **more))

        names = {
            key: interact if value is original[0] else value for key, value in shell.user_ns.items()
        }
        widgets.interact, widgets.is_interactive = interact, lambda: True
        try:
            with capture_output():
                exec(cell, names)
                for box in boxes:
                    *controls, picture = box.children
                    for control in controls:
                        start, before = control.index, picture.value
                        control.index = 0 if start else len(control.options) - 1
                        after = picture.value
                        control.index = start
                        record(
                            "controls.jsonl",
                            cell=cell,
                            control=control.description,
                            image_changed=image(before) != image(after) != "",
                            words=after.partition('role="status">')[2].partition("<")[0],
                        )
        except Exception as error:
            record("controls.jsonl", cell=cell, error=f"{type(error).__name__}: {error}")
        finally:
            widgets.interact, widgets.is_interactive = original

    def random_states() -> tuple:
        import random

        import numpy as np
        import torch

        return (
            (random.setstate, random.getstate()),
            (np.random.set_state, np.random.get_state()),
            (torch.set_rng_state, torch.get_rng_state()),
        )

    def image(html: str) -> str:
        return html.partition("base64,")[2].partition('"')[0]

    def after(result) -> None:
        cell = result.info.raw_cell
        moves = "interact(" in cell and result.success
        if not moves and cell not in trials:
            return
        before = random_states()
        try_answers(cell)
        if moves:
            move_controls(cell)
        for restore, state in before:
            restore(state)

    shell.events.register("post_run_cell", after)


_install()
del _install
