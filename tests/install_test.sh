#!/usr/bin/env bash
# GradView from outside: installs this build, builds examples/ against it with find_package and runs each example,
# then configures a project that takes the sources with add_subdirectory. An example's first line may give its
# arguments, "// test: ARGS", where @DIR@ is a folder of its own.
set -euo pipefail
: "${GRADVIEW_SOURCE:?}" "${GRADVIEW_BUILD:?}" "${CMAKE:=cmake}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quietly() { "$@" >"$work/log" 2>&1 || { echo "failed: $*"; cat "$work/log"; exit 1; }; }

quietly "$CMAKE" --install "$GRADVIEW_BUILD" --prefix "$work/prefix"
for file in share/gradview/record_gradients.py share/gradview/plot.py; do
  folder=python
  [ "${file##*/}" != plot.py ] || folder=experiments
  [ ! -e "$GRADVIEW_SOURCE/$folder/${file##*/}" ] || [ -e "$work/prefix/$file" ] || { echo "not installed: $file"; exit 1; }
done
if [ -e "$work/prefix/share/gradview/plot.py" ] && [ ! -e "$work/prefix/share/gradview/plots/common.py" ]; then
  echo "plot.py is installed without what it draws with"
  exit 1
fi
for file in include/gradview.h share/gradview/gradview/optimizer.py; do
  [ -e "$work/prefix/$file" ] || { echo "not installed: $file"; exit 1; }
done
library=$(find "$work/prefix" -name 'libgradview_c.so')
quietly "${CC:-cc}" -std=c11 "$GRADVIEW_SOURCE/tests/c_api_test.c" -I"$work/prefix/include" -o "$work/c_api_test" \
  "$library" -lm -Wl,-rpath,"$(dirname "$library")"
quietly "$work/c_api_test"
if grep -rlE "$GRADVIEW_SOURCE|$GRADVIEW_BUILD" "$work"/prefix/lib*/cmake; then
  echo "the installed package names folders of the machine it was built on"
  exit 1
fi

mkdir "$work/sources"  # the examples, and the one that docs/adding-a-projector.md shows
cp "$GRADVIEW_SOURCE"/examples/* "$work/sources"
awk '/^```cpp/ {on = 1; next} /^```/ {on = 0} on' "$GRADVIEW_SOURCE/docs/adding-a-projector.md" \
  >"$work/sources/adding_a_projector.cpp"
quietly "$CMAKE" -S "$work/sources" -B "$work/examples" -DCMAKE_PREFIX_PATH="$work/prefix" \
  -DCMAKE_BUILD_TYPE=Debug
quietly "$CMAKE" --build "$work/examples" --parallel 2
examples=0
for source in "$work"/sources/*.cpp; do
  [ -e "$source" ] || continue
  name=$(basename "$source" .cpp)
  mkdir -p "$work/run/$name"
  arguments=$(sed -n '1s|^// test: *||p' "$source")
  arguments=${arguments//@DIR@/$work/run/$name}
  # shellcheck disable=SC2086  # words
  (cd "$work/run/$name" && quietly timeout 120 "$work/examples/$name" $arguments)
  examples=$((examples + 1))
done

mkdir "$work/outer"
cat >"$work/outer/CMakeLists.txt" <<EOF
cmake_minimum_required(VERSION 3.22)
project(outer LANGUAGES CXX)
add_subdirectory("$GRADVIEW_SOURCE" gradview)
file(WRITE "\${CMAKE_BINARY_DIR}/main.cpp" "#include \"gradview/core/matrix.hpp\"\nint main() {}\n")
add_executable(outer "\${CMAKE_BINARY_DIR}/main.cpp")
target_link_libraries(outer PRIVATE gradview::gradview)
foreach(target IN ITEMS tests64 compare)
  if(TARGET \${target})
    message(FATAL_ERROR "a project that adds GradView would build \${target}")
  endif()
endforeach()
EOF
quietly "$CMAKE" -S "$work/outer" -B "$work/outer/build"
echo "$examples examples built and run against the installed package"
