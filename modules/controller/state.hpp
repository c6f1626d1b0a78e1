#pragma once
/// All of Neutron's state in memory, with the indexes its questions need, and the changes made to it. The database
/// (persist.hpp) holds the same rows; a request reads and changes memory, and its Change says what to write.
///
///   Change change(state);
///   change.put(port);
///   if (wrong) change.rollback();          // memory is as before
///   else commit(change.touched());         // rows and intent, one transaction
///
/// Thread: the api loop. Owns: the resources; pointers returned live until the resource is changed.
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "modules/controller/resources.hpp"

namespace calico::controller {

template <class R>
using Table = std::map<std::string, R, std::less<>>;
using IdSet = std::set<std::string, std::less<>>;
using IdIndex = std::map<std::string, IdSet, std::less<>>;

/// Addresses given out in one subnet; the cursor makes the next one differ from the one freed last.
struct Allocations {
  std::map<Ip, std::string> used;  ///< address → port
  Ip cursor;
  bool cursor_set = false;
};

class State {
 public:
  template <class R>
  const Table<R>& all() const {
    return std::get<Table<R>>(tables_);
  }
  template <class R>
  const R* find(std::string_view id) const {
    auto it = all<R>().find(id);
    return it == all<R>().end() ? nullptr : &it->second;
  }

  const IdSet& subnets_of(std::string_view network) const { return lookup(subnets_by_network_, network); }
  const IdSet& ports_of(std::string_view network) const { return lookup(ports_by_network_, network); }
  const IdSet& ports_of_device(std::string_view device) const { return lookup(ports_by_device_, device); }
  const IdSet& ports_of_group(std::string_view group) const { return lookup(ports_by_group_, group); }
  /// Ids of the group's rules, in no particular order; rules_in_order() sorts.
  const IdSet& rules_of(std::string_view group) const { return lookup(rules_by_group_, group); }
  const IdSet& rules_with_remote(std::string_view group) const { return lookup(rules_by_remote_, group); }
  std::vector<const Rule*> rules_in_order(std::string_view group) const;
  /// nullptr if the project has none yet.
  const SecurityGroup* default_group(std::string_view project) const;
  const Allocations* allocations(std::string_view subnet) const;
  bool mac_used(std::string_view network, const Mac& mac) const;
  /// A subnet that shares addresses with `cidr`, nullptr if none.
  const Subnet* overlapping(const Prefix& cidr) const;
  std::int64_t next_rule_order() const { return rule_order_ + 1; }

  /// Moves a subnet's cursor behind `ip`; a hint that no rollback undoes.
  void advance_cursor(const std::string& subnet, const Ip& ip);

  /// Used by Change and by loading. Replaces or inserts, and keeps the indexes.
  template <class R>
  void put(R r) {
    std::string id = r.id;
    erase<R>(id);
    auto [it, fresh] = std::get<Table<R>>(tables_).emplace(std::move(id), std::move(r));
    link(it->second);
  }
  template <class R>
  void erase(const std::string& id) {
    auto& table = std::get<Table<R>>(tables_);
    auto it = table.find(id);
    if (it == table.end()) return;
    unlink(it->second);
    table.erase(it);
  }

 private:
  static const IdSet& lookup(const IdIndex& index, std::string_view key);
  void link(const Network&) {}
  void unlink(const Network&) {}
  void link(const Subnet& s);
  void unlink(const Subnet& s);
  void link(const Port& p);
  void unlink(const Port& p);
  void link(const SecurityGroup& g);
  void unlink(const SecurityGroup& g);
  void link(const Rule& r);
  void unlink(const Rule& r);

  std::tuple<Table<Network>, Table<Subnet>, Table<Port>, Table<SecurityGroup>, Table<Rule>> tables_;
  IdIndex subnets_by_network_;
  IdIndex ports_by_network_;
  IdIndex ports_by_device_;
  IdIndex ports_by_group_;
  IdIndex rules_by_group_;
  IdIndex rules_by_remote_;
  std::map<std::string, std::string, std::less<>> default_groups_;  // project → group
  std::map<std::string, Allocations, std::less<>> allocations_;     // subnet →
  std::set<std::pair<std::string, Mac>> macs_;                      // network, MAC
  std::multimap<Ip, std::string> cidrs_;                            // first address → subnet
  std::int64_t rule_order_ = 0;
};

/// One resource a request touched, as it was before the request; after is in State.
struct Touched {
  Kind kind;
  std::string id;
  std::optional<AnyResource> before;
};

class Change {
 public:
  explicit Change(State& state) : state_(state) {}

  template <class R>
  void put(R r) {
    remember<R>(r.id);
    state_.put(std::move(r));
  }
  template <class R>
  void erase(const std::string& id) {
    remember<R>(id);
    state_.erase<R>(id);
  }
  /// Everything as before the first put; the Change is empty then.
  void rollback();
  bool empty() const { return touched_.empty(); }
  /// In the order of the first touch, each resource once.
  const std::vector<Touched>& touched() const { return touched_; }
  State& state() { return state_; }

 private:
  template <class R>
  void remember(const std::string& id) {
    if (!seen_.emplace(kind_of<R>(), id).second) return;
    Touched t{kind_of<R>(), id, std::nullopt};
    if (const R* before = state_.find<R>(id)) t.before = *before;
    touched_.push_back(std::move(t));
  }

  State& state_;
  std::vector<Touched> touched_;
  std::set<std::pair<Kind, std::string>> seen_;
};

}  // namespace calico::controller
