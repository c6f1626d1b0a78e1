// Whole speakers in namespaces of their own over one embedded datastore: Nodes are registered, sessions follow from
// them, routes go from kernel to kernel.
#include "core/bgp/speaker.hpp"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "core/bgp/birdc/client.hpp"
#include "core/bgp/engine.hpp"
#include "core/bgp/node_sessions.hpp"
#include "core/config/load.hpp"
#include "core/model/bgp_resources.hpp"
#include "core/model/resources.hpp"
#include "core/sync/service.hpp"
#include "tests/support/netns.hpp"
#include "tests/unit/sync/backends.hpp"

namespace calico::bgp {
namespace {

using test::eventually;
using test::Netns;

class Host {
 public:
  Host(const Netns& switch_ns, std::shared_ptr<store::Datastore> ds, const std::string& name, int number, bool compute,
       bool reflector)
      : ns(name), name_(name), address_(fmt::format("192.0.2.{}", number)) {
    test::veth(ns, "eth0", switch_ns, "to-" + name);
    switch_ns.run("ip link set to-" + name + " master br0");
    ns.run("ip addr add " + address_ + "/24 dev eth0");
    sync::Options o;
    o.datastore = std::move(ds);
    o.node = name;
    o.timing = test::quick();
    service = std::move(*sync::Service::open(std::move(o)));
    service->start();
    options_.node = name;
    options_.compute = compute;
    options_.reflector = reflector;
    options_.state_dir = dir_.path();
    options_.run_dir = dir_.path();
  }
  ~Host() { stop(); }

  void start(std::vector<std::string> sets = {}) {
    ns.in([&] {
      auto made = Speaker::create(config(std::move(sets)), options_, service->view(), service->report(), hooks());
      ASSERT_TRUE(made) << made.error().what;
      speaker = std::move(*made);
      auto s = speaker->start();
      ASSERT_TRUE(s) << s.error().what;
    });
  }
  void stop() {
    if (speaker) speaker->stop();
    speaker.reset();
  }
  config::Config config(std::vector<std::string> sets) {
    auto schema = std::make_shared<config::Schema>();
    EXPECT_TRUE(schema->add(config::core_params()));
    config::Sources sources;
    sources.files = {"/dev/null"};
    sources.host_name = name_;
    sources.sets = std::move(sets);
    sources.sets.push_back("bgp.source_address=" + address_);
    auto loaded = config::load(schema, sources);
    for (const auto& f : loaded.faults) ADD_FAILURE() << f.to_string();
    return loaded.config;
  }
  Speaker::Hooks hooks() {
    Speaker::Hooks h;
    h.status = [this](std::string line) {
      std::lock_guard lock(m_);
      status_ = std::move(line);
    };
    return h;
  }
  std::string status() {
    std::lock_guard lock(m_);
    return status_;
  }
  std::map<std::string, std::string> sessions() {
    std::map<std::string, std::string> out;
    const auto v = boost::json::parse(speaker->describe());
    for (const auto& s : v.at("sessions").as_array())
      out[std::string(s.at("name").as_string())] = std::string(s.at("state").as_string());
    return out;
  }
  /// Of one session.
  boost::json::object session(const std::string& name) {
    const auto v = boost::json::parse(speaker->describe());
    for (const auto& s : v.at("sessions").as_array())
      if (s.at("name").as_string() == name) return s.as_object();
    return {};
  }
  std::map<std::string, std::int64_t> flaps() {
    std::map<std::string, std::int64_t> out;
    const auto v = boost::json::parse(speaker->describe());
    for (const auto& s : v.at("sessions").as_array())
      out[std::string(s.at("name").as_string())] = s.at("flaps").to_number<std::int64_t>();
    return out;
  }
  /// Of a session's filter; -1: it has none.
  std::int64_t rules(const std::string& name, const char* direction) {
    const auto s = session(name);
    if (s.empty()) return -2;
    const auto& n = s.at("filter_rules").at(direction);
    return n.is_null() ? -1 : n.to_number<std::int64_t>();
  }
  bool has_route(const std::string& prefix, const std::string& via) {
    return ns.run("ip route show " + prefix + " proto 89").find("via " + via) != std::string::npos;
  }
  /// birdc's answer to `command`.
  std::string birdc(std::string command) {
    std::string name = "birdc", s = "-s", path = dir_.path() + "/bird.ctl";
    std::vector<char*> argv{name.data(), s.data(), path.data(), command.data()};
    testing::internal::CaptureStdout();
    const int code = birdc_main(4, argv.data());
    std::fflush(stdout);
    const auto text = testing::internal::GetCapturedStdout();
    return code == 0 ? text : fmt::format("exit {}", code);
  }
  const std::string& address() const { return address_; }

