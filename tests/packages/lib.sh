# Sourced by the tests of packages: machines that are containers with systemd, each with a network namespace of its own on
# one switch, made from one bootstrapped Debian. Nothing but the distribution's mirror is needed, and everything made here
# is taken down by name or pid when the script ends, however it ends.
#
#   set -u
#   cd "$(dirname "$0")/../.." || exit 3
#   . tests/packages/lib.sh
#   machine ctl 192.168.80.1; boot ctl
#   on ctl dpkg -i …
#   check "what" condition…      prints and counts; finish says how it went
#
# Needs root, the packages (deb/build.sh) and what tests/setup.sh installs for packages.

begun=$(date +%s)
rootfs=${CALICO_PACKAGES_ROOTFS:-$PWD/build/packages/rootfs}
debs=${CALICO_PACKAGES:-$PWD/build/deb}
tag=cp$$
work=$(mktemp -d /var/tmp/calico-packages.XXXXXX)
machines=""
passed=0 failed=0

say() { printf '== %s %s\n' "$(date +%T)" "$*"; }

# What packages of ours depend on is in it already, and what is tried beside them: the machines have no network but each other.
inside=systemd,systemd-sysv,dbus,iproute2,nftables,iputils-ping,procps,dnsmasq-base,libboost-json1.81.0,libnl-3-200,\
libnl-route-3-200,libsqlite3-0,libspdlog1.10,libfmt9,libyaml-cpp0.7,libssl3,ca-certificates,netcat-openbsd,bird2,rpm
bootstrap() {
  [ "$(cat "$rootfs/.whole" 2>/dev/null)" = "$inside" ] && return 0
  say "bootstrapping Debian into $rootfs"
  rm -rf "$rootfs"
  mkdir -p "$(dirname "$rootfs")"
  debootstrap --variant=minbase --include="$inside" bookworm "$rootfs" >"$work/debootstrap.log" 2>&1 || {
    tail -5 "$work/debootstrap.log" >&2
    return 3
  }
  # Only where a test starts it: a first boot enables all that no preset denies.
  mkdir -p "$rootfs/etc/systemd/system-preset" || return 3
  echo 'disable bird.service' >"$rootfs/etc/systemd/system-preset/10-tests.preset"
  echo "$inside" >"$rootfs/.whole"
}

# The switch all machines are on.
fabric() {
  ip netns add "$tag-fabric"
  ip -n "$tag-fabric" link add br0 type bridge
  ip -n "$tag-fabric" link set br0 up
}

# machine NAME ADDRESS: its disk, over the bootstrapped one, and its cable.
machine() {
  machines="$machines $1"
  mkdir -p "$work/$1/upper" "$work/$1/work" "$work/$1/root"
  mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$work/$1/upper,workdir=$work/$1/work" "$work/$1/root" || return 3
  echo "$1" >"$work/$1/root/etc/hostname"
  rm -f "$work/$1/root/etc/machine-id"
  mkdir -p "$work/$1/root/root/debs"
  mount --bind "$debs" "$work/$1/root/root/debs" || return 3
  ip netns add "$tag-$1"
  ip -n "$tag-$1" link set lo up
  ip link add name "e$$-$1" netns "$tag-$1" type veth peer name "p-$1" netns "$tag-fabric" || return 3
  ip -n "$tag-$1" link set "e$$-$1" name eth0
  ip -n "$tag-$1" addr add "$2/24" dev eth0
  ip -n "$tag-$1" link set eth0 up
  ip -n "$tag-fabric" link set "p-$1" master br0 up
}

# boot NAME: systemd runs in it when this returns.
boot() {
  SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --quiet --register=no --keep-unit --boot --machine="$tag-$1" \
    --hostname="$1" --network-namespace-path="/run/netns/$tag-$1" --capability=CAP_NET_ADMIN,CAP_NET_RAW \
    --directory="$work/$1/root" >"$work/$1/console" 2>&1 </dev/null &
  echo $! >"$work/$1/pid"
  wait_for "$1 to boot" booted "$1"
}
booted() {
  leader=$(pgrep -P "$(cat "$work/$1/pid")" | head -1)
  [ -n "$leader" ] || return 1
  echo "$leader" >"$work/$1/leader"
  case $(on "$1" systemctl is-system-running 2>/dev/null) in running | degraded) return 0 ;; esac
  return 1
}
# halt NAME: as a power cut. When it returns no process of it holds anything of the kernel's.
halt() {
  for f in leader pid; do
    [ -e "$work/$1/$f" ] || continue
    p=$(cat "$work/$1/$f")
    kill -9 "$p" 2>/dev/null
    until gone_or_zombie "$p"; do sleep 0.05; done
    rm -f "$work/$1/$f"
  done
}
# A container's first process ends when all others of it have.
gone_or_zombie() { ! grep -q '^State:[[:space:]]*[^Z]' "/proc/$1/status" 2>/dev/null; }

