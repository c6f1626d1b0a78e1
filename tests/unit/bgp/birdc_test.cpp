/// birdc: commands, the shape of answers, the socket's limits, our client against our server.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <regex>
#include <thread>

#include "core/bgp/birdc/client.hpp"
#include "core/bgp/birdc/format.hpp"
#include "core/bgp/birdc/server.hpp"
#include "speakers.hpp"
#include "tests/support/command.hpp"

namespace calico::bgp::test {
namespace {

using testing::HasSubstr;

TEST(BirdcParse, Commands) {
  EXPECT_TRUE(std::holds_alternative<birdc::ShowStatus>(birdc::parse("show status")));
  EXPECT_TRUE(std::holds_alternative<birdc::ShowStatus>(birdc::parse("  show\tstatus \r")));
  auto c = birdc::parse("show protocols all \"border 1\"");
  auto* p = std::get_if<birdc::ShowProtocols>(&c);
  ASSERT_TRUE(p);
  EXPECT_TRUE(p->all);
  EXPECT_EQ(p->names.kind, birdc::Names::Kind::pattern);
  EXPECT_EQ(p->names.text, "border 1");
  c = birdc::parse("show route for 10.65.0.1/32 all table master4 protocol kernel1 primary count");
  auto* r = std::get_if<birdc::ShowRoute>(&c);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->query.covering, addr("10.65.0.1"));
  EXPECT_TRUE(r->query.with_attributes && r->query.best_only && r->count);
  EXPECT_EQ(r->query.peer, "");
  EXPECT_EQ(r->query.family, Family::v4);
  c = birdc::parse("show route 10.0.0.0/8");
  EXPECT_EQ(std::get<birdc::ShowRoute>(c).query.exact, pfx("10.0.0.0/8"));
  const auto bad = [](std::string_view line) {
    auto x = birdc::parse(line);
    auto* b = std::get_if<birdc::Refused>(&x);
    return b ? b->why : "";
  };
  EXPECT_EQ(bad(""), "syntax error, unexpected end");
  EXPECT_EQ(bad("show"), "syntax error, unexpected end");
  EXPECT_EQ(bad("show status now"), "syntax error, unexpected 'now'");
  EXPECT_EQ(bad("show route for"), "syntax error, unexpected end");
  EXPECT_EQ(bad("show route for everybody"), "syntax error, unexpected 'everybody'");
  EXPECT_EQ(bad("show route 10.0.0.0/33"), "syntax error, unexpected '10.0.0.0/33'");
  EXPECT_THAT(bad("show bfd sessions"), HasSubstr("There is no bfd protocol running"));
}

TEST(BirdcParse, Operations) {
  using Verb = birdc::Operate::Verb;
  const auto operate = [](std::string_view line) {
    auto c = birdc::parse(line);
    auto* o = std::get_if<birdc::Operate>(&c);
    EXPECT_TRUE(o) << line;
    return o ? *o : birdc::Operate{};
  };
  EXPECT_EQ(operate("enable all").names.kind, birdc::Names::Kind::all);
  EXPECT_EQ(operate("reload in \"bor*\"").verb, Verb::reload_in);
  EXPECT_EQ(operate("reload out x").verb, Verb::reload_out);
  EXPECT_EQ(operate("reload x").verb, Verb::reload);
  EXPECT_EQ(operate("disable x \"new fan\"").message, "new fan");
  EXPECT_EQ(operate("restart x").names.text, "x");
  const auto refused = [](std::string_view line) {
    auto c = birdc::parse(line);
    auto* r = std::get_if<birdc::Refused>(&c);
    return r ? r->code : 0;
  };
  EXPECT_EQ(refused("enable"), 9001) << "never all by omission";
  EXPECT_EQ(refused("enable x y"), 9001);
  EXPECT_EQ(refused("enable x \"y\""), 9001);
  EXPECT_EQ(refused("down"), 8007);
  EXPECT_EQ(refused("graceful restart"), 8007);
  EXPECT_EQ(refused("configure undo"), 9001);
  EXPECT_EQ(refused("configure \"other.conf\""), 9001);
  EXPECT_EQ(refused("configure soft"), 0);
  for (const char* line :
       {"configure", "configure check", "configure soft", "enable x", "disable x", "restart x", "reload x",
        "reload in x", "graceful shutdown", "graceful shutdown on", "graceful shutdown off"})
    EXPECT_FALSE(birdc::allowed_when_restricted(birdc::parse(line))) << line;
  for (const char* line : {"show status", "show protocols", "show route", "show interfaces", "show memory"})
    EXPECT_TRUE(birdc::allowed_when_restricted(birdc::parse(line))) << line;
}

TEST(BirdcParse, ASocketOfBird1KnowsItsFamilyOnly) {
  const birdc::Shape four{birdc::Layout::bird1, Family::v4};
  const auto route = [&](std::string_view line) {
    auto c = birdc::parse(line, four);
    auto* r = std::get_if<birdc::ShowRoute>(&c);
    return r ? r->query.family : std::nullopt;
  };
  EXPECT_EQ(route("show route"), Family::v4);
  EXPECT_EQ(route("show route table master"), Family::v4);
  EXPECT_EQ(route("show route for 10.0.0.1"), Family::v4);
  EXPECT_EQ(route("show route for fd00::1"), std::nullopt);
  EXPECT_EQ(route("show route fd00::/64"), std::nullopt);
  auto c = birdc::parse("show route primary table master4", four);
  ASSERT_TRUE(std::holds_alternative<birdc::Refused>(c));
  EXPECT_EQ(std::get<birdc::Refused>(c).why, "master4 is not a table") << "as recorded";
}

TEST(BirdcReply, CodesAreRepeatedAsBirdDoes) {
  birdc::Reply out;
  out.line(1007, "Table master4:");
  out.line(1007, "10.0.0.0/8 x");
  out.line(1008, "\tType: BGP univ");
  out.line(1007, "evil\nline\x1b[0m");
  out.end(0);
  EXPECT_EQ(out.take(), "1007-Table master4:\n 10.0.0.0/8 x\n1008-\tType: BGP univ\n1007-evil?line?[0m\n0000 \n");
}

class BirdcTest : public SpeakersTest {
 protected:
  void SetUp() override {
    SpeakersTest::SetUp();
    auto& a = speaker(1);
    auto& b = speaker(2);
    a.local("10.65.0.1/32");
    a.complete();
    b.local("10.65.0.2/32");
    b.complete();
    auto p = a.peer(2);
    p.name = "border-2";
    p.password = "";
    ASSERT_TRUE(a.peers({p, a.peer(9)}));
    ASSERT_TRUE(b.peers({b.peer(1)}));
    ASSERT_TRUE(wait_for("routes", [&] { return a.route_count() == 1 && b.route_count() == 1; }));
    path_ = (dir_ / "bird.ctl").string();
    open_server();
  }
  void TearDown() override {
    loop_.call([&] {
      server_.reset();
      old_.clear();
    });
    if (helper_.joinable()) helper_.join();
    SpeakersTest::TearDown();
  }
  void open_server(Configure configure = {}) {
    speakers_[0]->in_loop([&](Engine& e) {
      server_ = std::make_unique<BirdcServer>(loop_, e, BirdcServer::Options{path_, true, {}, std::move(configure)});
      auto s = server_->start();
      EXPECT_TRUE(s) << (s ? "" : s.error().what);
      return 0;
    });
  }
  /// Runs the applet; its exit code and what it printed.
  std::pair<int, std::string> applet(std::vector<std::string> args) {
    args.insert(args.begin(), {"birdc", "-s", path_});
    std::vector<char*> argv;
    for (auto& a : args) argv.push_back(a.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = birdc_main(static_cast<int>(argv.size()), argv.data());
    std::fflush(stdout);
    auto text = testing::internal::GetCapturedStdout();
    text += testing::internal::GetCapturedStderr();
    return {code, text};
  }
  /// The sockets a BIRD 1 would have.
  void open_old() {
    speakers_[0]->in_loop([&](Engine& e) {
      for (auto family : {Family::v4, Family::v6}) {
        old_.push_back(std::make_unique<BirdcServer>(
            loop_, e, BirdcServer::Options{old_path(family), true, {birdc::Layout::bird1, family}, {}}));
        auto s = old_.back()->start();
        EXPECT_TRUE(s) << (s ? "" : s.error().what);
      }
      return 0;
    });
  }
  std::string old_path(Family family) const {
    return (dir_ / (family == Family::v4 ? "old.ctl" : "old6.ctl")).string();
  }
  std::string with_codes(std::vector<std::string> args) {
    args.insert(args.begin(), "-v");
    return applet(std::move(args)).second;
  }
  int raw() {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    path_.copy(a.sun_path, sizeof a.sun_path - 1);
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
    timeval limit{10, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
  }
  static std::string read_all(int fd) {
    std::string out;
    char buf[4096];
    for (ssize_t n; (n = ::read(fd, buf, sizeof buf)) > 0;) out.append(buf, static_cast<std::size_t>(n));
    return out;
  }
  std::string path_;
  std::unique_ptr<BirdcServer> server_;
  std::vector<std::unique_ptr<BirdcServer>> old_;
  std::thread helper_;  // answers `configure`
};

TEST_F(BirdcTest, AnswersInTheShapeOfBird2) {
  auto [code, text] = applet({"-v", "show", "status"});
  EXPECT_EQ(code, 0);
  EXPECT_TRUE(std::regex_match(
      text,
      std::regex(
          "0001 BIRD 2\\.[^\n]* ready\\.\n1000-BIRD 2\\.[^\n]*\n1011-Router ID is 10\\.0\\.0\\.1\n Hostname is [^\n]+\n"
          " Current server time is \\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{3}\n Last reboot on [^\n]+\n"
          " Last reconfiguration on [^\n]+\n0013 Daemon is up and running\n")))
      << text;
  std::tie(code, text) = applet({"show", "protocols"});
  EXPECT_TRUE(std::regex_search(
      text, std::regex("\nName       Proto      Table      State  Since         Info\n"
                       "kernel1    Kernel     ---        up     \\d\\d:\\d\\d:\\d\\d\\.\\d{3}  \n"
                       "border-2   BGP        ---        up     \\d\\d:\\d\\d:\\d\\d\\.\\d{3}  Established   \n"
                       "p9         BGP        ---        start  \\d\\d:\\d\\d:\\d\\d\\.\\d{3}  ")))
      << text;
  std::tie(code, text) = applet({"show", "protocols", "all", "bord*"});
  EXPECT_THAT(
      text,
      HasSubstr("\n  BGP state:          Established\n    Neighbor address: " + own_address(2).to_string() + "\n"));
  EXPECT_THAT(text, HasSubstr("\n    Routes:         1 imported, 1 exported, 1 preferred\n"));
  EXPECT_THAT(text, Not(HasSubstr("p9")));
  std::tie(code, text) = applet({"-v", "show", "route"});
  EXPECT_TRUE(std::regex_search(
      text, std::regex("\n1007-Table master4:\n 10\\.65\\.0\\.1/32         unicast \\[kernel1 [^\\]]+\\] \\* "
                       "\\(240\\)\n( \tdev \\S+\n)?"
                       " 10\\.65\\.0\\.2/32         unicast \\[border-2 [0-9:.]+\\] \\* \\(100\\) \\[i\\]\n \tvia ")))
      << text;
  EXPECT_THAT(text, HasSubstr("\n0000 \n"));
  std::tie(code, text) = applet({"-v", "show", "route", "all", "for", "10.65.0.2"});
  EXPECT_THAT(text, HasSubstr("\n1008-\tType: BGP univ\n1012-\tBGP.origin: IGP\n \tBGP.as_path: \n \tBGP.next_hop: "));
  std::tie(code, text) = applet({"-v", "show", "route", "count"});
  EXPECT_THAT(
      text,
      HasSubstr("\n1007-2 of 2 routes for 2 networks in table master4\n 0 of 0 routes for 0 networks in table master6\n"
                "0014 Total: 2 of 2 routes for 2 networks in 2 tables\n"));
}

TEST_F(BirdcTest, RefusalsHaveAnExitCode) {
  EXPECT_EQ(applet({"show", "route", "for", "192.0.2.1"}).first, 1);
  EXPECT_THAT(applet({"-v", "show", "route", "for", "192.0.2.1"}).second, HasSubstr("\n8001 Network not found\n"));
  EXPECT_THAT(applet({"-v", "show", "protocols", "nobody"}).second, HasSubstr("\n9001 nobody is not a protocol\n"));
  EXPECT_THAT(applet({"-v", "show", "protocols", "x*"}).second, HasSubstr("\n8003 No protocols match\n"));
  EXPECT_THAT(applet({"-v", "show", "route", "protocol", "nobody"}).second,
              HasSubstr("\n9001 nobody is not a protocol\n"));
  EXPECT_EQ(applet({"restart", "nobody"}).first, 1);
  EXPECT_EQ(applet({"restart"}).first, 1);
  EXPECT_EQ(applet({"--nonsense"}).first, 2);
  path_ += ".none";
  auto [code, text] = applet({"show", "status"});
  EXPECT_EQ(code, 3);
  EXPECT_THAT(text, HasSubstr("is calico-node running"));
}

TEST_F(BirdcTest, DisabledStaysDownUntilEnabled) {
  auto& a = *speakers_[0];
  auto& b = *speakers_[1];
  EXPECT_EQ(with_codes({"disable", "border-2", "new fan"}).substr(with_codes({"show", "status"}).find('\n') + 1),
            "0009-border-2: disabled\n0000 \n");
  ASSERT_TRUE(wait_for("the neighbour hears why",
                       [&] { return b.saw(PeerEvent::Kind::down, "Administrative shutdown \"new fan\""); }));
  EXPECT_EQ(a.route_count(), 0U);
  EXPECT_EQ(b.route_count(), 0U) << "meant: nobody keeps the routes";
  EXPECT_TRUE(a.status(2)->disabled);
  EXPECT_THAT(with_codes({"disable", "border-2"}), HasSubstr("\n0008-border-2: already disabled\n0000 \n"));
  EXPECT_THAT(with_codes({"restart", "border-2"}), HasSubstr("\n0008-border-2: already disabled\n"));
  EXPECT_THAT(with_codes({"reload", "border-2"}), HasSubstr("\n0008-border-2: already disabled\n"));
  EXPECT_TRUE(
      std::regex_search(with_codes({"show", "protocols"}), std::regex(" border-2   BGP        ---        down   ")));
  // A reconfiguration, of others and of itself, is no order to come up.
  auto p = a.peer(2);
  p.name = "border-2";
  p.max_prefix = 1000;
  p.hold_time = 30s;
  ASSERT_TRUE(a.peers({p, a.peer(8)}));
  EXPECT_TRUE(stays([&] { return a.status(2)->disabled && a.status(2)->state == PeerState::idle; }, 500ms));
  EXPECT_THAT(with_codes({"enable", "border-2"}), HasSubstr("\n0011-border-2: enabled\n0000 \n"));
  EXPECT_THAT(with_codes({"enable", "border-2"}), HasSubstr("\n0010-border-2: already enabled\n0000 \n"));
  EXPECT_TRUE(wait_for("routes again", [&] { return a.route_count() == 1 && b.route_count() == 1; }));
}

TEST_F(BirdcTest, ARestartLosesNoRoute) {
  auto& a = *speakers_[0];
  auto& b = *speakers_[1];
  // Without the one that never answers: who has not heard all its peers cannot say that its forwarding is whole.
  auto p = a.peer(2);
  p.name = "border-2";
  ASSERT_TRUE(a.peers({p}));
  const auto converged = [](Speaker& s) { return s.in_loop([](Engine& e) { return e.status().converged; }); };
  ASSERT_TRUE(wait_for("convergence", [&] { return converged(a) && converged(b); }));
  const auto before = a.status(2)->since;
  EXPECT_THAT(with_codes({"restart", "\"bor*\""}), HasSubstr("\n0012-border-2: restarted\n0000 \n"));
  bool lost = false;
  ASSERT_TRUE(wait_for("a new session", [&] {
    lost |= a.route_count() != 1 || b.route_count() != 1;
    const auto s = a.status(2);
    return s->state == PeerState::established && s->since != before && s->v4.eor_received && s->v4.stale == 0;
  }));
  EXPECT_FALSE(lost);
  EXPECT_EQ(a.status(2)->counters.flaps, 1U);
}

TEST_F(BirdcTest, ReloadAsksAndSendsAgain) {
  auto& a = *speakers_[0];
  auto& b = *speakers_[1];
  const auto got = [](Speaker& s, int from) { return s.status(from)->counters.import_updates; };
  ASSERT_EQ(got(a, 2), 1U);
  ASSERT_EQ(got(b, 1), 1U);
  EXPECT_THAT(with_codes({"reload", "in", "border-2"}), HasSubstr("\n0015-border-2: reloading\n0000 \n"));
  EXPECT_TRUE(wait_for("theirs again", [&] { return got(a, 2) == 2; }));
  EXPECT_EQ(got(b, 1), 1U);
  EXPECT_THAT(with_codes({"reload", "out", "border-2"}), HasSubstr("\n0015-border-2: reloading\n0000 \n"));
  EXPECT_TRUE(wait_for("ours again", [&] { return got(b, 1) == 2; }));
  with_codes({"reload", "border-2"});
  EXPECT_TRUE(wait_for("both", [&] { return got(a, 2) == 3 && got(b, 1) == 3; }));
  EXPECT_EQ(a.status(2)->counters.flaps, 0U) << "the session is not touched";
  const auto [code, text] = applet({"-v", "reload", "all"});
  EXPECT_EQ(code, 1) << "one of them failed";
  EXPECT_THAT(text, HasSubstr("\n0015-border-2: reloading\n8006-p9: reload failed (p9 has no session)\n0000 \n"));
}

TEST_F(BirdcTest, WhatCannotBeSwitchedSaysSo) {
  EXPECT_THAT(with_codes({"disable", "kernel1"}), HasSubstr("\n8007 kernel1: "));
  EXPECT_THAT(with_codes({"down"}), HasSubstr("\n8007 Access denied: calico-node ends with its service"));
  EXPECT_THAT(with_codes({"disable", "\"x*\""}), HasSubstr("\n8003 No protocols match\n"));
  EXPECT_THAT(with_codes({"disable", "nobody"}), HasSubstr("\n9001 nobody is not a protocol\n"));
  EXPECT_THAT(with_codes({"configure"}), HasSubstr("\n9001 this speaker has no configuration to read again\n"));
  EXPECT_EQ(speakers_[0]->status(2)->state, PeerState::established);
}

TEST_F(BirdcTest, ARestrictedClientLooksOnly) {
  const int fd = raw();
  const std::string text =
      "restrict\ndisable all\nrestart border-2\nreload out border-2\nconfigure\ngraceful shutdown on\nshow symbols "
      "table\n";
  ASSERT_GT(::send(fd, text.data(), text.size(), MSG_NOSIGNAL), 0);
  ::shutdown(fd, SHUT_WR);
  const auto answer = read_all(fd);
  ::close(fd);
  EXPECT_EQ(answer.substr(answer.find('\n') + 1),
            "0016 Access restricted\n8007 Access denied\n8007 Access denied\n8007 Access denied\n8007 Access denied\n"
            "8007 Access denied\n1010-master4 \trouting table\n master6 \trouting table\n0000 \n");
  EXPECT_EQ(applet({"-r", "disable", "all"}).first, 1);
  EXPECT_EQ(applet({"-r", "show", "status"}).first, 0);
  EXPECT_EQ(speakers_[0]->status(2)->counters.flaps, 0U);
  EXPECT_FALSE(speakers_[0]->in_loop([](Engine& e) { return e.status().draining; }));
}

TEST_F(BirdcTest, GracefulShutdownMakesUsTheLastChoice) {
  auto& b = *speakers_[1];
  const auto route = [&] {
    return b.in_loop([](Engine& e) {
      RouteQuery q;
      q.exact = pfx("10.65.0.1/32");
      q.with_attributes = true;
      auto r = e.routes(q);
      return r.empty() ? RouteInfo{} : r.front();
    });
  };
  ASSERT_EQ(route().local_pref, 100U);
  EXPECT_THAT(with_codes({"graceful", "shutdown", "on"}), HasSubstr("\n0025 Graceful shutdown is on"));
  ASSERT_TRUE(wait_for("the community", [&] {
    for (const auto& [name, value] : route().attributes)
      if (name == "BGP.community") return value == "(65535,0)";
    return false;
  }));
  EXPECT_EQ(route().local_pref, 0U);
  EXPECT_THAT(with_codes({"show", "status"}), HasSubstr("\n Graceful shutdown is on, neighbors have "));
  // What is announced later is no better.
  speakers_[0]->local("10.65.0.3/32");
  ASSERT_TRUE(wait_for("a late route", [&] { return b.route("10.65.0.3/32").has_value(); }));
  EXPECT_EQ(b.route("10.65.0.3/32")->local_pref, 0U);
  EXPECT_THAT(with_codes({"graceful", "shutdown", "off"}), HasSubstr("\n0025 Graceful shutdown is off"));
  EXPECT_TRUE(wait_for("as before", [&] { return route().local_pref == 100; }));
  for (const auto& [name, value] : route().attributes) EXPECT_NE(name, "BGP.community") << value;
}

TEST_F(BirdcTest, ConfigureAsksWhoeverOwnsTheConfiguration) {
  loop_.call([&] { server_.reset(); });
  std::vector<bool> asked;
  open_server([&](bool check, std::function<void(ConfigureAnswer)> done) {
    asked.push_back(check);
    if (helper_.joinable()) helper_.join();
    // From another thread, as the process does it.
    helper_ = std::thread([check, done = std::move(done)] {
      done({"/etc/x.conf",
            {"[bgp.peer.a] added"},
            check ? std::vector<std::string>{"x.conf:1: no"} : std::vector<std::string>{}});
    });
  });
  auto [code, text] = applet({"-v", "configure"});
  EXPECT_EQ(code, 0);
  EXPECT_THAT(text,
              HasSubstr("\n0002-Reading configuration from /etc/x.conf\n [bgp.peer.a] added\n0003 Reconfigured\n"));
  std::tie(code, text) = applet({"-v", "configure", "check"});
  EXPECT_EQ(code, 1);
  EXPECT_THAT(text, HasSubstr("\n [bgp.peer.a] added\n8002 x.conf:1: no\n"));
  EXPECT_EQ(asked, (std::vector<bool>{false, true}));
}

TEST_F(BirdcTest, RoutesByWhomTheyAreSentTo) {
  const auto prefixes = [&](std::vector<std::string> args) {
    args.insert(args.begin(), {"show", "route"});
    std::set<std::string> out;
    std::istringstream in(applet(args).second);
    for (std::string line; std::getline(in, line);)
      if (line.find(" unicast ") != std::string::npos) out.insert(line.substr(0, line.find(' ')));
    return out;
  };
  EXPECT_EQ(prefixes({"export", "border-2"}), (std::set<std::string>{"10.65.0.1/32"}));
  EXPECT_EQ(prefixes({"noexport", "border-2"}), (std::set<std::string>{"10.65.0.2/32"})) << "from where it came";
  EXPECT_EQ(prefixes({"filtered"}), std::set<std::string>{});
  EXPECT_THAT(with_codes({"show", "route", "export", "p9"}), HasSubstr("\n9001 No valid tables\n")) << "as recorded";
  EXPECT_THAT(with_codes({"show", "route", "export", "nobody"}), HasSubstr("\n9001 nobody is not a protocol\n"));
  EXPECT_THAT(with_codes({"show", "route", "stats"}),
              HasSubstr("\n0014 Total: 2 of 2 routes for 2 networks in 2 tables\n"));
}

TEST_F(BirdcTest, TheOldSocketsSpeakBird1) {
  open_old();
  path_ = old_path(Family::v4);
  EXPECT_THAT(
      with_codes({"show", "protocols"}),
      HasSubstr("\n2002-name     proto    table    state  since       info\n1002-kernel1  Kernel   master   up "));
  EXPECT_TRUE(std::regex_search(with_codes({"show", "route"}),
                                std::regex("\n 10\\.65\\.0\\.2/32       via \\S+ on \\S+ \\[border-2 [0-9:]{8}\\] \\* "
                                           "\\(100/0\\) \\[i\\]\n0000 \n")))
      << with_codes({"show", "route"});
  EXPECT_THAT(with_codes({"show", "route", "count"}), HasSubstr("\n0014 2 of 2 routes for 2 networks\n"));
  EXPECT_THAT(with_codes({"show", "route", "for", "192.0.2.1"}), HasSubstr("\n8001 Network not in table\n"));
  EXPECT_THAT(with_codes({"show", "route", "export", "p9"}), HasSubstr("\n8005 Protocol is down\n"));
  EXPECT_THAT(with_codes({"disable", "nobody"}), HasSubstr("\n9002 nobody is not a protocol\n"));
  EXPECT_THAT(with_codes({"show", "interfaces", "summary"}), HasSubstr("\n1005-lo        up    127.0.0.1/8\n"));
  EXPECT_THAT(with_codes({"show", "memory"}), HasSubstr("\n Total: "));
  path_ = old_path(Family::v6);
  EXPECT_THAT(with_codes({"show", "route", "count"}), HasSubstr("\n0014 0 of 0 routes for 0 networks\n"));
}

/// BIRD's own clients, installed (2.0) or unpacked by tests/setup.sh into build/peers/bird1 (1.6), against our sockets.
TEST_F(BirdcTest, BirdsOwnClientsUnderstandUs) {
  open_old();
  // The one that never answers must not change its state between two questions.
  auto border = speakers_[0]->peer(2), silent = speakers_[0]->peer(9);
  border.name = "border-2";
  silent.passive = true;
  ASSERT_TRUE(speakers_[0]->peers({border, silent}));
  ASSERT_TRUE(wait_for("it is quiet", [&] { return speakers_[0]->status(9)->passive_wait; }));
  struct Tool {
    std::string binary, socket;
  };
  const std::string old = CALICO_SOURCE_DIR "/build/peers/bird1/usr/sbin/";
  const std::vector<Tool> tools{
      {"/usr/sbin/birdc", path_}, {old + "birdc", old_path(Family::v4)}, {old + "birdc6", old_path(Family::v6)}};
  const auto plain = [](std::string text) {
    text = std::regex_replace(text, std::regex(R"(\d\d:\d\d:\d\d(\.\d{3})?)"), "TIME");
    return std::regex_replace(text, std::regex(R"(timer:( +)[0-9.]+/)"), "timer: N/");
  };
  int missing = 0;
  for (const auto& tool : tools) {
    if (!std::filesystem::exists(tool.binary)) {
      std::fprintf(stderr, "not here, not tried: %s\n", tool.binary.c_str());
      ++missing;
      continue;
    }
    path_ = tool.socket;
    const auto birdc = [&](const std::string& options, const std::string& command) {
      return calico::test::run(tool.binary + " -s " + tool.socket + " " + options + " " + command);
    };
    for (const char* command :
         {"show status", "show protocols", "show protocols all", "show protocols all border-2", "show route",
          "show route all", "show route primary", "show route count", "show route protocol border-2", "show symbols",
          "show route export border-2", "show interfaces", "show interfaces summary", "configure check", "down",
          "disable nobody"}) {
      std::vector<std::string> words;
      std::istringstream in(command);
      for (std::string w; in >> w;) words.push_back(w);
      const auto theirs = birdc("", command);
      EXPECT_EQ(plain(theirs.output), plain(applet(words).second)) << tool.binary << ": " << command;
      EXPECT_GT(theirs.output.size(), 20U);
    }
    // The IPv6 daemon of old has this session too: it carries both families.
    EXPECT_THAT(birdc("", "restart border-2").output, HasSubstr("border-2: restarted"));
    ASSERT_TRUE(wait_for("up again", [&] { return speakers_[0]->established(2) && speakers_[1]->established(1); }));
    EXPECT_THAT(birdc("", "disable border-2").output, HasSubstr("border-2: disabled"));
    EXPECT_THAT(birdc("", "disable border-2").output, HasSubstr("border-2: already disabled"));
    EXPECT_THAT(birdc("", "enable border-2").output, HasSubstr("border-2: enabled"));
    ASSERT_TRUE(wait_for("up again", [&] { return speakers_[0]->route_count() == 1 && speakers_[1]->established(1); }));
    EXPECT_THAT(birdc("", "reload in border-2").output, HasSubstr("border-2: reloading"));
    EXPECT_THAT(birdc("-r", "disable border-2").output, HasSubstr("Access denied"));
    EXPECT_TRUE(speakers_[0]->established(2));
  }
  if (missing == 3) GTEST_SKIP() << "SKIPPED: no birdc of BIRD is here";
}

TEST_F(BirdcTest, ALongTableArrivesWhole) {
  speakers_[0]->in_loop([](Engine& e) {
    for (std::uint32_t i = 0; i < 3000; ++i) e.set_local(Prefix::host(Ip::v4(0x0a420000 + i)), LocalRoute{});
    return 0;
  });
  ASSERT_TRUE(wait_for("all exported", [&] { return speakers_[1]->route_count() == 3001; }));
  auto [code, text] = applet({"show", "route", "table", "master4"});
  EXPECT_EQ(code, 0);
  std::set<std::string> prefixes;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (line.find(" unicast ") != std::string::npos) {
      EXPECT_TRUE(prefixes.insert(line.substr(0, line.find(' '))).second) << line;
    }
  EXPECT_EQ(prefixes.size(), 3002U);
  EXPECT_THAT(applet({"show", "route", "count"}).second, HasSubstr("Total: 3002 of 3002"));
}

TEST_F(BirdcTest, LinesAreBounded) {
  const int fd = raw();
  const std::string flood(5000, 'x');
  EXPECT_GT(::send(fd, flood.data(), flood.size(), MSG_NOSIGNAL), 0);
  EXPECT_THAT(read_all(fd), HasSubstr("9001 Line too long\n")) << "and closed";
  ::close(fd);
  // Two commands in one write are two answers; half a line waits.
  const int two = raw();
  const std::string text = "show status\nshow status\nshow st";
  EXPECT_GT(::send(two, text.data(), text.size(), MSG_NOSIGNAL), 0);
  ::shutdown(two, SHUT_WR);
  const auto answer = read_all(two);
  const std::string end = "0013 Daemon is up and running\n";
  EXPECT_NE(answer.find(end), answer.rfind(end));
  EXPECT_TRUE(answer.ends_with(end));
  ::close(two);
}

TEST_F(BirdcTest, ClientsAreBounded) {
  std::vector<int> fds;
  for (int i = 0; i < 40; ++i) fds.push_back(raw());
  std::string last;
  ASSERT_TRUE(wait_for("refusal of the last", [&] {
    char c;
    while (::recv(fds.back(), &c, 1, MSG_DONTWAIT) == 1) last += c;
    return last.find('\n') != std::string::npos;
  }));
  EXPECT_EQ(last, "9001 Too many clients\n");
  for (int fd : fds) ::close(fd);
  EXPECT_TRUE(wait_for("room again", [&] { return applet({"show", "status"}).first == 0; }));
}

TEST_F(BirdcTest, TheSocketFileOfADeadServerIsReplacedALivingOneIsNot) {
  auto second = speakers_[0]->in_loop([&](Engine& e) {
    BirdcServer other(loop_, e, {path_, true, {}, {}});
    return other.start();
  });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::exists);
  EXPECT_EQ(applet({"show", "status"}).first, 0) << "the first one still answers";
  loop_.call([&] { server_.reset(); });
  EXPECT_FALSE(std::filesystem::exists(path_));
  // As left by a process that was killed.
  const int dead = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  path_.copy(a.sun_path, sizeof a.sun_path - 1);
  ASSERT_EQ(::bind(dead, reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
  ::close(dead);
  open_server();
  EXPECT_EQ(applet({"show", "status"}).first, 0);
  EXPECT_EQ(std::filesystem::status(path_).permissions(), static_cast<std::filesystem::perms>(0660));
}

}  // namespace
}  // namespace calico::bgp::test
