#include "core/node/store_watch.hpp"

#include <boost/json.hpp>
#include <charconv>

#include "core/loop/task_group.hpp"
#include "core/store/datastore.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using boost::asio::awaitable;
using module::ControlRequest;
using module::ControlWrite;

constexpr auto kRetry = std::chrono::seconds(2);

std::string line(json::object o) { return json::serialize(o) + "\n"; }

std::string error_line(std::string_view what) { return line({{"error", what}}); }

std::string line_of(const store::Event& e) {
  const auto& kv = e.kv;
  if (e.type == store::Event::Type::del)
    return line({{"type", "delete"}, {"key", kv.key}, {"revision", kv.mod_revision}});
  return line({{"type", "put"},
               {"key", kv.key},
               {"value", kv.value},
               {"revision", kv.mod_revision},
               {"version", kv.version},
               {"lease", kv.lease}});
}

bool may_pass(const Error& e) {
  return e.code == Errc::unavailable || e.code == Errc::timeout || e.code == Errc::closed;
}

awaitable<void> follow(store::Datastore& ds, ControlRequest request, ControlWrite write) {
  const auto param = [&](const std::string& name) {
    const auto it = request.query.find(name);
    return it == request.query.end() ? std::string() : it->second;
  };
  auto key = param("key");
  const bool prefix = param("prefix") == "yes" || key.empty();
  if (key.empty()) key = "/calico/";
  store::Revision next = 0;
  if (const auto from = param("from"); !from.empty()) {
    const auto [end, ec] = std::from_chars(from.data(), from.data() + from.size(), next);
    if (ec != std::errc() || end != from.data() + from.size() || next < 1) {
      auto text = error_line("from: a revision of 1 or more expected");
      co_await write(std::move(text));
      co_return;
    }
  }
  bool said = false, lost = false;
  const auto say_lost = [&](const Error& e) -> awaitable<bool> {
    const bool again = lost;
    lost = true;
    bool heard = true;
    auto text = line({{"lost", e.what}});
    if (!again) heard = co_await write(std::move(text));
    if (heard) heard = co_await sleep_for(kRetry);
    co_return heard;
  };
  for (;;) {
    if (next == 0) {  // from now on: the revision, so that nothing is missed should the watch break
      store::RangeRequest now;
      now.key = key;
      now.keys_only = true;
      auto answer = co_await ds.range(std::move(now));
      if (!answer && !may_pass(answer.error())) {
        auto text = error_line(answer.error().what);
        co_await write(std::move(text));
        co_return;
      }
      if (!answer) {
        const bool go_on = co_await say_lost(answer.error());
        if (!go_on) co_return;
        continue;
      }
      next = answer->revision + 1;
    }
    store::WatchRequest watch_request;
    watch_request.key = key;
    if (prefix) watch_request.range_end = store::prefix_end(key);
    watch_request.start_revision = next;
    auto watch = co_await ds.watch(std::move(watch_request));
    Result<store::WatchBatch> batch = tl::unexpected(watch ? Error{} : watch.error());
    if (watch && (!said || lost)) {
      auto text = line({{"watching", key + (prefix ? "…" : "")}, {"revision", next - 1}});
      const bool heard = co_await write(std::move(text));
      if (!heard) co_return;
      said = true;
      lost = false;
    }
    while (watch) {
      batch = co_await (*watch)->next();
      if (!batch) break;
      std::string text;
      for (const auto& e : batch->events) text += line_of(e);
      next = std::max(next, batch->revision + 1);
      if (text.empty()) continue;
      const bool heard = co_await write(std::move(text));
      if (!heard) co_return;
    }
    if (batch.error().code == Errc::timeout) continue;  // silence: asked again
    if (!may_pass(batch.error())) {
      auto text = error_line(batch.error().what);
      co_await write(std::move(text));
      co_return;
    }
    const bool go_on = co_await say_lost(batch.error());
    if (!go_on) co_return;
  }
}

}  // namespace

module::ControlStream watch_store(store::Datastore& datastore) {
  return [&datastore](ControlRequest request, ControlWrite write) {
    return follow(datastore, std::move(request), std::move(write));
  };
}

}  // namespace calico::node
