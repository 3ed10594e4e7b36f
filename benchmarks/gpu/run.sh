#!/bin/sh
# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0
#
# Measures on one GPU, in at most eight minutes and without network, what rows.py lists:
#
#     benchmarks/gpu/run.sh [--wheels DIR] [--rehearse] ...
#
# PYTHON names the interpreter; else it is that of .venv, or the first one that has torch.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
serves='import importlib.util, sys; sys.exit(sys.version_info < (3, 11) or importlib.util.find_spec("torch") is None)'
for python in ${PYTHON:-"$root/.venv/bin/python" python3 python}; do
    if "$python" -c "$serves" 2>/dev/null; then
        # From any folder, which is not searched (-P), and in its place, so that every signal reaches it.
        export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" -P -m benchmarks.gpu "$@"
    fi
done
echo "No Python 3.11 or newer that has torch: name one with PYTHON=..." >&2
exit 2
