"""The view as a widget, and the thread that feeds it while the kernel trains."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kelron_lib.config import RunConfig
from kelron_lib.events import EVENTS_FILE, read_events
from kelron_lib.runtime import front_end
from kelron_lib.session import STATUS_FILE, read_status
from kelron_lib.view.picture import STYLE, log, picture
from kelron_lib.view.state import Progress

LOOK_SECONDS = 1.0
"""Time between two looks at the events: the clocks tick."""


class TrainingView:
    """The widget of one run, `root`; `say` takes the run's lines, which it holds behind a click."""

    def __init__(self, config: RunConfig, run: Path) -> None:
        import ipywidgets as widgets

        self._run, self._path, self._budget = run, run / EVENTS_FILE, config.session.budget_seconds
        self.progress, self.lines = Progress(), list[str]()
        events, self._offset = read_events(self._path)
        self.progress.take(events)
        self.progress.total_steps, self.progress.ended = 0, None  # this session has not begun
        self._shown, self._log = widgets.HTML(), widgets.HTML()
        # Opened and closed by the page alone, as the kernel trains; an element of the picture would close each second.
        # An Accordion would do so too, but no key reaches it, and a screen reader is told of no button.
        fold = widgets.Checkbox(description="What it said", indent=False)
        self._folded = widgets.VBox([fold, self._log], layout={"display": "none"})
        self._folded.add_class("kv-fold")
        self.root: Any = widgets.VBox([widgets.HTML(STYLE), self._shown, self._folded])
        self.root.add_class("kelron-view")
        self.show()

    def say(self, line: str) -> None:
        """Keep a line of the run's."""
        self.lines.append(line)

    def look(self) -> None:
        """Take the events since the last look, and show."""
        events, self._offset = read_events(self._path, self._offset)
        self.progress.take(events)
        self.show()

    def end(self, error: BaseException | None) -> None:
        """Show how the session ended, also where no event tells: it was refused, or the run was already finished."""
        self.look()
        if self.progress.ended is not None:
            return
        if error is not None:
            words = str(error).strip() or type(error).__name__
            self.progress.ended = {"state": "failed", "reason": words.splitlines()[0]}
        elif (self._run / STATUS_FILE).is_file():
            status = read_status(self._run)
            self.progress.step, self.progress.total_steps = status.step, status.total_steps
            self.progress.ended = {"state": status.state, "reason": status.reason}
        self.show()

    def show(self) -> None:
        """Draw anew what is known."""
        self._shown.value = picture(self.progress, now=time.time(), budget=self._budget)
        if self.lines:
            self._log.value, self._folded.layout.display = log(self.lines), None


@contextlib.contextmanager
def training_view(config: RunConfig, run: Path) -> Iterator[Callable[[str], None]]:
    """Within this context the run in folder `run` is shown as it goes on, and what it says goes to the function given.

    Where there is no front end (a batch run, a terminal) that is `print`, and nothing else is shown. An error goes on
    as it came, after the view showed the last of it.
    """
    if not front_end()[0]:
        yield print
        return
    from IPython.display import display

    view, ended = TrainingView(config, run), threading.Event()
    display(view.root)

    def feed() -> None:
        while not ended.wait(LOOK_SECONDS):
            view.look()

    thread = threading.Thread(target=feed, name="training view", daemon=True)
    thread.start()
    failed: BaseException | None = None
    try:
        yield view.say
    except BaseException as error:
        failed = error
        raise
    finally:
        ended.set()
        thread.join()
        view.end(failed)
        if view.lines:  # a saved page keeps it where it does not keep widgets
            print(view.lines[-1])
