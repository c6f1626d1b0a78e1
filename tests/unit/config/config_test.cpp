// Configuration: layers, types, ranges, named sections, errors with place and range, print and read back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "core/config/diff.hpp"
#include "core/config/load.hpp"
#include "core/config/upstream.hpp"

namespace calico::config {
namespace {

using testing::HasSubstr;

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() {
    dir_ = std::filesystem::temp_directory_path() / fmt::format("calico-config-{}", getpid());
    std::filesystem::create_directories(dir_);
    auto schema = std::make_shared<Schema>();
    EXPECT_TRUE(schema->add(core_params()));
    schema_ = schema;
  }
  ~ConfigTest() override { std::filesystem::remove_all(dir_); }

  std::string file(const std::string& name, const std::string& text) {
    const auto path = (dir_ / name).string();
    std::ofstream(path) << text;
    return path;
  }
  Loaded load_text(const std::string& text, std::vector<std::string> sets = {},
                   std::vector<std::pair<std::string, std::string>> env = {}) {
    Sources s;
    s.files = {file("a.conf", "[node]\nfelix_cfg =\n" + text)};
    s.sets = std::move(sets);
    s.environment = std::move(env);
    s.host_name = "host-1";
    return load(schema_, s);
  }
  static std::string all(const Faults& faults) {
    std::string out;
    for (const auto& f : faults) out += f.to_string() + "\n";
    return out;
  }

