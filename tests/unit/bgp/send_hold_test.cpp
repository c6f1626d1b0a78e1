/// RFC 9687: a client that stops reading under a load that never ends costs a bounded amount of memory, delays nobody,
/// and is left when the send hold time is over.
#include <atomic>
#include <fstream>
#include <thread>

#include "raw_peer.hpp"

namespace calico::bgp::test {
namespace {

std::size_t resident_bytes() {
  std::size_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kResidentMeansSomething = false;  // freed memory is kept for a while, shadow memory comes on top
#else
constexpr bool kResidentMeansSomething = true;
#endif

// The hold time is long enough for the reader, which shares the loop: what lies in its socket must be read before we
// may write again. A checked build is an order slower, on whatever else the machine does.
#if defined(__SANITIZE_THREAD__)
constexpr auto kHold = 15s, kLateHold = 10s;
constexpr std::uint32_t kRoutes = 300, kLate = 2000;
#else
constexpr auto kHold = 3s, kLateHold = 2s;
constexpr std::uint32_t kRoutes = 2000, kLate = 6000;
#endif

using SendHoldTest = SpeakersTest;

TEST_F(SendHoldTest, AClientThatStopsReadingUnderLoadIsCutAndCostsLittle) {
  Options o;
  o.send_hold_time = kHold;
  auto& rr = speaker(1, o);
  auto& reader = speaker(3);
  auto list = std::vector{rr.peer(2), rr.peer(3), rr.peer(4)};
  for (auto& c : list) c.route_reflector_client = true;
  list[0].passive = list[2].passive = true;
  ASSERT_TRUE(rr.peers(list));
  ASSERT_TRUE(reader.peers({reader.peer(1)}));
  reader.complete();
  RawPeer deaf(2, 1), talker(4, 1);
  ASSERT_TRUE(deaf.handshake() && talker.handshake());
  ASSERT_TRUE(wait_for("sessions", [&] { return rr.established(2) && rr.established(3) && rr.established(4); }));

  // Rounds of the same prefixes, each round with other attributes of 1 KB: 2 MB a round, none of it twice.
  std::atomic<bool> stop = false;
  std::atomic<std::uint32_t> rounds = 0;
  const auto say = [&](std::uint32_t prefix, std::uint32_t round) {
    Attrs a;
    a.next_hop = own_address(4);
    a.local_pref = 100;
    a.med = round;
    a.communities.resize(1000);
    a.communities[3] = static_cast<std::byte>(prefix % 251);
    Bytes block, m;
    std::size_t n = 0;
    const std::vector prefixes{Prefix::host(Ip::v4(0x0b000000 + prefix))};
    return encode_attributes(block, a) && encode_announce(m, n, Family::v4, block, a.next_hop, prefixes) &&
           talker.send(m);
  };
  std::thread load([&] {
    while (!stop) {
      ++rounds;
      for (std::uint32_t i = 0; i < kRoutes; ++i)
        if (!say(i, rounds)) return;
    }
  });
  const auto end_load = [&] {
    stop = true;
    load.join();
  };
  // Both tables and all buffers are there by now; from here on memory should not grow.
  if (!wait_for("two rounds at the reader", [&] {
        const auto r = reader.route("11.0.0.0/32");
        return rounds > 2 && r && reader.route_count() == kRoutes;
      })) {
    end_load();
    return;
  }
  const auto before = resident_bytes();
  std::size_t most_resident = before;
  std::uint64_t most_backlog = 0;
  bool was_behind = false;
  const bool cut = wait_for("the deaf client is cut", [&] {
    const auto st = *rr.status(2);
    most_backlog = std::max(most_backlog, st.backlog_bytes);
    was_behind |= st.backlog_bytes + st.backlog_routes > 0;
    most_resident = std::max(most_resident, resident_bytes());
    return st.counters.flaps > 0;
  });
  const auto rounds_then = rounds.load();
  EXPECT_TRUE(cut);
  EXPECT_TRUE(rr.saw(PeerEvent::Kind::down, "send hold timer expired"));
  EXPECT_TRUE(was_behind) << "it was never behind, this shows nothing";
  // What its connection was handed, and the journal up to where a slow member is taken off it.
  EXPECT_LT(most_backlog, 16U << 20);
  if (kResidentMeansSomething) {
    EXPECT_LT(most_resident - before, 96U << 20) << "after " << rounds_then << " rounds of 2 MB";
  }
  // The load goes on for the others.
  EXPECT_TRUE(wait_for("another round", [&] { return rounds > rounds_then + 1; }));
  end_load();
  for (std::uint32_t i = 0; i < kRoutes; ++i) ASSERT_TRUE(say(i, 4000000));
  // Looking at all takes long, so first for the last one; a few said before it may come behind it, since what is
  // sent together goes out by attributes.
  const std::pair<std::string, std::string> last_state{"BGP.med", "4000000"};
  const auto in_last_state = [&](std::optional<Prefix> exact) {
    RouteQuery q;
    q.exact = exact;
    q.best_only = true;
    q.with_attributes = true;
    const auto routes = reader.in_loop([&](Engine& e) { return e.routes(q); });
    return std::count_if(routes.begin(), routes.end(), [&](const RouteInfo& r) {
      return std::find(r.attributes.begin(), r.attributes.end(), last_state) != r.attributes.end();
    });
  };
  const auto last_prefix = Prefix::host(Ip::v4(0x0b000000 + kRoutes - 1));
  EXPECT_TRUE(
      wait_for("the last state of the last route at the reader", [&] { return in_last_state(last_prefix) == 1; }));
  EXPECT_TRUE(wait_for("the last state of all routes", [&] { return in_last_state(std::nullopt) == kRoutes; }));
  EXPECT_EQ(rr.status(3)->counters.flaps, 0U);
  EXPECT_EQ(rr.status(4)->counters.flaps, 0U);
  // It may come back.
  RawPeer again(2, 1);
  EXPECT_TRUE(again.handshake());
  EXPECT_TRUE(again.wait(MessageType::update)) << "and is told everything";
}

TEST_F(SendHoldTest, WhoReadsLateIsNotCut) {
  Options o;
  o.send_hold_time = kLateHold;
  auto& rr = speaker(1, o);
  auto list = std::vector{rr.peer(2), rr.peer(4)};
  for (auto& c : list) c.route_reflector_client = c.passive = true;
  ASSERT_TRUE(rr.peers(list));
  RawPeer slow(2, 1), talker(4, 1);
  ASSERT_TRUE(slow.handshake() && talker.handshake());
  // Far more than the buffers between them take; the slow one takes a little now and then for twice the time.
  std::thread talk([&] {
    Attrs a;
    a.next_hop = own_address(4);
    a.local_pref = 100;
    a.communities.resize(3000);
    for (std::uint32_t i = 0; i < kLate; ++i) {
      a.med = i;
      Bytes block, m;
      std::size_t n = 0;
      const std::vector prefixes{Prefix::host(Ip::v4(0x0b000000 + i))};
      EXPECT_TRUE(encode_attributes(block, a) && encode_announce(m, n, Family::v4, block, a.next_hop, prefixes) &&
                  talker.send(m));
    }
  });
  EXPECT_TRUE(wait_for("it is behind", [&] { return rr.status(2)->backlog_bytes + rr.status(2)->backlog_routes > 0; }));
  talk.join();
  std::size_t got = 0;
  const auto end = std::chrono::steady_clock::now() + 2 * kLateHold;
  while (std::chrono::steady_clock::now() < end) {
    // A window of TCP is more than one message: some at a time, so that the sender notices.
    for (int i = 0; i < 100; ++i)
      if (slow.wait(MessageType::update, 100ms)) ++got;
    EXPECT_TRUE(stays([&] { return rr.status(2)->counters.flaps == 0; }, 100ms));
  }
  EXPECT_GT(got, 100U);
  EXPECT_TRUE(rr.established(2));
}

}  // namespace
}  // namespace calico::bgp::test
