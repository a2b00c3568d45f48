"""Before a run: what this machine has, what the plan makes of it, and three real steps measured against the plan.

`preflight` does it all; `checks` judge what `machine` finds; `worker` is the process that loads and trains.
"""

from kelron_lib.preflight.checks import Check
from kelron_lib.preflight.probe import Comparison, Probe, Projection
from kelron_lib.preflight.report import (
    checks_table,
    next_steps,
    plan_picture,
    plan_text,
    probe_table,
    report_dict,
    report_table,
)
from kelron_lib.preflight.run import Report, preflight

__all__ = [
    "Check",
    "Comparison",
    "Probe",
    "Projection",
    "Report",
    "checks_table",
    "next_steps",
    "plan_picture",
    "plan_text",
    "preflight",
    "probe_table",
    "report_dict",
    "report_table",
]
