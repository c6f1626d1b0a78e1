#!/bin/sh
# lintian and rpmlint over the built packages: nothing is said but what deb/*.lintian-overrides and rpm/rpmlint.toml list with
# their reasons, and every reason is still needed.
set -u
cd "$(dirname "$0")/../.." || exit 3
debs=${CALICO_PACKAGES:-$PWD/build/deb}
rpms=${CALICO_RPMS:-$PWD/build/rpm/RPMS}
begun=$(date +%s)
rc=0
changes=$(ls "$debs"/calico-node_*.changes) || {
  echo "$0: no packages in $debs: deb/build.sh first" >&2
  exit 3
}
# Not asked for spelling in binaries: strings that lie side by side in a library read as words, others in every build.
# An override that is not needed is a tag of its own (unused-override).
said=$(lintian --allow-root --fail-on none --display-info --tag-display-limit 0 --no-cfg --suppress-tags spelling-error-in-binary \
  "$changes" 2>&1 | grep -v '^running with root\|^warning: running with root')
[ -z "$said" ] || { rc=1 && echo "$said"; }
echo "== lintian: $(echo "$said" | grep -c .) said, $(ls "$debs"/*.deb | wc -l) packages"
if ls "$rpms"/*.rpm >/dev/null 2>&1; then
  # shellcheck disable=SC2012
  rpmlint --strict -c rpm/rpmlint.toml "$rpms"/*.rpm rpm/calico-node.spec >build/rpmlint.log 2>&1 || { rc=1 && cat build/rpmlint.log; }
  tail -1 build/rpmlint.log
fi
echo "== $(($(date +%s) - begun)) s"
exit $rc
