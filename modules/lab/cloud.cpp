// What the lab asks of a running cluster: BGP sessions through the control sockets, networks and groups through the
// API.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <sstream>

#include "modules/lab/demo.hpp"

namespace calico::lab {

namespace {

bool is_code(std::string_view line) {
  return line.size() >= 5 && std::all_of(line.begin(), line.begin() + 4, [](char c) { return c >= '0' && c <= '9'; }) &&
         (line[4] == ' ' || line[4] == '-');
}

}  // namespace

Result<std::string> bird_command(const std::string& run_dir, const std::string& socket, const std::string& command,
                                 Millis limit) {
  auto fd = connect_unix(run_dir, socket);
  if (!fd) return tl::unexpected(fd.error());
  std::string line = command + "\n";
  if (::send(fd->get(), line.data(), line.size(), MSG_NOSIGNAL) < 0) return fail_errno(errno, socket);
  auto deadline = Steady::now() + limit;
  std::string raw;
  std::string out;
  std::size_t at = 0;
  bool greeted = false;
  std::array<char, 8192> b;
  for (;;) {
    for (auto end = raw.find('\n', at); end != std::string::npos; end = raw.find('\n', at)) {
      std::string_view text(raw.data() + at, end - at);
      at = end + 1;
      if (is_code(text)) {
        bool last = text[4] == ' ';
        std::string_view code = text.substr(0, 4);
        text.remove_prefix(5);
        if (!greeted) {  // "0001 BIRD … ready."
          greeted = true;
          continue;
        }
        if (code[0] == '8' || code[0] == '9') return fail(Errc::invalid, "{}: {}", command, text);
        out.append(text).push_back('\n');
        if (last) return out;
      } else {
        if (!text.empty() && text[0] == ' ') text.remove_prefix(1);
        out.append(text).push_back('\n');
      }
    }
    auto left = std::chrono::duration_cast<Millis>(deadline - Steady::now());
    pollfd p{fd->get(), POLLIN, 0};
    if (left.count() <= 0 || ::poll(&p, 1, static_cast<int>(left.count())) <= 0) {
      return fail(Errc::timeout, "{}/{} did not answer '{}' in time", run_dir, socket, command);
    }
    ssize_t n = ::recv(fd->get(), b.data(), b.size(), 0);
    if (n <= 0) return fail(Errc::closed, "{}/{} closed the connection", run_dir, socket);
    raw.append(b.data(), static_cast<std::size_t>(n));
    if (raw.size() > (16U << 20)) return fail(Errc::exhausted, "{}: the answer does not end", command);
  }
}

std::vector<Session> parse_sessions(const std::string& text) {
  std::vector<Session> out;
  std::istringstream lines(text);
  bool bgp = false;
  std::string state;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line[0] != ' ') {
      std::istringstream words(line);
      std::string name;
      std::string proto;
      words >> name >> proto;
      bgp = proto == "BGP";
      state = "unknown";
      continue;
    }
    auto at = line.find("BGP state:");
    if (bgp && at != std::string::npos) {
      std::istringstream words(line.substr(at + 10));
      words >> state;
    }
    at = line.find("Neighbor address:");
    if (bgp && at != std::string::npos) {
      std::istringstream words(line.substr(at + 17));
      std::string address;
      words >> address;
      auto ip = Ip::parse(address.substr(0, address.find('%')));
      out.push_back({ip ? ip->to_string() : address, state});
    }
  }
  return out;
}

Result<std::vector<Session>> bgp_sessions(const Paths& paths, const std::string& node) {
  auto text = bird_command(paths.node(node) + "/run/calico-node", "bird.ctl", "show protocols all");
  if (!text) return tl::unexpected(text.error());
  return parse_sessions(*text);
}

Result<NeutronClient> api_of(Cluster& cluster) {
  const Node& controller = cluster.record().controller();
  const std::string pki = cluster.paths().pki();
  auto token = read_file(pki + "/token");
  if (!token) return tl::unexpected(token.error());
  while (!token->empty() && token->back() == '\n') token->pop_back();
  // From the border: a customer's place, not a node's.
  auto ns = cluster.netns(std::string(kBorder));
  if (!ns) return tl::unexpected(ns.error());
  return NeutronClient::connect(fmt::format("https://{}:9696", controller.mgmt4), *ns,
                                {pki + "/ca.crt", pki + "/client.crt", pki + "/client.key"}, *token);
}

