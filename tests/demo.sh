#!/bin/sh
# The demonstration on a fresh machine: installs, builds, runs `calico-node lab demo` with the arguments given.
set -u
cd "$(dirname "$0")/.." || exit 3
. tests/setup.sh
need_root
# shellcheck disable=SC2086
install_packages $build_packages $demo_packages || exit 3
build release calico-all || exit $?

node=build/release/bin/calico-node
missing=""
for module in lab controller compute felix route_reflector; do
  [ -e build/release/lib/calico-node/calico-$module.so ] || missing="$missing $module"
done
if [ -n "$missing" ]; then
  say "what exists"
  $node modules
  echo "demo.sh: not built yet, so there is no demonstration:$missing" >&2
  exit 1
fi
exec $node lab demo "$@"
