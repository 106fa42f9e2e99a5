#!/usr/bin/env bash
# Run a script in several processes, one per device: scripts/launch.sh --devices 8 train.py --config FILE [key=value ...]
# The Python is PYTHON, that of an active environment, or that of .venv, in this order.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}}
[ -n "$python" ] || { python=$here/../.venv/bin/python; [ -x "$python" ] || python=python3; }
exec "$python" "$here/launch.py" "$@"