  Netns ns;
  std::unique_ptr<sync::Service> service;
  std::unique_ptr<Speaker> speaker;

 private:
  test::TempDir dir_;
  std::string name_, address_;
  Speaker::Options options_;
  std::mutex m_;
  std::string status_;
};

using Sessions = std::map<std::string, std::string>;
const std::string kUp = "Established";

class SpeakerTest : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    net_ = std::make_unique<Netns>("net");
    net_->run("ip link add br0 type bridge && ip link set br0 up");
    store_ = std::make_unique<test::Client>(kv_.datastore());
    store_->put(test::kInfoKey, test::info());
  }
  std::unique_ptr<Host> host(const std::string& name, int number, bool compute, bool reflector) {
    return std::make_unique<Host>(*net_, kv_.datastore(), name, number, compute, reflector);
  }
  testing::AssertionResult sessions(Host& h, const Sessions& expected) {
    auto r = eventually("the sessions", [&] { return h.sessions() == expected; });
    return r ? r : r << "\n" << h.speaker->describe();
  }
  std::unique_ptr<Netns> net_;
  test::KvBackend kv_;
  std::unique_ptr<test::Client> store_;
};

TEST_F(SpeakerTest, SessionsFollowFromNodesAndRoutesFromSessions) {
  auto rr = host("rr1", 1, false, true);
  auto c1 = host("c1", 11, true, false);
  auto c2 = host("c2", 12, true, false);
  c1->ns.run("ip tuntap add tap0 mode tap && ip link set tap0 up && ip route add 10.65.0.2/32 dev tap0 proto 88");
  c1->ns.run("ip tuntap add eth9 mode tap && ip link set eth9 up && ip route add 10.66.0.2/32 dev eth9 proto 88");
  for (auto* h : {rr.get(), c1.get(), c2.get()}) h->start();
  ASSERT_TRUE(sessions(*rr, {{"c1", kUp}, {"c2", kUp}}));
  ASSERT_TRUE(sessions(*c1, {{"rr1", kUp}}));
  ASSERT_TRUE(sessions(*c2, {{"rr1", kUp}}));
  ASSERT_TRUE(eventually("the route", [&] { return c2->has_route("10.65.0.2/32", c1->address()); }));
  EXPECT_FALSE(c2->has_route("10.66.0.2/32", c1->address())) << "not an interface of tenants";
  EXPECT_FALSE(rr->has_route("10.65.0.2/32", c1->address())) << "a pure reflector installs nothing";
  EXPECT_EQ(rr->status(), "2 of 2 sessions established");
  c1->ns.run("ip route add 10.65.0.3/32 dev tap0 proto 88 && ip route del 10.65.0.2/32");
  ASSERT_TRUE(eventually("the next route", [&] { return c2->has_route("10.65.0.3/32", c1->address()); }));
  ASSERT_TRUE(eventually("the end of the first", [&] { return !c2->has_route("10.65.0.2/32", c1->address()); }));

  // A lease-held status that ends says nothing to BGP.
  auto& report = c1->service->report();
  const auto status = model::status_key("", "c1");
  report.set(status, "{}", true);
  ASSERT_TRUE(eventually("the status", [&] { return store_->get(status).has_value(); }));
  c1->service->stop();  // nobody keeps the lease any more
  store_->revoke(store_->get(status)->lease);
  EXPECT_FALSE(store_->get(status));
  // A value nobody can read is no order to end a session either. (c2's view proves that the change has arrived.)
  const auto good = store_->get(model::node_key("c1"))->value;
  store_->put(model::node_key("c1"), "{{{");
  ASSERT_TRUE(
      eventually("the broken Node", [&] { return rr->speaker->describe().find("Node c1:") != std::string::npos; }));
  EXPECT_EQ(rr->sessions(), (Sessions{{"c1", kUp}, {"c2", kUp}}));
  EXPECT_TRUE(c2->has_route("10.65.0.3/32", c1->address()));
  store_->put(model::node_key("c1"), good);

  // Deleting the Node does.
  store_->del(model::node_key("c1"));
  ASSERT_TRUE(sessions(*rr, {{"c2", kUp}}));
  ASSERT_TRUE(eventually("the route to go", [&] { return !c2->has_route("10.65.0.3/32", c1->address()); }));
}

