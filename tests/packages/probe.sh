#!/bin/sh
# Run by roles_test.sh once free and once in the service's sandbox: says what it may ("yes …") and what not ("no …").
try() {
  what=$1
  shift
  if "$@" >/dev/null 2>&1; then echo "yes $what"; else echo "no $what"; fi
}
for d in /usr /etc /boot /root /var/lib /etc/calico-node/conf.d /var/lib/calico-node /run/calico-node; do
  try "write $d" sh -c "touch $d/.probe && rm $d/.probe"
done
try mount sh -c 'mount -t tmpfs probe /mnt && umount /mnt'
try namespace unshare -u true
# In a folder it may write.
try "setuid file" sh -c 'f=/var/lib/calico-node/.probe; touch $f && chmod u+s $f; rc=$?; rm -f $f; exit $rc'
try hostname sh -c 'hostname "$(hostname)"'
tap=$(ls /sys/class/net | grep -m1 ^tap)
try "sysctl of a tap" sh -c "v=\$(cat /proc/sys/net/ipv4/conf/$tap/proxy_arp) && echo \$v >/proc/sys/net/ipv4/conf/$tap/proxy_arp"
try route sh -c 'ip route add blackhole 192.0.2.99 && ip route del blackhole 192.0.2.99'
exit 0
