#!/bin/sh
# The packages are built a second time, in another folder, from other times of files and under another umask and zone, and
# compared byte by byte. COMPILE=yes: with an empty compiler cache, so that the compiler's work is compared too (minutes); else
# objects may come from the cache and what is compared is everything after them.
set -u
cd "$(dirname "$0")/../.." || exit 3
debs=${CALICO_PACKAGES:-$PWD/build/deb}
rpms=${CALICO_RPMS:-$PWD/build/rpm/RPMS}
begun=$(date +%s)
failed=0
other=$(mktemp -d /var/tmp/calico-again.XXXXXX)
trap 'rm -rf "$other"' EXIT
trap 'exit 130' INT TERM HUP
ls "$debs"/calico-node_*.deb >/dev/null 2>&1 || {
  echo "$0: no packages in $debs: deb/build.sh first" >&2
  exit 3
}
if [ "${COMPILE:-no}" = yes ]; then
  export CCACHE_DIR="${COMPILE_CACHE:-$other/ccache}"
fi
# differs A B: what in them does, of packages that are not equal.
differs() {
  mkdir -p "$other/x" "$other/y"
  case $1 in
    *.deb) dpkg-deb -R "$1" "$other/x" && dpkg-deb -R "$2" "$other/y" ;;
    *.rpm) (cd "$other/x" && rpm2cpio "$1" | cpio -idm --quiet) && (cd "$other/y" && rpm2cpio "$2" | cpio -idm --quiet) ;;
  esac
  diff -rq --no-dereference "$other/x" "$other/y" | head -5 | sed "s|$other/||g; s/^/   /"
  rm -rf "$other/x" "$other/y"
}
same() {
  if cmp -s "$1" "$2"; then
    echo "   ok: equal: $(basename "$1")"
  else
    failed=$((failed + 1))
    echo "   FAILED: differs: $(basename "$1")"
    differs "$1" "$2"
  fi
}
again=$other/a/longer/path
(umask 077 && TZ=Asia/Kolkata deb/build.sh --out "$again/deb") >"$other/log" 2>&1 || {
  tail -20 "$other/log" >&2
  exit 3
}
tail -1 "$other/log"
for d in "$debs"/*.deb; do same "$d" "$again/deb/$(basename "$d")"; done
if ls "$rpms"/*.rpm >/dev/null 2>&1; then
  (umask 077 && rpm/build.sh --out "$again/rpm" --tree "$(echo "$again"/deb/calico-node-*/build/deb)") >"$other/log" 2>&1 || {
    tail -20 "$other/log" >&2
    exit 3
  }
  for r in "$rpms"/*.rpm; do same "$r" "$again/rpm/RPMS/$(basename "$r")"; done
fi
# The comparison finds what is not equal.
first=$(ls "$debs"/calico-node_*.deb)
cp "$first" "$other/changed.deb" && printf x >>"$other/changed.deb"
cmp -s "$first" "$other/changed.deb" && failed=$((failed + 1)) && echo "   FAILED: the comparison sees nothing"
echo "== $failed differ, $(($(date +%s) - begun)) s"
[ $failed = 0 ]
