"""Memory, placement and time of a run, by arithmetic on a model's config: no weights, no GPU, no torch.

`plan` weighs the placements, `attempts` replays the first attempt's ten.
"""

from kelron_lib.placement.attempts import attempts
from kelron_lib.placement.memory import Coefficients, Workload, checkpoint_bytes
from kelron_lib.placement.plan import Plan, parse_gpus, plan, workload
from kelron_lib.placement.shapes import ModelShape, find_config, read_shape
from kelron_lib.placement.speed import Epoch, Rate
from kelron_lib.placement.svg import plan_svg
from kelron_lib.placement.text import attempts_dict, attempts_table, plan_dict, plan_table

__all__ = [
    "Coefficients",
    "Epoch",
    "ModelShape",
    "Plan",
    "Rate",
    "Workload",
    "attempts",
    "attempts_dict",
    "attempts_table",
    "checkpoint_bytes",
    "find_config",
    "parse_gpus",
    "plan",
    "plan_dict",
    "plan_svg",
    "plan_table",
    "read_shape",
    "workload",
]
