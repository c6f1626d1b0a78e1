/// birdc: commands, the shape of answers, the socket's limits, our client against our server.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <regex>

#include "core/bgp/birdc/client.hpp"
#include "core/bgp/birdc/format.hpp"
#include "core/bgp/birdc/server.hpp"
#include "speakers.hpp"

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
  EXPECT_EQ(p->name, "border 1");
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
    auto* b = std::get_if<birdc::Bad>(&x);
    return b ? b->why : "";
  };
  EXPECT_EQ(bad(""), "syntax error, unexpected end");
  EXPECT_EQ(bad("show"), "syntax error, unexpected end");
  EXPECT_EQ(bad("show status now"), "syntax error, unexpected 'now'");
  EXPECT_EQ(bad("show route for"), "syntax error, unexpected end");
  EXPECT_EQ(bad("show route for everybody"), "syntax error, unexpected 'everybody'");
  EXPECT_EQ(bad("show route 10.0.0.0/33"), "syntax error, unexpected '10.0.0.0/33'");
  EXPECT_THAT(bad("configure"), HasSubstr("not supported here"));
  EXPECT_THAT(bad("show memory"), HasSubstr("not supported here"));
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
    loop_.call([&] { server_.reset(); });
    SpeakersTest::TearDown();
  }
  void open_server() {
    speakers_[0]->in_loop([&](Engine& e) {
      server_ = std::make_unique<BirdcServer>(loop_, e, BirdcServer::Options{path_, true});
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
      text,
      std::regex("\n1007-Table master4:\n 10\\.65\\.0\\.1/32         unicast \\[kernel1 [^\\]]+\\] \\* \\(240\\)\n"
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
  EXPECT_THAT(applet({"-v", "show", "protocols", "nobody"}).second, HasSubstr("\n8003 No protocols match\n"));
  EXPECT_THAT(applet({"-v", "show", "route", "protocol", "nobody"}).second,
              HasSubstr("\n9001 nobody is not a protocol\n"));
  EXPECT_EQ(applet({"restart", "all"}).first, 1);
  EXPECT_EQ(applet({"--nonsense"}).first, 2);
  path_ += ".none";
  auto [code, text] = applet({"show", "status"});
  EXPECT_EQ(code, 3);
  EXPECT_THAT(text, HasSubstr("is calico-node running"));
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
    BirdcServer other(loop_, e, {path_, true});
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
