#!/bin/sh
# A container image of a host out of the built packages: Debian 12 by debootstrap, systemd, the packages of the roles; nothing
# is fetched but from the package mirror. It holds no key and no name: configuration comes with the container.
#   deb/image.sh [--out FILE.tar] [--debs DIR] [--mirror URL] ROLE…      felix, compute, controller, route-reflector
# To run it: `podman import FILE.tar calico-node`, then with --systemd=always --privileged and /etc/calico-node/conf.d and
# /var/lib/calico-node as volumes; or unpacked, `systemd-nspawn --boot`.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/build/image/calico-node.tar debs=$PWD/build/deb mirror="" roles=""
usage() {
  sed -n '4s/^# *//p' "$0" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out FILE.tar} && shift ;;
    --debs) debs=${2:?--debs DIR} && shift ;;
    --mirror) mirror=${2:?--mirror URL} && shift ;;
    # A compute contains felix.
    compute) roles="$roles felix compute" ;;
    felix | controller | route-reflector) roles="$roles $1" ;;
    *) usage ;;
  esac
  shift
done
[ -n "$roles" ] || usage
[ "$(id -u)" = 0 ] || { echo "$0: must be root: it makes a root file system" >&2 && exit 2; }
begin=$(date +%s)
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/image.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM HUP
root=$work/root
# shellcheck disable=SC2086
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,nftables,ca-certificates bookworm "$root" $mirror >"$work/log" 2>&1 || {
  tail -5 "$work/log" >&2
  exit 3
}
mkdir "$root/debs"
files=""
for p in calico-node $(for r in $roles; do echo "calico-node-$r"; done | sort -u); do
  deb=$(ls "$debs/$p"_[0-9]*.deb) || exit 3
  cp "$deb" "$root/debs/"
  files="$files /debs/$(basename "$deb")"
done
# Nothing starts: systemd does not run in there.
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 chroot "$root" apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends install $files \
  >"$work/log" 2>&1 || {
  tail -5 "$work/log" >&2
  exit 3
}
chroot "$root" apt-get clean
rm -rf "$root/debs" "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/* "$root/etc/resolv.conf" "$root/etc/hostname"
: >"$root/etc/machine-id"
tar -C "$root" --sort=name --numeric-owner --one-file-system -cf "$out.new" .
mv "$out.new" "$out"
ls -l "$out"
echo "$(($(date +%s) - begin)) s to build the image"