TEST_F(SpeakerTest, ADrainedNodeIsEverybodysLastChoiceAlsoAfterItsRestart) {
  auto rr = host("rr1", 1, false, true);
  auto c1 = host("c1", 11, true, false);
  c1->ns.run("ip tuntap add tap0 mode tap && ip link set tap0 up && ip route add 10.65.0.2/32 dev tap0 proto 88");
  rr->start();
  c1->start();
  ASSERT_TRUE(sessions(*rr, {{"c1", kUp}}));
  const auto last_choice = [&] { return rr->birdc("show route all").find("(65535,0)") != std::string::npos; };
  const auto seen = [&] { return rr->birdc("show route all").find("10.65.0.2/32") != std::string::npos; };
  ASSERT_TRUE(eventually("the route", seen));
  EXPECT_FALSE(last_choice());
  const auto key = model::node_key("c1");
  const auto as_it_was = store_->get(key)->value;
  auto node = boost::json::parse(as_it_was);
  node.at("metadata").as_object()["annotations"] = boost::json::object{{kDrainAnnotation, "yes"}};
  store_->put(key, boost::json::serialize(node));
  ASSERT_TRUE(eventually("the community", last_choice)) << rr->birdc("show route all");
  EXPECT_TRUE(boost::json::parse(c1->speaker->describe()).at("draining").as_bool());
  EXPECT_EQ(c1->status(), "1 of 1 sessions established; draining");
  EXPECT_EQ(rr->flaps().at("c1"), 0);

  c1->stop();
  c1->start();  // it writes its Node again, and keeps the order
  ASSERT_TRUE(eventually("the session", [&] { return c1->status() == "1 of 1 sessions established; draining"; }))
      << c1->status();
  ASSERT_TRUE(eventually("the community again", last_choice)) << rr->birdc("show route all");

  store_->put(key, as_it_was);
  ASSERT_TRUE(eventually("the end of it", [&] { return seen() && !last_choice(); })) << rr->birdc("show route all");
  EXPECT_EQ(c1->status(), "1 of 1 sessions established");

  // Whoever drains by birdc is not undone by another change of the Node.
  EXPECT_NE(c1->birdc("graceful shutdown on").find("raceful"), std::string::npos);
  ASSERT_TRUE(eventually("birdc's order", last_choice));
  store_->put(model::node_key("c3"), R"({"kind":"Node","metadata":{"name":"c3","labels":{}},"spec":{"bgp":
    {"ipv4Address":"192.0.2.13/24","asNumber":64512,"routeReflectorClusterID":"192.0.2.13"}}})");
  ASSERT_TRUE(eventually("the change", [&] { return c1->sessions().contains("c3"); }));
  EXPECT_TRUE(last_choice());
}

TEST_F(SpeakerTest, ReflectorsPeerWithEachOtherAndAComputeMayReflect) {
  auto a = host("a", 1, false, true);
  auto b = host("b", 2, true, true);
  auto c = host("c", 11, true, false);
  b->ns.run("ip tuntap add tap0 mode tap && ip link set tap0 up && ip route add 10.65.0.9/32 dev tap0 proto 88");
  for (auto* h : {a.get(), b.get(), c.get()}) h->start();
  ASSERT_TRUE(sessions(*a, {{"b", kUp}, {"c", kUp}}));
  ASSERT_TRUE(sessions(*b, {{"a", kUp}, {"c", kUp}}));
  ASSERT_TRUE(sessions(*c, {{"a", kUp}, {"b", kUp}}));
  const auto list = boost::json::parse(a->speaker->describe());
  for (const auto& s : list.at("sessions").as_array())
    EXPECT_EQ(s.at("client").as_bool(), s.at("name") == "c") << boost::json::serialize(s);
  ASSERT_TRUE(eventually("the route", [&] { return c->has_route("10.65.0.9/32", b->address()); }));
}

