#!/bin/sh
# The RPM packages (rpm/build.sh) beside the DEB ones: the same files, the same effect of their scripts. Installed by rpm into
# a root in which nothing runs, and in machines with systemd: install, join, upgrade, a role less, erase, the operator's
# cleaning as rpm/README.md has it. rpm knows nothing of what Debian installed: --nodeps.
set -u
cd "$(dirname "$0")/../.." || exit 3
. tests/packages/lib.sh
. tests/packages/cloud.sh
rpms=${CALICO_RPMS:-$PWD/build/rpm/RPMS}
ls "$rpms"/calico-node-[0-9]*.rpm >/dev/null 2>&1 || {
  echo "$0: no packages in $rpms: rpm/build.sh first" >&2
  exit 3
}
all="calico-node calico-node-felix calico-node-compute calico-node-controller calico-node-route-reflector"

# What a package has, beside documentation; Debian 12 has units in /lib, which is a link to /usr/lib.
files_of_deb() {
  dpkg-deb --fsys-tarfile "$(ls "$debs/$1"_[0-9]*.deb)" | tar -tf - | sed -e 's|^\.||' -e 's|^/lib/|/usr/lib/|' | grep -v '/$' |
    grep -v '^/usr/share/\(doc\|lintian\|licenses\)/' | sort
}
files_of_rpm() {
  rpm -qp --qf '[%{FILEMODES:perms} %{FILENAMES}\n]' "$(ls "$rpms/$1"-[0-9]*.rpm)" 2>/dev/null | grep -v '^d' | cut -d' ' -f2 |
    grep -v '^/usr/share/\(doc\|licenses\)/' | sort
}
# rpms_into NAME PACKAGE… / rpm_in NAME ARGUMENT…: output is in $work/NAME/dpkg.log, where `says` looks.
rpms_into() {
  mkdir -p "$work/$1/root/root/rpms"
  cp "$rpms"/*.rpm "$work/$1/root/root/rpms/"
}
paths() { for p in "$@"; do echo "/root/rpms/$(cd "$rpms" && ls "$p"-[0-9]*.rpm)"; done; }
rpm_in() {
  host=$1
  shift
  on "$host" rpm "$@" >"$work/$host/dpkg.log" 2>&1
}
disk_of() {
  find "$work/$1/upper" -mindepth 1 ! -type d | sed "s|^$work/$1/upper||" |
    grep -Ev '^/(root|tmp|run|dev|var/(log|tmp|cache|lib/(systemd|dbus|rpm|private))|etc/(hostname|machine-id|\.updated|\.pwd\.lock)|var/\.updated|etc/resolv.conf)(/|$|-)' | sort
}

say "the same files as the DEB packages"
for p in $all; do
  files_of_deb $p >"$work/deb.list"
  files_of_rpm $p >"$work/rpm.list"
  check "$p: $(wc -l <"$work/rpm.list") files" diff "$work/deb.list" "$work/rpm.list"
done
check "and there are some" test "$(wc -l <"$work/rpm.list")" -ge 2

fabric
machine off 192.168.80.20 && machine ctl 192.168.80.1 && machine cmp 192.168.80.11 || exit 3

say "into a root in which nothing runs"
# shellcheck disable=SC2046
check "it installs" sh -c "rpm --root $work/off/root -i --nodeps $(for p in $all; do ls "$rpms/$p"-[0-9]*.rpm; done | tr '\n' ' ') >$work/off.log 2>&1"
cat "$work/off.log"
check "the program runs there" chroot "$work/off/root" calico-node --version
check "all its modules load" sh -c "test \"\$(chroot $work/off/root calico-node modules | grep -c compute)\" -ge 1"
check "units are enabled" test -L "$work/off/root/etc/systemd/system/multi-user.target.wants/calico-node.service" -a \
  -L "$work/off/root/etc/systemd/system/sysinit.target.wants/calico-node-guard.service"
check "it is whole" sh -c "chroot $work/off/root rpm -V --nodeps calico-node calico-node-felix"
for f in /usr/lib/systemd/system/calico-node.service /etc/calico-node/calico-node.conf /usr/lib/sysctl.d/60-calico-node.conf \
  /usr/share/man/man8/calico-node.8.gz; do
  check "as the DEB's: $f" sh -c "for d in $debs/calico-node*.deb; do dpkg-deb --fsys-tarfile \$d; done |
    tar -xOif - .${f} 2>/dev/null >$work/x; test -s $work/x || { for d in $debs/calico-node*.deb; do dpkg-deb --fsys-tarfile \$d; done |
    tar -xOif - .${f#/usr} 2>/dev/null >$work/x; }; cmp $work/x $work/off/root$f"
done

boot ctl && boot cmp || exit 3
rpms_into ctl
rpms_into cmp
disk_of cmp >"$work/disk.before"
foreign cmp
kernel_of cmp >"$work/kernel.before"
forwarding=$(on cmp cat /proc/sys/net/ipv4/ip_forward)

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
# shellcheck disable=SC2046
check "it installs" rpm_in ctl -i --nodeps $(paths calico-node calico-node-controller)
check "it is active" wait_for "the controller's service" is_active ctl
echo "   $(ms_since "$from") ms from rpm -i to a ready controller"
check "it was started once" test "$(on ctl journalctl -u calico-node -o cat | grep -c '^Started ')" = 1

say "a compute"
# shellcheck disable=SC2046
check "it installs without a configuration" rpm_in cmp -i --nodeps $(paths calico-node calico-node-felix calico-node-compute)
check "and says what is missing" says cmp "not started: the configuration is not complete"
check "forwarding is on (was $forwarding)" test "$(on cmp cat /proc/sys/net/ipv4/ip_forward)" = 1
check "it joins" join cmp
printf '[bgp]\nsource_address = 192.168.80.11\n' | configure cmp
on cmp systemctl restart calico-node
check "it is active" wait_for "the compute's service" is_active cmp
synced() { on cmp calico-node store status >/dev/null; }
check "it is in sync" wait_for "in sync" synced
ruled() { on cmp nft list table inet calico >/dev/null; }
check "its rules are there" wait_for "rules" ruled

make_network
vm 1 cmp
check "vm-1 is ACTIVE" wait_for "port of vm-1" port_is "$port_1" ACTIVE

say "an upgrade in place"
starts=$(on cmp journalctl -u calico-node -o cat | grep -c '^Started ')
pid=$(main_pid cmp)
on cmp sh -c 'echo "; mine" >>/etc/calico-node/calico-node.conf'
# shellcheck disable=SC2046
check "it upgrades" rpm_in cmp -U --force --nodeps $(paths calico-node calico-node-felix calico-node-compute)
check "it is active" wait_for "the compute's service" is_active cmp
check "as another process" test "$(main_pid cmp)" != "$pid"
check "restarted once, for three packages" test "$(on cmp journalctl -u calico-node -o cat | grep -c '^Started ')" = $((starts + 1))
check "the edited configuration stays" on cmp grep -q '^; mine' /etc/calico-node/calico-node.conf
check "units stay enabled" test "$(on cmp systemctl is-enabled calico-node)" = enabled

say "a role less"
check "compute is erased" rpm_in cmp -e --nodeps calico-node-compute
check "the process goes on with felix" wait_for "the service" is_active cmp
roles() { on cmp journalctl -u calico-node -o cat -n 60 | grep -q "$1"; }
check "and with felix only" test "$(on cmp ls /usr/lib/calico-node/roles.d)" = felix

say "erased"
check "it is erased" rpm_in cmp -e --nodeps calico-node-felix calico-node
check "that says what stays" says cmp "stay in the kernel"
check "the service is gone" test "$(on cmp systemctl is-active calico-node)" != active
check "rules stay" ruled
check "state stays" on cmp test -e /var/lib/calico-node/state.db

say "cleaned as rpm/README.md says"
ours cmp "$tap_1"
sed -n '/^```sh clean/,/^```$/p' rpm/README.md | grep -v '^```' >"$work/clean"
check "there is something to run" test -s "$work/clean"
on cmp sh -e <"$work/clean"
kernel_of cmp >"$work/kernel.after"
disk_of cmp >"$work/disk.after"
check "the kernel is as before" diff "$work/kernel.before" "$work/kernel.after"
check "the disk is as before" diff "$work/disk.before" "$work/disk.after"
# shellcheck disable=SC2046
check "it installs again" rpm_in cmp -i --nodeps $(paths calico-node calico-node-felix calico-node-compute)

finish
