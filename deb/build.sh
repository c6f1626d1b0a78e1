#!/bin/sh
# Builds the DEB packages out of what git has (or, outside git, of this folder) into build/deb/. dpkg wants the folder
# debian/: it is a link to deb/ in a copy, so that the tree stays as it is.
#   --out DIR     another folder than build/deb
#   --commit C    of that commit, not of the working tree
# The same sources give the same packages, byte for byte, wherever and whenever they are built: every time in them is that
# of the commit, no path of the builder is in them.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/build/deb commit=""
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out DIR} && shift ;;
    --commit) commit=${2:?--commit C} && shift ;;
    *)
      echo "usage: $0 [--out DIR] [--commit C]" >&2
      exit 2
      ;;
  esac
  shift
done
begin=$(date +%s)
mkdir -p "$out"
out=$(cd "$out" && pwd)
version=$(sed -n '1s/.*(\(.*\)).*/\1/p' deb/changelog)
source=$out/calico-node-$version
rm -rf "$source"
mkdir -p "$source"
if git rev-parse --git-dir >/dev/null 2>&1; then
  : "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct ${commit:+"$commit"})}"
  if [ -n "$commit" ]; then
    git archive "$commit" | tar -C "$source" --touch -xf -
  else
    git ls-files -z --cached --others --exclude-standard | tar --null -T - --ignore-failed-read -cf - | tar -C "$source" -xf -
  fi
else
  : "${SOURCE_DATE_EPOCH:=$(dpkg-parsechangelog -l deb/changelog -STimestamp)}"
  tar --exclude=./build --exclude=./.git -cf - . | tar -C "$source" -xf -
fi
# Files that are copied into a package keep their time, and are as old as the checkout otherwise; their modes follow the
# umask of who checked out.
find "$source" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
chmod -R u=rwX,go=rX "$source"
ln -s deb "$source/debian"
cd "$source"
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
# debhelper gives the build a home of its own, in which there is no cache.
if command -v ccache >/dev/null; then
  CCACHE_DIR=${CCACHE_DIR:-$(ccache -k cache_dir)}
  export CCACHE_DIR CCACHE_BASEDIR="$source" CCACHE_NOHASHDIR=1
fi
umask 022
dpkg-buildpackage -b -us -uc -d
ls -l "$out"/*.deb
echo "$(($(date +%s) - begin)) s to build the packages"
