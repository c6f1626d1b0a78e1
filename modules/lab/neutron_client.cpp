#include "modules/lab/neutron_client.hpp"

#include <sched.h>

#include <boost/json.hpp>
#include <future>
#include <mutex>

#include "core/http/client.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"

namespace calico::lab {

namespace json = boost::json;

struct NeutronClient::Impl {
  Loop loop{"lab-api"};
  std::unique_ptr<http::Client> client;
  std::unique_ptr<TaskGroup> tasks;
  std::unique_ptr<TaskGroup> watching;
  std::string token;
  mutable std::mutex mutex;
  std::map<std::string, Steady::time_point> active;  // under mutex

  ~Impl() {
    loop.call([this] {
      if (watching) watching->cancel();
      if (tasks) tasks->cancel();
      if (client) client->close();
    });
    loop.stop();
  }

  http::ClientRequest request_of(std::string method, std::string target, std::string body) const {
    http::ClientRequest r;
    r.idempotent = method == "GET";
    r.method = std::move(method);
    r.target = std::move(target);
    r.headers.add("X-Auth-Token", token);
    r.headers.add("Accept", "application/json");
    if (!body.empty()) r.headers.add("Content-Type", "application/json");
    r.body = std::move(body);
    return r;
  }

  std::future<Result<http::Answer>> send(const http::ClientRequest& request) {
    auto promise = std::make_shared<std::promise<Result<http::Answer>>>();
    auto future = promise->get_future();
    loop.post([this, request, promise] {
      tasks->spawn("request", [this, request, promise]() -> awaitable<void> {
        http::ClientRequest copy = request;
        auto answer = co_await client->request(std::move(copy));
        promise->set_value(std::move(answer));
      });
    });
    return future;
  }

  Result<json::object> call(const std::string& method, const std::string& target, const json::object* body = nullptr) {
    http::ClientRequest request = request_of(method, target, body != nullptr ? json::serialize(*body) : "");
    auto future = send(request);
    while (future.wait_for(Millis(50)) != std::future_status::ready) {
      if (interrupted()) return fail(Errc::canceled, "interrupted");
    }
    auto answer = future.get();
    if (!answer) return wrap(answer.error(), method + " " + target);
    return check(method, target, *answer);
  }

  static Result<json::object> check(const std::string& method, const std::string& target, const http::Answer& answer) {
    json::error_code ec;
    json::value v = json::parse(answer.body.empty() ? "{}" : answer.body, ec);
    if (answer.status >= 400) {
      std::string text = answer.body.substr(0, 200);
      if (!ec && v.is_object()) {
        const auto* e = v.get_object().if_contains("NeutronError");
        if (e != nullptr && e->is_object()) {
          auto part = [&](const char* key) {
            const auto* p = e->get_object().if_contains(key);
            return p != nullptr && p->is_string() ? std::string(p->get_string()) : std::string();
          };
          text = part("type") + ": " + part("message");
        }
      }
      Errc code = answer.status == 409                           ? Errc::conflict
                  : answer.status == 404                         ? Errc::not_found
                  : answer.status == 401 || answer.status == 403 ? Errc::no_permission
                  : answer.status < 500                          ? Errc::invalid
                                                                 : Errc::unavailable;
      return fail(code, "{} {}: {} {}", method, target, answer.status, text);
    }
    if (ec || !v.is_object()) return fail(Errc::corrupt, "{} {}: the answer is no JSON object", method, target);
    return std::move(v.get_object());
  }

  Result<json::object> create(const std::string& collection, const std::string& kind, json::object attributes) {
    json::object body{{kind, std::move(attributes)}};
    auto answer = call("POST", "/v2.0/" + collection, &body);
    if (!answer) return tl::unexpected(answer.error());
    return member(*answer, kind);
  }

  static Result<json::object> member(json::object& answer, const std::string& kind) {
    auto* v = answer.if_contains(kind);
    if (v == nullptr || !v->is_object()) return fail(Errc::corrupt, "the answer has no '{}'", kind);
    return std::move(v->get_object());
  }

  awaitable<void> watch(std::string network) {
    std::string target = "/v2.0/ports?network_id=" + http::percent_encode(network) + "&fields=id&fields=status";
    for (;;) {
      http::ClientRequest request = request_of("GET", target, "");
      auto answer = co_await client->request(std::move(request));
      auto now = Steady::now();
      if (answer) note(*answer, now);
      bool go_on = co_await sleep_for(Millis(5));
      if (!go_on) co_return;
    }
  }

