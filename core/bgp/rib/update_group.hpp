#pragma once
/// Peers that are sent the same bytes. What changed is encoded once into a journal of immutable segments; each member
/// has a place in it and hands what follows to its connection. The cost of a change is one encoding a group and, for
/// each member, the kernel's copy.
///
///   journal:  ─[seg]─[seg]─[begin]─[dump…]─[seg]─[dump…]─[end]─[seg]─> tail
///                 ^ slow member                                  ^ the others
///
/// A segment is cut into runs. A run says who must not get it (the peer the routes came from, the peer that originated
/// them: RFC 4456 8), or who alone gets it. So "not back to the originator" is skipping a run.
///
/// Who joins late gets a dump: all that the group was sent, made in windows of the prefix ids and put into the same
/// journal for joiners only. Those that wait when a dump begins share it. Changes that happen meanwhile reach a joiner
/// if its dump has passed the prefix, else the dump will bring them: nobody sees an older state after a newer one.
///
/// A member that falls behind by Limits::max_lag is taken off the journal and becomes a set of prefix ids it has to be
/// told of; when its connection takes more, it is sent their state of that moment, and at the end it is back on the
/// journal. So a slow peer costs a bit a prefix, and the journal is never much longer than that. As long as not even
/// the fastest member takes more, nothing is encoded: changes wait as ids, and what is superseded there was never sent.
///
/// A group whose peers take several paths of a prefix (add-path) remembers them all, each under the id of the path.
///
/// Thread: loop. Owns: the journal, references into the attribute store and pins on prefixes for all that was sent.
/// Borrows RIB and attribute store. Errors: none; a route that fits no message counts as not exported.
/// RFC: 4271 9.2, 4456 8, 4724 2 (when End-of-RIB may follow), 7313 (begin and end of a refresh), 7911 (all usable
/// paths are sent). Deviation: a slow member of a group with add-path is not caught up but given up (its session
/// restarts), because which path ids it holds is known to the journal only.
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/bgp/codec/update.hpp"
#include "core/bgp/rib/blocks.hpp"
#include "core/bgp/rib/policy.hpp"
#include "core/bgp/rib/rib.hpp"

namespace calico::bgp {

struct Run {
  enum class For : std::uint8_t { everyone, joiners, members, dump_begin, dump_end };
  std::uint32_t begin = 0, end = 0;  // bytes of Segment::bytes
  RibPeerId skip = kNone;            // the source
  RibPeerId only = kNone;
  std::uint32_t skip_router = 0;  // the originator's identifier; 0 = nobody
  For audience = For::everyone;
  std::uint8_t family = 0;
  std::uint32_t announced = 0, withdrawn = 0, messages = 0;
};

struct Segment {
  ~Segment();
  /// Connections hold this, never the segment: its `next` would keep all that follows for a peer that does not read.
  std::shared_ptr<Bytes> bytes = std::make_shared<Bytes>();
  std::vector<Run> runs;
  std::uint64_t end_offset = 0;  // of the journal, in bytes
  std::shared_ptr<Segment> next;
};

class UpdateGroup {
 public:
  struct Limits {
    std::size_t window = 1024 * 1024;       ///< bytes encoded ahead of the fastest member
    std::size_t max_lag = 4 * 1024 * 1024;  ///< bytes behind the newest, from where on a member is off the journal
    std::size_t segment = 256 * 1024;       ///< bytes of one segment, about
    std::size_t dump_window = 16384;        ///< prefix ids of a dump looked at a turn
  };

  /// Where a member's bytes go: its connection.
  class Outlet {
   public:
    virtual ~Outlet() = default;
    /// There is room for more.
    virtual bool ready() const = 0;
    virtual void put(std::shared_ptr<const Bytes> bytes, std::size_t begin, std::size_t end) = 0;
    /// A dump the member asked for begins or has ended here.
    virtual void dump_began(Family family) = 0;
    virtual void dump_ended(Family family) = 0;
    /// It has fallen behind for good; called again until it left.
    virtual void give_up() = 0;
  };

