// What diag says about what it saw.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "modules/diag/check.hpp"

namespace calico::diag {
namespace {

using testing::HasSubstr;

Observed healthy_compute() {
  Observed o;
  o.roles = {"compute"};
  o.name = "compute-1";
  o.version = "1";
  o.ready = true;
  o.sync_phase = "in sync";
  o.sessions = std::vector<Session>{{"rr-1", "192.168.0.2", "Established", "", true}};
  o.endpoints = std::vector<Endpoint>{{"tapa", "up", ""}};
  o.dhcp_running = true;
  o.dhcp_ports = 1;
  o.sysctls = {{"net/ipv4/ip_forward", "1"}};
  return o;
}

/// The bad findings, one line each.
std::string bad(const Observed& o) {
  std::string out;
  for (const auto& f : judge(o))
    if (f.verdict == Verdict::bad) out += f.element + ": " + f.detail + " -> " + f.advice + "\n";
  return out;
}

TEST(Diag, AHealthyComputeHasNothingBad) {
  EXPECT_EQ(bad(healthy_compute()), "");
  EXPECT_TRUE(healthy(judge(healthy_compute())));
  EXPECT_GE(judge(healthy_compute()).size(), 6U);
}

TEST(Diag, EachRequiredElementIsMissed) {
  const struct {
    const char* what;
    void (*break_it)(Observed&);
    const char* text;
  } cases[] = {
      {"process", [](Observed& o) { o.process_error = "no calico-node answers"; },
       "calico-node runs: no calico-node answers"},
      {"ready", [](Observed& o) { o.ready = false; }, "last known state"},
      {"sync", [](Observed& o) { o.sync_phase = "resyncing"; }, "in sync with the datastore: resyncing"},
      {"refusing", [](Observed& o) { o.sync_phase = "refusing mass removal"; }, "store accept"},
      {"session", [](Observed& o) { (*o.sessions)[0].state = "Connect"; }, "BGP session rr-1 (192.168.0.2): Connect"},
      {"no session", [](Observed& o) { o.sessions->clear(); }, "a BGP session"},
      {"no bgp", [](Observed& o) { o.sessions.reset(); }, "BGP speaker"},
      {"felix", [](Observed& o) { o.endpoints.reset(); }, "felix: does not answer"},
      {"endpoint", [](Observed& o) { (*o.endpoints)[0].error = "policy x: bad port"; }, "endpoint tapa: policy x"},
      {"down", [](Observed& o) { (*o.endpoints)[0].status = "down"; }, "endpoint tapa: down"},
      {"dhcp", [](Observed& o) { o.dhcp_running = false; }, "dnsmasq does not run"},
      {"forward", [](Observed& o) { o.sysctls["net/ipv4/ip_forward"] = "0"; }, "net/ipv4/ip_forward: 0"},
      {"bird", [](Observed& o) { o.processes = {"bird"}; }, "bird: runs beside"},
      {"felix beside", [](Observed& o) { o.processes = {"calico-felix"}; }, "two agents"},
  };
  for (const auto& c : cases) {
    auto o = healthy_compute();
    c.break_it(o);
    EXPECT_THAT(bad(o), HasSubstr(c.text)) << c.what;
    EXPECT_FALSE(healthy(judge(o))) << c.what;
  }
}

TEST(Diag, LeftoversAreBenign) {
  auto o = healthy_compute();
  o.processes = {"neutron-openvswitch-agent", "neutron-metadata-agent", "sshd"};
  o.links = {"lo", "br-int"};
  const auto findings = judge(o);
  EXPECT_TRUE(healthy(findings));
  EXPECT_EQ(
      std::count_if(findings.begin(), findings.end(), [](const Finding& f) { return f.verdict == Verdict::benign; }),
      3);
}

TEST(Diag, TheControllersApi) {
  Observed o;
  o.roles = {"controller"};
  o.ready = true;
  o.sync_phase = "in sync";
  EXPECT_EQ(bad(o), "") << "API switched off is no fault";
  o.api_serving = false;
  EXPECT_THAT(bad(o), HasSubstr("Neutron API"));
}

}  // namespace
}  // namespace calico::diag
