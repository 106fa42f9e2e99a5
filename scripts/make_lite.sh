#!/usr/bin/env bash
# Make the environment of MindSpore Lite, unless that is done already: PyPI's only wheel is for Python 3.7 on x86-64 Linux.
#
#   VENV=.venv-lite          where
#   PYTHON37=                the interpreter; by default python3.7, or that of pyenv
#   bash scripts/make_lite.sh --find     only print which interpreter it would take; status 2 without any
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv-lite}
# The last versions for Python 3.7; what the wheel asks for itself are numpy and nothing else.
PACKAGES="mindspore-lite==2.0.0 numpy==1.21.6 pillow==9.5.0"

die() { echo "error: $*" >&2; exit 2; }
suitable() { "$1" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 7))" 2>/dev/null; }

remedy="MindSpore Lite 2.0.0 needs Python 3.7 with venv, such as pyenv install 3.7 gives; name it as in: PYTHON37=/path/to/python3.7 make lite"
if [ -n "${PYTHON37:-}" ]; then
    suitable "$PYTHON37" || die "PYTHON37=$PYTHON37 is missing or no Python 3.7: $remedy"
else
    for PYTHON37 in "$VENV/bin/python" python3.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.7*/bin/python ""; do
        [ -n "$PYTHON37" ] || die "no Python 3.7 found: $remedy"
        suitable "$PYTHON37" && break
    done
fi
if [ "${1:-}" = "--find" ]; then
    echo "$PYTHON37"
    exit 0
fi

stamp=$VENV/.installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$PACKAGES" ]; then
    echo "== $VENV: up to date"
    exit 0
fi
rm -f "$stamp"
if ! suitable "$VENV/bin/python"; then
    echo "== $VENV: new environment with $PYTHON37"
    "$PYTHON37" -m venv --clear "$VENV"
fi
echo "== $VENV: installing $PACKAGES; about 190 MB are downloaded"
# shellcheck disable=SC2086  # several words
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check $PACKAGES
"$VENV/bin/python" -c "import mindspore_lite, numpy, PIL" || die "$VENV: MindSpore Lite does not load (it needs x86-64 Linux)"
echo "$PACKAGES" >"$stamp"
echo "== $VENV: ready"
