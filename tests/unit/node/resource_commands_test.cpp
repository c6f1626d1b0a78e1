// `calico-node apply|get|delete|validate` as an operator types them: against no process, and against a running
// controller.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "core/loop/child_process.hpp"
#include "core/loop/loop.hpp"
#include "core/module/control_client.hpp"
#include "tests/support/command.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico {
namespace {

namespace json = boost::json;
using test::eventually;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kNode = std::string(CALICO_BINARY_DIR) + "/bin/calico-node ";

const std::string kPolicy =
    "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: web\n  namespace: openstack\n"
    "spec:\n  order: 10\n  selector: role == 'web'\n  ingress:\n  - action: Allow\n    protocol: TCP\n"
    "    destination:\n      ports: [80, '8000:8100']\n";
const std::string kTier =
    "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: border, labels: {rack: r1}}\n";

int free_port() {
  boost::asio::io_context io;
  boost::asio::ip::tcp::acceptor a(io, {boost::asio::ip::make_address("127.0.0.1"), 0});
  return a.local_endpoint().port();
}

class ResourceCommands : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(dir_.file(name)) << text;
    return dir_.file(name);
  }
  test::Ran node(const std::string& args) { return test::run(kNode + args + " --run-dir " + dir_.file("run")); }
  test::TempDir dir_{"resource-commands"};
};

TEST_F(ResourceCommands, ValidateNeedsNoDatastore) {
  const auto good = write("good.yaml", kPolicy + "---\n" + kTier);
  auto ran = node("validate -f " + good);
  EXPECT_EQ(ran.code, 0) << ran.output;
  EXPECT_EQ(ran.output, "2 resources, well\n");
  EXPECT_EQ(test::run("cat " + good + " | " + kNode + "validate -f - -o json").code, 0);

  const auto bad = write("bad.yaml", kPolicy + "---\n" + kPolicy + "typo: 1\n---\na: [\n");
  ran = node("validate -f " + bad + " -f " + good);
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.output, HasSubstr("bad.yaml:")) << ran.output;
  const auto two = write("two.yaml", kPolicy + "  ingres: []\n---\n" + kTier + "spec: {bgp: {asNumber: 0777}}\n");
  EXPECT_EQ(node("validate -f " + two).output,
            two +
                ":19: '0777' is a different number to different readers: write it in "
                "decimal without leading zeros and '_', or quote it if it is text\n");
  const auto typo = write("typo.yaml", kPolicy + "  ingres: []\n---\n" + kTier + "spec: {bgp: {asNumber: -1}}\n");
  ran = node("validate -f " + typo);
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.output, AllOf(HasSubstr(":14 (document 1): NetworkPolicy openstack/default.web: spec.ingres: no such "
                                          "field; did you mean ingress?"),
                                HasSubstr(":19 (document 2): Node border: spec.bgp.asNumber: -1: need an AS number")));
  ran = test::run("(" + kNode + "validate -f " + typo + " -o json 2>/dev/null)");
  EXPECT_EQ(json::parse(ran.output).at("faults").as_array().size(), 2U) << ran.output;

  std::filesystem::create_directory(dir_.file("folder"));
  write("folder/b.yaml", kPolicy);
  write("folder/a.json", R"({"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"x"}})");
  write("folder/c.txt", "not read");
  EXPECT_EQ(node("validate -f " + dir_.file("folder")).output, "2 resources, well\n");
  EXPECT_THAT(node("validate -f " + dir_.file("folder") + " -f " + good).output, HasSubstr("is given before, at "));
}

TEST_F(ResourceCommands, BadUsageIsTwoAndSaysWhat) {
  const auto good = write("good.yaml", kPolicy);
  const std::pair<std::string, const char*> cases[] = {
      {"apply", "what? -f FILE"},
      {"apply x", "'x' is not understood"},
      {"apply -f /nonexistent", "/nonexistent: no such file"},
      {"apply -f " + dir_.path() + "/none/", "no such file"},
      {"apply -f", "missing value after -f"},
      {"validate -f " + good + " -o xml", "accepted: yaml, json, wide"},
      {"validate -f " + good + " --frob", "unknown option --frob"},
      {"validate --dry-run=yes -f " + good, "unknown option --dry-run=yes"},
      {"get", "what? a kind"},
      {"get nodez", "did you mean Node?"},
      {"get node a -A", "-A takes no name"},
      {"apply -A -f " + good, "-A is for get"},
      {"delete node", "which? delete KIND NAME"},
      {"delete", "what? -f FILE, or KIND NAME"},
  };
  for (const auto& [args, text] : cases) {
    const auto r = test::run(kNode + args);
    EXPECT_EQ(r.code, 2) << args << "\n" << r.output;
    EXPECT_THAT(r.output, HasSubstr(text)) << args;
  }
  for (const char* command : {"apply", "create", "replace", "delete", "get", "validate"}) {
    const auto r = test::run(kNode + command + " --help");
    EXPECT_EQ(r.code, 0);
    EXPECT_THAT(r.output, HasSubstr("exit codes"));
  }
}

TEST_F(ResourceCommands, WithoutAProcessNothingIsWrittenAndSaidSo) {
  const auto ran = node("apply -f " + write("a.yaml", kPolicy));
  EXPECT_EQ(ran.code, 3) << ran.output;
  EXPECT_THAT(ran.output, AllOf(HasSubstr("control.ctl"), HasSubstr("nothing was written")));
  // A faulty file is told before anybody is asked.
  EXPECT_EQ(node("apply -f " + write("b.yaml", kPolicy + "x: 1\n")).code, 2);
}