  void note(const http::Answer& answer, Steady::time_point now) {
    auto body = check("GET", "ports", answer);
    if (!body) return;
    const auto* rows = body->if_contains("ports");
    if (rows == nullptr || !rows->is_array()) return;
    std::scoped_lock lock(mutex);
    for (const auto& row : rows->get_array()) {
      if (!row.is_object()) continue;
      const auto* id = row.get_object().if_contains("id");
      const auto* status = row.get_object().if_contains("status");
      if (id == nullptr || status == nullptr || !id->is_string() || !status->is_string()) continue;
      if (status->get_string() == "ACTIVE") active.emplace(std::string(id->get_string()), now);
    }
  }
};

namespace {

std::string text_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v != nullptr && v->is_string() ? std::string(v->get_string()) : std::string();
}

PortInfo port_of(const json::object& o) {
  PortInfo p{text_of(o, "id"), text_of(o, "mac_address"), text_of(o, "status"), text_of(o, "binding:vif_type"), {}};
  const auto* ips = o.if_contains("fixed_ips");
  if (ips != nullptr && ips->is_array()) {
    for (const auto& ip : ips->get_array()) {
      if (ip.is_object()) p.ips.push_back(text_of(ip.get_object(), "ip_address"));
    }
  }
  return p;
}

Result<std::string> id_of(const Result<json::object>& o) {
  if (!o) return tl::unexpected(o.error());
  std::string id = text_of(*o, "id");
  if (id.empty()) return fail(Errc::corrupt, "the answer has no id");
  return id;
}

}  // namespace

NeutronClient::NeutronClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NeutronClient::NeutronClient(NeutronClient&&) noexcept = default;
NeutronClient& NeutronClient::operator=(NeutronClient&&) noexcept = default;
NeutronClient::~NeutronClient() = default;

Result<NeutronClient> NeutronClient::connect(const std::string& endpoint, int ns, const Files& files,
                                             const std::string& token) {
  auto at = http::Endpoint::parse(endpoint);
  if (!at) return tl::unexpected(at.error());
  auto impl = std::make_unique<Impl>();
  impl->token = token;
  impl->loop.start();
  Status made = impl->loop.call([&]() -> Status {
    // The loop's thread lives in the namespace: so do its sockets.
    if (::setns(ns, CLONE_NEWNET) != 0) return fail_errno(errno, "enter a network namespace");
    http::ClientOptions options;
    options.endpoints = {*at};
    options.tls = {files.ca, files.cert, files.key};
    options.max_connections = 16;
    auto client = http::Client::create(impl->loop.executor(), std::move(options));
    if (!client) return tl::unexpected(client.error());
    impl->client = std::move(*client);
    impl->tasks = std::make_unique<TaskGroup>(impl->loop.executor(), "lab-api");
    return {};
  });
  if (!made) return tl::unexpected(made.error());
  return NeutronClient(std::move(impl));
}

Result<std::string> NeutronClient::create_network(const std::string& name) {
  return id_of(impl_->create("networks", "network", {{"name", name}, {"shared", true}, {"admin_state_up", true}}));
}

Result<std::string> NeutronClient::find(const std::string& collection, const std::string& name) {
  auto answer = impl_->call("GET", "/v2.0/" + collection + "?fields=id&name=" + http::percent_encode(name));
  if (!answer) return tl::unexpected(answer.error());
  for (const auto& [key, rows] : *answer) {
    if (rows.is_array() && !rows.get_array().empty() && rows.get_array()[0].is_object()) {
      return text_of(rows.get_array()[0].get_object(), "id");
    }
  }
  return fail(Errc::not_found, "no '{}' among the {}", name, collection);
}

Result<std::string> NeutronClient::create_subnet(const std::string& network, const std::string& name,
                                                 const std::string& cidr, const std::string& gateway,
                                                 const std::string& ra_mode) {
  bool v6 = cidr.find(':') != std::string::npos;
  json::object o{{"network_id", network}, {"name", name},          {"ip_version", v6 ? 6 : 4},
                 {"cidr", cidr},          {"gateway_ip", gateway}, {"enable_dhcp", true}};
  if (!ra_mode.empty()) {
    o["ipv6_ra_mode"] = ra_mode;
    o["ipv6_address_mode"] = ra_mode;
  }
  return id_of(impl_->create("subnets", "subnet", std::move(o)));
}

Result<std::string> NeutronClient::create_group(const std::string& name, const std::string& description) {
  return id_of(impl_->create("security-groups", "security_group", {{"name", name}, {"description", description}}));
}

