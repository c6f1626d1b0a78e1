# Sourced by run.sh and demo.sh: the packages of this project's build and tests on Debian 12, installed without starting
# any service, and the release build. Needs root and the distribution's package mirror, nothing else.

build_packages="g++ cmake ninja-build ccache pkg-config libboost1.81-dev libboost-json1.81-dev libboost-filesystem1.81-dev
  libboost-system1.81-dev libnl-3-dev libnl-route-3-dev libsqlite3-dev libspdlog-dev libfmt-dev libexpected-dev libssl-dev libyaml-cpp-dev
  libgtest-dev libgmock-dev"
# What the demonstration runs besides our own binary: DHCP server and client, ip.
demo_packages="iproute2 dnsmasq-base dhcpcd-base procps"
# Real peers and tools the tests compare with.
# clang and its run-time library: libFuzzer.
test_packages="clang libclang-rt-14-dev bird2 frr gobgpd etcd-server etcd-client python3-etcd3gw python3-grpcio nftables iputils-ping
  iputils-arping tcpdump openssl git curl"
# Building the DEB and RPM packages and trying them in containers.
package_packages="debhelper dpkg-dev lintian rpm rpmlint cpio debootstrap systemd-container"

say() { printf '== %s %s\n' "$(date +%T)" "$*"; }

need_root() {
  if [ "$(id -u)" != 0 ]; then
    echo "$0: must be root: it installs packages and makes network namespaces (sudo $0)" >&2
    exit 2
  fi
}

# Services of packages installed here must not start on this host: a policy-rc.d says no while we install, and what was
# there before comes back.
without_service_starts() {
  policy=/usr/sbin/policy-rc.d
  saved=""
  if [ -e "$policy" ]; then
    saved=$(mktemp) && cp -p "$policy" "$saved"
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
  rc=0
  "$@" || rc=$?
  if [ -n "$saved" ]; then
    mv "$saved" "$policy"
  else
    rm -f "$policy"
  fi
  return $rc
}

install_packages() {
  missing=""
  for p in "$@"; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
  done
  [ -z "$missing" ] && return 0
  say "installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update &&
    without_service_starts apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends $missing >/dev/null
}

# BIRD 1.6 (Debian's package `bird`) cannot be installed beside bird2: it is unpacked into build/peers/bird1, where the tests
# look for it.
unpack_bird1() {
  [ -x build/peers/bird1/usr/sbin/bird ] && return 0
  say "unpacking: bird (1.6)"
  mkdir -p build/peers/bird1 build/peers/deb &&
    (cd build/peers/deb && { apt-get -qq download bird || { apt-get -qq update && apt-get -qq download bird; }; } 2>/dev/null) &&
    dpkg -x build/peers/deb/bird_1.6*.deb build/peers/bird1 || {
    echo "$0: BIRD 1.6 cannot be had: apt-get download bird failed" >&2
    return 3
  }
}

# build PRESET [TARGET [SETTING…]]: configures (-DNAME=VALUE) and builds on all cores.
build() {
  preset=$1 target=${2:-}
  shift
  [ $# -gt 0 ] && shift
  say "building ($preset)"
  jobs=$(nproc)
  cmake --preset "$preset" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache "$@" >/dev/null &&
    cmake --build --preset "$preset" -j "$jobs" ${target:+--target "$target"} >build/"$preset"/build.log 2>&1 || {
    grep -E "error|FAILED|CMake Error" -A3 build/"$preset"/build.log 2>/dev/null | head -60 >&2
    echo "$0: the build failed; all of it is in build/$preset/build.log" >&2
    return 3
  }
}
