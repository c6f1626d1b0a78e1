#include "core/bgp/speaker_settings.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/bgp/policy/route_policy.hpp"
#include "core/config/load.hpp"

namespace calico::bgp {
namespace {

Ip ip(const char* text) { return *Ip::parse(text); }

class SpeakerSettingsTest : public testing::Test {
 protected:
  Result<SpeakerSettings> make(std::vector<std::string> sets, bool compute = true, bool reflector = false) {
    auto schema = std::make_shared<config::Schema>();
    EXPECT_TRUE(schema->add(config::core_params()));
    config::Sources sources;
    sources.files = {"/dev/null"};
    sources.host_name = "host-a";
    sources.sets = std::move(sets);
    auto loaded = config::load(schema, sources);
    for (const auto& f : loaded.faults) ADD_FAILURE() << f.to_string();
    HostLook host;
    host.source_towards = [this](const Ip& to) -> Result<Ip> {
      asked_.push_back(to);
      if (to == ip("192.0.2.1")) return ip("192.0.2.11");
      if (to == ip("127.0.0.1")) return ip("127.0.0.1");
      return fail(Errc::not_found, "no route");
    };
    host.global_addresses = own_;
    SpeakerRole role;
    role.compute = compute;
    role.reflector = reflector;
    return speaker_settings(loaded.config, role, host);
  }
  std::vector<Ip> asked_, own_;
};

TEST_F(SpeakerSettingsTest, SourceComesFromTheRouteToTheDatastore) {
  auto s = make({"datastore.endpoints=https://127.0.0.1:2379,https://192.0.2.1:2379"});
  ASSERT_TRUE(s) << s.error().what;
  EXPECT_EQ(s->ipv4, ip("192.0.2.11"));
  EXPECT_EQ(s->engine.router_id, ip("192.0.2.11"));
  EXPECT_EQ(s->engine.local_as, Asn{64512});
  ASSERT_EQ(s->engine.listen.size(), 1U);
  EXPECT_EQ(s->engine.listen[0], (Endpoint{ip("192.0.2.11"), 179}));
  EXPECT_EQ(s->engine.next_hop_v4, ip("192.0.2.11"));
  EXPECT_FALSE(s->engine.next_hop_v6);
  EXPECT_TRUE(s->from_datastore);
  EXPECT_EQ(s->engine.keep_when_isolated, std::chrono::hours(24));
  EXPECT_EQ(s->engine.long_lived_stale_time.count(), 0);
  EXPECT_EQ(s->engine.send_hold_time.count(), 0);
  EXPECT_TRUE(s->kernel.export_routes);
  EXPECT_EQ(s->kernel.import_protocols, std::vector<std::uint8_t>{88});
}

TEST_F(SpeakerSettingsTest, TheOnlyAddressOfTheHostServesToo) {
  own_ = {ip("198.51.100.7"), ip("2001:db8::7")};
  auto s = make({});
  ASSERT_TRUE(s) << s.error().what;
  EXPECT_EQ(s->ipv4, ip("198.51.100.7"));
  own_.push_back(ip("198.51.100.8"));
  s = make({});
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, Errc::invalid);
  EXPECT_NE(s.error().what.find("[bgp] source_address is not set"), std::string::npos) << s.error().what;
}

TEST_F(SpeakerSettingsTest, BothFamilies) {
  auto s = make({"bgp.source_address=192.0.2.11", "bgp.source_address6=2001:db8::11"});
  ASSERT_TRUE(s) << s.error().what;
  EXPECT_EQ(s->engine.listen.size(), 2U);
  EXPECT_EQ(s->engine.next_hop_v6, ip("2001:db8::11"));
  EXPECT_FALSE(make({"bgp.source_address=2001:db8::11"})) << "no IPv4 router id";
  EXPECT_TRUE(make({"bgp.source_address=2001:db8::11", "bgp.router_id=192.0.2.11"}));
  EXPECT_FALSE(make({"bgp.source_address=192.0.2.11", "bgp.source_address6=192.0.2.12"}));
}

TEST_F(SpeakerSettingsTest, AReflectorInstallsNothingAndHasAClusterId) {
  auto s = make({"bgp.source_address=192.0.2.1"}, false, true);
  ASSERT_TRUE(s) << s.error().what;
  EXPECT_EQ(s->engine.cluster_id, ip("192.0.2.1"));
  EXPECT_FALSE(s->kernel.export_routes);
  EXPECT_TRUE(s->kernel.import_interfaces.empty());
  EXPECT_EQ(s->engine.keep_when_isolated.count(), 0);
  EXPECT_FALSE(s->engine.forwards);
  s = make({"bgp.source_address=192.0.2.1", "bgp.kernel_export=yes", "bgp.cluster_id=1.1.1.1"}, false, true);
  ASSERT_TRUE(s);
  EXPECT_TRUE(s->kernel.export_routes);
  EXPECT_EQ(s->engine.cluster_id, ip("1.1.1.1"));
  s = make({"bgp.source_address=192.0.2.1"}, true, true);
  ASSERT_TRUE(s);
  EXPECT_TRUE(s->kernel.export_routes) << "a compute too";
  EXPECT_EQ(s->kernel.import_interfaces, (std::vector<std::string>{"tap*", "cali*"}));
}

TEST_F(SpeakerSettingsTest, PeersAndRanges) {
  const auto file = (std::filesystem::temp_directory_path() / fmt::format("calico-md5-{}", getpid())).string();
  std::ofstream(file) << "s3cret\nsecond line\n";
  auto s =
      make({"bgp.source_address=192.0.2.11", "bgp.hold_time=9s", "bgp.long_lived_stale_time=1h",
            "bgp.send_hold_time=60s", "bgp.peer.border.address=203.0.113.1", "bgp.peer.border.remote_as=65000",
            "bgp.peer.border.password_file=" + file, "bgp.peer.border.multihop=2", "bgp.peer.border.import=all",
            "bgp.peer.border.next_hop=self", "bgp.peer.border.max_prefix=100", "bgp.peer.border.passive=yes",
            "bgp.peers_from_datastore=no", "bgp.range.clients.prefix=192.0.2.0/24", "bgp.range.clients.remote_as=64512",
            "bgp.range.clients.insecure=yes", "bgp.range.clients.route_reflector_client=yes"});
  std::filesystem::remove(file);
  ASSERT_TRUE(s) << s.error().what;
  EXPECT_FALSE(s->from_datastore);
  ASSERT_EQ(s->peers.size(), 1U);
  const auto& p = s->peers[0];
  EXPECT_EQ(p.name, "border");
  EXPECT_EQ(p.address, ip("203.0.113.1"));
  EXPECT_EQ(p.remote_as, Asn{65000});
  EXPECT_EQ(p.password, "s3cret");
  EXPECT_EQ(p.multihop, 2);
  EXPECT_EQ(p.import_policy, Policy::all);
  EXPECT_FALSE(p.export_policy) << "RFC 8212's default";
  EXPECT_EQ(p.next_hop, NextHopMode::self);
  EXPECT_EQ(p.max_prefix, 100U);
  EXPECT_TRUE(p.passive);
  EXPECT_EQ(p.hold_time, std::chrono::seconds(9));
  EXPECT_EQ(s->engine.long_lived_stale_time, std::chrono::hours(1));
  EXPECT_EQ(s->engine.send_hold_time, std::chrono::minutes(1));
  EXPECT_EQ(p.local_address, ip("192.0.2.11"));
  ASSERT_EQ(s->ranges.size(), 1U);
  EXPECT_EQ(s->ranges[0].prefix, *Prefix::parse("192.0.2.0/24"));
  EXPECT_TRUE(s->ranges[0].route_reflector_client);
}

TEST_F(SpeakerSettingsTest, APasswordFileThatIsMissingIsNamedNotItsContent) {
  auto s = make({"bgp.source_address=192.0.2.11", "bgp.peer.b.address=203.0.113.1", "bgp.peer.b.remote_as=65000",
                 "bgp.peer.b.password_file=/nonexistent/key"});
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().what.find("/nonexistent/key"), std::string::npos) << s.error().what;
}

