// Limits on a real kernel, by counting what arrives: at most the burst and what the rate gave since the first packet.
#include <fmt/format.h>

#include "core/model/compiler.hpp"
#include "core/netlink/rtnl.hpp"
#include "modules/felix/firewall.hpp"
#include "modules/felix/taps.hpp"
#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

struct QosBench : Bench {
  Vm c{2};
  QosBench() {
    group("open", Bench::kAll);
    plug(c);
  }
  void limits(const std::string& controls) {
    endpoint(c, {"open"}, [&](model::WorkloadEndpoint& w) {
      if (!controls.empty()) w.qos_controls_json = "{" + controls + "}";
    });
  }
  /// Waits until felix has programmed what limits() said last.
  testing::AssertionResult limited(const std::string& as) {
    return eventually("limits '" + as + "'", [&] {
      const auto d = described(c);
      return d.is_object() && d.at("limits").as_string() == as.c_str() &&
             d.at("kernel_us").to_number<std::int64_t>() > 0 && status_of(c) == R"({"status":"up"})";
    });
  }
};

struct Arrived {
  int packets = 0;
  double seconds = 0;  // from before the first was sent to after the last was taken
};
/// Sends at once, then takes what comes until nothing has come for a moment.
Arrived burst_of(int packets, std::size_t size, const Netns& from, const Netns& to, const std::string& ip) {
  Sock sink(to, SOCK_DGRAM, is_v6(ip));
  sink.room(16 << 20).bind(is_v6(ip) ? "::" : "0.0.0.0", 7000);
  Sock source(from, SOCK_DGRAM, is_v6(ip));
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < packets; ++i) source.send(std::string(size, 'x'), ip, 7000);
  Arrived a;
  while (!sink.receive(200).empty()) {
    ++a.packets;
    a.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return a;
}

TEST(FelixQos, PacketRates) {
  NEEDS_NETNS();
  QosBench b;
  b.limits("");
  ASSERT_NO_FATAL_FAILURE(b.start({&b.c}));
  EXPECT_EQ(b.host.run("nft list ruleset").find("qos-from"), std::string::npos) << "nobody pays for what nobody has";
  const auto in = [&](const std::string& ip) { return burst_of(300, 10, b.out, b.c.ns, ip); };
  const auto out = [&](const char* ip) { return burst_of(300, 10, b.c.ns, b.out, ip); };
  EXPECT_EQ(in(b.c.ip).packets, 300) << "positive control";
  EXPECT_EQ(out("192.168.0.2").packets, 300) << "positive control";

  b.limits(R"("ingressPacketRate":20,"ingressPacketBurst":30)");
  ASSERT_TRUE(b.limited("in 20 packets/s burst 30"));
  const auto before = b.kernel(false);
  for (const auto& ip : {b.c.ip, b.c.ip6}) {
    b.limits(R"("ingressPacketRate":20,"ingressPacketBurst":31)");  // another limit begins full
    ASSERT_TRUE(b.limited("in 20 packets/s burst 31"));
    const auto a = in(ip);
    EXPECT_GE(a.packets, 31) << ip;
    EXPECT_LE(a.packets, 31 + 20 * a.seconds + 1) << ip;
    b.limits(R"("ingressPacketRate":20,"ingressPacketBurst":30)");
    ASSERT_TRUE(b.limited("in 20 packets/s burst 30"));
  }
  EXPECT_EQ(out("192.168.0.2").packets, 300) << "the other direction is free";
  EXPECT_EQ(b.kernel(false), before);

  // What a policy refuses uses nothing up.
  b.limits(R"("ingressPacketRate":1,"ingressPacketBurst":40)");
  ASSERT_TRUE(b.limited("in 1 packets/s burst 40"));
  b.group("open", R"({"action":"Deny","protocol":17,"destination":{"ports":[7001]}},{"action":"Allow"})");
  Sock sink(b.c.ns, SOCK_DGRAM), source(b.out, SOCK_DGRAM), refused_source(b.out, SOCK_DGRAM);
  sink.bind("0.0.0.0", 7001);
  ASSERT_TRUE(eventually("7001 refused", [&] {
    source.send("x", b.c.ip, 7001);
    return sink.receive(100).empty();
  }));
  b.limits(R"("ingressPacketRate":1,"ingressPacketBurst":39)");
  ASSERT_TRUE(b.limited("in 1 packets/s burst 39"));
  for (int i = 0; i < 300; ++i) refused_source.send("x", b.c.ip, 7001);
  EXPECT_GE(in(b.c.ip).packets, 39);

  b.limits(R"("egressPacketRate":20,"egressPacketBurst":30)");
  ASSERT_TRUE(b.limited("out 20 packets/s burst 30"));
  const auto a = out("192.168.0.2");
  EXPECT_GE(a.packets, 1) << "neighbour discovery of the endpoint counts as well";
  EXPECT_LE(a.packets, 30 + 20 * a.seconds + 1);
  EXPECT_EQ(in(b.c.ip).packets, 300);

  // A restart keeps each count: nothing is written.
  b.stop();
  const auto stopped = b.kernel(false);
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("settled", [&] { return b.report.is_settled(model::endpoint_status_prefix("", "h")); }));
  EXPECT_EQ(b.kernel(false), stopped);
  EXPECT_LE(b.described().at("nft").at("operations").to_number<int>(), 2) << "at most the adoption of the tables";

  b.limits("");
  ASSERT_TRUE(b.limited(""));
  EXPECT_EQ(out("192.168.0.2").packets, 300);
  EXPECT_TRUE(eventually("the hooks gone",
                         [&] { return b.host.run("nft list ruleset").find("chain qos-") == std::string::npos; }));
}

