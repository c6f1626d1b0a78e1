#!/bin/sh
# What a host becomes by what is installed on it: everything at once (the all-in-one host); `felix` alone beside a real BIRD 2,
# which announces the routes of its machines to another BIRD, installed with nothing but debconf's answers; what happens when
# a script of the packages fails; what the service may not do; a host that boots with its machines before its rules.
set -u
cd "$(dirname "$0")/../.." || exit 3
. tests/packages/lib.sh
. tests/packages/cloud.sh
controller=all

status_of() { on "$1" dpkg-query -W -f '${db:Status-Abbrev}' calico-node; }
# answer NAME TOKEN AS ADDRESS: what an unattended installation is told before.
answer() {
  on "$1" debconf-set-selections <<ANSWERS
calico-node calico-node/controller string https://192.168.80.1:2379
calico-node calico-node/join-token password $2
calico-node calico-node/as-number string $3
calico-node calico-node/source-address string $4
calico-node calico-node/interface-prefix string tap,veth
ANSWERS
}
new_token() { on all calico-node join token 2>/dev/null | tail -1; }
used() { on "$1" calico-node role installed --print-config | grep -Eq "^$2 *= *$3( |\$)"; }

fabric
machine all 192.168.80.1 && machine fel 192.168.80.11 && machine bad 192.168.80.12 && machine odd 192.168.80.13 &&
  machine far 192.168.80.99 || exit 3
boot all && boot fel && boot bad && boot odd || exit 3
# As every host has: what answers machines for their gateway (proxy ARP) needs a route to it.
ip -n "$tag-fel" route add default via 192.168.80.1

say "everything on one host, in one call of dpkg"
configure all <<'CONF'
[node]
name = all
[datastore]
listen = 192.168.80.1:2379
[controller]
api_listen = 127.0.0.1:9696
[bgp]
source_address = 192.168.80.1
CONF
from=$(date +%s%N)
check "it installs" install all calico-node calico-node-controller calico-node-felix calico-node-compute calico-node-route-reflector
check "it is active" wait_for "the service" is_active all
echo "   $(ms_since "$from") ms from dpkg -i to four roles ready"
check "it was started once" test "$(on all journalctl -u calico-node -o cat | grep -c '^Started ')" = 1
make_network
allow_icmp
vm 1 all
vm 2 all
for n in 1 2; do
  eval "id=\$port_$n"
  check "vm-$n is ACTIVE" wait_for "port of vm-$n" port_is "$id" ACTIVE
done
check "vm-1 reaches vm-2" wait_for "ping" reaches 1 "$address_2"
refuse_icmp
silent() { ! reaches "$1" "$2"; }
check "not without the rule" wait_for "silence" silent 1 "$address_2"
allow_icmp
check "with it again" wait_for "ping" reaches 1 "$address_2"

say "felix alone, with answers given before"
token=$(new_token)
answer fel "$token" 64999 192.168.80.11
from=$(date +%s%N)
check "it installs" install fel calico-node calico-node-felix
check "it is active" wait_for "the service" is_active fel
echo "   $(ms_since "$from") ms from dpkg -i to joined and ready"
check "its answers are in 10-install.conf" on fel grep -q '^local_as = 64999$' /etc/calico-node/conf.d/10-install.conf
check "and are what it uses: AS" used fel local_as 64999
check "address" used fel source_address 192.168.80.11
check "prefixes" used fel interface_prefix tap,veth
synced() { on "$1" calico-node store status >/dev/null; }
check "it is in sync with the controller it was told" wait_for "in sync" synced fel
nowhere() { ! on fel grep -rlF -e "$1" /var/cache/debconf /etc /var/lib/calico-node /var/log /run/calico-node; }
check "the token is nowhere any more" nowhere "$token"
check "the search would have found it" test -n "$(on fel grep -rlF -e 192.168.80.11 /var/cache/debconf)"

say "answers that are wrong"
answer odd "$token" many 192.168.80.13
check "it installs" install odd calico-node calico-node-felix
check "a token that was used joins nobody, and that is said" says odd "not joined; run: calico-node join https://192.168.80.1:2379"
check "what is wrong is said with its place" says odd "10-install.conf.*local_as"
check "the token is not said" fails says odd "$token"
check "nothing is started" test "$(on odd systemctl is-active calico-node)" != active

