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

# .venv-lmms-eval: lmms-eval itself with what it needs to run, for scripts/benchmark; "lmms_eval_environment tasks" adds
# what the code of its tasks imports, for scripts/score_parity and the checks of its tasks.
# A machine with CPUs alone wants a CPU build of torch: point pip at one (PIP_FIND_LINKS, PIP_INDEX_URL) before.
lmms_eval_environment() {
  local folder=.venv-lmms-eval python
  if [ ! -x $folder/bin/python ]; then
    python=$(first_python "(3, 11) <= sys.version_info < (3, 13)" "${PYTHON:-python3}" python3.11 python3.12)
    "$python" -m venv $folder
  fi
  lmms_eval_packages requirements || return
  [ "${1:-}" != tasks ] || lmms_eval_packages task_requirements
}

lmms_eval_packages() {
  local list=scripts/lmms_eval_$1.txt folder=.venv-lmms-eval wanted
  local stamp=$folder/installed-$1 pip="$folder/bin/python -m pip install --quiet --disable-pip-version-check"
  wanted=$(sha256sum < "$list")
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  echo "installing $list into $folder; this takes minutes"
  $pip -r "$list"
  $pip --no-deps lmms-eval==0.7.3 torchvision==0.28.0
  # torchvision beside a CPU torch: its operators are missing, and it describes two of them all the same.
  sed -i 's/^@torch.library.register_fake(\(.*\))$/@(torch.library.register_fake(\1) if torchvision.extension._has_ops() else lambda function: function)/' \
    $folder/lib/python3*/site-packages/torchvision/_meta_registrations.py
  echo "$wanted" > "$stamp"
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

# What the clients for Node, C++ and Ruby are built and tested with, and the shells whose completion is tested, from
# Debian's packages. Only as root on a machine with apt; elsewhere, and where packages cannot be had, the tests whose tools
# are missing are skipped, and say so. Those of Java and Go are: clients/README.md names what they need.
client_toolchains() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then return 0; fi
  # Compilers and Node only where there is none: a machine may have its own.
  debian_packages $(command -v npm > /dev/null || echo nodejs npm)
  debian_packages libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc pkg-config make \
    $(command -v g++ > /dev/null || echo g++) $(command -v cmake > /dev/null || echo cmake)
  debian_packages zsh fish
  debian_packages ruby ruby-grpc ruby-grpc-tools protobuf-compiler protobuf-compiler-grpc
}

# Installs those of the named packages that are missing; a failure is only told.
debian_packages() {
  dpkg-query --show "$@" > /dev/null 2>&1 && return
  echo "installing $*"
  local quietly="env DEBIAN_FRONTEND=noninteractive apt-get -qq"
  $quietly update < /dev/null > /dev/null 2>&1 || true
  $quietly install --yes --no-install-recommends "$@" < /dev/null > /dev/null 2>&1 \
    || echo "Debian's packages $* could not be installed: tests that need them are skipped" >&2
}
