#!/bin/sh
# What an operator sees of the packages: install, configure, join, upgrade, remove, purge, install again; kernel and disk
# before and after.
set -u
cd "$(dirname "$0")/../.." || exit 3
. tests/packages/lib.sh
. tests/packages/cloud.sh

# Every file but those of dpkg, of logs and of time.
disk_of() {
  on "$1" find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /root/debs -o -path /var/log \
    -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/lib/systemd -o -path /etc/systemd -o -path /var/tmp \) -prune \
    -o -print | sort
}

fabric
machine ctl 192.168.80.1 && machine cmp 192.168.80.11 || exit 3
boot ctl && boot cmp || exit 3
disk_of cmp >"$work/disk.before"
foreign cmp
kernel_of cmp >"$work/kernel.before"

say "the common package alone"
check "it installs" install ctl calico-node
check "the program runs" on ctl calico-node --version
check "diag by its own name" on ctl sh -c "/usr/lib/calico-node/bin/diag --help >/dev/null"
check "the pages are there" on ctl test -e /usr/share/man/man8/calico-node.8.gz -a -e /usr/share/man/man5/calico-node.conf.5.gz
check "no role is no fault of dpkg" sh -c "! grep -qi error $work/ctl/dpkg.log"
check "no service is started" test "$(on ctl systemctl is-active calico-node)" != active

say "a controller"
configure ctl <<'CONF'
[node]
name = ctl
[datastore]
listen = 192.168.80.1:2379
[controller]
api_listen = 127.0.0.1:9696
CONF
from=$(date +%s%N)
check "it installs" install ctl calico-node-controller
check "it is active" wait_for "the controller's service" is_active ctl
echo "   $((($(date +%s%N) - from) / 1000000)) ms from dpkg -i to a ready controller"
check "the API answers" on ctl sh -c 'printf "GET /v2.0/networks HTTP/1.0\r\n\r\n" | nc -q1 127.0.0.1 9696 | grep -q networks'

say "a compute"
check "it installs without a configuration" install cmp calico-node calico-node-felix calico-node-compute
check "and says what is missing" says cmp "not started: the configuration is not complete"
check "it is not active" test "$(on cmp systemctl is-active calico-node)" != active
check "it joins" join cmp
printf '[bgp]\nsource_address = 192.168.80.11\n' | configure cmp
on cmp systemctl restart calico-node
check "it is active" wait_for "the compute's service" is_active cmp
synced() { on cmp calico-node store status >/dev/null; }
check "it is in sync" wait_for "in sync" synced
known() { on ctl calico-node node list | grep -q '^cmp '; }
check "the controller knows it" wait_for "the Node" known
ruled() { on cmp nft list table inet calico >/dev/null; }
check "its rules are there" ruled
check "its routes have names" on cmp sh -c 'ip route show proto calico-felix'
check "forwarding is on" test "$(on cmp cat /proc/sys/net/ipv4/ip_forward)" = 1

say "what the service may not"
pid=$(on cmp systemctl show -P MainPID calico-node)
shut() { ! on cmp nsenter -t "$pid" -m -- touch /usr/x 2>/dev/null && ! on cmp nsenter -t "$pid" -m -- touch /etc/x 2>/dev/null; }
check "no file outside its folders" shut
allowed=$(on cmp sh -c "sed -n 's/^CapBnd:[[:space:]]*//p' /proc/$pid/status")
check "no capability beyond the list" test "$allowed" = 00000000000034e3

say "the same again, and an upgrade in place"
rules=$(on cmp nft list table inet calico | sed 's/counter packets.*//')
check "it installs over itself" install cmp calico-node calico-node-felix calico-node-compute
check "it is active" wait_for "the compute's service" is_active cmp
check "the configuration stays" on cmp grep -q 192.168.80.11 /etc/calico-node/conf.d/site.conf
check "the rules are the same" test "$(on cmp nft list table inet calico | sed 's/counter packets.*//')" = "$rules"

say "removed, then purged, with a VM that stays"
make_network
vm 1 cmp
check "vm-1 is ACTIVE" wait_for "port of vm-1" port_is "$port_1" ACTIVE
check "removing succeeds" on cmp sh -c 'dpkg -r calico-node-compute calico-node-felix calico-node >/root/log 2>&1'
mv "$work/cmp/root/root/log" "$work/cmp/dpkg.log"
check "removing says what stays" says cmp "stay in the kernel"
check "the service is gone" test "$(on cmp systemctl is-active calico-node)" != active
check "rules stay" ruled
ours cmp "$tap_1"
check "what is to go is there (table, route, neighbour, bucket, group)" test "$(kernel_of cmp | diff - "$work/kernel.before" | grep -c '^<')" -ge 5
check "purging succeeds" on cmp sh -c 'dpkg -P calico-node-compute calico-node-felix calico-node >/root/log 2>&1' ||
  cat "$work/cmp/root/root/log"
rm -f "$work/cmp/root/root/log"
check "dpkg knows nothing of it" fails on cmp sh -c 'dpkg-query -W -f "\${db:Status-Status}\n" "calico-node*" 2>/dev/null | grep -v not-installed'
check "nor debconf" fails on cmp grep -rq "calico-node" /var/cache/debconf/config.dat /var/cache/debconf/passwords.dat
on cmp rm -rf /etc/calico-node
disk_of cmp >"$work/disk.after"
kernel_of cmp >"$work/kernel.after"
check "the disk is as before" diff "$work/disk.before" "$work/disk.after"
check "the kernel is as before" diff "$work/kernel.before" "$work/kernel.after"
check "it installs again" install cmp calico-node calico-node-felix calico-node-compute

finish
