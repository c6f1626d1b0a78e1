#include "core/node/store_control.hpp"

#include <algorithm>
#include <boost/json.hpp>

#include "core/bgp/node_sessions.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "core/node/control_reply.hpp"
#include "core/node/store_watch.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using module::ControlReply;
using module::ControlRequest;

constexpr std::size_t kTxnOps = 128;
constexpr int kSwaps = 8;  // of a Node that its host writes at the same time

ControlReply refusal(const Error& e) {
  switch (e.code) {
    case Errc::not_found:
      return error_reply(404, e.what);
    case Errc::invalid:
    case Errc::conflict:
      return error_reply(409, e.what);
    default:
      return error_reply(503, e.what);
  }
}

json::object state_json(const sync::SyncState& s) {
  return {{"phase", to_string(s.phase)}, {"reason", s.reason}, {"revision", s.revision}};
}

json::object kv_json(const store::KeyValue& kv) {
  return {{"key", kv.key},
          {"value", kv.value},
          {"create_revision", kv.create_revision},
          {"mod_revision", kv.mod_revision},
          {"version", kv.version},
          {"lease", kv.lease}};
}

struct Drained {
  store::Revision revision = 0;
  bool changed = false;
};

/// The Node with the order to drain or without it, everything else as it is; nothing when it says so already.
Result<std::optional<std::string>> with_drain(std::string_view text, bool on) {
  const auto node = model::parse_node(text);
  if (!node) return tl::unexpected(node.error());
  if (bgp::wants_drain(*node) == on) return std::nullopt;
  auto document = json::parse(text);  // parse_node read it
  auto& metadata = document.as_object()["metadata"];
  if (!metadata.is_object()) metadata = json::object();
  auto& annotations = metadata.get_object()["annotations"];
  if (!annotations.is_object()) annotations = json::object();
  if (on)
    annotations.get_object()[bgp::kDrainAnnotation] = "yes";
  else
    annotations.get_object().erase(bgp::kDrainAnnotation);
  return json::serialize(document);
}

}  // namespace

struct StoreControl::Impl {
  Impl(sync::Service& s, std::string r, Revoke v) : service(s), region(std::move(r)), revoke(std::move(v)) {
    loop.start();
  }
  ~Impl() {
    loop.call([this] { tasks.cancel(); });
    loop.stop();
  }

  /// Runs `f` on our loop and waits for its answer, at most kAnswerTime.
  template <class T>
  Result<T> wait(std::function<awaitable<Result<T>>()> f) {
    return result_of<T>(loop, tasks, std::move(f));
  }

  ControlReply status(const ControlRequest&) {
    const auto s = service.status();
    json::object out = state_json(s.state);
    out["cluster_guid"] = s.cluster_guid;
    out["cluster_id"] = fmt::format("{:x}", s.cluster_id);
    out["server"] = json::object{{"endpoint", s.server_endpoint}, {"version", s.server_version}};
    out["last_error"] = s.last_error;
    out["mirror"] =
        json::object{{"file", s.mirror_file}, {"note", s.mirror_note}, {"keys", s.keys}, {"bytes", s.bytes}};
    out["counters"] =
        json::object{{"lists", s.lists}, {"resumes", s.resumes}, {"events", s.events}, {"refusals", s.refusals}};
    out["reports"] = json::object{{"total", s.reports_total},
                                  {"pending", s.reports_pending},
                                  {"lease", fmt::format("{:x}", s.lease)},
                                  {"error", s.report_error}};
    return {200, json::serialize(out)};
  }

  ControlReply get(const ControlRequest& r) {
    const auto key = param(r, "key");
    const bool prefix = param(r, "prefix") == "yes";
    const bool local = param(r, "local") == "yes";
    if (key.empty()) return error_reply(400, "which key?");
    json::object out{{"from", local ? "mirror" : "datastore"}};
    json::array kvs;
    if (local) {
      const auto state = service.view().state();
      out["revision"] = state.revision;
      if (prefix) {
        for (const auto& kv : service.view().range(key)) kvs.push_back(kv_json(kv));
      } else if (const auto kv = service.view().get(key)) {
        kvs.push_back(kv_json(*kv));
      }
    } else {
      auto& ds = service.datastore();
      auto answer = wait<store::RangeResult>([&ds, key, prefix]() -> awaitable<Result<store::RangeResult>> {
        store::RangeRequest request;
        request.key = key;
        if (prefix) request.range_end = store::prefix_end(key);
        auto got = co_await ds.range(std::move(request));
        co_return got;
      });
      if (!answer) return refusal(answer.error());
      out["revision"] = answer->revision;
      for (const auto& kv : answer->kvs) kvs.push_back(kv_json(kv));
    }
    if (kvs.empty())
      return error_reply(
          404, fmt::format("nothing {} {} in the {}", prefix ? "below" : "at", key, local ? "mirror" : "datastore"));
    out["kvs"] = std::move(kvs);
    return {200, json::serialize(out)};
  }

