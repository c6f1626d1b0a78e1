#include "modules/controller/api.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <random>

#include "modules/controller/persist.hpp"

namespace calico::controller {

namespace {

struct Names {
  std::string_view many;      ///< in paths
  std::string_view list_key;  ///< in bodies
  std::string_view one;
  std::string_view not_found;  ///< error type
};
constexpr Names names(const Network*) { return {"networks", "networks", "network", "NetworkNotFound"}; }
constexpr Names names(const Subnet*) { return {"subnets", "subnets", "subnet", "SubnetNotFound"}; }
constexpr Names names(const Port*) { return {"ports", "ports", "port", "PortNotFound"}; }
constexpr Names names(const SecurityGroup*) {
  return {"security-groups", "security_groups", "security_group", "SecurityGroupNotFound"};
}
constexpr Names names(const Rule*) {
  return {"security-group-rules", "security_group_rules", "security_group_rule", "SecurityGroupRuleNotFound"};
}

/// What the API consists of, for the version document and /extensions.
constexpr std::string_view kCollections[] = {"networks", "subnets", "ports", "security-groups", "security-group-rules",
                                             "agents"};
struct Extension {
  std::string_view alias, name;
};
constexpr Extension kExtensions[] = {
    {"agent", "agent"},
    {"allowed-address-pairs", "Allowed Address Pairs"},
    {"binding", "Port Binding"},
    {"external-net", "Neutron external network"},
    {"net-mtu", "Network MTU"},
    {"port-security", "Port Security"},
    {"project-id", "project_id field enabled"},
    {"provider", "Provider Network"},
    {"security-group", "security-group"},
    {"sorting", "Sorting support"},
    {"pagination", "Pagination support"},
    {"standard-attr-description", "standard-attr-description"},
    {"standard-attr-revisions", "Resource revision numbers"},
    {"standard-attr-timestamp", "Resource timestamps"},
};
/// Neutron has these and this controller does not; clients that probe for them are told so.
constexpr std::string_view kNotProvided[] = {"routers",
                                             "floatingips",
                                             "qos",
                                             "quotas",
                                             "subnetpools",
                                             "address-scopes",
                                             "trunks",
                                             "metering",
                                             "rbac-policies",
                                             "availability_zones",
                                             "flavors",
                                             "service-providers",
                                             "network-ip-availabilities",
                                             "auto-allocated-topology",
                                             "address-groups",
                                             "log",
                                             "segments",
                                             "local_ips"};

json::object extension_json(const Extension& e) {
  return {{"alias", e.alias},
          {"name", e.name},
          {"description", e.name},
          {"updated", "2015-01-01T00:00:00-00:00"},
          {"links", json::array()}};
}

Outcome answer(int status, const json::value& body) { return {status, json::serialize(body), {}, {}, {}}; }
Outcome answer(const ApiError& e) { return {e.status, error_body(e), {}, {}, {}}; }

std::vector<std::string_view> split(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    auto slash = path.find('/');
    if (slash != 0) parts.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  return parts;
}

Outcome method_not_allowed(std::string allow) {
  auto out = answer(ApiError{405, "HTTPMethodNotAllowed", "The method is not allowed here; allowed: " + allow + "."});
  out.allow = std::move(allow);
  return out;
}

}  // namespace

std::string error_body(const ApiError& error) {
  return json::serialize(
      json::object{{"NeutronError", json::object{{"type", error.type}, {"message", error.message}, {"detail", ""}}}});
}

Generators Generators::random() {
  auto engine = std::make_shared<std::mt19937_64>();
  std::random_device device;
  std::seed_seq seed{device(), device(), device(), device(), device(), device(), device(), device()};
  engine->seed(seed);
  return {.uuid =
              [engine] {
                auto a = (*engine)();
                auto b = (*engine)();
                return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32U, (a >> 16U) & 0xFFFFU, a & 0xFFFU,
                                   0x8000U | ((b >> 48U) & 0x3FFFU), b & 0xFFFFFFFFFFFFULL);
              },
          .mac =
              [engine] {
                auto a = (*engine)();
                return Mac{{0xFA, 0x16, 0x3E, static_cast<std::uint8_t>(a >> 16U), static_cast<std::uint8_t>(a >> 8U),
                            static_cast<std::uint8_t>(a)}};
              }};
}

