#include "modules/diag/check.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace calico::diag {
namespace {

class Judge {
 public:
  explicit Judge(const Observed& seen) : seen_(seen) {}

  std::vector<Finding> all() {
    process();
    if (!seen_.process_error) {
      store();
      if (has("controller")) controller();
      if (has("route-reflector"))
        sessions("route-reflector", "no session yet: does any compute's Node exist? calico-node node list");
      if (has("compute")) sessions("compute", "no session: is there a reflector's Node? calico-node node list");
      if (has("compute") || has("felix")) felix();
      if (has("compute")) dhcp();
    }
    leftovers();
    return std::move(out_);
  }

 private:
  bool has(std::string_view role) const {
    return std::find(seen_.roles.begin(), seen_.roles.end(), role) != seen_.roles.end();
  }
  void add(bool good, std::string role, std::string element, std::string detail, std::string advice) {
    out_.push_back({good ? Verdict::good : Verdict::bad, std::move(role), std::move(element), std::move(detail),
                    good ? "" : std::move(advice)});
  }

  void process() {
    if (seen_.process_error) {
      add(false, "host", "calico-node runs", *seen_.process_error,
          "start it: systemctl start calico-node; its log: journalctl -u calico-node");
      return;
    }
    std::string roles;
    for (const auto& r : seen_.roles) roles += (roles.empty() ? "" : ",") + r;
    add(true, "host", "calico-node runs", fmt::format("{} as {} ({})", seen_.version, seen_.name, roles), "");
    std::string lines;
    for (const auto& [module, line] : seen_.status)
      lines += fmt::format("{}{}: {}", lines.empty() ? "" : "; ", module, line);
    add(seen_.ready, "host", "the last known state is programmed", lines,
        "see the line of the module that is not ready");
  }

  void store() {
    const auto phase = seen_.sync_phase.value_or("unknown");
    add(phase == "in sync", "host", "the local store is in sync with the datastore",
        seen_.sync_reason.empty() ? phase : fmt::format("{}: {}", phase, seen_.sync_reason),
        phase == "refusing mass removal" ? "look at the datastore; if its content is right: calico-node store accept"
                                         : "the host goes on with its last known state; is the controller reachable?");
  }

  void controller() {
    if (!seen_.api_serving)
      add(true, "controller", "Neutron API", "switched off: a real Neutron is used", "");
    else
      add(*seen_.api_serving, "controller", "the Neutron API serves", seen_.api_detail, "see the controller's log");
  }

  void sessions(const std::string& role, const std::string& none) {
    if (!seen_.sessions) {
      add(false, role, "BGP speaker", "does not answer", "see the log");
      return;
    }
    if (seen_.sessions->empty())
      add(false, role, "a BGP session", "none is configured or follows from the Nodes", none);
    for (const auto& s : *seen_.sessions)
      add(s.state == "Established", role, fmt::format("BGP session {} ({})", s.name, s.address),
          s.last_error.empty() ? s.state : fmt::format("{}: {}", s.state, s.last_error),
          "can this host reach the peer's port 179? calico-node birdc show protocols all " + s.name);
  }

  void felix() {
    if (!seen_.endpoints) {
      add(false, "felix", "felix", "does not answer", "see the log");
      return;
    }
    std::size_t up = 0;
    for (const auto& e : *seen_.endpoints) {
      up += e.status == "up";
      if (!e.error.empty())
        add(false, "felix", "endpoint " + e.interface, e.error, "it drops all its traffic until this is mended");
      else if (e.status == "down")
        add(false, "felix", "endpoint " + e.interface, "down", "is the VM running? ip link show " + e.interface);
    }
    add(true, "felix", "felix", fmt::format("{} endpoints, {} up", seen_.endpoints->size(), up), "");
    for (const auto& [path, value] : seen_.sysctls)
      add(value == "1", "felix", path, value.empty() ? "cannot be read" : value,
          "without forwarding no VM reaches another: sysctl -w " + path + "=1");
  }

  void dhcp() {
    if (!seen_.dhcp_running)
      add(false, "compute", "DHCP", "does not answer", "see the log");
    else
      add(*seen_.dhcp_running || seen_.dhcp_ports == 0, "compute", "dnsmasq serves the host's ports",
          fmt::format("{} ports, dnsmasq {}", seen_.dhcp_ports, *seen_.dhcp_running ? "runs" : "does not run"),
          "is /usr/sbin/dnsmasq installed (dnsmasq-base)? see the log");
  }

  void leftovers() {
    static constexpr std::string_view kNotRequired[] = {
        "neutron-metadata-agent", "neutron-dhcp-agent", "neutron-openvswitch-agent",
        "neutron-l3-agent",       "ovs-vswitchd",       "ovsdb-server"};
    for (const auto& p : kNotRequired)
      if (std::find(seen_.processes.begin(), seen_.processes.end(), p) != seen_.processes.end())
        out_.push_back(
            {Verdict::benign, "host", std::string(p), "runs; Calico does not need it", "may be stopped and removed"});
    for (const auto& l : seen_.links)
      if (l == "br-int" || l == "br-tun" || l == "br-ex" || l == "ovs-system")
        out_.push_back(
            {Verdict::benign, "host", "interface " + l, "of Open vSwitch; Calico does not need it", "may be removed"});
    // These two do what we do, on the same routes: not benign beside the role that does it.
    const bool speaks = has("compute") || has("route-reflector");
    for (const auto& p : seen_.processes) {
      if ((p == "bird" || p == "bird6") && speaks)
        add(false, "host", p, "runs beside our BGP speaker", "stop it, or use the role felix beside it");
      if ((p == "calico-felix" || p == "calico-dhcp-age") && (has("compute") || has("felix")))
        add(false, "host", p, "runs beside our own", "stop it: two agents write the same rules");
    }
  }

  const Observed& seen_;
  std::vector<Finding> out_;
};

}  // namespace

std::string_view to_string(Verdict v) {
  switch (v) {
    case Verdict::good:
      return "good";
    case Verdict::bad:
      return "bad";
    case Verdict::benign:
      return "benign";
  }
  return "?";
}

std::vector<Finding> judge(const Observed& seen) { return Judge(seen).all(); }

bool healthy(const std::vector<Finding>& findings) {
  return std::none_of(findings.begin(), findings.end(), [](const Finding& f) { return f.verdict == Verdict::bad; });
}

}  // namespace calico::diag