TEST(FelixQos, BandwidthFromAnEndpoint) {
  NEEDS_NETNS();
  QosBench b;
  b.limits("");
  ASSERT_NO_FATAL_FAILURE(b.start({&b.c}));
  constexpr int kSize = 1028;  // with IPv4 and UDP headers
  const auto out = [&] { return burst_of(300, 1000, b.c.ns, b.out, "192.168.0.2"); };
  EXPECT_EQ(out().packets, 300) << "positive control";
  // A second of the rate, and a burst of 64 KiB at least.
  b.limits(R"("egressBandwidth":64000,"egressBurst":1000)");
  ASSERT_TRUE(b.limited("out 8000 B/s burst 125"));
  const auto a = out();
  EXPECT_GE(a.packets, 60000 / kSize);
  EXPECT_LE(a.packets, (8000 + 65536 + 8000 * a.seconds) / kSize + 1);
  // The peak bounds a burst that is large.
  b.limits(R"("egressBandwidth":64000,"egressPeakrate":80000)");
  ASSERT_TRUE(b.limited("out 8000 B/s burst 536870912 peak 10000 min burst 0"));
  const auto p = out();
  EXPECT_GE(p.packets, 60000 / kSize);
  EXPECT_LE(p.packets, (10000 + 65536 + 10000 * p.seconds) / kSize + 1);
  b.limits(R"("egressBandwidth":64000)");
  ASSERT_TRUE(b.limited("out 8000 B/s burst 536870912"));
  EXPECT_EQ(out().packets, 300) << "within the burst";
}

