#!/bin/sh
# README's "Install it", word for word: its blocks are run in a controller and a compute as they stand there, with the token
# for T.
set -u
cd "$(dirname "$0")/../.." || exit 3
. tests/packages/lib.sh
. tests/packages/cloud.sh

# block NAME: the lines between ```sh NAME and ```.
block() { sed -n "/^\`\`\`sh $1\$/,/^\`\`\`\$/p" README.md | grep -v '^```'; }
# follow NAME BLOCK: a line that fails ends it.
follow() {
  block "$2" | sed "s|--token T|--token ${token:-T}|" >"$work/$1/root/root/block"
  test -s "$work/$1/root/root/block" && on "$1" sh -ec 'cd /root/debs && . /root/block' >"$work/$1/log" 2>&1 || {
    sed 's/^/      /' "$work/$1/log"
    return 1
  }
}

fabric
machine ctl 192.168.80.1 && machine cmp 192.168.80.11 || exit 3
boot ctl && boot cmp || exit 3

say "the controller"
check "the controller's lines" follow ctl controller
token=$(grep -Ex "[[:graph:]]{20,}" "$work/ctl/log")
check "a token came out" test ${#token} -gt 20
check "active" wait_for "the controller's service" is_active ctl
say "a compute"
check "the compute's lines" follow cmp compute
check "active" wait_for "the compute's service" is_active cmp
known() { on ctl calico-node node list | grep -q '^cmp '; }
check "the controller knows it" wait_for "the Node" known
say "the rest"
pid=$(main_pid cmp)
check "configure" follow cmp configure
check "a reload is no restart" test "$(main_pid cmp)" = "$pid"
# What is made after the backup is gone after the restore; what was there before stays.
create() { api POST networks "{\"network\":{\"name\":\"$1\"}}"; }
has_network() { api GET networks | grep -q "\"$1\""; }
create before >/dev/null
check "a network is there" wait_for "network" has_network before
block backup >"$work/backup"
on ctl sh -ec "$(sed 1q "$work/backup")"
create after >/dev/null
check "another one after the backup" wait_for "network" has_network after
on ctl sh -ec "$(sed 1d "$work/backup")" >"$work/log" 2>&1 || sed 's/^/      /' "$work/log"
check "active" wait_for "the controller's service" is_active ctl
check "what was saved is there" wait_for "network" has_network before
check "what came after is not" fails has_network after
synced() { on cmp calico-node store status >/dev/null; }
check "the compute follows" wait_for "in sync" synced
check "the lines of removing" follow cmp remove
check "nothing of ours is left in the kernel" test -z "$(on cmp sh -c 'nft list tables | grep calico; ip route show table all proto 88; ip route show table all proto 89')"

finish
