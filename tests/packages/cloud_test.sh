#!/bin/sh
# A whole cloud out of packages: a controller, two route reflectors, three computes, each a container with systemd that
# installs its package, joins with a token and becomes its role. Then the demonstration, and what may happen to it: under a
# ping between machines a process is killed, a reflector loses its power, the controller is off, packages are upgraded.
# No packet may be lost.
set -u
cd "$(dirname "$0")/../.." || exit 3
. tests/packages/lib.sh
ls "$debs"/calico-node_*.deb >/dev/null 2>&1 || {
  echo "$0: no packages in $debs: deb/build.sh first" >&2
  exit 3
}
bootstrap || exit 3

# api METHOD PATH [BODY]: Neutron's, on the controller.
api() {
  ip netns exec "$tag-ctl" curl -sS -m 20 -X "$1" "http://127.0.0.1:9696/v2.0/$2" ${3:+-H 'Content-Type: application/json' -d "$3"}
}
# field NAME < JSON: the first value of that name.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" | head -1; }

machine_of_vm() { echo "c$1"; }
# vm N: a machine on compute N, bound over the API, with the tap nova would make.
vm() {
  body=$(api POST ports "{\"port\":{\"name\":\"vm-$1\",\"network_id\":\"$network\",\"binding:host_id\":\"c$1\",\"device_id\":\"vm-$1\",\"device_owner\":\"compute:nova\",\"security_groups\":[\"$group\"]}}")
  id=$(echo "$body" | sed 's/.*"port":{//' | grep -o '"id":"[^"]*"' | head -1 | cut -d'"' -f4)
  address=$(echo "$body" | field ip_address)
  # Not the tap's own, which stands in the binding's details.
  mac=$(echo "$body" | grep -o '"mac_address":"fa:[^"]*"' | head -1 | cut -d'"' -f4)
  tap=tap$(echo "$id" | cut -c1-11)
  machines="$machines vm$1"
  mkdir -p "$work/vm$1/root/root/debs"
  ip netns add "$tag-vm$1"
  ip link add name "$tap" netns "$tag-c$1" type veth peer name eth0 netns "$tag-vm$1"
  ip -n "$tag-vm$1" link set eth0 address "$mac" up
  ip -n "$tag-vm$1" addr add "$address/16" dev eth0
  ip -n "$tag-vm$1" route replace default via 10.65.0.1
  # As a tap of a routed machine: its neighbours are not on its wire.
  ip -n "$tag-vm$1" route replace 10.65.0.1 dev eth0
  ip -n "$tag-vm$1" route del 10.65.0.0/16 2>/dev/null
  ip -n "$tag-c$1" link set "$tap" up
  eval "address_$1=$address port_$1=$id"
}
port_is() { [ "$(api GET "ports/$1" | field status)" = "$2" ]; }
reaches() { ip netns exec "$tag-vm$1" ping -c1 -W1 "$2" >/dev/null 2>&1; }
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
network=$(api POST networks '{"network":{"name":"demo","shared":true}}' | grep -o '"id":"[^"]*"' | head -1 | cut -d'"' -f4)
api POST subnets "{\"subnet\":{\"network_id\":\"$network\",\"ip_version\":4,\"cidr\":\"10.65.0.0/16\"}}" >/dev/null
group=$(api POST security-groups '{"security_group":{"name":"demo"}}' | sed 's/"security_group_rules":\[[^]]*\]//' | grep -o '"id":"[^"]*"' | head -1 | cut -d'"' -f4)
rule=$(api POST security-group-rules "{\"security_group_rule\":{\"security_group_id\":\"$group\",\"direction\":\"ingress\",\"ethertype\":\"IPv4\",\"protocol\":\"icmp\"}}" | grep -o '"id":"[^"]*"' | head -1 | cut -d'"' -f4)
for n in 1 2 3; do vm $n; done
for n in 1 2 3; do
  eval "id=\$port_$n"
  check "vm-$n is ACTIVE" wait_for "port of vm-$n" port_is "$id" ACTIVE
done
check "all machines reach each other" matrix
api DELETE "security-group-rules/$rule"
check "without the rule nobody reaches anybody" wait_for "silence" nobody_reaches
rule=$(api POST security-group-rules "{\"security_group_rule\":{\"security_group_id\":\"$group\",\"direction\":\"ingress\",\"ethertype\":\"IPv4\",\"protocol\":\"icmp\"}}" | grep -o '"id":"[^"]*"' | head -1 | cut -d'"' -f4)
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
newer=$work/newer
mkdir -p "$newer"
for d in "$debs"/*.deb; do
  case $d in *dbgsym*) continue ;; esac
  rm -rf "$work/tree"
  dpkg-deb -R "$d" "$work/tree"
  sed -i 's/^\(Version: .*\)/\1+1/; s/(= \([^)]*\))/(= \1+1)/g' "$work/tree/DEBIAN/control"
  dpkg-deb --root-owner-group -b "$work/tree" "$newer/$(basename "$d")" >/dev/null
done
upgrade() {
  mkdir -p "$work/$1/root/root/newer"
  cp "$newer"/*.deb "$work/$1/root/root/newer/"
  shift_name=$1
  shift
  files=""
  for p in "$@"; do files="$files $(cd "$newer" && ls "$p"_[0-9]*.deb | sed 's|^|/root/newer/|')"; done
  # shellcheck disable=SC2086
  on "$shift_name" dpkg -i $files >"$work/$shift_name/dpkg.log" 2>&1
}
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

finish
