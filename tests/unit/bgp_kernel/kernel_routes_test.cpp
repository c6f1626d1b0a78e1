// The table of BGP's routes, and the model of nexthop objects against a kernel of our own making.
#include "core/bgp/kernel_routes.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "core/bgp/kernel_nexthops.hpp"

namespace calico::bgp {
namespace {

using netlink::NextHop;
using netlink::NexthopObject;

Prefix host(std::uint32_t i) { return Prefix::host(Ip::v4(0x0a000000 + i)); }

NextHop hop(std::uint32_t gateway, std::uint32_t dev) {
  return {.via = Ip::v4(0xc0a80000 + gateway), .dev = IfIndex{dev}};
}

TEST(Ways, AreInternedAndForgotten) {
  Ways ways;
  const auto a = ways.of_hops({hop(1, 2)});
  EXPECT_EQ(ways.of_hops({hop(1, 2)}), a);
  EXPECT_NE(ways.of_hops({hop(1, 3)}), a);
  const auto o = ways.of_object(7);
  ways.ref(a);
  ways.ref(o);
  ways.ref(o);
  EXPECT_TRUE(ways.collect().empty());
  EXPECT_EQ(ways.of_hops({hop(1, 2)}), a) << "referred to";
  EXPECT_EQ(ways.over(IfIndex{2}), std::vector{a});
  ways.unref(o);
  EXPECT_EQ(ways.collect(), std::vector{7U}) << "one reference left: its owner's";
  ways.unref(o);
  ways.unref(a);
  EXPECT_EQ(ways.collect(), std::vector{7U});
  EXPECT_EQ(ways.find_object(7), kNoWay);
  EXPECT_TRUE(ways.over(IfIndex{2}).empty());
}

TEST(RouteTable, PendingFollowsBothSides) {
  Ways ways;
  RouteTable t(ways, 2048);
  const auto x = ways.of_object(1), y = ways.of_object(2);
  t.set_actual(host(1), 2048, x);
  t.set_actual(host(2), 2048, x);
  EXPECT_EQ(t.count(Pending::left_over), 2U);
  t.set_desired(host(1), 2048, x);
  EXPECT_EQ(t.in_sync(), 1U) << "what is right is not written";
  t.erase_desired(host(2), 2048);
  EXPECT_EQ(t.count(Pending::deletion), 1U);
  t.set_desired(host(1), 2048, y);
  EXPECT_EQ(t.first(Pending::update), t.find(host(1), 2048));
  t.written(t.first(Pending::update));
  t.removed(t.first(Pending::deletion));
  EXPECT_EQ(t.in_sync(), 1U);
  EXPECT_EQ(t.size(), 1U);
  t.erase_actual_of({y}, [](const Prefix& p, std::uint32_t) { EXPECT_EQ(p, host(1)); });
  EXPECT_EQ(t.count(Pending::update), 1U);
  t.park(t.first(Pending::update));
  EXPECT_EQ(t.count(Pending::update), 0U);
  t.unpark(host(1));
  EXPECT_EQ(t.count(Pending::update), 1U);
}

TEST(RouteTable, AnotherMetricComesBeforeTheOldOneGoes) {
  Ways ways;
  RouteTable t(ways, 2048);
  const auto x = ways.of_object(1);
  t.set_desired(host(1), 2048, x);
  t.written(t.find(host(1), 2048));
  EXPECT_EQ(t.others(host(1)), nullptr);
  t.set_desired(host(1), 512, x);
  t.erase_desired(host(1), 2048);
  EXPECT_EQ(*t.others(host(1)), std::vector{512U});
  EXPECT_TRUE(t.replacement_due(t.find(host(1), 2048)));
  t.written(t.find(host(1), 512));
  EXPECT_FALSE(t.replacement_due(t.find(host(1), 2048)));
  t.removed(t.find(host(1), 2048));
  t.erase_desired(host(1), 512);
  t.removed(t.find(host(1), 512));
  EXPECT_EQ(t.size(), 0U);
  EXPECT_EQ(t.others(host(1)), nullptr);
}

TEST(RouteTable, AReadInSlicesFindsWhatIsGone) {
  Ways ways;
  RouteTable t(ways, 2048);
  const auto x = ways.of_object(1), y = ways.of_object(2);
  for (std::uint32_t i = 0; i < 5000; ++i) {
    t.set_desired(host(i), 2048, x);
    t.written(t.find(host(i), 2048));
  }
  t.begin_read();
  for (std::uint32_t i = 0; i < 5000; i += 2) t.seen(host(i), 2048, i % 4 ? x : y);
  RouteTable::Id at = 0;
  while (t.sweep_unseen(at, 100, [](const Prefix& p, std::uint32_t) { return p == host(1); })) {
  }
  EXPECT_EQ(t.in_sync(), 1250U + 1U) << "shown as wanted, and the one that changed meanwhile";
  EXPECT_EQ(t.count(Pending::update), 5000U - 1251U);
}

/// Random changes agree with two plain maps.
TEST(RouteTable, RandomChangesAgreeWithPlainMaps) {
  std::mt19937 rng(7);
  auto pick = [&](unsigned n) { return static_cast<std::uint32_t>(rng() % n); };
  Ways ways;
  RouteTable t(ways, 2048);
  using Key = std::pair<Prefix, std::uint32_t>;
  std::map<Key, std::uint32_t> desired, actual;
  std::set<Key> withdrawn;
  for (int step = 0; step < 60000; ++step) {
    const Key k{host(pick(600)), pick(5) ? 2048U : 500U + pick(3)};
    const auto object = 1 + pick(4);
    const auto id = t.find(k.first, k.second);
    switch (pick(7)) {
      case 0:
      case 1:
        t.set_desired(k.first, k.second, ways.of_object(object));
        desired[k] = object;
        withdrawn.erase(k);
        break;
      case 2:
        t.erase_desired(k.first, k.second);
        desired.erase(k);
        if (actual.contains(k)) withdrawn.insert(k);
        break;
      case 3:
        t.set_actual(k.first, k.second, ways.of_object(object));
        actual[k] = object;
        break;
      case 4:
        t.erase_actual(k.first, k.second);
        actual.erase(k);
        withdrawn.erase(k);
        break;
      case 5:
        if (id == RouteTable::kNone) break;
        if (t.pending(id) == Pending::update) {
          t.written(id);
          actual[k] = desired.at(k);
        } else if (t.pending(id) == Pending::deletion) {
          t.removed(id);
          actual.erase(k);
          withdrawn.erase(k);
        }
        break;
      default:
        if (pick(200) == 0) {
          t.erase_actual_of({ways.find_object(object)}, [](const Prefix&, std::uint32_t) {});
          std::erase_if(actual, [&](const auto& e) {
            if (e.second == object) withdrawn.erase(e.first);
            return e.second == object;
          });
        }
        (void)ways.collect();
    }
    if (step % 97 != 0) continue;
    std::set<Key> keys;
    for (auto& [key, v] : desired) keys.insert(key);
    for (auto& [key, v] : actual) keys.insert(key);
    ASSERT_EQ(t.size(), keys.size()) << step;
    std::map<Pending, std::size_t> counts;
    std::size_t in_sync = 0;
    for (const auto& key : keys) {
      const auto entry = t.find(key.first, key.second);
      ASSERT_NE(entry, RouteTable::kNone) << step;
      const auto& e = t.at(entry);
      const bool d = desired.contains(key), a = actual.contains(key);
      ASSERT_EQ(e.desired != kNoWay ? ways.at(e.desired).object : 0U, d ? desired[key] : 0U) << step;
      ASSERT_EQ(e.actual != kNoWay ? ways.at(e.actual).object : 0U, a ? actual[key] : 0U) << step;
      const auto want = d && a && desired[key] == actual[key] ? Pending::none
                        : d                                   ? Pending::update
                        : withdrawn.contains(key)             ? Pending::deletion
                                                              : Pending::left_over;
      ASSERT_EQ(t.pending(entry), want) << step;
      ++counts[want];
      in_sync += want == Pending::none;
    }
    ASSERT_EQ(t.in_sync(), in_sync);
    for (const auto list : {Pending::update, Pending::deletion, Pending::left_over}) {
      std::size_t n = 0;
      for (auto at = t.first(list); at != RouteTable::kNone; at = t.next(at)) ++n;
      ASSERT_EQ(n, counts[list]) << step;
      ASSERT_EQ(t.count(list), n) << step;
    }
  }
}

/// The kernel's manners, as far as our objects go: what it refuses, and what it drops in silence.
struct FakeKernel {
  std::map<std::uint32_t, NexthopObject> objects;
  std::map<std::uint32_t, std::uint32_t> routes;  // destination -> object
  std::map<std::uint32_t, bool> carrier;

