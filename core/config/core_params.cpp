// The configuration rows of core. A key that only one module reads is declared in that module's folder instead.
#include "core/config/config.hpp"

namespace calico::config {
namespace {

constexpr Param kCore[] = {
    {.name = "node.name",
     .help = "This host in Nodes, endpoints and status keys; must be equal to nova's host. Default: the kernel's host "
             "name.",
     .felix_name = "FelixHostname"},
    {.name = "node.state_dir", .type = Type::path, .def = "/var/lib/calico-node", .help = "state.db and lock."},
    {.name = "node.run_dir", .type = Type::path, .def = "/run/calico-node", .help = "Sockets: control.ctl, bird.ctl."},
    {.name = "node.felix_cfg",
     .type = Type::path,
     .def = "/etc/calico/felix.cfg",
     .help = "A felix.cfg with upstream's names, read below our own files; empty = none."},

    {.name = "openstack.region",
     .help = "Region of keys and namespaces; driver, DHCP agent and felix must carry the same.",
     .felix_name = "OpenstackRegion"},

    {.name = "datastore.endpoints",
     .type = Type::list,
     .help = "https://ADDRESS:PORT of the controller's datastore or of an etcd cluster, several by commas; empty on a "
             "controller = embedded.",
     .felix_name = "EtcdEndpoints"},
    {.name = "datastore.listen",
     .type = Type::ip_port_list,
     .def = "127.0.0.1:2379",
     .help = "Controller: where the embedded datastore is served; beyond loopback with TLS: the files below, else a CA "
             "and a certificate of its own in state_dir/pki."},
    {.name = "datastore.admins",
     .type = Type::list,
     .help =
         "Controller: names in certificates that may read and write everything, such as the host of OpenStack's own "
         "Neutron driver. Any other certificate is a node's and writes its own keys only."},
    {.name = "datastore.client_watches",
     .type = Type::integer,
     .range = "1:1000000",
     .def = "2048",
     .help = "Controller: watches one client may have open at a time. A client is a certificate's name, without one an "
             "address."},
    {.name = "datastore.client_requests",
     .type = Type::integer,
     .range = "1:1000000",
     .def = "2048",
     .help = "The same for requests in work."},
    {.name = "datastore.client_leases",
     .type = Type::integer,
     .range = "1:10000000",
     .def = "4096",
     .help = "The same for leases."},
    {.name = "datastore.client_memory",
     .type = Type::size,
     .range = "1MiB:64GiB",
     .def = "256MiB",
     .help = "The same for its requests and what it has not read of its answers. One answer may be larger."},
    {.name = "datastore.ca_file",
     .type = Type::path,
     .help = "CA of the datastore's certificates.",
     .felix_name = "EtcdCaFile"},
    {.name = "datastore.cert_file",
     .type = Type::path,
     .help = "This node's certificate.",
     .felix_name = "EtcdCertFile"},
    {.name = "datastore.key_file", .type = Type::secret_file, .help = "Its key.", .felix_name = "EtcdKeyFile"},
    {.name = "datastore.ca_key_file",
     .type = Type::secret_file,
     .help = "Controller: the key of ca_file, so that nodes can join with a token."},
    {.name = "datastore.server_names",
     .type = Type::list,
     .help = "Controller: further names and addresses nodes reach it by, for the certificate it issues itself."},
    {.name = "datastore.certificate_life",
     .type = Type::duration,
     .range = "1h:3650d",
     .def = "90d",
     .help = "Controller: how long the certificates it issues are valid; a running node renews at two thirds."},
    {.name = "datastore.username",
     .help =
         "Our user at an etcd with authentication, which knows nobody by a certificate; the embedded datastore does."},
    {.name = "datastore.password_file", .type = Type::secret_file, .help = "Its password, first line of the file."},
    {.name = "datastore.insecure",
     .type = Type::boolean,
     .def = "no",
     .help = "Serve the datastore beyond loopback without TLS. Everybody who reaches it owns the cloud."},
    {.name = "datastore.audit",
     .range = "no|intent|all",
     .def = "intent",
     .help =
         "A log line for each write of the embedded datastore: who, revision, keys; intent: all but agents' reports."},

    {.name = "bgp.router_id",
     .type = Type::ip,
     .reload = Reload::restart,
     .help = "BGP identifier; default: source_address."},
    {.name = "bgp.local_as", .type = Type::integer, .range = "1:4294967294", .def = "64512", .help = "Our AS number."},
    {.name = "bgp.source_address",
     .type = Type::ip,
     .help = "Our end of the sessions; default: the address of the route to the peers."},
    {.name = "bgp.source_address6", .type = Type::ip, .help = "The same for IPv6 sessions and IPv6 next hops."},
    {.name = "bgp.listen",
     .type = Type::ip_port_list,
     .help = "Where sessions are accepted; default: source_address, port 179."},
    {.name = "bgp.cluster_id", .type = Type::ip, .help = "Route reflector: CLUSTER_ID (RFC 4456); default: router_id."},
    {.name = "bgp.hold_time",
     .type = Type::duration,
     .range = "0s|3s:65535s",
     .def = "90s",
     .reload = Reload::session,
     .help = "Hold time offered in OPEN; 0s turns keepalives off (RFC 4271 4.2)."},
    {.name = "bgp.graceful_restart", .type = Type::boolean, .def = "yes", .help = "RFC 4724, both parts."},
    {.name = "bgp.graceful_restart_time",
     .type = Type::duration,
     .range = "1s:4095s",
     .def = "120s",
     .help = "How long peers keep our routes while we restart."},
    {.name = "bgp.long_lived_stale_time",
     .type = Type::duration,
     .range = "0s:16777215s",
     .def = "0s",
     .help =
         "RFC 9494: how long after that routes live on as the last choice, ours at peers and theirs here; 0s = off."},
    {.name = "bgp.send_hold_time",
     .type = Type::duration,
     .range = "0s|10s:24h",
     .def = "0s",
     .help =
         "RFC 9687: a peer that takes nothing for so long is left; 0s = 8 minutes, or twice the hold time if more."},
    {.name = "bgp.keep_when_isolated",
     .type = Type::duration,
     .range = "0s:365d",
     .def = "24h",
     .help = "How long a compute keeps what it learned when every reflector is gone; 0s = drop at the restart time."},
    {.name = "bgp.kernel_import",
     .type = Type::list,
     .def = "tap*,cali*",
     .help = "Interfaces whose routes are announced."},
    {.name = "bgp.kernel_import_protocols",
     .type = Type::list,
     .range = "1:255",
     .help = "Route protocols announced; default: the one felix uses (88). Add 3 beside an upstream Felix."},
    {.name = "bgp.kernel_export",
     .type = Type::boolean,
     .def = "yes",
     .help = "Install received routes in the kernel (protocol 89); a pure reflector: no."},
    {.name = "bgp.max_paths",
     .type = Type::integer,
     .range = "1:64",
     .def = "16",
     .help = "Next hops of equal cost a learned route has in the kernel (ECMP); 1 = the best only."},
    {.name = "bgp.bird_sockets",
     .type = Type::boolean,
     .def = "yes",
     .help = "Serve bird.ctl and bird6.ctl in BIRD 1.6's layout in bird_dir, for tools made for Calico's BIRD."},
    {.name = "bgp.bird_dir",
     .type = Type::path,
     .help = "Folder of those sockets; default: run_dir without its \"-node\" (/run/calico), else run_dir/calico."},
    {.name = "bgp.drain_time",
     .type = Type::duration,
     .range = "0s:1h",
     .def = "10s",
     .help = "After `birdc graceful shutdown`: how long neighbours have before a stop is due (RFC 8326)."},
    {.name = "bgp.peers_from_datastore",
     .type = Type::boolean,
     .def = "yes",
     .help = "Sessions follow the Node resources: a compute peers with every reflector, a reflector with every Node."},

    {.name = "bgp.secrets_dir",
     .type = Type::path,
     .reload = Reload::live,
     .help =
         "Passwords of BGPPeer resources: the secret NAME's KEY is the first line of the file NAME/KEY here; unset: "
         "a BGPPeer with a password is refused."},

    {.name = "bgp.peer.*.address",
     .type = Type::ip,
     .reload = Reload::live,
     .help = "The neighbour.",
     .required = true},
    {.name = "bgp.peer.*.port",
     .type = Type::integer,
     .range = "1:65535",
     .def = "179",
     .reload = Reload::live,
     .help = "Its port."},
    {.name = "bgp.peer.*.remote_as",
     .type = Type::integer,
     .range = "1:4294967294",
     .reload = Reload::live,
     .help = "Its AS; ours = iBGP.",
     .required = true},
    {.name = "bgp.peer.*.password_file",
     .type = Type::secret_file,
     .reload = Reload::live,
     .help = "TCP MD5 key (RFC 2385), first line."},
    {.name = "bgp.peer.*.multihop",
     .type = Type::integer,
     .range = "0:255",
     .def = "0",
     .reload = Reload::live,
     .help = "eBGP over at most this many hops; 0 = directly connected."},
    {.name = "bgp.peer.*.ttl_security",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "GTSM (RFC 5082)."},
    {.name = "bgp.peer.*.passive",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "Never connect, only accept."},
    {.name = "bgp.peer.*.route_reflector_client",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "iBGP: reflect to and from it (RFC 4456)."},
    {.name = "bgp.peer.*.next_hop",
     .range = "keep|self",
     .def = "keep",
     .reload = Reload::live,
     .help = "NEXT_HOP of what we send."},
    {.name = "bgp.peer.*.import",
     .range = "none|all",
     .reload = Reload::live,
     .help = "What we take; default: iBGP all, eBGP none (RFC 8212)."},
    {.name = "bgp.peer.*.export",
     .range = "none|all",
     .reload = Reload::live,
     .help = "What we send; default: iBGP all, eBGP none (RFC 8212)."},
    {.name = "bgp.peer.*.max_prefix",
     .type = Type::integer,
     .range = "0:100000000",
     .def = "0",
     .reload = Reload::live,
     .help = "Cease when it sends more prefixes; 0 = no limit."},
    {.name = "bgp.peer.*.import_filter",
     .type = Type::list,
     .reload = Reload::live,
     .help = "Names of [bgp.filter.*], in order: which routes are taken, and what is changed in them. Stands for "
             "import = all."},
    {.name = "bgp.peer.*.export_filter",
     .type = Type::list,
     .reload = Reload::live,
     .help = "The same for what is sent; stands for export = all."},
    {.name = "bgp.peer.*.add_path",
     .range = "none|receive|send|both",
     .def = "none",
     .reload = Reload::live,
     .help = "Several paths of a prefix (RFC 7911): what is offered, for all families."},
    {.name = "bgp.peer.*.extended_messages",
     .type = Type::boolean,
     .def = "yes",
     .reload = Reload::live,
     .help = "Messages of up to 65,535 bytes (RFC 8654): offered."},
    {.name = "bgp.peer.*.extended_next_hop",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "IPv4 routes with IPv6 next hops (RFC 8950): offered."},
    {.name = "bgp.peer.*.allow_own_as",
     .type = Type::integer,
     .range = "0:10",
     .def = "0",
     .reload = Reload::live,
     .help = "How often our AS may stand in a received path."},
    {.name = "bgp.peer.*.keepalive_time",
     .type = Type::duration,
     .range = "1s:21845s",
     .reload = Reload::live,
     .help = "Between KEEPALIVEs; default, and at most: a third of the hold time agreed on."},
    {.name = "bgp.peer.*.restart_time",
     .type = Type::duration,
     .range = "1s:4095s",
     .reload = Reload::live,
     .help = "How long this neighbour is asked to keep our routes; default: [bgp] graceful_restart_time."},

    {.name = "bgp.range.*.prefix",
     .type = Type::prefix,
     .reload = Reload::live,
     .help = "Neighbours accepted.",
     .required = true},
    {.name = "bgp.range.*.remote_as",
     .type = Type::integer,
     .range = "1:4294967294",
     .reload = Reload::live,
     .help = "Their AS.",
     .required = true},
    {.name = "bgp.range.*.password_file",
     .type = Type::secret_file,
     .reload = Reload::live,
     .help = "TCP MD5 key, first line."},
    {.name = "bgp.range.*.ttl_security",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "GTSM (RFC 5082)."},
    {.name = "bgp.range.*.insecure",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "Accept the range without password_file or ttl_security."},
    {.name = "bgp.range.*.route_reflector_client",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "Reflect to and from them."},
    {.name = "bgp.range.*.import_filter",
     .type = Type::list,
     .reload = Reload::live,
     .help = "Names of [bgp.filter.*], in order: which routes are taken, and what is changed in them. Stands for "
             "import = all."},
    {.name = "bgp.range.*.export_filter",
     .type = Type::list,
     .reload = Reload::live,
     .help = "The same for what is sent; stands for export = all."},
    {.name = "bgp.range.*.add_path",
     .range = "none|receive|send|both",
     .def = "none",
     .reload = Reload::live,
     .help = "Several paths of a prefix (RFC 7911): what is offered, for all families."},
    {.name = "bgp.range.*.extended_messages",
     .type = Type::boolean,
     .def = "yes",
     .reload = Reload::live,
     .help = "Messages of up to 65,535 bytes (RFC 8654): offered."},
    {.name = "bgp.range.*.extended_next_hop",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "IPv4 routes with IPv6 next hops (RFC 8950): offered."},
    {.name = "bgp.range.*.allow_own_as",
     .type = Type::integer,
     .range = "0:10",
     .def = "0",
     .reload = Reload::live,
     .help = "How often our AS may stand in a received path."},
    {.name = "bgp.range.*.keepalive_time",
     .type = Type::duration,
     .range = "1s:21845s",
     .reload = Reload::live,
     .help = "Between KEEPALIVEs; default, and at most: a third of the hold time agreed on."},
    {.name = "bgp.range.*.restart_time",
     .type = Type::duration,
     .range = "1s:4095s",
     .reload = Reload::live,
     .help = "How long this neighbour is asked to keep our routes; default: [bgp] graceful_restart_time."},

    {.name = "bgp.filter.*.rule.*",
     .reload = Reload::live,
     .help = "One rule, tried in order of the numbers: accept|reject|next, conditions, set changes. The grammar is in "
             "core/bgp/policy/README.md."},
    {.name = "bgp.filter.*.default",
     .range = "accept|reject",
     .reload = Reload::live,
     .help = "What happens to a route that no rule accepts or rejects; default: the next filter of the list decides, "
             "after the last one: reject."},

    {.name = "metrics.listen",
     .type = Type::ip_port,
     .def = "127.0.0.1:9091",
     .reload = Reload::session,
     .help = "Where /metrics (Prometheus), /healthz/live and /healthz/ready are served; empty = nowhere."},
    {.name = "metrics.insecure",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "Metrics and health may be served on other addresses than loopback: to anybody, in the clear."},
};

}  // namespace

Params core_params() { return kCore; }

void check_core(const Config& c, Faults& faults) {
  const auto fault = [&](std::string_view name, std::string what) {
    faults.push_back({c.where(name), std::string(name), std::move(what)});
  };
  const auto& name = c.text("node.name");
  if (name.empty()) fault("node.name", "is empty and the kernel has no host name; set it");
  if (name.size() > 253 || name.find_first_of("/% \t") != std::string::npos)
    fault("node.name", "must be a host name: no '/', '%' or white space, at most 253 characters");

  const bool embedded = !c.is_set("datastore.endpoints");
  const bool ca_key = c.is_set("datastore.ca_key_file");
  const bool tls_any =
      c.is_set("datastore.ca_file") || c.is_set("datastore.cert_file") || c.is_set("datastore.key_file");
  const bool tls_all =
      c.is_set("datastore.ca_file") && c.is_set("datastore.cert_file") && c.is_set("datastore.key_file");
  if (ca_key) {
    if (!embedded) fault("datastore.ca_key_file", "is for a controller with the embedded datastore; remove it here");
    if (!c.is_set("datastore.ca_file")) fault("datastore.ca_file", "missing; ca_key_file is its key");
    for (const auto& [one, other] : {std::pair{"datastore.cert_file", "datastore.key_file"},
                                     std::pair{"datastore.key_file", "datastore.cert_file"}})
      if (!c.is_set(one) && c.is_set(other)) fault(one, fmt::format("missing; it belongs to {}", other));
  } else if (tls_any && !tls_all) {
    for (const char* key : {"datastore.ca_file", "datastore.cert_file", "datastore.key_file"})
      if (!c.is_set(key)) fault(key, "missing; mutual TLS needs ca_file, cert_file and key_file");
  }
  for (const auto& url : c.list("datastore.endpoints")) {
    const bool https = url.starts_with("https://");
    if (!https && !url.starts_with("http://"))
      fault("datastore.endpoints", fmt::format("'{}' is not http://ADDRESS:PORT or https://ADDRESS:PORT", url));
  }

  for (const auto& n : c.sections("bgp.range")) {
    const auto key = "bgp.range." + n + ".";
    if (!c.is_set(key + "password_file") && !c.boolean(key + "ttl_security") && !c.boolean(key + "insecure"))
      fault(
          key + "prefix",
          "needs password_file, ttl_security = yes or insecure = yes: anybody in the prefix could become a neighbour");
    if (c.boolean("bgp.peers_from_datastore"))
      fault(key + "prefix", "cannot be used together with [bgp] peers_from_datastore = yes; set that to no");
  }
  for (const auto& n : c.sections("bgp.peer")) {
    const auto key = "bgp.peer." + n + ".";
    if (c.is_set(key + "remote_as") && c.integer(key + "remote_as") != c.integer("bgp.local_as") &&
        c.boolean(key + "route_reflector_client"))
      fault(key + "route_reflector_client", "is for iBGP neighbours (remote_as equal to [bgp] local_as) only");
    if (c.boolean(key + "ttl_security") && c.integer(key + "multihop") > 1 && c.integer(key + "multihop") > 254)
      fault(key + "multihop", "ttl_security accepts 0 to 254 hops");
  }
  if (const auto at = c.ip_port("metrics.listen"); at && !at->ip.is_loopback() && !c.boolean("metrics.insecure"))
    fault("metrics.listen", "is not loopback; that needs insecure = yes: anybody who reaches it may read");
}

}  // namespace calico::config
