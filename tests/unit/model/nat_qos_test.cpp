// Floating IPs and QoS of local endpoints, as the compiler plans them.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <sstream>

#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"

namespace calico::model {
namespace {

std::string key(int n) { return workload_endpoint_key("openstack", {"h", "openstack", fmt::format("vm{}", n), "p"}); }
/// "10.0.0.1>1.1.1.1 …": its floating IPs.
std::string wep(int n, const std::string& nats, const std::string& nets = "", const std::string& more = "") {
  std::string list;
  std::istringstream in(nats);
  for (std::string w; in >> w;) {
    const auto at = w.find('>');
    list += fmt::format(R"({}{{"internalIP":"{}","externalIP":"{}"}})", list.empty() ? "" : ",", w.substr(0, at),
                        w.substr(at + 1));
  }
  return fmt::format(
      R"({{"spec":{{"interfaceName":"tap{0}","mac":"fa:16:3e:00:00:0{0}","ipNetworks":[{1}],"ipNATs":[{2}]{3}}}}})", n,
      nets.empty() ? fmt::format(R"("10.0.0.{0}/32","fd00::{0}/128")", n) : nets, list, more);
}
std::string elements(const Compiler& c, const std::string& set) {
  std::string out;
  const auto& s = c.ruleset().sets.at(set);
  for (const auto& e : s.elements) out += (out.empty() ? "" : ", ") + to_string(s.kind, e);
  return out;
}
std::string notes(const Compiler& c, int n) {
  std::string out;
  for (const auto& x : c.ruleset().endpoints.at(key(n)).notes) out += x + "\n";
  return out;
}
bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(Nat, MapsBothFamiliesAndTheHairpin) {
  Compiler c({.host = "h"});
  c.update(key(1), wep(1, "10.0.0.1>172.18.0.9 10.0.0.1>172.18.0.7 fd00::1>fd18::1"));
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "172.18.0.7 : 10.0.0.1, 172.18.0.9 : 10.0.0.1");
  EXPECT_EQ(elements(c, "fip6"), "fd18::1 : fd00::1");
  EXPECT_EQ(elements(c, "hairpin4"), "10.0.0.1 . 10.0.0.1 : 172.18.0.7") << "the lowest of several";
  EXPECT_EQ(elements(c, "hairpin6"), "fd00::1 . fd00::1 : fd18::1");
  EXPECT_EQ(elements(c, "src4"), "tap1 . fa:16:3e:00:00:01 . 10.0.0.1") << "no source is a floating IP";
  // One more, one less: elements only.
  c.update(key(1), wep(1, "10.0.0.1>172.18.0.9 fd00::1>fd18::1"));
  const auto d = c.flush();
  EXPECT_TRUE(d.chains.empty());
  EXPECT_TRUE(d.sets_made.empty());
  EXPECT_EQ(d.elements.at("fip4").removed.size(), 1U);
  EXPECT_TRUE(d.elements.at("fip4").added.empty());
  EXPECT_EQ(elements(c, "hairpin4"), "10.0.0.1 . 10.0.0.1 : 172.18.0.9");
  c.update(key(1), std::nullopt);
  c.flush();
  for (const auto* set : {"fip4", "fip6", "hairpin4", "hairpin6"}) EXPECT_EQ(elements(c, set), "") << set;
}

TEST(Nat, TheLowestKeyHasIt) {
  Compiler c({.host = "h"});
  c.update(key(2), wep(2, "10.0.0.2>172.18.0.1"));
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "172.18.0.1 : 10.0.0.2");
  c.update(key(1), wep(1, "10.0.0.1>172.18.0.1"));
  auto d = c.flush();
  EXPECT_EQ(elements(c, "fip4"), "172.18.0.1 : 10.0.0.1");
  EXPECT_EQ(elements(c, "hairpin4"), "10.0.0.1 . 10.0.0.1 : 172.18.0.1");
  EXPECT_TRUE(d.endpoints.contains(key(2))) << "its plan says so now";
  EXPECT_TRUE(has(notes(c, 2), "floating IP 172.18.0.1 belongs to endpoint p of vm1")) << notes(c, 2);
  EXPECT_TRUE(c.ruleset().endpoints.at(key(2)).nats.empty());
  // An endpoint that cannot use it does not hold it.
  c.update(key(1), wep(1, "10.0.0.77>172.18.0.1"));
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "172.18.0.1 : 10.0.0.2");
  EXPECT_EQ(notes(c, 2), "");
  EXPECT_TRUE(has(notes(c, 1), "10.0.0.77 is no address of this endpoint")) << notes(c, 1);
  c.update(key(1), wep(1, "10.0.0.1>172.18.0.1"));
  c.flush();
  c.update(key(1), std::nullopt);
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "172.18.0.1 : 10.0.0.2");
  EXPECT_EQ(notes(c, 2), "");
}

