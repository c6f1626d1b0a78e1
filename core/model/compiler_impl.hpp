#pragma once
/// The inside of Compiler. Private to core/model.
/// Parts: compiler.cpp (what the keys say: endpoints, nodes; the ruleset and its delta; the order of a flush),
/// compiler_policies.cpp (policies as chains, the sets they share), compiler_plans.cpp (what each local endpoint gets,
/// and the classes of endpoints with the same policies).
///
/// Every stage of flush() marks only what the next has to look at: the dirty_* sets.
#include <array>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "core/model/selector.hpp"

namespace calico::model {

struct Compiler::Impl {
  using Id = std::uint32_t;

  struct Endpoint {
    Id id = 0;
    std::string key;
    std::string ns;
    WorkloadEndpointName name;
    bool local = false;
    std::string fault;
    WorkloadEndpoint wep;        // local and readable
    std::vector<Prefix> nets;    // what it adds to sets of selectors
    std::set<Id> policies;       // that select it; local only
    std::string interface_name;  // that it asks for; local only
    std::string class_key;
  };

  /// A set something of a policy refers to.
  struct Use {
    bool of_selector = false;
    Id id = 0;         // SelectorSet
    std::string name;  // shared set
  };

  struct Policy {
    Id id = 0;
    std::string key;
    std::string title;  // "<ns>/<name>"
    NetworkPolicy body;
    Selector selector;
    bool active = false;
    std::vector<Use> uses;
    bool has_in = false;  // its chain of this direction holds something
    bool has_out = false;
    std::string chain_in, chain_out;

    auto rank() const {
      return std::tuple(!body.order.has_value(), body.order.value_or(0), body.meta.name, body.meta.ns, key);
    }
  };

  /// Addresses of the endpoints a selector matches, of one family.
  struct SelectorSet {
    Id id = 0;
    Selector selector;
    Family family = Family::v4;
    std::string base;  // name without the suffix of the block kind
    std::string name;
    int refs = 0;
    std::map<Prefix, int> members;
    std::size_t blocks = 0;  // members that are more than one address
    bool with_blocks = false;
    bool live = false;  // its elements are in the ruleset
  };

  struct Class {
    std::vector<std::string> policies;  // keys, in the order they are asked
    std::uint32_t group = 0;
    int refs = 0;
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
  void put_chain(const std::string& name, ChainRules rules);
  void drop_chain(const std::string& name);

  // compiler.cpp: endpoints
  void update_endpoint(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value);
  void remove_endpoint(const std::string& key);
  void set_nets(Endpoint& e, const std::vector<Prefix>& nets);
  void claim_interface(Endpoint& e, const std::string& name);

  // compiler.cpp: nodes
  void update_node(const std::string& key, std::optional<std::string_view> value);
  void set_addresses(const std::string& owner, std::vector<Ip> addresses);
  void guard(const Ip& ip, bool on);
  bool holds_guarded(const Prefix& net) const;

  // compiler_policies.cpp: policies
  void update_policy(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value, bool global);
  void on_selected(Id policy, Id endpoint, bool matches);
  static Selector namespace_selector(const std::string& text);
  /// One policy as rules of both directions, its sets acquired.
  void compile(Policy& p);
  void deactivate(Policy& p);
  void compile_rule(Policy& p, const Rule& r, ChainRules& out, std::vector<Use>& uses);
  /// False: nothing can match in this family.
  bool compile_side(Policy& p, const EntityRule& e, std::optional<Family> family, MatchRule::Side& out,
                    std::vector<Use>& uses);
  static Selector negated(const std::string& text);

  // compiler_policies.cpp: sets that policies share
  /// 80 bits as hexadecimal: names of sets and of policies whose own name does not fit. Not chosen by tenants.
  static std::string short_hash(std::string_view text);
  std::string net_set(const std::vector<Prefix>& nets, std::vector<Use>& uses);
  std::string port_set(const std::vector<PortRange>& ports, std::vector<Use>& uses);
  std::string selector_set(const Selector& selector, Family family, std::vector<Use>& uses);
  void release(const Use& u);
  void on_member(Id set, Id endpoint, bool matches);
  void add_member(SelectorSet& s, const Prefix& net);
  void drop_member(SelectorSet& s, const Prefix& net);
  /// Brings a set's kind and elements to its members. A set that gains its first block, or loses its last, changes
  /// kind and so its name; who uses it is compiled again.
  void settle(SelectorSet& s);

  // compiler_plans.cpp: plans
  void plan(Endpoint& e);
  void plan_nets(const Endpoint& e, EndpointPlan& p);
  static std::vector<SetElement> sources(const EndpointPlan& p);
  void put_plan(Endpoint& e, std::optional<EndpointPlan> p);

  // compiler_plans.cpp: classes
  static std::uint32_t group_of(std::string_view class_key);
  void enter_class(Endpoint& e, const std::string& key, const std::vector<const Policy*>& ranked);
  void leave_class(Endpoint& e);
  void settle_class(const std::string& key);

  CompilerOptions options;
  Ruleset ruleset;
  RulesetDelta delta;
  std::map<std::string, std::string> faults;

  Id next_id = 1;
  std::unordered_map<std::string, Id> endpoint_ids;
  std::unordered_map<Id, Endpoint> endpoints;
  std::map<std::string, Id> policy_ids;
  std::map<Id, Policy> policies;
  std::unordered_map<std::string, Id> selector_set_ids;
  std::map<Id, SelectorSet> selector_sets;
  std::map<std::string, int> shared;
  std::map<std::string, Class> classes;
  std::set<std::uint32_t> groups;
  std::map<std::string, std::set<std::tuple<std::string, std::string, Id>>> claims;  // of interfaces, first wins
  std::map<std::string, std::vector<Ip>> node_addresses;
  std::map<Ip, int> guarded;

  std::set<Id> locals;                                         // endpoints of this host
  std::map<std::pair<std::string, Element>, int> source_refs;  // set and element → plans that want it

  std::set<Id> dirty_endpoints, dirty_policies, dirty_sets;
  std::set<Id> first_or_last;  // policies that gained their first endpoint or lost their last
  std::set<std::string> dirty_classes;

  SelectorIndex selected;  // policies × local endpoints
  SelectorIndex members;   // selectors of rules × all endpoints
};

}  // namespace calico::model
