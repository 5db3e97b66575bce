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
    local python
    python=$(first_python "sys.version_info >= (3, 11)" "${PYTHON:-python3}" python3.11 python3.12 python3.13) || {
      echo "Python 3.11 or newer is needed, and none was found. Set PYTHON=/path/to/python3.11." >&2
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

# lmms-eval's own files in .reference, for the tests that compare with them. Only files: nothing of it is installed.
# Where they cannot be had those tests are skipped, and say so.
reference_files() {
  local release=lmms-eval==0.7.3
  [ "$(cat .reference/release 2>/dev/null)" = "$release" ] && return
  echo "getting the files of $release into .reference"
  rm -rf .reference .reference.part
  if python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target .reference.part "$release"; then
    echo "$release" > .reference.part/release
    mv .reference.part .reference
  else
    echo "$release could not be downloaded: tests that compare with it are skipped" >&2
  fi
}

# The first of the named interpreters that runs and for which the condition holds.
first_python() {
  local condition=$1 candidate
  shift
  for candidate in "$@"; do
    if "$candidate" -c "import sys; sys.exit(not ($condition))" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}
