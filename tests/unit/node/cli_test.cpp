// The command line as an operator meets it: usage, exit codes, one line a fault.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/command.hpp"

namespace {

using calico::test::run;
using testing::HasSubstr;

const std::string kNode = std::string(CALICO_BINARY_DIR) + "/bin/calico-node";
const std::string kModules = std::string(CALICO_BINARY_DIR) + "/test-modules/";

TEST(Cli, VersionAndHelp) {
  const auto version = run(kNode + " --version");
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.output, "calico-node " CALICO_VERSION "\n");
  const auto help = run(kNode + " help");
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"role", "modules", "controller", "compute", "route-reflector", "felix", "exit codes"})
    EXPECT_THAT(help.output, HasSubstr(word));
  EXPECT_EQ(run(kNode).code, 2);
}

TEST(Cli, BadUsageIsTwoAndSaysWhat) {
  const struct {
    const char* args;
    const char* text;
  } cases[] = {
      {" --modules /nowhere cleanup", "cleanup comes with the module felix, which is not in /nowhere"},
      {" frobnicate", "unknown command 'frobnicate'"},
      {" ../../x", "unknown command '../../x'"},
      {" --frob", "unknown option --frob"},
      {" --log-format xml help", "accepted: text, json"},
      {" --log-level loud help", "loud"},
      {" role", "which role?"},
      {" role nosuch", "unknown role 'nosuch'"},
      {" role compute --config", "missing value after --config"},
      {" role compute --frob", "unknown option --frob"},
      {" store", "store: what?"},
      {" store move --check", "move --check and --force need --to"},
      {" store move --to", "missing value after --to"},
      {" store watch /a /b", "watch takes at most 1 argument"},
      {" store get", "get takes 1 argument"},
      {" store get /a --frob", "unknown option --frob"},
      {" node delete", "delete takes 1 argument"},
      {" join", "a URL, or token, list, revoke"},
      {" join https://127.0.0.1:1", "--token is missing"},
      {" join https://127.0.0.1:1 --token", "missing value after --token"},
      {" join https://127.0.0.1:1 --token x", "not a join token"},
      {" join https://127.0.0.1:1/x --token x", "URL"},
      {" join a b --token x", "one URL"},
      {" join token make", "token takes nothing, list, or revoke ID"},
      {" join token --ttl soon", "--ttl"},
      {" join list x", "list takes no argument"},
      {" join revoke", "revoke takes 1 argument"},
      {" join --frob", "unknown option --frob"},
      {" node drain", "drain takes 1 argument"},
      {" node frob", "unknown 'frob'"},
      {" --modules /nonexistent role compute", "needs the module calico-felix.so"},
      {" --modules /nonexistent role installed", "no role is installed in /nonexistent"},
  };
  for (const auto& c : cases) {
    const auto r = run(kNode + c.args);
    EXPECT_EQ(r.code, 2) << c.args << "\n" << r.output;
    EXPECT_THAT(r.output, HasSubstr(c.text)) << c.args;
  }
}

TEST(Cli, OperatorCommandsSayThatNothingRuns) {
  for (const char* args :
       {" store status", " store get /a --json", " store watch", " store accept", " node list", " node drain x --off",
        " node delete x", " join token", " join token list", " join token revoke 0123456789abcdef", " join list",
        " join revoke x", " get nodes", " get np x -o yaml", " delete node x"}) {
    const auto r = run(kNode + args + " --run-dir /nonexistent");
    EXPECT_EQ(r.code, 3) << args << "\n" << r.output;
    EXPECT_THAT(r.output, HasSubstr("/nonexistent/control.ctl")) << args;
  }
}

TEST(Cli, ModulesOfAnotherBuildAreNamed) {
  const auto r = run(kNode + " --modules " + kModules + "module-other-abi modules");
  EXPECT_EQ(r.code, 1);
  EXPECT_THAT(r.output, HasSubstr("has abi 999, this calico-node has abi 1"));
  const auto good = run(kNode + " --modules " + kModules + "module-good modules --json");
  EXPECT_EQ(good.code, 0) << good.output;
  EXPECT_THAT(good.output, HasSubstr(R"("name":"test")"));
}

TEST(Cli, BirdcAlsoByItsOwnName) {
  const auto absent = std::string("/nonexistent-") + std::to_string(getpid()) + "/bird.ctl";
  const auto direct = run(kNode + " birdc -s " + absent + " show status");
  EXPECT_NE(direct.code, 0);
  EXPECT_THAT(direct.output, HasSubstr(absent));
  const auto link = std::filesystem::temp_directory_path() / ("calico-cli-" + std::to_string(getpid())) / "birdc";
  std::filesystem::create_directories(link.parent_path());
  std::filesystem::create_symlink(kNode, link);
  EXPECT_EQ(run(link.string() + " -s " + absent + " show status").output, direct.output);
  std::filesystem::remove_all(link.parent_path());
}

TEST(Cli, AnAppletIsReachedByNameAndBySymlink) {
  EXPECT_EQ(run(kNode + " --modules " + kModules + "module-good test-applet").code, 0);
  EXPECT_EQ(run(kNode + " --modules " + kModules + "module-good test-applet more").code, 1);
}

}  // namespace
