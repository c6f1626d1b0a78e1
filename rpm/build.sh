#!/bin/sh
# Builds the RPM packages out of what git has into build/rpm/, from the same build as the DEB packages when there is one.
#   --tree DIR   a build tree that is configured and built as deb/rules does it (build/deb/calico-node-VERSION/build/deb):
#                nothing is compiled; else it is, by the spec
#   --out DIR    another folder than build/rpm
# Where rpm is not the distribution's own, build dependencies have other names: --nodeps; tests/setup.sh has Debian's.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/build/rpm tree=""
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out DIR} && shift ;;
    --tree) tree=$(cd "${2:?--tree DIR}" && pwd) && shift ;;
    *)
      echo "usage: $0 [--tree DIR] [--out DIR]" >&2
      exit 2
      ;;
  esac
  shift
done
begin=$(date +%s)
version=$(sed -n 's/^project(.*VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
rm -rf "$out"
mkdir -p "$out/SOURCES"
out=$(cd "$out" && pwd)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
export CCACHE_BASEDIR="$out" CCACHE_NOHASHDIR=1
umask 022
git ls-files -z --cached --others --exclude-standard |
  tar --null -T - --ignore-failed-read --transform "s|^|calico-node-$version/|" --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
    --mode=u=rwX,go=rX --sort=name -cf - 2>/dev/null | gzip -n >"$out/SOURCES/calico-node-$version.tar.gz"
rpmbuild -bb --nodeps --define "_topdir $out" --define "calico_version $version" ${tree:+--define "calico_tree $tree"} \
  --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
  --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" --define "_buildhost calico-node" \
  --define "packager $(sed -n 's/^Maintainer: //p' deb/control)" rpm/calico-node.spec
rm -rf "$out/BUILD" "$out/BUILDROOT"
ls -l "$out"/RPMS/*.rpm
echo "$(($(date +%s) - begin)) s to build the packages"
