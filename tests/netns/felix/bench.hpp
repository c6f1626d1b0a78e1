#pragma once
/// A host with VMs for felix's tests: one namespace is the host, each VM and each neighbour node is another; felix's
/// Engine runs in this process with its sockets in the host's namespace.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <boost/json.hpp>
#include <initializer_list>
#include <memory>
#include <string>

#include "core/config/load.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "modules/felix/engine.hpp"
#include "modules/felix/settings.hpp"
#include "tests/netns/felix/kernel_state.hpp"
#include "tests/support/fake_report.hpp"
#include "tests/support/fake_view.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {

/// A socket of a namespace, closed at the end of scope.
class Sock {
 public:
  Sock(const Netns& ns, int type, bool v6 = false)
      : v6_(v6), fd_(ns.in([&] { return ::socket(v6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0); })) {
    if (fd_ < 0) throw std::runtime_error("socket");
    const int one = 1;
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd_, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    if (v6) setsockopt(fd_, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  }
  Sock(Sock&& o) noexcept : v6_(o.v6_), fd_(std::exchange(o.fd_, -1)) {}
  Sock& operator=(Sock&&) = delete;
  ~Sock() {
    if (fd_ >= 0) ::close(fd_);
  }
  Sock& device(const std::string& name) {
    if (setsockopt(fd_, SOL_SOCKET, SO_BINDTODEVICE, name.c_str(), static_cast<socklen_t>(name.size() + 1)) != 0)
      throw std::runtime_error("bind to " + name);
    return *this;
  }
  Sock& bind(const std::string& ip, std::uint16_t port) {
    with(ip, port, [&](const sockaddr* a, socklen_t n) {
      if (::bind(fd_, a, n) != 0) throw std::runtime_error("bind " + ip + ": " + strerror(errno));
    });
    return *this;
  }
  /// Receive buffer, beyond the host's limit.
  Sock& room(int bytes) {
    if (setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) throw std::runtime_error("buffer");
    return *this;
  }
  Sock& listen() {
    ::listen(fd_, 16);
    return *this;
  }
  void send(const std::string& text, const std::string& ip, std::uint16_t port) {
    with(ip, port, [&](const sockaddr* a, socklen_t n) { (void)::sendto(fd_, text.data(), text.size(), 0, a, n); });
  }
  /// The next datagram, "" after `ms`.
  std::string receive(int ms = 30000) {
    pollfd p{fd_, POLLIN, 0};
    if (::poll(&p, 1, ms) != 1) return "";
    char buf[2048];
    const auto n = ::recv(fd_, buf, sizeof buf, 0);
    return n > 0 ? std::string(buf, static_cast<std::size_t>(n)) : "";
  }
  bool connect(const std::string& ip, std::uint16_t port, int ms) {
    bool ok = false;
    with(ip, port, [&](const sockaddr* a, socklen_t n) {
      const int r = ::connect(fd_, a, n);
      if (r == 0) return void(ok = true);
      if (errno != EINPROGRESS) return;
      pollfd p{fd_, POLLOUT, 0};
      if (::poll(&p, 1, ms) != 1) return;
      int e = 0;
      socklen_t size = sizeof e;
      getsockopt(fd_, SOL_SOCKET, SO_ERROR, &e, &size);
      ok = e == 0;
      error_ = e;
    });
    return ok;
  }
  /// Why the connection was not made; 0 = it was, or nothing came.
  int last_error() const { return error_; }

 private:
  template <class F>
  void with(const std::string& ip, std::uint16_t port, F&& f) {
    if (v6_) {
      sockaddr_in6 a{};
      a.sin6_family = AF_INET6;
      a.sin6_port = htons(port);
      inet_pton(AF_INET6, ip.c_str(), &a.sin6_addr);
      f(reinterpret_cast<const sockaddr*>(&a), static_cast<socklen_t>(sizeof a));
    } else {
      sockaddr_in a{};
      a.sin_family = AF_INET;
      a.sin_port = htons(port);
      inet_pton(AF_INET, ip.c_str(), &a.sin_addr);
      f(reinterpret_cast<const sockaddr*>(&a), static_cast<socklen_t>(sizeof a));
    }
  }
  bool v6_;
  int fd_;
  int error_ = 0;
};

inline bool is_v6(const std::string& ip) { return ip.find(':') != std::string::npos; }

/// A TCP port that completes connections.
inline Sock listener(const Netns& ns, std::uint16_t port, bool v6 = false) {
  Sock s(ns, SOCK_STREAM, v6);
  s.bind(v6 ? "::" : "0.0.0.0", port).listen();
  return s;
}
/// True when the connection is made within `ms`.
inline bool reaches(const Netns& from, const std::string& ip, std::uint16_t port, int ms = 3000) {
  Sock s(from, SOCK_STREAM | SOCK_NONBLOCK, is_v6(ip));
  return s.connect(ip, port, ms);
}
/// A refusal is silence: half a second of it.
inline bool refused(const Netns& from, const std::string& ip, std::uint16_t port) {
  return !reaches(from, ip, port, 500);
}
inline bool pings(const Netns& from, const std::string& ip, int seconds = 2) {
  return from.try_run("ping -c 1 -W " + std::to_string(seconds) + " " + ip).status == 0;
}

struct Vm {
  Netns ns;
  int n;
  std::string port, tap, mac, ip, ip6;
  explicit Vm(int number)
      : ns("vm" + std::to_string(number)),
        n(number),
        port("0000000" + std::to_string(number) + "-aaaa-4000-8000-000000000000"),
        tap(model::interface_of_port(port)),
        mac("fa:16:3e:00:00:0" + std::to_string(number)),
        ip("10.65.0.1" + std::to_string(number)),
        ip6("fd65::1" + std::to_string(number)) {}
};

class Bench {
 public:
  Netns host{"host"};
  Netns out{"out"};  ///< another node, and the world: 192.168.0.2, on the host's eth0
  FakeView view;
  FakeReport report;
  std::unique_ptr<felix::Engine> engine;
  std::string fatal, status;
  felix::Settings settings;  // as told; under the mutex
  metrics::Registry metrics;
  metrics::Health health;
  std::vector<std::string> sets = {"node.name=h"};
  bool own_tables = true;  ///< false: as on a kernel without table owners
  std::atomic<bool> ready = false;
  std::atomic<bool> block = false, blocked = false;  ///< holds felix's loop at its next status line
  std::mutex mutex;

