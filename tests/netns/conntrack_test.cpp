// The kernel's connection table with real flows: what was opened is seen, what is chosen is deleted, nothing else.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <map>

#include "core/conntrack/table.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::conntrack {
namespace {

using namespace std::chrono_literals;
using test::Netns;

struct ConntrackTest : testing::Test {
  void SetUp() override {
    NEEDS_NETNS();
    ns.emplace("ct");
    ns->run("ip addr add 10.9.0.1/32 dev lo; ip -6 addr add fd09::1/128 dev lo nodad");
    // Connections are tracked in a namespace from the first rule that asks for them.
    ns->run(
        "nft 'add table inet t; add chain inet t o { type filter hook output priority 0; }; add rule inet t o ct state "
        "new'");
    auto t = ns->in([] { return Table::open(); });
    ASSERT_TRUE(t) << t.error().what;
    table.emplace(std::move(*t));
  }

  Result<Pass> sweep(const Doomed& doomed, Duration limit = 30s) {
    batches = largest = 0;
    const Doomed counted = [&](const auto& batch, auto& out) {
      ++batches;
      largest = std::max(largest, batch.size());
      doomed(batch, out);
    };
    boost::asio::io_context io;
    Loop reader("reader");
    reader.start();
    Result<Pass> result = fail(Errc::internal, "did not end");
    boost::asio::co_spawn(
        io, [&]() -> awaitable<void> { result = co_await table->sweep(reader.executor(), counted, limit); },
        [](std::exception_ptr e) {
          if (e) std::rethrow_exception(e);
        });
    io.run();
    return result;
  }
  std::vector<Entry> all() {
    std::vector<Entry> out;
    const auto p = sweep([&](const auto& batch, auto&) { out.insert(out.end(), batch.begin(), batch.end()); });
    EXPECT_TRUE(p) << p.error().what;
    if (p) {
      EXPECT_EQ(p->unread, 0U);
      EXPECT_EQ(p->seen, out.size());
    }
    return out;
  }
  /// Datagrams to `count` ports from one socket: as many flows.
  void udp(const char* ip, std::uint16_t port, int count = 1, std::uint16_t from = 0) {
    ns->in([&] {
      const bool six = std::string_view(ip).find(':') != std::string_view::npos;
      const int fd = ::socket(six ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
      sockaddr_in6 a6{};
      sockaddr_in a4{};
      a6.sin6_family = AF_INET6;
      a4.sin_family = AF_INET;
      auto* a = six ? reinterpret_cast<sockaddr*>(&a6) : reinterpret_cast<sockaddr*>(&a4);
      const socklen_t n = six ? sizeof a6 : sizeof a4;
      auto& p = six ? a6.sin6_port : a4.sin_port;
      p = htons(from);
      if (::bind(fd, a, n) != 0) throw std::runtime_error("bind");
      inet_pton(six ? AF_INET6 : AF_INET, ip,
                six ? static_cast<void*>(&a6.sin6_addr) : static_cast<void*>(&a4.sin_addr));
      for (int i = 0; i < count; ++i) {
        p = htons(static_cast<std::uint16_t>(port + i));
        for (int again = 0; again < 2; ++again) (void)::sendto(fd, "x", 1, 0, a, n);
      }
      ::close(fd);
      return 0;
    });
  }
  std::optional<Netns> ns;
  std::optional<Table> table;
  std::size_t batches = 0, largest = 0;
};

TEST_F(ConntrackTest, FlowsAreSeenAsTheyAre) {
  udp("10.9.0.1", 7000, 1, 7100);
  udp("fd09::1", 7001);
  ns->run("ping -c 1 -W 2 10.9.0.1; ping -c 1 -W 2 fd09::1");
  std::map<int, Entry> by_protocol;
  bool v4 = false, v6 = false;
  for (const auto& e : all()) {
    EXPECT_NE(e.id, 0U);
    EXPECT_EQ(e.orig.src, e.reply.dst);
    EXPECT_EQ(e.orig.dst, e.reply.src);
    if (e.orig.protocol == 17 && e.orig.dst_port == 7000) {
      v4 = true;
      EXPECT_EQ(e.orig.dst.to_string(), "10.9.0.1");
      EXPECT_EQ(e.orig.src_port, 7100);
      EXPECT_EQ(e.reply.src_port, 7000);
    }
    if (e.orig.protocol == 17 && e.orig.dst_port == 7001) v6 = e.orig.dst.to_string() == "fd09::1";
    by_protocol[e.orig.protocol] = e;
  }
  EXPECT_TRUE(v4);
  EXPECT_TRUE(v6);
  ASSERT_TRUE(by_protocol.contains(1));
  EXPECT_EQ(by_protocol[1].orig.icmp_type, 8);
  EXPECT_EQ(by_protocol[1].reply.icmp_type, 0);
  EXPECT_TRUE(by_protocol[1].status & kSeenReply);
  ASSERT_TRUE(by_protocol.contains(58));
  EXPECT_EQ(by_protocol[58].orig.icmp_type, 128);
}

TEST_F(ConntrackTest, OnlyWhatIsChosenGoes) {
  udp("10.9.0.1", 7000, 3);
  udp("fd09::1", 7000, 3);
  ns->run("ping -c 1 -W 2 10.9.0.1");
  const auto before = all();
  const auto p = sweep([](const auto& batch, auto& out) {
    for (const auto& e : batch)
      if (e.orig.protocol == 1 || e.orig.dst_port == 7001) out.push_back(e);
  });
  ASSERT_TRUE(p) << p.error().what;
  EXPECT_EQ(p->deleted, 3U) << "one of each family and the ping";
  EXPECT_EQ(p->refused, 0U);
  const auto after = all();
  EXPECT_EQ(after.size(), before.size() - 3);
  for (const auto& e : after) EXPECT_NE(e.orig.dst_port, 7001) << to_string(e.orig);
}

TEST_F(ConntrackTest, ATupleThatWasTakenAgainStays) {
  udp("10.9.0.1", 7000, 1, 7100);
  auto old = all();
  ASSERT_EQ(old.size(), 1U);
  Pass p;
  ASSERT_TRUE(table->remove(old, p));
  EXPECT_EQ(p.deleted, 1U);
  ASSERT_TRUE(table->remove(old, p));
  EXPECT_EQ(p.deleted, 1U) << "gone already is no error";
  udp("10.9.0.1", 7000, 1, 7100);
  auto now = all();
  ASSERT_EQ(now.size(), 1U);
  EXPECT_EQ(now[0].orig, old[0].orig);
  old[0].id = now[0].id + 1;
  ASSERT_TRUE(table->remove(old, p));
  EXPECT_EQ(p.deleted, 1U);
  EXPECT_EQ(all().size(), 1U) << "another flow with the same tuple";
}

TEST_F(ConntrackTest, Zones) {
  ns->run(
      "nft 'add chain inet t r { type filter hook output priority -300; }; add rule inet t r udp dport 7000 ct zone "
      "set 5; "
      "add rule inet t r udp dport 7001 ct original zone set 6'");
  udp("10.9.0.1", 7000, 2);
  const auto before = all();
  bool five = false, six = false;
  for (const auto& e : before) five = five || e.zone == 5, six = six || e.orig.zone == 6;
  EXPECT_TRUE(five);
  EXPECT_TRUE(six) << "of one direction";
  const auto p = sweep([](const auto& batch, auto& out) { out = batch; });
  ASSERT_TRUE(p) << p.error().what;
  EXPECT_EQ(p->deleted, before.size());
  EXPECT_EQ(all().size(), 0U);
}

TEST_F(ConntrackTest, ALargeTableIsWalkedInSmallTurns) {
  for (int i = 0; i < 4; ++i) udp("10.9.0.1", 10000, 10000, static_cast<std::uint16_t>(2000 + i));
  const auto p = sweep([](const auto& batch, auto& out) {
    for (const auto& e : batch)
      if (e.orig.dst_port % 10 == 0) out.push_back(e);
  });
  ASSERT_TRUE(p) << p.error().what;
  EXPECT_GE(p->seen, 40000U);
  EXPECT_EQ(p->deleted, 4000U);
  EXPECT_LE(largest, 1000U) << "one datagram at a time";
  EXPECT_GE(batches, p->seen / 1000);
  // Given up in the middle: the next walk is whole.
  const auto late = sweep([](const auto&, auto&) {}, 0s);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::timeout);
  EXPECT_EQ(all().size(), p->seen - p->deleted);
}

}  // namespace
}  // namespace calico::conntrack
