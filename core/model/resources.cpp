#include "core/model/resources.hpp"

#include <algorithm>

#include "core/model/keys.hpp"
#include "core/model/readers.hpp"

namespace calico::model {
namespace {

using detail::Object;
using detail::read_document;
using detail::read_value;
using detail::read_with;
namespace json = boost::json;

json::string_view jsv(std::string_view s) { return {s.data(), s.size()}; }

Labels read_labels(const Object& o) {
  Labels out;
  o.each_member([&](std::string_view key, const json::value& v) {
    if (!v.is_string()) return o.bad(o.at(key), "need a string");
    out.emplace(key, std::string_view(v.as_string().data(), v.as_string().size()));
  });
  return out;
}

Metadata read_metadata(const Object& root) {
  const auto m = root.object("metadata");
  return {m.text("name"),
          m.text("namespace"),
          m.text("uid"),
          m.text("creationTimestamp"),
          read_labels(m.object("labels")),
          read_labels(m.object("annotations"))};
}

json::object write_labels(const Labels& labels) {
  json::object o;
  for (const auto& [k, v] : labels) o[jsv(k)] = jsv(v);
  return o;
}

json::object write_metadata(const Metadata& m) {
  json::object o;
  o["name"] = m.name;
  if (!m.ns.empty()) o["namespace"] = m.ns;
  if (!m.creation_timestamp.empty()) o["creationTimestamp"] = m.creation_timestamp;
  if (!m.uid.empty()) o["uid"] = m.uid;
  if (!m.annotations.empty()) o["annotations"] = write_labels(m.annotations);
  if (!m.labels.empty()) o["labels"] = write_labels(m.labels);
  return o;
}

std::string write_resource(std::string_view kind, const Metadata& m, json::object spec) {
  json::object o;
  o["kind"] = jsv(kind);
  o["apiVersion"] = "projectcalico.org/v3";
  o["metadata"] = write_metadata(m);
  o["spec"] = std::move(spec);
  return json::serialize(o);
}

std::optional<Ip> read_ip(const Object& o, std::string_view key) { return read_with(o, key, Ip::parse); }

std::vector<Prefix> read_networks(const Object& o, std::string_view key) {
  std::vector<Prefix> out;
  o.each(key, [&](const json::value& v, const std::string& path) {
    if (!v.is_string()) return o.bad(path, "need a string");
    if (auto p = read_value(o, path, {v.as_string().data(), v.as_string().size()}, parse_network)) out.push_back(*p);
  });
  return out;
}

std::vector<NamedPort> read_named_ports(const Object& spec) {
  std::vector<NamedPort> out;
  spec.each_object("ports", [&](const Object& n) {
    NamedPort p;
    p.name = n.text("name");
    if (const auto number = n.integer("port", 1, 65535)) p.port = static_cast<std::uint16_t>(*number);
    if (const auto* v = n.find("protocol"))
      if (auto protocol = read_value(n, n.at("protocol"), v->is_string() ? n.text("protocol") : json::serialize(*v),
                                     parse_protocol))
        p.protocol = *protocol;
    if (p.name.empty() || p.port == 0) return n.bad(n.path(), "need name and port");
    out.push_back(std::move(p));
  });
  return out;
}

json::array write_named_ports(const std::vector<NamedPort>& ports) {
  json::array a;
  for (const auto& p : ports) a.push_back(json::object{{"name", p.name}, {"protocol", p.protocol}, {"port", p.port}});
  return a;
}

json::array write_networks(const std::vector<Prefix>& nets) {
  json::array a;
  for (const auto& p : nets) a.emplace_back(p.to_string());
  return a;
}

}  // namespace

Result<Prefix> parse_network(std::string_view text) {
  const auto first = text.find('/');
  const auto last = text.rfind('/');
  if (first != last && (text.substr(last) == "/32" || text.substr(last) == "/128")) text = text.substr(0, last);
  return Prefix::parse(text);
}

Result<WorkloadEndpoint> parse_workload_endpoint(std::string_view text) {
  return read_document<WorkloadEndpoint>(text, [](const Object& root, WorkloadEndpoint& w) {
    w.meta = read_metadata(root);
    const auto s = root.object("spec");
    w.orchestrator = s.text("orchestrator");
    w.workload = s.text("workload");
    w.node = s.text("node");
    w.endpoint = s.text("endpoint");
    w.interface_name = s.text("interfaceName");
    w.mac = read_with(s, "mac", Mac::parse);
    w.ipv4_gateway = read_ip(s, "ipv4Gateway");
    w.ipv6_gateway = read_ip(s, "ipv6Gateway");
    w.ip_networks = read_networks(s, "ipNetworks");
    w.allowed_ips = read_networks(s, "allowedIps");
    s.each_object("ipNATs", [&](const Object& n) {
      const auto in = read_ip(n, "internalIP");
      const auto ex = read_ip(n, "externalIP");
      if (!in || !ex) return n.bad(n.path(), "need internalIP and externalIP");
      w.ip_nats.push_back({*in, *ex});
    });
    w.profiles = s.texts("profiles");
    w.ports = read_named_ports(s);
    if (const auto* q = s.find("qosControls")) w.qos_controls_json = json::serialize(*q);
  });
}

std::string to_json(const WorkloadEndpoint& w) {
  json::object s;
  s["orchestrator"] = w.orchestrator;
  s["workload"] = w.workload;
  s["node"] = w.node;
  s["endpoint"] = w.endpoint;
  s["interfaceName"] = w.interface_name;
  if (w.mac) s["mac"] = w.mac->to_string();
  if (w.ipv4_gateway) s["ipv4Gateway"] = w.ipv4_gateway->to_string();
  if (w.ipv6_gateway) s["ipv6Gateway"] = w.ipv6_gateway->to_string();
  s["ipNetworks"] = write_networks(w.ip_networks);
  s["allowedIps"] = write_networks(w.allowed_ips);
  if (!w.ip_nats.empty()) {
    json::array a;
    for (const auto& n : w.ip_nats)
      a.push_back(json::object{{"internalIP", n.internal.to_string()}, {"externalIP", n.external.to_string()}});
    s["ipNATs"] = std::move(a);
  }
  if (!w.profiles.empty()) s["profiles"] = json::value_from(w.profiles);
  if (!w.ports.empty()) s["ports"] = write_named_ports(w.ports);
  if (!w.qos_controls_json.empty()) s["qosControls"] = json::parse(w.qos_controls_json);
  return write_resource("WorkloadEndpoint", w.meta, std::move(s));
}

Result<HostEndpoint> parse_host_endpoint(std::string_view text) {
  return read_document<HostEndpoint>(text, [](const Object& root, HostEndpoint& h) {
    h.labels = read_metadata(root).labels;
    const auto s = root.object("spec");
    h.node = s.text("node");
    h.interface_name = s.text("interfaceName");
    for (const auto& ip : s.texts("expectedIPs"))
      if (auto read = read_value(s, s.at("expectedIPs"), ip, Ip::parse)) h.expected_ips.push_back(*read);
    h.profiles = s.texts("profiles");
    h.ports = read_named_ports(s);
    if (h.node.empty()) s.bad("spec.node", "missing");
    if (h.interface_name.empty() && h.expected_ips.empty()) s.bad("spec.interfaceName", "need it, or expectedIPs");
    if (!h.interface_name.empty() && h.interface_name != "*" &&
        (!is_interface_name(h.interface_name) || h.interface_name.find('*') != std::string::npos))
      s.bad("spec.interfaceName", "need the name of an interface or \"*\"");
  });
}

std::string to_json(const std::string& name, const HostEndpoint& h) {
  Metadata m;
  m.name = name;
  m.labels = h.labels;
  json::object s;
  s["node"] = h.node;
  if (!h.interface_name.empty()) s["interfaceName"] = h.interface_name;
  if (!h.expected_ips.empty()) {
    json::array a;
    for (const auto& ip : h.expected_ips) a.emplace_back(ip.to_string());
    s["expectedIPs"] = std::move(a);
  }
  if (!h.profiles.empty()) s["profiles"] = json::value_from(h.profiles);
  if (!h.ports.empty()) s["ports"] = write_named_ports(h.ports);
  return write_resource("HostEndpoint", m, std::move(s));
}

Result<ClusterInformation> parse_cluster_information(std::string_view text) {
  return read_document<ClusterInformation>(text, [](const Object& root, ClusterInformation& c) {
    c.meta = read_metadata(root);
    const auto s = root.object("spec");
    c.cluster_guid = s.text("clusterGUID");
    c.cluster_type = s.text("clusterType");
    c.calico_version = s.text("calicoVersion");
    c.datastore_ready = s.boolean("datastoreReady");
  });
}

std::string to_json(const ClusterInformation& c) {
  json::object s;
  if (!c.cluster_guid.empty()) s["clusterGUID"] = c.cluster_guid;
  if (!c.cluster_type.empty()) s["clusterType"] = c.cluster_type;
  if (!c.calico_version.empty()) s["calicoVersion"] = c.calico_version;
  if (c.datastore_ready) s["datastoreReady"] = *c.datastore_ready;
  return write_resource("ClusterInformation", c.meta, std::move(s));
}

Result<FelixConfiguration> parse_felix_configuration(std::string_view text) {
  return read_document<FelixConfiguration>(text, [](const Object& root, FelixConfiguration& f) {
    f.meta = read_metadata(root);
    root.object("spec").each_member([&](std::string_view key, const json::value& v) {
      if (key.empty()) return;
      std::string name(key);
      if (name[0] >= 'a' && name[0] <= 'z') name[0] = static_cast<char>(name[0] - 'a' + 'A');
      if (v.is_string())
        f.values[name] = std::string(v.as_string().data(), v.as_string().size());
      else if (!v.is_null())
        f.values[name] = json::serialize(v);  // lists and objects too: who cannot obey them can name them
    });
    constexpr std::string_view kPrefix = "config.projectcalico.org/";
    for (const auto& [key, value] : f.meta.annotations)
      if (key.starts_with(kPrefix)) f.values[key.substr(kPrefix.size())] = value;
  });
}

std::string to_json_felix_configuration(const Metadata& meta, bool endpoint_reporting_enabled,
                                        std::string_view interface_prefix) {
  json::object s;
  s["endpointReportingEnabled"] = endpoint_reporting_enabled;
  s["interfacePrefix"] = jsv(interface_prefix);
  return write_resource("FelixConfiguration", meta, std::move(s));
}

namespace {

std::optional<Asn> read_asn(const Object& o, std::string_view key) {
  const auto* v = o.find(key);
  if (!v) return {};
  if (v->is_number()) {
    const auto n = o.integer(key, 0, 0xffffffffLL);
    return n ? std::optional(Asn{static_cast<std::uint32_t>(*n)}) : std::nullopt;
  }
  const auto as = detail::as_number_of(o.text(key));
  if (!as) o.bad(o.at(key), "need an AS number");
  return as;
}

/// Address with length, host bits kept ("10.0.0.5/24").
std::optional<Prefix> read_interface_address(const Object& o, std::string_view key) {
  const auto text = o.maybe_text(key);
  if (!text || text->empty()) return {};
  const auto net = read_value(o, o.at(key), *text, Prefix::parse);
  const auto ip = read_value(o, o.at(key), std::string_view(*text).substr(0, text->find('/')), Ip::parse);
  if (!net || !ip) return {};
  return Prefix{*ip, net->len};
}

json::object node_spec(const Node& n) {
  json::object s;
  if (n.bgp_ipv4 || n.bgp_ipv6 || n.as_number || n.route_reflector_cluster_id) {
    json::object b;
    const auto address = [](const Prefix& p) { return fmt::format("{}/{}", p.addr.to_string(), p.len); };
    if (n.as_number) b["asNumber"] = n.as_number->value;
    if (n.bgp_ipv4) b["ipv4Address"] = address(*n.bgp_ipv4);
    if (n.bgp_ipv6) b["ipv6Address"] = address(*n.bgp_ipv6);
    if (n.route_reflector_cluster_id) b["routeReflectorClusterID"] = n.route_reflector_cluster_id->to_string();
    s["bgp"] = std::move(b);
  }
  if (!n.addresses.empty()) {
    json::array a;
    for (const auto& x : n.addresses) {
      json::object e{{"address", x.ip.to_string()}};
      if (!x.type.empty()) e["type"] = x.type;
      a.push_back(std::move(e));
    }
    s["addresses"] = std::move(a);
  }
  return s;
}

}  // namespace

Result<Node> parse_node(std::string_view text) {
  return read_document<Node>(text, [](const Object& root, Node& n) {
    n.meta = read_metadata(root);
    const auto s = root.object("spec");
    const auto b = s.object("bgp");
    n.bgp_ipv4 = read_interface_address(b, "ipv4Address");
    n.bgp_ipv6 = read_interface_address(b, "ipv6Address");
    n.as_number = read_asn(b, "asNumber");
    n.route_reflector_cluster_id = read_ip(b, "routeReflectorClusterID");
    s.each_object("addresses", [&](const Object& a) {
      // Other orchestrators put host names here (type Hostname); they are not addresses.
      const auto text_of = a.text("address");
      const auto bare = std::string_view(text_of).substr(0, text_of.find('/'));
      if (auto ip = Ip::parse(bare)) n.addresses.push_back({*ip, a.text("type")});
    });
  });
}

std::string node_spec_json(const Node& n) { return json::serialize(node_spec(n)); }
std::string to_json(const Node& n) { return write_resource("Node", n.meta, node_spec(n)); }
std::string labels_json(const Labels& labels) { return json::serialize(write_labels(labels)); }

std::vector<Ip> Node::all_addresses() const {
  std::vector<Ip> out;
  for (const auto& a : addresses) out.push_back(a.ip);
  if (bgp_ipv4) out.push_back(bgp_ipv4->addr);
  if (bgp_ipv6) out.push_back(bgp_ipv6->addr);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

Result<Subnet> parse_subnet(std::string_view text) {
  return read_document<Subnet>(text, [](const Object& root, Subnet& s) {
    s.network_id = root.text("network_id");
    const auto cidr = root.maybe_text("cidr");
    if (!cidr) return root.bad("cidr", "missing");
    if (auto p = read_value(root, "cidr", *cidr, Prefix::parse)) s.cidr = *p;
    s.gateway_ip = read_ip(root, "gateway_ip");
    root.each_object("host_routes", [&](const Object& r) {
      const auto dst = read_value(r, r.at("destination"), r.text("destination"), Prefix::parse);
      const auto hop = read_value(r, r.at("nexthop"), r.text("nexthop"), Ip::parse);
      if (dst && hop) s.host_routes.push_back({*dst, *hop});
    });
    for (const auto& t : root.texts("dns_servers"))
      if (auto ip = read_value(root, "dns_servers", t, Ip::parse)) s.dns_servers.push_back(*ip);
    s.ipv6_ra_mode = root.text("ipv6_ra_mode");
    s.ipv6_address_mode = root.text("ipv6_address_mode");
  });
}

std::string to_json(const Subnet& s) {
  json::object o;
  o["network_id"] = s.network_id;
  o["cidr"] = s.cidr.to_string();
  json::array routes;
  for (const auto& r : s.host_routes)
    routes.push_back(json::object{{"destination", r.destination.to_string()}, {"nexthop", r.nexthop.to_string()}});
  o["host_routes"] = std::move(routes);
  o["gateway_ip"] = s.gateway_ip ? json::value(s.gateway_ip->to_string()) : json::value(nullptr);
  if (!s.dns_servers.empty()) {
    json::array a;
    for (const auto& ip : s.dns_servers) a.emplace_back(ip.to_string());
    o["dns_servers"] = std::move(a);
  }
  if (!s.ipv6_ra_mode.empty() && !s.ipv6_address_mode.empty()) {
    o["ipv6_ra_mode"] = s.ipv6_ra_mode;
    o["ipv6_address_mode"] = s.ipv6_address_mode;
  }
  return json::serialize(o);
}

Result<AgentStatus> parse_agent_status(std::string_view text) {
  return read_document<AgentStatus>(text, [](const Object& root, AgentStatus& a) {
    a.time = root.text("time");
    a.uptime_s = root.number("uptime").value_or(0);
    a.first_update = root.boolean("first_update").value_or(false);
  });
}

std::string to_json(const AgentStatus& a) {
  return fmt::format(R"({{"time":"{}","uptime":{:.2f},"first_update":{}}})", a.time, a.uptime_s, a.first_update);
}

std::string_view to_string(EndpointState s) {
  switch (s) {
    case EndpointState::up:
      return "up";
    case EndpointState::down:
      return "down";
    case EndpointState::error:
      return "error";
  }
  return "?";
}

Result<EndpointState> parse_endpoint_status(std::string_view text) {
  return read_document<EndpointState>(text, [](const Object& root, EndpointState& out) {
    const auto s = root.text("status");
    for (auto e : {EndpointState::up, EndpointState::down, EndpointState::error})
      if (s == to_string(e)) return void(out = e);
    root.bad("status", fmt::format("{}: need up, down or error", quoted(s)));
  });
}

std::string endpoint_status_json(EndpointState s) { return fmt::format(R"({{"status":"{}"}})", to_string(s)); }

Result<LiveMigration> parse_live_migration(std::string_view text) {
  return read_document<LiveMigration>(text, [](const Object& root, LiveMigration& m) {
    m.meta = read_metadata(root);
    const auto s = root.object("spec");
    const auto source = s.object("source").object("workloadEndpoint");
    const auto target = s.object("target").object("workloadEndpoint");
    m.source_host = source.text("hostname");
    m.target_host = target.text("hostname");
    m.workload = target.text("workloadID");
    m.endpoint = target.text("endpointID");
    if (m.target_host.empty() || m.workload.empty() || m.endpoint.empty())
      root.bad("spec.target.workloadEndpoint", "need hostname, workloadID and endpointID");
  });
}

}  // namespace calico::model
