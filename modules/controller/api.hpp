#pragma once
/// The Neutron v2.0 API as a function: a request in, an answer and what to write out. No sockets, no clock but the one
/// given, no database: state is in memory, and what a request changed comes back as a Commit. A request that fails has
/// changed nothing.
///
///   Api api(state, feedback, translator, clock);
///   Outcome out = api.handle(request);
///   if (!out.commit.empty()) …one transaction…        // then send out.status, out.body
///
/// What is provided: networks, subnets, ports, security-groups, security-group-rules, agents, extensions, and the
/// version documents. Everything else of Neutron answers 404 and says that it is not provided.
/// Thread: the api loop. Owns: nothing; what it is given outlives it.
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "modules/controller/feedback.hpp"
#include "modules/controller/input.hpp"
#include "modules/controller/output.hpp"
#include "modules/controller/state.hpp"
#include "modules/controller/translate.hpp"

namespace calico::controller {

struct Request {
  std::string method;
  std::string path;  ///< decoded, without the query
  Query query;
  std::string body;
  std::string base;  ///< "http://127.0.0.1:9696", for links
  Caller caller;
};

/// What one request changes, to be kept whole or not at all.
struct Commit {
  std::vector<Touched> rows;    ///< resources whose rows are written or removed, as they are in State now
  std::vector<Intent> intents;  ///< keys of the datastore
  std::vector<std::string> removed_prefixes;
  std::vector<std::pair<std::string, std::int64_t>> sent;  ///< of an outbox (outbox.hpp), whose intents these are
  bool empty() const { return rows.empty() && intents.empty() && removed_prefixes.empty(); }
};

/// What is left of a long list; Api::more() builds on.
struct Rest {
  Kind kind;
  std::vector<std::string> ids;
  std::size_t next = 0;
  std::set<std::string, std::less<>> fields;
  Caller caller;
  std::string tail;  ///< ends the body
};

struct Outcome {
  int status = 200;
  std::string body;   ///< JSON; empty for 204
  std::string allow;  ///< with 405
  Commit commit;
  std::optional<Rest> rest;  ///< the body is not whole yet
};

struct Generators {
  std::function<std::string()> uuid;
  std::function<Mac()> mac;  ///< fa:16:3e:xx:xx:xx
  static Generators random();
};

/// {"NeutronError": …} as text.
std::string error_body(const ApiError& error);

/// Limits that keep one request from filling the memory or a transaction.
inline constexpr std::size_t kMaxBulk = 100;
inline constexpr std::size_t kMaxFixedIps = 16;
inline constexpr std::size_t kMaxPairs = 64;
inline constexpr std::size_t kMaxGroupsOfPort = 16;
inline constexpr std::size_t kMaxRulesOfGroup = 1000;

class Api {
 public:
  Api(State& state, Feedback& feedback, const Translator& translator, const Clock& clock,
      Generators generators = Generators::random());

  Outcome handle(const Request& request);
  /// Appends the next items of a long list to its body; `rest` is gone when it is whole. What was deleted meanwhile is
  /// left out.
  void more(Outcome& outcome) const;

 private:
  template <class R>
  void more_of(Outcome& outcome) const;
  template <class R>
  Outcome collection(const Request& request, std::string_view id);
  template <class R>
  Reply<Outcome> dispatch(const Request& request, std::string_view id, Change& change);
  Outcome agents(const Request& request, std::string_view id);

  Reply<std::string> create(Change& change, const json::object& body, const Caller& caller, const Network*);
  Reply<std::string> create(Change& change, const json::object& body, const Caller& caller, const Subnet*);
  Reply<std::string> create(Change& change, const json::object& body, const Caller& caller, const Port*);
  Reply<std::string> create(Change& change, const json::object& body, const Caller& caller, const SecurityGroup*);
  Reply<std::string> create(Change& change, const json::object& body, const Caller& caller, const Rule*);
  Reply<void> update(Change& change, const Network& old, const json::object& body, const Caller& caller);
  Reply<void> update(Change& change, const Subnet& old, const json::object& body, const Caller& caller);
  Reply<void> update(Change& change, const Port& old, const json::object& body, const Caller& caller);
  Reply<void> update(Change& change, const SecurityGroup& old, const json::object& body, const Caller& caller);
  Reply<void> update(Change& change, const Rule& old, const json::object& body, const Caller& caller);
  Reply<void> remove(Change& change, const Network& old, const Caller& caller);
  Reply<void> remove(Change& change, const Subnet& old, const Caller& caller);
  Reply<void> remove(Change& change, const Port& old, const Caller& caller);
  Reply<void> remove(Change& change, const SecurityGroup& old, const Caller& caller);
  Reply<void> remove(Change& change, const Rule& old, const Caller& caller);

  /// The project's `default` group, made on first use with Neutron's rules.
  const SecurityGroup& default_group(Change& change, const std::string& project);
  void add_rule(Change& change, const SecurityGroup& group, bool ingress, bool ipv6, bool from_itself);
  View view_of(const Caller& caller) const { return {state_, feedback_, caller, {}}; }
  std::int64_t now() const;
  template <class R>
  void stamp_new(R& r) const {
    r.created = r.updated = now();
  }
  /// Puts the new version unless nothing changed.
  template <class R>
  void put_updated(Change& change, const R& old, R next) const;

  struct PortInput;
  [[nodiscard]] Reply<PortInput> read_port(Body& in) const;
  [[nodiscard]] Reply<void> place(Change& change, Port& port, const PortInput& input, const std::vector<FixedIp>& old,
                                  bool fresh) const;
  [[nodiscard]] Reply<void> allowed(const PortInput& input, const Network& network, const Caller& caller,
                                    bool fresh) const;
  [[nodiscard]] Reply<void> secure(Change& change, Port& port, const PortInput& input, bool fresh,
                                   const Caller& caller);
  void bind(Port& port) const;

  State& state_;
  Feedback& feedback_;
  const Translator& translator_;
  const Clock& clock_;
  Generators generate_;
};

}  // namespace calico::controller
