// The one suite on the embedded datastore, in process and through the gateway with mutual TLS; etcd_interop_test.cpp
// runs it on a real etcd.
#include "tests/unit/store/datastore_conformance.hpp"

namespace calico::store {
namespace {

DatastoreParam in_process() {
  return {"kv", [](Loop&) { return std::make_unique<test::InProcessBackend>(); }};
}
DatastoreParam behind_gateway() {
  return {"gateway", [](Loop& loop) { return std::make_unique<test::GatewayBackend>(loop); }};
}
INSTANTIATE_TEST_SUITE_P(Embedded, DatastoreConformance, testing::Values(in_process(), behind_gateway()), name_of);

}  // namespace
}  // namespace calico::store