  explicit Bench(bool usable = true) : view(usable) {
    veth(host, "eth0", out, "eth0");
    host.run(
        "ip addr add 192.168.0.11/24 dev eth0; ip -6 addr add fd00::11/64 dev eth0 nodad; ip route add default via "
        "192.168.0.2");
    out.run(
        "ip addr add 192.168.0.2/24 dev eth0; ip -6 addr add fd00::2/64 dev eth0 nodad; ip route add 10.65.0.0/24 via "
        "192.168.0.11; ip -6 route add fd65::/64 via fd00::11");
    view.set(std::string(model::kClusterInformation), R"({"spec":{"datastoreReady":true}})");
    view.set(model::node_key("ctl"),
             R"({"spec":{"bgp":{"ipv4Address":"192.168.0.2/24"},"addresses":[{"address":"fd00::2"}]}})");
  }
  ~Bench() {
    if (engine) engine->stop();
  }

  /// The VM's end of its interface: addresses as its DHCP client would set them.
  void plug(const Vm& vm, bool addresses = true) {
    host.run("ip link add " + vm.tap + " type veth peer name eth0 netns " + vm.ns.name());
    vm.ns.run("ip link set eth0 address " + vm.mac + " up");
    host.run("ip link set " + vm.tap + " up");
    if (!addresses) return;
    vm.ns.run("ip addr add " + vm.ip + "/24 dev eth0; ip route add default via 10.65.0.1");
    vm.ns.run("ip -6 addr add " + vm.ip6 +
              "/128 dev eth0 nodad; ip -6 route add fd65::1 dev eth0; ip -6 route add default via fd65::1 dev eth0");
  }
  void unplug(const Vm& vm) { host.run("ip link del " + vm.tap); }

  static std::string key(const Vm& vm) {
    return model::workload_endpoint_key("openstack", {"h", "openstack", fmt::format("vm{}", vm.n), vm.port});
  }
  std::string status_of(const Vm& vm) const {
    return report
        .get(model::endpoint_status_key("", "openstack", {"h", "openstack", fmt::format("vm{}", vm.n), vm.port}))
        .value_or("none");
  }
  void endpoint(const Vm& vm, const std::vector<std::string>& groups,
                const std::function<void(model::WorkloadEndpoint&)>& more = {}) {
    model::WorkloadEndpoint w;
    w.meta.ns = "openstack";
    w.orchestrator = "openstack";
    w.workload = fmt::format("vm{}", vm.n);
    w.node = "h";
    w.endpoint = vm.port;
    w.interface_name = vm.tap;
    w.mac = *Mac::parse(vm.mac);
    w.ipv4_gateway = *Ip::parse("10.65.0.1");
    w.ipv6_gateway = *Ip::parse("fd65::1");
    w.ip_networks = {*Prefix::parse(vm.ip), *Prefix::parse(vm.ip6)};
    for (const auto& g : groups) w.meta.labels[std::string(model::kLabelSgPrefix) + g] = g;
    if (more) more(w);
    view.set(key(vm), to_json(w));
  }
  /// Interface and endpoint, in these groups.
  void place(std::initializer_list<const Vm*> vms, const std::vector<std::string>& groups) {
    for (const auto* vm : vms) plug(*vm), endpoint(*vm, groups);
  }
  void gone(const Vm& vm) { view.set(key(vm), std::nullopt); }