TEST(Nat, TwoEndpointsWithOneAddressInside) {
  Compiler c({.host = "h"});
  c.update(key(1), wep(1, "10.0.0.1>172.18.0.2"));
  c.update(key(2), wep(2, "10.0.0.1>172.18.0.1", R"("10.0.0.1/32")"));
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "172.18.0.1 : 10.0.0.1, 172.18.0.2 : 10.0.0.1");
  EXPECT_EQ(elements(c, "hairpin4"), "10.0.0.1 . 10.0.0.1 : 172.18.0.1") << "one key, one datum";
  c.update(key(2), std::nullopt);
  c.flush();
  EXPECT_EQ(elements(c, "hairpin4"), "10.0.0.1 . 10.0.0.1 : 172.18.0.2");
}

TEST(Nat, AddressesThatAreNoFloatingIp) {
  Compiler c({.host = "h"});
  c.update(node_key("n"), R"({"spec":{"bgp":{"ipv4Address":"192.168.0.2/24"}}})");
  c.set_host_addresses({*Ip::parse("192.168.0.3")});
  c.update(key(2), wep(2, "", "", R"(,"ipv4Gateway":"10.0.0.254")"));
  std::string all;
  for (const auto* x : {"192.168.0.2", "192.168.0.3", "0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.5",
                        "255.255.255.255", "10.0.0.1", "10.0.0.2", "10.0.0.254", "fd18::1"})
    all += fmt::format("10.0.0.1>{} ", x);
  c.update(key(1), wep(1, all + "10.0.0.1>172.18.0.1"));
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "172.18.0.1 : 10.0.0.1");
  EXPECT_EQ(elements(c, "fip6"), "");
  EXPECT_EQ(c.ruleset().endpoints.at(key(1)).notes.size(), 11U) << notes(c, 1);
  EXPECT_EQ(c.ruleset().endpoints.at(key(1)).error, "");
  // What an address is changes later.
  c.update(node_key("n"), R"({"spec":{"bgp":{"ipv4Address":"172.18.0.1/24"}}})");
  c.update(key(2), std::nullopt);
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "10.0.0.2 : 10.0.0.1, 10.0.0.254 : 10.0.0.1, 192.168.0.2 : 10.0.0.1");
  // Of a closed endpoint, and of one whose interface is another's, nothing is translated.
  c.update(key(1), R"({"spec":{"interfaceName":"tap1","ipNetworks":["10.0.0.1/32"],)"
                   R"("ipNATs":[{"internalIP":"10.0.0.1","externalIP":"10.0.0.9"}]}})");
  c.flush();
  EXPECT_EQ(elements(c, "fip4"), "");
}

TEST(Nat, RandomHistoriesEndTheSame) {
  std::mt19937 random(7);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  Compiler c({.host = "h"});
  std::map<std::string, std::string> content;
  for (int round = 0; round < 2000; ++round) {
    const int n = pick(6);
    std::optional<std::string> value;
    if (pick(5) != 0) {
      std::string nats, nets = fmt::format(R"("10.0.0.{}/32")", pick(3));
      for (int i = pick(4); i > 0; --i) nats += fmt::format("10.0.0.{}>10.0.0.{} ", pick(4), pick(9));
      value =
          wep(n, nats, nets, pick(2) ? fmt::format(R"(,"qosControls":{{"egressPacketRate":{}}})", 1 + pick(3)) : "");
      if (pick(4) == 0) value->replace(value->find("\"tap"), 6, "\"tap0\"");  // another's interface
    }
    c.update(key(n), value);
    if (value)
      content[key(n)] = *value;
    else
      content.erase(key(n));
    if (pick(3) != 0) continue;
    c.flush();
    Compiler fresh({.host = "h"});
    for (const auto& [k, v] : content) fresh.update(k, v);
    fresh.flush();
    ASSERT_EQ(to_text(c.ruleset()), to_text(fresh.ruleset())) << round;
    std::set<Ip> keys;
    for (const auto& e : c.ruleset().sets.at("hairpin4").elements) EXPECT_TRUE(keys.insert(e.ip).second);
    keys.clear();
    for (const auto& e : c.ruleset().sets.at("fip4").elements) EXPECT_TRUE(keys.insert(e.ip).second);
  }
}

