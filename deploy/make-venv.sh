#!/bin/sh
# make-venv.sh FOLDER [PYTHON]: a virtual environment with Python 3.11 or newer, or one sentence why not.
set -eu
folder=$1
wanted=${2:-}
minimum="import sys; sys.exit(sys.version_info < (3, 11))"

find_python() {
    for name in ${wanted:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if command -v "$name" >/dev/null 2>&1 && "$name" -c "$minimum" 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ]; then
    found=$("${wanted:-python3}" --version 2>/dev/null || echo "none")
    echo "Expected Python 3.11 or newer, found $found. Install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
if ! "$python" -c "import venv, ensurepip" 2>/dev/null; then
    echo "Python's venv module is missing. On Debian and Ubuntu: sudo apt install python3-venv" >&2
    exit 1
fi
echo "Making $folder with $("$python" --version)"
"$python" -m venv --clear "$folder"