  ControlReply accept(const ControlRequest&) {
    const auto before = service.view().state();
    if (auto s = service.accept(); !s) return refusal(s.error());
    return {200, json::serialize(json::object{{"accepted", before.reason}})};
  }

  /// Which of these nodes have a live (leased) agent status. Asked of the datastore: only a controller mirrors them.
  Result<std::vector<bool>> alive(const std::vector<std::string>& names) {
    auto& ds = service.datastore();
    std::vector<std::string> keys;
    for (const auto& n : names) keys.push_back(model::status_key(region, n));
    return wait<std::vector<bool>>([&ds, keys]() -> awaitable<Result<std::vector<bool>>> {
      std::vector<bool> out;
      for (std::size_t at = 0; at < keys.size(); at += kTxnOps) {
        store::TxnRequest txn;
        for (std::size_t i = at; i < std::min(keys.size(), at + kTxnOps); ++i) {
          store::RangeRequest range;
          range.key = keys[i];
          range.keys_only = true;
          txn.success.emplace_back(std::move(range));
        }
        const auto asked = txn.success.size();
        auto got = co_await ds.txn(std::move(txn));
        if (!got) co_return tl::unexpected(got.error());
        if (got->responses.size() != asked) co_return fail(Errc::internal, "answers are missing");
        for (const auto& r : got->responses) {
          const auto* range = std::get_if<store::RangeResult>(&r);
          out.push_back(range && !range->kvs.empty());
        }
      }
      co_return out;
    });
  }

