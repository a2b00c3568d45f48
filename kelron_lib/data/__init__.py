"""Seeds to rows: split by group, expand, check, write.

A row is {"id", "seed_id", "group", "kind", "intent", "language", "messages"}; messages are system, user, assistant. A
dataset is a folder of train.jsonl, validation.jsonl, test.jsonl, quality.json, config.json and README.md.
"""

from kelron_lib.data.build import CONFIG_FILE, build_dataset, rows_differ
from kelron_lib.data.expand import expand
from kelron_lib.data.gate import check_rows, check_splits
from kelron_lib.data.rows import fingerprint, load_dataset_dir, read_rows
from kelron_lib.data.show import quality_summary, sample_text
from kelron_lib.data.splits import SPLITS, split_groups, split_sizes

__all__ = [
    "CONFIG_FILE",
    "SPLITS",
    "build_dataset",
    "check_rows",
    "check_splits",
    "expand",
    "fingerprint",
    "load_dataset_dir",
    "quality_summary",
    "read_rows",
    "rows_differ",
    "sample_text",
    "split_groups",
    "split_sizes",
]