say "beside BIRD 2, which announces its routes"
on fel sh -c 'cat >/etc/bird/bird.conf' <<'CONF'
router id 192.168.80.11;
protocol device { }
protocol direct { ipv4; interface "eth0"; }
# Whatever the kernel has of felix's.
protocol kernel { learn; ipv4 { import where krt_source = 88; export none; }; }
protocol bgp far {
  local 192.168.80.11 as 64512;
  neighbor 192.168.80.99 as 64512;
  ipv4 { import none; export where source = RTS_INHERIT; next hop self; };
}
CONF
on fel systemctl restart bird # the package may have started it, with its own configuration
check "BIRD runs" test "$(on fel systemctl is-active bird)" = active
cat >"$work/far/bird.conf" <<'CONF'
router id 192.168.80.99;
protocol device { }
protocol direct { ipv4; interface "eth0"; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol bgp fel { local 192.168.80.99 as 64512; neighbor 192.168.80.11 as 64512; ipv4 { import all; export none; }; }
CONF
ip netns exec "$tag-far" /usr/sbin/bird -f -c "$work/far/bird.conf" -s "$work/far/bird.ctl" >"$work/far/bird.log" 2>&1 &
echo $! >"$work/far/pid"
vm 3 fel
check "vm-3 is ACTIVE" wait_for "port of vm-3" port_is "$port_3" ACTIVE
routed() { ip -n "$tag-far" route show proto bird | grep -q "^$1 via 192.168.80.11 "; }
check "the other BIRD has its route" wait_for "route to vm-3" routed "$address_3" || {
  on fel /usr/sbin/birdc show protocols all
  on fel ip route show proto 88
  on fel journalctl -u bird -o cat -n 20
  cat "$work/far/bird.log"
}
check "nothing else" test "$(ip -n "$tag-far" route show proto bird | wc -l)" = 1
far_reaches() { ip netns exec "$tag-far" ping -c1 -W1 "$1" >/dev/null 2>&1; }
check "from there vm-3 is reached" wait_for "ping" far_reaches "$address_3"
speakers=$(on fel sh -c 'for p in /proc/[0-9]*; do for f in $(ls -l $p/fd 2>/dev/null | sed -n "s/.*socket:\[\([0-9]*\)\]/\1/p"); do
  grep -q "^ *[0-9]*: [0-9A-F]*:00B3 [0-9A-F:]* 0A .* $f " /proc/net/tcp && cat $p/comm; done; done; true' | sort -u)
check "BGP is BIRD's alone (${speakers:-nobody})" test "$speakers" = bird
ip netns exec "$tag-far" ping -i 0.02 -W 1 "$address_3" >"$work/ping" 2>&1 &
echo $! >"$work/ping.pid"
on fel systemctl restart calico-node
check "felix is back" wait_for "the service" is_active fel
on fel systemctl stop calico-node
check "without felix the route stays" routed "$address_3"
on fel systemctl start calico-node
kill -INT "$(cat "$work/ping.pid")"
wait "$(cat "$work/ping.pid")" 2>/dev/null
line=$(grep 'packets transmitted' "$work/ping")
echo "   $line"
check "no packet lost" test "$(echo "$line" | sed 's/ .*//')" -le $(($(echo "$line" | sed 's/.*, \([0-9]*\) received.*/\1/') + 1))
refuse_icmp
far_silent() { ! far_reaches "$1"; }
check "not without the rule" wait_for "silence" far_silent "$address_3"

say "a script that fails"
token=$(new_token)
answer bad "$token" 64512 192.168.80.12
on bad sh -c 'd=/etc/calico-node/conf.d; mkdir -p $d && mount --bind $d $d && mount -o remount,ro,bind $d'
check "where it cannot write, the installation fails" fails install bad calico-node calico-node-felix
check "dpkg knows (half-configured)" test "$(status_of bad)" = "iF "
check "nothing is started" test "$(on bad systemctl is-active calico-node)" != active
check "nothing half-written" test -z "$(on bad ls /etc/calico-node/conf.d)"
on bad umount /etc/calico-node/conf.d
check "dpkg --configure -a goes on from there" on bad sh -c 'dpkg --configure -a >/root/log 2>&1'
check "it is installed" test "$(status_of bad)" = "ii "
check "joined and active" wait_for "the service" is_active bad
pid=$(main_pid bad)
rules=$(on bad nft list table inet calico | sed 's/counter packets.*//')
unchanged() { [ "$(main_pid bad)" = "$pid" ] && [ "$(on bad nft list table inet calico | sed 's/counter packets.*//')" = "$rules" ]; }

repack "$work/broken" +1 || exit 3
dpkg-deb -R "$work/broken"/calico-node_*.deb "$work/tree"
sed -i '2i exit 7' "$work/tree/DEBIAN/postinst"
dpkg-deb -Zgzip -z1 --root-owner-group -b "$work/tree" "$(ls "$work/broken"/calico-node_*.deb)" >/dev/null
check "an upgrade whose postinst fails, fails" fails install_from "$work/broken" bad calico-node calico-node-felix
check "dpkg knows (half-configured)" test "$(status_of bad)" = "iF "
check "the old process goes on, with its rules" unchanged
repack "$work/mended" +2 || exit 3
check "the next upgrade mends it" install_from "$work/mended" bad calico-node calico-node-felix
check "it is installed" test "$(status_of bad)" = "ii "
check "active" wait_for "the service" is_active bad
check "as another process" test "$(main_pid bad)" != "$pid"

pid=$(main_pid bad)
# shellcheck disable=SC2016
printf '#!/bin/sh\ncase "$*" in *restart*) exit 1 ;; *) exec /root/systemctl.real "$@" ;; esac\n' >"$work/bad/root/root/systemctl"
cp "$work/bad/root/usr/bin/systemctl" "$work/bad/root/root/systemctl.real"
chmod 755 "$work/bad/root/root/systemctl"
on bad mount --bind /root/systemctl /usr/bin/systemctl
check "a systemd that refuses is no fault of the package" install_from "$work/mended" bad calico-node calico-node-felix
on bad umount /usr/bin/systemctl
check "it is said" says bad "the service did not start"
check "the old process goes on, with its rules" unchanged
on bad systemctl restart calico-node
check "active" wait_for "the service" is_active bad

say "unpacked, then the power fails"
on bad sh -c 'dpkg --unpack /root/debs/calico-node_[0-9]*.deb /root/debs/calico-node-felix_*.deb >/root/log 2>&1'
halt bad
boot bad
check "dpkg --configure -a goes on from there" on bad sh -c 'dpkg --configure -a >/root/log 2>&1'
check "active" wait_for "the service" is_active bad

say "what the units may not do"
for unit in calico-node calico-node-guard; do
  on fel systemd-analyze --no-pager security $unit.service | tail -1
done
pid=$(main_pid fel)
status_line() { on fel sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
check "no capability beyond the list, in force" test "$(status_line CapEff)" = 00000000000034e3
check "nor for what it starts" test "$(status_line CapBnd)" = 00000000000034e3
check "system calls are filtered" test "$(status_line Seccomp)" = 2
check "nobody gains by setuid" test "$(status_line NoNewPrivs)" = 1
# The unit itself, with other work to do. `yes` is what it may: without it a refusal would say nothing.
cp tests/packages/probe.sh "$work/fel/root/usr/local/bin/probe"
sed -e '/^ExecStartPre=/d' -e 's|^ExecStart=.*|ExecStart=/usr/local/bin/probe|' -e 's|^Type=.*|Type=oneshot|' -e '/^Restart/d' \
  etc/systemd/calico-node.service >"$work/fel/root/etc/systemd/system/probe.service"
on fel systemctl daemon-reload
on fel sh -c '/usr/local/bin/probe' >"$work/probe.free" 2>&1
on fel systemctl start probe || echo "   the probe did not run"
on fel journalctl -u probe -o cat >"$work/probe.unit"
rm -f "$work/fel/root/etc/systemd/system/probe.service"
while read -r what; do
  check "may not: $what" sh -c "grep -qx 'no $what' $work/probe.unit && grep -qx 'yes $what' $work/probe.free"
done <<'MAY_NOT'
write /usr
write /etc
write /boot
write /root
write /var/lib
mount
namespace
setuid file
hostname
MAY_NOT
while read -r what; do check "may: $what" grep -qx "yes $what" "$work/probe.unit"; done <<'MAY'
write /etc/calico-node/conf.d
write /var/lib/calico-node
write /run/calico-node
sysctl of a tap
route
MAY

say "a cold start: machines before rules"
# In the way a host boots: nothing in the kernel, the controller away; nova starts its machines when the network may be used.
on all systemctl stop calico-node
mkdir -p "$work/fel/root/etc/systemd/system/calico-node.service.d"
printf '[Service]\nExecStartPre=/bin/sh -c "until [ -e /run/go ]; do sleep 0.05; done"\n' \
  >"$work/fel/root/etc/systemd/system/calico-node.service.d/hold.conf"
halt fel
ip netns exec "$tag-fel" nft flush ruleset
ip -n "$tag-fel" link del "$tap_3"
plug 3 fel
ip -n "$tag-fel" link set "$tap_3" up
ip -n "$tag-fel" route add "$address_3" dev "$tap_3"
ip -n "$tag-fel" addr add 10.65.0.1/32 dev "$tap_3"
ip -n "$tag-far" route add "$address_3" via 192.168.80.11 metric 9
check "without guard and rules vm-3's packets pass" wait_for "ping" reaches 3 192.168.80.99
ip -n "$tag-fel" link set "$tap_3" down
boot_held() { [ "$(on fel systemctl is-active calico-node-guard)" = active ] && [ "$(on fel systemctl is-active calico-node)" = activating ]; }
boot fel &
booting=$!
check "the guard is up, the service is held" wait_for "the guard" boot_held
ip -n "$tag-fel" link set "$tap_3" up
ip -n "$tag-fel" route replace "$address_3" dev "$tap_3"
check "none of vm-3's packets passes" test "$(ip netns exec "$tag-vm3" ping -c 20 -i 0.1 -W 1 192.168.80.99 | sed -n 's/.*, \([0-9]*\) received.*/\1/p')" = 0
on fel touch /run/go
wait $booting
check "the service starts without its controller" wait_for "the service" is_active fel
check "with the rules they pass" wait_for "ping" reaches 3 192.168.80.99
check "and the last known policy is in force" far_silent "$address_3"
at() { on fel systemctl show -P ActiveEnterTimestampMonotonic "$1"; }
check "the guard came before the network" test "$(at calico-node-guard.service)" -le "$(at network-pre.target)"
check "and before the service" test "$(at calico-node-guard.service)" -lt "$(at calico-node.service)"
check "the guard's table is gone" sh -c "! ip netns exec $tag-fel nft list table inet calico-guard >/dev/null 2>&1"

finish
