#include "modules/controller/outbox.hpp"

#include <gtest/gtest.h>

#include "core/model/keys.hpp"
#include "modules/controller/persist.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::controller {
namespace {

const std::string kEndpoint = std::string(model::kWorkloadEndpoints) + "openstack/e";
const std::string kOther = std::string(model::kWorkloadEndpoints) + "openstack/f";
const std::string kPolicy = std::string(model::kNetworkPolicies) + "openstack/p";
const std::string kNew = std::string(model::kNetworkPolicies) + "openstack/new";

Outbox::Item put(const std::string& key, std::int64_t write, std::size_t bytes = 1) {
  Outbox::Item item;
  item.intent.key = key;
  item.intent.desired = json::object{{"x", std::string(bytes, 'x')}};
  item.write = write;
  return item;
}
Outbox::Item removal(const std::string& key, std::int64_t write) {
  Outbox::Item item;
  item.intent.key = key;
  item.write = write;
  return item;
}
std::vector<Outbox::Sent> order(const std::vector<Outbox::Item>& items) {
  std::vector<Outbox::Sent> out;
  for (const auto& i : items) out.emplace_back(i.intent.key, i.write);
  return out;
}

/// Memory and table, in one order.
TEST(Outbox, WhatAnEndpointNamesComesBeforeItAndWhatItNamedGoesAfterIt) {
  test::TempDir dir;
  auto db = store::Db::open({.path = dir.file("state.db")});
  ASSERT_TRUE(db) << db.error().what;
  ASSERT_TRUE((*db)->migrate(kNeutronSchema));
  Outbox outbox;
  const auto write = [&](std::vector<Outbox::Item> items) {
    ASSERT_TRUE(Outbox::write(**db, items));
    outbox.add(std::move(items));
  };
  write({put(kPolicy, 1), put(kEndpoint, 1)});
  write({put(kOther, 2)});
  // The endpoint names a new group, then the old one goes.
  write({put(kNew, 3), put(kEndpoint, 3)});
  write({removal(kPolicy, 4)});
  write({put(kNew, 5)});
  const std::vector<Outbox::Sent> want = {{kOther, 2}, {kNew, 5}, {kEndpoint, 3}, {kPolicy, 4}};
  EXPECT_EQ(order(outbox.first(10)), want);
  const auto stored = Outbox::load(**db);
  ASSERT_TRUE(stored);
  EXPECT_EQ(order(*stored), want);

  // What was replaced meanwhile is not forgotten.
  outbox.done({{kNew, 3}, {kOther, 2}});
  ASSERT_TRUE(Outbox::forget(**db, {{kNew, 3}, {kOther, 2}}));
  const std::vector<Outbox::Sent> left = {{kNew, 5}, {kEndpoint, 3}, {kPolicy, 4}};
  EXPECT_EQ(order(outbox.first(10)), left);
  EXPECT_EQ(order(*Outbox::load(**db)), left);
  EXPECT_EQ(outbox.size(), 3U);
}

TEST(Outbox, BatchesAreBoundedInBytes) {
  Outbox outbox;
  for (int i = 0; i < 10; ++i) outbox.add({put(kPolicy + std::to_string(i), 1, 200 * 1024)});
  EXPECT_EQ(outbox.first(100).size(), 2U);
  Outbox large;
  large.add({put(kPolicy, 1, 3 * Outbox::kBytes), put(kNew, 1)});
  EXPECT_EQ(large.first(100).size(), 1U) << "one at least";
}

}  // namespace
}  // namespace calico::controller
