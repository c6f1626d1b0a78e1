#include "core/node/resource_control.hpp"

#include <boost/json.hpp>
#include <charconv>
#include <ctime>
#include <random>

#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/node/control_reply.hpp"
#include "core/resources/changes.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using module::ControlReply;
using module::ControlRequest;

constexpr std::int64_t kPage = 500;

int status_of(Errc code) {
  switch (code) {
    case Errc::not_found:
      return 404;
    case Errc::invalid:
      return 400;
    case Errc::no_permission:
      return 403;
    default:
      return 503;
  }
}

std::string now_text() {
  const std::time_t t = std::time(nullptr);
  std::tm tm{};
  gmtime_r(&t, &tm);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
  return text;
}

std::string explained(const Error& e) {
  if (e.code == Errc::no_permission)
    return fmt::format("{}; this node may not write this: use the command on a controller", e.what);
  return e.what;
}

}  // namespace

struct ResourceControl::Impl {
  explicit Impl(store::Datastore& d) : ds(d) { loop.start(); }
  ~Impl() {
    loop.call([this] { tasks.cancel(); });
    loop.stop();
  }

  /// Runs `f` on our loop and waits for its answer, at most kAnswerTime; nullopt = it did not come.
  template <class T>
  std::optional<T> wait(std::function<store::awaitable<T>()> f) {
    return answer_of<T>(loop, tasks, std::move(f));
  }

  static std::string late() { return fmt::format("the datastore did not answer within {} s", kAnswerTime.count()); }

  ControlReply list(const ControlRequest& r) {
    const auto* kind = resources::find_kind(param(r, "kind"));
    if (!kind) return error_reply(400, resources::unknown_kind(param(r, "kind")));
    const auto ns = kind->namespaced ? param(r, "namespace") : std::string();
    if (ns.find('/') != std::string::npos) return error_reply(400, "no such namespace");
    const auto prefix = resources::prefix_of(*kind, ns);
    const auto after = param(r, "after");
    if (!after.empty() && !after.starts_with(prefix)) return error_reply(400, "after is no key of this list");
    store::Revision revision = 0;
    if (const auto text = param(r, "revision"); !text.empty())
      std::from_chars(text.data(), text.data() + text.size(), revision);
    auto page =
        wait<Result<resources::Page>>([this, prefix, after, revision]() -> store::awaitable<Result<resources::Page>> {
          auto got = co_await resources::list_page(ds, prefix, after, revision, kPage);
          co_return got;
        });
    if (!page) return error_reply(503, late());
    if (!*page) return error_reply(status_of(page->error().code), explained(page->error()));
    json::array items, broken;
    for (auto& o : (*page)->resources) items.push_back(std::move(o));
    for (auto& key : (*page)->broken) broken.emplace_back(std::move(key));
    return {200, json::serialize(json::object{{"items", std::move(items)},
                                              {"broken", std::move(broken)},
                                              {"revision", (*page)->revision},
                                              {"next", (*page)->next}})};
  }

  ControlReply get(const ControlRequest& r) {
    const auto* kind = resources::find_kind(param(r, "kind"));
    if (!kind) return error_reply(400, resources::unknown_kind(param(r, "kind")));
    const auto name = param(r, "name"), ns = kind->namespaced ? param(r, "namespace") : std::string();
    if (name.empty() || (name + ns).find('/') != std::string::npos || (kind->namespaced && ns.empty()))
      return error_reply(400, fmt::format("need a name{}", kind->namespaced ? " and a namespace" : ""));
    std::vector<std::string> keys{resources::key_of(*kind, ns, name)};
    if (auto other = resources::key_of(*kind, ns, resources::stored_name(*kind, name, "")); other != keys[0])
      keys.push_back(std::move(other));
    auto one = wait<Result<json::object>>([this, keys]() -> store::awaitable<Result<json::object>> {
      auto got = co_await resources::get_one(ds, keys);
      co_return got;
    });
    if (!one) return error_reply(503, late());
    if (!*one && one->error().code == Errc::not_found)
      return error_reply(404, fmt::format("no {} {}{}{}", kind->name, ns, ns.empty() ? "" : "/", name));
    if (!*one) return error_reply(status_of(one->error().code), explained(one->error()));
    return {200, json::serialize(**one)};
  }

  ControlReply change(const ControlRequest& r) {
    json::error_code ec;
    json::parse_options bounds;
    bounds.max_depth = 40;
    const auto body = json::parse(r.body, ec, {}, bounds);
    if (ec || !body.is_object()) return error_reply(400, "the request is no JSON object");
    const auto& o = body.get_object();
    const auto flag = [&](const char* name) {
      const auto* v = o.if_contains(name);
      return v && v->is_bool() && v->get_bool();
    };
    const auto* verb = o.if_contains("verb");
    const auto* given = o.if_contains("items");
    const auto what =
        verb && verb->is_string() ? resources::parse_verb(std::string_view(verb->get_string())) : std::nullopt;
    if (!what || !given || !given->is_array()) return error_reply(400, "need verb and items");
    if (given->get_array().size() > resources::kMaxChanges)
      return error_reply(400, fmt::format("at most {} items", resources::kMaxChanges));
    resources::ChangeOptions options;
    options.verb = *what;
    options.dry_run = flag("dry_run");
    options.skip = flag("skip");
    options.now = now_text();
    options.who = "operator";
    options.make_uid = [this] {
      const auto half = [this] { return static_cast<std::uint64_t>(random()) << 32U | random(); };
      const auto a = half(), b = half();
      return resources::uid_of(a, b);
    };
    resources::ReadOptions reading;
    reading.identity_only = *what == resources::Verb::remove;
    std::vector<resources::Item> items;
    for (const auto& v : given->get_array()) {
      auto item = resources::read_item(v, reading);
      if (!item) return error_reply(400, item.error().what);
      items.push_back(std::move(*item));
    }
    auto done = wait<resources::Changed>([this, items, options]() -> store::awaitable<resources::Changed> {
      auto got = co_await resources::change(ds, items, options);
      co_return got;
    });
    if (!done) return {503, json::serialize(json::object{{"error", late()}, {"unknown", !options.dry_run}})};
    if (done->error)
      return {status_of(done->error->code),
              json::serialize(json::object{{"error", explained(*done->error)}, {"unknown", done->unknown}})};
    json::array outcomes;
    for (const auto& out : done->outcomes) {
      json::object e{{"action", resources::to_string(out.kind)}, {"resourceVersion", out.revision}};
      if (!out.why.empty()) e["why"] = out.why;
      outcomes.push_back(std::move(e));
    }
    return {done->refused ? 409 : 200,
            json::serialize(json::object{{"outcomes", std::move(outcomes)}, {"refused", done->refused}})};
  }

  store::Datastore& ds;
  std::random_device random;  // the control thread alone
  Loop loop{"control-resources"};
  TaskGroup tasks{loop.executor(), "control-resources"};
};

ResourceControl::ResourceControl(store::Datastore& datastore, module::Control& control)
    : impl_(std::make_unique<Impl>(datastore)) {
  auto* i = impl_.get();
  control.handle("GET /resources/list", [i](const ControlRequest& r) { return i->list(r); });
  control.handle("GET /resources/get", [i](const ControlRequest& r) { return i->get(r); });
  control.handle("POST /resources/change", [i](const ControlRequest& r) { return i->change(r); });
}

ResourceControl::~ResourceControl() = default;

}  // namespace calico::node
