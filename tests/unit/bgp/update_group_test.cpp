/// The update group against a model: whatever happens, in the end each member holds exactly what a speaker that
/// computes everything for each peer alone would have sent it.
#include "core/bgp/rib/update_group.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace calico::bgp {
namespace {

const LocalSpeaker kUs{Asn{64512}, 1, 77};

/// A peer as the group sees it: takes bytes while it likes, decodes and remembers them.
class FakePeer : public UpdateGroup::Outlet {
 public:
  bool ready() const override { return room > 0; }
  void put(std::shared_ptr<const Bytes> segment, std::size_t begin, std::size_t end) override {
    ASSERT_LT(begin, end);
    pieces.emplace_back(segment);
    if (!first_piece) first_piece = segment;
    room -= std::min(room, end - begin);
    for (auto bytes = View(*segment).subspan(begin, end - begin); !bytes.empty();) {
      auto header = decode_header(bytes.first(kHeaderSize));
      ASSERT_TRUE(header) << header.error().what;
      Update u;
      CodecContext context;
      context.ibgp = internal;
      context.add_path_rx[0] = context.add_path_rx[1] = add_path;
      auto ok = decode_update(bytes.subspan(kHeaderSize, header->length - kHeaderSize), context, u);
      ASSERT_TRUE(ok) << ok.error().what;
      ASSERT_FALSE(u.treat_as_withdraw) << u.reason;
      for (const auto& w : u.withdrawn) spurious += table.erase(w) == 0 ? 1 : 0;
      for (const auto* list : {&u.announced, &u.announced_mp})
        for (const auto& n : *list) {
          auto a = u.attrs;
          if (list == &u.announced_mp) a.next_hop = u.mp_next_hop;
          EXPECT_NE(a.originator_id, router_id) << "its own route comes back";
          auto [it, added] = table.try_emplace(n, a);
          repeated += !added && it->second == a ? 1 : 0;
          it->second = a;
        }
      bytes = bytes.subspan(header->length);
    }
  }
  void dump_began(Family) override { ++begins; }
  void dump_ended(Family) override { ++ends; }
  void give_up() override { given_up = true; }

  std::size_t room = SIZE_MAX;
  std::vector<std::weak_ptr<const Bytes>> pieces;  // all that was ever put
  std::shared_ptr<const Bytes> first_piece;        // as a connection holds what it cannot write
  std::map<Nlri, Attrs> table;
  std::size_t spurious = 0, repeated = 0, begins = 0, ends = 0;
  std::optional<std::uint32_t> router_id;
  bool add_path = false, internal = true, given_up = false;
};

class UpdateGroupTest : public testing::Test {
 protected:
  struct One {
    RibPeerId id = kNone;
    std::unique_ptr<FakePeer> peer;
    UpdateGroup* group = nullptr;
    UpdateGroup::Member* member = nullptr;
    bool disturbed = false;  // was slow, asked for a refresh, or changed groups
  };

  UpdateGroupTest() : rib_(attrs_, [](const Ip& nh) -> Result<ResolvedHop> { return ResolvedHop{nh, {}, 0}; }) {
    client_.client = true;
    client_.self_v4 = *Ip::parse("10.0.0.1");
    client_.self_v6 = *Ip::parse("fd00::1");
  }
  ~UpdateGroupTest() override { groups_.clear(); }

