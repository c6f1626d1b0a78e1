#pragma once
/// The kernel's nexthop objects that BGP's routes name: which are wanted, which are there, what to write.
///
/// A route whose winner has the BGP next hop B names B's object, and the object says how B is reached now. When the way
/// to B changes one message replaces the object and all its routes have moved. B reached over several ways, or several
/// B's of equal cost, is a group object; its members are plain objects by content (gateway, device), shared.
///
/// Ids are a function of what the object is for (range kFirst to kLast, next one when taken): after a restart the same
/// BGP next hop has the same object, so nothing is written. What is not ours (another protocol, another range) is only
/// remembered, to keep clear of its ids and to follow it where a route is dumped without its next hops.
///
/// Traps of the kernel modelled here: objects go in silence when their device goes down *or loses its carrier*, and
/// their IPv4 routes with them; a group shrinks with its members and goes with the last; a plain object never becomes a
/// group; a device without carrier takes no object.
///
/// Thread: the owner's loop. Owns: its lists; borrows `ways`. Errors: none. Pure: fed by core/bgp/kernel*.cpp.
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/bgp/kernel_routes.hpp"

namespace calico::bgp {

class NextHopObjects {
 public:
  using Ref = std::uint32_t;
  static constexpr std::uint32_t kFirst = 0x50000000, kFirstGroup = 0x58000000, kLast = 0x5fffffff;
  /// Objects by BGP next hop; beyond this, by content: what peers announce must not fill the kernel.
  static constexpr std::size_t kMostNamed = 16384;

  NextHopObjects(Ways& ways, std::uint8_t protocol) : ways_(ways), protocol_(protocol) {}

  /// The object for routes of these BGP next hops (sorted; empty = known by its content only) that are reached like
  /// this. At least one hop, sorted. An object that exists gets these hops.
  Ref want(const std::vector<Ip>& named, const std::vector<netlink::NextHop>& hops);
  WayId way(Ref ref) const { return objects_[ref].way; }
  /// The kernel has it, so that routes may name it.
  bool present(Ref ref) const { return actual_.contains(objects_[ref].id); }
  bool present_id(std::uint32_t id) const { return actual_.contains(id); }
  bool wanted_id(std::uint32_t id) const { return by_id_.contains(id); }
  /// The way to this BGP next hop changed: the objects named after it follow where their sort allows it (`now` answers
  /// with all hops of a set of BGP next hops, sorted; empty = stay). Routes of the others are told by the engine again.
  void moved(const Ip& hop, const std::function<std::vector<netlink::NextHop>(const std::vector<Ip>&)>& now);

  /// What the kernel said. Objects that went with it, in silence, are added to `gone`: their routes went too.
  void set_actual(const netlink::NexthopObject& o);
  void erase_actual(std::uint32_t id, std::vector<std::uint32_t>& gone);
  void drop_device(IfIndex dev, std::vector<std::uint32_t>& gone);
  /// A full read, except ids in `newer`.
  void load(const std::vector<netlink::NexthopObject>& all, const std::unordered_set<std::uint32_t>& newer,
            std::vector<std::uint32_t>& gone);
  const netlink::NexthopObject* actual(std::uint32_t id) const;
  /// The next hops an object of the kernel stands for, ours or not.
  std::vector<netlink::NextHop> hops_of(std::uint32_t id) const;

  /// A device changed: objects over it are looked at again.
  void touch(IfIndex dev);
  /// After failures: everything is looked at again.
  void touch_all();
  struct Write {
    Ref ref = 0;
    netlink::NexthopObject object;
    bool replace = false;
  };
  /// What to write now: plain objects, or groups (of members that are there). Devices for which `usable` is false are
  /// left out; an object with none left waits for touch(). What is beyond `limit` is due next time (more()).
  std::vector<Write> due(bool groups, std::size_t limit, const std::function<bool(IfIndex)>& usable);
  bool more() const { return !dirty_.empty(); }
  void written(const Write& w) { set_actual(w.object); }
  /// Somebody took the id of an object of ours: it has another one now, and routes must follow.
  std::vector<std::pair<WayId, WayId>> take_rehomed() { return std::exchange(rehomed_, {}); }

  /// Ids whose routes may all have gone (Ways::collect()).
  void idle(const std::vector<std::uint32_t>& ids);
  /// Ours in the kernel that nothing wants and no route names, groups before their members. At most `limit`.
  std::vector<std::uint32_t> removable(std::size_t limit) const;

  std::size_t wanted() const { return by_id_.size(); }
  std::size_t stale() const { return stale_.size(); }
  bool ours(const netlink::NexthopObject& o) const;

 private:
  struct Object {
    std::uint32_t id = 0;
    bool used = false, group = false;
    std::string key;
    std::vector<Ip> named;
    std::vector<netlink::NextHop> hops;
    std::vector<Ref> members;
    WayId way = kNoWay;
    std::vector<Ref> parents;  // groups it is a member of
  };
  Ref make(std::string key, bool group);
  std::uint32_t pick_id(const Object& o) const;
  void set_hops(Ref ref, const std::vector<netlink::NextHop>& hops);
  void drop_member(Ref ref, Ref group);
  void drop(Ref ref);
  bool unused(const Object& o) const { return o.parents.empty() && ways_.refs(o.way) <= 1; }
  void rehome(Ref ref);

  Ways& ways_;
  std::uint8_t protocol_;
  std::vector<Object> objects_;
  std::vector<Ref> free_;
  std::unordered_map<std::string, Ref> by_key_;
  std::unordered_map<std::uint32_t, Ref> by_id_;
  std::unordered_map<Ip, std::vector<Ref>> by_hop_;
  std::size_t named_ = 0;
  std::unordered_map<std::uint32_t, netlink::NexthopObject> actual_;
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> groups_of_;  // member -> groups in the kernel
  std::unordered_set<Ref> dirty_;
  std::unordered_set<std::uint32_t> stale_;  // ours in the kernel, not wanted
  std::vector<std::pair<WayId, WayId>> rehomed_;
};

}  // namespace calico::bgp
