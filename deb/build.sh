#!/bin/sh
# Builds the DEB packages out of what git has (or, outside git, of this folder) into build/deb/. dpkg wants the folder
# debian/: it is a link to deb/ in a copy, so that the tree stays as it is.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n '1s/.*(\(.*\)).*/\1/p' deb/changelog)
out=$PWD/build/deb
source=$out/calico-node-$version
rm -rf "$source"
mkdir -p "$source"
if git rev-parse --git-dir >/dev/null 2>&1; then
  git ls-files -z --cached --others --exclude-standard | xargs -0 tar -cf - | tar -C "$source" -xf -
else
  tar --exclude=./build -cf - . | tar -C "$source" -xf -
fi
ln -s deb "$source/debian"
cd "$source"
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -STimestamp)
export SOURCE_DATE_EPOCH
export CCACHE_BASEDIR="$source" CCACHE_NOHASHDIR=1
dpkg-buildpackage -b -us -uc -d
ls -l "$out"/*.deb