Api::Api(State& state, Feedback& feedback, const Translator& translator, const Clock& clock, Generators generators)
    : state_(state), feedback_(feedback), translator_(translator), clock_(clock), generate_(std::move(generators)) {}

std::int64_t Api::now() const {
  return std::chrono::duration_cast<std::chrono::seconds>(clock_.wall().time_since_epoch()).count();
}

template <class R>
void Api::put_updated(Change& change, const R& old, R next) const {
  next.updated = old.updated;
  next.revision = old.revision;
  if (to_row(next) == to_row(old)) {
    if (!change.empty()) change.put(std::move(next));  // a draft of it may be in State
    return;
  }
  next.updated = now();
  ++next.revision;
  change.put(std::move(next));
}
template void Api::put_updated(Change&, const Network&, Network) const;
template void Api::put_updated(Change&, const Subnet&, Subnet) const;
template void Api::put_updated(Change&, const Port&, Port) const;
template void Api::put_updated(Change&, const SecurityGroup&, SecurityGroup) const;
template void Api::put_updated(Change&, const Rule&, Rule) const;

template <class R>
Reply<Outcome> Api::dispatch(const Request& request, std::string_view id, Change& change) {
  constexpr Names kNames = names(static_cast<const R*>(nullptr));
  View view = view_of(request.caller);

  if (id.empty()) {
    if (request.method == "GET") {
      if constexpr (std::is_same_v<R, SecurityGroup>) {
        if (!request.caller.project.empty()) default_group(change, request.caller.project);
      }
      auto found = list<R>(request.query, view, fmt::format("{}/v2.0/{}", request.base, kNames.many));
      if (!found) return tl::unexpected(found.error());
      std::string tail = "]";
      if (!found->links.empty())
        tail += fmt::format(",\"{}_links\":{}", kNames.list_key, json::serialize(found->links));
      Outcome out{200, fmt::format("{{\"{}\":{}", kNames.list_key, json::serialize(found->items)), {}, {}, {}};
      out.body.pop_back();
      tail += "}";
      if (found->rest.empty())
        out.body += tail;
      else
        out.rest =
            Rest{kind_of<R>(), std::move(found->rest), 0, std::move(view.fields), request.caller, std::move(tail)};
      return out;
    }
    if (request.method != "POST") return method_not_allowed("GET, POST");
    auto body = parse_body(request.body);
    if (!body) return tl::unexpected(body.error());
    if (const auto* one = body->if_contains(kNames.one)) {
      if (!one->is_object() || body->size() != 1)
        return refuse(400, "HTTPBadRequest", "Exactly one object '{}' is expected in the request body.", kNames.one);
      auto made = create(change, one->get_object(), request.caller, static_cast<const R*>(nullptr));
      if (!made) return tl::unexpected(made.error());
      return answer(201, json::object{{kNames.one, show(*state_.find<R>(*made), view)}});
    }
    const auto* many = body->if_contains(kNames.list_key);
    if (!many || !many->is_array() || body->size() != 1)
      return refuse(400, "HTTPBadRequest", "Unable to find '{}' in request body.", kNames.one);
    const auto& items = many->get_array();
    if (items.empty() || items.size() > kMaxBulk)
      return refuse(400, "HTTPBadRequest", "Between 1 and {} elements are taken in '{}', not {}.", kMaxBulk,
                    kNames.list_key, items.size());
    std::vector<std::string> ids;
    for (const auto& item : items) {
      if (!item.is_object())
        return refuse(400, "HTTPBadRequest", "An element of '{}' is not an object.", kNames.list_key);
      auto made = create(change, item.get_object(), request.caller, static_cast<const R*>(nullptr));
      if (!made) return tl::unexpected(made.error());
      ids.push_back(std::move(*made));
    }
    json::array shown_items;
    for (const auto& made : ids) shown_items.push_back(show(*state_.find<R>(made), view));
    return answer(201, json::object{{kNames.list_key, std::move(shown_items)}});
  }

  const R* found = state_.find<R>(id);
  if (!found || !visible(*found, view))
    return refuse(404, std::string(kNames.not_found), "{} {} could not be found.", kNames.one, id.substr(0, 64));
  if (request.method == "GET") {
    for (auto& f : values_of(request.query, "fields")) {
      if (!f.empty()) view.fields.insert(std::move(f));
    }
    return answer(200, json::object{{kNames.one, show(*found, view)}});
  }
  if (request.method != "PUT" && request.method != "DELETE") return method_not_allowed("GET, PUT, DELETE");
  if (!request.caller.admin && found->project != request.caller.project)
    return refuse(403, "PolicyNotAuthorized", "rule:{}_{} is disallowed by policy.",
                  request.method == "PUT" ? "update" : "delete", kNames.one);
  if (request.method == "DELETE") {
    const R before = *found;
    if (auto r = remove(change, before, request.caller); !r) return tl::unexpected(r.error());
    return Outcome{204, {}, {}, {}, {}};
  }
  auto body = parse_body(request.body);
  if (!body) return tl::unexpected(body.error());
  const auto* one = body->if_contains(kNames.one);
  if (!one || !one->is_object() || body->size() != 1)
    return refuse(400, "HTTPBadRequest", "Unable to find '{}' in request body.", kNames.one);
  const R before = *found;
  if (auto r = update(change, before, one->get_object(), request.caller); !r) return tl::unexpected(r.error());
  return answer(200, json::object{{kNames.one, show(*state_.find<R>(before.id), view)}});
}