  std::filesystem::path dir_;
  std::shared_ptr<const Schema> schema_;
};

TEST_F(ConfigTest, DefaultsAreTypedAndEveryDefaultPassesItsOwnCheck) {
  for (const auto* row : schema_->rows()) {
    if (*row->def) {
      EXPECT_TRUE(check_value(*row, row->def)) << row->name;
    }
  }
  const auto l = load_text("");
  ASSERT_EQ(all(l.faults), "");
  EXPECT_EQ(l.config.text("node.name"), "host-1");
  EXPECT_EQ(l.config.duration("bgp.hold_time"), std::chrono::seconds(90));
  EXPECT_TRUE(l.config.boolean("bgp.graceful_restart"));
  EXPECT_EQ(l.config.list("bgp.kernel_import"), (std::vector<std::string>{"tap*", "cali*"}));
  EXPECT_FALSE(l.config.is_given("bgp.hold_time"));
}

TEST_F(ConfigTest, LayersWinInOrder) {
  const auto felix =
      file("felix.cfg",
           "[global]\nFelixHostname = from-felix-cfg\nEtcdEndpoints = https://10.0.0.1:2379\nNoSuchThing = 1\n");
  Sources s;
  s.host_name = "kernel";
  s.files = {file("one.conf", "[node]\nfelix_cfg = " + felix + "\n[bgp]\nhold_time = 30s\nlocal_as = 65001\n"),
             file("two.conf", "[bgp]\nhold_time = 40s\n")};
  s.environment = {{"CALICO_NODE_BGP_LOCAL_AS", "65002"}, {"FELIX_FELIXHOSTNAME", "from-environment"}};
  s.sets = {"bgp.local_as=65003"};
  const auto l = load(schema_, s);
  ASSERT_EQ(all(l.faults), "");
  EXPECT_EQ(l.config.text("node.name"), "from-environment");
  EXPECT_EQ(l.config.text("datastore.endpoints"), "https://10.0.0.1:2379");
  EXPECT_EQ(l.config.duration("bgp.hold_time"), std::chrono::seconds(40));
  EXPECT_EQ(l.config.integer("bgp.local_as"), 65003);
  ASSERT_EQ(l.warnings.size(), 1U);
  EXPECT_THAT(l.warnings[0], HasSubstr("NoSuchThing"));
  // FelixConfiguration lies below all of these and above the default.
  std::vector<std::string> ignored;
  const auto c = l.config.with_felix({{"FelixHostname", "from-resource"}, {"OpenstackRegion", "east"}, {"Other", "1"}},
                                     "default", &ignored);
  EXPECT_EQ(c.text("node.name"), "from-environment");
  EXPECT_EQ(c.text("openstack.region"), "east");
  EXPECT_EQ(ignored,
            std::vector<std::string>{"FelixConfiguration default: Other is no parameter calico-node knows of"});
}

/// Rows like felix's own.
constexpr Param kAgent[] = {
    {.name = "agent.interval",
     .type = Type::duration,
     .range = "1s:3600s",
     .def = "30s",
     .felix_name = "ReportingIntervalSecs,ReportingInterval"},
    {.name = "agent.port", .type = Type::integer, .range = "0|1:65535", .def = "8775", .felix_name = "MetadataPort"},
    {.name = "agent.on", .type = Type::boolean, .def = "no", .felix_name = "HealthEnabled"},
    {.name = "agent.action", .range = "drop|return|accept", .def = "drop", .felix_name = "DefaultEndpointToHostAction"},
    {.name = "agent.prefix", .type = Type::list, .def = "tap", .felix_name = "InterfacePrefix"},
};

TEST_F(ConfigTest, UpstreamSourcesWinInUpstreamsOrder) {
  auto schema = std::make_shared<Schema>();
  ASSERT_TRUE(schema->add(core_params()));
  ASSERT_TRUE(schema->add(kAgent));
  Sources s;
  s.host_name = "h";
  const auto with = [&](const std::string& felix_cfg, const std::string& environment, const std::string& per_host,
                        const std::string& global) {
    const auto felix =
        file("felix.cfg", "[global]\n" + (felix_cfg.empty() ? "" : "metadataPORT = " + felix_cfg + "\n"));
    s.files = {file("one.conf", "[node]\nfelix_cfg = " + felix + "\n")};
    s.environment.clear();
    if (!environment.empty()) s.environment = {{"FELIX_METADATAPORT", environment}};
    const auto l = load(schema, s);
    EXPECT_EQ(all(l.faults), "");
    std::map<std::string, std::string> node, all_nodes;
    if (!per_host.empty()) node["MetadataPort"] = per_host;
    if (!global.empty()) all_nodes["MetadataPort"] = global;
    return l.config.with_felix(all_nodes, "default", nullptr).with_felix(node, "node.h", nullptr);
  };
  // Environment, felix.cfg, node.<host>, default, built in: each over the next, an unreadable or empty one is none.
  EXPECT_EQ(with("2", "1", "3", "4").integer("agent.port"), 1);
  EXPECT_EQ(with("2", "", "3", "4").integer("agent.port"), 2);
  EXPECT_EQ(with("", "", "3", "4").integer("agent.port"), 3);
  EXPECT_EQ(with("", "", "", "4").integer("agent.port"), 4);
  EXPECT_EQ(with("", "", "", "").integer("agent.port"), 8775);
  EXPECT_EQ(with("2", "many", "3", "4").integer("agent.port"), 2);
  EXPECT_EQ(with("many", "-1", "3", "4").integer("agent.port"), 3);
  EXPECT_EQ(with("", "", "70000", "4").integer("agent.port"), 4);
  EXPECT_EQ(with("none", "", "3", "4").integer("agent.port"), 0);
  EXPECT_EQ(with("", "", "3", "4").where("agent.port"), "FelixConfiguration node.h");
  // A file of ours, above felix.cfg, below the environment.
  const auto ours = file("two.conf", "[agent]\nport = 5\n");
  const auto felix = file("felix.cfg", "[global]\nMetadataPort = 2\n");
  s.files = {file("one.conf", "[node]\nfelix_cfg = " + felix + "\n"), ours};
  s.environment.clear();
  EXPECT_EQ(load(schema, s).config.integer("agent.port"), 5);
}

TEST_F(ConfigTest, UpstreamsSpellings) {
  const auto ours = [](std::size_t row, std::string_view text) {
    auto v = from_upstream(kAgent[row], text);
    return v ? *v : "refused: " + v.error().what;
  };
  for (const auto& [text, want] : std::map<std::string, std::string>{{"30", "30s"},
                                                                     {"1.5", "1500ms"},
                                                                     {"1m30s", "90s"},
                                                                     {"1h0m0s", "3600s"},
                                                                     {"2000ms", "2s"},
                                                                     {"90s", "90s"},
                                                                     {"5m", "300s"}})
    EXPECT_EQ(ours(0, text), want) << text;
  for (const auto* text : {"none", "0", "-5", "1e3", "nan", "inf", "1m30", "5 s", "s", "1x", "99999999999999999999",
                           "1.2.3s", "99999999999999999999h"})
    EXPECT_THAT(ours(0, text), HasSubstr("refused: ")) << text;
  for (const auto* text : {"true", "Yes", "y", "T", "1", "Enabled"}) {
    const auto v = ours(2, text);
    EXPECT_TRUE(check_value(kAgent[2], v)) << text << " " << v;
  }
  EXPECT_EQ(ours(2, "f"), "no");
  EXPECT_EQ(ours(2, "NONE"), "no");
  EXPECT_THAT(ours(2, "maybe"), HasSubstr("yes or no"));
  EXPECT_EQ(ours(3, "ACCEPT"), "ACCEPT");
  EXPECT_THAT(ours(3, "REJECT"), HasSubstr("drop|return|accept"));
  EXPECT_EQ(ours(4, "cali,tap"), "cali,tap");
  EXPECT_EQ(ours(4, "none"), "");
}

TEST_F(ConfigTest, WhatUpstreamsFilesSayWrongIsNamedOnceAndStopsNothing) {
  auto schema = std::make_shared<Schema>();
  ASSERT_TRUE(schema->add(core_params()));
  ASSERT_TRUE(schema->add(kAgent));
  const auto felix =
      file("felix.cfg",
           "[global]\nMetadataPort = 99999\nIptablesBackend = nft\nFrobnicate = 1\n[other]\niptablesbackend = "
           "x\nHealthEnabled =\n");
  Sources s;
  s.host_name = "h";
  s.files = {file("one.conf", "[node]\nfelix_cfg = " + felix + "\n")};
  s.environment = {{"FELIX_DEFAULTENDPOINTTOHOSTACTION", "REJECT"}};
  const auto l = load(schema, s);
  EXPECT_EQ(all(l.faults), "");
  EXPECT_EQ(l.config.integer("agent.port"), 8775);
  EXPECT_EQ(l.config.text("agent.action"), "drop");
  std::string text;
  for (const auto& w : l.warnings) text += w + "\n";
  ASSERT_EQ(l.warnings.size(), 4U) << text;
  EXPECT_THAT(text, HasSubstr("felix.cfg:2: MetadataPort is ignored: value '99999' is outside the accepted range"));
  EXPECT_THAT(text, HasSubstr("felix.cfg:3: IptablesBackend is not used here: the tables are felix's own"));
  EXPECT_THAT(text, HasSubstr("felix.cfg:4: Frobnicate is no parameter"));
  EXPECT_THAT(text, HasSubstr("environment FELIX_DEFAULTENDPOINTTOHOSTACTION: DEFAULTENDPOINTTOHOSTACTION is ignored"));
  // In our own file the same is a fault.
  s.files = {file("one.conf", "[node]\nfelix_cfg =\n[agent]\nport = 99999\n")};
  EXPECT_THAT(all(load(schema, s).faults), HasSubstr("outside the accepted range"));
}

TEST_F(ConfigTest, FaultsNameFileLineKeyValueAndRange) {
  const auto l = load_text(
      "[bgp]\nhold_time = 1s\nlocal_as = many\nno_such = 1\n[nowhere]\nx = 1\nnonsense\n[bgp.peer.b]\nremote_as = "
      "65000\n");
  const auto text = all(l.faults);
  EXPECT_THAT(text, HasSubstr("a.conf:4: [bgp] hold_time: value '1s' is outside the accepted range 0s|3s:65535s"));
  EXPECT_THAT(text, HasSubstr("a.conf:5: [bgp] local_as: value 'many' is not accepted; accepted: a whole number"));
  EXPECT_THAT(text, HasSubstr("a.conf:6: [bgp] no_such: unknown key"));
  EXPECT_THAT(text, HasSubstr("a.conf:8: [nowhere] x: unknown section"));
  EXPECT_THAT(text, HasSubstr("a.conf:9: 'nonsense' is neither"));
  EXPECT_THAT(text, HasSubstr("[bgp.peer.b] address: missing"));
  EXPECT_EQ(l.faults.size(), 6U);
}

TEST_F(ConfigTest, MissingFileBadSetAndUnknownEnvironmentAreFaults) {
  Sources s;
  s.files = {(dir_ / "absent.conf").string()};
  s.sets = {"nonsense", "bgp.local_as", "bgp.=3"};
  s.environment = {{"CALICO_NODE_BGP_TYPO", "1"}};
  EXPECT_EQ(load(schema_, s).faults.size(), 5U);
}

TEST_F(ConfigTest, NamedSectionsAndSetWithDots) {
  const auto l =
      load_text("[bgp.peer.border-1]\naddress = 172.18.203.1\nremote_as = 65000 ; comment\n",
                {"bgp.peer.border-1.import=all", "bgp.peer.x.y.address=10.0.0.9", "bgp.peer.x.y.remote_as=1"});
  ASSERT_EQ(all(l.faults), "");
  EXPECT_EQ(l.config.sections("bgp.peer"), (std::vector<std::string>{"border-1", "x.y"}));
  EXPECT_EQ(l.config.integer("bgp.peer.border-1.remote_as"), 65000);
  EXPECT_EQ(l.config.text("bgp.peer.border-1.import"), "all");
  EXPECT_EQ(l.config.text("bgp.peer.x.y.next_hop"), "keep");
}

TEST_F(ConfigTest, PrintReadBackIsTheSame) {
  const auto l = load_text(
      "[bgp]\nhold_time = 3s\n[bgp.peer.b]\naddress = 10.0.0.1\nremote_as = 1\n[datastore]\npassword_file = /p # c\n");
  ASSERT_EQ(all(l.faults), "");
  const auto text = l.config.print();
  Sources s;
  s.files = {file("printed.conf", text)};
  s.host_name = "other";
  const auto again = load(schema_, s);
  ASSERT_EQ(all(again.faults), "");
  for (const auto& [name, value] : l.config.values()) EXPECT_EQ(again.config.text(name), value.text) << name;
}

TEST_F(ConfigTest, NumberedKeys) {
  const auto l = load_text(
      "[bgp.filter.out]\nrule.20 = reject\nrule.3 = accept path \"65000 *\"\n[bgp.filter.a.b]\ndefault = accept\n",
      {"bgp.filter.out.rule.100=accept"});
  ASSERT_EQ(all(l.faults), "");
  EXPECT_EQ(l.config.sections("bgp.filter"), (std::vector<std::string>{"a.b", "out"}));
  EXPECT_EQ(l.config.numbers("bgp.filter.out.rule"), (std::vector<std::uint32_t>{3, 20, 100}));
  EXPECT_EQ(l.config.text("bgp.filter.out.rule.20"), "reject");
  EXPECT_EQ(l.config.text("bgp.filter.out.default"), "");
  Sources s;
  s.files = {file("printed.conf", l.config.print())};
  const auto again = load(schema_, s);
  ASSERT_EQ(all(again.faults), "") << l.config.print();
  EXPECT_EQ(again.config.text("bgp.filter.out.rule.3"), "accept path \"65000 *\"");
  EXPECT_EQ(again.config.numbers("bgp.filter.out.rule"), l.config.numbers("bgp.filter.out.rule"));
  for (const char* bad : {"rule.x = accept", "rule.0 = accept", "rule.007 = accept", "rule.1234567 = accept",
                          "rule. = accept", "rule = accept", "rule.1.2 = accept", "rules.1 = accept"}) {
    const auto faults = load_text(std::string("[bgp.filter.f]\n") + bad + "\n").faults;
    EXPECT_EQ(faults.size(), 1U) << bad << "\n" << all(faults);
  }
}

TEST_F(ConfigTest, NumberedKeysInADiff) {
  const auto before = load_text("[bgp.filter.f]\nrule.2 = accept\nrule.10 = reject\nrule.20 = accept\n").config;
  const auto after = load_text("[bgp.filter.f]\nrule.2 = accept\nrule.10 = accept\nrule.30 = reject\n").config;
  std::string text;
  for (const auto& c : diff(before, after, before)) text += c.to_string() + "\n";
  EXPECT_EQ(text,
            "[bgp.filter.f] rule.10: reject -> accept\n[bgp.filter.f] rule.20: accept -> (unset)\n"
            "[bgp.filter.f] rule.30: (unset) -> reject\n");
  EXPECT_TRUE(diff(after, after, after).empty());
}

TEST_F(ConfigTest, CrossChecks) {
  const auto faults_of = [&](const std::string& text) {
    auto l = load_text(text);
    check_core(l.config, l.faults);
    return all(l.faults);
  };
  EXPECT_EQ(faults_of(""), "");
  EXPECT_EQ(faults_of("[datastore]\nlisten = 192.168.0.2:2379\n"), "") << "with TLS of its own";
  EXPECT_THAT(faults_of("[datastore]\nca_key_file = /k\n"), HasSubstr("ca_key_file is its key"));
  EXPECT_THAT(faults_of("[datastore]\nca_key_file = /k\nca_file = /c\ncert_file = /x\n"),
              HasSubstr("belongs to datastore.cert_file"));
  EXPECT_EQ(faults_of("[datastore]\nca_key_file = /k\nca_file = /c\n"), "");
  EXPECT_THAT(faults_of("[datastore]\nendpoints = https://h:1\nca_key_file = /k\nca_file = /c\n"),
              HasSubstr("is for a controller"));
  EXPECT_EQ(faults_of("[datastore]\nlisten = 192.168.0.2:2379\ninsecure = yes\n"), "");
  EXPECT_THAT(faults_of("[datastore]\nca_file = /a\n"), HasSubstr("cert_file: missing"));
  EXPECT_THAT(faults_of("[datastore]\nendpoints = 192.168.0.2:2379\n"), HasSubstr("is not http://"));
  EXPECT_THAT(faults_of("[bgp.range.r]\nprefix = 10.0.0.0/8\nremote_as = 1\n"), HasSubstr("insecure = yes"));
  EXPECT_THAT(faults_of("[metrics]\nlisten = 0.0.0.0:9091\n"), HasSubstr("metrics] listen: is not loopback"));
  EXPECT_EQ(faults_of("[metrics]\nlisten = 0.0.0.0:9091\ninsecure = yes\n"), "");
  EXPECT_EQ(faults_of("[metrics]\nlisten = [::1]:9091\n"), "");
  EXPECT_EQ(faults_of("[metrics]\nlisten =\n"), "");
  EXPECT_THAT(faults_of("[bgp.range.r]\nprefix = 10.0.0.0/8\nremote_as = 1\ninsecure = yes\n"),
              HasSubstr("peers_from_datastore"));
}

TEST_F(ConfigTest, TheShippedSampleIsAcceptedAndNamesEveryKey) {
  const std::string path = std::string(CALICO_SOURCE_DIR) + "/etc/calico-node.conf";
  std::ifstream in(path);
  std::string line, everything, core_part;
  const std::set<std::string> core_sections = {"node", "openstack", "datastore", "bgp", "metrics"};
  bool core = true;
  while (std::getline(in, line)) {
    everything += line + "\n";
    if (line.starts_with("[")) core = core_sections.count(line.substr(1, line.find(']') - 1)) > 0;
    if (core) core_part += line + "\n";
  }
  Sources s;
  s.files = {file("sample.conf", core_part)};
  s.sets = {"node.felix_cfg="};
  s.host_name = "h";
  auto l = load(schema_, s);
  check_core(l.config, l.faults);
  EXPECT_EQ(all(l.faults), "");
  for (const auto* row : schema_->rows()) {
    auto key = std::string(row->name).substr(section_of(*row, row->name).size() + 1);
    if (key.ends_with(".*")) key.replace(key.size() - 1, 1, "10");  // a numbered key
    EXPECT_TRUE(everything.find("\n" + key + " =") != std::string::npos ||
                everything.find("\n;" + key + " =") != std::string::npos)
        << row->name << " is not in etc/calico-node.conf";
  }
}

TEST_F(ConfigTest, ADifferenceNamesSectionsAndKeys) {
  const auto started = load_text("[bgp]\nlocal_as = 1\n").config;
  const auto before = load_text(
                          "[bgp]\nlocal_as = 2\n[bgp.peer.a]\naddress = 10.0.0.1\nremote_as = 1\nmax_prefix = 5\n"
                          "[bgp.peer.b]\naddress = 10.0.0.2\nremote_as = 1\n")
                          .config;
  const auto after = load_text(
                         "[bgp]\nlocal_as = 2\nhold_time = 30s\n[bgp.peer.a]\naddress = 10.0.0.1\nremote_as = 1\n"
                         "import = none\n[bgp.peer.c]\naddress = 10.0.0.3\nremote_as = 1\n")
                         .config;
  std::vector<std::string> lines;
  for (const auto& c : diff(before, after, started)) lines.push_back(c.to_string());
  EXPECT_THAT(lines,
              testing::ElementsAre("[bgp.peer.b] removed", "[bgp.peer.c] added",
                                   "[bgp] local_as: 1 -> 2 (needs a restart, not taken)", "[bgp] hold_time: 90s -> 30s",
                                   "[bgp.peer.a] import: (unset) -> none", "[bgp.peer.a] max_prefix: 5 -> 0"))
      << "local_as differs from what the process started with, whatever was read in between";
  EXPECT_TRUE(diff(before, before, before).empty());
}

TEST(ConfigValues, DurationsAndEndpoints) {
  EXPECT_EQ(*parse_duration("500ms"), std::chrono::milliseconds(500));
  EXPECT_EQ(*parse_duration("24h"), std::chrono::hours(24));
  for (const char* bad : {"", "90", "s", "-1s", "1.5s", "99999999999999999999s", "9223372036854775807d"})
    EXPECT_FALSE(parse_duration(bad)) << bad;
  EXPECT_EQ(IpPort::parse("[::1]:179")->to_string(), "[::1]:179");
  for (const char* bad : {"", "1.2.3.4", "::1:179", "1.2.3.4:65536", "1.2.3.4:-1", "[::1]179"})
    EXPECT_FALSE(IpPort::parse(bad)) << bad;
}

}  // namespace
}  // namespace calico::config