  struct Lag {
    std::vector<bool> pending;  // by prefix id, pinned
    std::size_t count = 0;
    PrefixId at = 0;
    bool ends_dump[2] = {false, false};
  };

  /// One peer's place.
  struct Member {
    RibPeerId peer = kNone;
    std::uint32_t router_id = 0;
    std::shared_ptr<Segment> at;  // handed out up to its end; null: waits for a dump
    bool wants_dump[2] = {false, false}, dumping[2] = {false, false};
    bool promised = false;  // a dump that began lies ahead in the journal
    std::unique_ptr<Lag> lag;
    // What was handed out.
    std::uint64_t announced = 0, withdrawn = 0, messages = 0;
    std::uint64_t announced_v6 = 0, withdrawn_v6 = 0;  // of these, IPv6

    /// The run was put into its connection.
    void given(const Run& run) {
      announced += run.announced;
      withdrawn += run.withdrawn;
      if (run.family == fam(Family::v6)) {
        announced_v6 += run.announced;
        withdrawn_v6 += run.withdrawn;
      }
      messages += run.messages;
    }
  };

  UpdateGroup(Rib& rib, AttrStore& attrs, const LocalSpeaker& speaker, Target target, Limits limits);
  ~UpdateGroup();
  UpdateGroup(const UpdateGroup&) = delete;
  UpdateGroup& operator=(const UpdateGroup&) = delete;

  const Target& target() const { return target_; }
  /// All prefixes have to be looked at; called once, before the first member joins.
  void begin();
  Member* join(RibPeerId peer, std::uint32_t router_id);
  /// A peer whose treatment changed under a living session comes from another group (and leaves it afterwards): it is
  /// told the state here of all it was or may have been sent there.
  Member* join_from(UpdateGroup& former, const Member& was);
  void leave(Member* member);
  bool empty() const { return members_.empty(); }
  /// The member gets everything of the family again.
  void refresh(Member& member, Family family);

  /// The prefix was decided again.
  void queue(PrefixId id);
  /// Everything is sent again to everybody (the group's common treatment changed).
  void resend_all();
  /// Encodes at most about `budget` prefixes.
  void produce(std::size_t budget);
  /// There is more to encode, and somebody would take it. To be asked after the members were handed what there is.
  bool has_work() const;
  /// Gives the member's connection what it takes now.
  void hand_out(Member& member, Outlet& outlet);
  /// There is more for the member than was handed out.
  bool behind(const Member& member) const;
  /// Everything this member is to have was handed out (End-of-RIB may follow).
  bool in_sync(const Member& member) const;

  /// This member has been sent the prefix, or will be.
  bool sends(const Member& member, PrefixId id) const;
  /// Routes this member has been sent or will be.
  void count_for(const Member& member, std::uint32_t out[2]) const;
  /// What waits for this member: bytes of the journal, and prefixes if it is off the journal.
  struct Backlog {
    std::uint64_t bytes = 0;
    std::size_t prefixes = 0;
  };
  Backlog backlog(const Member& member) const;
  std::size_t journal_bytes() const;
  /// Under which identifier a path goes on that came from this peer with identifier `received` (RFC 7911), unless
  /// another path of the prefix has it. The same in every life of the speaker, so that what a peer kept is replaced.
  static std::uint32_t path_identifier(const RibPeer& from, std::uint32_t received);

