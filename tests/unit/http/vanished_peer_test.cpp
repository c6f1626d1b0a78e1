// A peer that vanishes without a word (power loss, a cut cable): packets are dropped in a namespace of the test's own,
// so neither side gets a FIN or RST.
#include "tests/support/netns.hpp"
#include "tests/unit/http/fixture.hpp"

namespace calico::http {

TEST(HttpVanishedPeer, IsNoticedByBothSidesWithoutTrafficOfOurs) {
  NEEDS_NETNS();
  test::Netns a("client"), b("server");
  test::veth(a, "eth0", b, "eth0");
  a.run("ip addr add 10.11.0.1/24 dev eth0");
  b.run("ip addr add 10.11.0.2/24 dev eth0");

  Loop there("server");
  there.start();
  there.call([&] { b.enter(); });
  std::atomic<bool> stream_ended{false};
  struct End {
    std::atomic<bool>& ended;
    ~End() { ended = true; }
  };
  auto stream = [&stream_ended](std::shared_ptr<ResponseStream> s) -> awaitable<void> {
    End end{stream_ended};
    std::string hello = "hello\n";
    (void)co_await s->write(std::move(hello));
    (void)co_await sleep_for(std::chrono::hours(1));
  };
  Server server(there.executor(), {}, [&stream](Request) -> awaitable<Response> {
    Response r;
    r.stream = stream;
    co_return r;
  });
  ASSERT_TRUE(there.call([&] { return server.listen({.at = *Endpoint::parse("10.11.0.2:80")}); }));
  there.call([&] { server.start(); });

  Loop here("client");
  here.start();
  here.call([&] { a.enter(); });
  auto client = Client::create(here.executor(), {.endpoints = {*Endpoint::parse("10.11.0.2:80")}});
  ASSERT_TRUE(client);
  auto lines = run(here, "open", [&]() -> awaitable<Result<std::unique_ptr<LineReader>>> {
    ClientRequest request;
    return (*client)->open(request);
  });
  ASSERT_TRUE(lines) << lines.error().what;
  const auto line = [&] {
    return run(
        here, "a line", [&]() { return (*lines)->read_line(60s); }, 61s);
  };
  EXPECT_EQ(line().value(), "hello");

  b.run("nft add table ip cut; nft add chain ip cut in '{ type filter hook input priority 0; policy drop; }'");
  a.run("nft add table ip cut; nft add chain ip cut in '{ type filter hook input priority 0; policy drop; }'");
  const auto begin = std::chrono::steady_clock::now();
  auto gone = line();
  const auto waited = std::chrono::steady_clock::now() - begin;
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, Errc::timeout) << gone.error().what;
  EXPECT_LT(waited, 20s);
  EXPECT_TRUE(test::eventually("the server's stream to end", [&] { return stream_ended.load(); }));

  here.call([&] {
    lines->reset();
    client->reset();
  });
  here.stop();
  run(there, "stop", [&]() -> awaitable<void> { co_await server.stop(); });
  there.stop();
}

}  // namespace calico::http
