#include "core/store/kv.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/unit/store/datastore_conformance.hpp"

namespace calico::store {
namespace {

struct InProcess final : DatastoreBackend {
  InProcess() {
    auto opened = Kv::open({.path = dir.file("state.db")});
    EXPECT_TRUE(opened) << (opened ? "" : opened.error().what);
    if (opened) kv = std::move(*opened);
  }
  Datastore& datastore() override { return *kv; }
  test::TempDir dir;
  std::unique_ptr<Kv> kv;
};

std::unique_ptr<DatastoreBackend> make_in_process(Loop&) { return std::make_unique<InProcess>(); }

INSTANTIATE_TEST_SUITE_P(Embedded, DatastoreConformance, testing::Values(DatastoreParam{"kv", make_in_process}),
                         name_of);

}  // namespace
}  // namespace calico::store
