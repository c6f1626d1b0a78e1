// The real binary, a controller and a node in namespaces of their own: from `join token` to `node delete` and back.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/http/certificates.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico {
namespace {

using test::eventually;
using testing::HasSubstr;
using testing::Not;

const std::string kNode = std::string(CALICO_BINARY_DIR) + "/bin/calico-node";

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

TEST(JoinNetns, FromTokenToDeletionAndBack) {
  NEEDS_NETNS();
  test::TempDir dir("join");
  test::Netns controller("ctl"), host("node");
  test::veth(controller, "eth0", host, "eth0");
  controller.run("ip addr add 10.77.0.1/24 dev eth0");
  host.run("ip addr add 10.77.0.2/24 dev eth0");
  const auto write = [&](const std::string& name, const std::string& more) {
    std::ofstream(dir.file(name + ".conf")) << "[node]\nname = " << name << "\nstate_dir = " << dir.file(name)
                                            << "/state\nrun_dir = " << dir.file(name) << "/run\nfelix_cfg =\n"
                                            << more;
  };
  write("ctl", "[datastore]\nlisten = 10.77.0.1:2379\n[controller]\napi_listen = 127.0.0.1:9696\n");
  write("rr-1", "[bgp]\nrouter_id = 10.77.0.2\nsource_address = 10.77.0.2\nkernel_export = no\n");
  const auto log = [&](const std::string& name) { return dir.file(name + ".log"); };
  const auto at = [&](const test::Netns& where, const std::string& name, const std::string& command) {
    return where.try_run(kNode + " " + command + " --config " + dir.file(name + ".conf"));
  };

  auto running = controller.spawn("exec " + kNode + " role controller --config " + dir.file("ctl.conf"), log("ctl"));
  ASSERT_TRUE(eventually("the controller", [&] { return at(controller, "ctl", "join list").status == 0; }))
      << text_of(log("ctl"));

  // A role without a datastore says what to do.
  const auto alone = at(host, "rr-1", "role route-reflector");
  EXPECT_EQ(alone.status, 2);
  EXPECT_THAT(alone.text, HasSubstr("calico-node join URL --token T"));

  const auto token = controller.run(kNode + " join token --config " + dir.file("ctl.conf") + " 2>/dev/null");
  ASSERT_EQ(token.find('\n'), token.size() - 1) << token;
  const std::string join = "join https://10.77.0.1:2379 --token " + token.substr(0, token.size() - 1) +
                           " --config-dir " + dir.file("conf.d");
  const auto wrong = at(host, "rr-1",
                        "join https://10.77.0.1:2379 --config-dir " + dir.file("conf.d") + " --token " +
                            token.substr(0, token.size() - 2) + (token[token.size() - 2] == 'a' ? "b" : "a"));
  EXPECT_EQ(wrong.status, 1) << wrong.text;
  EXPECT_THAT(wrong.text, HasSubstr("not the controller the token is from"));
  EXPECT_FALSE(std::filesystem::exists(dir.file("conf.d")));
  const auto joined = at(host, "rr-1", join);
  ASSERT_EQ(joined.status, 0) << joined.text << text_of(log("ctl"));
  EXPECT_THAT(joined.text, HasSubstr("joined as rr-1"));
  const auto again = at(host, "rr-1", join);
  EXPECT_EQ(again.status, 0);
  EXPECT_THAT(again.text, HasSubstr("is a member already: rr-1"));
  const auto elsewhere = at(host, "rr-1", join + " --name rr-2");
  EXPECT_EQ(elsewhere.status, 1) << "a token is for one node";
  EXPECT_THAT(elsewhere.text, HasSubstr("used by 'rr-1'"));

  auto node = host.spawn("exec " + kNode + " role route-reflector --config " + dir.file("rr-1.conf") + " --config " +
                             dir.file("conf.d/50-join.conf"),
                         log("rr-1"));
  const auto in_sync = [&] { return at(host, "rr-1", "store status").status == 0; };
  ASSERT_TRUE(eventually("the node in sync", in_sync)) << text_of(log("rr-1"));
  ASSERT_TRUE(eventually("its Node",
                         [&] { return at(controller, "ctl", "node list").text.find("rr-1") != std::string::npos; }));
  EXPECT_THAT(at(controller, "ctl", "join list").text, testing::AllOf(HasSubstr("rr-1"), HasSubstr("valid")));
  EXPECT_EQ(at(host, "rr-1", "join token").status, 1) << "only on the controller";

  const auto gone = at(controller, "ctl", "node delete rr-1");
  EXPECT_EQ(gone.status, 0) << gone.text;
  EXPECT_THAT(gone.text, HasSubstr("1 certificates revoked"));
  EXPECT_TRUE(eventually("the node locked out", [&] {
    return at(host, "rr-1", "store status").text.find("is revoked") != std::string::npos;
  })) << at(host, "rr-1", "store status").text;
  EXPECT_THAT(at(controller, "ctl", "join list").text, HasSubstr("revoked"));
  EXPECT_THAT(at(controller, "ctl", "node list").text, Not(HasSubstr("rr-1")));

  // Back with a new token, while the process runs.
  const auto second =
      controller.run(kNode + " join token --name rr-1 --config " + dir.file("ctl.conf") + " 2>/dev/null");
  const auto back = host.try_run("echo " + second.substr(0, second.size() - 1) + " | " + kNode +
                                 " join https://10.77.0.1:2379 --token - --config " + dir.file("rr-1.conf") +
                                 " --config-dir " + dir.file("conf.d"));
  EXPECT_EQ(back.status, 0) << back.text;
  EXPECT_TRUE(eventually("the node in sync again", in_sync)) << text_of(log("rr-1"));

  // Nothing secret is in any log.
  for (const char* name : {"ctl", "rr-1"}) {
    const auto text = text_of(log(name));
    EXPECT_EQ(text.find(token.substr(21, 32)), std::string::npos) << name;
    EXPECT_EQ(text.find(second.substr(21, 32)), std::string::npos) << name;
    EXPECT_THAT(text, Not(HasSubstr("PRIVATE KEY"))) << name;
  }
  EXPECT_THAT(text_of(log("ctl")), HasSubstr("membership.joined name=rr-1"));
  node.kill_now(SIGTERM);
  running.kill_now(SIGTERM);
}

/// An operator's own CA: with its key nodes can join, without it the controller says why they cannot; a certificate of
/// his for the listener is used, and a node still finds the pinned CA in what that presents.
TEST(JoinNetns, WithTheOperatorsFiles) {
  NEEDS_NETNS();
  test::TempDir dir("join");
  test::Certificates pki;
  ASSERT_TRUE(http::write_file(dir.file("ca.key"), pki.ca().key_pem, 0600));
  http::CertificateRequest wanted;
  wanted.name = "ctl";
  wanted.ips = {*Ip::parse("10.77.0.1")};
  const auto files = pki.issue(wanted);
  const auto given = fmt::format("cert_file = {}\nkey_file = {}\n", files.cert_file, files.key_file);
  const auto ca_key = "ca_key_file = " + dir.file("ca.key") + "\n";
  const struct {
    std::string more;
    bool joins;
  } rows[] = {{ca_key, true}, {given + ca_key, true}, {given, false}};
  int n = 0;
  for (const auto& row : rows) {
    const auto name = "ctl" + std::to_string(++n);
    test::Netns controller(name), host("node");
    test::veth(controller, "eth0", host, "eth0");
    controller.run("ip addr add 10.77.0.1/24 dev eth0");
    host.run("ip addr add 10.77.0.2/24 dev eth0");
    std::ofstream(dir.file(name + ".conf"))
        << "[node]\nname = ctl\nstate_dir = " << dir.file(name) << "/state\nrun_dir = " << dir.file(name)
        << "/run\nfelix_cfg =\n[controller]\napi_listen = 127.0.0.1:9696\n[datastore]\nlisten = "
           "10.77.0.1:2379\nca_file = "
        << pki.ca_file() << "\n"
        << row.more;
    auto running = controller.spawn("exec " + kNode + " role controller --config " + dir.file(name + ".conf"),
                                    dir.file(name + ".log"));
    const auto ask = [&](const std::string& what) {
      return controller.try_run(kNode + " " + what + " --config " + dir.file(name + ".conf") + " 2>" + dir.file("err"));
    };
    ASSERT_TRUE(eventually("the controller", [&] { return ask("store status").status == 0; }))
        << text_of(dir.file(name + ".log"));
    auto token = ask("join token");
    if (!row.joins) {
      EXPECT_EQ(token.status, 1);
      EXPECT_THAT(text_of(dir.file("err")), HasSubstr("set [datastore] ca_key_file"));
      continue;
    }
    ASSERT_EQ(token.status, 0) << text_of(dir.file("err"));
    EXPECT_THAT(text_of(dir.file("err")), HasSubstr("calico-node join https://10.77.0.1:2379 --token T"));
    token.text.pop_back();
    std::ofstream(dir.file("node.conf")) << "[node]\nstate_dir = " << dir.file("node" + std::to_string(n)) << "\n";
    const auto joined = host.try_run(kNode + " join https://10.77.0.1:2379 --name n1 --token " + token.text +
                                     " --config " + dir.file("node.conf") + " --config-dir " + dir.file("conf.d"));
    EXPECT_EQ(joined.status, 0) << joined.text;
    EXPECT_THAT(text_of(dir.file("conf.d/50-join.conf")), HasSubstr("[node]\nname = n1\n"));
  }
}

}  // namespace
}  // namespace calico