TEST_F(SpeakerTest, TheNodeSaysEveryGlobalAddressAndFollowsThem) {
  auto c = host("c", 11, true, false);
  c->ns.run("ip addr add 198.51.100.5/25 dev eth0 && ip tuntap add tap0 mode tap && ip addr add 10.65.0.1/24 dev tap0");
  c->start();
  const auto addresses = [&]() -> std::vector<std::string> {
    std::vector<std::string> out;
    const auto kv = store_->get(model::node_key("c"));
    if (!kv) return out;
    auto node = model::parse_node(kv->value);
    if (!node) return {node.error().what};
    for (const auto& a : node->all_addresses()) out.push_back(a.to_string());
    EXPECT_EQ(node->bgp_ipv4->to_string(), "192.0.2.11/24");
    EXPECT_EQ(node->as_number, Asn{64512});
    EXPECT_FALSE(node->is_reflector());
    return out;
  };
  using Text = std::vector<std::string>;
  ASSERT_TRUE(eventually("the Node", [&] {
    return addresses() == Text{"192.0.2.11", "198.51.100.5"};
  })) << testing::PrintToString(addresses());
  c->ns.run("ip addr add 203.0.113.9/32 dev lo && ip addr del 198.51.100.5/25 dev eth0");
  ASSERT_TRUE(eventually("the change", [&] {
    return addresses() == Text{"192.0.2.11", "203.0.113.9"};
  })) << testing::PrintToString(addresses());
  c->stop();
  EXPECT_EQ(addresses(), (Text{"192.0.2.11", "203.0.113.9"})) << "a stop is no end of the Node";
}

TEST_F(SpeakerTest, RolesShareItAndConfiguredPeersNeedNoDatastore) {
  auto a = host("a", 1, false, true);
  auto b = host("b", 2, true, false);
  kv_.stop();
  a->start({"bgp.peers_from_datastore=no", "bgp.peer.b.address=192.0.2.2", "bgp.peer.b.remote_as=64512",
            "bgp.peer.b.route_reflector_client=yes"});
  b->start({"bgp.peers_from_datastore=no", "bgp.peer.to-a.address=192.0.2.1", "bgp.peer.to-a.remote_as=64512"});
  ASSERT_TRUE(sessions(*a, {{"b", kUp}}));
  ASSERT_TRUE(sessions(*b, {{"to-a", kUp}}));
  ASSERT_TRUE(a->speaker->start());  // a second role
  a->speaker->stop();
  EXPECT_EQ(a->sessions(), (Sessions{{"b", kUp}}));
  auto s = a->ns.in([&] { return a->speaker->reconfigure(a->config({"bgp.peers_from_datastore=no"})); });
  ASSERT_TRUE(s) << s.error().what;
  ASSERT_TRUE(sessions(*a, {}));
}

TEST_F(SpeakerTest, TheSocketsOfBird1BelongToWhoIsThere) {
  test::TempDir dir;
  const auto set = "bgp.bird_dir=" + dir.path() + "/calico";
  const auto asked = [&](const std::string& socket) {
    std::string path = dir.path() + "/calico/" + socket, name = "birdc", s = "-s", show = "show status";
    std::vector<char*> argv{name.data(), s.data(), path.data(), show.data()};
    testing::internal::CaptureStdout();
    const int code = birdc_main(4, argv.data());
    std::fflush(stdout);
    const auto text = testing::internal::GetCapturedStdout();
    if (code != 0) return fmt::format("exit {}", code);
    return text.find("BIRD 1.6.8") == 0 ? text.substr(text.find("Router ID is "), 22) : text;
  };
  auto a = host("a", 1, true, false);
  auto b = host("b", 2, true, false);
  a->start({set});
  b->start({set});  // no fault: it is told and goes without
  EXPECT_EQ(asked("bird.ctl"), "Router ID is 192.0.2.1");
  EXPECT_EQ(asked("bird6.ctl"), "Router ID is 192.0.2.1");
  b->stop();
  EXPECT_EQ(asked("bird.ctl"), "Router ID is 192.0.2.1") << "not the other's to remove";
  a->stop();
  EXPECT_EQ(asked("bird.ctl"), "exit 3");
  a->start({"bgp.bird_dir=/proc/nowhere"});
  a->stop();
  a->start({set, "bgp.bird_sockets=no"});
  EXPECT_EQ(asked("bird.ctl"), "exit 3");
}

