#!/bin/sh
# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0
#
# Measures on one GPU, in at most eight minutes and without network, what benchmarks/gpu.py lists:
#
#     benchmarks/gpu.sh [--wheels DIR] [options of benchmarks/gpu.py]
#
# Wheels whose package is not installed go into a folder that is deleted at the end. PYTHON names the interpreter.
set -eu

begin=$(date +%s)
site=
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
wheels=
if [ "${1-}" = --wheels ]; then
    [ $# -ge 2 ] && [ -d "$2" ] || { echo "--wheels: no folder '${2-}'." >&2; exit 2; }
    wheels=$2
    shift 2
fi

python=${PYTHON:-}
for candidate in "$root/.venv/bin/python" python3 python; do
    [ -z "$python" ] && "$candidate" -c 'import sys, torch; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$candidate
done
[ -n "$python" ] || { echo "No Python 3.11 or newer that has torch: name one with PYTHON=..." >&2; exit 2; }

if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    missing=$("$python" - "$wheels" <<'END'
import importlib.metadata, pathlib, sys
for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl")):
    try:
        importlib.metadata.version(wheel.name.split("-")[0])
    except importlib.metadata.PackageNotFoundError:
        print(wheel.name.split("-")[0])
END
    )
    # Not quoted: one name a word.
    [ -z "$missing" ] || "$python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$wheels" \
        --no-deps --no-compile --target "$site" $missing
fi
export PYTHONPATH="$root${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}"

status=0
trap : INT  # the driver ends its row and writes what it has
"$python" "$root/benchmarks/gpu.py" --budget $((480 - $(date +%s) + begin)) "$@" || status=$?
exit $status
