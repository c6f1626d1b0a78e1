#pragma once
/// The inside of Compiler. Private to core/model.
/// Parts: compiler.cpp (what the keys say: endpoints, network sets, nodes; the ruleset and its delta; the order of a
/// flush), compiler_policies.cpp (policies, tiers and profiles), compiler_rules.cpp (their rules as chains),
/// compiler_sets.cpp (the sets they share), compiler_plans.cpp (what each local endpoint gets,
/// and the classes of endpoints with the same policies), compiler_nat.cpp (floating IPs and limits of local endpoints),
/// compiler_hosts.cpp (host endpoints).
///
/// Every stage of flush() marks only what the next has to look at: the dirty_* sets.
#include <array>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "core/model/selector.hpp"

namespace calico::model {

struct Compiler::Impl {
  using Id = std::uint32_t;
  /// Each tier with a Pass is a chain more to the end, and the kernel follows 16.
  static constexpr std::size_t kMaxTiers = 10;

  /// One of this host. Of the others, a hundred thousand maybe, nothing is kept but Member and labels.
  struct Endpoint {
    Id id = 0;
    std::string key;
    std::string ns;
    WorkloadEndpointName name;
    bool local = false;
    std::string fault;
    WorkloadEndpoint wep;        // local and readable
    std::set<Id> policies;       // that select it; local only
    std::string interface_name;  // that it asks for; local only
    std::string class_key;
    std::set<Ip> nats_wanted;  // floating IPs it names; local only
    std::set<Ip> taken;        // addresses it keeps from being one
    std::map<Ip, Ip> nats;     // floating IPs it may have as far as it is concerned, to the address inside
  };

  /// A host endpoint, of any host; of this host once `local`.
  struct Host {
    Id id = 0;
    std::string name;
    bool local = false;
    std::string fault;  // of a later value; `hep` is the last that could be read
    HostEndpoint hep;
    std::set<Id> policies;  // that select it; local only
  };

  /// What an endpoint or a network set adds to the sets of the selectors that match it. Its id is the one in the index
  /// `members`.
  struct Member {
    std::vector<Prefix> nets;
    std::vector<NamedPort> ports;
    bool operator==(const Member&) const = default;
  };
  /// An endpoint or network set whose labels depend on profiles.
  struct Heir {
    Labels own;
    std::vector<std::string> profiles;
  };

  /// A set something of a policy refers to.
  struct Use {
    bool of_selector = false;
    Id id = 0;         // SelectorSet
    std::string name;  // shared set
  };

  /// One direction of a policy or profile. Rules with Pass have no chain of their own: the classes copy them, because
  /// only they know what follows the tier.
  struct Half {
    std::string chain;
    std::string title;  // of the policy, when the chain's name holds a hash
    bool has_chain = false;
    ChainRules passing;  // with Verdict::pass among them
  };

  /// A network policy, or a profile (which no selector selects, but the endpoints that name it).
  struct Policy {
    Id id = 0;
    std::string key;
    std::string title;  // "<ns>/<name>"
    bool profile = false;
    NetworkPolicy body;
    Selector selector;
    bool active = false;
    std::vector<Use> uses;
    Half in, out;

    auto rank() const {
      return std::tuple(!body.order.has_value(), body.order.value_or(0), body.meta.name, body.meta.ns, key);
    }
  };

  /// By name; here as long as the resource is there or somebody names it.
  struct ProfileState {
    bool present = false;
    Labels labels;
    Id policy = 0;  // its rules; 0 when not present
    std::unordered_set<Id> heirs;
    int local = 0;  // of them, endpoints of this host
  };

  struct PortOfName {
    std::uint8_t protocol = 0;
    std::string name;
  };

  /// Addresses of the endpoints a selector matches, of one family; or their addresses with the port of a name.
  struct SelectorSet {
    Id id = 0;
    Selector selector;
    Family family = Family::v4;
    std::optional<PortOfName> port;
    std::string base;  // name without the suffix of the block kind
    std::string name;
    int refs = 0;
    std::map<Prefix, int> members;
    std::map<Element, int> port_members;
    std::size_t blocks = 0;  // members that are more than one address
    bool with_blocks = false;
    bool live = false;  // its elements are in the ruleset
  };

  /// Policies of one tier, in the order they are asked.
  struct TierPart {
    std::string name;
    bool pass_at_the_end = false;
    std::vector<std::string> policies;  // keys
  };
  /// What an endpoint is asked; equal for all endpoints of a class.
  struct Questions {
    std::vector<TierPart> tiers;
    std::vector<std::string> profiles;
    /// "" when there is nothing to ask.
    std::string key() const;
  };
  struct Class {
    Questions questions;
    std::uint32_t group = 0;
    int refs = 0;
    int chains_in = 0;  // how many of them are written
    int chains_out = 0;
  };

