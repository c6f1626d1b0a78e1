#include "core/node/join_control.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/json.hpp>
#include <charconv>
#include <future>

#include "core/membership/authority.hpp"
#include "core/membership/x509.hpp"
#include "core/node/control_reply.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using membership::Authority;
using membership::time_text;
using module::ControlReply;
using module::ControlRequest;

constexpr std::int64_t kDefaultTtl = 24 * 3600, kMaxTtl = 365L * 24 * 3600;

ControlReply refusal(const Error& e) {
  switch (e.code) {
    case Errc::not_found:
      return error_reply(404, e.what);
    case Errc::invalid:
      return error_reply(400, e.what);
    case Errc::no_permission:
    case Errc::conflict:
    case Errc::exhausted:
      return error_reply(409, e.what);
    default:
      return error_reply(503, e.what);
  }
}

/// Runs `f` in the datastore's loop and waits for its answer, at most kAnswerTime.
template <class T>
T wait(Datastore& datastore, std::function<awaitable<T>(Authority&)> f) {
  auto promise = std::make_shared<std::promise<T>>();
  auto answer = promise->get_future();
  auto& authority = *datastore.authority();
  boost::asio::co_spawn(
      datastore.loop().executor(), [&authority, f]() -> awaitable<T> { return f(authority); },
      [promise](std::exception_ptr e, T value) {
        if (e)
          promise->set_exception(e);
        else
          promise->set_value(std::move(value));
      });
  if (answer.wait_for(kAnswerTime) != std::future_status::ready)
    return fail(Errc::timeout, "the datastore did not answer within {} s", kAnswerTime.count());
  return answer.get();
}

ControlReply new_token(Datastore& d, const ControlRequest& r) {
  const auto name = param(r, "name"), text = param(r, "ttl");
  std::int64_t ttl = kDefaultTtl;
  if (!text.empty()) {
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), ttl);
    if (ec != std::errc() || end != text.data() + text.size() || ttl < 60 || ttl > kMaxTtl)
      return error_reply(400, "ttl: a minute to 365 days are accepted");
  }
  auto token = wait<Result<membership::Token>>(
      d, [name, ttl](Authority& a) { return a.make_token(name, std::chrono::seconds(ttl)); });
  if (!token) return refusal(token.error());
  json::array urls;
  for (const auto& u : d.join_urls()) urls.emplace_back(u);
  return {200, json::serialize(json::object{
                   {"token", to_string(*token)}, {"id", token->id}, {"name", name}, {"ttl", ttl}, {"urls", urls}})};
}

ControlReply tokens(Datastore& d, const ControlRequest&) {
  auto rows = wait<Result<std::vector<membership::TokenRow>>>(d, [](Authority& a) { return a.tokens(); });
  if (!rows) return refusal(rows.error());
  json::array list;
  for (const auto& t : *rows)
    list.push_back(
        json::object{{"id", t.id}, {"name", t.name}, {"expires", time_text(t.expires)}, {"used_by", t.used_by}});
  return {200, json::serialize(json::object{{"tokens", std::move(list)}})};
}

ControlReply drop_token(Datastore& d, const ControlRequest& r) {
  const auto id = param(r, "id");
  if (!membership::is_token_id(id)) return error_reply(400, "which token? its id has 16 hexadecimal digits");
  auto done = wait<Status>(d, [id](Authority& a) { return a.drop_token(id); });
  if (!done) return refusal(done.error());
  return {200, json::serialize(json::object{{"revoked", id}})};
}

ControlReply list(Datastore& d, const ControlRequest&) {
  auto rows = wait<Result<std::vector<membership::CertificateRow>>>(d, [](Authority& a) { return a.certificates(); });
  if (!rows) return refusal(rows.error());
  json::array out;
  const auto now = std::chrono::system_clock::now();
  for (const auto& c : *rows)
    out.push_back(json::object{{"name", c.name},
                               {"serial", c.serial},
                               {"not_before", time_text(c.not_before)},
                               {"not_after", time_text(c.not_after)},
                               {"state", c.revoked            ? "revoked"
                                         : c.not_after <= now ? "over"
                                                              : "valid"}});
  return {200, json::serialize(json::object{{"certificates", std::move(out)}})};
}

}  // namespace

Result<std::vector<std::string>> JoinControl::revoke(const std::string& name) {
  if (!datastore_.authority()) return std::vector<std::string>();
  return wait<Result<std::vector<std::string>>>(datastore_, [name](Authority& a) { return a.revoke(name); });
}

JoinControl::JoinControl(Datastore& datastore, module::Control& control) : datastore_(datastore) {
  auto* d = &datastore;
  const auto handle = [&](const char* route, ControlReply (*f)(Datastore&, const ControlRequest&)) {
    control.handle(route, [d, f](const ControlRequest& r) {
      if (!d->authority()) return error_reply(409, d->no_join());
      return f(*d, r);
    });
  };
  handle("POST /join/token", new_token);
  handle("GET /join/tokens", tokens);
  handle("POST /join/token/revoke", drop_token);
  handle("GET /join/list", list);
  control.handle("POST /join/revoke", [this](const ControlRequest& r) {
    if (!datastore_.authority()) return error_reply(409, datastore_.no_join());
    const auto name = param(r, "name");
    if (name.empty()) return error_reply(400, "which node?");
    auto serials = revoke(name);
    if (!serials) return refusal(serials.error());
    if (serials->empty())
      return error_reply(404, fmt::format("'{}' has no valid certificate: calico-node join list", name));
    json::array out;
    for (const auto& s : *serials) out.emplace_back(s);
    return ControlReply{200, json::serialize(json::object{{"name", name}, {"serials", std::move(out)}})};
  });
}

}  // namespace calico::node