  UpdateGroup& group(const Target& t) {
    for (auto& g : groups_)
      if (g->target() == t) return *g;
    groups_.push_back(std::make_unique<UpdateGroup>(rib_, attrs_, kUs, t, limits_));
    groups_.back()->begin();
    return *groups_.back();
  }
  One& add(std::uint32_t router_id) {
    auto& o = peers_.emplace_back();
    RibPeer rp;
    rp.client = true;
    rp.router_id = router_id;
    rp.address = Ip::v4(router_id);
    o.id = rib_.add_peer(rp);
    o.peer = std::make_unique<FakePeer>();
    o.peer->router_id = router_id;
    return o;
  }
  void join(One& o, const Target& t) {
    o.peer->table.clear();
    o.peer->add_path = t.add_path[0];
    o.peer->internal = t.internal;
    o.group = &group(t);
    o.member = o.group->join(o.id, *o.peer->router_id);
  }
  void leave(One& o) {
    if (o.member == nullptr) return;
    o.group->leave(std::exchange(o.member, nullptr));
    o.peer->table.clear();
  }
  void announce(RibPeerId p, const Prefix& prefix, std::uint32_t med, std::uint32_t path_id = 0,
                std::optional<std::uint32_t> originator = std::nullopt) {
    Attrs a;
    a.next_hop = prefix.family() == Family::v4 ? Ip::v4(0x0a000000 + p) : *Ip::parse("fd00::9");
    a.local_pref = 100;
    a.med = med;
    a.originator_id = originator;
    rib_.announce(p, prefix, attrs_.intern(a), 0, path_id);
  }
  bool turn(std::size_t decide = SIZE_MAX, std::size_t produce = 1000) {
    bool more = rib_.take_dirty(decide, [&](PrefixId id) {
      rib_.set_best(id, rib_.select(id));
      for (auto& g : groups_) g->queue(id);
    });
    for (auto& g : groups_) g->produce(produce);
    for (auto& o : peers_)
      if (o.member != nullptr) {
        o.group->hand_out(*o.member, *o.peer);
        more |= o.peer->ready() && o.group->behind(*o.member);
      }
    for (auto& g : groups_) more |= g->has_work();
    return more;
  }
  void settle() {
    for (auto& o : peers_) o.peer->room = SIZE_MAX;
    for (int n = 0; turn(); ++n) ASSERT_LT(n, 10000) << "never quiet";
  }
  /// What the member must hold now.
  std::map<Nlri, Attrs> expected(const One& o) const {
    std::map<Nlri, Attrs> out;
    const auto& t = o.group->target();
    for (PrefixId id = 0; id < rib_.id_limit(); ++id) {
      if (!rib_.used(id)) continue;
      for (auto p = rib_.first_path(id); p != kNone; p = rib_.path(p).next) {
        const auto f = fam(rib_.family(id));
        if (!t.families[f] || (!t.add_path[f] && p != rib_.best(id))) continue;
        const auto& path = rib_.path(p);
        const auto& rp = rib_.peer(path.peer);
        const Source source{rp.kind, rp.client, rp.router_id};
        if (path.peer == o.id || !may_export(source, t, false, false)) continue;
        auto a = export_route(attrs_.decode(path.attr), rib_.family(id), source, t, kUs);
        if (!a || a->originator_id == o.peer->router_id) continue;
        out[{rib_.prefix(id), t.add_path[f] ? UpdateGroup::path_identifier(rp, path.path_id) : 0}] = *a;
      }
    }
    return out;
  }
  void check() {
    for (auto& o : peers_) {
      if (o.member == nullptr) continue;
      const auto want = expected(o);
      EXPECT_EQ(o.peer->table.size(), want.size()) << "peer " << o.id;
      EXPECT_TRUE(o.peer->table == want) << "peer " << o.id;
      EXPECT_TRUE(o.group->in_sync(*o.member)) << "peer " << o.id;
      std::uint32_t count[2];
      o.group->count_for(*o.member, count);
      EXPECT_EQ(count[0] + count[1], want.size());
      EXPECT_EQ(o.peer->begins == o.peer->ends || o.disturbed, true);
      if (!o.disturbed) {
        EXPECT_EQ(o.peer->repeated, 0U);
      }
    }
  }

