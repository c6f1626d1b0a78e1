#pragma once
/// What the tests with several daemons share: a reflector (ours, or a daemon) at node 1, clients, non-clients and
/// external peers around it, and the model of what a route looks like at any node given where it was announced. Whole
/// tables are compared with it: nothing missing, nothing extra, every attribute.
///
///   auto& d = join(kind(), 3, Role::client, Transport::v4, {.add_path = true});
///   d.routes = rich(3);
///   start_all();
///   expect_tables();
#include <gtest/gtest.h>

#include <chrono>
#include <iostream>

#include "tests/support/bgp/peers.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {

constexpr std::uint32_t kAs = 64512, kForeignAs = 65000;

/// Which sessions a node has with the reflector: one of either transport with both families, or one a family.
enum class Transport { v4, v6, split };
inline std::string to_string(Transport t) {
  return t == Transport::v4 ? "over_v4" : t == Transport::v6 ? "over_v6" : "session_a_family";
}

enum class Role { client, non_client, external };

/// Node 1 is always the reflector. Sessions of a pair are configured on both ends by one call.
class DaemonsTest : public testing::Test {
 protected:
  virtual DaemonKind kind() const = 0;
  virtual DaemonKind reflector() const { return DaemonKind::ours; }
  void SetUp() override {
    NEEDS_NETNS();
    for (auto needed : {kind(), DaemonKind::bird2})
      if (const auto what = PeerLab::missing(needed); !what.empty()) GTEST_SKIP() << "SKIPPED, needs " << what;
    lab_ = std::make_unique<PeerLab>(to_string(kind()));
    reflector_ = &lab_->add(reflector(), 1);
    reflector_->routes = own(1);
    rr_ = dynamic_cast<OurPeer*>(reflector_);
  }
  void TearDown() override {
    if (lab_ && HasFailure()) std::cerr << lab_->explain();
    lab_.reset();
  }

  /// A node of this kind, with its sessions, its routes set by the caller.
  Peer& join(DaemonKind kind, int n, Role role, Transport transport, const Session& like = {}) {
    auto& peer = lab_->add(kind, n);
    roles_[n] = role;
    for (bool six : {false, true}) {
      if (transport == (six ? Transport::v4 : Transport::v6)) continue;
      Session s = like;
      s.name = std::string("rr") + (six ? "6" : "4");
      s.local = six ? lab_->v6(n) : lab_->v4(n);
      s.remote = six ? lab_->v6(1) : lab_->v4(1);
      s.local_as = role == Role::external ? kForeignAs : kAs;
      s.remote_as = kAs;
      s.ipv4 = like.ipv4 && (transport != Transport::split || !six);
      s.ipv6 = like.ipv6 && (transport != Transport::split || six);
      Session theirs = s;
      peer.sessions.push_back(s);
      theirs.name = session_at_rr(n, six);
      std::swap(theirs.local, theirs.remote);
      std::swap(theirs.local_as, theirs.remote_as);
      theirs.client = role == Role::client;
      if (role == Role::external) theirs.ours = "import,export";
      if (role == Role::external && !s.ttl_security) theirs.ours += ",multihop=2";
      peer.sessions.back().extended_messages = true;
      if (kind == DaemonKind::ours)
        peer.sessions.back().ours = role == Role::external ? "import,export,multihop=2" : "";
      reflector_->sessions.push_back(theirs);
    }
    return peer;
  }
  static std::string session_at_rr(int n, bool six) {
    return std::string(six ? "six" : "four") + "_" + std::to_string(n);
  }
  void start_all() {
    for (auto& [n, role] : roles_) lab_->at(n).start();
    reflector_->start();
  }

  /// Node n's VM routes of our speakers.
  static std::vector<Announcement> own(int n) {
    const auto s = std::to_string(n);
    return {{.prefix = "10.65.0." + s + "/32"},
            {.prefix = "10.65.1." + s + "/32", .local_pref = 250, .med = 9},
            {.prefix = "fd00:65::" + s + "/128"}};
  }
  /// One of each kind: plain, with every attribute, not to leave the AS.
  static std::vector<Announcement> rich(int n) {
    const std::string s = std::to_string(n), four = "10.100." + s + ".", six = "fd00:100:" + s + "::";
    const Announcement all{.prefix = four + "2/32",
                           .as_path = "65010 65011",
                           .local_pref = 210,
                           .med = 77,
                           .communities = {"64512:100", "64512:200", "1:65535"},
                           .ext_communities = {"rt:64512:7", "ro:64512:9"},
                           .large_communities = {"64512:1:2", "4200000000:0:4294967295"}};
    auto all6 = all;
    all6.prefix = six + "2/128";
    return {{.prefix = four + "1/32"},
            all,
            {.prefix = four + "3/32", .communities = {"65535:65281"}},
            {.prefix = four + "128/25", .med = 4294967295},
            {.prefix = six + "1/128"},
            all6,
            {.prefix = six + "8000/113", .local_pref = 0}};
  }