  void remove(std::uint32_t id) {
    objects.erase(id);
    std::erase_if(routes, [&](auto& r) { return r.second == id; });
    std::vector<std::uint32_t> empty;
    for (auto& [group, o] : objects) {
      const bool was = !o.group.empty();
      std::erase_if(o.group, [&](auto& m) { return m.id == id; });
      if (was && o.group.empty()) empty.push_back(group);
    }
    for (const auto group : empty) remove(group);
  }
  void device_lost(std::uint32_t dev) {
    carrier[dev] = false;
    std::vector<std::uint32_t> ids;
    for (auto& [id, o] : objects)
      if (o.group.empty() && o.hop.dev.value == dev) ids.push_back(id);
    for (const auto id : ids) remove(id);
  }
  void write(const NextHopObjects::Write& w) {
    const auto have = objects.find(w.object.id);
    ASSERT_EQ(have != objects.end(), w.replace) << w.object.id;
    if (w.replace) {
      ASSERT_EQ(have->second.group.empty(), w.object.group.empty()) << "a plain object never becomes a group";
      ASSERT_EQ(have->second.protocol, 89) << "a stranger's";
    }
    if (w.object.group.empty()) {
      ASSERT_TRUE(carrier[w.object.hop.dev.value]);
    }
    for (const auto& m : w.object.group) {
      ASSERT_TRUE(objects.contains(m.id));
      ASSERT_TRUE(objects.at(m.id).group.empty());
    }
    objects[w.object.id] = w.object;
  }
};

/// Random wishes, devices that come and go, strangers; after each step the model knows what the kernel has, and when
/// all is calm the kernel has what is wanted and nothing else.
TEST(NextHopObjects, RandomStepsAgreeWithAKernel) {
  std::mt19937 rng(13);
  auto pick = [&](unsigned n) { return static_cast<std::uint32_t>(rng() % n); };
  FakeKernel kernel;
  for (std::uint32_t dev = 1; dev <= 3; ++dev) kernel.carrier[dev] = true;
  kernel.objects[7] = {.id = 7, .protocol = 4, .hop = hop(1, 9), .group = {}};
  for (int life = 0; life < 6; ++life) {
    Ways ways;
    NextHopObjects objects(ways, 89);
    RouteTable table(ways, 2048);
    std::vector<std::uint32_t> gone;
    std::vector<NexthopObject> dump;
    for (auto& [id, o] : kernel.objects) dump.push_back(o);
    objects.load(dump, {}, gone);
    for (auto& [dst, id] : kernel.routes) table.set_actual(host(dst), 2048, ways.of_object(id));
    std::map<std::uint32_t, std::uint32_t> want;               // destination -> BGP next hop
    std::map<std::uint32_t, std::vector<NextHop>> resolution;  // BGP next hop -> ways
    auto usable = [&](IfIndex dev) { return kernel.carrier[dev.value]; };
    auto random_hops = [&] {
      std::set<std::pair<std::uint32_t, std::uint32_t>> some;
      for (auto n = 1 + pick(3); n > 0; --n) some.insert({1 + pick(3), pick(4)});
      std::vector<NextHop> out;
      for (auto& [dev, gateway] : some) out.push_back(hop(gateway, dev));
      return out;
    };
    auto desire = [&](std::uint32_t dst) {
      const auto b = want.at(dst);
      const auto ref = objects.want({Ip::v4(b)}, resolution.at(b));
      table.set_desired(host(dst), 2048, objects.way(ref));
    };
    auto lost = [&] {
      std::vector<WayId> ways_lost;
      for (const auto id : gone)
        if (const auto way = ways.find_object(id); way != kNoWay) ways_lost.push_back(way);
      table.erase_actual_of(ways_lost, [](const Prefix&, std::uint32_t) {});
      gone.clear();
    };
    auto write = [&](bool sweep) {
      for (const bool groups : {false, true}) {
        const auto due = objects.due(groups, 1000, usable);
        for (auto& [from, to] : objects.take_rehomed()) table.move_desired(from, to);
        for (const auto& w : due) {
          ASSERT_NO_FATAL_FAILURE(kernel.write(w));
          objects.written(w);
        }
      }
      table.unpark_all();
      for (auto id = table.first(Pending::update); id != RouteTable::kNone;) {
        const auto at = id;
        id = table.next(id);
        const auto object = ways.at(table.at(at).desired).object;
        ASSERT_EQ(objects.present_id(object), kernel.objects.contains(object));
        if (!objects.present_id(object)) {
          table.park(at);
          continue;
        }
        kernel.routes[table.at(at).prefix.addr.to_v4() - 0x0a000000U] = object;
        table.written(at);
      }
      for (const auto list : {Pending::deletion, Pending::left_over})
        while (table.first(list) != RouteTable::kNone && (list == Pending::deletion || sweep)) {
          const auto id = table.first(list);
          kernel.routes.erase(table.at(id).prefix.addr.to_v4() - 0x0a000000U);
          table.removed(id);
        }
      objects.idle(ways.collect());
      if (!sweep) return;
      for (std::vector<std::uint32_t> ids; !(ids = objects.removable(10)).empty();)
        for (const auto id : ids) {
          for (auto& [dst, object] : kernel.routes) ASSERT_NE(object, id) << "a route would go with it";
          kernel.remove(id);
          objects.erase_actual(id, gone);
          objects.idle(ways.collect());
          lost();
        }
    };
    for (int step = 0; step < 3000; ++step) {
      const auto dst = pick(40), b = 1 + pick(8);
      switch (pick(10)) {
        case 0:
        case 1:
        case 2:
        case 3:
          if (!resolution.contains(b)) resolution[b] = random_hops();
          want[dst] = b;
          desire(dst);
          break;
        case 4:
          if (want.erase(dst)) table.erase_desired(host(dst), 2048);
          break;
        case 5:
          resolution[b] = random_hops();
          objects.moved(Ip::v4(b), [&](const std::vector<Ip>& names) { return resolution.at(names.at(0).to_v4()); });
          for (auto& [d, hops] : want)
            if (hops == b) desire(d);
          break;
        case 6: {
          const auto dev = 1 + pick(3);
          if (kernel.carrier[dev]) {
            kernel.device_lost(dev);
            objects.drop_device(IfIndex{dev}, gone);
            lost();
          } else {
            kernel.carrier[dev] = true;
            objects.touch(IfIndex{dev});
          }
          break;
        }
        case 7:
          // A stranger removes an object, or takes its id.
          if (pick(8) == 0 && kernel.objects.size() > 1) {
            auto it = kernel.objects.begin();
            std::advance(it, pick(static_cast<unsigned>(kernel.objects.size())));
            const auto id = it->first;
            if (id == 7) break;
            if (pick(2) || !it->second.group.empty() || it->second.protocol != 89) {
              kernel.remove(id);
              objects.erase_actual(id, gone);
              lost();
            } else {
              it->second.protocol = 4;
              objects.set_actual(it->second);
            }
          }
          break;
        default:
          ASSERT_NO_FATAL_FAILURE(write(step > 500));
      }
      std::size_t known = 0;
      for (auto& [id, o] : kernel.objects) {
        const auto* have = objects.actual(id);
        ASSERT_NE(have, nullptr) << step << " " << id;
        ASSERT_EQ(*have, o) << step << " " << netlink::to_string(o) << " known as " << netlink::to_string(*have);
        ++known;
      }
      ASSERT_EQ(known, kernel.objects.size());
      for (std::uint32_t d = 0; d < 40; ++d) {
        const auto id = table.find(host(d), 2048);
        const auto way = id == RouteTable::kNone ? kNoWay : table.at(id).actual;
        const auto it = kernel.routes.find(d);
        ASSERT_EQ(way == kNoWay ? 0 : ways.at(way).object, it == kernel.routes.end() ? 0 : it->second) << step;
      }
    }
    // Calm: every device is there, all is written.
    for (auto& [dev, up] : kernel.carrier) {
      up = true;
      objects.touch(IfIndex{dev});
    }
    for (int i = 0; i < 3; ++i) ASSERT_NO_FATAL_FAILURE(write(true));
    ASSERT_EQ(kernel.routes.size(), want.size());
    std::set<std::uint32_t> needed{7};
    for (auto& [dst, b] : want) {
      const auto id = kernel.routes.at(dst);
      auto hops = objects.hops_of(id);
      auto wanted = resolution.at(b);
      auto less = [](const NextHop& x, const NextHop& y) { return std::tie(x.dev, x.via) < std::tie(y.dev, y.via); };
      std::sort(hops.begin(), hops.end(), less);
      std::sort(wanted.begin(), wanted.end(), less);
      ASSERT_EQ(hops, wanted) << dst;
      needed.insert(id);
      for (auto& m : kernel.objects.at(id).group) needed.insert(m.id);
    }
    for (auto& [id, o] : kernel.objects)
      if (o.protocol == 89) {
        ASSERT_TRUE(needed.contains(id)) << "nobody needs " << netlink::to_string(o);
      }
    ASSERT_TRUE(kernel.objects.contains(7));
  }
}

TEST(NextHopObjects, ANewLifeFindsTheSameIds) {
  std::vector<NexthopObject> there;
  for (int life = 0; life < 2; ++life) {
    Ways ways;
    NextHopObjects objects(ways, 89);
    std::vector<std::uint32_t> gone;
    objects.load(there, {}, gone);
    std::vector<std::uint32_t> order(200);
    for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = life ? 199 - i : i;
    for (const auto i : order)
      objects.want({Ip::v4(0xc0a80000 + i)}, i % 3 ? std::vector{hop(i % 7, 2)} : std::vector{hop(1, 2), hop(i, 3)});
    std::size_t writes = 0;
    for (const bool groups : {false, true})
      for (auto& w : objects.due(groups, 1000, [](IfIndex) { return true; })) {
        objects.written(w);
        there.push_back(w.object);
        ++writes;
      }
    EXPECT_EQ(writes == 0, life == 1) << writes;
  }
}

}  // namespace
}  // namespace calico::bgp
