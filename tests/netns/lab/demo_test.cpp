// `calico-node lab demo` as a user runs it: the verdict, the JSON document, and that nothing stays behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

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
  std::string out;
  if (::access(dir.c_str(), F_OK) == 0) out += "directory " + dir + "\n";
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" " + dir + "/") != std::string::npos) out += "mount " + line + "\n";
  }
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
    auto pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 1 || pid == ::getpid()) continue;
    auto command = read_file(entry.path().string() + "/cmdline", 65536);  // empty for what is already dead
    if (command && command->find(dir + "/") != std::string::npos) {
      std::replace(command->begin(), command->end(), '\0', ' ');
      out += fmt::format("process {} {}\n", pid, *command);
    }
  }
  auto* links = ::if_nameindex();
  for (auto* i = links; i->if_index != 0; ++i) {
    std::string_view name(i->if_name);
    if (name.starts_with("tap") || name.starts_with("m-") || name.starts_with("p-"))
      out += fmt::format("link {}\n", name);
  }
  ::if_freenameindex(links);
  return out;
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

TEST_F(Demo, ThePlayground) {
  auto lab = [&](const std::string& words) {
    auto out = test::shell(fmt::format("{} lab --name {} {}", kNode, name, words));
    EXPECT_EQ(out.status, 0) << words << ": " << out.text;
    return out.text;
  };
  lab("up --computes 2 --reflectors 1");
  EXPECT_THAT(lab("vm add web --compute compute-2"), testing::HasSubstr("web on compute-2"));
  EXPECT_THAT(lab("vm add db"), testing::HasSubstr("db on compute-1")) << "the compute with the fewest";
  EXPECT_THAT(lab("exec web -- ping -c1 -W5 10.65.0.3"), testing::HasSubstr(" 0% packet loss"));
  lab("node kill compute-1");
  EXPECT_THAT(lab("status"), testing::HasSubstr("dead"));
  EXPECT_THAT(lab("exec web -- ping -c1 -W5 10.65.0.3"), testing::HasSubstr(" 0% packet loss"));
  lab("node start compute-1");
  auto status = json::parse(lab("status --json"));
  EXPECT_EQ(status.at("vms").as_array().size(), 2U);
  for (const auto& n : status.at("nodes").as_array()) EXPECT_NE(n.at("state").as_string(), "dead");
  lab("vm del web");
  EXPECT_THAT(lab("status"), testing::Not(testing::HasSubstr("web ")));
  EXPECT_EQ(test::shell(fmt::format("{} lab --name {} vm del web", kNode, name)).status, 1);
  EXPECT_EQ(test::shell(fmt::format("{} lab --name {} vm add web --compute rr-9", kNode, name)).status, 2);
  lab("node stop compute-2");
  lab("down");
  EXPECT_EQ(leftovers(dir), "");
}

TEST_F(Demo, InterruptedAtAnyMomentCleansUp) {
  for (int ms : {50, 400, 1000, 1800, 2800}) {
    pid_t pid = ::fork();
    if (pid == 0) {
      ::execl("/bin/sh", "sh", "-c", fmt::format("exec {} lab demo --name {} >/dev/null 2>&1", kNode, name).c_str(),
              nullptr);
      ::_exit(127);
    }
    // The moment is the point of this test: it is what varies, not something waited for.
    ::usleep(static_cast<unsigned>(ms) * 1000);
    int status = 0;
    if (::waitpid(pid, &status, WNOHANG) == pid) {  // a fast machine: it was over before the moment came
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << ms << ": status " << status;
      EXPECT_EQ(leftovers(dir), "") << ms;
      continue;
    }
    ::kill(pid, SIGINT);
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