Result<std::string> make_network(NeutronClient& api, const std::string& name, bool ipv6) {
  auto network = api.create_network(name);
  if (!network) return network;
  auto subnet = api.create_subnet(*network, name + "4", "10.65.0.0/24", "10.65.0.1");
  if (!subnet) return tl::unexpected(subnet.error());
  if (ipv6) {
    subnet = api.create_subnet(*network, name + "6", "fd65::/64", "fd65::1");
    if (!subnet) return tl::unexpected(subnet.error());
  }
  return network;
}

Result<std::string> make_group(NeutronClient& api, const std::string& name, bool ipv6, std::string* icmp_rule) {
  auto group = api.create_group(name, "ICMP from its own members, SSH from anywhere");
  if (!group) return group;
  auto rule = api.create_rule(*group, {.ethertype = "IPv4", .protocol = "icmp", .remote_group = *group});
  if (!rule) return tl::unexpected(rule.error());
  if (icmp_rule != nullptr) *icmp_rule = *rule;
  rule = api.create_rule(*group, {.ethertype = "IPv4", .protocol = "tcp", .port = 22, .remote_prefix = "0.0.0.0/0"});
  if (!rule) return tl::unexpected(rule.error());
  if (ipv6) {
    rule = api.create_rule(*group, {.ethertype = "IPv6", .protocol = "ipv6-icmp", .remote_group = *group});
    if (!rule) return tl::unexpected(rule.error());
    rule = api.create_rule(*group, {.ethertype = "IPv6", .protocol = "tcp", .port = 22, .remote_prefix = "::/0"});
    if (!rule) return tl::unexpected(rule.error());
  }
  return group;
}

namespace {

// The half of add_vm() that is undone when it fails.
Result<double> plug_in(Cluster& cluster, NeutronClient& api, Vm& vm, const std::string& network,
                       const std::string& group) {
  vm.device_id = random_uuid();
  api.watch_ports(network);
  auto begin = Steady::now();
  auto port = api.create_port(network, vm.name, vm.compute, vm.device_id, {group});
  if (!port) return tl::unexpected(port.error());
  vm.port_id = port->id;
  vm.mac = port->mac;
  vm.ips = port->ips;
  if (auto s = cluster.plug_vm(vm); !s) return tl::unexpected(s.error());
  auto active =
      wait_until("ACTIVE of port " + port->id, Millis(30000), [&] { return api.active_since().contains(port->id); });
  if (!active) return tl::unexpected(active.error());
  if (auto s = cluster.run_vm(vm.name); !s) return tl::unexpected(s.error());
  if (auto s = cluster.wait_addresses(vm.name, Millis(30000)); !s) return tl::unexpected(s.error());
  return std::chrono::duration<double, std::milli>(api.active_since()[port->id] - begin).count();
}

}  // namespace

Result<double> add_vm(Cluster& cluster, NeutronClient& api, Vm& vm) {
  const auto& record = cluster.record();
  if (vm.compute.empty()) {
    std::ptrdiff_t fewest = -1;
    for (const auto& n : record.nodes) {
      if (!n.is_compute()) continue;
      auto here = std::count_if(record.vms.begin(), record.vms.end(), [&](const Vm& v) { return v.compute == n.name; });
      if (fewest < 0 || here < fewest) {
        fewest = here;
        vm.compute = n.name;
      }
    }
  }
  const Node* node = record.node(vm.compute);
  if (node == nullptr || !node->is_compute()) return fail(Errc::invalid, "'{}' is no compute node", vm.compute);
  auto network = api.find("networks", "demo");
  if (!network && network.error().code == Errc::not_found) network = make_network(api, "demo", record.options.ipv6);
  if (!network) return tl::unexpected(network.error());
  auto group = api.find("security-groups", vm.security_group);
  if (!group && group.error().code == Errc::not_found) {
    group = make_group(api, vm.security_group, record.options.ipv6, nullptr);
  }
  if (!group) return tl::unexpected(group.error());
  if (auto s = cluster.boot_vm(vm); !s) return tl::unexpected(s.error());
  auto active = plug_in(cluster, api, vm, *network, *group);
  api.stop_watching();
  if (!active) {
    ignore_interrupts();
    if (!vm.port_id.empty()) (void)api.remove("ports", vm.port_id);
    (void)cluster.remove_vm(vm.name);
  }
  return active;
}

}  // namespace calico::lab
