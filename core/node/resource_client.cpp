#include "core/node/resource_client.hpp"

#include <boost/json.hpp>

#include "core/http/message.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using resources::Item;

constexpr std::size_t kMaxListed = 1000000;  // resources; an answer without end must not fill the memory

json::object object_of(const std::string& text) {
  json::error_code ec;
  auto v = json::parse(text, ec);
  if (ec || !v.is_object()) return {};
  return std::move(v.get_object());
}

std::string error_of(const json::object& o) {
  const auto* e = o.if_contains("error");
  return e && e->is_string() ? std::string(e->get_string()) : "the process answered something that is not understood";
}

int code_of(int status) { return status == 404 || status == 409 ? 1 : status == 400 ? 2 : 3; }

/// [first, last) of what goes into one transaction.
struct Batch {
  std::size_t first, last;
  std::string items;  ///< their JSON, separated by ","
};

std::vector<Batch> batches_of(const std::vector<Item>& items) {
  std::vector<Batch> out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    auto resource = items[i].resource;
    if (items[i].resource_version) {
      auto& meta = resource["metadata"].get_object();
      meta["resourceVersion"] = std::to_string(*items[i].resource_version);
    }
    const auto text = json::serialize(resource);
    const bool fresh = out.empty() || out.back().last - out.back().first >= resources::kMaxChanges ||
                       out.back().items.size() + text.size() > resources::kMaxChangeBytes;
    if (fresh) out.push_back({i, i, {}});
    auto& b = out.back();
    b.items += (b.items.empty() ? "" : ",") + text;
    b.last = i + 1;
  }
  return out;
}

/// One batch; false: it ended here.
bool send(const Ask& ask, const Batch& b, const WriteOptions& o, bool dry_run, WriteReport& report) {
  const auto rest = [&](const char* action) {
    for (auto i = b.first; i < b.last; ++i) report.results[i] = {action, 0, {}};
  };
  auto reply = ask("POST", "/resources/change",
                   fmt::format(R"({{"verb":"{}","dry_run":{},"skip":{},"items":[{}]}})", resources::to_string(o.verb),
                               dry_run, o.skip, b.items));
  if (!reply) {
    rest(dry_run ? "not written" : "not known");
    report.error = reply.error().what;
    report.code = 3;
    return false;
  }
  const auto answer = object_of(reply->json);
  const auto* outcomes = answer.if_contains("outcomes");
  if (!outcomes || !outcomes->is_array() || outcomes->get_array().size() != b.last - b.first) {
    const auto* unknown = answer.if_contains("unknown");
    const bool may_be = reply->status == 200 || (unknown && unknown->is_bool() && unknown->get_bool());
    rest(may_be && !dry_run ? "not known" : "not written");
    report.error = error_of(answer);
    report.code = reply->status == 200 ? 3 : code_of(reply->status);
    return false;
  }
  const bool refused = reply->status != 200;
  std::size_t i = b.first;
  for (const auto& e : outcomes->get_array()) {
    auto& r = report.results[i++];
    const auto text = [&](const char* name) {
      const auto* v = e.is_object() ? e.get_object().if_contains(name) : nullptr;
      return v && v->is_string() ? std::string(v->get_string()) : std::string();
    };
    const auto* revision = e.is_object() ? e.get_object().if_contains("resourceVersion") : nullptr;
    r = {text("action"), revision && revision->is_int64() ? revision->get_int64() : 0, text("why")};
    if (refused && r.action != "refused" && r.action != "unchanged" && r.action != "skipped") r = {};
  }
  if (refused) {
    report.code = 1;
    report.error = "refused";
  }
  return !refused;
}

}  // namespace

WriteReport write_items(const Ask& ask, const std::vector<Item>& items, WriteOptions o) {
  WriteReport report;
  report.results.resize(items.size());
  const auto batches = batches_of(items);
  bool good = true;
  for (const auto& b : batches) {
    good = send(ask, b, o, true, report) && good;
    if (report.code == 3) break;
  }
  if (o.dry_run && good) return report;
  if (!good) {
    for (auto& r : report.results)
      if (r.action != "refused" && r.action != "unchanged" && r.action != "skipped") r = {};
    return report;
  }
  for (auto& r : report.results) r = {};
  for (const auto& b : batches)
    if (!send(ask, b, o, false, report)) break;
  return report;
}

tl::expected<Listed, Failure> list_resources(const Ask& ask, const resources::Kind& kind, const std::string& ns) {
  Listed out;
  std::string after;
  do {
    const auto target = fmt::format("/resources/list?kind={}&namespace={}&after={}&revision={}", kind.name,
                                    http::percent_encode(ns), http::percent_encode(after), out.revision);
    auto reply = ask("GET", target, {});
    if (!reply) return tl::unexpected(Failure{3, reply.error().what});
    auto answer = object_of(reply->json);
    if (reply->status != 200) return tl::unexpected(Failure{code_of(reply->status), error_of(answer)});
    const auto* items = answer.if_contains("items");
    const auto* next = answer.if_contains("next");
    const auto* revision = answer.if_contains("revision");
    if (!items || !items->is_array() || !next || !next->is_string() || !revision || !revision->is_int64())
      return tl::unexpected(Failure{3, error_of({})});
    for (const auto& v : items->get_array())
      if (v.is_object()) out.items.push_back(v.get_object());
    if (const auto* broken = answer.if_contains("broken"); broken && broken->is_array())
      for (const auto& v : broken->get_array())
        if (v.is_string()) out.broken.emplace_back(v.get_string());
    out.revision = revision->get_int64();
    std::string following(next->get_string());
    if (!following.empty() && following <= after) return tl::unexpected(Failure{3, "the list does not go on"});
    after = std::move(following);
    if (out.items.size() > kMaxListed)
      return tl::unexpected(Failure{3, fmt::format("more than {} resources", kMaxListed)});
  } while (!after.empty());
  return out;
}

tl::expected<json::object, Failure> get_resource(const Ask& ask, const resources::Kind& kind, const std::string& ns,
                                                 const std::string& name) {
  auto reply = ask("GET",
                   fmt::format("/resources/get?kind={}&namespace={}&name={}", kind.name, http::percent_encode(ns),
                               http::percent_encode(name)),
                   {});
  if (!reply) return tl::unexpected(Failure{3, reply.error().what});
  auto answer = object_of(reply->json);
  if (reply->status != 200) return tl::unexpected(Failure{code_of(reply->status), error_of(answer)});
  return answer;
}

}  // namespace calico::node
