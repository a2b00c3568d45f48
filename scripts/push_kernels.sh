#!/usr/bin/env bash
# Kelron on Kaggle, from a laptop: stage, push, status, logs, output, quota, run, stop, secret. `make setup` comes first.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${KELRON_PYTHON:-$project/.venv/bin/python}"
[ -x "$python" ] || { echo "push_kernels.sh: $python is missing: run \`make setup\` in $project" >&2; exit 2; }
PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P -m kelron_lib.kaggle_ops "$@"
