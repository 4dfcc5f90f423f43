# Sourced by the scripts beside it: makes .venv at the repository's root and installs into it, if anything changed.
#     . scripts/environment.sh; install -e .
set -euo pipefail
venv=.venv
called_from="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "rsnn needs Python 3.11 or later; none was found. Set PYTHON to one." >&2
    return 1
}

# Installs what pip's arguments name, unless it was done before with this pyproject.toml.
install() {
    local python stamp wanted
    stamp="$venv/.installed-$(echo "$*" | cksum | cut -d' ' -f1)"
    wanted="$(cksum < pyproject.toml)"
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    # An environment without pip is one whose making was interrupted.
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python="$(find_python)"
        "$python" -m venv --clear "$venv"
    fi
    echo "Installing rsnn and what it needs into $venv (once; PyTorch is large) ..." >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$wanted" > "$stamp"
}
