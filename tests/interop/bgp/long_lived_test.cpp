/// RFC 9494 beside BIRD 2: our reflector keeps a dead BIRD's routes as the last choice and tells only the BIRD that
/// asked for it; a BIRD keeps ours in the same way. Each daemon lives in a namespace of its own on one bridge.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

class LongLivedBird2Test : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    if (!fs::exists("/usr/sbin/bird") || shell("/usr/sbin/bird --version").text.find("version 2") == std::string::npos)
      GTEST_SKIP() << "SKIPPED, needs Debian's bird2";
    dir_ = fs::temp_directory_path() / ("calico-llgr-" + std::to_string(getpid()));
    fs::create_directories(dir_);
    hub_ = std::make_unique<Netns>("hub");
    hub_->run("ip link add br0 type bridge && ip link set br0 up");
    for (int n : {1, 2, 3, 4}) {
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
    procs_.erase(n);
    procs_.emplace(n, std::make_unique<Child>(nodes_.at(n)->spawn("exec " + command, path(n, ".log"))));
  }
  /// Ours, the reflector: restart time 1 s, then an hour.
  void speaker() {
    fs::create_directories(path(1, ".state"));
    run(1, CALICO_BINARY_DIR "/tests/bgp-speaker id=10.66.0.1 listen=10.66.0.1 restart=1 llgr=3600 deferral=1 ctl=" +
               path(1, ".ctl") + " state=" + path(1, ".state") +
               " peer=c2,10.66.0.2,client peer=c3,10.66.0.3,client peer=c4,10.66.0.4,client route=10.65.0.1/32");
  }
  void bird(int n, const std::string& long_lived, const std::string& flags = "") {
    const auto s = std::to_string(n);
    std::ofstream(path(n, ".conf"))
        << "router id 10.66.0." << s << ";\nprotocol device {}\nprotocol direct { ipv4; interface \"eth0\"; }\n"
        << "protocol static s4 { ipv4; route 10.100." << s << ".1/32 unreachable; }\n"
        << "protocol bgp rr1 { local 10.66.0." << s
        << " as 64512; neighbor 10.66.0.1 as 64512; graceful restart on; graceful restart time 1; " << long_lived
        << " connect delay time 1; connect retry time 1; error wait time 1, 2;"
           " ipv4 { import all; export where source = RTS_STATIC; }; }\n";
    run(n, "/usr/sbin/bird -f " + flags + " -c " + path(n, ".conf") + " -s " + path(n, ".ctl"));
  }
  std::string birdc(int n, const std::string& command) {
    const std::string tool = n == 1 ? CALICO_BINARY_DIR "/tests/bgp-speaker birdc" : "/usr/sbin/birdc";
    return nodes_.at(n)->try_run(tool + " -s " + path(n, ".ctl") + " " + command).text;
  }
  bool has(int n, const std::string& command, const std::string& text) {
    return birdc(n, command).find(text) != std::string::npos;
  }

  static constexpr const char* kOn = "long lived graceful restart on; long lived stale time 3600;";
  static constexpr const char* kOff = "long lived graceful restart off;";
  static constexpr const char* kMark = "(65535,6)";  // LLGR_STALE; BIRD writes it so or by name

  fs::path dir_;
  std::unique_ptr<Netns> hub_;
  std::map<int, std::unique_ptr<Netns>> nodes_;
  std::map<int, std::unique_ptr<Child>> procs_;
};

TEST_F(LongLivedBird2Test, EachKeepsTheOthersRoutesAsTheLastChoice) {
  const std::string route2 = "show route for 10.100.2.1/32 all", ours = "show route for 10.65.0.1/32 all";
  speaker();
  bird(2, kOn);
  bird(3, kOn);
  bird(4, kOff);
  ASSERT_TRUE(eventually("routes everywhere", [&] {
    return has(3, route2, "10.66.0.2") && has(4, route2, "10.66.0.2") && has(2, ours, "10.66.0.1") &&
           has(3, ours, "10.66.0.1");
  })) << birdc(1, "show protocols all");
  // Both see the same two OPENs.
  for (const auto& [n, name] : {std::pair(1, "c3"), std::pair(3, "rr1")}) {
    const auto text = birdc(n, std::string("show protocols all ") + name);
    EXPECT_THAT(text,
                HasSubstr("      Long-lived graceful restart\n        LL stale time: 3600\n        AF supported: ipv4"))
        << text;
  }
  EXPECT_THAT(birdc(1, "show protocols all c4"), HasSubstr("Long-lived graceful restart")) << "ours";

  // BIRD 2 is gone for longer than its restart time.
  procs_.at(2)->kill_now(SIGKILL);
  ASSERT_TRUE(eventually("we keep", [&] { return has(1, "show protocols all c2", "    Neighbor GR:    Long-lived"); }));
  EXPECT_THAT(birdc(1, "show protocols all c2"), HasSubstr("    LL stale timer: 35"));
  ASSERT_TRUE(eventually("marked at 3", [&] { return has(3, route2, kMark); })) << birdc(3, route2);
  EXPECT_THAT(birdc(3, route2), HasSubstr("10.66.0.2"));
  ASSERT_TRUE(eventually("not at 4, which does not know it", [&] { return !has(4, route2, "10.66.0.2"); }));
  bird(2, kOn, "-R");
  ASSERT_TRUE(eventually("fresh again", [&] {
    return has(4, route2, "10.66.0.2") && has(3, route2, "10.66.0.2") && !has(3, route2, kMark) &&
           !has(1, "show protocols all c2", "Neighbor GR");
  })) << birdc(1, "show protocols all c2");

  // We are gone for longer than our restart time.
  procs_.at(1)->kill_now(SIGKILL);
  ASSERT_TRUE(eventually("BIRD keeps", [&] {
    return has(3, "show protocols all rr1", "    Neighbor GR:    Long-lived");
  })) << birdc(3, "show protocols all rr1");
  EXPECT_THAT(birdc(3, ours), HasSubstr("10.66.0.1"));
  EXPECT_THAT(birdc(3, route2), HasSubstr("10.66.0.2"));
  ASSERT_TRUE(eventually("4 lets go", [&] { return !has(4, ours, "10.66.0.1"); }));
  speaker();
  ASSERT_TRUE(eventually("taken up again", [&] {
    EXPECT_THAT(birdc(3, ours), HasSubstr("10.66.0.1")) << "lost during the return";
    return HasFailure() || (has(3, "show protocols rr1", "Established") && has(4, ours, "10.66.0.1") &&
                            has(3, route2, "10.66.0.2") && !has(3, "show protocols all rr1", "Neighbor GR"));
  })) << birdc(3, "show protocols all rr1");
}

}  // namespace
}  // namespace calico::test
