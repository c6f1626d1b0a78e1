// `calico-node store move`: asks the running controller, prints what it says, and waits for the nodes to follow.
#include <boost/json.hpp>
#include <chrono>
#include <thread>

#include "core/http/message.hpp"
#include "core/module/control_client.hpp"
#include "core/node/commands.hpp"
#include "core/node/move_command.hpp"
#include "core/node/operator_ask.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr auto kPoll = std::chrono::milliseconds(300);
constexpr auto kRestartTime = std::chrono::seconds(60);  // of the controller, after the commit
constexpr auto kFollowTime = std::chrono::seconds(60);   // of the nodes
constexpr auto kForcedTime = std::chrono::seconds(10);   // some are known not to

bool is_true(const json::value& v, std::string_view key) { return at(v, key) == json::value(true); }
std::int64_t number_at(const json::value& v, std::string_view key) {
  const auto& found = at(v, key);
  return found.is_int64() ? found.get_int64() : 0;
}
std::vector<std::string> texts_at(const json::value& v, std::string_view key) {
  std::vector<std::string> out;
  if (const auto* all = at(v, key).if_array())
    for (const auto& t : *all)
      if (t.is_string()) out.emplace_back(t.get_string());
  return out;
}
std::string joined(const std::vector<std::string>& all) {
  std::string out;
  for (const auto& t : all) out += (out.empty() ? "" : ", ") + t;
  return out;
}

int failed(std::string_view what, int code) {
  fmt::print(stderr, "calico-node store move: {}\n", what);
  return code;
}

/// GET /store/move; nothing when nobody answers, as while the process starts anew.
Result<json::value> look(const std::string& run_dir, std::size_t after) {
  auto reply = module::control_call(run_dir, "GET", fmt::format("/store/move?after={}", after));
  if (!reply) return tl::unexpected(reply.error());
  boost::system::error_code ec;
  auto v = json::parse(reply->json, ec);
  if (ec) return fail(Errc::corrupt, "the process answered something that is not JSON");
  if (reply->status != 200) return fail(Errc::unsupported, "{}", text_at(v, "error"));
  return v;
}

int print_where(const json::value& v, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", json::serialize(v));
    return 0;
  }
  const auto followed = texts_at(v, "followed"), waiting = texts_at(v, "waiting");
  if (const auto e = text_at(v, "where_error"); !e.empty()) fmt::print("the datastore does not answer: {}\n", e);
  if (number_at(v, "generation") == 0)
    fmt::print("the cloud's datastore has not been moved\n");
  else
    fmt::print("move {}: the cloud's datastore is {}{}\n", number_at(v, "generation"),
               is_true(v, "embedded") ? "the embedded one of this host, " : "", joined(texts_at(v, "endpoints")));
  if (number_at(v, "generation") != 0) {
    fmt::print("{} of {} nodes follow\n", followed.size(), followed.size() + waiting.size());
    if (!waiting.empty()) fmt::print("not yet: {}\n", joined(waiting));
  }
  if (is_true(v, "running")) fmt::print("a move is being made\n");
  return 0;
}

/// Until every Node follows, or the time is over; says who does not.
int wait_for_nodes(const std::string& run_dir, std::int64_t generation, std::chrono::seconds time, bool as_json) {
  const auto restarted_by = Clock::now() + kRestartTime;
  auto followed_by = restarted_by + time;
  bool restarted = false;
  for (;; std::this_thread::sleep_for(kPoll)) {
    auto v = look(run_dir, 0);
    const bool there = v && number_at(*v, "generation") >= generation && text_at(*v, "where_error").empty();
    if (there && !restarted) {
      restarted = true;
      followed_by = Clock::now() + time;
    }
    if (!restarted && Clock::now() > restarted_by)
      return failed(fmt::format("moved, but the controller does not answer since: {}",
                                v ? text_at(*v, "where_error") : v.error().what),
                    3);
    if (!there) continue;
    if (!texts_at(*v, "waiting").empty() && Clock::now() < followed_by) continue;
    return print_where(*v, as_json);
  }
}

}  // namespace

int move_main(const MoveAsked& a) {
  auto before = look(a.run_dir, 0);
  if (!before) return failed(before.error().what, before.error().code == Errc::unsupported ? 1 : 3);
  if (a.to.empty()) return print_where(*before, a.json);
  const auto target = fmt::format("/store/move?to={}{}{}", http::percent_encode(a.to), a.check ? "&check=yes" : "",
                                  a.force ? "&force=yes" : "");
  json::value begun;
  if (const int code = ask({a.run_dir, "store move", false}, "POST", target, &begun); code != 0) return code;
  std::size_t heard = 0;
  for (;; std::this_thread::sleep_for(kPoll)) {
    auto v = look(a.run_dir, heard);
    if (!v) break;  // it starts anew: what came of it is asked below
    for (const auto& line : texts_at(*v, "lines")) {
      if (!a.json) fmt::print("{}\n", line);
      std::fflush(stdout);
      ++heard;
    }
    if (is_true(*v, "running")) continue;
    if (const auto e = text_at(*v, "error"); !e.empty()) {
      // After the commit it goes on by itself.
      return failed(e, e.starts_with("moved") ? 3 : 1);
    }
    if (a.check && !is_true(*v, "moved")) return a.json ? print_where(*v, true) : 0;
    break;  // moved, or it has begun anew already
  }
  return wait_for_nodes(a.run_dir, number_at(*before, "generation") + 1, a.force ? kForcedTime : kFollowTime, a.json);
}

}  // namespace calico::node
