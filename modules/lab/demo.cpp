#include "modules/lab/demo.hpp"

#include <algorithm>
#include <cstdio>
#include <set>
#include <thread>

#include "modules/lab/report.hpp"

namespace calico::lab {

namespace {

constexpr Millis kStepLimit{30000};

class Demo {
 public:
  explicit Demo(const DemoOptions& options)
      : options_(options), out_(options.json_file == "-" ? stderr : stdout), begin_(Steady::now()) {}

  int run();

 private:
  Status build();
  Status make_cloud();
  Status await_agents();
  Status await_sessions();
  Status make_instances();
  Status probe();
  Status change_rule();
  void collect_nodes();
  Status read_sessions();
  bool same_group(const Attempt& a) const {
    return findings_.instances[a.from].security_group == findings_.instances[a.to].security_group;
  }
  double seconds() const { return std::chrono::duration<double>(Steady::now() - begin_).count(); }
  void say(const std::string& text) const {
    std::fputs(text.c_str(), out_);
    std::fflush(out_);
  }
  void step(std::string_view what) const { say(fmt::format("[{:6.2f} s] {}\n", seconds(), what)); }
  std::string vm_name(std::size_t i) const { return fmt::format("vm-{}", i + 1); }

  const DemoOptions& options_;
  std::FILE* out_;
  Steady::time_point begin_;
  std::optional<Cluster> cluster_;
  std::optional<NeutronClient> api_;
  std::string network_;
  std::vector<std::string> groups_;
  std::string icmp_rule_;  // of the first group
  Findings findings_;
};

Status Demo::build() {
  auto cluster = Cluster::create(options_.lab);
  if (!cluster) return tl::unexpected(cluster.error());
  cluster_ = std::move(*cluster);
  const auto& o = options_.lab;
  step(fmt::format("building: 1 controller, {} reflector{}, {} computes", o.reflectors, o.reflectors == 1 ? "" : "s",
                   o.computes));
  if (auto s = cluster_->build(); !s) return s;
  if (auto s = cluster_->configure(); !s) return s;
  if (auto s = cluster_->launch(cluster_->all_nodes()); !s) return s;
  // The machines boot while the nodes start; they have no card yet.
  for (std::size_t i = 0; i < options_.vms; ++i) {
    Vm vm;
    vm.name = vm_name(i);
    if (auto s = cluster_->boot_vm(vm); !s) return s;
  }
  if (auto s = cluster_->await_ready(); !s) return s;
  step("all nodes say READY=1");
  return {};
}

Status Demo::make_cloud() {
  auto api = api_of(*cluster_);
  if (!api) return tl::unexpected(api.error());
  api_ = std::move(*api);
  auto network = make_network(*api_, "demo", options_.lab.ipv6);
  if (!network) return tl::unexpected(network.error());
  network_ = *network;
  cluster_->set_network_id(network_);
  for (const char* name : {"sg1", "sg2"}) {
    auto group = make_group(*api_, name, options_.lab.ipv6, groups_.empty() ? &icmp_rule_ : nullptr);
    if (!group) return tl::unexpected(group.error());
    groups_.push_back(*group);
  }
  step("network demo, its subnets, security groups sg1 and sg2 are made over the API");
  return cluster_->save();
}

Status Demo::await_agents() {
  std::set<std::string> missing;
  Status failed;
  auto s = wait_until("every compute's agent alive in the API", kStepLimit, [&] {
    missing.clear();
    for (const auto& n : cluster_->record().nodes) {
      if (n.is_compute()) missing.insert(n.name);
    }
    auto live = api_->live_agents();
    if (!live) {
      failed = tl::unexpected(live.error());
      return false;
    }
    failed = {};
    for (const auto& host : *live) missing.erase(host);
    return missing.empty();
  });
  if (s) return s;
  if (!failed) return failed;
  return wrap(s.error(), missing.empty() ? "agents" : "no agent of " + *missing.begin());
}

Status Demo::read_sessions() {
  std::vector<BgpRow> rows;
  for (const auto& r : cluster_->record().nodes) {
    if (!r.is_reflector()) continue;
    auto sessions = bgp_sessions(cluster_->paths(), r.name);
    if (!sessions) return tl::unexpected(sessions.error());
    for (const auto& n : cluster_->record().nodes) {
      if (n.roles.empty() || n.name == r.name) continue;
      auto state_with = [&](const Ip& address) {
        auto it = std::find_if(sessions->begin(), sessions->end(),
                               [&](const Session& s) { return s.peer == address.to_string(); });
        return it == sessions->end() ? std::string() : it->state;
      };
      // Each family has a session of its own; the second one counts where it exists and where it has to.
      std::string state = state_with(n.mgmt4);
      std::string state6 = state_with(n.mgmt6);
      if (state.empty()) state = "no session";
      if (state == "Established" && state6 != "Established" && (options_.lab.ipv6 || !state6.empty())) {
        state = "IPv6: " + (state6.empty() ? "no session" : state6);
      }
      rows.push_back({r.name, n.name, state});
    }
  }
  findings_.bgp = std::move(rows);
  return {};
}

Status Demo::await_sessions() {
  Status last;
  auto s = wait_until("Established at every BGP session", kStepLimit, [&] {
    last = read_sessions();
    return last && findings_.bgp_ok();
  });
  if (!s && s.error().code == Errc::canceled) return s;
  if (!last) return last;
  return {};  // a session that is down is a finding, not an end
}

Status Demo::make_instances() {
  std::vector<const Node*> computes;
  for (const auto& n : cluster_->record().nodes) {
    if (n.is_compute()) computes.push_back(&n);
  }
  api_->watch_ports(network_);
  std::vector<Steady::time_point> posted(options_.vms);
  std::vector<Steady::time_point> running(options_.vms);
  std::vector<std::string> ports;
  for (std::size_t i = 0; i < options_.vms; ++i) {
    Vm vm;
    vm.name = vm_name(i);
    vm.compute = computes[i % computes.size()]->name;
    // Half and half, and with two or more machines a compute both groups are on each.
    std::size_t group = (i % computes.size() + i / computes.size()) % 2;
    vm.security_group = group == 0 ? "sg1" : "sg2";
    vm.device_id = random_uuid();
    posted[i] = Steady::now();
    auto port = api_->create_port(network_, vm.name, vm.compute, vm.device_id, {groups_[group]});
    if (!port) return tl::unexpected(port.error());
    if (port->vif_type != "tap") {
      return fail(Errc::unavailable, "the port of {} is not bound on {}: vif_type {}", vm.name, vm.compute,
                  port->vif_type);
    }
    vm.port_id = port->id;
    vm.mac = port->mac;
    vm.ips = port->ips;
    ports.push_back(port->id);
    if (auto s = cluster_->plug_vm(vm); !s) return s;
    findings_.instances.push_back({vm.name, vm.compute, vm.tap(), vm.mac, vm.security_group, vm.ips});
  }
  step(fmt::format("{} instances have their ports and cards", options_.vms));
  auto active = wait_until("ACTIVE of every port", kStepLimit, [&] {
    auto seen = api_->active_since();
    return std::all_of(ports.begin(), ports.end(), [&](const auto& id) { return seen.contains(id); });
  });
  api_->stop_watching();
  if (!active && active.error().code == Errc::canceled) return active;
  auto seen = api_->active_since();
  for (std::size_t i = 0; i < ports.size(); ++i) {
    if (auto it = seen.find(ports[i]); it != seen.end()) {
      findings_.instances[i].active_ms = std::chrono::duration<double, std::milli>(it->second - posted[i]).count();
    }
  }
  if (!active) return active;
  step("all ports are ACTIVE");
  for (std::size_t i = 0; i < ports.size(); ++i) {
    running[i] = Steady::now();
    if (auto s = cluster_->run_vm(vm_name(i)); !s) return s;
  }
  for (std::size_t i = 0; i < ports.size(); ++i) {
    if (auto s = cluster_->wait_addresses(vm_name(i), kStepLimit); !s) return s;
    findings_.instances[i].address_ms = std::chrono::duration<double, std::milli>(Steady::now() - running[i]).count();
  }
  step("all instances have their addresses by DHCP");
  return {};
}

Status Demo::probe() {
  for (const auto& row : findings_.instances) {
    Guest g;
    g.name = row.name;
    auto ns = cluster_->netns(row.name);
    auto host = cluster_->wire(row.compute);
    if (!ns) return tl::unexpected(ns.error());
    if (!host) return tl::unexpected(host.error());
    g.ns = *ns;
    for (const auto& text : row.ips) {
      auto ip = Ip::parse(text);
      if (!ip) return tl::unexpected(ip.error());
      (ip->is_v4() ? g.v4 : g.v6) = *ip;
    }
    auto mac = Mac::parse(row.mac);
    auto gateway = (*host)->mac_of(row.interface);
    if (!mac) return tl::unexpected(mac.error());
    if (!gateway) return tl::unexpected(gateway.error());
    g.mac = *mac;
    g.gateway = *gateway;
    findings_.guests.push_back(std::move(g));
  }
  const auto& guests = findings_.guests;
  auto& f = findings_;
  f.ping = {"Ping", 0, all_pairs(guests)};
  for (auto& a : f.ping.rows) a.expected = same_group(a);
  f.ssh = {"SSH (TCP 22)", 22, all_pairs(guests)};
  f.refused = {"No rule for it (TCP 2222)", 2222, all_pairs(guests)};
  for (auto& a : f.refused.rows) a.expected = false;
  f.refused_control = {"Control: TCP 2222 from inside the same machine", 2222, {}};
  for (std::size_t i = 0; i < guests.size(); ++i) {
    for (Family family : {Family::v4, Family::v6}) {
      if (guests[i].ip(family)) f.refused_control.rows.push_back({i, i, family});
    }
  }
  if (auto s = run_matrices(guests, {&f.ping, &f.ssh, &f.refused, &f.refused_control}, {}); !s) return s;
  step("ping, SSH and refused matrices are measured");

  // To each machine's next group-mate, elsewhere if possible, with the address of a third.
  for (std::size_t i = 0; i < guests.size(); ++i) {
    auto next = [&](auto&& good) {
      for (std::size_t k = 1; k < guests.size(); ++k) {
        std::size_t c = (i + k) % guests.size();
        if (good(c)) return c;
      }
      return guests.size();
    };
    const auto& rows = f.instances;
    std::size_t to = next([&](std::size_t c) {
      return rows[c].security_group == rows[i].security_group && rows[c].compute != rows[i].compute;
    });
    if (to == guests.size()) to = next([&](std::size_t c) { return rows[c].compute != rows[i].compute; });
    if (to == guests.size()) to = next([](std::size_t) { return true; });
    std::size_t as = next([&](std::size_t c) { return c != to && rows[c].security_group == rows[i].security_group; });
    if (as == guests.size()) as = next([&](std::size_t c) { return c != to; });
    for (Family family : {Family::v4, Family::v6}) {
      if (to == guests.size() || !guests[i].ip(family) || !guests[to].ip(family)) continue;
      for (Spoof kind : {Spoof::none, Spoof::ip, Spoof::mac}) {
        if (kind == Spoof::ip && as == guests.size()) continue;
        f.spoof.push_back({i, to, as, family, kind});
      }
    }
  }
  if (auto s = run_spoofs(guests, f.spoof, {Millis(10000), Millis(700)}); !s) return s;
  step("spoofed packets are sent and counted");
  return {};
}

Status Demo::change_rule() {
  auto& f = findings_;
  f.rule_change_group = "sg1";
  for (bool deleted : {true, false}) {
    if (deleted) {
      if (auto s = api_->remove("security-group-rules", icmp_rule_); !s) return s;
    } else {
      auto rule = api_->create_rule(groups_[0], {.ethertype = "IPv4", .protocol = "icmp", .remote_group = groups_[0]});
      if (!rule) return tl::unexpected(rule.error());
      icmp_rule_ = *rule;
    }
    auto answered = Steady::now();
    RuleStep step_row;
    step_row.step = deleted ? "deleted" : "added";
    step_row.ping = f.ping;
    step_row.ping.title = fmt::format("Ping with the ICMP rule of sg1 {}", deleted ? "deleted" : "added again");
    for (auto& a : step_row.ping.rows) {
      a.expected = same_group(a) && !(deleted && a.family == Family::v4 && f.instances[a.to].security_group == "sg1");
    }
    // Short rounds until one is as it should be, then a full one that must be so as well: that is what is reported.
    for (;;) {
      if (auto s = run_matrices(f.guests, {&step_row.ping}, {Millis(400), Millis(60)}); !s) return s;
      if (step_row.ping.as_expected() || Steady::now() - answered > kStepLimit) break;
    }
    step_row.followed_ms = std::chrono::duration<double, std::milli>(Steady::now() - answered).count();
    if (auto s = run_matrices(f.guests, {&step_row.ping}, {Millis(5000), Millis(600)}); !s) return s;
    f.rule_change.push_back(std::move(step_row));
    step(fmt::format("ICMP rule of sg1 {}: pings follow within {:.0f} ms", deleted ? "deleted" : "added again",
                     f.rule_change.back().followed_ms));
  }
  return {};
}

void Demo::collect_nodes() {
  findings_.nodes.clear();
  if (!cluster_) return;
  for (const auto& n : cluster_->record().nodes) {
    if (!n.roles.empty()) findings_.nodes.push_back({n.name, n.roles, n.mgmt4.to_string(), alive(n.process)});
  }
}

int Demo::run() {
  InterruptGuard guard;
  Status result;
  auto go = [&](Status (Demo::*what)()) {
    if (result) result = (this->*what)();
  };
  go(&Demo::build);
  go(&Demo::make_cloud);
  go(&Demo::await_agents);
  go(&Demo::await_sessions);
  findings_.setup_s = seconds();
  if (result) step("the cluster stands: agents alive, BGP sessions settled");
  go(&Demo::make_instances);
  go(&Demo::probe);
  go(&Demo::change_rule);
  if (result) result = read_sessions();  // as they are at the end
  collect_nodes();
  findings_.total_s = seconds();
  bool ours = cluster_.has_value();
  int code = 0;
  if (!result) {
    findings_.error = result.error().what;
    code = result.error().code == Errc::canceled                                                    ? 130
           : !ours && (result.error().code == Errc::invalid || result.error().code == Errc::exists) ? 2
                                                                                                    : 3;
  } else if (!findings_.ok()) {
    code = 1;
  }

  const auto& f = findings_;
  std::string tables = "\n";
  auto add = [&](const std::string& t) {
    if (!t.empty()) tables += t + "\n";
  };
  if (!f.nodes.empty()) add(nodes_table(f));
  if (!f.bgp.empty()) add(bgp_table(f));
  if (!f.instances.empty()) add(instances_table(f));
  for (const Matrix* m : {&f.ping, &f.ssh, &f.refused}) add(matrix_table(f.guests, *m));
  if (!f.refused_control.rows.empty()) {
    add(fmt::format("{}: {}\n", f.refused_control.title,
                    f.refused_control.as_expected() ? "answered everywhere, as expected" : "NOT AS EXPECTED"));
  }
  if (!f.spoof.empty()) add(spoof_table(f));
  for (const auto& s : f.rule_change) {
    add(matrix_table(f.guests, s.ping) + fmt::format("  followed the API within {:.0f} ms\n", s.followed_ms));
  }
  if (code == 130) {
    tables = "\ninterrupted\n";
  } else {
    if (!f.error.empty()) tables += "stopped: " + f.error + "\n";
    tables += fmt::format("{} after {:.1f} s (the cluster stood after {:.1f} s)\n",
                          code == 0 ? "ALL IS AS EXPECTED" : "NOT ALL IS AS EXPECTED", f.total_s, f.setup_s);
  }
  say(tables);
  if (!options_.json_file.empty()) {
    std::string text = to_json(f);
    if (options_.json_file == "-") {
      std::fputs(text.c_str(), stdout);
    } else if (auto s = write_file(options_.json_file, text); !s) {
      say("lab: " + s.error().what + "\n");
      if (code == 0) code = 3;
    }
  }
  ignore_interrupts();
  api_.reset();
  if (cluster_) {
    std::string dir = cluster_->paths().dir;
    if (options_.keep && code != 130) {
      std::string where = options_.lab.name == "lab" ? "" : " --name " + options_.lab.name;
      say(fmt::format(
          "kept: calico-node lab status{0}, lab exec vm-1{0} -- ping 10.65.0.1, lab down{0}; files in {1}\n", where,
          dir));
    } else {
      cluster_.reset();
      if (auto s = Cluster::down(dir); !s) {
        say("lab: clean-up failed: " + s.error().what + "\n");
        if (code == 0) code = 3;
      }
    }
  }
  return code;
}

}  // namespace

int run_demo(const DemoOptions& options) { return Demo(options).run(); }

}  // namespace calico::lab
