#!/bin/sh
# A whole cloud out of packages: a controller, two route reflectors, three computes, each a container with systemd that
# installs its package, joins with a token and becomes its role. Then the demonstration, and what may happen to it: under a
# ping between machines a process is killed, a reflector loses its power, the controller is off, packages are upgraded.
# No packet may be lost. CALICO_PACKAGES_OLDER=DIR: upgraded from the packages of an older build (deb/build.sh --commit C --out
# DIR); else these ones are raised in their version.
set -u
cd "$(dirname "$0")/../.." || exit 3
. tests/packages/lib.sh
. tests/packages/cloud.sh

matrix() {
  for a in 1 2 3; do
    for b in 1 2 3; do
      [ $a = $b ] && continue
      eval "to=\$address_$b"
      wait_for "vm-$a reaches vm-$b" reaches $a "$to" >/dev/null || return 1
    done
  done
}
nobody_reaches() {
  for a in 1 2 3; do
    for b in 1 2 3; do
      eval "to=\$address_$b"
      [ $a = $b ] || ! reaches $a "$to" || return 1
    done
  done
}
start_pings() {
  for a in 1 2 3; do
    eval "to=\$address_$((a % 3 + 1))"
    ip netns exec "$tag-vm$a" ping -i 0.02 -W 1 "$to" >"$work/ping$a" 2>&1 &
    echo $! >"$work/ping$a.pid"
  done
}
none_lost() {
  lost=no
  for a in 1 2 3; do
    kill -INT "$(cat "$work/ping$a.pid")"
    wait "$(cat "$work/ping$a.pid")" 2>/dev/null
    line=$(grep 'packets transmitted' "$work/ping$a")
    echo "   vm-$a: $line"
    sent=${line%% *}
    received=$(echo "$line" | sed 's/.*, \([0-9]*\) received.*/\1/')
    # The last one may be on its way.
    [ "${received:-0}" -ge $((${sent:-1} - 1)) ] && [ "${sent:-0}" -gt 10 ] || lost=yes
  done
  [ $lost = no ]
}
synced() { on "$1" calico-node store status >/dev/null; }
sessions() { on "$1" calico-node birdc show protocols | grep -c Established; }
sessions_are() { [ "$(sessions "$1")" = "$2" ]; }

newer=$work/newer
if [ -n "${CALICO_PACKAGES_OLDER:-}" ]; then
  say "from the packages in $CALICO_PACKAGES_OLDER"
  newest=$debs debs=$CALICO_PACKAGES_OLDER
  repack "$work/older" "~older" || exit 3
  debs=$newest newer=$newest
  install() { install_from "$work/older" "$@"; }
else
  repack "$newer" +1 || exit 3
fi

fabric
machine ctl 192.168.80.1 && machine r1 192.168.80.2 && machine r2 192.168.80.3 || exit 3
for n in 1 2 3; do machine c$n 192.168.80.1$n || exit 3; done
for m in ctl r1 r2 c1 c2 c3; do boot $m || exit 3; done

say "install, join, become the role"
configure ctl <<'CONF'
[node]
name = ctl
[datastore]
listen = 192.168.80.1:2379
[controller]
api_listen = 127.0.0.1:9696
CONF
check "controller" install ctl calico-node calico-node-controller
check "controller is active" wait_for "controller" is_active ctl
for m in r1 r2; do
  printf '[bgp]\nsource_address = 192.168.80.%s\n' "$([ $m = r1 ] && echo 2 || echo 3)" | configure $m
  check "$m installs" install $m calico-node calico-node-route-reflector
  check "$m joins" join $m
  on $m systemctl restart calico-node
done
for n in 1 2 3; do
  printf '[bgp]\nsource_address = 192.168.80.1%s\n' $n | configure c$n
  check "c$n installs" install c$n calico-node calico-node-felix calico-node-compute
  check "c$n joins" join c$n
  on c$n systemctl restart calico-node
done
for m in r1 r2 c1 c2 c3; do check "$m is active" wait_for "$m" is_active $m; done
for r in r1 r2; do check "$r has all its sessions" wait_for "sessions of $r" sessions_are $r 4; done

say "the demonstration"
make_network
allow_icmp
for n in 1 2 3; do vm $n c$n; done
for n in 1 2 3; do
  eval "id=\$port_$n"
  check "vm-$n is ACTIVE" wait_for "port of vm-$n" port_is "$id" ACTIVE
done
check "all machines reach each other" matrix
refuse_icmp
check "without the rule nobody reaches anybody" wait_for "silence" nobody_reaches
allow_icmp
check "with it they do again" matrix

say "a compute's process is killed, systemd starts it again"
start_pings
on c1 sh -c 'kill -9 $(systemctl show -P MainPID calico-node)'
check "c1 is active" wait_for "c1" is_active c1
for r in r1 r2; do check "$r has all its sessions" wait_for "sessions of $r" sessions_are $r 4; done
check "no packet lost" none_lost

say "a reflector loses its power; the controller is off"
start_pings
halt r1
on ctl systemctl stop calico-node
on c2 systemctl restart calico-node
check "c2 is active" wait_for "c2" is_active c2
check "r2 has the others" wait_for "sessions of r2" sessions_are r2 3
on ctl systemctl start calico-node
boot r1
for r in r1 r2; do check "$r has all its sessions" wait_for "sessions of $r" sessions_are $r 4; done
check "no packet lost" none_lost

say "an upgrade, the controller first"
version_of() { on "$1" dpkg-query -W -f '${Version}' calico-node; }
older=$(version_of ctl)
upgrade() { install_from "$newer" "$@"; }
start_pings
check "controller upgraded" upgrade ctl calico-node calico-node-controller
check "controller is active" wait_for "controller" is_active ctl
check "the older computes go on with it" wait_for "c1 in sync" synced c1
for n in 1 2 3; do
  check "c$n upgraded" upgrade c$n calico-node calico-node-felix calico-node-compute
  check "c$n is active" wait_for "c$n" is_active c$n
done
for m in r1 r2; do
  check "$m upgraded" upgrade $m calico-node calico-node-route-reflector
  check "$m has all its sessions" wait_for "sessions of $m" sessions_are $m 4
done
check "no packet lost" none_lost
check "all machines reach each other" matrix
check "from $older to $(version_of ctl)" dpkg --compare-versions "$(version_of ctl)" gt "$older"

finish
