/// Attribute store, decision process, import and export of attributes.
#include "core/bgp/rib/rib.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/bgp/codec/communities.hpp"

namespace calico::bgp {
namespace {

Prefix pfx(std::string_view s) { return *Prefix::parse(s); }
Ip ip(std::string_view s) { return *Ip::parse(s); }
AsPath path(std::vector<std::uint32_t> ases) {
  std::vector<Asn> v;
  for (auto a : ases) v.push_back(Asn{a});
  return AsPath::sequence(v);
}

Attrs plain(std::string_view next_hop = "10.0.0.9") {
  Attrs a;
  a.next_hop = ip(next_hop);
  a.local_pref = 100;
  return a;
}

TEST(BgpAttrStore, EqualSetsShareAnIdWhichIsReusedOnlyWhenFree) {
  AttrStore store;
  const auto a = store.intern(plain());
  const auto b = store.intern(plain());
  EXPECT_EQ(a, b);
  EXPECT_EQ(store.size(), 1U);
  auto other = plain();
  other.med = 1;
  const auto c = store.intern(other);
  EXPECT_NE(a, c);
  EXPECT_EQ(store.decode(c), other);
  store.unref(a);
  EXPECT_EQ(store.size(), 2U);
  store.unref(b);
  EXPECT_EQ(store.size(), 1U);
  other.med = 2;
  EXPECT_EQ(store.intern(other), a);
  auto six = plain("fd00::1");
  const auto s = store.intern(six);
  EXPECT_EQ(store.decode(s), six) << "the IPv6 next hop is not in the block, but of the set";
}

class RibTest : public testing::Test {
 protected:
  RibTest()
      : rib_(attrs_, [this](const Ip& nh) -> Result<Resolution> {
          auto it = metric_.find(nh);
          if (it != metric_.end() && it->second < 0) return fail(Errc::not_found, "no route");
          return Resolution(ResolvedHop{nh, {}, it == metric_.end() ? 0U : static_cast<std::uint32_t>(it->second)});
        }) {}
  RibPeerId peer(std::uint32_t id, Source::Kind kind = Source::Kind::internal) {
    RibPeer p;
    p.kind = kind;
    p.router_id = id;
    p.address = Ip::v4(id);
    return rib_.add_peer(p);
  }
  void announce(RibPeerId p, const Attrs& a, std::string_view prefix = "10.65.0.1/32") {
    rib_.announce(p, pfx(prefix), attrs_.intern(a), 0);
    rib_.take_dirty(100, [&](PrefixId id) { rib_.set_best(id, rib_.select(id)); });
  }
  /// The peer that wins, kNone without a winner.
  RibPeerId winner(std::string_view prefix = "10.65.0.1/32") {
    const auto id = rib_.find(pfx(prefix));
    if (id == kNone) return kNone;
    const auto p = rib_.select(id);
    return p == kNone ? kNone : rib_.path(p).peer;
  }
  /// `better` beats `worse`, whoever comes first and whoever has the better last tie-breaks.
  void beats(const Attrs& better, const Attrs& worse, Source::Kind kind_better = Source::Kind::internal,
             Source::Kind kind_worse = Source::Kind::internal) {
    for (bool first : {false, true}) {
      const auto good = peer(200, kind_better), bad = peer(100, kind_worse);
      announce(first ? good : bad, first ? better : worse);
      announce(first ? bad : good, first ? worse : better);
      EXPECT_EQ(winner(), good);
      for (auto p : {good, bad}) {
        rib_.drop(p, Family::v4, false);
        rib_.remove_peer(p);
      }
    }
  }
  std::map<Ip, int> metric_;
  AttrStore attrs_;
  Rib rib_;
};

TEST_F(RibTest, DecisionStepByStep) {
  auto better = plain(), worse = plain();
  better.local_pref = 200;
  better.as_path = path({1, 2, 3});
  beats(better, worse);  // LOCAL_PREF before path length

  better = worse = plain();
  better.as_path = path({1, 2});
  better.origin = 2;
  worse.as_path = path({1, 2, 3});
  beats(better, worse);  // path length before ORIGIN

  better = worse = plain();
  better.origin = 0;
  better.med = 10;
  worse.origin = 1;
  beats(better, worse);  // ORIGIN before MED

  better = worse = plain();
  better.as_path = worse.as_path = path({7});
  better.med = 1;
  worse.med = 2;
  beats(better, worse);  // MED of the same neighbour
  better.med.reset();
  beats(better, worse);  // none is 0

  better = worse = plain();
  better.as_path = path({7});
  worse.as_path = path({8});
  better.med = 9;
  worse.med = 1;
  beats(better, worse, Source::Kind::external,
        Source::Kind::internal);  // MED of different neighbours says nothing; eBGP wins

  better = plain("10.0.0.1");
  worse = plain("10.0.0.2");
  metric_[ip("10.0.0.2")] = 10;
  beats(better, worse);  // cost to the next hop
  metric_.clear();

  better = worse = plain();
  better.originator_id = 50;
  better.cluster_list = {1, 2, 3};
  worse.cluster_list = {1};
  beats(better, worse);  // ORIGINATOR_ID stands for the identifier (100 < 200 otherwise), before the cluster list

  better = worse = plain();
  better.originator_id = worse.originator_id = 50;
  better.cluster_list = {1};
  worse.cluster_list = {1, 2};
  beats(better, worse);  // cluster list
}

TEST_F(RibTest, LastTieBreaksAndStale) {
  const auto a = peer(100), b = peer(200);
  announce(a, plain());
  announce(b, plain());
  EXPECT_EQ(winner(), a) << "lower identifier";
  rib_.mark_stale(a, Family::v4);
  EXPECT_EQ(winner(), b) << "a fresh copy of the same route";
  auto better = plain();
  better.local_pref = 200;
  announce(a, better);
  rib_.mark_stale(a, Family::v4);
  EXPECT_EQ(winner(), a) << "but staleness decides nothing before that";
  EXPECT_EQ(rib_.peer(a).stale[0], 1U);
  announce(a, better);
  EXPECT_EQ(rib_.peer(a).stale[0], 0U) << "announced again";
  EXPECT_EQ(rib_.drop(a, Family::v4, true), 0U);
}

TEST_F(RibTest, LongLivedStaleIsTheLastChoice) {
  const auto community = [](Attrs a, std::initializer_list<Community> list) {
    for (auto c : list) EXPECT_TRUE(add(a.communities, c));
    return a;
  };
  auto better = plain(), worse = plain();
  worse.local_pref = 1000;
  better.as_path = path({1, 2, 3});
  beats(better, community(worse, {well_known::kLlgrStale}));  // before LOCAL_PREF
  beats(worse, better);

  // Marking: what may not live on goes, the rest is marked once, nothing is left behind.
  const auto p = peer(100), q = peer(200);
  announce(p, plain(), "10.65.0.1/32");
  announce(p, plain(), "10.65.0.2/32");
  announce(p, community(plain(), {well_known::kNoLlgr}), "10.65.0.3/32");
  announce(p, community(plain(), {well_known::kLlgrStale}), "10.65.0.4/32");
  auto full = plain();
  full.communities.resize(65532);
  announce(p, full, "10.65.0.5/32");
  announce(q, better, "10.65.0.1/32");
  rib_.mark_stale(p, Family::v4);
  announce(p, plain(), "10.65.0.6/32");  // fresh
  EXPECT_EQ(rib_.make_long_lived(p, Family::v4), 2U);
  EXPECT_EQ(rib_.make_long_lived(p, Family::v4), 0U);
  EXPECT_EQ(winner("10.65.0.1/32"), q);
  EXPECT_EQ(winner("10.65.0.2/32"), p) << "better than nothing";
  EXPECT_EQ(winner("10.65.0.3/32"), kNone);
  EXPECT_EQ(winner("10.65.0.5/32"), kNone) << "no room for the mark";
  const auto attr_of = [&](std::string_view prefix) { return rib_.path(rib_.first_path(rib_.find(pfx(prefix)))).attr; };
  EXPECT_EQ(attr_of("10.65.0.2/32"), attr_of("10.65.0.4/32")) << "one set";
  EXPECT_TRUE(attrs_.at(attr_of("10.65.0.2/32")).llgr_stale);
  EXPECT_FALSE(attrs_.at(attr_of("10.65.0.6/32")).llgr_stale);
  EXPECT_EQ(rib_.peer(p).stale[0], 3U);
  for (auto id : {p, q}) rib_.drop(id, Family::v4, false);
  EXPECT_EQ(attrs_.size(), 0U) << "a reference is lost";
}

TEST_F(RibTest, MedDoesNotDependOnTheOrderOfArrival) {
  // The classic case: pairwise comparison would go round in circles.
  struct One {
    std::uint32_t id, as, med;
    int cost;
  };
  std::vector<One> routes{{1, 7, 10, 5}, {2, 7, 5, 20}, {3, 8, 1, 10}};
  std::sort(routes.begin(), routes.end(), [](auto& x, auto& y) { return x.id < y.id; });
  std::set<std::uint32_t> winners;
  do {
    std::map<RibPeerId, std::uint32_t> ids;
    for (const auto& r : routes) {
      auto a = plain("10.0.0." + std::to_string(r.id));
      metric_[a.next_hop] = r.cost;
      a.as_path = path({r.as});
      a.med = r.med;
      const auto p = peer(r.id);
      ids[p] = r.id;
      announce(p, a);
    }
    winners.insert(ids[winner()]);
    for (auto [p, id] : ids) {
      rib_.drop(p, Family::v4, false);
      rib_.remove_peer(p);
    }
  } while (std::next_permutation(routes.begin(), routes.end(), [](auto& x, auto& y) { return x.id < y.id; }));
  EXPECT_EQ(winners, std::set<std::uint32_t>{3}) << "1 goes by MED, then 3 is nearer than 2";
}

TEST_F(RibTest, UnreachableNextHopsAndTheirReturn) {
  const auto a = peer(100);
  metric_[ip("10.0.0.9")] = -1;
  announce(a, plain());
  EXPECT_EQ(winner(), kNone);
  metric_.clear();
  rib_.resolve_again(nullptr);
  EXPECT_TRUE(rib_.dirty());
  EXPECT_EQ(winner(), a);
  rib_.take_dirty(100, [](PrefixId) {});
  rib_.resolve_again(nullptr);
  EXPECT_FALSE(rib_.dirty()) << "nothing changed";
  const auto other = ip("10.0.0.8");
  metric_[ip("10.0.0.9")] = -1;
  rib_.resolve_again(&other);
  EXPECT_EQ(winner(), a) << "only the one named";
}

TEST_F(RibTest, LocalRoutesWin) {
  const auto a = peer(100);
  auto strong = plain();
  strong.local_pref = 1000;
  announce(a, strong);
  Attrs own;
  own.local_pref = 1;
  announce(kLocalPeer, own);
  EXPECT_EQ(winner(), kLocalPeer);
}

TEST_F(RibTest, AVmThatMovedInElsewhereBeatsTheLocalRoute) {
  const auto a = peer(100);
  Attrs own;
  own.local_pref = 2147482623;  // kernel metric 1024
  announce(kLocalPeer, own);
  auto moved = plain();
  moved.local_pref = 2147482623;
  announce(a, moved);
  EXPECT_EQ(winner(), kLocalPeer) << "no better than normal";
  moved.local_pref = 2147483135;  // 512
  announce(a, moved);
  EXPECT_EQ(winner(), a);
  own.local_pref = 2147483135;  // it moved back
  announce(kLocalPeer, own);
  EXPECT_EQ(winner(), kLocalPeer);
  own.local_pref = 100;
  announce(kLocalPeer, own);
  moved.local_pref = 4294967295;  // somebody's maximum is not Calico's rule
  announce(a, moved);
  EXPECT_EQ(winner(), kLocalPeer);
}

TEST_F(RibTest, LongestMatch) {
  const auto a = peer(100);
  for (auto p : {"0.0.0.0/0", "10.0.0.0/8", "10.65.0.0/16", "10.65.0.1/32"}) announce(a, plain(), p);
  const auto match = [&](std::string_view s) {
    const auto id = rib_.longest_match(ip(s));
    return id == kNone ? "" : rib_.prefix(id).to_string();
  };
  EXPECT_EQ(match("10.65.0.1"), "10.65.0.1/32");
  EXPECT_EQ(match("10.65.0.2"), "10.65.0.0/16");
  EXPECT_EQ(match("10.66.0.2"), "10.0.0.0/8");
  EXPECT_EQ(match("192.0.2.1"), "0.0.0.0/0");
  EXPECT_EQ(match("fd00::1"), "");
}

TEST_F(RibTest, RandomHistoryAgainstAModel) {
  // Whatever happens, the RIB holds what a plain map would, and frees everything at the end.
  std::mt19937 gen(7);
  std::vector<RibPeerId> peers{peer(1), peer(2), peer(3)};
  std::map<std::pair<RibPeerId, Prefix>, std::pair<std::uint32_t, bool>> model;  // -> med, stale
  for (int step = 0; step < 20000; ++step) {
    const auto p = peers[gen() % peers.size()];
    const auto prefix = Prefix{Ip::v4(0x0a410000 + gen() % 50), 32};
    switch (gen() % 16) {
      case 0:
        rib_.mark_stale(p, Family::v4);
        for (auto& [k, v] : model)
          if (k.first == p) v.second = true;
        break;
      case 1:
        rib_.drop(p, Family::v4, true);
        std::erase_if(model, [&](auto& e) { return e.first.first == p && e.second.second; });
        break;
      case 2:
        if (gen() % 10 != 0) break;
        rib_.drop(p, Family::v4, false);
        std::erase_if(model, [&](auto& e) { return e.first.first == p; });
        break;
      case 3:
      case 4:
      case 5:
      case 6:
        EXPECT_EQ(rib_.withdraw(p, prefix), model.erase({p, prefix}) > 0);
        break;
      default: {
        auto a = plain();
        a.med = gen() % 4;
        rib_.announce(p, prefix, attrs_.intern(a), 0);
        model[{p, prefix}] = {*a.med, false};
      }
    }
    if (gen() % 8 == 0) rib_.take_dirty(gen() % 30, [&](PrefixId id) { rib_.set_best(id, rib_.select(id)); });
  }
  while (rib_.take_dirty(100, [&](PrefixId id) { rib_.set_best(id, rib_.select(id)); })) {
  }
  std::size_t seen = 0, stale = 0;
  for (PrefixId id = 0; id < rib_.id_limit(); ++id)
    for (auto p = rib_.used(id) ? rib_.first_path(id) : kNone; p != kNone; p = rib_.path(p).next) {
      auto it = model.find({rib_.path(p).peer, rib_.prefix(id)});
      ASSERT_NE(it, model.end());
      EXPECT_EQ(attrs_.at(rib_.path(p).attr).med, it->second.first);
      EXPECT_EQ(rib_.path(p).stale, it->second.second);
      ++seen;
      stale += rib_.path(p).stale ? 1 : 0;
    }
  EXPECT_EQ(seen, model.size());
  EXPECT_EQ(rib_.counts().routes[0], model.size());
  EXPECT_EQ(stale, rib_.peer(peers[0]).stale[0] + rib_.peer(peers[1]).stale[0] + rib_.peer(peers[2]).stale[0]);
  for (auto p : peers) rib_.drop(p, Family::v4, false);
  while (rib_.take_dirty(100, [&](PrefixId id) { rib_.set_best(id, rib_.select(id)); })) {
  }
  EXPECT_EQ(attrs_.size(), 0U);
  EXPECT_EQ(rib_.counts().networks[0], 0U);
  EXPECT_LE(rib_.id_limit(), 50U) << "ids are dense and reused";
}

// --- policy ---------------------------------------------------------------------------------------------------------

const LocalSpeaker kUs{Asn{64512}, 1, 77};

TEST(BgpPolicy, ImportChecks) {
  const auto refused = [](Attrs a, bool internal = true) { return import_route(a, kUs, internal, ip("10.0.0.1")); };
  EXPECT_FALSE(refused(plain()));
  auto a = plain();
  a.as_path = path({65000, 64512});
  EXPECT_TRUE(refused(a));
  EXPECT_TRUE(refused(a, false));
  a = plain();
  a.originator_id = 1;
  EXPECT_TRUE(refused(a));
  a = plain();
  a.cluster_list = {5, 77};
  EXPECT_TRUE(refused(a));
  for (auto nh : {"0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1", "ff02::1"})
    EXPECT_TRUE(refused(plain(nh))) << nh;
  a = plain();
  a.local_pref.reset();
  EXPECT_FALSE(import_route(a, kUs, false, std::nullopt));
  EXPECT_EQ(a.local_pref, 100U);
}

TEST(BgpPolicy, ABlackholeStaysInTheAs) {
  const LocalSpeaker us{Asn{64512}, 1, 77};
  auto a = plain();
  ASSERT_TRUE(add(a.communities, well_known::kBlackhole));
  auto inside = a;
  EXPECT_FALSE(import_route(inside, us, true, std::nullopt));
  EXPECT_EQ(inside, a) << "within the AS it is what somebody of ours said";
  EXPECT_FALSE(import_route(a, us, false, std::nullopt));
  EXPECT_TRUE(contains(a.communities, well_known::kBlackhole));
  EXPECT_TRUE(contains(a.communities, well_known::kNoExport));
  const auto once = a.communities;
  EXPECT_FALSE(import_route(a, us, false, std::nullopt));
  EXPECT_EQ(a.communities, once);
  Attrs full = plain();
  full.communities = once;
  ASSERT_GT(remove(full.communities, well_known::kNoExport), 0U);
  full.communities.resize(65532);
  EXPECT_TRUE(import_route(full, us, false, std::nullopt)) << "no room: not used";
}

TEST(BgpPolicy, LongLivedStaleOnlyToThoseThatAsked) {
  const Source from{Source::Kind::internal, true, 9};
  Target t;
  EXPECT_TRUE(may_export(from, t, false, false));
  EXPECT_FALSE(may_export(from, t, false, false, true));
  t.long_lived = true;
  EXPECT_TRUE(may_export(from, t, false, false, true));
}

TEST(BgpPolicy, ReflectionRules) {
  const Source local{Source::Kind::local, false, 0}, client{Source::Kind::internal, true, 9},
      non_client{Source::Kind::internal, false, 9}, external{Source::Kind::external, false, 9};
  Target to_client, to_non_client, to_external;
  to_client.client = true;
  to_external.internal = false;
  for (const auto& t : {to_client, to_non_client, to_external}) {
    EXPECT_TRUE(may_export(local, t, false, false));
    EXPECT_TRUE(may_export(client, t, false, false));
    EXPECT_TRUE(may_export(external, t, false, false));
    EXPECT_FALSE(may_export(client, t, false, true)) << "NO_ADVERTISE";
  }
  EXPECT_TRUE(may_export(non_client, to_client, false, false));
  EXPECT_FALSE(may_export(non_client, to_non_client, false, false));
  EXPECT_TRUE(may_export(non_client, to_external, false, false));
  EXPECT_FALSE(may_export(client, to_external, true, false)) << "NO_EXPORT";
  EXPECT_TRUE(may_export(client, to_client, true, false));
}

TEST(BgpPolicy, WhatIsSent) {
  const Source local{Source::Kind::local, false, 0}, client{Source::Kind::internal, true, 9},
      external{Source::Kind::external, false, 9};
  Target in, out;
  in.self_v4 = out.self_v4 = ip("10.0.0.1");
  out.internal = false;

  auto a = plain();
  auto r = export_route(a, Family::v4, client, in, kUs);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->originator_id, 9U);
  EXPECT_EQ(r->cluster_list, std::vector<std::uint32_t>{77});
  EXPECT_EQ(r->next_hop, ip("10.0.0.9"));
  a.originator_id = 5;
  a.cluster_list = {8};
  r = export_route(a, Family::v4, client, in, kUs);
  EXPECT_EQ(r->originator_id, 5U) << "kept";
  EXPECT_EQ(r->cluster_list, (std::vector<std::uint32_t>{77, 8})) << "in front";

