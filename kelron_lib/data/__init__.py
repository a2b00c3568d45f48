"""Seeds to rows: split by group, expand, check, write.

A row is {"id", "seed_id", "group", "kind", "intent", "language", "register", "template", "generator", "messages"};
messages are system, then user and assistant in turn. A dataset is a folder of train.parquet, validation.parquet,
test.parquet, quality.json, quality.html, config.json and README.md, which `datasets.load_dataset(FOLDER)` reads, too.
"""

from kelron_lib.data.build import CONFIG_FILE, build_dataset, rows_differ
from kelron_lib.data.check import QUALITY_FILE, check_path, is_dataset
from kelron_lib.data.check import write_report as write_quality
from kelron_lib.data.expand import expand
from kelron_lib.data.foreign import open_foreign
from kelron_lib.data.gate import PAGE_FILE, check_rows, check_splits
from kelron_lib.data.own import changed_since
from kelron_lib.data.rows import fingerprint, iter_rows, load_dataset_dir, old_file, read_rows, rows_file
from kelron_lib.data.show import find_rows, quality_summary, rows_json, rows_text, sample_text
from kelron_lib.data.splits import SPLITS, split_groups, split_sizes

__all__ = [
    "CONFIG_FILE",
    "PAGE_FILE",
    "QUALITY_FILE",
    "SPLITS",
    "build_dataset",
    "changed_since",
    "check_path",
    "check_rows",
    "check_splits",
    "expand",
    "find_rows",
    "fingerprint",
    "is_dataset",
    "iter_rows",
    "load_dataset_dir",
    "old_file",
    "open_foreign",
    "quality_summary",
    "read_rows",
    "rows_differ",
    "rows_file",
    "rows_json",
    "rows_text",
    "sample_text",
    "split_groups",
    "split_sizes",
    "write_quality",
]
