// The lab's machines: a namespace with one card, a real DHCP client and two listeners. Members of Cluster
// (cluster.hpp).
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "modules/lab/cluster.hpp"

namespace calico::lab {

namespace {

constexpr const char* kDhcpcd = "/usr/sbin/dhcpcd";

// No delays and no probing: the lab is the only one on the wire. No hooks that would write outside the VM.
std::string dhcpcd_conf(bool ipv6) {
  std::string out =
      "nodelay\nnoarp\nnoipv4ll\nduid ll\nslaac hwaddr\nnohook resolv.conf, hostname, timesyncd.conf, ntp.conf, "
      "ypbind\n"
      "option classless_static_routes, interface_mtu\nrequire dhcp_server_identifier\n";
  if (!ipv6) out += "ipv4only\n";
  return out;
}

}  // namespace

Status Cluster::boot_vm(const Vm& vm) {
  if (auto s = check_name(vm.name); !s) return s;
  if (record_.node(vm.name) != nullptr || record_.vm(vm.name) != nullptr || vm.name == kFabric) {
    return fail(Errc::exists, "'{}' is there already", vm.name);
  }
  const std::string dir = paths_.vm(vm.name);
  record_.vms.push_back(vm);
  if (auto s = save(); !s) return s;
  for (const char* sub : {"/run", "/dhcpcd"}) {
    if (auto s = make_dirs(dir + sub); !s) return s;
  }
  if (auto s = write_file(dir + "/dhcpcd.conf", dhcpcd_conf(record_.options.ipv6)); !s) return s;
  auto ns = make_netns(paths_.netns(vm.name));
  if (!ns) return tl::unexpected(ns.error());
  int number = ns->get();
  namespaces_.insert_or_assign(vm.name, std::move(*ns));
  // Its addresses are its own by Neutron's word; detecting duplicates would only cost a second each.
  if (auto s = set_sysctls(number, {{"ipv6.conf.all.accept_dad", "0"}, {"ipv6.conf.default.accept_dad", "0"}}); !s) {
    return s;
  }
  auto w = wire(vm.name);
  if (!w) return tl::unexpected(w.error());
  if (auto s = (*w)->set_up("lo"); !s) return s;

  auto self = self_path();
  if (!self) return tl::unexpected(self.error());
  auto notify = NotifySocket::open(dir + "/run");
  if (!notify) return tl::unexpected(notify.error());
  Fd log(::open((dir + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log) return fail_errno(errno, dir + "/log");
  SpawnSpec spec;
  spec.argv = {*self, "lab", "vm-listen", vm.name, "22", "2222"};
  spec.environment = environment();
  spec.environment["NOTIFY_SOCKET"] = "/run/notify";
  spec.netns = number;
  spec.view = view_of(paths_, record_, vm.name);
  spec.output = log.get();
  auto child = spawn(spec);
  if (!child) return tl::unexpected(child.error());
  record_.vm(vm.name)->listener = child->id();
  if (auto s = save(); !s) return s;
  if (auto s = child->release(); !s) return s;
  Status ended;
  auto ready = wait_until(fmt::format("listening on {}", vm.name), Millis(30000), [&] {
    notify->drain();
    if (auto status = child->try_wait()) {
      ended = fail(Errc::closed, "the listener of {} {}; see {}/log", vm.name, describe_wait_status(*status), dir);
    }
    return notify->ready() || !ended;
  });
  if (!ended) return ended;
  return ready;
}

Status Cluster::plug_vm(const Vm& vm) {
  Vm* known = record_.vm(vm.name);
  if (known == nullptr) return fail(Errc::not_found, "no VM '{}'", vm.name);
  const Node* node = record_.node(vm.compute);
  if (node == nullptr || !node->is_compute()) return fail(Errc::invalid, "'{}' is no compute node", vm.compute);
  auto mac = Mac::parse(vm.mac);
  if (!mac) return tl::unexpected(mac.error());
  if (vm.port_id.size() < 11) return fail(Errc::invalid, "port id '{}' is too short", vm.port_id);
  ProcessId listener = known->listener;
  *known = vm;
  known->listener = listener;
  if (auto s = save(); !s) return s;

  auto host = wire(vm.compute);
  auto guest = wire(vm.name);
  auto ns = netns(vm.name);
  if (!host) return tl::unexpected(host.error());
  if (!guest) return tl::unexpected(guest.error());
  if (!ns) return tl::unexpected(ns.error());
  Mac outside = *mac;  // libvirt's habit: the host's end has the guest's MAC with fe in front
  outside.b[0] = 0xfe;
  if (auto s = (*host)->add_veth(known->tap(), *ns, "eth0", outside, *mac); !s) return s;
  if (auto s = (*guest)->set_up("eth0"); !s) return s;
  return (*host)->set_up(known->tap());
}

Status Cluster::run_vm(const std::string& name) {
  Vm* known = record_.vm(name);
  if (known == nullptr) return fail(Errc::not_found, "no VM '{}'", name);
  if (::access(kDhcpcd, X_OK) != 0) return fail(Errc::unavailable, "{} is missing: install dhcpcd-base", kDhcpcd);
  auto ns = netns(name);
  if (!ns) return tl::unexpected(ns.error());
  const std::string dir = paths_.vm(name);
  Fd log(::open((dir + "/dhcp.log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log) return fail_errno(errno, dir + "/dhcp.log");
  SpawnSpec spec;
  spec.argv = {kDhcpcd, "-B", "-d", "-f", dir + "/dhcpcd.conf", "eth0"};
  spec.environment = environment();
  spec.netns = *ns;
  spec.view = view_of(paths_, record_, name);
  spec.output = log.get();
  auto child = spawn(spec);
  if (!child) return tl::unexpected(child.error());
  known->dhcp = child->id();
  if (auto s = save(); !s) return s;
  return child->release();
}

Status Cluster::wait_addresses(const std::string& name, Millis limit) {
  const Vm* vm = record_.vm(name);
  if (vm == nullptr) return fail(Errc::not_found, "no VM '{}'", name);
  auto ns = netns(name);
  auto w = wire(name);
  if (!ns) return tl::unexpected(ns.error());
  if (!w) return tl::unexpected(w.error());
  Fd events;
  auto opened = in_netns(*ns, [&]() -> Status {
    events = Fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
    sockaddr_nl a{};
    a.nl_family = AF_NETLINK;
    a.nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
    if (!events || ::bind(events.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) {
      return fail_errno(errno, "address events of " + name);
    }
    return {};
  });
  if (!opened) return opened;
  auto deadline = Steady::now() + limit;
  for (;;) {
    auto have = (*w)->addresses_of("eth0");
    if (!have) return tl::unexpected(have.error());
    std::string missing;
    for (const auto& text : vm->ips) {
      auto ip = Ip::parse(text);
      if (!ip || std::find(have->begin(), have->end(), *ip) == have->end()) missing += " " + text;
    }
    if (missing.empty()) return {};
    if (interrupted()) return fail(Errc::canceled, "interrupted");
    auto left = std::chrono::duration_cast<Millis>(deadline - Steady::now());
    if (left.count() <= 0) {
      std::string log = tail_of(paths_.vm(name) + "/dhcp.log", 15);
      return fail(Errc::timeout, "{}: the DHCP client did not bring{} within {} s; the end of its log:\n{}", name,
                  missing, limit.count() / 1000, log);
    }
    pollfd p{events.get(), POLLIN, 0};
    ::poll(&p, 1, static_cast<int>(std::min<std::int64_t>(left.count(), 100)));
    std::array<char, 8192> sink;
    while (::recv(events.get(), sink.data(), sink.size(), MSG_DONTWAIT) > 0) {
    }
  }
}

Status Cluster::remove_vm(const std::string& name) {
  Vm* vm = record_.vm(name);
  if (vm == nullptr) return fail(Errc::not_found, "no VM '{}'", name);
  std::vector<pid_t> pids;
  for (const auto& p : {vm->listener, vm->dhcp}) {
    if (alive(p)) pids.push_back(p.pid);
  }
  if (auto ns = netns(name)) {
    for (pid_t p : processes_in({*ns})) pids.push_back(p);
  }
  if (auto s = kill_all(pids); !s) return s;
  // The card goes first, as when libvirt destroys a domain: the namespace may linger for its last reference.
  if (vm->port_id.size() >= 11) {
    if (auto w = wire(vm->compute)) {
      if (auto s = (*w)->del_link(vm->tap()); !s && s.error().code != Errc::not_found) return s;
    }
  }
  wires_.erase(name);
  namespaces_.erase(name);
  if (auto s = remove_netns(paths_.netns(name)); !s) return s;
  if (auto s = remove_tree(paths_.vm(name)); !s) return s;
  std::erase_if(record_.vms, [&](const Vm& v) { return v.name == name; });
  return save();
}

int vm_listen_main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: vm-listen NAME PORT...\n", stderr);
    return 2;
  }
  const std::string banner = fmt::format("{} {}\r\n", kBanner, argv[1]);
  std::vector<pollfd> ports;
  for (int i = 2; i < argc; ++i) {
    int port = std::atoi(argv[i]);
    int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int off = 0;
    int on = 1;
    sockaddr_in6 a{};
    a.sin6_family = AF_INET6;
    a.sin6_port = htons(static_cast<std::uint16_t>(port));
    if (fd < 0 || ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0 ||
        ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        ::bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof a) != 0 || ::listen(fd, 128) != 0) {
      std::fprintf(stderr, "port %d: %s\n", port, std::strerror(errno));
      return 3;
    }
    ports.push_back({fd, POLLIN, 0});
  }
  if (const char* path = std::getenv("NOTIFY_SOCKET")) {
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    std::strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    (void)!::sendto(fd.get(), "READY=1", 7, MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&a), sizeof a);
  }
  for (;;) {
    if (::poll(ports.data(), ports.size(), -1) < 0 && errno != EINTR) return 3;
    for (const auto& p : ports) {
      if ((p.revents & POLLIN) == 0) continue;
      Fd client(::accept4(p.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (client) (void)!::send(client.get(), banner.data(), banner.size(), MSG_NOSIGNAL);
    }
  }
}

}  // namespace calico::lab
