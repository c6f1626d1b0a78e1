# Sourced after lib.sh by tests in which there are VMs: Neutron's API on the machine $controller, and namespaces that are
# VMs, on taps as nova makes them.

controller=ctl

# api METHOD PATH [BODY]: Neutron's, on the controller.
api() {
  ip netns exec "$tag-$controller" curl -sS -m 20 -X "$1" "http://127.0.0.1:9696/v2.0/$2" \
    ${3:+-H 'Content-Type: application/json' -d "$3"}
}
# field NAME < JSON: the first value of that name.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" | head -1; }
first_id() { grep -o '"id":"[^"]*"' | head -1 | cut -d'"' -f4; }

# make_network: $network with a subnet, $group without a rule for what comes in.
make_network() {
  network=$(api POST networks '{"network":{"name":"demo","shared":true}}' | first_id)
  api POST subnets "{\"subnet\":{\"network_id\":\"$network\",\"ip_version\":4,\"cidr\":\"10.65.0.0/16\"}}" >/dev/null
  # Not the ids of the rules it begins with.
  group=$(api POST security-groups '{"security_group":{"name":"demo"}}' | sed 's/"security_group_rules":\[[^]]*\]//' | first_id)
}
# allow_icmp, refuse_icmp: $rule.
allow_icmp() {
  rule=$(api POST security-group-rules "{\"security_group_rule\":{\"security_group_id\":\"$group\",\"direction\":\"ingress\",\"ethertype\":\"IPv4\",\"protocol\":\"icmp\"}}" | first_id)
}
refuse_icmp() { api DELETE "security-group-rules/$rule"; }

# vm N HOST: machine vmN on that host, bound over the API, with the tap nova would make; its address is $address_N, its port
# $port_N, its tap $tap_N.
vm() {
  body=$(api POST ports "{\"port\":{\"name\":\"vm-$1\",\"network_id\":\"$network\",\"binding:host_id\":\"$2\",\"device_id\":\"vm-$1\",\"device_owner\":\"compute:nova\",\"security_groups\":[\"$group\"]}}")
  id=$(echo "$body" | sed 's/.*"port":{//' | first_id)
  address=$(echo "$body" | field ip_address)
  # Not the tap's own, which stands in the binding's details.
  mac=$(echo "$body" | grep -o '"mac_address":"fa:[^"]*"' | head -1 | cut -d'"' -f4)
  eval "address_$1=$address port_$1=$id mac_$1=$mac tap_$1=tap$(echo "$id" | cut -c1-11)"
  machines="$machines vm$1"
  mkdir -p "$work/vm$1/root/root/debs"
  ip netns add "$tag-vm$1"
  plug "$1" "$2"
  eval "ip -n \"$tag-$2\" link set \"\$tap_$1\" up"
}
# plug N HOST: the wire of vmN, the tap still down.
plug() {
  eval "address=\$address_$1 mac=\$mac_$1 tap=\$tap_$1"
  ip link add name "$tap" netns "$tag-$2" type veth peer name eth0 netns "$tag-vm$1"
  ip -n "$tag-vm$1" link set eth0 address "$mac" up
  ip -n "$tag-vm$1" addr add "$address/16" dev eth0
  ip -n "$tag-vm$1" route replace default via 10.65.0.1
  # As a tap of a routed machine: its neighbours are not on its wire.
  ip -n "$tag-vm$1" route replace 10.65.0.1 dev eth0
  ip -n "$tag-vm$1" route del 10.65.0.0/16 2>/dev/null
}
port_is() { [ "$(api GET "ports/$1" | field status)" = "$2" ]; }
reaches() { ip netns exec "$tag-vm$1" ping -c1 -W1 "$2" >/dev/null 2>&1; }

# What may be ours in a machine's kernel: tables, routes, next hops, and what interfaces have.
kernel_of() {
  # shellcheck disable=SC2016
  on "$1" sh -c 'nft list tables; for p in 88 89; do ip route show table all proto $p; ip -6 route show table all proto $p; done
    ip nexthop show proto 89; ip neigh show nud permanent; ip -6 neigh show proxy; tc qdisc show | grep tbf
    for l in /sys/class/net/*; do [ "$(cat $l/netdev_group)" = 0 ] || echo "$l: group $(cat $l/netdev_group)"; done'
}
# foreign HOST, ours HOST TAP: what is to stay, and a token bucket as felix makes for a port with QoS.
foreign() {
  on "$1" sh -ec 'ip link add other type veth peer name other2; ip link set other up; ip link set other2 up
    ip addr add 192.0.2.1/24 dev other; ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 nud permanent dev other
    tc qdisc add dev other root handle c00: tbf rate 1mbit burst 10k latency 50ms'
}
ours() { on "$1" tc qdisc add dev "$2" root handle c001: tbf rate 1mbit burst 10k latency 50ms; }
