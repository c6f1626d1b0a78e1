// Changes of resources on a real etcd.
#include "tests/unit/resources/changes_suite.hpp"

namespace calico::resources {
namespace {

std::unique_ptr<test::DatastoreBackend> etcd(Loop& loop) { return std::make_unique<test::EtcdBackend>(loop); }

std::vector<std::pair<const char*, MakeBackend>> installed() {
  if (!test::Etcd::installed()) return {};
  return {{"etcd", etcd}};
}
INSTANTIATE_TEST_SUITE_P(Real, Changes, testing::ValuesIn(installed()), changes_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Changes);

TEST(ChangesOnEtcd, IsInstalled) {
  if (!test::Etcd::installed()) GTEST_SKIP() << "SKIPPED: etcd is not installed (package etcd-server)";
}

}  // namespace
}  // namespace calico::resources
