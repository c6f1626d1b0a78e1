#include "modules/lab/report.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

namespace calico::lab {

namespace json = boost::json;

namespace {

const char* kind_name(Spoof k) { return k == Spoof::ip ? "ip" : k == Spoof::mac ? "mac" : "none"; }

json::array rows_of(const std::vector<Guest>& guests, const Matrix& m) {
  json::array out;
  for (const auto& r : m.rows) {
    out.push_back({{"from", guests[r.from].name},
                   {"to", guests[r.to].name},
                   {"family", r.family == Family::v4 ? 4 : 6},
                   {"expected", r.expected},
                   {"got", r.got}});
  }
  return out;
}

double rounded(double v) { return static_cast<double>(static_cast<long long>(v * 1000 + 0.5)) / 1000; }

const char* verdict(bool ok) { return ok ? "as expected" : "NOT AS EXPECTED"; }

}  // namespace

bool Findings::bgp_ok() const {
  return !bgp.empty() && std::all_of(bgp.begin(), bgp.end(), [](const BgpRow& r) { return r.state == "Established"; });
}
bool Findings::instances_ok() const {
  return !instances.empty() && std::all_of(instances.begin(), instances.end(),
                                           [](const InstanceRow& r) { return r.active_ms >= 0 && r.address_ms >= 0; });
}
bool Findings::spoof_ok() const {
  return !spoof.empty() && std::all_of(spoof.begin(), spoof.end(), [](const SpoofAttempt& a) {
    return a.sent > 0 && (a.kind == Spoof::none) == (a.arrived > 0);
  });
}
bool Findings::ok() const {
  bool nodes_ok = !nodes.empty() && std::all_of(nodes.begin(), nodes.end(), [](const NodeRow& n) { return n.running; });
  bool rules_ok = rule_change.size() == 2 && std::all_of(rule_change.begin(), rule_change.end(),
                                                         [](const RuleStep& s) { return s.ping.as_expected(); });
  auto held = [](const Matrix& m) { return !m.rows.empty() && m.as_expected(); };
  return error.empty() && nodes_ok && bgp_ok() && instances_ok() && held(ping) && held(ssh) && held(refused) &&
         held(refused_control) && spoof_ok() && rules_ok;
}

std::string to_json(const Findings& f) {
  json::object out;
  json::array nodes;
  for (const auto& n : f.nodes)
    nodes.push_back({{"name", n.name}, {"role", n.role}, {"address", n.address}, {"running", n.running}});
  json::array bgp;
  for (const auto& b : f.bgp) bgp.push_back({{"reflector", b.reflector}, {"peer", b.peer}, {"state", b.state}});
  json::array instances;
  for (const auto& i : f.instances) {
    json::array ips;
    for (const auto& ip : i.ips) ips.emplace_back(ip);
    instances.push_back(
        {{"name", i.name},
         {"compute", i.compute},
         {"interface", i.interface},
         {"ip", i.ips.empty() ? "" : i.ips.front()},
         {"ips", std::move(ips)},
         {"mac", i.mac},
         {"security_group", i.security_group},
         {"active_ms", i.active_ms < 0 ? json::value(nullptr) : json::value(std::lround(i.active_ms))},
         {"address_ms", i.address_ms < 0 ? json::value(nullptr) : json::value(std::lround(i.address_ms))}});
  }
  json::array spoof;
  json::array controls;
  for (const auto& a : f.spoof) {
    json::object row{{"from", f.guests[a.from].name},
                     {"to", f.guests[a.to].name},
                     {"family", a.family == Family::v4 ? 4 : 6},
                     {"kind", kind_name(a.kind)},
                     {"expected", a.kind == Spoof::none},
                     {"got", a.arrived > 0},
                     {"sent", a.sent}};
    (a.kind == Spoof::none ? controls : spoof).push_back(std::move(row));
  }
  json::array steps;
  for (const auto& s : f.rule_change) {
    steps.push_back({{"step", s.step},
                     {"security_group", f.rule_change_group},
                     {"followed_ms", std::lround(s.followed_ms)},
                     {"ping", rows_of(f.guests, s.ping)}});
  }
  out["nodes"] = std::move(nodes);
  out["bgp"] = std::move(bgp);
  out["instances"] = std::move(instances);
  out["ping"] = rows_of(f.guests, f.ping);
  out["ssh"] = rows_of(f.guests, f.ssh);
  out["refused"] = rows_of(f.guests, f.refused);
  out["spoof"] = std::move(spoof);
  out["controls"] = json::object{{"refused", rows_of(f.guests, f.refused_control)}, {"spoof", std::move(controls)}};
  out["rule_change"] = std::move(steps);
  out["ok"] = f.ok();
  if (!f.error.empty()) out["error"] = f.error;
  out["seconds"] = json::object{{"setup", rounded(f.setup_s)}, {"total", rounded(f.total_s)}};
  return json::serialize(out) + "\n";
}

std::string nodes_table(const Findings& f) {
  std::string out = fmt::format("Nodes\n  {:<14} {:<28} {:<16} {}\n", "node", "role", "management", "state");
  for (const auto& n : f.nodes) {
    out += fmt::format("  {:<14} {:<28} {:<16} {}\n", n.name, n.role, n.address, n.running ? "running" : "NOT RUNNING");
  }
  return out;
}

std::string bgp_table(const Findings& f) {
  std::string out = fmt::format("BGP sessions of the route reflectors: {}\n  {:<14} {:<14} {}\n", verdict(f.bgp_ok()),
                                "reflector", "peer", "state");
  for (const auto& b : f.bgp) out += fmt::format("  {:<14} {:<14} {}\n", b.reflector, b.peer, b.state);
  return out;
}

std::string instances_table(const Findings& f) {
  std::string out =
      fmt::format("Instances: {}\n  {:<8} {:<12} {:<15} {:<18} {:<9} {:>9} {:>9}  {}\n", verdict(f.instances_ok()),
                  "name", "compute", "interface", "mac", "group", "ACTIVE ms", "DHCP ms", "addresses");
  auto number = [](double v) { return v < 0 ? std::string("never") : fmt::format("{:.0f}", v); };
  for (const auto& i : f.instances) {
    std::string ips;
    for (const auto& ip : i.ips) ips += (ips.empty() ? "" : ", ") + ip;
    out += fmt::format("  {:<8} {:<12} {:<15} {:<18} {:<9} {:>9} {:>9}  {}\n", i.name, i.compute, i.interface, i.mac,
                       i.security_group, number(i.active_ms), number(i.address_ms), ips);
  }
  return out;
}

std::string matrix_table(const std::vector<Guest>& guests, const Matrix& m) {
  std::string out;
  for (Family family : {Family::v4, Family::v6}) {
    std::vector<std::vector<char>> expected(guests.size(), std::vector<char>(guests.size(), '.'));
    auto got = expected;
    bool any = false;
    bool ok = true;
    for (const auto& r : m.rows) {
      if (r.family != family) continue;
      any = true;
      ok = ok && r.expected == r.got;
      expected[r.from][r.to] = r.expected ? 'y' : 'n';
      got[r.from][r.to] = r.got == r.expected ? (r.got ? 'y' : 'n') : (r.got ? 'Y' : 'N');
    }
    if (!any) continue;
    std::size_t width = 4;
    for (const auto& g : guests) width = std::max(width, g.name.size());
    std::string head;
    for (const auto& g : guests) head += fmt::format(" {:>{}}", g.name, width);
    out += fmt::format("{}, IPv{}: {}\n", m.title, family == Family::v4 ? 4 : 6, verdict(ok));
    out += fmt::format("  {:<{}} {:<{}}    {}\n", "from\\to", width + 4, " expected", head.size(), " got");
    out += fmt::format("  {:<{}}{}    {}\n", "", width + 4, head, head);
    for (std::size_t a = 0; a < guests.size(); ++a) {
      std::string left;
      std::string right;
      for (std::size_t b = 0; b < guests.size(); ++b) {
        left += fmt::format(" {:>{}}", expected[a][b], width);
        right += fmt::format(" {:>{}}", got[a][b], width);
      }
      out += fmt::format("  {:<{}}{}    {}\n", guests[a].name, width + 4, left, right);
    }
  }
  return out;
}

std::string spoof_table(const Findings& f) {
  std::string out = fmt::format("Spoofed sources: {}\n  {:<8} {:<8} {:<7} {:<22} {:>5} {:>8} {:>8}\n",
                                verdict(f.spoof_ok()), "from", "to", "family", "source", "sent", "expected", "arrived");
  for (const auto& a : f.spoof) {
    const char* what = a.kind == Spoof::ip    ? "address of another VM"
                       : a.kind == Spoof::mac ? "MAC of nobody"
                                              : "its own (control)";
    bool good = (a.kind == Spoof::none) == (a.arrived > 0);
    out += fmt::format("  {:<8} {:<8} IPv{:<4} {:<22} {:>5} {:>8} {:>8}{}\n", f.guests[a.from].name,
                       f.guests[a.to].name, a.family == Family::v4 ? 4 : 6, what, a.sent,
                       a.kind == Spoof::none ? "some" : "0", a.arrived, good ? "" : "  <--");
  }
  return out;
}

}  // namespace calico::lab
