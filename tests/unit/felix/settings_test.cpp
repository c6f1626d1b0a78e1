// felix's rows: defaults, upstream's names, what is a fault and what only a warning, and the shipped sample.
#include "modules/felix/settings.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/config/load.hpp"

namespace calico::felix {
namespace {

using testing::HasSubstr;

std::shared_ptr<config::Schema> schema() {
  auto s = std::make_shared<config::Schema>();
  EXPECT_TRUE(s->add(config::core_params()));
  EXPECT_TRUE(s->add(params()));
  return s;
}

config::Loaded load(std::vector<std::string> sets, std::vector<std::pair<std::string, std::string>> environment = {}) {
  sets.push_back("node.felix_cfg=");
  return config::load(schema(), {.files = {"/dev/null"}, .sets = sets, .environment = environment, .host_name = "h"});
}

TEST(FelixSettings, DefaultsAreThoseOfTheStruct) {
  const auto l = load({});
  ASSERT_TRUE(l.faults.empty());
  auto want = Settings{};
  want.protected_ports = {22, 179, 2379, 2380, 9091, 9696};
  EXPECT_EQ(settings_of(l.config), want);
}

TEST(FelixSettings, PlacesOfHealthAndMetrics) {
  auto s = settings_of(load({"felix.health_enabled=yes"}).config);
  ASSERT_TRUE(s.health_at);
  EXPECT_EQ(s.health_at->to_string(), "127.0.0.1:9099");
  EXPECT_FALSE(s.metrics_at);
  s = settings_of(load({"felix.metrics_enabled=yes", "felix.metrics_host=::1", "felix.metrics_port=1"}).config);
  ASSERT_TRUE(s.metrics_at);
  EXPECT_EQ(s.metrics_at->to_string(), "[::1]:1");
  s = settings_of(load({}, {{"FELIX_HEALTHENABLED", "true"}, {"FELIX_HEALTHHOST", "none"}}).config);
  ASSERT_TRUE(s.health_at);
  EXPECT_EQ(s.health_at->to_string(), "127.0.0.1:9099");
}

TEST(FelixSettings, MetadataCanBeSwitchedOffByItsPort) {
  const auto with = [](const char* port) {
    return settings_of(load({}, {{"FELIX_METADATAADDR", "10.0.0.1"}, {"FELIX_METADATAPORT", port}}).config);
  };
  EXPECT_TRUE(with("80").metadata_address);
  EXPECT_FALSE(with("none").metadata_address);
}

TEST(FelixSettings, OursAreFaultsUpstreamsAreNot) {
  const auto ours = load({"felix.metadata_address=a-name", "felix.health_host=a-name", "felix.interface_prefix=a b"});
  config::Faults faults = ours.faults;
  check(ours.config, faults);
  EXPECT_EQ(faults.size(), 3U);
  EXPECT_TRUE(unusable(ours.config).empty());

  const auto theirs = load({}, {{"FELIX_METADATAADDR", "a-name"},
                                {"FELIX_HEALTHENABLED", "yes"},
                                {"FELIX_HEALTHHOST", "a-name"},
                                {"FELIX_INTERFACEPREFIX", "a b"}});
  faults = theirs.faults;
  check(theirs.config, faults);
  EXPECT_TRUE(faults.empty()) << faults[0].to_string();
  const auto said = unusable(theirs.config);
  ASSERT_EQ(said.size(), 3U);
  EXPECT_THAT(said, testing::Contains(HasSubstr("environment FELIX_METADATAADDR: [felix] metadata_address: 'a-name'")));
  const auto s = settings_of(theirs.config);
  EXPECT_FALSE(s.metadata_address);
  EXPECT_FALSE(s.health_at);
  EXPECT_EQ(s.interface_prefixes, std::vector<std::string>{"tap"});
  // The region is a part of every key.
  const auto region = load({}, {{"FELIX_OPENSTACKREGION", "a/b"}});
  faults = region.faults;
  check(region.config, faults);
  EXPECT_EQ(faults.size(), 1U);
}

TEST(FelixSettings, FailsafePorts) {
  const Failsafe ssh{6, 22, {}}, dns{17, 53, *Prefix::parse("fd00::/8")}, web{6, 80, *Prefix::parse("10.0.0.0/8")};
  EXPECT_EQ(*parse_failsafe("22"), std::vector{ssh});
  EXPECT_EQ(*parse_failsafe(" TCP:22 , udp:[fd00::/8]:53,tcp:10.0.0.0/8:80"), (std::vector{ssh, dns, web}));
  EXPECT_EQ(*parse_failsafe("udp:fd00::/8:53,tcp:0.0.0.0/0:22"), (std::vector{dns, ssh}));
  EXPECT_EQ(*parse_failsafe(R"([{"protocol":"TCP","port":22},{"protocol":"udp","port":53,"net":"fd00::/8"}])"),
            (std::vector{ssh, dns}));
  for (const auto* none : {"", "none", "[]"}) EXPECT_TRUE(parse_failsafe(none).value().empty()) << none;
  for (const auto* bad : {"tcp", "tcp:0", "tcp:65536", "icmp:1", "tcp:x:22", "tcp:22,", ",", "tcp:10.0.0.0/33:22",
                          "22-24", "[{}]", R"([{"port":"x"}])", R"([{"port":22)", "[1]", R"({"port":22})"})
    EXPECT_FALSE(parse_failsafe(bad)) << bad;
  EXPECT_FALSE(parse_failsafe(std::string(40000, ' ') + "22,"));
  // Ours is a fault; upstream's leaves the default, which lets its operator in.
  const auto ours = load({"felix.failsafe_inbound_host_ports=ssh"});
  config::Faults faults = ours.faults;
  check(ours.config, faults);
  EXPECT_EQ(faults.size(), 1U);
  const auto theirs =
      load({}, {{"FELIX_FAILSAFEINBOUNDHOSTPORTS", "ssh"}, {"FELIX_FAILSAFEOUTBOUNDHOSTPORTS", "none"}});
  EXPECT_EQ(unusable(theirs.config).size(), theirs.faults.empty() ? 1U : 0U);
  EXPECT_EQ(settings_of(theirs.config).failsafe_in, *parse_failsafe(kFailsafeIn));
  EXPECT_TRUE(settings_of(load({"felix.failsafe_outbound_host_ports=none"}).config).failsafe_out.empty());
}

TEST(FelixSettings, TheShippedSampleNamesEveryKeyWithItsDefault) {
  std::ifstream in(std::string(CALICO_SOURCE_DIR) + "/etc/calico-node.conf");
  std::map<std::string, std::string> keys;
  std::string section, line;
  while (std::getline(in, line)) {
    if (line.starts_with("[")) section = line.substr(1, line.find(']') - 1);
    const auto eq = line.find(" =");
    if (section != "felix" || eq == std::string::npos || line.starts_with("#")) continue;
    auto value = line.substr(eq + 2);
    value = value.substr(0, value.find(" ;"));
    value.erase(0, value.find_first_not_of(' ') == std::string::npos ? value.size() : value.find_first_not_of(' '));
    value.erase(value.find_last_not_of(' ') + 1);
    keys["felix." + line.substr(0, eq)] = value;
  }
  for (const auto& row : params()) {
    ASSERT_TRUE(keys.contains(row.name)) << row.name;
    EXPECT_EQ(keys[row.name], row.def) << row.name;
  }
  EXPECT_EQ(keys.size(), params().size());
}

}  // namespace
}  // namespace calico::felix
