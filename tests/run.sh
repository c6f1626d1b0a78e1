#!/bin/sh
# Installs what is needed, builds, runs every test that fits CI; closes with ctest's summary.
#   --long   also soak, crash loops, long fuzzing and benchmarks
#   --quick  unit tests only, release build only
set -u
cd "$(dirname "$0")/.." || exit 3
. tests/setup.sh

long=no quick=no
for a in "$@"; do
  case $a in
    --long) long=yes ;;
    --quick) quick=yes ;;
    *)
      echo "usage: $0 [--long|--quick]" >&2
      exit 2
      ;;
  esac
done
need_root
# shellcheck disable=SC2086
install_packages $build_packages $demo_packages $test_packages || exit 3

build release || exit $?
if [ $quick = yes ]; then
  exec ctest --test-dir build/release --output-on-failure -L unit
fi
rc=0
# The sanitized build runs what is pure or in process; namespaces and real peers run in release.
build asan calico-unit-tests || exit $?
say "unit tests under address and undefined behaviour sanitizers"
ctest --test-dir build/asan --output-on-failure -L unit || rc=1
if [ $long = yes ]; then
  say "benchmarks and long tests"
  ctest --test-dir build/release --output-on-failure -L long || rc=1
  for bench in build/release/bench/*; do
    [ -x "$bench" ] && { say "$bench"; "$bench" || rc=1; }
  done
fi
say "all tests (release)"
# Real peers on a loaded machine: what fails is tried once more, and both outcomes are printed.
ctest --test-dir build/release --output-on-failure --repeat until-pass:2 -LE long || rc=1
exit $rc
