#include "core/resources/changes.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "core/model/keys.hpp"
#include "core/resources/members.hpp"
#include "core/resources/scalar.hpp"
#include "core/resources/yaml.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;
using store::awaitable;
using store::KeyValue;

constexpr int kTries = 5;  // of a transaction that others were faster than

std::optional<json::object> parse_stored(const std::string& text) {
  json::error_code ec;
  json::parse_options options;
  options.max_depth = kMaxYamlDepth;
  auto v = json::parse(text, ec, {}, options);
  if (ec || !v.is_object()) return {};
  return std::move(v.get_object());
}

/// Absent types of a policy: upstream's client writes what the rules show, and to agents absent means both. What is
/// there without them (the OpenStack driver's) keeps meaning both.
void fill_types(const Item& item, const json::object* stored, json::object& resource) {
  const std::string_view kind = item.kind->name;
  if (kind != "NetworkPolicy" && kind != "GlobalNetworkPolicy") return;
  if (is_generated(*item.kind, item.name)) return;
  auto& spec = resource["spec"].get_object();
  const auto given = [](const json::object& s, const char* key) {
    const auto* a = at(s, key).if_array();
    return a && !a->empty();
  };
  if (given(spec, "types") || (stored && !given(object_at(*stored, "spec"), "types"))) return;
  json::array types;
  if (given(spec, "ingress") || !given(spec, "egress")) types.emplace_back("Ingress");
  if (given(spec, "egress")) types.emplace_back("Egress");
  spec["types"] = std::move(types);
}

/// What commands have noted on an object (`node drain`) is not a file's to take away by silence; `replace` is.
void keep_own_annotations(const json::object& stored, json::object& meta) {
  for (const auto& [name, value] : object_at(stored, "annotations")) {
    if (!std::string_view(name).starts_with("calico-node/")) continue;
    auto& annotations = meta["annotations"];
    if (!annotations.is_object()) annotations = json::object();
    if (!annotations.get_object().contains(name)) annotations.get_object()[name] = value;
  }
}

struct Step {
  Outcome outcome;
  std::optional<store::Op> op;
};

Step plan(const Item& item, const KeyValue* kv, const ChangeOptions& o) {
  Step step;
  const auto refuse = [&](std::string why) {
    step.outcome.kind = Outcome::Kind::refused;
    step.outcome.why = std::move(why);
    return step;
  };
  step.outcome.revision = kv ? kv->mod_revision : 0;
  if (kv && o.verb == Verb::create) {
    if (!o.skip) return refuse("is there already");
    step.outcome.kind = Outcome::Kind::skipped;
    return step;
  }
  if (!kv && (o.verb == Verb::replace || o.verb == Verb::remove)) {
    if (!o.skip || o.verb == Verb::replace) return refuse("is not there");
    step.outcome.kind = Outcome::Kind::skipped;
    return step;
  }
  if (item.resource_version && !kv)
    return refuse(fmt::format(
        "conflict: resourceVersion {} is given and it is not there (any more); without it a new one is made",
        *item.resource_version));
  if (item.resource_version && *item.resource_version != kv->mod_revision)
    return refuse(fmt::format("conflict: it was changed meanwhile: resourceVersion is {}, given is {}",
                              kv->mod_revision, *item.resource_version));
  if (o.verb == Verb::remove) {
    store::DeleteRequest request;
    request.key = item.key;
    step.outcome.kind = Outcome::Kind::deleted;
    step.op = std::move(request);
    return step;
  }

  const auto stored = kv ? parse_stored(kv->value) : std::nullopt;
  json::object wanted = item.resource;
  auto& meta = wanted["metadata"].get_object();
  const auto& old_meta = stored ? object_at(*stored, "metadata") : object_at(json::object(), "metadata");
  const auto given_uid = at(meta, "uid"), stored_uid = at(old_meta, "uid");
  if (stored && given_uid.is_string() && stored_uid.is_string() && given_uid != stored_uid)
    return refuse("conflict: another object of this name is there (its uid differs); leave uid out to change that one");
  const auto keep = [&](const char* key, const std::string& fresh) {
    if (stored && !at(old_meta, key).is_null())
      meta[key] = at(old_meta, key);
    else if (stored)
      meta.erase(key);
    else if (!at(meta, key).is_string() || at(meta, key).get_string().empty())
      meta[key] = fresh;
  };
  keep("uid", o.make_uid ? o.make_uid() : std::string());
  keep("creationTimestamp", o.now);
  if (o.verb == Verb::apply) keep_own_annotations(old_meta, meta);
  fill_types(item, stored ? &*stored : nullptr, wanted);
  wanted = ordered(*item.kind, wanted);
  if (stored && same_value(*stored, wanted)) return step;
  store::PutRequest request;
  request.key = item.key;
  request.value = json::serialize(wanted);
  if (kv) request.lease = kv->lease;
  step.outcome.kind = kv ? Outcome::Kind::updated : Outcome::Kind::created;
  step.op = std::move(request);
  return step;
}

/// Values of these keys, in order; nullopt = not there.
awaitable<Result<std::vector<std::optional<KeyValue>>>> read_keys(store::Datastore& ds, std::vector<std::string> keys) {
  store::TxnRequest txn;
  for (const auto& key : keys) {
    store::RangeRequest range;
    range.key = key;
    txn.success.emplace_back(std::move(range));
  }
  auto got = co_await ds.txn(std::move(txn));
  if (!got) co_return tl::unexpected(got.error());
  std::vector<std::optional<KeyValue>> out;
  for (auto& r : got->responses) {
    auto* range = std::get_if<store::RangeResult>(&r);
    if (!range) co_return fail(Errc::internal, "an answer is of another kind than its question");
    out.push_back(range->kvs.empty() ? std::nullopt : std::optional(std::move(range->kvs.front())));
  }
  if (out.size() != keys.size()) co_return fail(Errc::internal, "answers are missing");
  co_return out;
}