class ResourceCommandsLive : public ResourceCommands {
 protected:
  void SetUp() override {
    std::ofstream(dir_.file("node.conf")) << fmt::format(
        "[node]\nname = c1\nstate_dir = {0}/state\nrun_dir = {0}/run\nfelix_cfg =\n[datastore]\nlisten = "
        "127.0.0.1:{1}\n"
        "[controller]\napi_listen = 127.0.0.1:{2}\n",
        dir_.path(), free_port(), free_port());
    loop_.start();
    auto started = loop_.call([this] {
      return ChildProcess::start(loop_.executor(),
                                 {.argv = {std::string(CALICO_BINARY_DIR) + "/bin/calico-node", "role", "controller",
                                           "--config", dir_.file("node.conf")},
                                  .on_line = [this](std::string_view l) { log_ += std::string(l) + "\n"; },
                                  .on_exit = [](std::string) {}});
    });
    ASSERT_TRUE(started) << started.error().what;
    child_ = std::move(*started);
    ASSERT_TRUE(eventually("ready", [this] {
      auto reply = module::control_call(dir_.file("run"), "GET", "/status");
      return reply && reply->json.find(R"("ready":true)") != std::string::npos;
    })) << loop_.call([this] { return log_; });
  }
  void TearDown() override {
    loop_.call([this] { child_.reset(); });
    loop_.stop();
  }
  Loop loop_{"resource-commands"};
  std::unique_ptr<ChildProcess> child_;
  std::string log_;
};

TEST_F(ResourceCommandsLive, FromApplyToDelete) {
  const auto file = write("all.yaml", kPolicy + "---\n" + kTier);
  auto ran = node("apply --dry-run -f " + file);
  EXPECT_EQ(ran.output, "NetworkPolicy openstack/default.web: created (dry run)\nNode border: created (dry run)\n");
  ran = node("apply -f " + file);
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.output, "NetworkPolicy openstack/default.web: created\nNode border: created\n");
  EXPECT_EQ(node("apply -f " + file).output,
            "NetworkPolicy openstack/default.web: unchanged\nNode border: unchanged\n");

  // Found under both names, in each format; what is printed is unchanged when applied.
  for (const char* what : {"get np web -o yaml", "get networkpolicy default.web -o json", "get np -A -o yaml",
                           "get node border -o json", "get -o yaml -f all"}) {
    std::string args = what;
    if (args.ends_with(" all")) args.replace(args.size() - 3, 3, file);
    const auto got = node(args);
    EXPECT_EQ(got.code, 0) << args << got.output;
    const auto again = node("apply -f " + write("again", got.output));
    EXPECT_EQ(again.code, 0) << args << again.output;
    EXPECT_THAT(again.output, AllOf(HasSubstr("unchanged"), Not(HasSubstr("updated")), Not(HasSubstr("created"))))
        << args;
  }
  ran = node("get np -o wide");
  EXPECT_THAT(ran.output,
              AllOf(HasSubstr("NAME          ORDER   SELECTOR\n"), HasSubstr("default.web   10      role == 'web'\n")));
  EXPECT_THAT(node("get np -A").output, HasSubstr("NAMESPACE   NAME\n"));
  EXPECT_THAT(node("get clusterinformation").output, HasSubstr("GUID"));
  EXPECT_EQ(node("get np -n other").output, "NAME\n");

  // An old resourceVersion is a conflict: said, and nothing of the file is written.
  const auto old = node("get node border -o yaml").output;
  ran =
      node("apply -f " + write("new.yaml", "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: border}\n"));
  EXPECT_THAT(ran.output, HasSubstr("updated"));
  ran = node(
      "apply -f " +
      write("old.yaml", old + "---\n" + "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: other}\n"));
  EXPECT_EQ(ran.code, 1) << ran.output;
  EXPECT_THAT(ran.output,
              AllOf(HasSubstr("conflict"), HasSubstr("Node other: not written"), HasSubstr("nothing was written")));
  EXPECT_EQ(node("get node other").code, 1);

  ran = node("create -f " + file + " -o json");
  EXPECT_EQ(ran.code, 1);
  ran = node("delete node border nobody");
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.output, HasSubstr("no Node nobody; nothing was written"));
  ran = node("delete node border nobody --skip-not-exists");
  EXPECT_EQ(ran.code, 0) << ran.output;
  EXPECT_THAT(ran.output, HasSubstr("Node border: deleted"));
  EXPECT_EQ(node("delete -f " + file).code, 1) << "one of both is gone";
  EXPECT_THAT(node("delete --skip-not-exists -f " + file).output,
              HasSubstr("NetworkPolicy openstack/default.web: deleted\nNode border: skipped\n"));
  EXPECT_TRUE(eventually("the audit log's line", [&] {
    const auto log = loop_.call([this] { return log_; });
    for (std::size_t at = 0, end; (end = log.find('\n', at)) != std::string::npos; at = end + 1) {
      const auto line = log.substr(at, end - at);
      if (line.find("store.write") != std::string::npos && line.find("operator") != std::string::npos &&
          line.find("nodes/border") != std::string::npos)
        return true;
    }
    return false;
  })) << loop_.call([this] { return log_; });
  EXPECT_EQ(node("get np web").code, 1);
  EXPECT_THAT(node("delete clusterinformation default").output, HasSubstr("read only"));
}

}  // namespace
}  // namespace calico
