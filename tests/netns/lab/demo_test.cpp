// `calico-node lab demo` as a user runs it: the verdict, the JSON document, and that nothing stays behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <signal.h>
#include <sys/wait.h>

#include <boost/json.hpp>

#include "core/log/log.hpp"
#include "modules/lab/cluster.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

using namespace calico;
using namespace calico::lab;
namespace json = boost::json;

namespace {

const std::string kNode = CALICO_BINARY_DIR "/bin/calico-node";

// What a lab could leave behind: its directory, mounts, processes that mention it, links in the host's namespace.
std::string leftovers(const std::string& dir) {
  return test::shell("ls -d " + dir + " 2>/dev/null; grep -F ' " + dir + "/' /proc/self/mountinfo; grep -l -a -F '" +
                     dir +
                     "/' /proc/[0-9]*/cmdline 2>/dev/null | grep -v -e /self/ -e /$$/ | while read f; do "
                     "tr '\\0' ' ' <$f | grep -v -e 'sh -c' -e grep; done; ip -o link | grep -e tap -e 'm-comp'; true")
      .text;
}

struct Demo : testing::Test {
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED, needs root and network namespaces";
    name = fmt::format("d{}", ::getpid());
    dir = fmt::format("{}/{}", kDefaultRoot, name);
    file = fmt::format("/tmp/calico-demo-{}.json", ::getpid());
  }
  void TearDown() override {
    EXPECT_TRUE(Cluster::down(dir));
    ::unlink(file.c_str());
  }
  json::object Run(const std::string& words) {
    auto out = test::shell(fmt::format("{} lab demo --name {} --json {} {}", kNode, name, file, words));
    EXPECT_EQ(out.status, 0) << out.text;
    auto text = read_file(file);
    EXPECT_TRUE(text);
    if (HasFailure() || !text) return {};
    return json::parse(*text).as_object();
  }
  std::string name;
  std::string dir;
  std::string file;
};

std::size_t count_expected(const json::object& o, const char* key, bool expected, int family) {
  std::size_t n = 0;
  for (const auto& row : o.at(key).as_array()) {
    const auto& r = row.as_object();
    EXPECT_EQ(r.at("expected"), r.at("got"));
    n += r.at("expected").as_bool() == expected && r.at("family").as_int64() == family;
  }
  return n;
}

TEST_F(Demo, TwiceInARowAndNothingStays) {
  for (int round = 0; round < 2; ++round) {
    auto o = Run("");
    ASSERT_FALSE(o.empty());
    EXPECT_TRUE(o.at("ok").as_bool());
    EXPECT_EQ(o.at("nodes").as_array().size(), 5U);
    EXPECT_EQ(o.at("bgp").as_array().size(), 8U) << "each reflector with 3 computes and the other reflector";
    EXPECT_EQ(o.at("instances").as_array().size(), 6U);
    EXPECT_EQ(count_expected(o, "ping", true, 4), 12U) << "two groups of three";
    EXPECT_EQ(count_expected(o, "ping", false, 4), 18U);
    EXPECT_EQ(count_expected(o, "ssh", true, 4), 30U);
    EXPECT_EQ(count_expected(o, "refused", false, 4), 30U);
    EXPECT_EQ(count_expected(o, "spoof", false, 4), 12U) << "an IP and a MAC a machine";
    ASSERT_EQ(o.at("rule_change").as_array().size(), 2U);
    EXPECT_EQ(count_expected(o.at("rule_change").at(0).as_object(), "ping", true, 4), 6U);
    EXPECT_EQ(count_expected(o.at("rule_change").at(1).as_object(), "ping", true, 4), 12U);
    EXPECT_TRUE(o.at("seconds").as_object().contains("setup"));
    fmt::print("  start to verdict {} s\n", json::serialize(o.at("seconds").at("total")));
    EXPECT_EQ(leftovers(dir), "");
  }
}

TEST_F(Demo, BothFamilies) {
  auto o = Run("--ipv6");
  ASSERT_FALSE(o.empty());
  EXPECT_EQ(count_expected(o, "ping", true, 6), 12U);
  EXPECT_EQ(count_expected(o, "ssh", true, 6), 30U);
  EXPECT_EQ(count_expected(o, "spoof", false, 6), 12U);
  EXPECT_EQ(o.at("instances").at(0).at("ips").as_array().size(), 2U);
  EXPECT_EQ(leftovers(dir), "");
}

TEST_F(Demo, FiveComputesTwelveMachines) {
  auto o = Run("--computes 5 --vms 12 --reflectors 1");
  ASSERT_FALSE(o.empty());
  EXPECT_EQ(o.at("instances").as_array().size(), 12U);
  EXPECT_EQ(o.at("bgp").as_array().size(), 5U);
  EXPECT_EQ(leftovers(dir), "");
}

TEST_F(Demo, InterruptedAtAnyMomentCleansUp) {
  for (int ms : {50, 400, 1200, 2500, 4500}) {
    pid_t pid = ::fork();
    if (pid == 0) {
      ::execl("/bin/sh", "sh", "-c", fmt::format("exec {} lab demo --name {} >/dev/null 2>&1", kNode, name).c_str(),
              nullptr);
      ::_exit(127);
    }
    // The moment is the point of this test: it is what varies, not something waited for.
    ::usleep(static_cast<unsigned>(ms) * 1000);
    ::kill(pid, SIGINT);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) ? WEXITSTATUS(status) == 130 : WTERMSIG(status) == SIGINT)
        << ms << ": status " << status;
    EXPECT_EQ(leftovers(dir), "") << ms;
  }
}

TEST_F(Demo, KilledAndThenTakenDown) {
  pid_t pid = ::fork();
  if (pid == 0) {
    ::execl("/bin/sh", "sh", "-c", fmt::format("exec {} lab demo --name {} >/dev/null 2>&1", kNode, name).c_str(),
            nullptr);
    ::_exit(127);
  }
  ASSERT_TRUE(test::eventually("vm-1", [&] { return ::access(Paths{dir}.netns("vm-1").c_str(), F_OK) == 0; }));
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  EXPECT_NE(leftovers(dir), "") << "the control: there was something to leave";
  EXPECT_EQ(test::shell(kNode + " lab down --name " + name).status, 0);
  EXPECT_EQ(leftovers(dir), "");
}

}  // namespace