# on NAME COMMAND…: as root in the machine.
on() {
  on_name=$1
  shift
  nsenter -t "$(cat "$work/$on_name/leader")" -m -u -i -n -p -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive TERM=dumb "$@"
}

# wait_for "what" COMMAND…: 30 s at most; prints the time it took.
wait_for() {
  what=$1
  shift
  begin=$(date +%s%N)
  end=$((begin + 30000000000))
  until "$@" 2>/dev/null; do
    if [ "$(date +%s%N)" -ge "$end" ]; then
      echo "   did not arrive within 30 s: $what"
      return 1
    fi
    sleep 0.1
  done
  echo "   $(((($(date +%s%N) - begin)) / 1000000)) ms: $what"
}

check() {
  check_what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    echo "   ok: $check_what"
  else
    failed=$((failed + 1))
    echo "   FAILED: $check_what ($*)"
    return 1
  fi
}

fails() { ! "$@"; }

# install NAME PACKAGE…: dpkg's output is in $work/NAME/dpkg.log.
install() {
  host=$1
  shift
  files=""
  for p in "$@"; do files="$files $(cd "$debs" && ls "$p"_[0-9]*.deb | sed 's|^|/root/debs/|')"; done
  # shellcheck disable=SC2086
  on "$host" dpkg -i $files >"$work/$host/dpkg.log" 2>&1
}
is_active() { [ "$(on "$1" systemctl is-active calico-node)" = active ]; }
# ms_since NANOSECONDS: of `date +%s%N`.
ms_since() { echo $((($(date +%s%N) - $1) / 1000000)); }
# repack DIR SUFFIX: the packages again, as a version with that suffix.
repack() {
  mkdir -p "$1"
  for d in "$debs"/*.deb; do
    case $d in *dbgsym*) continue ;; esac
    rm -rf "$work/tree"
    dpkg-deb -R "$d" "$work/tree"
    sed -i "s/^\\(Version: .*\\)/\\1$2/; s/(= \\([^)]*\\))/(= \\1$2)/g" "$work/tree/DEBIAN/control"
    dpkg-deb -Zgzip -z1 --root-owner-group -b "$work/tree" "$1/$(basename "$d")" >/dev/null || return 3
  done
  rm -rf "$work/tree"
}
# install_from DIR NAME PACKAGE…: as install, of other packages than those that were built.
install_from() {
  from=$1
  host=$2
  shift 2
  rm -rf "$work/$host/root/root/other"
  mkdir -p "$work/$host/root/root/other"
  files=""
  for p in "$@"; do
    cp "$from/$p"_[0-9]*.deb "$work/$host/root/root/other/" || return 3
    files="$files $(cd "$from" && ls "$p"_[0-9]*.deb | sed 's|^|/root/other/|')"
  done
  # shellcheck disable=SC2086
  on "$host" dpkg -i $files >"$work/$host/dpkg.log" 2>&1
  rc=$?
  rm -rf "$work/$host/root/root/other"
  return $rc
}
says() { grep -q -- "$2" "$work/$1/dpkg.log"; }
main_pid() { on "$1" systemctl show -P MainPID calico-node; }
# configure NAME < INI
configure() { on "$1" sh -c 'mkdir -p /etc/calico-node/conf.d && cat >/etc/calico-node/conf.d/site.conf'; }
# join NAME: with a token of the machine ctl.
join() {
  on ctl calico-node join token 2>/dev/null | on "$1" calico-node join https://192.168.80.1:2379 --token - >"$work/$1/join.log" 2>&1
}

take_down() {
  for m in $machines; do halt "$m"; done
  for m in $machines; do
    umount -l "$work/$m/root/root/debs" 2>/dev/null
    umount -l "$work/$m/root" 2>/dev/null
    ip netns del "$tag-$m" 2>/dev/null
  done
  ip netns del "$tag-fabric" 2>/dev/null
  # The packages are mounted below: whatever is still, stays whole.
  rm -rf --one-file-system "$work"
}
trap take_down EXIT
trap 'exit 130' INT TERM HUP

finish() {
  say "$passed passed, $failed failed, $(($(date +%s) - begun)) s"
  [ "$failed" = 0 ]
}

ls "$debs"/calico-node_*.deb >/dev/null 2>&1 || {
  echo "$0: no packages in $debs: deb/build.sh first" >&2
  exit 3
}
bootstrap || exit 3