TEST(Qos, WhatTheDriverWrites) {
  std::vector<std::string> notes;
  const auto q = parse_qos(
      R"({"ingressBandwidth":1000000,"ingressBurst":4294967296,"ingressPeakrate":1500000,"ingressMinburst":3000,
          "egressBandwidth":2000000,"egressBurst":8000,"ingressPacketRate":1000,"ingressPacketBurst":7,
          "egressPacketRate":2000,"ingressMaxConnections":500,"egressMaxConnections":4294967295})",
      notes);
  EXPECT_EQ(to_string(q),
            "in 125000 B/s burst 536870912 peak 187500 min burst 3000, in 1000 packets/s burst 7, in 500 connections, "
            "out 250000 B/s burst 1000, out 2000 packets/s burst 5, out 4294967295 connections");
  EXPECT_TRUE(notes.empty());
}

TEST(Qos, OneBadControlIsLeftOutAlone) {
  std::vector<std::string> notes;
  // The recorded driver wrote a peak below the rate; zero is not set.
  const auto q = parse_qos(
      R"({"egressBandwidth":10000000,"egressPeakrate":1000000,"ingressPacketRate":20000,"egressPacketRate":"many",
          "ingressMaxConnections":0,"egressMaxConnections":-1,"ingressPeakrate":5000,"color":"red"})",
      notes);
  EXPECT_EQ(to_string(q), "out 1250000 B/s burst 536870912");
  EXPECT_EQ(notes.size(), 6U);
  for (const auto& n : notes) EXPECT_EQ(n.find('\n'), std::string::npos);
  notes.clear();
  EXPECT_EQ(parse_qos("[]", notes), QosControls{});
  EXPECT_EQ(notes.size(), 1U);
}

TEST(Qos, LimitsAreElements) {
  Compiler c({.host = "h"});
  const auto with = [](const std::string& q) { return wep(1, "", "", fmt::format(R"(,"qosControls":{{{}}})", q)); };
  c.update(key(1), wep(1, ""));
  c.flush();
  c.update(key(1), with(R"("ingressPacketRate":10,"egressPacketRate":20,"egressBandwidth":8000,"egressBurst":8000000,
                           "egressPeakrate":16000,"ingressMaxConnections":3,"egressMaxConnections":4)"));
  const auto d = c.flush();
  EXPECT_TRUE(d.chains.empty());
  EXPECT_EQ(elements(c, "qos-in-packets"), "tap1 10 burst 5");
  EXPECT_EQ(elements(c, "qos-out-packets"), "tap1 20 burst 5");
  EXPECT_EQ(elements(c, "qos-out-bytes"), "tap1 1000 burst 1000000");
  EXPECT_EQ(elements(c, "qos-out-peak"), "tap1 2000 burst 65536");
  EXPECT_EQ(elements(c, "qos-in-connections"), "tap1 3 burst 0");
  EXPECT_EQ(elements(c, "qos-out-connections"), "tap1 4 burst 0");
  EXPECT_EQ(notes(c, 1), "");
  c.update(key(1), with(R"("egressBandwidth":1000000000000000,"ingressPacketRate":11)"));
  c.flush();
  EXPECT_EQ(elements(c, "qos-out-bytes"), "");
  EXPECT_TRUE(has(notes(c, 1), "egressBandwidth: above")) << "more than the kernel can count";
  EXPECT_EQ(elements(c, "qos-in-packets"), "tap1 11 burst 5");
  c.update(key(1), wep(1, ""));
  c.flush();
  EXPECT_EQ(elements(c, "qos-in-packets"), "");
}

}  // namespace
}  // namespace calico::model