  using SetElement = std::pair<std::string, Element>;

  explicit Impl(CompilerOptions o);
  RulesetDelta flush();

  // compiler.cpp: the ruleset and its delta
  static std::array<unsigned char, 32> digest(std::string_view text);  // SHA-256: names and numbers follow the content
  void make_set(const std::string& name, SetKind kind, std::string about, bool arp = false);
  void drop_set(const std::string& name);
  void add_element(const std::string& set, const Element& e);
  void drop_element(const std::string& set, const Element& e);
  /// `title` when the name holds a hash. It belongs to the name: an existing chain's is never another.
  void put_chain(const std::string& name, ChainRules rules, const std::string& title = {});
  void drop_chain(const std::string& name);

  // compiler.cpp: endpoints
  void update_endpoint(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value);
  void remove_endpoint(const std::string& key);
  void set_member(Id id, Member m);
  void set_labels(Id id, Labels own, std::vector<std::string> inherited_from);
  void disinherit(Id id);
  void forget_item(Id id);
  /// The item's labels, its own and what profiles give, into the indexes.
  void file(Id id, Labels labels);
  Labels inherited(const Heir& heir) const;
  void update_network_set(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value);
  void claim_interface(Endpoint& e, const std::string& name);

  // compiler.cpp: nodes
  void update_node(const std::string& key, std::optional<std::string_view> value);
  void set_addresses(const std::string& owner, std::vector<Ip> addresses);
  void guard(const Ip& ip, bool on);
  bool holds_guarded(const Prefix& net) const;

  // compiler_policies.cpp: policies
  void update_policy(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value, bool global);
  void update_tier(const std::string& name, const std::string& key, std::optional<std::string_view> value);
  void update_profile(const std::string& name, const std::string& key, std::optional<std::string_view> value);
  void forget_profile(const std::string& name);
  /// As part of a chain's name: hashed when nft could not read it.
  static std::string chain_title(const std::string& title);
  Policy& new_policy(const std::string& key, const std::string& title, const std::string& folder);
  /// No, as long as no local endpoint asks it.
  bool wanted(const Policy& p) const;
  void touch_classes_of(const std::string& policy_or_profile_key);
  void on_selected(Id policy, Id endpoint, bool matches);
  static Selector namespace_selector(const std::string& text);
  /// One policy as rules of both directions, its sets acquired.
  void compile(Policy& p);
  void deactivate(Policy& p);
  /// Returns whether the classes that ask the policy have to be written again.
  bool put_half(Half& h, ChainRules rules);
  void compile_rule(Policy& p, const Rule& r, ChainRules& out, std::vector<Use>& uses);
  /// What one side of a rule asks, as alternatives (numbers of ports, or a name); none: nothing can match.
  std::vector<MatchRule::Side> compile_side(Policy& p, const Rule& r, const EntityRule& e, std::optional<Family> family,
                                            std::vector<Use>& uses);
  static bool needs_family(const EntityRule& e);
  static Selector negated(const std::string& text);

  // compiler_policies.cpp: sets that policies share
  /// 80 bits as hexadecimal: names of sets and of policies whose own name does not fit. Not chosen by tenants.
  static std::string short_hash(std::string_view text);
  std::string net_set(const std::vector<Prefix>& nets, std::vector<Use>& uses);
  std::string port_set(const std::vector<PortRange>& ports, std::vector<Use>& uses);
  std::string selector_set(const Selector& selector, Family family, std::vector<Use>& uses,
                           std::optional<PortOfName> port = {});
  void release(const Use& u);
  void on_member(Id set, Id endpoint, bool matches);
  void contribute(SelectorSet& s, const Member& m, bool add);
  void add_member(SelectorSet& s, const Prefix& net);
  void drop_member(SelectorSet& s, const Prefix& net);
  /// Brings a set's kind and elements to its members. A set that gains its first block, or loses its last, changes
  /// kind and so its name; who uses it is compiled again.
  void settle(SelectorSet& s);

  // compiler_hosts.cpp: host endpoints. Few a host, so all of them are planned when one thing changed.
  void update_host(const std::string& name, const std::string& key, std::optional<std::string_view> value);
  void settle_hosts();
  /// Who polices which interface: the first by name of those that want it.
  std::map<std::string, std::vector<std::string>> interfaces_of_hosts(std::map<std::string, HostPlan>& plans) const;
  void plan_host(const Host& h, HostPlan& p, std::map<std::string, int>& chains);

