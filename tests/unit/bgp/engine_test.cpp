#include "speakers.hpp"

namespace calico::bgp::test {
namespace {

TEST_F(SpeakersTest, TwoSpeakersExchangeLocalRoutes) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  a.local("10.65.0.1/32");
  a.local("10.65.0.2/32");
  a.complete();
  b.complete();
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("routes of a at b", [&] { return b.route_count() == 2; }));
  auto r = b.route("10.65.0.1/32");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->bgp_next_hop, own_address(1));
  EXPECT_EQ(r->from, "p1");
  EXPECT_TRUE(r->internal);
  EXPECT_EQ(a.route_count(), 0U);
  ASSERT_TRUE(wait_for("End-of-RIB both ways", [&] {
    auto s = b.status(1);
    return s->v4.eor_received && s->v4.eor_sent && s->v6.eor_received;
  }));
  a.local("10.65.0.2/32", std::nullopt);
  ASSERT_TRUE(wait_for("withdrawal at b", [&] { return b.route_count() == 1; }));
}

}  // namespace
}  // namespace calico::bgp::test
