#include "modules/diag/observe.hpp"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/json.hpp>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "core/http/message.hpp"
#include "core/module/control_client.hpp"
#include "core/netlink/sysctl.hpp"

namespace calico::diag {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::optional<json::object> object_of(const std::string& text) {
  boost::system::error_code ec;
  auto v = json::parse(text, ec);
  if (ec || !v.is_object()) return std::nullopt;
  return std::move(v.as_object());
}

std::string text_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v && v->is_string() ? std::string(v->as_string()) : std::string();
}
bool is_true(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v && v->is_bool() && v->as_bool();
}
template <class F>
bool each(const json::object& o, std::string_view key, F f) {
  const auto* v = o.if_contains(key);
  if (!v || !v->is_array()) return false;
  for (const auto& e : v->as_array())
    if (e.is_object()) f(e.as_object());
  return true;
}

/// Programs by the base name of each argument: agents of others are Python scripts, named by their second argument.
std::vector<std::string> programs() {
  static const std::set<std::string> kKnown = {"neutron-metadata-agent",
                                               "neutron-dhcp-agent",
                                               "neutron-openvswitch-agent",
                                               "neutron-l3-agent",
                                               "ovs-vswitchd",
                                               "ovsdb-server",
                                               "bird",
                                               "bird6",
                                               "calico-felix"};
  // Only those of our own network namespace: a container's BIRD is nobody's business here.
  std::error_code ec;
  const auto ours = fs::read_symlink("/proc/self/ns/net", ec);
  std::set<std::string> found;
  for (const auto& e : fs::directory_iterator("/proc", ec)) {
    const auto pid = e.path().filename().string();
    if (!std::all_of(pid.begin(), pid.end(), [](unsigned char c) { return std::isdigit(c); })) continue;
    std::ifstream in(e.path() / "cmdline", std::ios::binary);
    std::string line((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    std::size_t from = 0;
    for (int argument = 0; argument < 2 && from < line.size(); ++argument) {
      const auto end = std::min(line.find('\0', from), line.size());
      const auto name = fs::path(line.substr(from, end - from)).filename().string();
      if (kKnown.count(name)) {
        std::error_code why;
        if (fs::read_symlink(e.path() / "ns/net", why) == ours) found.insert(name);
      }
      from = end + 1;
    }
  }
  return {found.begin(), found.end()};
}

/// Whether a TCP connection to this "http(s)://ADDRESS:PORT" of our own host is taken.
bool listens(const std::string& url) {
  const auto at = http::Endpoint::parse(url);
  const auto ip = at ? at->ip() : std::nullopt;
  if (!ip) return false;
  boost::asio::io_context io;
  boost::asio::ip::tcp::socket socket(io);
  boost::system::error_code ec;
  socket.connect({boost::asio::ip::make_address(ip->to_string()), at->port}, ec);
  return !ec;
}

std::vector<std::string> links() {
  std::vector<std::string> out;
  std::error_code ec;
  for (const auto& e : fs::directory_iterator("/sys/class/net", ec)) out.push_back(e.path().filename().string());
  return out;
}

}  // namespace

void take_status(Observed& seen, const std::string& text) {
  const auto o = object_of(text);
  if (!o) return;
  seen.name = text_of(*o, "name");
  seen.version = text_of(*o, "version");
  seen.ready = is_true(*o, "ready");
  if (const auto* roles = o->if_contains("roles"); roles && roles->is_array())
    for (const auto& r : roles->as_array())
      if (r.is_string()) seen.roles.emplace_back(r.as_string());
  if (const auto* status = o->if_contains("status"); status && status->is_object())
    for (const auto& [module, line] : status->as_object())
      if (line.is_string()) seen.status[std::string(module)] = std::string(line.as_string());
}

void take_store(Observed& seen, const std::string& text) {
  const auto o = object_of(text);
  if (!o) return;
  seen.sync_phase = text_of(*o, "phase");
  seen.sync_reason = text_of(*o, "reason");
}

void take_bgp(Observed& seen, const std::string& text) {
  const auto o = object_of(text);
  if (!o) return;
  std::vector<Session> sessions;
  if (each(*o, "sessions", [&](const json::object& s) {
        sessions.push_back({text_of(s, "name"), text_of(s, "address"), text_of(s, "state"), text_of(s, "last_error"),
                            text_of(s, "from") == "datastore"});
      }))
    seen.sessions = std::move(sessions);
}

void take_felix(Observed& seen, const std::string& text) {
  const auto o = object_of(text);
  if (!o) return;
  std::vector<Endpoint> endpoints;
  if (each(*o, "endpoints", [&](const json::object& e) {
        endpoints.push_back({text_of(e, "interface"), text_of(e, "status"), text_of(e, "error")});
      }))
    seen.endpoints = std::move(endpoints);
}

void take_dhcp(Observed& seen, const std::string& text) {
  const auto o = object_of(text);
  if (!o) return;
  seen.dhcp_running = is_true(*o, "running");
  if (const auto* n = o->if_contains("ports"); n && n->is_int64())
    seen.dhcp_ports = static_cast<std::size_t>(n->as_int64());
}

void take_controller(Observed& seen, const std::string& text) {
  const auto o = object_of(text);
  if (!o) return;
  const auto listen = text_of(*o, "api");
  if (listen.empty()) return;  // switched off
  seen.api_serving = listens(listen);
  seen.api_detail = *seen.api_serving ? listen : listen + ": nobody answers there";
}

Observed observe(const std::string& run_dir) {
  Observed seen;
  seen.processes = programs();
  seen.links = links();
  const auto ask = [&](const char* path) -> std::optional<std::string> {
    auto reply = module::control_call(run_dir, "GET", path, {}, std::chrono::seconds(5));
    if (!reply) {
      if (std::string_view(path) == "/status") seen.process_error = reply.error().what;
      return std::nullopt;
    }
    if (reply->status != 200) return std::nullopt;
    return std::move(reply->json);
  };
  if (auto text = ask("/status")) take_status(seen, *text);
  if (seen.process_error) return seen;
  const auto has = [&](std::string_view role) {
    return std::find(seen.roles.begin(), seen.roles.end(), role) != seen.roles.end();
  };
  if (auto text = ask("/store/status")) take_store(seen, *text);
  if (has("compute") || has("route-reflector"))
    if (auto text = ask("/bgp")) take_bgp(seen, *text);
  if (has("compute") || has("felix")) {
    if (auto text = ask("/felix/endpoints")) take_felix(seen, *text);
    auto forward = netlink::sysctl_get("net/ipv4/ip_forward");
    seen.sysctls["net/ipv4/ip_forward"] = forward ? *forward : "";
  }
  if (has("compute"))
    if (auto text = ask("/dhcp")) take_dhcp(seen, *text);
  if (has("controller"))
    if (auto text = ask("/controller")) take_controller(seen, *text);
  return seen;
}

}  // namespace calico::diag
