/// Several paths of a prefix (RFC 7911) and IPv4 routes with IPv6 next hops (RFC 8950) beside the distribution's BIRD
/// 2, BIRD 1.6, FRR and GoBGP, both ways: our reflector with the daemon as client, and the daemon as reflector with
/// ours as clients. Every path at every node is compared, those that asked for several and those that did not.
#include <gmock/gmock.h>

#include "tests/interop/bgp/daemons_fixture.hpp"

namespace calico::test {
namespace {

using testing::HasSubstr;

constexpr auto kEach = [](const testing::TestParamInfo<DaemonKind>& p) { return to_string(p.param); };

// ---- RFC 7911

class AddPathTest : public DaemonTest {
 protected:
  /// Prefixes that every node has, each with attributes of its own, beside one of its own.
  std::vector<Announcement> shared(int n, DaemonKind kind) const {
    const auto s = std::to_string(n);
    const auto up = static_cast<std::uint32_t>(n), down = 100 - up;
    std::vector<Announcement> out = {{.prefix = "10.101.0.1/32", .local_pref = 100 + up, .med = up},
                                     {.prefix = "10.101.0.2/32", .local_pref = 100 + down, .med = 7},
                                     {.prefix = "10.101." + s + ".3/32"},
                                     {.prefix = "fd00:101::1/128", .local_pref = 100 + down, .med = up},
                                     {.prefix = "fd00:101:" + s + "::3/128"}};
    if (kind == DaemonKind::ours) return out;
    out[1].as_path = "65010 6501" + s;
    out[1].communities = {"64512:" + s, "64512:100"};
    out[1].ext_communities = {"rt:64512:" + s};
    out[3].large_communities = {"64512:1:" + s};
    return out;
  }
  /// Without the prefixes that others have, too.
  static std::vector<Announcement> only_own(std::vector<Announcement> all) {
    std::erase_if(all, [](const Announcement& a) {
      return a.prefix.starts_with("10.101.0.") || a.prefix.starts_with("fd00:101::");
    });
    return all;
  }
  void join_with_shared(DaemonKind kind, int n, bool add_path) {
    join(kind, n, Role::client, usual(), {.add_path = add_path}).routes = shared(n, kind);
  }
  /// Routes of these nodes come and go, one node at a time: what the others say stays.
  void come_and_go(const std::vector<int>& nodes) {
    for (int n : nodes) {
      SCOPED_TRACE("node " + std::to_string(n) + " withdraws");
      const auto all = lab_->at(n).routes;
      lab_->at(n).announce(only_own(all));
      expect_paths();
      ASSERT_FALSE(HasFailure());
      auto changed = all;
      changed[0].med = 4711;
      lab_->at(n).announce(changed);
      expect_paths();
      ASSERT_FALSE(HasFailure());
    }
    // All but the last one, then that, too.
    for (int n : nodes) {
      SCOPED_TRACE("node " + std::to_string(n) + " is one of those that withdraw");
      lab_->at(n).announce(only_own(lab_->at(n).routes));
      expect_paths();
      ASSERT_FALSE(HasFailure());
    }
  }
};

TEST_P(AddPathTest, TheDaemonHoldsEveryPathWeReflect) {
  join_with_shared(DaemonKind::ours, 2, false);
  join_with_shared(kind(), 3, true);
  join_with_shared(DaemonKind::bird2, 4, false);
  // Without add-path a speaker says its winner only, and that is not its own route with every daemon.
  join_with_shared(kind(), 5, false);
  lab_->at(5).routes = only_own(lab_->at(5).routes);
  join_with_shared(DaemonKind::ours, 6, true);
  start_all();
  expect_paths();
  ASSERT_FALSE(HasFailure());
  EXPECT_EQ(lab_->at(3).paths().at("10.101.0.1/32").size(), 3U);
  EXPECT_EQ(lab_->at(5).paths().at("10.101.0.1/32").size(), 1U);
  EXPECT_THAT(rr_->neighbor_capabilities(session_at_rr(3, false)), HasSubstr("ADD-PATH\n"));
  come_and_go({4, 3, 2});
  if (HasFailure()) return;
  EXPECT_EQ(lab_->at(3).paths().at("10.101.0.1/32").size(), 1U) << "of node 6";
  lab_->at(2).announce(shared(2, DaemonKind::ours));
  ASSERT_TRUE(eventually("the second path again", [&] { return lab_->at(3).paths()["10.101.0.1/32"].size() == 2; }));
  // Asked to, we send every path once more.
  const auto sent = [&] {
    long sum = 0;
    for (const auto& s : lab_->at(3).sessions) sum += rr_->sent_on(session_at_rr(3, is_v6(s.local)));
    return sum;
  };
  long all = 0;
  for (const auto& [prefix, rows] : wanted_paths(3)) all += static_cast<long>(rows.size());
  const auto before = sent();
  if (lab_->at(3).refresh()) {
    EXPECT_TRUE(eventually("all paths once more", [&] { return sent() - before >= all; })) << sent() - before;
  }
  expect_paths();
  EXPECT_TRUE(up_at_rr(3) && up_at_rr(5));
  const auto text = rr_->birdc("show protocols all " + session_at_rr(3, false));
  EXPECT_EQ(text.find("Last error"), std::string::npos) << text;
}

/// What was kept is replaced, not doubled: a path's identifier is the same in our next life (a daemon that sweeps
/// badly, FRR 8.4, has nothing to sweep then).
TEST_P(AddPathTest, TheDaemonKeepsEveryPathWhileWeRestart) {
  join_with_shared(DaemonKind::ours, 2, false);
  join_with_shared(kind(), 3, true);
  join_with_shared(DaemonKind::bird2, 4, false);
  join_with_shared(DaemonKind::ours, 5, true);
  start_all();
  expect_paths();
  ASSERT_FALSE(HasFailure());
  const auto kept = lab_->at(3).paths();
  rr_->kill();
  ASSERT_TRUE(eventually("the daemon's loss of the session", [&] { return !up_at(3) && !up_at(5); }));
  EXPECT_EQ(difference(lab_->at(3).paths(), kept), "");
  EXPECT_EQ(difference(lab_->at(5).paths(), wanted_paths(5)), "");
  rr_->routes.erase(rr_->routes.begin());
  rr_->routes.push_back({.prefix = "10.101.1.4/32"});
  rr_->start();
  expect_paths();
}

class AddPathReflectorTest : public AddPathTest {
 protected:
  DaemonKind reflector() const override { return kind(); }
  void start_with_three_clients() {
    reflector_->routes = shared(1, kind());
    join_with_shared(DaemonKind::ours, 2, true);
    join_with_shared(DaemonKind::ours, 3, false);
    join_with_shared(DaemonKind::bird2, 4, false);
    start_all();
    expect_paths();
  }
};

TEST_P(AddPathReflectorTest, WeHoldEveryPathTheDaemonReflects) {
  start_with_three_clients();
  ASSERT_FALSE(HasFailure());
  EXPECT_EQ(lab_->at(2).paths().at("10.101.0.1/32").size(), 3U);
  EXPECT_EQ(lab_->at(3).paths().at("10.101.0.1/32").size(), 1U);
  come_and_go({4, 1, 3});
  EXPECT_EQ(lab_->at(2).paths().count("10.101.0.1/32"), 0U);
  EXPECT_TRUE(up_at(2) && up_at(3));
}

TEST_P(AddPathReflectorTest, WeKeepEveryPathWhileTheDaemonRestarts) {
  start_with_three_clients();
  ASSERT_FALSE(HasFailure());
  reflector_->kill();
  ASSERT_TRUE(eventually("our loss of the session", [&] { return !up_at(2) && !up_at(3); }));
  EXPECT_EQ(difference(lab_->at(2).paths(), wanted_paths(2)), "");
  reflector_->routes.erase(reflector_->routes.begin());
  reflector_->start(true);
  expect_paths();
}

INSTANTIATE_TEST_SUITE_P(Each, AddPathTest,
                         testing::Values(DaemonKind::bird2, DaemonKind::bird1, DaemonKind::frr, DaemonKind::gobgp),
                         kEach);
INSTANTIATE_TEST_SUITE_P(Each, AddPathReflectorTest,
                         testing::Values(DaemonKind::bird2, DaemonKind::bird1, DaemonKind::frr, DaemonKind::gobgp),
                         kEach);

// ---- RFC 8950

class Ipv6NextHopsTest : public DaemonTest {};

TEST_P(Ipv6NextHopsTest, Ipv4RoutesTravelWithThemWhereBothSidesCan) {
  const Session with{.ipv6_next_hops = true};
  join(DaemonKind::ours, 2, Role::client, Transport::v6, with).routes = own(2);
  join(DaemonKind::bird2, 4, Role::client, Transport::v6, with).routes = rich(4);
  join(kind(), 3, Role::client, Transport::v6, with).routes = rich(3);
  join(kind(), 6, Role::external, Transport::v6, with).routes = rich(6);
  // Who did not ask for it has IPv4 next hops and is told of no others.
  join(kind(), 5, Role::client, Transport::v4).routes = rich(5);
  start_all();
  expect_tables();
  ASSERT_FALSE(HasFailure());
  EXPECT_EQ(lab_->at(3).table().at("10.100.4.1/32").next_hop, lab_->v6(4));
  EXPECT_EQ(lab_->at(3).table().at("10.100.5.1/32").next_hop, lab_->v4(5));
  EXPECT_EQ(lab_->at(4).table().at("10.100.3.1/32").next_hop, lab_->v6(3));
  EXPECT_THAT(rr_->neighbor_capabilities(session_at_rr(3, true)), HasSubstr("Extended next hop\n"));

  for (int n : {3, 6}) {
    auto rest = rich(n);
    rest.erase(rest.begin());
    rest[0].med = 78;
    lab_->at(n).announce(rest);
  }
  lab_->at(4).announce({rich(4).front()});
  expect_tables();
  for (int n : {3, 4, 6}) lab_->at(n).announce(rich(n));
  expect_tables();
  for (int n : {3, 6}) {
    const auto text = rr_->birdc("show protocols all " + session_at_rr(n, true));
    EXPECT_EQ(text.find("Last error"), std::string::npos) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Ipv6NextHopsTest, testing::Values(DaemonKind::bird2, DaemonKind::frr, DaemonKind::gobgp),
                         kEach);

}  // namespace
}  // namespace calico::test
