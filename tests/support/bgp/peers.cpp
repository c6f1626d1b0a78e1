#include "tests/support/bgp/peers.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

namespace calico::test {
namespace fs = std::filesystem;

namespace {

std::string joined(const std::set<std::string>& all) {
  std::string out;
  for (const auto& s : all) out += (out.empty() ? "" : " ") + s;
  return out;
}
std::string number(const std::optional<std::uint32_t>& v) { return v ? std::to_string(*v) : "-"; }

}  // namespace

std::ostream& operator<<(std::ostream& o, const Row& r) {
  return o << "via " << r.next_hop << " path '" << r.as_path << "' " << r.origin << " pref " << number(r.local_pref)
           << " med " << number(r.med) << " communities {" << joined(r.communities) << "} ext {"
           << joined(r.ext_communities) << "} large {" << joined(r.large_communities) << "} originator '"
           << r.originator << "' clusters '" << r.clusters << "'";
}

std::string difference(const Table& got, const Table& wanted) {
  std::ostringstream out;
  std::size_t shown = 0, faults = 0;
  const auto line = [&](const char* what, const std::string& prefix, const Row* row, const Row* other = nullptr) {
    ++faults;
    if (shown++ >= 20) return;
    out << "  " << what << " " << prefix;
    if (row != nullptr) out << "\n      " << *row;
    if (other != nullptr) out << "\n    wanted\n      " << *other;
    out << "\n";
  };
  for (const auto& [prefix, row] : wanted) {
    const auto at = got.find(prefix);
    if (at == got.end())
      line("missing", prefix, &row);
    else if (at->second != row)
      line("differs", prefix, &at->second, &row);
  }
  for (const auto& [prefix, row] : got)
    if (!wanted.contains(prefix)) line("extra", prefix, &row);
  if (faults == 0) return {};
  out << "  " << faults << " differences, " << got.size() << " routes where " << wanted.size() << " were wanted\n";
  return out.str();
}

std::string difference(const Paths& got, const Paths& wanted) {
  // Each path becomes a row of its own: those on both sides meet, what is left of a prefix is compared in order.
  Table one_got, one_wanted;
  std::set<std::string> prefixes;
  for (const auto* all : {&got, &wanted})
    for (const auto& [prefix, rows] : *all) prefixes.insert(prefix);
  const auto rows_of = [](const Paths& all, const std::string& prefix) {
    const auto at = all.find(prefix);
    return at == all.end() ? std::multiset<Row>() : at->second;
  };
  for (const auto& prefix : prefixes) {
    const auto a = rows_of(got, prefix), b = rows_of(wanted, prefix);
    std::vector<Row> same, only_a, only_b;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(same));
    std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(only_a));
    std::set_difference(b.begin(), b.end(), a.begin(), a.end(), std::back_inserter(only_b));
    const auto put = [&](Table& to, const std::vector<Row>& rows, const std::string& kind) {
      for (std::size_t i = 0; i < rows.size(); ++i) to.emplace(prefix + " " + kind + std::to_string(i + 1), rows[i]);
    };
    put(one_got, same, "path ");
    put(one_wanted, same, "path ");
    put(one_got, only_a, "other path ");
    put(one_wanted, only_b, "other path ");
  }
  return difference(one_got, one_wanted);
}

std::string to_string(DaemonKind kind) {
  switch (kind) {
    case DaemonKind::ours:
      return "ours";
    case DaemonKind::bird2:
      return "bird2";
    case DaemonKind::bird1:
      return "bird1";
    case DaemonKind::frr:
      return "frr";
    case DaemonKind::gobgp:
      return "gobgp";
  }
  return "?";
}

Peer::Peer(const Netns& ns, fs::path folder, int node) : folder_(std::move(folder)), ns_(ns), node_(node) {
  fs::create_directories(folder_);
}

void Peer::kill(int signal) {
  for (auto& [name, child] : processes_)
    if (child.pid() > 0) ::kill(child.pid(), signal);
  for (auto& [name, child] : processes_) child.wait();
  processes_.clear();
}

