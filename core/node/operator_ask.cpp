#include "core/node/operator_ask.hpp"

#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>

#include "core/config/load.hpp"
#include "core/module/control_client.hpp"

namespace calico::node {

namespace json = boost::json;

config::Config process_config(const std::vector<std::string>& files) {
  auto schema = std::make_shared<config::Schema>();
  (void)schema->add(config::core_params());
  config::Sources sources;
  sources.files = files;
  sources.environment = config::process_environment();
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) == 0) sources.host_name = name;
  return config::load(schema, sources).config;
}

int ask(const Question& q, const std::string& method, const std::string& target, json::value* out) {
  auto reply = module::control_call(q.run_dir, method, target);
  if (!reply) {
    fmt::print(stderr, "calico-node {}: {}\n", q.command, reply.error().what);
    return 3;
  }
  boost::system::error_code ec;
  *out = json::parse(reply->json, ec);
  if (ec) {
    fmt::print(stderr, "calico-node {}: the process answered something that is not JSON\n", q.command);
    return 3;
  }
  if (q.as_json) fmt::print("{}\n", reply->json);
  if (reply->status >= 200 && reply->status < 300) return 0;
  if (!q.as_json) fmt::print(stderr, "calico-node {}: {}\n", q.command, text_of(at(*out, "error")));
  return reply->status == 404 || reply->status == 409 ? 1 : reply->status == 400 ? 2 : 3;
}

const json::value& at(const json::value& v, std::string_view key) {
  static const json::value none;
  const auto* o = v.if_object();
  const auto* found = o ? o->if_contains(key) : nullptr;
  return found ? *found : none;
}

std::string text_of(const json::value& v) {
  if (v.is_null()) return "-";
  if (v.is_string()) return std::string(v.get_string());
  if (v.is_array()) {
    std::string out;
    for (const auto& e : v.get_array()) out += (out.empty() ? "" : ",") + text_of(e);
    return out.empty() ? "-" : out;
  }
  return json::serialize(v);
}

std::string text_at(const json::value& v, std::string_view key) {
  const auto& found = at(v, key);
  return found.is_null() ? std::string() : text_of(found);
}

}  // namespace calico::node
