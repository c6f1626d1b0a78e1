#pragma once
/// Keeps nf_tables equal to the Ruleset: reads the kernel once, then writes differences, each time as one transaction.
///
///   Firewall fw(std::move(connection));
///   fw.configure(settings);                       // the hooks
///   fw.stage(compiler.ruleset(), compiler.flush());
///   fw.load();                                    // once, and after a resync
///   fw.add();                                     // everything new; then move interfaces to their classes
///   fw.remove();                                  // what nobody uses any more
///
/// A restart with the same intent writes no rule and no element. Fault isolation: what the kernel refuses is found by
/// its operation; a refused policy chain, or one whose set is refused, becomes a drop (and so do the classes that ask
/// it), a refused source element or limit is left out, and the transaction is tried again without it.
///
/// The tables carry OWNER and PERSIST where the kernel has both: a foreign flush does not touch them and they outlive
/// the process. Then only this connection can write them.
///
///   firewall.cpp          what is wanted: hooks, chains, sets, by the Ruleset
///   firewall_read.cpp     what the kernel has
///   firewall_write.cpp    differences, as one transaction; what is kept out
///   firewall_faults.cpp   what the kernel refuses: found, closed, told
///
/// Thread: loop. Owns: the connection. Errors: no_permission (another process owns the table), unavailable (the kernel
/// refuses something that cannot be isolated; state kept, call again).
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/conntrack/entry.hpp"
#include "core/model/ruleset.hpp"
#include "core/nft/connection.hpp"
#include "core/reconcile/delta_tracker.hpp"
#include "modules/felix/boxes.hpp"
#include "modules/felix/tables.hpp"

namespace calico::felix {

class Firewall {
 public:
  /// `own` false: plain tables also where the kernel has OWNER.
  explicit Firewall(nft::Connection connection, bool own = true);

  void configure(const Settings& settings);
  void stage(const model::Ruleset& ruleset, const model::RulesetDelta& delta);
  /// All of it: after load() has forgotten, or for a new compiler.
  void stage_all(const model::Ruleset& ruleset);
  /// Packets (of TCP, without SYN) that would make a connection anew from its other side, kept out for three hours, as
  /// long as an idle connection may keep still; at most kCutMost, the oldest go first. Written at once, before the
  /// caller deletes the connections. Errors: as add(); they are written with the next add() then.
  static constexpr std::size_t kCutMost = 16384;
  [[nodiscard]] Status keep_out(const std::vector<conntrack::Tuple>& packets, TimePoint now);

  /// Reads what the kernel has. Nothing is written.
  [[nodiscard]] Status load();
  [[nodiscard]] Status add();
  [[nodiscard]] Status remove();

  /// Why this endpoint's class cannot be enforced; empty when it can.
  std::string fault_of(const model::EndpointPlan& plan) const;
  /// Limits of this endpoint that the kernel refused, one line each.
  std::vector<std::string> notes_of(const model::EndpointPlan& plan) const;
  /// The same of what hangs on these chains.
  std::string fault_in(std::vector<std::string> chains) const;
  /// Chain or set → why the kernel refused it.
  const std::map<std::string, std::string>& refused() const { return refused_; }
  /// Transactions written so far, and operations in them; a zero-diff restart writes none, or one to adopt a table.
  std::uint64_t commits() const { return commits_; }
  std::uint64_t operations() const { return operations_; }
  bool in_sync() const { return dirty_chains_.empty() && dirty_sets_.empty() && tables_ready_; }
  bool owned() const { return owned_; }
  /// The netlink port whose changes are ours.
  std::uint32_t port() const { return nft_.port(); }

 private:
  struct ChainState {
    std::optional<nft::BaseChain> base;
    std::string about;  // written with the chain, once: it belongs to the name
    bool wanted = false;
    std::vector<nft::Rule> rules;
    std::vector<std::string> uses;   // sets and chains its rules name
    std::vector<std::string> boxes;  // of these, sets made by flatten()
    bool present = false;
    std::optional<nft::BaseChain> actual_base;
    std::vector<std::string> actual;  // identities of its rules
  };
  struct SetState {
    nft::Set spec;
    bool wanted = false;
    bool present = false;
    bool replace = false;  // the kernel's has another shape: everything is built anew
    DeltaTracker<nft::ElementKey, nft::Element> elements;
  };
  struct Origin {
    enum class What : std::uint8_t { other, chain, set } what = What::other;
    std::string chain;
    nft::SetRef set;
    std::vector<nft::Element> elements;
  };
  using Origins = std::vector<Origin>;  // by operation

  static bool same_shape(const nft::Set& a, const nft::Set& b);
  void put_static(StaticChain chain);
  void put_extra(const ExtraHooks& hooks);
  void put_chain(const nft::ChainRef& ref, std::optional<nft::BaseChain> base, std::vector<nft::Rule> rules,
                 std::vector<std::string> uses);
  void put_chain(const model::Ruleset& ruleset, const std::string& name);
  void drop_chain(const nft::ChainRef& ref);
  void hold(const BoxSet& set);
  void release(const std::string& set);
  void put_set(const std::string& name, const model::SetContent& set);
  void change_elements(const std::string& name, const model::SetContent& set, const model::SetDelta& d);
  void forgive(const std::string& name);
  bool refused_chain(const std::string& name, const ChainState& c) const;
  std::vector<nft::Rule> effective(const std::string& name, const ChainState& c) const;
  [[nodiscard]] Status load_table(const nft::TableRef& ref, const nft::TableInfo& info);
  void rebuild();
  nft::Batch addition(Origins& origins);
  void mark_added();
  [[nodiscard]] bool isolate(const nft::CommitError& e, const Origins& origins);
  nft::Set* spec(const std::string& set);
  void keep(const nft::SetRef& set, nft::Element e, TimePoint now);

  nft::Connection nft_;
  std::map<nft::ChainRef, ChainState> chains_;
  std::map<nft::SetRef, SetState> sets_;
  std::set<nft::ChainRef> dirty_chains_;
  std::set<nft::SetRef> dirty_sets_;
  std::map<std::string, std::string> refused_;
  struct Kept {
    nft::SetRef set;
    nft::ElementKey key;
    TimePoint since;
  };
  std::deque<Kept> kept_;  // elements of the static sets, oldest first
  std::set<nft::SetRef> static_sets_;
  std::map<std::string, int> box_refs_;  // sets of flatten(): chains that use them
  std::set<std::string> static_;         // names of chains configure() made, as "family name"
  ExtraHooks extra_;
  std::vector<std::string> prefixes_;
  std::map<std::string, std::map<std::string, std::string>> unlimited_;  // interface → set → why it is not in it
  bool may_own_;
  bool owned_ = false;
  bool tables_ready_ = false;
  bool rebuild_ = false;
  bool table_there_[2] = {false, false};
  std::vector<nft::TableRef> guards_;  // of the boot, there until the first change
  std::uint64_t commits_ = 0;
  std::uint64_t operations_ = 0;
};

}  // namespace calico::felix
