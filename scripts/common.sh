# Sourced by the scripts: goes to the repository's root and finds the tools that work.
#   GRADVIEW_CMAKE   the first cmake that is 3.22 or newer
#   GRADVIEW_PYTHON  the first python3 that draws (matplotlib and pandas); plain python3 where none does
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_cmake() {
  local c
  for c in $(type -aP cmake) /usr/bin/cmake; do
    "$c" --version 2>/dev/null | awk '/^cmake version/ {split($3, v, "."); found = v[1] * 1000 + v[2] >= 3022}
                                      END {exit !found}' && { echo "$c"; return; }
  done
  return 1
}

python_draws() { "$1" -c 'import matplotlib, pandas' >/dev/null 2>&1; }

find_python() {
  local p
  for p in ${GRADVIEW_PYTHON:+"$GRADVIEW_PYTHON"} $(type -aP python3) /usr/bin/python3; do
    python_draws "$p" && { echo "$p"; return; }
  done
  return 1
}

find_tools() {
  GRADVIEW_CMAKE=$(find_cmake) || GRADVIEW_CMAKE=cmake
  GRADVIEW_PYTHON=$(find_python) || GRADVIEW_PYTHON=python3
  export GRADVIEW_CMAKE GRADVIEW_PYTHON
}

# quietly WHAT COMMAND...: one line while it runs and the seconds it took; all that it said where it fails.
quietly() {
  local what=$1 log status=0 start=$SECONDS
  shift
  log=$(mktemp)
  printf '%s ... ' "$what" >&2
  "$@" >"$log" 2>&1 || status=$?
  if [ "$status" = 0 ]; then
    echo "$((SECONDS - start)) s" >&2
  else
    echo "failed:" >&2
    cat "$log" >&2
  fi
  rm -f "$log"
  return "$status"
}

# build PRESET [TARGET...]: configures and builds; what is up to date takes a second.
build() {
  local preset=$1
  shift
  quietly "configuring ($preset)" "$GRADVIEW_CMAKE" --preset "$preset" &&
    quietly "building ${*:-all}" "$GRADVIEW_CMAKE" --build --preset "$preset" --parallel "$(nproc)" ${*:+--target "$@"}
}
