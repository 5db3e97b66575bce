# Sourced by the other scripts: makes .venv and installs the project with what is named, again when pyproject.toml or
# constraints.txt changed.
#
#   environment '.[dev]'                    the project with its dev extra
#   environment '.[server]' scikit-learn    more packages beside it
environment() {
  local stamp=".venv/installed-$(printf '%s' "$*" | tr -c 'a-z0-9' '-')"
  local wanted
  wanted=$(cat pyproject.toml constraints.txt | sha256sum)
  if [ ! -x .venv/bin/python ]; then
    local python=${PYTHON:-}
    [ -n "$python" ] || python=$(command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "Python 3.11 or newer is needed; found $("$python" --version). Set PYTHON=/path/to/python3.11." >&2
      return 1
    }
    "$python" -m venv .venv
  fi
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $* into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e "$@"
    echo "$wanted" > "$stamp"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}
