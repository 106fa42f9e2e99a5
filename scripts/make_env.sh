#!/usr/bin/env bash
# Make a virtual environment and install the project into it, unless that is done already.
#
#   VENV=.venv               where
#   PYTHON=                  the interpreter; by default the first suitable one of CANDIDATES
#   EXTRAS=export,det,viz,events,dev    the optional dependencies
#   MINDSPORE=               another MindSpore than the one of constraints.txt
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
EXTRAS=${EXTRAS:-export,det,viz,events,dev}
MINDSPORE=${MINDSPORE:-}
CANDIDATES="python3.11 python3.10 python3.12 python3.9 python3 python"
OLDEST=9 SERVES="3.9, 3.10, 3.11 and 3.12"
case $MINDSPORE in 2.1[0-9]*) OLDEST=10 SERVES="3.10, 3.11 and 3.12" ;; esac    # no wheels for 3.9 from 2.10 on

die() { echo "error: $*" >&2; exit 2; }

# Prints "3.11" when the interpreter runs, is of a version that serves and can make environments.
# Only running it tells: a pyenv shim may stand for a version that is switched off.
suitable() {
    "$1" -c "
import ensurepip, sys, venv
sys.exit(1) if sys.version_info[0] != 3 or not $OLDEST <= sys.version_info[1] <= 12 else print('3.%d' % sys.version_info[1])
" 2>/dev/null
}

remedy="Python $SERVES serve, each with venv; choose one as in: PYTHON=python3.11 make env"
if [ -n "${PYTHON:-}" ]; then
    version=$(suitable "$PYTHON") || die "PYTHON=$PYTHON is missing or unsuitable: $remedy"
else
    # An environment that is there already has answered which Python to use.
    for PYTHON in "$VENV/bin/python" $CANDIDATES ""; do
        [ -n "$PYTHON" ] || die "no suitable Python found: $remedy"
        version=$(suitable "$PYTHON") && break
    done
fi

# What was installed, from where, by which Python. The directory counts because the install is editable.
stamp=$VENV/.installed
wanted="$PWD python$version [$EXTRAS] mindspore=$MINDSPORE $(cat pyproject.toml constraints.txt | cksum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "== $VENV: up to date (Python $version)"
    exit 0
fi
rm -f "$stamp"

if [ "$(suitable "$VENV/bin/python")" != "$version" ]; then
    echo "== $VENV: new environment with Python $version ($PYTHON)"
    "$PYTHON" -m venv --clear "$VENV"
fi
echo "== $VENV: installing the project with [$EXTRAS]${MINDSPORE:+ and MindSpore $MINDSPORE}; the first time about 1 GB is downloaded"
sed "s/^mindspore==.*/mindspore==${MINDSPORE:-$(sed -n 's/^mindspore==//p' constraints.txt)}/" constraints.txt >"$VENV/constraints.txt"
"$VENV/bin/python" -m pip install --disable-pip-version-check -c "$VENV/constraints.txt" -e ".[$EXTRAS]"
echo "$wanted" >"$stamp"
echo "== $VENV: ready"