 private:
  struct Sent {
    AttrId attr = kNoAttr;  // after the filter
    std::uint32_t source : 27 = 0;
    std::uint32_t own : 1 = 0;      // the source is the originator, too
    std::uint32_t variant : 3 = 0;  // ExportVariant
    std::uint32_t resend : 1 = 0;
    bool same(const Sent& o) const { return attr == o.attr && source == o.source && variant == o.variant; }
  };
  struct SentPath {
    std::uint32_t path_id = 0;
    Sent sent;
  };
  struct Item {
    PrefixId id = kNone;
    std::uint32_t path_id = 0;
    AttrId attr = kNoAttr;  // kNoAttr: withdrawn
    RibPeerId source = kNone;
    std::uint8_t variant = 0;
    RibPeerId skip = kNone, only = kNone;
    std::uint32_t skip_router = 0;
    std::uint8_t family = 0;
    Run::For audience = Run::For::everyone;
  };
  /// How far the members are.
  struct Pace {
    std::uint64_t fastest = 0, fastest_joiner = 0;  // bytes behind
    bool waiting = false;                           // somebody's dump has not begun
    bool joining = false;                           // somebody reads the dump that is being made
    bool settled = false;                           // what was sent is what is wanted
  };
  Pace pace() const;
  Sent wanted(PrefixId id, PathId path);
  bool filter(PrefixId id, const Source& source, Sent& sent);
  bool multi(std::size_t family) const { return target_.add_path[family]; }
  bool sendable(const Sent& sent, Family family);
  std::uint32_t skip_router(AttrId attr) const;
  bool excludes(const Sent& sent, const Member& m) const;
  void update(PrefixId id, std::vector<Item>& items);
  void update_paths(PrefixId id, std::vector<Item>& items);
  Item announcement(PrefixId id, std::uint32_t path_id, const Sent& sent) const;
  void forget_where_new(const Item& announced, const Sent& now, const Sent& old, std::vector<Item>& items);
  /// f(path id, sent) for all that everybody but the excluded has been sent of a prefix.
  template <class F>
  void each_sent(PrefixId id, F&& f) const {
    if (id < sent_.size() && sent_[id].attr != kNoAttr) f(0U, sent_[id]);
    if (paths_.empty()) return;
    if (auto it = paths_.find(id); it != paths_.end())
      for (const auto& p : it->second) f(p.path_id, p.sent);
  }
  EncodeContext encoding(std::size_t family) const;
  bool same_bytes(Family family, const Sent& a, const Sent& b);
  bool encode_set(const Sent& sent, Family family, Bytes& out, Ip& next_hop);
  void emit(std::vector<Item>& items, Segment& segment);
  void produce_some(std::size_t& budget);
  void count(std::size_t family, const Sent& sent, int change);
  void append(std::shared_ptr<Segment> segment);
  void append_mark(Run::For what);
  void dump_window();
  void begin_dump();
  bool hears(const Member& m, const Run& run) const;
  void detach(Member& m, Outlet& outlet);
  void mark_unread(const Member& m, Lag& lag);
  void mark_sent(Lag& lag, std::optional<Family> family);
  void mark(Lag& lag, PrefixId id);
  void catch_up(Member& m, Outlet& outlet);
  void release(Lag& lag);
  std::uint64_t lag_of(const Member& m) const { return tail_->end_offset - m.at->end_offset; }

  Rib& rib_;
  AttrStore& attrs_;
  const LocalSpeaker& speaker_;
  Target target_;
  Limits limits_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<Member*> lagging_;
  Blocks<Sent> sent_;                                          // one path a prefix
  std::unordered_map<PrefixId, std::vector<SentPath>> paths_;  // families with add-path
  // Routes sent to everybody but the excluded; and of these those kept from a source, or from an originator (which may
  // be the source: counted in both, so `own` makes up for it).
  struct Counts {
    std::uint32_t v[2] = {0, 0}, own[2] = {0, 0};
  };
  Counts counts_;
  std::unordered_map<RibPeerId, Counts> by_source_;
  std::unordered_map<std::uint32_t, Counts> by_originator_;
  std::vector<PrefixId> queue_;
  std::size_t queue_at_ = 0;
  std::vector<bool> queued_;
  std::shared_ptr<Segment> tail_;
  bool dump_active_ = false;
  PrefixId dump_at_ = 0;
  std::pair<AttrId, Attrs> decoded_{kNoAttr, {}};  // what the filter looked at last; its id is valid within one call
  // Work space.
  std::vector<Item> items_;
  std::vector<Nlri> nlri_;
  Bytes set_, other_set_;
};

}  // namespace calico::bgp
