// A whole process, controller and felix on one host, seen by those who watch it: curl at its ports, before and after
// the datastore's configuration.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <fstream>
#include <sstream>

#include "tests/support/netns.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::string kNode = std::string(CALICO_BINARY_DIR) + "/bin/calico-node";

TEST(FelixProcess, IsWatchedOverHttp) {
  NEEDS_NETNS();
  Netns host("watched");
  TempDir dir("watched");
  const auto conf = dir.file("calico-node.conf");
  std::ofstream(conf) << fmt::format(
      "[node]\nname = h\nstate_dir = {0}/state\nrun_dir = {0}/run\nfelix_cfg = {0}/felix.cfg\n", dir.path());
  std::ofstream(dir.file("felix.cfg"))
      << "[global]\nDatastoreType = etcdv3\nMetadataAddr = some-name\nIptablesBackend = nft\n";
  auto process =
      host.spawn("exec setpriv --pdeathsig KILL " + kNode + " role controller,felix --config " + conf, dir.file("log"));
  const auto log = [&] {
    std::ifstream in(dir.file("log"));
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  };
  /// "200 body", "000 " when nobody answers.
  const auto get = [&](const std::string& url) {
    return host
        .try_run("curl -s -m 5 -o " + dir.file("body") + " -w '%{http_code} ' " + url + "; cat " + dir.file("body") +
                 " 2>/dev/null; rm -f " + dir.file("body"))
        .text;
  };
  ASSERT_TRUE(eventually("ready", [&] { return get("127.0.0.1:9091/readiness").starts_with("200 "); })) << log();
  const auto ready = boost::json::parse(get("127.0.0.1:9091/healthz/ready").substr(4));
  EXPECT_EQ(ready.at("ok"), true);
  const auto page = get("127.0.0.1:9091/metrics");
  for (const auto* line : {"\nfelix_host{host=\"h\"} 1\n", "\nfelix_resync_state 3\n", "\ncalico_store_keys ",
                           "\ncalico_sync_phase{phase=\"in sync\"} 1\n", "\nprocess_open_fds "})
    EXPECT_THAT(page, HasSubstr(line));
  EXPECT_THAT(page, Not(HasSubstr("left_out")));
  EXPECT_THAT(log(), HasSubstr("[felix] metadata_address: 'some-name'"));
  EXPECT_THAT(log(), HasSubstr("IptablesBackend is not used here"));
  // The operator's socket has the same.
  EXPECT_THAT(host.run("curl -s --unix-socket " + dir.file("run/control.ctl") + " http://x/metrics"),
              HasSubstr("\nfelix_resync_state 3\n"));

  // Upstream's port, by upstream's names.
  EXPECT_TRUE(get("127.0.0.1:9099/liveness").starts_with("000"));
  std::ofstream(dir.file("on.yaml"))
      << "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  name: "
         "node.h\nspec:\n  healthEnabled: true\n";
  const auto applied = host.try_run(kNode + " apply --run-dir " + dir.file("run") + " -f " + dir.file("on.yaml"));
  ASSERT_EQ(applied.status, 0) << applied.text;
  EXPECT_TRUE(eventually("health's own port", [&] { return get("127.0.0.1:9099/liveness").starts_with("200 "); }))
      << log();
  EXPECT_TRUE(get("127.0.0.1:9099/readiness").starts_with("200 "));
  EXPECT_TRUE(get("127.0.0.1:9099/metrics").starts_with("404 "));
  EXPECT_THAT(host.run("ss -Hltn"), Not(HasSubstr("0.0.0.0:909"))) << "nothing beyond loopback";

  // [metrics] listen follows a reload.
  std::ofstream(conf, std::ios::app) << "[metrics]\nlisten = 127.0.0.1:9191\n";
  ASSERT_EQ(::kill(process.pid(), SIGHUP), 0);
  EXPECT_TRUE(eventually("another place", [&] { return get("127.0.0.1:9191/metrics").starts_with("200 "); })) << log();
  EXPECT_TRUE(eventually("not at the former", [&] { return get("127.0.0.1:9091/metrics").starts_with("000"); }));
}

}  // namespace
}  // namespace calico::test