  AttrStore attrs_;
  Rib rib_;
  UpdateGroup::Limits limits_;
  Target client_;
  std::vector<std::unique_ptr<UpdateGroup>> groups_;
  std::vector<One> peers_;
};

Prefix host(std::uint32_t n) { return Prefix::host(Ip::v4(0x0a410000 + n)); }

TEST_F(UpdateGroupTest, OneEncodingForAllAndNothingBackToTheSource) {
  peers_.reserve(3);
  for (std::uint32_t i = 2; i < 5; ++i) join(add(i), client_);
  for (std::uint32_t n = 0; n < 100; ++n) announce(peers_[0].id, host(n), 1);
  settle();
  check();
  EXPECT_EQ(peers_[0].peer->table.size(), 0U);
  EXPECT_EQ(peers_[1].peer->table.size(), 100U);
  EXPECT_EQ(peers_[1].member->messages, 1U) << "packed";
  EXPECT_EQ(groups_[0]->journal_bytes(), 0U) << "nobody needs it any more";
  // The best path moves to another member: that one has to forget it, the former source has to learn it.
  announce(peers_[1].id, host(0), 0);
  settle();
  check();
  EXPECT_EQ(peers_[1].peer->spurious, 0U);
}

TEST_F(UpdateGroupTest, JoinersShareADumpWhileChangesGoOn) {
  limits_.dump_window = 10;
  peers_.reserve(6);
  auto& source = add(2);
  join(source, client_);
  for (std::uint32_t n = 0; n < 200; ++n) announce(source.id, host(n), n);
  settle();
  for (std::uint32_t i = 3; i < 7; ++i) join(add(i), client_);
  std::mt19937 gen(3);
  for (int n = 0; n < 15; ++n) {
    turn();
    for (int k = 0; k < 5; ++k) {
      if (gen() % 2 == 0)
        announce(source.id, host(gen() % 200), 1000 + gen() % 9);
      else
        rib_.withdraw(source.id, host(gen() % 200));
    }
  }
  settle();
  check();
  for (auto i : {1, 2, 3, 4}) {
    EXPECT_EQ(peers_[i].peer->begins, 2U);
    EXPECT_EQ(peers_[i].peer->ends, 2U);
    EXPECT_EQ(peers_[i].peer->repeated, 0U);
  }
}

TEST_F(UpdateGroupTest, ASlowMemberCostsNoJournalAndGetsOnlyTheLastState) {
  limits_ = {2000, 4000, 500, 100};
  peers_.reserve(3);
  for (std::uint32_t i = 2; i < 5; ++i) join(add(i), client_);
  peers_[2].peer->room = 0;
  peers_[2].disturbed = true;
  for (std::uint32_t round = 0; round < 50; ++round) {
    for (std::uint32_t n = 0; n < 100; ++n) announce(peers_[0].id, host(n), round * 1000 + n);
    while (turn()) {
    }
    EXPECT_LT(groups_[0]->journal_bytes(), 10000U) << "round " << round;
  }
  EXPECT_GT(groups_[0]->backlog(*peers_[2].member).prefixes, 0U);
  EXPECT_TRUE(peers_[2].peer->table.empty());
  settle();
  check();
  EXPECT_EQ(peers_[2].member->announced, 100U) << "what was superseded is never sent";
}

TEST_F(UpdateGroupTest, APieceAPeerDoesNotWriteKeepsNothingThatFollows) {
  peers_.reserve(3);
  for (std::uint32_t i = 2; i < 5; ++i) join(add(i), client_);
  for (std::uint32_t round = 0; round < 20; ++round) {
    announce(peers_[0].id, host(1), round);
    settle();
  }
  const auto& pieces = peers_[1].peer->pieces;
  ASSERT_GE(pieces.size(), 20U);
  EXPECT_FALSE(pieces.front().expired()) << "it is held, or this shows nothing";
  std::size_t alive = 0;
  for (const auto& p : pieces) alive += p.expired() ? 0 : 1;
  EXPECT_LE(alive, 2U) << "the one held, and the end of the journal";
}

TEST_F(UpdateGroupTest, RefreshSendsAllAgain) {
  peers_.reserve(2);
  join(add(2), client_);
  join(add(3), client_);
  for (std::uint32_t n = 0; n < 30; ++n) announce(peers_[0].id, host(n), 1);
  settle();
  peers_[1].disturbed = true;
  groups_[0]->refresh(*peers_[1].member, Family::v4);
  settle();
  check();
  EXPECT_EQ(peers_[1].peer->repeated, 30U);
  EXPECT_EQ(peers_[1].peer->begins, 1U);
  EXPECT_EQ(peers_[1].peer->ends, 1U);
  EXPECT_EQ(peers_[0].peer->repeated, 0U) << "nobody else hears it";
  groups_[0]->resend_all();
  settle();
  EXPECT_EQ(peers_[1].peer->repeated, 60U);
  check();
}

TEST_F(UpdateGroupTest, AnOriginatorDoesNotGetItsRouteFromAnotherReflector) {
  peers_.reserve(3);
  for (std::uint32_t i = 2; i < 5; ++i) join(add(i), client_);
  announce(peers_[0].id, host(1), 1, 0, 4U);  // 4 = the third peer
  settle();
  check();
  EXPECT_EQ(peers_[1].peer->table.size(), 1U);
  EXPECT_EQ(peers_[2].peer->table.size(), 0U);
  announce(peers_[0].id, host(1), 1, 0, 9U);
  settle();
  check();
  EXPECT_EQ(peers_[2].peer->table.size(), 1U);
}

TEST_F(UpdateGroupTest, ARouteThatFitsNoMessageIsNotExported) {
  peers_.reserve(2);
  join(add(2), client_);
  join(add(3), client_);
  announce(peers_[0].id, host(1), 1);
  settle();
  Attrs big;
  big.next_hop = Ip::v4(0x0a000009);
  big.local_pref = 100;
  big.communities.resize(4060);
  rib_.announce(peers_[0].id, host(1), attrs_.intern(big), 0);
  settle();
  EXPECT_TRUE(peers_[1].peer->table.empty());
  announce(peers_[0].id, host(1), 2);
  settle();
  check();
}

/// A peer that kept paths over our restart (FRR 8.4 drops one stale path a prefix at End-of-RIB) replaces them.
TEST_F(UpdateGroupTest, IdentifiersOfPathsAreTheSameInEveryLife) {
  peers_.reserve(4);
  auto several = client_;
  several.add_path[0] = several.add_path[1] = true;
  for (std::uint32_t i = 2; i < 5; ++i) add(i);
  auto& to = add(9);
  join(to, several);
  const auto life = [&](std::vector<int> order) {
    for (int n : order)
      for (std::uint32_t path_id : {0U, 7U, 8U})
        announce(peers_[static_cast<std::size_t>(n)].id, host(1), static_cast<std::uint32_t>(n) * 10 + path_id,
                 path_id);
    settle();
    check();
    std::map<std::uint32_t, std::uint32_t> out;  // identifier by MED, which tells the paths apart
    for (const auto& [nlri, attrs] : to.peer->table)
      if (nlri.prefix == host(1)) out[*attrs.med] = nlri.path_id;
    EXPECT_EQ(out.size(), 9U);
    for (int n : order)
      for (std::uint32_t path_id : {0U, 7U, 8U})
        rib_.withdraw(peers_[static_cast<std::size_t>(n)].id, host(1), path_id);
    settle();
    return out;
  };
  const auto first = life({0, 1, 2});
  announce(peers_[1].id, host(2), 1);  // what was free is taken
  EXPECT_EQ(life({2, 0, 1}), first);
  EXPECT_EQ(to.peer->table.size(), 1U);
}

TEST_F(UpdateGroupTest, PathsThatMeetInAnIdentifierStayApart) {
  peers_.reserve(3);
  auto several = client_;
  several.add_path[0] = several.add_path[1] = true;
  auto &a = add(2), &b = add(3), &to = add(9);
  for (auto* o : {&a, &b, &to}) join(*o, several);
  // What b has to say so that all of its paths meet one of a's; the third would be 0.
  const auto base = [&](const One& o) { return UpdateGroup::path_identifier(rib_.peer(o.id), 0); };
  const auto of_b = base(a) - base(b), zero = 0 - base(a);
  for (std::uint32_t n = 0; n < 100; ++n) {
    announce(a.id, host(1), n, n);
    announce(b.id, host(1), 1000 + n, of_b + n);
  }
  announce(a.id, host(1), 2000, zero);
  const auto meds = [](const One& o) {
    std::set<std::uint32_t> out;
    for (const auto& [nlri, attrs] : o.peer->table) {
      EXPECT_NE(nlri.path_id, 0U);
      out.insert(*attrs.med);
    }
    return out;
  };
  settle();
  EXPECT_EQ(to.peer->table.size(), 201U);
  EXPECT_EQ(meds(to).size(), 201U);
  EXPECT_EQ(a.peer->table.size(), 100U);
  EXPECT_EQ(b.peer->table.size(), 101U);
  // Half of either goes: only that.
  for (std::uint32_t n = 0; n < 100; n += 2) {
    rib_.withdraw(a.id, host(1), n);
    rib_.withdraw(b.id, host(1), of_b + n + 1);
  }
  settle();
  std::set<std::uint32_t> left_a, left_b;
  for (std::uint32_t n = 0; n < 100; n += 2) {
    left_a.insert(n + 1);
    left_b.insert(1000 + n);
  }
  left_a.insert(2000);
  EXPECT_EQ(meds(b), left_a);
  EXPECT_EQ(meds(a), left_b);
  left_a.merge(left_b);
  EXPECT_EQ(meds(to), left_a);
}

class UpdateGroupHistory : public UpdateGroupTest, public testing::WithParamInterface<int> {};

TEST_P(UpdateGroupHistory, EveryMemberEndsWithWhatTheModelSays) {
  std::mt19937 gen(static_cast<unsigned>(GetParam()));
  limits_ = {1000, 3000, 300, 16};
  const bool add_path = GetParam() % 4 == 3;
  auto plain = client_, other = client_, border = client_;
  plain.add_path[0] = plain.add_path[1] = add_path;
  other.client = false;
  border.internal = border.client = false;
  border.next_hop = NextHopMode::self;
  const std::vector<Target> targets{plain, plain, plain, other, border};
  peers_.reserve(8);
  for (std::uint32_t i = 0; i < 8; ++i) {
    auto& o = add(100 + i);
    if (i % 3 != 2) join(o, targets[gen() % targets.size()]);
  }
  const auto random_prefix = [&] {
    return gen() % 4 != 0 ? host(gen() % 120) : Prefix::host(*Ip::parse("fd00::" + std::to_string(gen() % 40)));
  };
  for (int step = 0; step < 6000; ++step) {
    auto& o = peers_[gen() % peers_.size()];
    switch (gen() % 32) {
      case 0:
        leave(o);
        break;
      case 1:
        if (o.member == nullptr) {
          o.peer->begins = o.peer->ends = 0;
          join(o, targets[gen() % targets.size()]);
          o.disturbed = true;
        }
        break;
      case 2:
        o.peer->room = 0;
        o.disturbed = true;
        break;
      case 3:
      case 4:
        o.peer->room = gen() % 3 == 0 ? SIZE_MAX : gen() % 2000;
        o.disturbed = true;
        break;
      case 5:
        if (o.member != nullptr) {
          o.group->refresh(*o.member, gen() % 2 == 0 ? Family::v4 : Family::v6);
          o.disturbed = true;
        }
        break;
      case 6:
        rib_.drop(o.id, Family::v4, false);
        break;
      case 7:
        rib_.peer(o.id).client = !rib_.peer(o.id).client;
        rib_.touch(o.id);
        break;
      case 8:
        if (o.member != nullptr && !add_path) {
          auto& to = group(targets[gen() % targets.size()]);
          if (&to == o.group) break;
          auto* const m = to.join_from(*o.group, *o.member);
          o.group->leave(o.member);
          o.group = &to;
          o.member = m;
          o.peer->internal = to.target().internal;
          o.disturbed = true;
        }
        break;
      case 9:
      case 10:
      case 11:
      case 12:
      case 13:
        rib_.withdraw(o.id, random_prefix(), add_path ? gen() % 3 : 0);
        break;
      case 14:
      case 15:
      case 16:
        turn(gen() % 60, 1 + gen() % 60);
        break;
      default:
        announce(o.id, random_prefix(), gen() % 3, add_path ? gen() % 3 : 0,
                 gen() % 6 == 0 ? std::optional(100U + static_cast<std::uint32_t>(gen() % 10)) : std::nullopt);
    }
    for (auto& p : peers_)
      if (p.peer->given_up) {
        // Off and on again, as a session would.
        p.peer->given_up = false;
        const auto t = p.group->target();
        leave(p);
        p.peer->room = SIZE_MAX;
        join(p, t);
      }
    if (step % 1500 == 1499) {
      settle();
      check();
    }
  }
  settle();
  check();
  for (auto& o : peers_) leave(o);
  groups_.clear();
  for (auto& o : peers_)
    for (auto f : {Family::v4, Family::v6}) rib_.drop(o.id, f, false);
  turn();
  EXPECT_EQ(attrs_.size(), 0U) << "a reference is lost";
  std::size_t used = 0;
  for (PrefixId id = 0; id < rib_.id_limit(); ++id) used += rib_.used(id) ? 1 : 0;
  EXPECT_EQ(used, 0U) << "a pin is lost";
}

INSTANTIATE_TEST_SUITE_P(Seeds, UpdateGroupHistory, testing::Range(1, 41));

}  // namespace
}  // namespace calico::bgp