template <class R>
Outcome Api::collection(const Request& request, std::string_view id) {
  Change change(state_);
  auto out = dispatch<R>(request, id, change);
  if (!out || out->status >= 400) {
    change.rollback();
    return out ? std::move(*out) : answer(out.error());
  }
  out->commit.intents = translator_.of(change.touched());
  out->commit.rows = change.touched();
  return std::move(*out);
}

template <class R>
void Api::more_of(Outcome& outcome) const {
  auto& rest = *outcome.rest;
  View view{state_, feedback_, rest.caller, rest.fields};
  auto end = std::min(rest.ids.size(), rest.next + kListTurn);
  for (; rest.next < end; ++rest.next) {
    const R* r = state_.find<R>(rest.ids[rest.next]);
    if (!r || !visible(*r, view)) continue;
    outcome.body += ',';
    outcome.body += json::serialize(show(*r, view));
  }
}

void Api::more(Outcome& outcome) const {
  if (!outcome.rest) return;
  switch (outcome.rest->kind) {
    case Kind::network:
      more_of<Network>(outcome);
      break;
    case Kind::subnet:
      more_of<Subnet>(outcome);
      break;
    case Kind::port:
      more_of<Port>(outcome);
      break;
    case Kind::group:
      more_of<SecurityGroup>(outcome);
      break;
    case Kind::rule:
      more_of<Rule>(outcome);
      break;
  }
  if (outcome.rest->next < outcome.rest->ids.size()) return;
  outcome.body += outcome.rest->tail;
  outcome.rest.reset();
}

