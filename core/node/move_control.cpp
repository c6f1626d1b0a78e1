#include "core/node/move_control.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/json.hpp>
#include <charconv>
#include <mutex>
#include <optional>

#include "core/log/log.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"
#include "core/move/mover.hpp"
#include "core/node/control_reply.hpp"
#include "core/node/datastore.hpp"
#include "core/store/etcd/client.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using module::ControlReply;
using module::ControlRequest;

constexpr auto kReadTime = std::chrono::seconds(2);  // for the command to read the last lines before the restart
constexpr std::string_view kEmbedded = "embedded";

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const auto comma = std::min(text.find(','), text.size());
    if (comma > 0) out.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return out;
}

json::array texts(const std::vector<std::string>& all) {
  json::array out;
  for (const auto& t : all) out.emplace_back(t);
  return out;
}

/// Where the cloud's datastore is, and who follows.
struct Where {
  model::DatastorePointer pointer;
  move::Followers followers;
};

awaitable<Result<Where>> look(std::shared_ptr<store::Datastore> ds, std::string self) {
  Where out;
  store::RangeRequest request;
  request.key = std::string(model::kDatastorePointer);
  auto got = co_await ds->range(std::move(request));
  if (!got) co_return tl::unexpected(got.error());
  if (got->kvs.empty()) co_return out;
  auto pointer = model::parse_datastore_pointer(got->kvs.front().value);
  if (!pointer) co_return wrap(pointer.error(), model::kDatastorePointer);
  out.pointer = std::move(*pointer);
  auto who = co_await move::followers(*ds, out.pointer.generation, std::move(self));
  if (!who) co_return tl::unexpected(who.error());
  out.followers = std::move(*who);
  co_return out;
}

}  // namespace

struct MoveControl::Impl {
  Impl(Datastore& d, std::string s, std::function<void()> r)
      : datastore(d), self(std::move(s)), restart(std::move(r)), tasks(d.loop().executor(), "move") {}

  ControlReply begin(const ControlRequest& r) {
    const auto to = param(r, "to");
    auto* kv = datastore.embedded();
    if (!kv) return error_reply(409, "this host has no embedded datastore: ask on the controller that has it");
    if (to.empty()) return error_reply(400, "where to?");
    const bool back = to == kEmbedded;
    const bool here = datastore.kv() != nullptr;
    if (back && here) return error_reply(409, "the cloud's datastore is the embedded one of this host already");
    if (!back && !here)
      return error_reply(
          409, "the cloud's datastore is elsewhere already: from one etcd to another the way is over this host");
    move::Side ours{kv, kv, datastore.urls()};
    move::Side theirs;
    std::shared_ptr<store::Datastore> client = datastore.shared();
    if (back) {
      auto where = wait<Where>([this, client] { return look(client, self); });
      if (!where) return error_reply(503, where.error().what);
      theirs = {client.get(), nullptr, where->pointer.endpoints};
    } else {
      theirs.endpoints = split(to);
      auto made = datastore.client_of(theirs.endpoints);
      if (!made) return error_reply(400, made.error().what);
      if (theirs.endpoints.empty()) return error_reply(400, "where to?");
      client = std::move(*made);
      theirs.ds = client.get();
    }
    move::Options options;
    options.self = self;
    options.check = param(r, "check") == "yes";
    options.force = param(r, "force") == "yes";
    {
      std::lock_guard lock(mutex);
      if (running) return error_reply(409, "a move is being made already: calico-node store move");
      running = true;
      moved = all_read = false;
      lines.clear();
      failure.clear();
    }
    auto from = back ? theirs : ours;
    auto into = back ? ours : theirs;
    datastore.loop().call([&] {
      tasks.spawn("mover", [this, client, from, into, options]() -> awaitable<void> {
        return run(client, from, into, options);
      });
    });
    return {202, json::serialize(json::object{{"running", true}})};
  }

  /// The client stays as long as the sides, which only point to it.
  awaitable<void> run(std::shared_ptr<store::Datastore> /*client*/, move::Side from, move::Side into,
                      move::Options options) {
    const bool was_frozen = !datastore.embedded()->frozen().empty();
    move::Mover mover(from, into, options, [this](std::string line) {
      log::info("store.move", "what", line);
      std::lock_guard lock(mutex);
      lines.push_back(std::move(line));
    });
    auto done = co_await mover.run();
    if (!done) log::warn("store.move_failed", "what", done.error().what);
    const bool other_part = was_frozen == datastore.embedded()->frozen().empty();
    {
      std::lock_guard lock(mutex);
      running = false;
      moved = done && *done;
      failure = done ? "" : done.error().what;
    }
    if (!other_part) co_return;
    const auto deadline = std::chrono::steady_clock::now() + kReadTime;
    while (!all_read && std::chrono::steady_clock::now() < deadline) {
      const bool slept = co_await sleep_for(std::chrono::milliseconds(50));
      if (!slept) co_return;
    }
    restart();
  }

  ControlReply describe(const ControlRequest& r) {
    std::size_t after = 0;
    const auto text = param(r, "after");
    std::from_chars(text.data(), text.data() + text.size(), after);
    json::object out;
    {
      std::lock_guard lock(mutex);
      out["running"] = running;
      out["moved"] = moved;
      out["error"] = failure;
      json::array some;
      for (auto i = after; i < lines.size(); ++i) some.emplace_back(lines[i]);
      out["lines"] = std::move(some);
      if (!running) all_read = true;
    }
    out["embedded"] = datastore.kv() != nullptr;
    auto where = wait<Where>([this] { return look(datastore.shared(), self); });
    if (!where) {
      out["where_error"] = where.error().what;
      return {200, json::serialize(out)};
    }
    out["generation"] = where->pointer.generation;
    out["endpoints"] = texts(where->pointer.endpoints);
    out["followed"] = texts(where->followers.followed);
    out["waiting"] = texts(where->followers.waiting);
    return {200, json::serialize(out)};
  }

  /// On the datastore's loop, at most kAnswerTime.
  template <class T>
  Result<T> wait(std::function<awaitable<Result<T>>()> f) {
    return result_of<T>(datastore.loop(), tasks, std::move(f));
  }

  Datastore& datastore;
  const std::string self;
  const std::function<void()> restart;
  TaskGroup tasks;
  std::mutex mutex;  // of what follows
  bool running = false, moved = false;
  std::vector<std::string> lines;
  std::string failure;
  std::atomic<bool> all_read = false;
};

MoveControl::MoveControl(Datastore& datastore, module::Control& control, std::string self,
                         std::function<void()> restart)
    : impl_(std::make_unique<Impl>(datastore, std::move(self), std::move(restart))) {
  auto* i = impl_.get();
  control.handle("POST /store/move", [i](const ControlRequest& r) { return i->begin(r); });
  control.handle("GET /store/move", [i](const ControlRequest& r) { return i->describe(r); });
}

MoveControl::~MoveControl() {
  auto* i = impl_.get();
  asio::co_spawn(
      i->datastore.loop().executor(),
      [i]() -> awaitable<void> {
        i->tasks.cancel();
        co_await i->tasks.join();
      },
      asio::use_future)
      .get();
}

}  // namespace calico::node