TEST(FelixQos, BandwidthToAnEndpoint) {
  NEEDS_NETNS();
  QosBench b;
  b.limits("");
  b.host.run("tc qdisc add dev " + b.c.tap + " root handle 7: pfifo");
  ASSERT_NO_FATAL_FAILURE(b.start({&b.c}));
  const auto tc = [&] { return b.host.run("tc qdisc show dev " + b.c.tap); };
  EXPECT_NE(tc().find("pfifo 7: root"), std::string::npos) << "what is not ours stays";
  constexpr int kSize = 1042;  // with Ethernet, IPv4 and UDP headers
  const auto in = [&] { return burst_of(400, 1000, b.out, b.c.ns, b.c.ip); };
  EXPECT_EQ(in().packets, 400) << "positive control";
  b.limits(R"("ingressBandwidth":400000,"ingressBurst":160000)");
  ASSERT_TRUE(b.limited("in 50000 B/s burst 20000"));
  EXPECT_NE(tc().find("root refcnt"), std::string::npos) << tc();
  EXPECT_NE(tc().find("rate 400Kbit burst 20000b"), std::string::npos) << tc();
  const auto a = in();
  EXPECT_GE(a.packets, 20000 / kSize);
  EXPECT_LE(a.packets, (20000 + 50000 * a.seconds) / kSize + 1);

  // Somebody takes it away or puts another in its place: it comes back.
  b.host.run("tc qdisc del dev " + b.c.tap + " root");
  EXPECT_TRUE(eventually("tbf again", [&] { return tc().find("rate 400Kbit") != std::string::npos; }));
  b.host.run("tc qdisc replace dev " + b.c.tap + " root handle 8: pfifo");
  EXPECT_TRUE(eventually("tbf again", [&] { return tc().find("rate 400Kbit") != std::string::npos; }));
  // An interface made anew has it; a restart writes nothing.
  b.unplug(b.c);
  ASSERT_TRUE(eventually("c down", [&] { return b.status_of(b.c) == R"({"status":"down"})"; }));
  b.plug(b.c);
  ASSERT_TRUE(b.up(b.c));
  EXPECT_TRUE(eventually("tbf again", [&] { return tc().find("rate 400Kbit") != std::string::npos; }));
  b.stop();
  const auto before = tc();
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("settled", [&] { return b.report.is_settled(model::endpoint_status_prefix("", "h")); }));
  EXPECT_EQ(tc(), before);
  EXPECT_EQ(b.described().at("rtnetlink_writes").to_number<int>(), 0);

  b.limits(R"("ingressBandwidth":100000000,"ingressPeakrate":200000000,"ingressMinburst":20000)");
  EXPECT_TRUE(eventually("peak", [&] { return tc().find("peakrate 200Mbit minburst 20000b") != std::string::npos; }))
      << tc();
  b.limits("");
  EXPECT_TRUE(eventually("no tbf", [&] { return tc().find("tbf") == std::string::npos; })) << tc();
  EXPECT_EQ(in().packets, 400);
}

TEST(FelixQos, Connections) {
  NEEDS_NETNS();
  QosBench b;
  b.limits(R"("ingressMaxConnections":3,"egressMaxConnections":2)");
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(b.limited("in 3 connections, out 2 connections"));
  const auto hold = [](const Netns& from, const std::string& ip, int n) {
    std::vector<std::unique_ptr<Sock>> held;
    for (int i = 0; i < n; ++i) {
      auto s = std::make_unique<Sock>(from, SOCK_STREAM | SOCK_NONBLOCK, is_v6(ip));
      if (s->connect(ip, 8080, 2000)) held.push_back(std::move(s));
    }
    return held;
  };
  for (const bool v6 : {false, true}) {
    const auto& ip = v6 ? b.c.ip6 : b.c.ip;
    const std::string far = v6 ? "fd00::2" : "192.168.0.2";
    // The kernel may still count one that has just been closed: never more than allowed, and soon as many.
    EXPECT_TRUE(eventually("three and two connections", [&] {
      auto at_vm = listener(b.c.ns, 8080, v6), at_out = listener(b.out, 8080, v6);
      const auto in = hold(b.out, ip, 6), out = hold(b.c.ns, far, 4);
      EXPECT_LE(in.size(), 3U) << ip;
      EXPECT_LE(out.size(), 2U) << ip;
      if (in.size() != 3 || out.size() != 2) return false;
      // Refused by a reset, not by silence.
      Sock more(b.out, SOCK_STREAM | SOCK_NONBLOCK, v6);
      EXPECT_FALSE(more.connect(ip, 8080, 30000));
      EXPECT_EQ(more.last_error(), ECONNREFUSED);
      return true;
    }));
    // Closed ones, by both ends, make room.
    auto at_vm = listener(b.c.ns, 8080, v6);
    EXPECT_TRUE(eventually("room for a connection", [&] { return hold(b.out, ip, 1).size() == 1; }));
  }
  b.limits("");
  ASSERT_TRUE(b.limited(""));
  auto at_vm = listener(b.c.ns, 8080);
  EXPECT_EQ(hold(b.out, b.c.ip, 6).size(), 6U) << "positive control";
}