Table Peer::table() {
  Table out;
  for (auto& p : learned())
    if (p.best) out.insert_or_assign(p.prefix, std::move(p.row));
  return out;
}

Paths Peer::paths() {
  Paths out;
  for (auto& p : learned()) out[p.prefix].insert(std::move(p.row));
  return out;
}

std::string Peer::next_hop(const std::string& prefix) const {
  return is_v6(prefix) || (!sessions.empty() && sessions.front().ipv6_next_hops) ? v6() : v4();
}

std::optional<Row> Peer::sent(const Announcement& a, bool /*to_foreign_as*/) const {
  Row r;
  r.next_hop = next_hop(a.prefix);
  r.as_path = a.as_path;
  r.local_pref = a.local_pref.value_or(100);
  r.med = a.med;
  r.communities = a.communities;
  r.ext_communities = a.ext_communities;
  r.large_communities = a.large_communities;
  return r;
}

Row Peer::reflected(Row row, bool own) const {
  if (!own) row.clusters = v4();
  return row;
}

std::string Peer::logs() const {
  std::string out;
  for (const auto& file : fs::directory_iterator(folder_)) {
    if (file.path().extension() != ".log") continue;
    std::ifstream in(file.path());
    std::stringstream text;
    text << in.rdbuf();
    const auto all = text.str();
    out += "--- node " + std::to_string(node_) + " " + file.path().filename().string() + "\n" +
           (all.size() > 3000 ? "…" + all.substr(all.size() - 3000) : all);
  }
  return out;
}

void Peer::spawn(const std::string& name, const std::string& command) {
  processes_.erase(name);
  processes_.emplace(name, ns_.spawn("exec " + command, path(name + ".log")));
}

bool Peer::is_ours(const std::string& session) const {
  return std::any_of(sessions.begin(), sessions.end(), [&](const Session& s) { return s.name == session; });
}

// ---- our own engine

const Traits& OurPeer::traits() const {
  static const Traits kTraits{.enhanced_refresh = true, .extended_messages = true};
  return kTraits;
}

void OurPeer::announce(std::vector<Announcement> all) {
  routes = std::move(all);
  std::ofstream out(path("routes"));
  for (const auto& a : routes) {
    out << a.prefix;
    if (a.med) out << ",med=" << *a.med;
    if (a.local_pref) out << ",pref=" << *a.local_pref;
    out << "\n";
  }
  out.close();
  if (processes_.contains("speaker")) signal(SIGHUP);
}

void OurPeer::start(bool /*restarted: it knows by its marker*/) {
  fs::create_directories(path("state"));
  processes_.clear();
  announce(routes);
  std::string args = "id=" + v4() + " listen=" + v4() + " listen=" + v6() + " nh6=" + v6() + " ctl=" + path("ctl") +
                     " state=" + path("state") + " routes_file=" + path("routes");
  // With an address for IPv4 routes there is no reason to say an IPv6 one.
  if (std::none_of(sessions.begin(), sessions.end(), [](const Session& s) { return s.ipv6_next_hops; }))
    args += " nh4=" + v4();
  if (!sessions.empty()) args += " as=" + std::to_string(sessions.front().local_as);
  for (const auto& s : sessions) {
    args += " peer=" + s.name + "," + s.remote + ",source=" + s.local;
    if (s.remote_as != s.local_as) args += ",as=" + std::to_string(s.remote_as);
    if (!s.ipv4) args += ",noipv4";
    if (!s.ipv6) args += ",noipv6";
    if (!s.password.empty()) args += ",password=" + s.password;
    if (s.ttl_security) args += ",ttlsec";
    if (s.client) args += ",client";
    if (s.add_path) args += ",addpath";
    if (s.ipv6_next_hops) args += ",nh6for4";
    if (!s.ours.empty()) args += "," + s.ours;
  }
  spawn("speaker", CALICO_BINARY_DIR "/tests/bgp-speaker " + args + " " + options);
}

std::string OurPeer::birdc(const std::string& command) {
  return ns_.try_run(CALICO_BINARY_DIR "/tests/bgp-speaker birdc -s " + path("ctl") + " " + command).text;
}

