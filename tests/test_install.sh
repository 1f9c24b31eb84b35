#!/usr/bin/env bash
# Installs the library into a temporary prefix and uses it there as an application would: the first
# example through CMake and through pkg-config, from the shared and from the static library. Also:
# what the shared library exports, and that the header compiles alone in every language it promises.
#   test_install.sh CMAKE SOURCE_DIR
set -euo pipefail
cmake=$1 source_dir=$2
cc=${CC:-cc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CLORA_CACHE=off

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# Runs a command quietly; its output is shown when it fails.
quietly() {
  "$@" >"$work/log" 2>&1 || { cat "$work/log"; fail "$*"; }
}

# install_kind KIND ON|OFF: the library as shared or static, from the same objects, moved after it was
# installed. Compiled in no time: how fast it is does not matter here.
install_kind() {
  quietly "$cmake" -S "$source_dir" -B "$work/build" -DBUILD_SHARED_LIBS="$2" \
    -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O0 \
    -DCMAKE_C_COMPILER="$cc"
  quietly "$cmake" --build "$work/build" --parallel 2
  quietly "$cmake" --install "$work/build" --prefix "$work/first_$1"
  mv "$work/first_$1" "$work/$1"
  if grep -rlF -e "$work" -e "$source_dir" "$work/$1/lib/cmake" "$work/$1/lib/pkgconfig"; then
    fail "these files hold a path of the machine that built them"
  fi
}

# run_example PROGRAM KIND
run_example() {
  LD_LIBRARY_PATH="$work/$2/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$1" >"$work/log" 2>&1 ||
    { cat "$work/log"; fail "$1"; }
  grep -q 'error / bound' "$work/log" || fail "$1 did not print its result"
}

use_by_cmake() {
  local kind=$1 example=$work/$1/share/doc/clora/examples/1_forward.c
  mkdir -p "$work/app_$kind"
  cat >"$work/app_$kind/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.16...3.31)
project(app C)
find_package(clora 0.1 CONFIG REQUIRED)
add_executable(app $example)
target_link_libraries(app PRIVATE clora::clora m)
END
  quietly "$cmake" -S "$work/app_$kind" -B "$work/app_$kind/build" \
    -DCMAKE_PREFIX_PATH="$work/$kind" -DCMAKE_C_COMPILER="$cc"
  quietly "$cmake" --build "$work/app_$kind/build"
  run_example "$work/app_$kind/build/app" "$kind"
  echo "ok: $kind library by find_package(clora)"
}

use_by_pkg_config() {
  local kind=$1 flags
  export PKG_CONFIG_PATH="$work/$kind/lib/pkgconfig"
  read -ra flags <<<"$(pkg-config --cflags --libs clora)"
  quietly "$cc" -std=c11 -Wall -Wextra -Werror "$work/$kind/share/doc/clora/examples/1_forward.c" \
    -o "$work/by_pkg_config_$kind" "${flags[@]}" -lm
  run_example "$work/by_pkg_config_$kind" "$kind"
  [[ $("$work/$kind/bin/clora" --version) == *"$(pkg-config --modversion clora)"* ]] ||
    fail "clora.pc and the tool name different versions"
  echo "ok: $kind library by pkg-config"
}

# The linker's view: public symbols alone, and a name that changes with the interface.
check_exports() {
  local library=$work/shared/lib/libclora.so foreign
  nm -D --defined-only "$library" | awk '{print $NF}' >"$work/exports"
  grep -q '^clora_enqueue_forward$' "$work/exports" || fail "clora_enqueue_forward is not exported"
  foreign=$(grep -v '^clora_[^_]' "$work/exports" || true)
  [ -z "$foreign" ] || fail "exported, but not public: $foreign"
  [[ $(readelf -d "$library") == *SONAME*'[libclora.so.0.1]'* ]] || fail "no SONAME libclora.so.0.1"
  echo "ok: $(wc -l <"$work/exports") exports, all public, with a SONAME"
}

# Every function of the header is in the library.
check_complete() {
  local name
  grep '^CLORA_API' "$work/shared/include/clora.h" | grep -o 'clora_[a-z0-9_]*(' | tr -d '(' |
    sort -u >"$work/declared"
  while read -r name; do
    grep -qx "$name" "$work/exports" || fail "$name() is declared and not exported"
  done <"$work/declared"
  echo "ok: all $(wc -l <"$work/declared") functions of the header are exported"
}

# header_alone LANGUAGE STANDARD COMPILER
header_alone() {
  local target
  for target in 120 300; do
    echo '#include <clora.h>' | quietly "$3" -x "$1" -std="$2" -fsyntax-only -Wall -Wextra \
      -pedantic -Werror -DCL_TARGET_OPENCL_VERSION=$target -I "$work/shared/include" -
  done
}

# The first C++ compiler that works: gcc without its C++ half also answers to that name.
find_cxx() {
  local candidate
  for candidate in "${CXX:-c++}" g++ clang++; do
    if echo | "$candidate" -x c++ -fsyntax-only - 2>/dev/null; then
      echo "$candidate" && return
    fi
  done
}

check_header() {
  local standard cxx
  for standard in c99 c11 c17; do header_alone c "$standard" "$cc"; done
  cxx=$(find_cxx)
  if [ -z "$cxx" ]; then
    echo "ok: the header alone as C99, C11 and C17 (C++ not tried: no compiler for it)" && return
  fi
  for standard in c++11 c++17; do header_alone c++ "$standard" "$cxx"; done
  echo "ok: the header alone as C99, C11, C17, C++11 and C++17"
}

install_kind shared ON
install_kind static OFF
check_exports
check_complete
check_header
use_by_cmake shared
use_by_cmake static
use_by_pkg_config shared
use_by_pkg_config static