TEST(FelixQos, WhatTheKernelRefusesIsANote) {
  NEEDS_NETNS();
  Netns host("host");
  auto connection = host.in([] { return nft::Connection::open(); });
  ASSERT_TRUE(connection);
  felix::Firewall fw(std::move(*connection));
  fw.configure({});
  model::Compiler c({.host = "h"});
  const auto key = [](int n) {
    return model::workload_endpoint_key("openstack", {"h", "openstack", fmt::format("vm{}", n), "p"});
  };
  for (int n : {1, 2})
    c.update(key(n), fmt::format(R"({{"spec":{{"interfaceName":"tap{0}","mac":"fa:16:3e:00:00:01",
                                 "ipNetworks":["10.0.0.{0}/32"],"qosControls":{{"egressBandwidth":800{0}}}}}}})",
                                 n));
  c.flush();
  auto ruleset = c.ruleset();
  auto& limits = ruleset.sets.at("qos-out-bytes").elements;
  ASSERT_EQ(limits.size(), 2U);
  auto bad = *limits.begin();
  limits.erase(limits.begin());
  bad.rate = UINT64_MAX / 2;  // which only the kernel finds
  limits.insert(bad);
  fw.stage_all(ruleset);
  ASSERT_TRUE(fw.load());
  const auto added = fw.add();
  ASSERT_TRUE(added) << added.error().what;
  ASSERT_TRUE(fw.remove());
  EXPECT_EQ(fw.fault_of(ruleset.endpoints.at(key(1))), "") << "it is up";
  ASSERT_EQ(fw.notes_of(ruleset.endpoints.at(key(1))).size(), 1U);
  EXPECT_NE(fw.notes_of(ruleset.endpoints.at(key(1)))[0].find("not limited by qos-out-bytes"), std::string::npos);
  EXPECT_TRUE(fw.notes_of(ruleset.endpoints.at(key(2))).empty());
  const auto set = host.run("nft list set inet calico qos-out-bytes");
  EXPECT_NE(set.find("\"tap2\" limit rate over 1000 bytes/second"), std::string::npos) << set;
  EXPECT_EQ(set.find("tap1"), std::string::npos) << set;

  host.run("ip link add tap1 type bridge; ip link set tap1 up");
  auto nl = host.in([] { return netlink::Rtnl::open(); });
  ASSERT_TRUE(nl);
  felix::Taps taps(*nl);
  taps.configure({});
  auto plan = ruleset.endpoints.at(key(1));
  plan.qos.ingress = model::Bandwidth{.rate = 2000, .burst = 10000, .peak = 1000, .min_burst = 0};  // below the rate
  const auto program = [&] {
    return host.in([&]() -> Status {
      if (auto ok = taps.load(); !ok) return ok;
      taps.set_plan(plan);
      if (auto ok = taps.withdraw(); !ok) return ok;
      return taps.program();
    });
  };
  auto done = program();
  ASSERT_TRUE(done) << done.error().what;
  const auto state = taps.state(plan.key);
  EXPECT_NE(state.note.find("not limited by ingressBandwidth: write qdisc tbf"), std::string::npos) << state.note;
  EXPECT_EQ(state.error, "");
  plan.qos.ingress->peak = 4000;
  done = program();
  ASSERT_TRUE(done) << done.error().what;
  EXPECT_EQ(taps.state(plan.key).note, "");
  EXPECT_NE(host.run("tc qdisc show dev tap1").find("rate 16Kbit"), std::string::npos);
}

}  // namespace
}  // namespace calico::test