std::vector<Learned> OurPeer::learned() {
  std::set<std::string> names;
  for (const auto& s : sessions) names.insert(s.name);
  return parse_bird_table(birdc("show route all"), names);
}

bool OurPeer::established(const std::string& session) {
  return birdc("show protocols all " + session).find("BGP state:          Established") != std::string::npos;
}

std::string OurPeer::neighbor_capabilities(const std::string& session) {
  std::istringstream in(birdc("show protocols all " + session));
  std::string out;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.find("    Neighbor capabilities") == 0) {
      inside = true;
    } else if (inside && line.compare(0, 6, "      ") == 0) {
      if (line.compare(0, 8, "        ") != 0) out += line.substr(6) + "\n";
    } else {
      inside = false;
    }
  }
  return out;
}

long OurPeer::sent_on(const std::string& session) {
  const auto text = birdc("show protocols all " + session);
  const std::string key = "Export updates:";
  long sum = 0;  // of both channels
  for (auto at = text.find(key); at != std::string::npos; at = text.find(key, at + 1))
    sum += std::stol(text.substr(at + key.size()));
  return sum;
}

std::string OurPeer::explain() { return birdc("show protocols all") + logs(); }

// ---- the lab

PeerLab::PeerLab(const std::string& label)
    : folder_(fs::temp_directory_path() / ("calico-peers-" + std::to_string(getpid()) + "-" + label)) {
  fs::create_directories(folder_);
  hub_ = std::make_unique<Netns>("hub");
  hub_->run("ip link add br0 type bridge && ip link set br0 up");
}

PeerLab::~PeerLab() {
  peers_.clear();
  nodes_.clear();
  hub_.reset();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

std::string PeerLab::missing(DaemonKind kind) {
  const auto need = [](const std::string& file, const std::string& package) {
    return ::access(file.c_str(), X_OK) == 0 ? std::string() : file + " (" + package + ")";
  };
  switch (kind) {
    case DaemonKind::ours:
      return {};
    case DaemonKind::bird2:
      if (shell("/usr/sbin/bird --version").text.find("version 2") == std::string::npos) return "Debian's bird2";
      return {};
    case DaemonKind::bird1:
      return need(CALICO_SOURCE_DIR "/build/peers/bird1/usr/sbin/bird",
                  "unpacked from Debian's bird by tests/setup.sh");
    case DaemonKind::frr:
      return need("/usr/lib/frr/bgpd", "Debian's frr");
    case DaemonKind::gobgp:
      return need("/usr/bin/gobgpd", "Debian's gobgpd");
  }
  return "?";
}

Netns& PeerLab::make_node(int n) {
  auto ns = std::make_unique<Netns>("n" + std::to_string(n));
  const auto port = "p" + std::to_string(n);
  veth(*ns, "eth0", *hub_, port);
  hub_->run("ip link set " + port + " master br0");
  ns->run("ip addr add " + v4(n) + "/16 dev eth0 && ip addr add " + v6(n) + "/64 dev eth0 nodad");
  return *nodes_.emplace(n, std::move(ns)).first->second;
}

OurPeer& PeerLab::ours(int n) {
  auto peer = std::make_unique<OurPeer>(make_node(n), folder_ / std::to_string(n), n);
  auto& out = *peer;
  peers_.emplace(n, std::move(peer));
  return out;
}

Peer& PeerLab::add(DaemonKind kind, int n) {
  if (kind == DaemonKind::ours) return ours(n);
  auto& ns = make_node(n);
  const auto folder = folder_ / std::to_string(n);
  auto peer = kind == DaemonKind::frr     ? make_frr(ns, folder, n)
              : kind == DaemonKind::gobgp ? make_gobgp(ns, folder, n)
                                          : make_bird(kind, ns, folder, n);
  return *peers_.emplace(n, std::move(peer)).first->second;
}

std::string PeerLab::explain() {
  std::string out;
  for (auto& [n, peer] : peers_) out += "=== node " + std::to_string(n) + "\n" + peer->explain();
  return out;
}

}  // namespace calico::test
