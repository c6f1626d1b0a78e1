#!/bin/sh
# Installs what is needed, builds, runs every test that fits CI; closes with ctest's summary.
#   --long   also soak, crash loops, long fuzzing and benchmarks
#   --quick  unit tests only, release build only
# Fuzz targets run 30 s each, two at a time or more; with --long 10 minutes each (FUZZ_SECONDS: another time).
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
unpack_bird1 || exit 3

build release || exit $?
if [ $quick = yes ]; then
  exec ctest --test-dir build/release --output-on-failure -L unit
fi
rc=0
# A test that failed of time is tried once more, aloud; what a sanitizer reported fails all the same.
sanitized() {
  preset=$1 label=$2
  shift 2
  "$@" ctest --test-dir "build/$preset" --output-on-failure -j 2 --repeat until-pass:2 -L "$label" || rc=1
  if grep -aE 'WARNING: ThreadSanitizer|ERROR: (Address|Leak)Sanitizer|runtime error:' \
    "build/$preset/Testing/Temporary/LastTest.log" >&2; then
    echo "$0: a sanitizer ($preset) reported the above" >&2
    rc=1
  fi
}
# The sanitized build runs what is pure or in process; namespaces and real peers run in release.
build asan calico-unit-tests || exit $?
say "unit tests under address and undefined behaviour sanitizers"
sanitized asan unit env
build tsan calico-thread-tests || exit $?
say "loop, store and BGP under the thread sanitizer"
# Its shadow memory lies where newer kernels may put a library: without random addresses, where that is allowed.
fixed="env"
setarch -R true 2>/dev/null && fixed="setarch -R"
# shellcheck disable=SC2086
sanitized tsan threads $fixed
[ $long = yes ] && seconds=${FUZZ_SECONDS:-600} || seconds=30
build fuzz calico-fuzz "-DCALICO_FUZZ_SECONDS=$seconds" || exit $?
say "fuzz targets, $seconds s each"
ctest --test-dir build/fuzz --output-on-failure -L fuzz -j "$(nproc)" || rc=1
if [ $long = yes ]; then
  say "packages, in containers"
  # shellcheck disable=SC2086
  install_packages $package_packages || rc=1
  mkdir -p build
  deb/build.sh >build/deb.log 2>&1 || { rc=1; tail -20 build/deb.log >&2; }
  rpm/build.sh --tree "$(echo build/deb/calico-node-*/build/deb)" >build/rpm.log 2>&1 || { rc=1; tail -20 build/rpm.log >&2; }
  for t in lint install readme roles cloud rpm image reproducible; do
    say "packages: $t"
    "tests/packages/${t}_test.sh" || rc=1
  done
  say "benchmarks and long tests"
  ctest --test-dir build/release --output-on-failure -L long || rc=1
  for bench in build/release/bench/*; do
    [ -x "$bench" ] && { say "$bench"; "$bench" || rc=1; }
  done
fi
say "all tests (release)"
# Two at a time: most of these wait. Real peers on a loaded machine: what fails is tried once more, and both outcomes are printed.
ctest --test-dir build/release --output-on-failure -j 2 --repeat until-pass:2 -LE long || rc=1
exit $rc
