#!/bin/sh
# The container image of deb/image.sh: a host of two roles that is them when it has booted, with nothing but a configuration;
# and a second container of the same image, which joins the first.
set -u
cd "$(dirname "$0")/../.." || exit 3
. tests/packages/lib.sh

say "an image of both roles"
deb/image.sh --out "$work/image.tar" --debs "$debs" controller compute || exit 3
mkdir "$work/image"
tar -C "$work/image" -xf "$work/image.tar"
rm -f "$work/image.tar"
check "no name, no key, no state" test -z "$(cat "$work/image/etc/machine-id")$(ls "$work/image/var/lib/calico-node" "$work/image/etc/calico-node/conf.d" 2>/dev/null | grep -v :)"
rootfs=$work/image

fabric
machine ctl 192.168.80.1 || exit 3
cat >"$work/ctl/root/etc/calico-node/conf.d/site.conf" <<'CONF'
[datastore]
listen = 192.168.80.1:2379
[bgp]
source_address = 192.168.80.1
CONF
boot ctl || exit 3
check "it is its roles when it has booted" wait_for "the service" is_active ctl
check "the guard came before" test "$(on ctl systemctl is-active calico-node-guard)" = active
api_answers() { ip netns exec "$tag-ctl" curl -sS -m 5 http://127.0.0.1:9696/v2.0/networks | grep -q networks; }
check "the API answers" wait_for "the API" api_answers
ruled() { on ctl nft list table inet calico >/dev/null; }
check "rules are there" wait_for "rules" ruled
check "no unit has failed" test -z "$(on ctl systemctl --failed --no-legend --plain | grep -i calico)"
# A mark less is a role less.
machine cmp 192.168.80.11 || exit 3
rm "$work/cmp/root/usr/lib/calico-node/roles.d/controller"
printf '[bgp]\nsource_address = 192.168.80.11\n' >"$work/cmp/root/etc/calico-node/conf.d/site.conf"
boot cmp || exit 3
check "a second container joins" join cmp
on cmp systemctl restart calico-node
check "and is a compute" wait_for "the service" is_active cmp
synced() { on cmp calico-node store status >/dev/null; }
check "in sync" wait_for "in sync" synced

finish