  ControlReply list(const ControlRequest&) {
    std::vector<std::pair<std::string, model::Node>> nodes;
    std::vector<std::string> names;
    json::array broken;
    for (const auto& kv : service.view().range(model::kNodes)) {
      auto name = kv.key.substr(model::kNodes.size());
      auto node = model::parse_node(kv.value);
      if (!node) {
        broken.emplace_back(fmt::format("{}: {}", name, node.error().what));
        continue;
      }
      names.push_back(name);
      nodes.emplace_back(std::move(name), std::move(*node));
    }
    auto up = names.empty() ? Result<std::vector<bool>>(std::vector<bool>()) : alive(names);
    json::array list;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const auto& [name, n] = nodes[i];
      json::array roles, addresses;
      for (const auto& r : bgp::roles_of(n)) roles.emplace_back(r);
      for (const auto& a : n.all_addresses()) addresses.emplace_back(a.to_string());
      const auto text = [](const auto& ip) { return ip ? json::value(ip->to_string()) : json::value(nullptr); };
      json::object o{{"name", name}, {"roles", std::move(roles)}};
      o["ipv4"] = n.bgp_ipv4 ? json::value(n.bgp_ipv4->addr.to_string()) : json::value(nullptr);
      o["ipv6"] = n.bgp_ipv6 ? json::value(n.bgp_ipv6->addr.to_string()) : json::value(nullptr);
      o["as"] = n.as_number ? json::value(n.as_number->value) : json::value(nullptr);
      o["cluster_id"] = text(n.route_reflector_cluster_id);
      o["addresses"] = std::move(addresses);
      o["draining"] = bgp::wants_drain(n);
      // Only these roles report themselves alive; of a Node that says nothing of its roles it is not known.
      const auto own_roles = bgp::roles_of(n);
      const bool reports =
          std::any_of(own_roles.begin(), own_roles.end(), [](const auto& r) { return r == "compute" || r == "felix"; });
      o["alive"] = up && (reports || (*up)[i]) ? json::value(static_cast<bool>((*up)[i])) : json::value(nullptr);
      list.push_back(std::move(o));
    }
    json::object out{{"nodes", std::move(list)}, {"state", state_json(service.view().state())}};
    if (!up) out["alive_error"] = up.error().what;
    if (!broken.empty()) out["ignored"] = std::move(broken);
    return {200, json::serialize(out)};
  }

  /// Compare-and-swap of one annotation: whoever else writes the Node meanwhile loses nothing.
  ControlReply drain(const ControlRequest& r) {
    const auto name = param(r, "name");
    const bool on = param(r, "off") != "yes";
    if (name.empty() || name.find('/') != std::string::npos) return error_reply(400, "which node?");
    auto& ds = service.datastore();
    auto done = wait<Drained>([&ds, name, on]() -> awaitable<Result<Drained>> {
      for (int attempt = 0; attempt < kSwaps; ++attempt) {
        store::RangeRequest request;
        request.key = model::node_key(name);
        auto got = co_await ds.range(std::move(request));
        if (!got) co_return tl::unexpected(got.error());
        if (got->kvs.empty()) co_return fail(Errc::not_found, "no Node {}", name);
        const auto& kv = got->kvs.front();
        auto value = with_drain(kv.value, on);
        if (!value) co_return wrap(value.error(), fmt::format("Node {}", name));
        if (!*value) co_return Drained{got->revision, false};
        store::TxnRequest txn;
        txn.compare.push_back(store::mod_is(kv.key, kv.mod_revision));
        store::PutRequest put;
        put.key = kv.key;
        put.value = std::move(**value);
        put.lease = kv.lease;
        txn.success.emplace_back(std::move(put));
        auto swapped = co_await ds.txn(std::move(txn));
        if (!swapped) co_return tl::unexpected(swapped.error());
        if (swapped->succeeded) co_return Drained{swapped->revision, true};
      }
      co_return fail(Errc::conflict, "Node {} was changed {} times meanwhile; try again", name, kSwaps);
    });
    if (!done) return refusal(done.error());
    return {200, json::serialize(json::object{
                     {"node", name}, {"draining", on}, {"changed", done->changed}, {"revision", done->revision}})};
  }

  ControlReply remove(const ControlRequest& r) {
    const auto name = param(r, "name");
    if (name.empty() || name.find('/') != std::string::npos) return error_reply(400, "which node?");
    // First, so that the host cannot write its Node again.
    auto revoked = revoke ? revoke(name) : Result<std::vector<std::string>>();
    if (!revoked) return refusal(revoked.error());
    auto& ds = service.datastore();
    auto done = wait<store::DeleteResult>([&ds, name]() -> awaitable<Result<store::DeleteResult>> {
      store::DeleteRequest request;
      request.key = model::node_key(name);
      request.who = "operator";
      auto answer = co_await ds.del(std::move(request));
      co_return answer;
    });
    if (!done) return refusal(done.error());
    if (done->deleted == 0 && revoked->empty()) return error_reply(404, fmt::format("no Node {}", name));
    return {200, json::serialize(
                     json::object{{"deleted", name}, {"revision", done->revision}, {"revoked", revoked->size()}})};
  }

  sync::Service& service;
  const std::string region;
  const Revoke revoke;
  Loop loop{"control-store"};
  TaskGroup tasks{loop.executor(), "control-store"};
};

StoreControl::StoreControl(sync::Service& service, std::string region, module::Control& control, Revoke revoke)
    : impl_(std::make_unique<Impl>(service, std::move(region), std::move(revoke))) {
  auto* i = impl_.get();
  control.handle("GET /store/status", [i](const ControlRequest& r) { return i->status(r); });
  control.handle("GET /store/get", [i](const ControlRequest& r) { return i->get(r); });
  control.handle("POST /store/accept", [i](const ControlRequest& r) { return i->accept(r); });
  control.stream("GET /store/watch", watch_store(service.datastore()));
  control.handle("GET /node/list", [i](const ControlRequest& r) { return i->list(r); });
  control.handle("POST /node/drain", [i](const ControlRequest& r) { return i->drain(r); });
  control.handle("POST /node/delete", [i](const ControlRequest& r) { return i->remove(r); });
}

StoreControl::~StoreControl() = default;

}  // namespace calico::node