/// What surely had no effect.
bool surely_not_done(Errc code) {
  return code == Errc::no_permission || code == Errc::invalid || code == Errc::exhausted || code == Errc::unsupported;
}

Result<json::object> shown_resource(const KeyValue& kv) {
  auto o = parse_stored(kv.value);
  if (!o || !at(*o, "metadata").is_object()) return fail(Errc::corrupt, "{}: not a resource", kv.key);
  auto& meta = (*o)["metadata"].get_object();
  meta["resourceVersion"] = std::to_string(kv.mod_revision);
  return std::move(*o);
}

constexpr std::array kVerbs{std::pair{Verb::apply, "apply"}, std::pair{Verb::create, "create"},
                            std::pair{Verb::replace, "replace"}, std::pair{Verb::remove, "delete"}};

}  // namespace

std::string_view to_string(Verb v) {
  for (const auto& [verb, name] : kVerbs)
    if (verb == v) return name;
  return "?";
}

std::optional<Verb> parse_verb(std::string_view text) {
  for (const auto& [verb, name] : kVerbs)
    if (text == name) return verb;
  return {};
}

std::string_view to_string(Outcome::Kind k) {
  switch (k) {
    case Outcome::Kind::created:
      return "created";
    case Outcome::Kind::updated:
      return "updated";
    case Outcome::Kind::unchanged:
      return "unchanged";
    case Outcome::Kind::deleted:
      return "deleted";
    case Outcome::Kind::skipped:
      return "skipped";
    case Outcome::Kind::refused:
      return "refused";
  }
  return "?";
}

awaitable<Changed> change(store::Datastore& ds, std::vector<Item> items, ChangeOptions options) {
  Changed out;
  if (items.size() > kMaxChanges) {
    out.error =
        Error{Errc::invalid, fmt::format("{} resources in one transaction, at most {}", items.size(), kMaxChanges)};
    co_return out;
  }
  if (items.empty()) co_return out;
  std::vector<std::string> keys;
  for (const auto& i : items) keys.push_back(i.key);
  for (int tries = 0; tries < kTries; ++tries) {
    auto now = co_await read_keys(ds, keys);
    if (!now) {
      out.error = now.error();
      co_return out;
    }
    out.outcomes.clear();
    out.refused = false;
    store::TxnRequest txn;
    std::vector<std::size_t> written;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto& kv = (*now)[i];
      auto step = plan(items[i], kv ? &*kv : nullptr, options);
      if (step.op) {
        txn.compare.push_back(kv ? store::mod_is(items[i].key, kv->mod_revision) : store::key_absent(items[i].key));
        txn.success.push_back(std::move(*step.op));
        written.push_back(i);
      }
      out.refused = out.refused || step.outcome.kind == Outcome::Kind::refused;
      out.outcomes.push_back(std::move(step.outcome));
    }
    if (out.refused || options.dry_run || txn.success.empty()) co_return out;
    txn.who = options.who;
    auto done = co_await ds.txn(std::move(txn));
    if (!done) {
      out.error = done.error();
      out.unknown = !surely_not_done(done.error().code);
      co_return out;
    }
    if (!done->succeeded) continue;
    for (const auto i : written)
      out.outcomes[i].revision = out.outcomes[i].kind == Outcome::Kind::deleted ? 0 : done->revision;
    co_return out;
  }
  out.outcomes.clear();
  out.error =
      Error{Errc::busy, fmt::format("others changed these resources {} times while we tried; try again", kTries)};
  co_return out;
}

awaitable<Result<Page>> list_page(store::Datastore& ds, std::string prefix, std::string after, store::Revision revision,
                                  std::int64_t limit) {
  store::RangeRequest request;
  request.key = after.empty() ? prefix : after + '\0';
  request.range_end = store::prefix_end(prefix);
  request.limit = limit;
  request.revision = revision;
  auto got = co_await ds.range(std::move(request));
  if (!got) co_return tl::unexpected(got.error());
  Page out;
  // A page is read at the revision of the first one.
  out.revision = revision != 0 ? revision : got->revision;
  for (const auto& kv : got->kvs) {
    auto r = shown_resource(kv);
    if (r)
      out.resources.push_back(std::move(*r));
    else
      out.broken.push_back(kv.key);
  }
  if (got->more && !got->kvs.empty()) out.next = got->kvs.back().key;
  co_return out;
}

awaitable<Result<json::object>> get_one(store::Datastore& ds, std::vector<std::string> keys) {
  const auto first = keys.empty() ? std::string() : keys.front();
  auto got = co_await read_keys(ds, std::move(keys));
  if (!got) co_return tl::unexpected(got.error());
  for (const auto& kv : *got)
    if (kv) co_return shown_resource(*kv);
  co_return fail(Errc::not_found, "nothing at {}", first);
}

std::string uid_of(std::uint64_t a, std::uint64_t b) {
  a = (a & ~0xf000ULL) | 0x4000ULL;
  b = (b & ~(3ULL << 62U)) | (1ULL << 63U);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32U, (a >> 16U) & 0xffffU, a & 0xffffU, b >> 48U,
                     b & 0xffffffffffffULL);
}

}  // namespace calico::resources