TEST_F(SpeakerSettingsTest, FiltersAreOnePolicyInOrderAndStandForAll) {
  auto s = make({"bgp.source_address=192.0.2.11", "bgp.peer.b.address=203.0.113.1", "bgp.peer.b.remote_as=65000",
                 "bgp.peer.b.import_filter=one, two", "bgp.peer.c.address=203.0.113.2", "bgp.peer.c.remote_as=65000",
                 "bgp.peer.c.export_filter=two", "bgp.peer.c.keepalive_time=5s", "bgp.peer.c.restart_time=60s",
                 "bgp.peer.c.allow_own_as=2", "bgp.peer.c.add_path=both", "bgp.peer.c.extended_messages=no",
                 "bgp.peer.b.add_path=send", "bgp.peer.b.extended_next_hop=yes",
                 "bgp.filter.one.rule.9=reject prefix 10.66.0.0/16+",
                 "bgp.filter.one.rule.10=accept prefix 10.0.0.0/8 ge 24 community 65000:1 set local_pref 200",
                 "bgp.filter.two.rule.1=reject prefix ::/0+", "bgp.filter.two.default=accept"});
  ASSERT_TRUE(s) << s.error().what;
  const auto& b = s->peers[0];
  ASSERT_TRUE(b.import_filter);
  EXPECT_EQ(b.import_policy, Policy::all);
  EXPECT_FALSE(b.export_policy) << "no filter, no policy: RFC 8212";
  ASSERT_EQ(b.import_filter->rules().size(), 3U);
  EXPECT_EQ(b.import_filter->rules()[0].then, PolicyRule::Then::reject) << "9 is before 10";
  EXPECT_EQ(b.import_filter->otherwise(), Default::accept);
  const auto& c = s->peers[1];
  ASSERT_TRUE(c.export_filter);
  EXPECT_EQ(c.export_policy, Policy::all);
  EXPECT_EQ(c.keepalive_time, std::chrono::seconds(5));
  EXPECT_EQ(c.restart_time, std::chrono::seconds(60));
  EXPECT_EQ(c.allow_own_as, 2);
  EXPECT_FALSE(b.keepalive_time);
  EXPECT_TRUE(c.add_path_receive && c.add_path_send && !c.extended_messages && !c.extended_next_hop);
  EXPECT_TRUE(!b.add_path_receive && b.add_path_send && b.extended_messages && b.extended_next_hop);
}

