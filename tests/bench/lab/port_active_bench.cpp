// How long a user waits for ACTIVE: a port is made without a host, its tap is put where it will be bound (so that the
// machine's start does not count), then the clock runs from the request that binds it to the first answer that says
// ACTIVE. One at a time, then 50 at once. Also the resident memory of each role. Prints; asserts nothing.
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>

#include "core/log/log.hpp"
#include "core/module/control_client.hpp"
#include "modules/lab/demo.hpp"

using namespace calico;
using namespace calico::lab;

namespace {

constexpr std::size_t kPorts = 50;

double ms(Steady::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

void print(const char* what, std::vector<double> v) {
  std::sort(v.begin(), v.end());
  fmt::print("{:<28} n={} p50 {:.1f} ms, p90 {:.1f} ms, p99 {:.1f} ms, max {:.1f} ms\n", what, v.size(),
             v[v.size() / 2], v[v.size() * 9 / 10], v[v.size() * 99 / 100], v.back());
}

/// The part of it that passed on the computes, as felix keeps it for its endpoints: from the revision seen to the
/// kernel's acknowledgement, and from there to the status handed to the report.
void print_breakdown(Cluster& cluster) {
  std::vector<double> kernel, status;
  for (const auto& n : cluster.record().nodes) {
    if (!n.is_compute()) continue;
    auto reply = module::control_call(cluster.paths().node(n.name) + "/run/calico-node", "GET", "/felix/endpoints");
    if (!reply || reply->status != 200) {
      fmt::print("no breakdown of {}: {}\n", n.name, reply ? reply->json : reply.error().what);
      continue;
    }
    const auto answer = boost::json::parse(reply->json);
    for (const auto& e : answer.at("endpoints").as_array()) {
      const auto us = [&](const char* key) { return e.at(key).to_number<double>(); };
      if (us("seen_us") == 0 || us("kernel_us") == 0 || us("status_us") == 0) continue;
      kernel.push_back((us("kernel_us") - us("seen_us")) / 1000);
      status.push_back((us("status_us") - us("kernel_us")) / 1000);
    }
  }
  if (kernel.empty()) return;
  print("  seen -> kernel ack", kernel);
  print("  kernel ack -> status put", status);
}

Status run(Cluster& cluster) {
  if (auto s = cluster.build(); !s) return s;
  if (auto s = cluster.configure(); !s) return s;
  auto begin = Steady::now();
  if (auto s = cluster.start(cluster.all_nodes()); !s) return s;
  fmt::print("nodes ready after             {:.0f} ms\n", ms(Steady::now() - begin));
  auto api = api_of(cluster);
  if (!api) return tl::unexpected(api.error());
  auto live = wait_until("agents alive", Millis(30000), [&] {
    auto hosts = api->live_agents();
    return hosts && hosts->size() == cluster.record().options.computes;
  });
  if (!live) return live;
  auto network = make_network(*api, "demo", false);
  if (!network) return tl::unexpected(network.error());
  auto group = make_group(*api, "sg1", false, nullptr);
  if (!group) return tl::unexpected(group.error());
  auto sink = cluster.netns(std::string(kFabric));
  if (!sink) return tl::unexpected(sink.error());
  api->watch_ports(*network);

  int count = 0;
  auto prepare = [&](std::string& id, std::string& host) -> Status {
    host = fmt::format("compute-{}", 1 + static_cast<std::size_t>(count) % cluster.record().options.computes);
    auto port = api->create_port(*network, fmt::format("p{}", count), "", random_uuid(), {*group});
    if (!port) return tl::unexpected(port.error());
    id = port->id;
    auto wire = cluster.wire(host);
    if (!wire) return tl::unexpected(wire.error());
    std::string tap = "tap" + id.substr(0, 11);
    std::string peer = fmt::format("b{}", count++);
    if (auto s = (*wire)->add_veth(tap, *sink, peer); !s) return s;
    auto far = cluster.wire(std::string(kFabric));  // a card that runs: an endpoint without carrier is not up
    if (!far) return tl::unexpected(far.error());
    if (auto s = (*far)->set_up(peer); !s) return s;
    return (*wire)->set_up(tap);
  };
  auto active = [&](const std::string& id) {
    return wait_until(
        "ACTIVE of " + id, Millis(30000), [&] { return api->active_since().contains(id); }, Millis(1));
  };

  std::vector<double> one;
  for (std::size_t i = 0; i < kPorts; ++i) {
    std::string id;
    std::string host;
    if (auto s = prepare(id, host); !s) return s;
    auto from = Steady::now();
    auto bound = api->bind_port(id, host);
    if (!bound) return tl::unexpected(bound.error());
    if (auto s = active(id); !s) return s;
    one.push_back(ms(api->active_since()[id] - from));
  }
  print("one at a time", one);
  print_breakdown(cluster);

  std::vector<std::pair<std::string, std::string>> ports(kPorts);
  std::vector<double> many;
  for (auto& [id, host] : ports) {
    if (auto s = prepare(id, host); !s) return s;
  }
  auto begin_many = Steady::now();
  auto from = api->bind_ports(ports);
  if (!from) return tl::unexpected(from.error());
  fmt::print("{} requests answered in       {:.1f} ms\n", kPorts, ms(Steady::now() - begin_many));
  for (std::size_t i = 0; i < ports.size(); ++i) {
    if (auto s = active(ports[i].first); !s) return s;
    many.push_back(ms(api->active_since()[ports[i].first] - (*from)[i]));
  }
  print("50 at once", many);
  print_breakdown(cluster);
  for (const auto& n : cluster.record().nodes) {
    if (!n.roles.empty()) {
      fmt::print("resident {:<28} {:.1f} MiB\n", n.roles, static_cast<double>(resident_of(n.process)) / 1048576);
    }
  }
  return {};
}

}  // namespace

int main() {
  log::init(log::Level::error, log::Format::text);
  set_self_path_for_test(CALICO_BINARY_DIR "/bin/calico-node");
  InterruptGuard guard;
  Options options;
  options.name = fmt::format("b{}", ::getpid());
  options.reflectors = 1;
  const std::string dir = Cluster::dir_of(options);
  Status result;
  {
    auto cluster = Cluster::create(options);
    result = cluster ? run(*cluster) : Status(tl::unexpected(cluster.error()));
  }
  ignore_interrupts();
  auto cleaned = Cluster::down(dir);
  for (const auto* s : {&result, &cleaned}) {
    if (!*s) fmt::print(stderr, "port_active_bench: {}\n", s->error().what);
  }
  return result && cleaned ? 0 : 3;
}
