#!/bin/sh
# Builds the policy of this folder: sh build.sh [OUT.wasm], by default circuit-breaker.wasm here.
#
# Needs clang and wasm-ld 14 or later (Debian, Ubuntu: apt-get install clang lld), and `sluice`: on the PATH, or named in SLUICE.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/circuit-breaker.wasm}
for tool in clang wasm-ld "${SLUICE:=sluice}"; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: see the first lines of $0" >&2; exit 1; }
done
core=$(mktemp)
trap 'rm -f "$core"' EXIT

# Without a C library, so that nothing asks the broker for files or clocks. Undefined behaviour traps instead of deciding.
# No debug information, but the names of functions, which the report of a trap shows.
cd "$here"
clang --target=wasm32-unknown-unknown -std=c11 -ffreestanding -nostdlib -mbulk-memory -Oz -Wall -Wextra \
  -fsanitize=undefined -fsanitize-trap=all -I freestanding -I bindings \
  -Wl,--no-entry -Wl,--strip-debug -Wl,--gc-sections -Wl,-z,stack-size=65536 -Wl,--max-memory=16777216 \
  -o "$core" circuit_breaker.c config.c freestanding/heap.c bindings/policy.c bindings/policy_component_type.o
"$SLUICE" policy build "$core" --out "$out"
