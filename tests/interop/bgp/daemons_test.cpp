/// Our speaker beside the distribution's BIRD 2, BIRD 1.6, FRR and GoBGP, the same tests for each: reflector with the
/// daemon as client, non-client and external peer, seen through by a speaker of ours and by BIRD 2 as far clients; both
/// families over both transports; whole tables compared both ways, every attribute; withdrawal; MD5 and TTL security
/// right and wrong; graceful restart of either side; thousands of routes with one set of attributes and with a set
/// each.
#include <gmock/gmock.h>

#include <sstream>

#include "tests/interop/bgp/daemons_fixture.hpp"

namespace calico::test {
namespace {

using testing::HasSubstr;

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

/// RFC 5082 with the fault on our side: the daemon takes packets of its neighbours only, and ours could be of others.
/// Beside it the same with both sides right, which works.
TEST_P(DaemonTest, TtlSecurityOfTheDaemonRefusesOurPacketsFromAfar) {
  for (int n : {3, 4, 6, 7}) {
    const bool six = n == 4 || n == 7;
    const Session like{.ipv4 = !six, .ipv6 = six, .ttl_security = true};
    join(kind(), n, Role::external, six ? Transport::v6 : Transport::v4, like).routes = rich(n);
  }
  const auto right = rr_->sessions;
  for (auto& s : rr_->sessions)
    if (s.name == session_at_rr(3, false) || s.name == session_at_rr(4, true)) {
      s.ttl_security = false;
      s.ours += ",multihop=2";  // the TTL we send
    }
  start_all();
  const auto dropped = [&](int n) { return counter(lab_->at(n).ns(), "TCPMinTTLDrop"); };
  // Our end may believe for a hold time that it is up: an OPEN that lies in a socket before its owner can say which TTL
  // it wants is answered. What follows is dropped, and the daemon is never there.
  bool never_up = true;
  const auto refused = eventually("packets that the daemons did not take", [&] {
    never_up = never_up && !up_at(3) && !up_at(4);
    return !never_up || (dropped(3) >= 4 && dropped(4) >= 4);
  });
  EXPECT_TRUE(refused) << dropped(3) << " " << dropped(4);
  // All are of one AS and do not believe each other.
  const auto from_rr = [&](int n) {
    auto table = seen(1, n);
    const bool six = is_v6(lab_->at(n).sessions.front().local);
    std::erase_if(table, [&](const auto& route) { return is_v6(route.first) != six; });
    return table;
  };
  const auto expect_up = [&](int n) {
    EXPECT_TRUE(eventually("node " + std::to_string(n), [&] { return up_at_rr(n) && up_at(n); }));
    Table got;
    const auto want = from_rr(n);
    EXPECT_TRUE(eventually("the table of node " + std::to_string(n), [&] { return (got = shown(n)) == want; }))
        << difference(got, want);
  };
  for (int n : {6, 7}) expect_up(n);
  EXPECT_TRUE(never_up && !up_at(3) && !up_at(4));
  for (int n : {3, 4}) {
    EXPECT_EQ(shown(n), Table{});
    for (const auto& route : lab_->at(n).routes) EXPECT_FALSE(shown(1).contains(route.prefix)) << route.prefix;
  }
  EXPECT_EQ(dropped(6), 0);
  EXPECT_EQ(dropped(7), 0);
  ASSERT_FALSE(HasFailure());
  // The same neighbours with our side put right; what is half open at the daemons would be for a hold time.
  for (int n : {1, 3, 4}) lab_->at(n).kill();
  rr_->sessions = right;
  for (int n : {1, 3, 4}) lab_->at(n).start();
  for (int n : {3, 4, 6, 7}) expect_up(n);
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