TEST_F(SpeakerTest, BgpPeersAndFiltersComeFromTheDatastoreAndAFilterCostsNoSession) {
  auto rr = host("rr1", 1, false, true);
  auto c1 = host("c1", 11, true, false);
  auto c2 = host("c2", 12, true, false);
  for (auto* h : {rr.get(), c1.get(), c2.get()}) h->start();
  ASSERT_TRUE(sessions(*rr, {{"c1", kUp}, {"c2", kUp}}));
  const auto key = [](std::string_view prefix, const char* name) { return std::string(prefix) + name; };
  const auto filter = [](const char* rules) { return fmt::format(R"({{"spec":{{"importV4":[{}]}}}})", rules); };
  const std::string reject = R"({"action":"Reject","cidr":"10.66.0.0/16","matchOperator":"In"})";
  store_->put(key(model::kBgpFilters, "f"), filter(reject.c_str()));
  store_->put(key(model::kBgpPeers, "to-c1"), R"({"spec":{"node":"rr1","peerIP":"192.0.2.11","asNumber":64512,
    "filters":["f"]}})");
  ASSERT_TRUE(sessions(*rr, {{"to-c1", kUp}, {"c2", kUp}}));
  ASSERT_TRUE(eventually("the filter", [&] { return rr->rules("to-c1", "import") == 1; })) << rr->speaker->describe();
  EXPECT_EQ(rr->rules("c2", "import"), -1);
  const auto before = rr->flaps();
  EXPECT_EQ(before.at("c2"), 0) << "somebody else's session was touched";

  // A changed filter: taken, and no session ends.
  store_->put(key(model::kBgpFilters, "f"), filter((reject + R"(,{"action":"Accept"})").c_str()));
  ASSERT_TRUE(eventually("the changed filter", [&] { return rr->rules("to-c1", "import") == 2; }));
  EXPECT_EQ(rr->flaps(), before);
  EXPECT_EQ(rr->sessions(), (Sessions{{"to-c1", kUp}, {"c2", kUp}}));

  // One that nobody can read is refused, and what was known stays.
  store_->put(key(model::kBgpFilters, "f"), filter(R"({"action":"Perhaps"})"));
  ASSERT_TRUE(eventually("the refusal", [&] {
    return rr->speaker->describe().find("BGPFilter f: spec.importV4[0].action") != std::string::npos;
  })) << rr->speaker->describe();
  EXPECT_EQ(rr->rules("to-c1", "import"), 2);
  EXPECT_EQ(rr->flaps(), before);

  // Gone, the peer that names it lets nothing pass; the session stays.
  store_->del(key(model::kBgpFilters, "f"));
  ASSERT_TRUE(eventually("the closed filter", [&] { return rr->rules("to-c1", "import") == 0; }));
  EXPECT_NE(rr->speaker->describe().find("BGPFilter f is not there"), std::string::npos);
  EXPECT_EQ(rr->flaps(), before);

  store_->del(key(model::kBgpPeers, "to-c1"));
  ASSERT_TRUE(sessions(*rr, {{"c1", kUp}, {"c2", kUp}}));
  EXPECT_EQ(rr->flaps().at("c2"), 0);
}

TEST_F(SpeakerTest, AMeshIsMadeWhenTheBgpConfigurationAsksForIt) {
  auto a = host("a", 1, true, false);
  auto b = host("b", 2, true, false);
  a->ns.run("ip tuntap add tap0 mode tap && ip link set tap0 up && ip route add 10.65.0.7/32 dev tap0 proto 88");
  a->start();
  b->start();
  ASSERT_TRUE(sessions(*a, {}));
  store_->put(std::string(model::kBgpConfigurations) + "default", R"({"spec":{"nodeToNodeMeshEnabled":true}})");
  ASSERT_TRUE(sessions(*a, {{"b", kUp}}));
  ASSERT_TRUE(sessions(*b, {{"a", kUp}}));
  ASSERT_TRUE(eventually("the route", [&] { return b->has_route("10.65.0.7/32", a->address()); }));
  store_->put(std::string(model::kBgpConfigurations) + "default", R"({"spec":{"nodeToNodeMeshEnabled":false}})");
  ASSERT_TRUE(sessions(*a, {}));
  ASSERT_TRUE(sessions(*b, {}));
}