TEST_F(SpeakerSettingsTest, EveryFaultOfAFilterIsNamedWithItsLine) {
  const auto file = (std::filesystem::temp_directory_path() / fmt::format("calico-filter-{}", getpid())).string();
  std::ofstream(file) << "[bgp.filter.f]\nrule.10 = accept prefix 10.0.0.0/33\nrule.20 = accept\nrule.30 = drop\n"
                         "[bgp.filter.self]\nrule.1 = accept set next_hop self\ndefault = accept\n"
                         "[bgp.peer.b]\naddress = 203.0.113.1\nremote_as = 65000\nimport_filter = f,nosuch\n"
                         "[bgp.peer.c]\naddress = 203.0.113.2\nremote_as = 65000\nimport_filter = self\n"
                         "import = none\nexport_filter = self,f\n";
  auto schema = std::make_shared<config::Schema>();
  ASSERT_TRUE(schema->add(config::core_params()));
  config::Sources sources;
  sources.files = {file};
  sources.host_name = "host-a";
  auto loaded = config::load(schema, sources);
  std::filesystem::remove(file);
  for (const auto& f : loaded.faults) ADD_FAILURE() << f.to_string();
  config::Faults faults;
  check_bgp(loaded.config, faults);
  std::string all;
  for (const auto& f : faults) all += f.to_string().substr(file.size()) + "\n";
  const auto has = [&](const char* text) { EXPECT_NE(all.find(text), std::string::npos) << text << "\n" << all; };
  has(":2: [bgp.filter.f] rule.10: '10.0.0.0/33' is no prefix match");
  has(":4: [bgp.filter.f] rule.30: a rule begins with accept, reject or next, not 'drop'");
  has(":11: [bgp.peer.b] import_filter: there is no section [bgp.filter.nosuch]");
  has(":15: [bgp.peer.c] import_filter: filter self sets next_hop self or keep, which is for export only");
  has(":16: [bgp.peer.c] import: none contradicts the filter");
  has(":17: [bgp.peer.c] export_filter: filter self has a default, so f is never asked");
  EXPECT_EQ(faults.size(), 6U) << all;
  auto s = speaker_settings(loaded.config, {}, HostLook{[](const Ip&) -> Result<Ip> { return ip("192.0.2.1"); }, {}});
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().what.find("(and 5 more)"), std::string::npos) << s.error().what;
}

TEST_F(SpeakerSettingsTest, ImportProtocolsAreChecked) {
  auto s = make({"bgp.source_address=192.0.2.11", "bgp.kernel_import_protocols=88,3"});
  ASSERT_TRUE(s) << s.error().what;
  EXPECT_EQ(s->kernel.import_protocols, (std::vector<std::uint8_t>{88, 3}));
  EXPECT_FALSE(make({"bgp.source_address=192.0.2.11", "bgp.kernel_import_protocols=89"}))
      << "what BGP installs is never announced again";
}

}  // namespace
}  // namespace calico::bgp