Outcome Api::agents(const Request& request, std::string_view id) {
  View view = view_of(request.caller);
  if (!request.caller.admin)
    return answer(ApiError{403, "PolicyNotAuthorized", "rule:get_agents is disallowed by policy."});
  if (id.empty()) {
    if (request.method != "GET") return method_not_allowed("GET");
    auto found = list<Agent>(request.query, view, request.base + "/v2.0/agents");
    if (!found) return answer(found.error());
    for (const auto& rest : found->rest) {
      for (const auto& [host, a] : feedback_.agents()) {
        if (a.id == rest) found->items.push_back(show(a, view));
      }
    }
    json::object body{{"agents", std::move(found->items)}};
    if (!found->links.empty()) body["agents_links"] = std::move(found->links);
    return answer(200, body);
  }
  const Agent* agent = nullptr;
  for (const auto& [host, a] : feedback_.agents()) {
    if (a.id == id) agent = &a;
  }
  if (!agent)
    return answer(ApiError{404, "AgentNotFound", fmt::format("Agent {} could not be found.", id.substr(0, 64))});
  if (request.method == "GET") return answer(200, json::object{{"agent", show(*agent, view)}});
  if (request.method != "DELETE") return method_not_allowed("GET, DELETE");
  // The host leaves the cloud by intent: its Node goes, so that the others end their sessions with it, and what it
  // reported. An agent that runs comes back with its next heartbeat.
  Outcome out{204, {}, {}, {}, {}};
  out.commit.intents.push_back(translator_.removal("/calico/resources/v3/projectcalico.org/nodes/" + agent->host));
  out.commit.removed_prefixes.push_back(feedback_.host_prefix(agent->host));
  return out;
}

Outcome Api::handle(const Request& request) {
  if (request.path.size() > 1024) return answer(ApiError{400, "HTTPBadRequest", "The path is too long."});
  auto parts = split(request.path);
  auto version = [&] {
    return json::object{{"id", "v2.0"},
                        {"status", "CURRENT"},
                        {"links", json::array{json::object{{"rel", "self"}, {"href", request.base + "/v2.0/"}}}}};
  };
  if (parts.empty()) {
    if (request.method != "GET") return method_not_allowed("GET");
    return answer(200, json::object{{"versions", json::array{version()}}});
  }
  auto unknown = [&] { return answer(ApiError{404, "HTTPNotFound", "The resource could not be found."}); };
  if (parts[0] != "v2.0") return unknown();
  if (parts.size() == 1) {
    if (request.method != "GET") return method_not_allowed("GET");
    json::array resources;
    for (auto name : kCollections) {
      std::string one(name.substr(0, name.size() - 1));
      std::string many(name);
      for (auto* s : {&one, &many}) std::replace(s->begin(), s->end(), '-', '_');
      resources.push_back(json::object{
          {"name", one},
          {"collection", many},
          {"links",
           json::array{json::object{{"rel", "self"}, {"href", fmt::format("{}/v2.0/{}", request.base, name)}}}}});
    }
    return answer(200, json::object{{"resources", std::move(resources)}});
  }
  // Old clients end paths with .json.
  auto trim = [](std::string_view part) {
    if (part.ends_with(".json")) part.remove_suffix(5);
    return part;
  };
  auto name = parts.size() == 2 ? trim(parts[1]) : parts[1];
  auto id = parts.size() > 2 ? trim(parts[2]) : std::string_view();
  for (auto missing : kNotProvided) {
    if (name == missing)
      return answer(
          ApiError{404, "HTTPNotFound",
                   fmt::format("The resource could not be found: this controller does not provide {}.", name)});
  }
  if (parts.size() > 3) return unknown();
  if (name == "networks") return collection<Network>(request, id);
  if (name == "subnets") return collection<Subnet>(request, id);
  if (name == "ports") return collection<Port>(request, id);
  if (name == "security-groups") return collection<SecurityGroup>(request, id);
  if (name == "security-group-rules") return collection<Rule>(request, id);
  if (name == "agents") return agents(request, id);
  if (name == "extensions") {
    if (request.method != "GET") return method_not_allowed("GET");
    json::array all;
    for (const auto& e : kExtensions) {
      if (id == e.alias) return answer(200, json::object{{"extension", extension_json(e)}});
      all.push_back(extension_json(e));
    }
    if (!id.empty())
      return answer(ApiError{404, "ExtensionNotFound", fmt::format("Extension {} could not be found.", id)});
    return answer(200, json::object{{"extensions", std::move(all)}});
  }
  return unknown();
}

}  // namespace calico::controller
