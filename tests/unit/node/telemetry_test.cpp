// Metrics and health over HTTP: who is told what, places that come and go, a loop that stands still.
#include "core/node/telemetry.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/json.hpp>
#include <future>
#include <optional>

#include "core/http/client.hpp"
#include "tests/support/wait.hpp"

namespace calico::node {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using testing::HasSubstr;
using testing::Not;
using Listen = module::Telemetry::Listen;

config::IpPort local(std::uint16_t port) { return {Ip::v4(0x7f000001), port}; }

class TelemetryTest : public testing::Test {
 protected:
  TelemetryTest() { asker_.start(); }
  ~TelemetryTest() override {
    telemetry_.stop();
    asker_.stop();
  }
  /// The one place it listens at, once it does.
  std::string place() {
    std::vector<std::string> all;
    EXPECT_TRUE(eventually("a listener", [&] { return (all = telemetry_.listening()).size() == 1; }));
    return all.empty() ? "127.0.0.1:1" : all[0];
  }
  /// Status 0: nobody answers.
  http::Answer ask(const std::string& at, const std::string& path, const std::string& method = "GET") {
    auto talk = [&, this]() -> boost::asio::awaitable<http::Answer> {
      http::ClientOptions options;
      options.endpoints = {*http::Endpoint::parse("http://" + at)};
      auto client = http::Client::create(asker_.executor(), options);
      http::ClientRequest request;
      request.method = method;
      request.target = path;
      auto r = co_await (*client)->request(request);
      http::Answer answer;
      if (r) answer = std::move(*r);
      co_return answer;
    };
    return boost::asio::co_spawn(asker_.executor(), talk, boost::asio::use_future).get();
  }

  Loop asker_{"asker"};
  Telemetry telemetry_{{.loop_period = 20ms, .patience = 300ms}};
};

TEST_F(TelemetryTest, MetricsOnlyWhereTheyAreServed) {
  telemetry_.metrics().counter("things", "Things").add(3);
  telemetry_.serve("node", {{.at = local(0), .metrics = true}});
  telemetry_.start();
  const auto at = place();
  const auto page = ask(at, "/metrics");
  EXPECT_EQ(page.status, 200U) << page.body;
  EXPECT_EQ(page.headers.get("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_THAT(page.body, HasSubstr("# TYPE things counter\nthings 3\n"));
  EXPECT_THAT(page.body, HasSubstr("\nprocess_resident_memory_bytes "));
  EXPECT_THAT(page.body, Not(HasSubstr("left_out")));
  EXPECT_EQ(ask(at, "/healthz/live").status, 200U);
  EXPECT_EQ(ask(at, "/other").status, 404U);
  EXPECT_EQ(ask(at, "/metrics", "POST").status, 405U);

  // A place for health only, while the other one stays.
  telemetry_.serve("node", {});
  ASSERT_TRUE(eventually("closed", [&] { return telemetry_.listening().empty(); }));
  EXPECT_EQ(ask(at, "/metrics").status, 0U);
  telemetry_.serve("felix", {{.at = local(0), .metrics = false}});
  const auto health = place();
  EXPECT_EQ(ask(health, "/liveness").status, 200U);
  EXPECT_EQ(ask(health, "/metrics").status, 404U);
  // Another owner wants metrics at the same place.
  telemetry_.serve("node", {{.at = local(0), .metrics = true}});
  EXPECT_TRUE(eventually("metrics there", [&] { return ask(health, "/metrics").status == 200; }));
  telemetry_.serve("node", {});
  EXPECT_TRUE(eventually("no metrics there", [&] { return ask(health, "/metrics").status == 404; }));
}

TEST_F(TelemetryTest, ReadyWhenEveryComponentIs) {
  telemetry_.health().set("felix", {.ready = false, .detail = "waiting for the datastore"});
  telemetry_.serve("felix", {{.at = local(0), .metrics = false}});
  telemetry_.start();
  const auto at = place();
  const auto no = ask(at, "/readiness");
  EXPECT_EQ(no.status, 503U);
  EXPECT_EQ(no.headers.get("Content-Type"), "application/json");
  EXPECT_EQ(boost::json::parse(no.body).at("reasons").at(0), "felix: waiting for the datastore");
  EXPECT_EQ(ask(at, "/liveness").status, 200U);
  telemetry_.health().set("felix", {});
  EXPECT_EQ(ask(at, "/readiness").status, 200U);
  EXPECT_EQ(ask(at, "/healthz/ready").status, 200U);
}

TEST_F(TelemetryTest, ALoopThatStandsStillIsNotLive) {
  telemetry_.serve("node", {{.at = local(0), .metrics = true}});
  telemetry_.start();
  const auto at = place();
  Loop engine("engine");
  engine.start();
  const auto known = [&] { return ask(at, "/liveness").body.find("loop engine") != std::string::npos; };
  ASSERT_TRUE(eventually("the loop is watched", known));
  EXPECT_EQ(ask(at, "/liveness").status, 200U);
  EXPECT_TRUE(eventually("its delay is measured", [&] {
    return ask(at, "/metrics").body.find("calico_node_loop_delay_seconds_count{loop=\"engine\"}") != std::string::npos;
  }));
  std::promise<void> go_on;
  engine.post([&] { go_on.get_future().wait(); });
  EXPECT_TRUE(eventually("not live", [&] { return ask(at, "/liveness").status == 503; }));
  EXPECT_THAT(ask(at, "/liveness").body, HasSubstr("loop engine: no sign of life for "));
  EXPECT_EQ(ask(at, "/readiness").status, 503U);
  go_on.set_value();
  EXPECT_TRUE(eventually("live again", [&] { return ask(at, "/liveness").status == 200; }));
  engine.stop();
  EXPECT_TRUE(eventually("forgotten", [&] { return !known(); }));
  EXPECT_EQ(ask(at, "/liveness").status, 200U);
}

TEST_F(TelemetryTest, APortInUseIsTriedAgain) {
  boost::asio::io_context io;
  std::optional<boost::asio::ip::tcp::acceptor> other;
  other.emplace(io, boost::asio::ip::tcp::endpoint(boost::asio::ip::make_address("127.0.0.1"), 0));
  const auto port = other->local_endpoint().port();
  telemetry_.serve("node", {{.at = local(port), .metrics = true}});
  telemetry_.start();
  EXPECT_TRUE(telemetry_.listening().empty());
  other.reset();
  EXPECT_EQ(place(), fmt::format("127.0.0.1:{}", port));
}

TEST_F(TelemetryTest, BeyondLoopbackOnlyWhenAllowed) {
  telemetry_.serve("felix", {{.at = {*Ip::parse("0.0.0.0"), 0}, .metrics = true}, {.at = local(0)}});
  telemetry_.start();
  EXPECT_THAT(place(), HasSubstr("127.0.0.1:"));
  telemetry_.allow_beyond_loopback(true);
  EXPECT_TRUE(eventually("both", [&] { return telemetry_.listening().size() == 2; }));
  telemetry_.allow_beyond_loopback(false);
  EXPECT_TRUE(eventually("one", [&] { return telemetry_.listening().size() == 1; }));
  EXPECT_THAT(place(), HasSubstr("127.0.0.1:"));
}

}  // namespace
}  // namespace calico::node
