#include "modules/felix/flows.hpp"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "core/log/log.hpp"

namespace calico::felix {

using namespace std::chrono_literals;

namespace {
constexpr std::uint8_t kTcp = 6;
TimePoint now() { return std::chrono::steady_clock::now(); }
}  // namespace

Flows::Flows(conntrack::Table table, boost::asio::any_io_executor executor, TaskGroup& tasks, Hooks hooks)
    : table_(std::move(table)), tasks_(tasks), hooks_(std::move(hooks)), wake_(std::move(executor)) {
  reader_.start();
}

Flows::~Flows() { reader_.stop(); }

void Flows::forget(const std::set<Ip>& addresses) {
  if (addresses.empty()) return;
  for (const auto& ip : addresses) addresses_.emplace(ip, now());
  wake_.cancel();
  kick();
}

void Flows::staged(const model::RulesetDelta& delta, bool everything) {
  const auto& ruleset = hooks_.ruleset();
  if (everything) {
    staged_ = {};
    staged_.everything = true;
    classes_.clear();
    for (const auto& [key, plan] : ruleset.endpoints) classes_[key] = plan.group;
    return;
  }
  staged_.add(delta);
  for (const auto& key : delta.endpoints) {
    const auto plan = ruleset.endpoints.find(key);
    if (plan == ruleset.endpoints.end()) {
      classes_.erase(key);
      continue;
    }
    const auto [it, first] = classes_.emplace(key, plan->second.group);
    if (!first && it->second != plan->second.group) staged_.endpoints.insert(key);
    it->second = plan->second.group;
  }
}

void Flows::applied() {
  auto change = std::exchange(staged_, {});
  if (!cut_ || change.empty()) return;
  change_.add(std::move(change));
  kick();
}

void Flows::kick() {
  if (std::exchange(running_, true)) return;
  tasks_.spawn("connections", [this] { return run(); });
}

awaitable<void> Flows::run() {
  // Not in the turn of the change that asked for it: its endpoints' states are waiting to be told.
  co_await asio::post(wake_.get_executor(), asio::use_awaitable);
  while (!addresses_.empty() || !change_.empty()) {
    const auto due = std::max(retry_at_, addresses_.empty() ? not_before_ : TimePoint{});
    if (now() < due) {
      wake_.expires_at(due);
      co_await wake_.async_wait(asio::as_tuple(asio::use_awaitable));
      continue;  // or addresses came in between
    }
    co_await walk();
  }
  running_ = false;
}

awaitable<void> Flows::walk() {
  auto addresses = std::exchange(addresses_, {});
  auto change = std::exchange(change_, {});
  std::optional<FlowPolicy> policy;
  if (cut_ && !change.empty()) {
    const auto& ruleset = hooks_.ruleset();
    if (const auto keys = concerned(ruleset, change); !keys.empty()) policy.emplace(ruleset, keys, hooks_.is_local);
  }
  if (addresses.empty() && !policy) co_return;  // nobody is concerned
  const auto begin = now();
  const auto before = std::pair(counts_.forgotten, counts_.cut);
  const conntrack::Doomed doomed = [&](const auto& batch, auto& out) {
    choose(batch, out, addresses, policy ? &*policy : nullptr);
  };
  const Duration limit = kPatience;
  auto pass = co_await table_.sweep(reader_.executor(), doomed, limit);
  const auto took = now() - begin;
  not_before_ = now() + std::max<Duration>(200ms, took * 4);
  if (pass && pass->refused != 0)
    pass = fail(Errc::unavailable, "the kernel refused to delete {} connections", pass->refused);
  if (!pass) {
    failed(pass.error(), std::move(addresses), std::move(change));
    co_return;
  }
  retry_after_ = {};
  ++counts_.walks;
  counts_.seen += pass->seen;
  if (before != std::pair(counts_.forgotten, counts_.cut))
    log::info("felix.connections_removed", "addresses", counts_.forgotten - before.first, "policy",
              counts_.cut - before.second, "seen", pass->seen, "ms",
              std::chrono::duration<double, std::milli>(took).count());
  std::set<Ip> done;
  for (const auto& [ip, since] : addresses) done.insert(ip);
  if (!done.empty()) hooks_.forgotten(done);
}

void Flows::choose(const std::vector<conntrack::Entry>& batch, std::vector<conntrack::Entry>& out,
                   const std::map<Ip, TimePoint>& addresses, FlowPolicy* policy) {
  std::vector<conntrack::Tuple> keep_out;
  for (const auto& e : batch) {
    if (e.zone != 0) continue;  // others' tables: the same address may be another machine there
    const auto left = [&](const Ip& ip) { return addresses.contains(ip); };
    if (!addresses.empty() && (left(e.orig.src) || left(e.orig.dst) || left(e.reply.src) || left(e.reply.dst))) {
      out.push_back(e);
      ++counts_.forgotten;
    } else if (policy && cut_ && policy->refuses(hooks_.ruleset(), e)) {
      log::debug("felix.connection_cut", "what", conntrack::to_string(e.orig));
      out.push_back(e);
      ++counts_.cut;
      if (e.orig.protocol == kTcp) keep_out.push_back(e.reply);
    }
  }
  if (!keep_out.empty()) hooks_.keep_out(keep_out);
}

void Flows::failed(const Error& e, std::map<Ip, TimePoint> addresses, PolicyChange change) {
  ++counts_.failures;
  const bool never = e.code == Errc::unsupported || e.code == Errc::no_permission;
  if (e.what != counts_.last_failure)
    log::warn("felix.connections_not_removed", "what", e.what, "action",
              never ? "established connections stay as they are" : "trying again");
  counts_.last_failure = e.what;
  std::set<Ip> given_up;
  for (const auto& [ip, since] : addresses)
    if (never || now() - since > kPatience)
      given_up.insert(ip);
    else
      addresses_.emplace(ip, since);
  if (!never) change_.add(std::move(change));
  retry_after_ = std::clamp<Duration>(retry_after_ * 2, 200ms, 5s);
  retry_at_ = now() + retry_after_;
  if (!given_up.empty()) hooks_.forgotten(given_up);
}

}  // namespace calico::felix