Result<std::string> NeutronClient::create_rule(const std::string& group, const RuleWanted& rule) {
  json::object o{{"security_group_id", group}, {"direction", "ingress"}, {"ethertype", rule.ethertype}};
  if (!rule.protocol.empty()) o["protocol"] = rule.protocol;
  if (rule.port != 0) {
    o["port_range_min"] = rule.port;
    o["port_range_max"] = rule.port;
  }
  if (!rule.remote_prefix.empty()) o["remote_ip_prefix"] = rule.remote_prefix;
  if (!rule.remote_group.empty()) o["remote_group_id"] = rule.remote_group;
  return id_of(impl_->create("security-group-rules", "security_group_rule", std::move(o)));
}

Status NeutronClient::remove(const std::string& collection, const std::string& id) {
  auto answer = impl_->call("DELETE", "/v2.0/" + collection + "/" + id);
  if (!answer) return tl::unexpected(answer.error());
  return {};
}

Result<PortInfo> NeutronClient::create_port(const std::string& network, const std::string& name,
                                            const std::string& host, const std::string& device,
                                            const std::vector<std::string>& groups) {
  json::object o{{"network_id", network},   {"name", name},
                 {"device_id", device},     {"device_owner", "compute:nova"},
                 {"binding:host_id", host}, {"admin_state_up", true}};
  if (host.empty()) o.erase("binding:host_id");
  if (!groups.empty()) {
    json::array list;
    for (const auto& g : groups) list.emplace_back(g);
    o["security_groups"] = std::move(list);
  }
  auto answer = impl_->create("ports", "port", std::move(o));
  if (!answer) return tl::unexpected(answer.error());
  PortInfo p = port_of(*answer);
  if (p.id.size() < 11 || p.mac.empty()) return fail(Errc::corrupt, "the port has no id or no MAC");
  return p;
}

Result<PortInfo> NeutronClient::bind_port(const std::string& id, const std::string& host) {
  json::object body{{"port", json::object{{"binding:host_id", host}}}};
  auto answer = impl_->call("PUT", "/v2.0/ports/" + id, &body);
  if (!answer) return tl::unexpected(answer.error());
  auto o = Impl::member(*answer, "port");
  if (!o) return tl::unexpected(o.error());
  return port_of(*o);
}

Result<std::vector<Steady::time_point>> NeutronClient::bind_ports(
    const std::vector<std::pair<std::string, std::string>>& id_and_host) {
  std::vector<Steady::time_point> sent;
  std::vector<std::future<Result<http::Answer>>> answers;
  for (const auto& [id, host] : id_and_host) {
    json::object body{{"port", json::object{{"binding:host_id", host}}}};
    auto request = impl_->request_of("PUT", "/v2.0/ports/" + id, json::serialize(body));
    sent.push_back(Steady::now());
    answers.push_back(impl_->send(request));
  }
  for (auto& future : answers) {
    auto answer = future.get();
    if (!answer) return tl::unexpected(answer.error());
    auto checked = Impl::check("PUT", "/v2.0/ports", *answer);
    if (!checked) return tl::unexpected(checked.error());
  }
  return sent;
}

Result<PortInfo> NeutronClient::port(const std::string& id) {
  auto answer = impl_->call("GET", "/v2.0/ports/" + id);
  if (!answer) return tl::unexpected(answer.error());
  auto o = Impl::member(*answer, "port");
  if (!o) return tl::unexpected(o.error());
  return port_of(*o);
}

Result<std::vector<std::string>> NeutronClient::live_agents() {
  auto answer = impl_->call("GET", "/v2.0/agents");
  if (!answer) return tl::unexpected(answer.error());
  std::vector<std::string> out;
  const auto* rows = answer->if_contains("agents");
  if (rows == nullptr || !rows->is_array()) return fail(Errc::corrupt, "GET /v2.0/agents: no list");
  for (const auto& row : rows->get_array()) {
    if (!row.is_object()) continue;
    const auto* alive = row.get_object().if_contains("alive");
    if (alive != nullptr && alive->is_bool() && alive->get_bool()) out.push_back(text_of(row.get_object(), "host"));
  }
  return out;
}

void NeutronClient::watch_ports(const std::string& network) {
  impl_->loop.call([&] {
    impl_->watching = std::make_unique<TaskGroup>(impl_->loop.executor(), "lab-ports");
    impl_->watching->spawn("watch", [impl = impl_.get(), network]() -> awaitable<void> {
      std::string copy = network;
      co_await impl->watch(copy);
    });
  });
}

std::map<std::string, Steady::time_point> NeutronClient::active_since() const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->active;
}

void NeutronClient::stop_watching() {
  impl_->loop.call([&] {
    if (impl_->watching) impl_->watching->cancel();
  });
}

}  // namespace calico::lab
