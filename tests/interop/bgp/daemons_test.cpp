/// Our speaker beside the distribution's BIRD 2, BIRD 1.6, FRR and GoBGP, the same tests for each: reflector with the
/// daemon as client, non-client and external peer, seen through by a speaker of ours and by BIRD 2 as far clients; both
/// families over both transports; whole tables compared both ways, every attribute; withdrawal; MD5 and TTL security
/// right and wrong; graceful restart of either side; thousands of routes with one set of attributes and with a set
/// each.
#include <gmock/gmock.h>

#include <sstream>

#include "tests/support/bgp/peers.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {

using testing::HasSubstr;

constexpr std::uint32_t kAs = 64512, kForeignAs = 65000;

/// Which sessions a node has with the reflector: one of either transport with both families, or one a family.
enum class Transport { v4, v6, split };
std::string to_string(Transport t) {
  return t == Transport::v4 ? "over_v4" : t == Transport::v6 ? "over_v6" : "session_a_family";
}

enum class Role { client, non_client, external };

/// Node 1 is always the reflector. Sessions of a pair are configured on both ends by one call.
class DaemonsTest : public testing::Test {
 protected:
  virtual DaemonKind kind() const = 0;
  void SetUp() override {
    NEEDS_NETNS();
    for (auto needed : {kind(), DaemonKind::bird2})
      if (const auto what = PeerLab::missing(needed); !what.empty()) GTEST_SKIP() << "SKIPPED, needs " << what;
    lab_ = std::make_unique<PeerLab>(to_string(kind()));
    rr_ = &lab_->ours(1);
    rr_->routes = own(1);
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
      s.ipv4 = transport != Transport::split || !six;
      s.ipv6 = transport != Transport::split || six;
      Session theirs = s;
      peer.sessions.push_back(s);
      theirs.name = session_at_rr(n, six);
      std::swap(theirs.local, theirs.remote);
      std::swap(theirs.local_as, theirs.remote_as);
      theirs.ours = role == Role::client ? "client" : role == Role::external ? "import,export" : "";
      if (role == Role::external && !s.ttl_security) theirs.ours += ",multihop=2";
      peer.sessions.back().extended_messages = true;
      if (kind == DaemonKind::ours)
        peer.sessions.back().ours = role == Role::external ? "import,export,multihop=2" : "";
      rr_->sessions.push_back(theirs);
    }
    return peer;
  }
  static std::string session_at_rr(int n, bool six) {
    return std::string(six ? "six" : "four") + "_" + std::to_string(n);
  }
  void start_all() {
    for (auto& [n, role] : roles_) lab_->at(n).start();
    rr_->start();
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
      const auto left = lab_->at(from).sent(a, !inside);
      if (!left) continue;
      if (a.communities.size() > 1000 && !lab_->at(to).traits().extended_messages) continue;
      auto row = *left;
      if (!inside) {
        row.as_path = std::to_string(kForeignAs) + (row.as_path.empty() ? "" : " " + row.as_path);
        row.local_pref = 100;
      }
      if (to_inside) {
        if (inside && from != 1 && to != 1) {
          row.originator = lab_->v4(from);
          row.clusters = lab_->v4(1);
        }
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
  OurPeer* rr_ = nullptr;
  std::map<int, Role> roles_;  // by node, without the reflector
};

// ---- roles

class RolesTest : public DaemonsTest, public testing::WithParamInterface<std::tuple<DaemonKind, Transport>> {
 protected:
  DaemonKind kind() const override { return std::get<0>(GetParam()); }
  Transport transport() const { return std::get<1>(GetParam()); }
};

TEST_P(RolesTest, EveryTableIsExactlyWhatItMustBe) {
  join(DaemonKind::ours, 2, Role::client, transport()).routes = own(2);
  // The far client that originates and shows everything.
  join(DaemonKind::bird2, 4, Role::client, transport()).routes = rich(4);
  for (auto [n, role] : {std::pair{3, Role::client}, {5, Role::non_client}, {6, Role::external}})
    join(kind(), n, role, transport()).routes = rich(n);
  start_all();
  expect_tables();
  ASSERT_FALSE(HasFailure());

  // Withdrawal and change: everywhere, and only that.
  for (int n : {3, 5, 6}) {
    auto rest = rich(n);
    rest.erase(rest.begin());
    rest[0].med = 78;
    rest.erase(rest.begin() + 4);
    lab_->at(n).announce(rest);
  }
  auto fewer = own(2);
  fewer.erase(fewer.begin());
  lab_->at(2).announce(fewer);
  lab_->at(4).announce({rich(4).front()});
  expect_tables();
  // And back.
  lab_->at(2).announce(own(2));
  lab_->at(4).announce(rich(4));
  for (int n : {3, 5, 6}) lab_->at(n).announce(rich(n));
  expect_tables();
  EXPECT_TRUE(up_at_rr(3) && up_at_rr(5) && up_at_rr(6));

  // Route refresh: everything once more, nothing changes.
  for (int n : {3, 5, 6}) {
    std::map<std::string, long> before;
    for (const auto& s : lab_->at(n).sessions) {
      const auto name = session_at_rr(n, is_v6(s.local));
      before[name] = rr_->sent_on(name);
    }
    if (!lab_->at(n).refresh()) continue;
    const auto all = static_cast<long>(wanted(n).size());
    long repeated = 0;
    EXPECT_TRUE(eventually("all routes once more at node " + std::to_string(n),
                           [&] {
                             repeated = 0;
                             for (const auto& [name, count] : before) repeated += rr_->sent_on(name) - count;
                             return repeated >= all;
                           }))
        << repeated << " of " << all;
  }
  expect_tables();
  for (int n : {3, 5, 6}) {
    const auto what = rr_->birdc("show protocols all " + session_at_rr(n, transport() == Transport::v6));
    EXPECT_EQ(what.find("Last error"), std::string::npos) << what;
  }
}

std::string role_name(const testing::TestParamInfo<std::tuple<DaemonKind, Transport>>& p) {
  return to_string(std::get<0>(p.param)) + "_" + to_string(std::get<1>(p.param));
}
INSTANTIATE_TEST_SUITE_P(OneSession, RolesTest,
                         testing::Combine(testing::Values(DaemonKind::bird2, DaemonKind::frr, DaemonKind::gobgp),
                                          testing::Values(Transport::v4, Transport::v6)),
                         role_name);
INSTANTIATE_TEST_SUITE_P(TwoSessions, RolesTest,
                         testing::Combine(testing::Values(DaemonKind::bird2, DaemonKind::bird1, DaemonKind::frr,
                                                          DaemonKind::gobgp),
                                          testing::Values(Transport::split)),
                         role_name);

// ---- one daemon

class DaemonTest : public DaemonsTest, public testing::WithParamInterface<DaemonKind> {
 protected:
  DaemonKind kind() const override { return GetParam(); }
  /// One session with both families where the daemon can, else one a family.
  Transport usual() const { return both_families(kind()) ? Transport::v4 : Transport::split; }
};

/// Everything of `kept` is there as it was; else says what is not.
std::string lost(const Table& got, const Table& kept) {
  Table both;
  for (const auto& [prefix, row] : got)
    if (kept.contains(prefix)) both.emplace(prefix, row);
  return difference(both, kept);
}
Table without(Table t, const std::string& prefix) {
  t.erase(prefix);
  return t;
}

TEST_P(DaemonTest, GracefulRestartOfEitherSide) {
  auto& daemon = join(kind(), 3, Role::client, usual());
  daemon.routes = rich(3);
  join(DaemonKind::ours, 2, Role::client, Transport::v4).routes = own(2);
  join(DaemonKind::bird2, 4, Role::client, Transport::v4).routes = rich(4);
  start_all();
  expect_tables();
  ASSERT_FALSE(HasFailure());

  // What they offered is what we know of them.
  const auto offered = rr_->neighbor_capabilities(session_at_rr(3, false));
  EXPECT_THAT(offered, HasSubstr("4-octet AS numbers\n"));
  EXPECT_THAT(offered, HasSubstr("Route refresh\n"));
  EXPECT_EQ(offered.find("Graceful restart\n") != std::string::npos, daemon.traits().graceful_restart) << offered;
  EXPECT_EQ(offered.find("Enhanced refresh\n") != std::string::npos, daemon.traits().enhanced_refresh) << offered;
  EXPECT_EQ(offered.find("Extended message\n") != std::string::npos, daemon.traits().extended_messages) << offered;

  // The daemon dies: what it said stays with everybody; what it does not say again goes with its End-of-RIB.
  const auto before2 = shown(2), before4 = shown(4);
  daemon.kill();
  ASSERT_TRUE(eventually("the reflector's loss of the session", [&] { return down_at_rr(3); }));
  EXPECT_THAT(rr_->birdc("show protocols all " + session_at_rr(3, false)),
              HasSubstr("Neighbor graceful restart active"));
  EXPECT_EQ(difference(shown(2), before2), "");
  EXPECT_EQ(difference(shown(4), before4), "");
  const auto gone = daemon.routes.front().prefix;
  daemon.routes.erase(daemon.routes.begin());
  const auto kept2 = without(before2, gone), kept4 = without(before4, gone);
  daemon.start(true);
  std::string hole;
  ASSERT_TRUE(eventually("the end of the daemon's restart", [&] {
    hole = lost(shown(2), kept2) + lost(shown(4), kept4);
    return !hole.empty() || (up_at_rr(3) && !shown(2).contains(gone));
  }));
  EXPECT_EQ(hole, "") << "routes missing while " << to_string(kind()) << " restarted";
  expect_tables();
  ASSERT_FALSE(HasFailure());

  // We die, then we are stopped as planned: the daemon keeps what we said, and loses nothing until we are back.
  for (int signal : {SIGKILL, SIGTERM}) {
    SCOPED_TRACE("our end by signal " + std::to_string(signal));
    const auto before3 = shown(3);
    rr_->kill(signal);
    ASSERT_TRUE(eventually("the daemon's loss of the session", [&] { return !up_at(3) && !up_at(4); }));
    EXPECT_EQ(difference(shown(3), before3), "");
    const auto dropped = rr_->routes.front().prefix;
    rr_->routes.erase(rr_->routes.begin());
    const auto kept3 = without(before3, dropped);
    rr_->start();
    ASSERT_TRUE(eventually("the end of our restart", [&] {
      hole = lost(shown(3), kept3);
      return !hole.empty() || (up_at(3) && !shown(3).contains(dropped));
    }));
    EXPECT_EQ(hole, "") << "routes missing at " << to_string(kind()) << " while we restarted";
    expect_tables();
    ASSERT_FALSE(HasFailure());
  }
}

/// A counter of /proc/net/netstat in a namespace.
long counter(const Netns& ns, const std::string& name) {
  std::istringstream in(ns.run("cat /proc/net/netstat"));
  for (std::string names, values; std::getline(in, names) && std::getline(in, values);) {
    std::istringstream n(names), v(values);
    for (std::string a, b; n >> a && v >> b;)
      if (a == name) return std::stol(b);
  }
  return -1;
}

TEST_P(DaemonTest, PasswordsAndTtlSecurityRightAndWrong) {
  auto& with_password = join(kind(), 3, Role::external, Transport::split, {.password = "xyzzy"});
  auto& with_ttl = join(kind(), 6, Role::external, Transport::split, {.ttl_security = true});
  with_password.routes = rich(3);
  with_ttl.routes = rich(6);
  const auto right3 = with_password.sessions, right6 = with_ttl.sessions;
  for (auto& s : with_password.sessions) s.password = "wrong";
  for (auto& s : with_ttl.sessions) s.ttl_security = false;
  start_all();
  // Refusals seen, in both directions and more than once, and no session came of them.
  ASSERT_TRUE(eventually(
      "segments with a wrong password",
      [&] { return counter(rr_->ns(), "TCPMD5Failure") >= 4 && counter(with_password.ns(), "TCPMD5Failure") >= 4; }))
      << counter(rr_->ns(), "TCPMD5Failure") << " " << counter(with_password.ns(), "TCPMD5Failure");
  ASSERT_TRUE(eventually("packets from too far away", [&] { return counter(rr_->ns(), "TCPMinTTLDrop") >= 4; }))
      << counter(rr_->ns(), "TCPMinTTLDrop") << "\n"
      << rr_->explain();
  EXPECT_TRUE(down_at_rr(3));
  EXPECT_TRUE(down_at_rr(6));
  EXPECT_EQ(shown(3), Table{});
  EXPECT_EQ(shown(6), Table{});
  // The same peers with what was wrong put right.
  with_password.kill();
  with_ttl.kill();
  with_password.sessions = right3;
  with_ttl.sessions = right6;
  with_password.start();
  with_ttl.start();
  // Both are of one AS: neither believes what the other says, its own AS is in the path.
  const auto from_rr = [&](int n) { return seen(1, n); };
  for (int n : {3, 6}) {
    Table got;
    const auto want = from_rr(n);
    EXPECT_TRUE(eventually("the table of node " + std::to_string(n), [&] { return (got = shown(n)) == want; }))
        << difference(got, want);
  }
  expect_table(1);
}

TEST_P(DaemonTest, ThousandsOfRoutesPackedAndUnpacked) {
  auto& daemon = join(kind(), 3, Role::client, usual());
  auto& other = join(kind(), 5, Role::client, usual());
  auto& ours = join(DaemonKind::ours, 2, Role::client, Transport::v4);
  // Half with one set of attributes, of both families, half with as many sets as the daemon can be told.
  const auto many = [](int n, std::size_t sets) {
    std::vector<Announcement> out;
    char text[64];
    for (unsigned i = 0; i < 1250; ++i) {
      snprintf(text, sizeof text, "10.%d.%u.%u/32", 110 + n, i >> 8, i & 255);
      out.push_back({.prefix = text});
      snprintf(text, sizeof text, "fd00:%d::%x/128", 110 + n, i + 1);
      out.push_back({.prefix = text});
    }
    for (unsigned i = 0; i < 2500; ++i) {
      snprintf(text, sizeof text, "10.%d.%u.%u/32", 120 + n, i >> 8, i & 255);
      out.push_back({.prefix = text, .med = static_cast<std::uint32_t>(1 + i % sets)});
    }
    return out;
  };
  daemon.routes = many(3, daemon.traits().attribute_sets);
  ours.routes = many(2, 5000);
  start_all();
  expect_tables();
  ASSERT_FALSE(HasFailure());
  daemon.announce({});
  ours.announce({});
  expect_tables();
  EXPECT_TRUE(up_at_rr(2) && up_at_rr(3) && up_at_rr(5));
  other.announce(own(5));
  expect_tables();
}

/// RFC 8654: what does not fit a message of 4,096 bytes goes to whoever takes longer ones, and is withdrawn from
/// others.
TEST_P(DaemonTest, ARouteTooBigForAMessageOfTheOldSize) {
  join(kind(), 3, Role::client, usual()).routes = rich(3);
  join(DaemonKind::ours, 2, Role::client, Transport::v4).routes = own(2);
  auto& far = join(DaemonKind::bird2, 4, Role::client, Transport::v4);
  far.routes = rich(4);
  start_all();
  expect_tables();
  auto grown = rich(4);
  for (int i = 0; i < 1500; ++i) grown[1].communities.insert("64513:" + std::to_string(i));
  far.announce(grown);
  expect_tables();
  far.announce(rich(4));
  expect_tables();
  const auto text = rr_->birdc("show protocols all " + session_at_rr(3, false));
  EXPECT_EQ(text.find("Last error"), std::string::npos) << text;
}

INSTANTIATE_TEST_SUITE_P(Each, DaemonTest,
                         testing::Values(DaemonKind::bird2, DaemonKind::bird1, DaemonKind::frr, DaemonKind::gobgp),
                         [](const auto& p) { return to_string(p.param); });

}  // namespace
}  // namespace calico::test