TEST_F(SpeakerTest, AReloadTouchesOnlyTheSessionsItMust) {
  auto a = host("a", 1, false, true);
  auto b = host("b", 2, true, false);
  auto c = host("c", 3, true, false);
  const std::vector<std::string> common = {
      "bgp.peers_from_datastore=no",          "bgp.peer.b.address=192.0.2.2",
      "bgp.peer.b.remote_as=64512",           "bgp.peer.c.address=192.0.2.3",
      "bgp.peer.c.remote_as=64512",           "bgp.filter.f.rule.10=accept",
      "bgp.filter.g.rule.10=reject",          "bgp.peer.c.route_reflector_client=yes",
      "bgp.peer.b.route_reflector_client=yes"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), common.begin(), common.end());
    return more;
  };
  a->start(with({"bgp.peer.b.import_filter=f"}));
  for (auto* h : {b.get(), c.get()})
    h->start({"bgp.peers_from_datastore=no", "bgp.peer.a.address=192.0.2.1", "bgp.peer.a.remote_as=64512"});
  ASSERT_TRUE(sessions(*a, {{"b", kUp}, {"c", kUp}}));
  const auto before = a->flaps();
  const auto reload = [&](std::vector<std::string> sets) {
    return a->ns.in([&] { return a->speaker->reconfigure(a->config(with(std::move(sets)))); });
  };
  // Filters: of one peer, of another; the sessions do not notice.
  ASSERT_TRUE(reload({"bgp.peer.b.import_filter=f,g", "bgp.peer.c.export_filter=g"}));
  EXPECT_EQ(a->rules("b", "import"), 2);
  EXPECT_EQ(a->rules("c", "export"), 1);
  EXPECT_EQ(a->flaps(), before);
  EXPECT_EQ(a->sessions(), (Sessions{{"b", kUp}, {"c", kUp}}));
  // What a session was made with needs a new one: that of c, not that of b.
  ASSERT_TRUE(reload({"bgp.peer.b.import_filter=f,g", "bgp.peer.c.multihop=3"}));
  ASSERT_TRUE(eventually("c's session to be replaced", [&] { return a->flaps().at("c") == before.at("c") + 1; }));
  ASSERT_TRUE(sessions(*a, {{"b", kUp}, {"c", kUp}}));
  EXPECT_EQ(a->flaps().at("b"), before.at("b"));
  // A configuration with a fault is refused whole, and everything goes on.
  const auto refused = reload({"bgp.peer.b.import_filter=nosuch"});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("[bgp.filter.nosuch]"), std::string::npos) << refused.error().what;
  EXPECT_EQ(a->rules("b", "import"), 2);
  EXPECT_EQ(a->sessions(), (Sessions{{"b", kUp}, {"c", kUp}}));
}

TEST_F(SpeakerTest, WaitsForTheDatastoreAndSaysSo) {
  kv_.stop();
  auto a = host("a", 1, true, false);
  a->start();
  ASSERT_TRUE(eventually("the status", [&] { return a->status().find("waiting for the datastore") == 0; }));
}

TEST_F(SpeakerTest, AnAddressInUseIsAnErrorAndLeavesNothingRunning) {
  auto a = host("a", 1, true, false);
  a->start();
  a->ns.in([&] {
    auto config = a->config({});
    Speaker::Options o;
    o.node = "again";
    test::TempDir dir;
    o.state_dir = o.run_dir = dir.path();
    auto second = Speaker::create(config, o, a->service->view(), a->service->report(), {});
    ASSERT_TRUE(second) << second.error().what;
    auto s = (*second)->start();
    ASSERT_FALSE(s);
    EXPECT_NE(s.error().what.find("192.0.2.1"), std::string::npos) << s.error().what;
  });
}

}  // namespace
}  // namespace calico::bgp
