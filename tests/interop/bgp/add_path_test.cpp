/// RFC 7911 beside BIRD 2, both ways: two clients announce one prefix; who takes several paths gets both, who does not
/// gets the best, and each withdrawal takes away the path it means. Each daemon lives in a namespace of its own.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>

#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class AddPathBird2Test : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    if (!fs::exists("/usr/sbin/bird") || shell("/usr/sbin/bird --version").text.find("version 2") == std::string::npos)
      GTEST_SKIP() << "SKIPPED, needs Debian's bird2";
    dir_ = fs::temp_directory_path() / ("calico-addpath-" + std::to_string(getpid()));
    fs::create_directories(dir_);
    hub_ = std::make_unique<Netns>("hub");
    hub_->run("ip link add br0 type bridge && ip link set br0 up");
    for (int n : {1, 2, 3, 4, 5}) {
      const auto s = std::to_string(n);
      auto& ns = *nodes_.emplace(n, std::make_unique<Netns>("n" + s)).first->second;
      veth(ns, "eth0", *hub_, "p" + s);
      hub_->run("ip link set p" + s + " master br0");
      ns.run("ip addr add 10.66.0." + s + "/16 dev eth0");
    }
  }
  void TearDown() override {
    procs_.clear();
    nodes_.clear();
    hub_.reset();
    if (HasFailure())
      for (auto& e : fs::directory_iterator(dir_))
        if (e.path().extension() == ".log") std::cerr << "--- " << e.path() << "\n" << std::ifstream(e.path()).rdbuf();
    fs::remove_all(dir_);
  }
  std::string path(int n, const std::string& what) { return (dir_ / (std::to_string(n) + what)).string(); }
  void run(int n, const std::string& command) {
    procs_.emplace(n, std::make_unique<Child>(nodes_.at(n)->spawn("exec " + command, path(n, ".log"))));
  }
  void speaker(int n, const std::string& rest) {
    ours_.insert(n);
    const auto ip = "10.66.0." + std::to_string(n);
    run(n, CALICO_BINARY_DIR "/tests/bgp-speaker id=" + ip + " listen=" + ip + " ctl=" + path(n, ".ctl") + " " + rest);
  }
  void bird(int n, const std::string& rest) {
    const auto s = std::to_string(n);
    std::ofstream(path(n, ".conf")) << "router id 10.66.0." << s
                                    << ";\nprotocol device {}\nprotocol direct { ipv4; interface \"eth0\"; }\n"
                                    << rest;
    run(n, "/usr/sbin/bird -f -c " + path(n, ".conf") + " -s " + path(n, ".ctl"));
  }
  static std::string session(int n, int to, const std::string& options, const std::string& channel) {
    return "protocol bgp p" + std::to_string(to) + " { local 10.66.0." + std::to_string(n) +
           " as 64512; neighbor 10.66.0." + std::to_string(to) + " as 64512; " + options +
           " connect delay time 1; connect retry time 1; error wait time 1, 2; ipv4 { import all; " + channel +
           " }; }\n";
  }
  std::string birdc(int n, const std::string& command) {
    const std::string tool = ours_.contains(n) ? CALICO_BINARY_DIR "/tests/bgp-speaker birdc" : "/usr/sbin/birdc";
    return nodes_.at(n)->try_run(tool + " -s " + path(n, ".ctl") + " " + command).text;
  }
  /// The next hops a node has for the prefix, in order.
  std::string ways(int n) {
    const auto text = birdc(n, "show route for 10.100.0.1/32 all");
    std::string out;
    for (int from : {2, 3})
      if (text.find("BGP.next_hop: 10.66.0." + std::to_string(from)) != std::string::npos) out += std::to_string(from);
    return out;
  }
  void withdraw(int n) { birdc(n, "disable s4"); }

  fs::path dir_;
  std::unique_ptr<Netns> hub_;
  std::map<int, std::unique_ptr<Netns>> nodes_;
  std::map<int, std::unique_ptr<Child>> procs_;
  std::set<int> ours_;
};

constexpr const char* kStatic = "protocol static s4 { ipv4; route 10.100.0.1/32 unreachable; }\n";
constexpr const char* kOwn = "export where source = RTS_STATIC;";

TEST_F(AddPathBird2Test, BirdGetsEveryPathOfOurReflector) {
  speaker(
      1, "peer=c2,10.66.0.2,client peer=c3,10.66.0.3,client peer=c4,10.66.0.4,client,addpath peer=c5,10.66.0.5,client");
  for (int n : {2, 3}) bird(n, kStatic + session(n, 1, "", kOwn));
  bird(4, session(4, 1, "", "export none; add paths on;"));
  bird(5, session(5, 1, "", "export none;"));
  ASSERT_TRUE(eventually("both paths at 4", [&] { return ways(4) == "23"; })) << birdc(4, "show route all");
  ASSERT_TRUE(eventually("the best at 5", [&] { return ways(5) == "2"; })) << birdc(5, "show route all");
  EXPECT_THAT(birdc(1, "show protocols all c4"), HasSubstr("ADD-PATH"));
  withdraw(2);
  ASSERT_TRUE(eventually("the path that is left", [&] { return ways(4) == "3" && ways(5) == "3"; }))
      << birdc(4, "show route all") << birdc(5, "show route all");
  withdraw(3);
  ASSERT_TRUE(eventually("none", [&] { return ways(4).empty() && ways(5).empty(); }));
}

TEST_F(AddPathBird2Test, WeTakeEveryPathOfABirdReflector) {
  bird(1, session(1, 2, "rr client;", "export all;") + session(1, 3, "rr client;", "export all;") +
              session(1, 4, "rr client;", "export where source = RTS_BGP; add paths tx;") +
              session(1, 5, "rr client;", "export where source = RTS_BGP;"));
  for (int n : {2, 3}) bird(n, kStatic + session(n, 1, "", kOwn));
  speaker(4, "peer=rr,10.66.0.1,addpath");
  speaker(5, "peer=rr,10.66.0.1");
  ASSERT_TRUE(eventually("both paths at 4", [&] { return ways(4) == "23"; })) << birdc(4, "show route all");
  ASSERT_TRUE(eventually("the best at 5", [&] { return ways(5) == "2"; })) << birdc(5, "show route all");
  withdraw(2);
  ASSERT_TRUE(eventually("the path that is left", [&] { return ways(4) == "3" && ways(5) == "3"; }))
      << birdc(4, "show route all") << birdc(5, "show route all");
  withdraw(3);
  ASSERT_TRUE(eventually("none", [&] { return ways(4).empty() && ways(5).empty(); }));
}

}  // namespace
}  // namespace calico::test