  /// What node `to` must show of what node `from` announces, through the reflector.
  Table seen(int from, int to) {
    Table out;
    const auto role_of = [&](int n) { return n == 1 ? Role::non_client : roles_.at(n); };
    const bool inside = role_of(from) != Role::external, to_inside = role_of(to) != Role::external;
    if (from == to) return out;
    if (role_of(from) == Role::non_client && role_of(to) == Role::non_client && from != 1 && to != 1) return out;
    for (const auto& a : lab_->at(from).routes) {
      auto left = lab_->at(from).sent(a, !inside);
      if (!left) continue;
      if (!is_v6(a.prefix) && to != 1) {  // RFC 8950, where the session to the node has it
        const bool six_hops = lab_->at(to).sessions.front().ipv6_next_hops;
        if (from == 1) left->next_hop = six_hops ? lab_->v6(1) : lab_->v4(1);
        if (is_v6(left->next_hop) && !six_hops) continue;
      }
      if (a.communities.size() > 1000 && !lab_->at(to).traits().extended_messages) continue;
      auto row = *left;
      if (!inside) {
        row.as_path = std::to_string(kForeignAs) + (row.as_path.empty() ? "" : " " + row.as_path);
        row.local_pref = 100;
      }
      if (to_inside) {
        if (inside && from != 1 && to != 1) row.originator = lab_->v4(from);
        if (inside && to != 1) row = reflector_->reflected(std::move(row), from == 1);
      } else {
        if (row.communities.contains("65535:65281")) continue;
        row.as_path = std::to_string(kAs) + (row.as_path.empty() ? "" : " " + row.as_path);
        row.local_pref.reset();
        if (from != 1) row.med.reset();
      }
      out.emplace(a.prefix, std::move(row));
    }
    return out;
  }
  Table wanted(int to) {
    Table out = seen(1, to);
    for (const auto& [n, role] : roles_) out.merge(seen(n, to));
    return out;
  }
  /// The same of every path, inside the AS: who asked for several gets all but its own, others the reflector's winner.
  /// That is its own route where own routes win, or the highest LOCAL_PREF: routes that share a prefix differ there.
  Paths wanted_paths(int to) {
    std::vector<int> nodes{1};
    for (const auto& [n, role] : roles_) nodes.push_back(n);
    std::map<std::string, std::pair<std::uint64_t, int>> winner;  // preference and node, by prefix
    for (int n : nodes)
      for (const auto& a : lab_->at(n).routes)
        if (lab_->at(n).sent(a, false)) {
          const bool first = n == 1 && reflector_->traits().own_routes_win;
          const std::uint64_t preference = first ? UINT64_MAX : a.local_pref.value_or(100);
          winner[a.prefix] = std::max(winner[a.prefix], {preference, n});
        }
    Paths out;
    for (int n : nodes)
      for (const auto& [prefix, row] : seen(n, to))
        if (to == 1 || lab_->at(to).sessions.front().add_path || winner[prefix].second == n) out[prefix].insert(row);
    return out;
  }
  /// LOCAL_PREF means nothing on the other side of an AS border; some daemons show one all the same.
  Table shown(int n) {
    auto t = lab_->at(n).table();
    if (n != 1 && roles_.at(n) == Role::external)
      for (auto& [prefix, row] : t) row.local_pref.reset();
    return t;
  }
  /// What a daemon prints the beginning of only is completed, if the beginning is right.
  Table completed(int n, Table got, const Table& want) {
    if (lab_->at(n).traits().shows_long_lists) return got;
    for (auto& [prefix, row] : got) {
      const auto at = want.find(prefix);
      if (at == want.end() || row.communities.size() < 20) continue;
      const auto& all = at->second.communities;
      // The last one may be cut in the middle.
      std::size_t wrong = 0, cut = 0;
      for (const auto& c : row.communities) {
        if (all.contains(c)) continue;
        const auto longer = all.lower_bound(c);
        ++(longer != all.end() && longer->compare(0, c.size(), c) == 0 ? cut : wrong);
      }
      if (wrong == 0 && cut <= 1) row.communities = all;
    }
    return got;
  }
  void expect_table(int n) {
    const auto want = wanted(n);
    Table got;
    // Once something is wrong the others are looked at, not waited for.
    const std::chrono::seconds limit(HasFailure() ? 0 : 30);
    const auto same = eventually(
        "the table of node " + std::to_string(n), [&] { return (got = completed(n, shown(n), want)) == want; }, limit);
    EXPECT_TRUE(same) << difference(got, want);
  }
  void expect_paths() {
    std::vector<int> nodes{1};
    for (const auto& [n, role] : roles_) nodes.push_back(n);
    for (int n : nodes) {
      const auto want = wanted_paths(n);
      Paths got;
      const std::chrono::seconds limit(HasFailure() ? 0 : 30);
      const auto same = eventually(
          "all paths of node " + std::to_string(n), [&] { return (got = lab_->at(n).paths()) == want; }, limit);
      EXPECT_TRUE(same) << difference(got, want);
    }
  }
  void expect_tables() {
    expect_table(1);
    for (const auto& [n, role] : roles_) expect_table(n);
  }
  bool up_at_rr(int n) {
    const auto& all = lab_->at(n).sessions;
    for (const auto& s : all)
      if (!rr_->established(session_at_rr(n, is_v6(s.local)))) return false;
    return true;
  }
  bool down_at_rr(int n) {
    for (const auto& s : lab_->at(n).sessions)
      if (rr_->established(session_at_rr(n, is_v6(s.local)))) return false;
    return true;
  }
  bool up_at(int n) {
    for (const auto& s : lab_->at(n).sessions)
      if (!lab_->at(n).established(s.name)) return false;
    return true;
  }

  std::unique_ptr<PeerLab> lab_;
  Peer* reflector_ = nullptr;
  OurPeer* rr_ = nullptr;      // the same, if it is ours
  std::map<int, Role> roles_;  // by node, without the reflector
};

class DaemonTest : public DaemonsTest, public testing::WithParamInterface<DaemonKind> {
 protected:
  DaemonKind kind() const override { return GetParam(); }
  /// One session with both families where the daemon can, else one a family.
  Transport usual() const { return both_families(kind()) ? Transport::v4 : Transport::split; }
};

}  // namespace calico::test
