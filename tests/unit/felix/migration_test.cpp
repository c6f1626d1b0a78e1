#include "modules/felix/migration.hpp"

#include <gtest/gtest.h>

namespace calico::felix {
namespace {

using State = Migrations::State;
using namespace std::chrono_literals;

const model::WorkloadEndpointName kName{"here", "openstack", "vm", "port"};
const std::string kKey = model::workload_endpoint_key("openstack", kName);

std::string move_key(const std::string& to) {
  return model::live_migration_key("openstack", {to, "openstack", "vm", "port"});
}
std::string move(const std::string& from, const std::string& to) {
  return fmt::format(
      R"({{"spec":{{"source":{{"workloadEndpoint":{{"hostname":"{}","workloadID":"openstack/vm","endpointID":"port"}}}},
           "target":{{"workloadEndpoint":{{"hostname":"{}","workloadID":"openstack/vm","endpointID":"port"}}}}}}}})",
      from, to);
}

struct Host {
  Migrations m{"here"};
  TimePoint now{};
  void add() { m.add(kKey, "openstack", kName, now); }
  void comes() { ASSERT_TRUE(m.update(move_key("here"), move("there", "here"), now)); }
  void over(const std::string& to = "here") { ASSERT_TRUE(m.update(move_key(to), std::nullopt, now)); }
  void goes() { ASSERT_TRUE(m.update(move_key("there"), move("here", "there"), now)); }
  State state() const { return m.state(kKey); }
};

TEST(Migrations, TheUsualWay) {
  Host h;
  h.comes();
  h.add();
  EXPECT_EQ(h.state(), State::target);
  EXPECT_EQ(h.m.mode(kKey), RouteMode::withheld);
  EXPECT_EQ(h.m.expected(), std::set<std::string>{kKey});
  EXPECT_EQ(h.m.take_changed(), std::set<std::string>{kKey});
  h.m.heard(kKey);
  EXPECT_EQ(h.m.mode(kKey), RouteMode::elevated);
  EXPECT_TRUE(h.m.expected().empty());
  h.m.heard(kKey);
  h.over();
  EXPECT_EQ(h.state(), State::waiting);
  EXPECT_EQ(h.m.next(), h.now + 30s);
  h.m.expire(h.now + 29s);
  EXPECT_EQ(h.m.mode(kKey), RouteMode::elevated);
  h.m.expire(h.now + 30s);
  EXPECT_EQ(h.m.mode(kKey), RouteMode::normal);
  EXPECT_FALSE(h.m.next());
}

TEST(Migrations, TheEndpointBeforeTheMigration) {
  Host h;
  h.add();
  EXPECT_EQ(h.m.mode(kKey), RouteMode::normal);
  EXPECT_TRUE(h.m.take_changed().empty());
  h.comes();
  EXPECT_EQ(h.m.mode(kKey), RouteMode::withheld);
}

TEST(Migrations, NeverHeard) {
  Host h;
  h.comes();
  h.add();
  h.over();
  EXPECT_EQ(h.m.mode(kKey), RouteMode::elevated) << "it is over: the VM is here";
}

TEST(Migrations, Failed) {
  Host h;
  h.comes();
  h.add();
  h.m.take_changed();
  h.m.remove(kKey);
  h.over();
  EXPECT_EQ(h.state(), State::base);
  EXPECT_TRUE(h.m.expected().empty());
  h.add();
  EXPECT_EQ(h.m.mode(kKey), RouteMode::normal) << "a new endpoint has no past";
}

TEST(Migrations, BackAtOnce) {
  Host h;
  h.comes();
  h.add();
  h.m.heard(kKey);
  h.over();
  h.goes();
  EXPECT_EQ(h.m.mode(kKey), RouteMode::normal) << "the source's is the weaker one";
  EXPECT_FALSE(h.m.next());
  // And here again, before the other host's waiting is over.
  h.over("there");
  EXPECT_EQ(h.state(), State::base);
  h.comes();
  EXPECT_EQ(h.state(), State::target);
}

TEST(Migrations, TargetBeatsSource) {
  Host h;
  h.add();
  h.goes();
  h.comes();
  EXPECT_EQ(h.state(), State::target);
  h.over();
  EXPECT_EQ(h.state(), State::base) << "the other one is left";
}

TEST(Migrations, AnotherTryWhileWaiting) {
  Host h;
  h.comes();
  h.add();
  h.m.heard(kKey);
  h.over();
  h.comes();
  EXPECT_EQ(h.state(), State::live) << "its routes are not taken away again";
}

TEST(Migrations, OthersAreNotOurs) {
  Host h;
  h.add();
  ASSERT_TRUE(h.m.update(move_key("c"), move("b", "c"), h.now));
  EXPECT_EQ(h.state(), State::base);
  EXPECT_TRUE(h.m.update(model::live_migration_key("other-ns", {"here", "openstack", "vm", "port"}),
                         move("there", "here"), h.now));
  EXPECT_EQ(h.state(), State::base);
  EXPECT_FALSE(h.m.update(move_key("here"), "{", h.now));
  h.comes();
  EXPECT_EQ(h.state(), State::target);
  EXPECT_FALSE(h.m.update(move_key("here"), R"({"spec":{}})", h.now));
  EXPECT_EQ(h.state(), State::waiting) << "what cannot be read is gone";
}

}  // namespace
}  // namespace calico::felix
