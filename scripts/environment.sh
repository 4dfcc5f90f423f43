# Sourced by the scripts beside it: makes .venv at the repository's root and installs into it, if anything changed.
#     . scripts/environment.sh; install "-e ."
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "rsnn needs Python 3.11 or later; none was found. Set PYTHON to one." >&2
    return 1
}

install() {
    local stamp wanted
    stamp=".venv/.installed-$(echo "$*" | cksum | cut -d' ' -f1)"
    wanted="$(cksum < pyproject.toml)"
    [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing rsnn and what it needs into .venv (once; PyTorch is large) ..." >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
        # shellcheck disable=SC2086  # the arguments are words
        .venv/bin/python -m pip install --quiet --disable-pip-version-check $*
        echo "$wanted" > "$stamp"
    fi
}
