"""Training as a notebook shows it while it goes on: a widget fed by the run's events."""

from kelron_lib.view.widget import training_view

__all__ = ["training_view"]