  // compiler_plans.cpp: plans
  void plan(Endpoint& e);
  void plan_nets(const Endpoint& e, EndpointPlan& p);
  /// In the order they are asked. Ids follow the order of arrival: nothing that is told may go by them.
  std::vector<const Policy*> ranked(const std::set<Id>& policies) const;
  /// Workload endpoints know only `normal`; of the untracked and those before translation no tier refuses at its end.
  enum class Stage : std::uint8_t { untracked, pre_dnat, normal, forwarded };
  Questions questions_of(const std::set<Id>& policies, const std::vector<std::string>& profiles, Stage stage) const;
  auto tier_rank(const std::string& name) const {
    const auto it = tiers.find(name);
    const bool known = it != tiers.end();
    const auto order = known ? it->second.order : std::nullopt;
    return std::tuple(!known, !order, order.value_or(0), name);
  }
  static std::vector<SetElement> sources(const EndpointPlan& p);
  void put_plan(Endpoint& e, std::optional<EndpointPlan> p);

  // compiler_nat.cpp: floating IPs and limits
  void want_nats(Endpoint& e, const WorkloadEndpoint& wep);
  /// Who wants this address is planned again.
  void review_nat(const Ip& external);
  std::string fault_of_nat(const IpNat& n, const EndpointPlan& p) const;
  void plan_nats(Endpoint& e, EndpointPlan& p);
  void count_hairpins(const std::vector<IpNat>& nats, int by);
  static void add_nats_and_limits(const EndpointPlan& p, std::vector<SetElement>& out);
  static void plan_qos(const Endpoint& e, EndpointPlan& p);

  // compiler_plans.cpp: classes
  static std::uint32_t group_of(std::string_view class_key);
  void enter_class(Endpoint& e, const std::string& key, Questions questions);
  void leave_class(Endpoint& e);
  void settle_class(const std::string& key);
  /// Writes the class's chains of a direction; returns how many.
  int put_class_chains(const Class& c, bool ingress);
  /// The questions of a direction as chains: name_of(1), and name_of(2) and so on for what follows a Pass. What no tier
  /// decides is the profiles' to decide, or passes. Returns how many; 0 when nothing is asked and it passes. The first
  /// chain begins with the rules of `lead`.
  int put_questions(const Questions& q, bool ingress, bool profiles_decide,
                    const std::function<std::string(int)>& name_of, ChainRules lead = {});

  CompilerOptions options;
  Ruleset ruleset;
  RulesetDelta delta;
  std::map<std::string, std::string> faults;

  Id next_id = 1;
  std::unordered_map<std::string, Id> endpoint_ids;
  std::unordered_map<Id, Endpoint> endpoints;
  std::unordered_map<Id, Member> member_of;
  std::unordered_map<Id, Heir> heirs;
  std::map<std::string, Id> network_set_ids;
  std::map<std::string, Tier> tiers;
  std::map<std::string, ProfileState> profiles;
  std::map<std::string, Id> policy_ids;
  std::map<Id, Policy> policies;
  std::unordered_map<std::string, Id> selector_set_ids;
  std::map<Id, SelectorSet> selector_sets;
  std::map<std::string, int> shared;
  std::map<std::string, Class> classes;
  std::set<std::uint32_t> groups;
  /// By name, which is one endpoint's; the number of who came first decides nothing.
  struct Claim {
    std::string workload, endpoint, orchestrator;
    Id id;
    auto operator<=>(const Claim&) const = default;
  };
  static Claim claim_of(const Endpoint& e) { return {e.name.workload, e.name.endpoint, e.name.orchestrator, e.id}; }
  std::map<std::string, std::set<Claim>> claims;  // of interfaces, first wins
  std::map<std::string, std::vector<Ip>> node_addresses;
  std::map<Ip, int> guarded;

  std::map<Ip, std::set<std::pair<std::string, Id>>> nat_wanted;  // floating IP → local endpoints, by key
  std::map<Ip, int> nat_taken;                                    // what no floating IP may be
  std::map<std::pair<Ip, Ip>, int> hairpins;                      // internal, floating → plans

  std::set<Id> locals;                                         // endpoints of this host
  std::map<std::pair<std::string, Element>, int> source_refs;  // set and element → plans that want it

  std::map<std::string, Host> hosts;                    // by key
  std::unordered_map<Id, std::string> local_host_keys;  // by id
  std::vector<HostInterface> host_interfaces;
  std::map<std::string, int> host_chains;  // first chain → how many
  bool dirty_hosts = false;

  std::set<Id> dirty_endpoints, dirty_policies, dirty_sets;
  std::set<Id> first_or_last;  // policies that gained their first endpoint or lost their last
  std::set<std::string> dirty_classes;

  SelectorIndex selected;  // policies × local endpoints
  SelectorIndex members;   // selectors of rules × all endpoints
};

}  // namespace calico::model
