#!/usr/bin/env bash
# The layer check has to fail on an upward include: plants some, one at a time, in a small tree.
#   test_layers.sh CMAKE SOURCE_DIR
set -euo pipefail
cmake=$1 source_dir=$2
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

check() {
  "$cmake" -DROOT="$tree" -P "$source_dir/cmake/check_layers.cmake" 2>&1
}

# refuses FILE INCLUDED LAYER
refuses() {
  local output
  mkdir -p "$tree/$(dirname "$1")"
  printf '#include "%s"\n' "$2" >"$tree/$1"
  if output=$(check); then
    echo "an include of '$2' in $1 was not refused" && exit 1
  fi
  if ! grep -qF "$1: layer '$3' may not include '$2'" <<<"$output"; then
    printf 'the message does not name the include:\n%s\n' "$output" && exit 1
  fi
  rm "$tree/$1"
}

mkdir -p "$tree/src/base" "$tree/src/op"
printf '#include <CL/cl.h>\n#include "clora.h"\n#include "base/size.h"\n' >"$tree/src/base/good.c"
printf '  #  include "device/launch.h"\n#include "product/shrink.h"\n' >"$tree/src/op/good.c"
check >/dev/null || { echo "downward includes were refused" && check; exit 1; }

refuses src/base/bad.c op/forward.h base
refuses src/base/bad.h kernels.h base
refuses src/file/bad.c device/launch.h file
refuses src/device/bad.c file/npy.h device
refuses src/plan/bad.c product/shrink.h plan
refuses src/product/bad.c op/layer.h product
refuses src/op/bad.c adapter.h op
refuses src/op/bad.c launch.h op
refuses tools/bad.c base/size.h tools
refuses examples/bad.c op/forward.h examples
echo "upward includes are refused, downward ones pass"