  a.med = 3;
  r = export_route(a, Family::v4, client, out, kUs);
  EXPECT_EQ(r->as_path.to_string(), "64512");
  EXPECT_FALSE(r->local_pref || r->originator_id || r->med);
  EXPECT_TRUE(r->cluster_list.empty());
  EXPECT_EQ(r->next_hop, ip("10.0.0.9")) << "keep";
  out.next_hop = NextHopMode::self;
  EXPECT_EQ(export_route(a, Family::v4, client, out, kUs)->next_hop, ip("10.0.0.1"));

  r = export_route(plain(), Family::v4, external, in, kUs);
  EXPECT_FALSE(r->originator_id) << "not reflected";

  Attrs own;
  own.local_pref = 100;
  own.med = 4;
  EXPECT_EQ(export_route(own, Family::v4, local, in, kUs)->next_hop, ip("10.0.0.1"));
  EXPECT_EQ(export_route(own, Family::v4, local, out, kUs)->med, 4U) << "our own MED is for the neighbour";
  EXPECT_FALSE(export_route(own, Family::v6, local, in, kUs)) << "no IPv6 address of our own";
  in.self_v6 = ip("fd00::1");
  EXPECT_EQ(export_route(own, Family::v6, local, in, kUs)->next_hop, ip("fd00::1"));
  EXPECT_FALSE(export_route(plain(), Family::v6, client, in, kUs)) << "an IPv4 next hop does not serve IPv6";
}

}  // namespace
}  // namespace calico::bgp