  /// A security group: these ingress rules, everything out.
  void group(const std::string& name, const std::string& ingress) {
    view.set(
        model::network_policy_key("openstack", "ossg.default." + name),
        fmt::format(R"j({{"metadata":{{"name":"ossg.default.{0}","namespace":"openstack"}},"spec":{{"ingress":[{1}],
               "egress":[{{"action":"Allow","ipVersion":4}},{{"action":"Allow","ipVersion":6}}],
               "selector":"has(sg.projectcalico.org/openstack-{0})"}}}})j",
                    name, ingress));
  }
  /// Rules that let everything in.
  static constexpr const char* kAll = R"({"action":"Allow","ipVersion":4},{"action":"Allow","ipVersion":6})";
  static std::string tcp(int port) {
    return fmt::format(
        R"({{"action":"Allow","ipVersion":4,"protocol":6,"destination":{{"ports":[{0}]}},"source":{{"nets":["0.0.0.0/0"]}}}},
                          {{"action":"Allow","ipVersion":6,"protocol":6,"destination":{{"ports":[{0}]}}}})",
        port);
  }
  static std::string icmp_from(const std::string& group) {
    return fmt::format(
        R"j({{"action":"Allow","ipVersion":4,"protocol":"ICMP","source":{{"selector":"has(sg.projectcalico.org/openstack-{0})"}}}},
                           {{"action":"Allow","ipVersion":6,"protocol":"ICMPv6","source":{{"selector":"has(sg.projectcalico.org/openstack-{0})"}}}})j",
        group);
  }

  void start() {
    auto schema = std::make_shared<config::Schema>();
    ASSERT_TRUE(schema->add(config::core_params()));
    ASSERT_TRUE(schema->add(felix::params()));
    auto loaded = config::load(schema, {.files = {"/dev/null"}, .sets = sets, .environment = {}, .host_name = "h"});
    felix::check(loaded.config, loaded.faults);
    ASSERT_TRUE(loaded.faults.empty()) << loaded.faults[0].to_string();
    felix::Engine::Hooks hooks;
    hooks.ready = [this] { ready = true; };
    hooks.status = [this](std::string line) {
      {
        std::lock_guard lock(mutex);
        status = std::move(line);
      }
      if (block.load()) {
        blocked = true;
        while (block.load()) std::this_thread::yield();
        blocked = false;
      }
    };
    hooks.fatal = [this](std::string why) {
      std::lock_guard lock(mutex);
      fatal = std::move(why);
    };
    hooks.metrics = &metrics;
    hooks.health = &health;
    hooks.own_tables = own_tables;
    hooks.configured = [this](const felix::Settings& now) {
      std::lock_guard lock(mutex);
      settings = now;
    };
    ready = false;
    engine = std::make_unique<felix::Engine>("h", loaded.config, view, report, std::move(hooks));
    const auto ok = host.in([&] { return engine->start(); });
    ASSERT_TRUE(ok) << ok.error().what;
    ASSERT_TRUE(eventually("ready", [&] { return ready.load(); }));
  }
  /// And waits until these are up.
  void start(std::initializer_list<const Vm*> vms) {
    ASSERT_NO_FATAL_FAILURE(start());
    for (const auto* vm : vms) ASSERT_TRUE(up(*vm));
  }
  /// The usual beginning: these VMs in a group "open", which lets everything in, felix running and all of them up.
  void start_open(std::initializer_list<const Vm*> vms) {
    group("open", kAll);
    place(vms, {"open"});
    start(vms);
  }
  void stop() {
    engine->stop();
    engine.reset();
  }
  boost::json::value described() { return boost::json::parse(engine->endpoints_json()); }
  boost::json::value described(const Vm& vm) {
    const auto all = described();
    for (const auto& e : all.at("endpoints").as_array())
      if (e.at("endpoint").as_string() == vm.port.c_str()) return e;
    return {};
  }
  testing::AssertionResult up(const Vm& vm) {
    auto r = eventually(vm.tap + " up", [&] { return status_of(vm) == R"({"status":"up"})"; });
    if (!r) r << "\n" << engine->endpoints_json();
    return r;
  }
  std::string kernel(bool counters = true) { return kernel_text(host, counters); }
};

}  // namespace calico::test
