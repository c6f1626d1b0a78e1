// `calico-node join …`: on the controller questions to the running process, on a node the joining itself.
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>

#include "core/config/load.hpp"
#include "core/http/certificates.hpp"
#include "core/membership/files.hpp"
#include "core/membership/join.hpp"
#include "core/membership/x509.hpp"
#include "core/module/control_client.hpp"
#include "core/node/commands.hpp"
#include "core/node/operator_ask.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr const char* kUsage =
    "usage: calico-node join URL[,URL…] --token T|- [--name NAME] [--config-dir DIR] [--json]     on a node\n"
    "       calico-node join token [--name NAME] [--ttl TIME] [--json]                          on the controller\n"
    "       calico-node join token list|revoke ID [--json]\n"
    "       calico-node join list|revoke NAME [--json]\n"
    "  URL        https://CONTROLLER:2379, the controller's [datastore] listen. The node gets a certificate for its "
    "name\n"
    "             in state_dir/pki and a file in conf.d that names it. Run again it changes nothing, or goes on.\n"
    "    --token T       the string `join token` printed on the controller; - reads it from the first line of stdin\n"
    "    --name NAME     default: [node] name, else the host's\n"
    "    --config-dir D  where 50-join.conf is written (default /etc/calico-node/conf.d)\n"
    "  token      prints a new token, for one node. A node that has a valid certificate needs one with its --name\n"
    "    --ttl TIME      how long it is valid (default 24h)\n"
    "  token list, token revoke ID    tokens that are not over; take one back\n"
    "  list       the certificates given to nodes: names, serial numbers, ends\n"
    "  revoke     the node's certificates are refused from now on, and its connections closed\n"
    "  options of each: --config FILE (repeatable), --run-dir DIR: where the process has its control.ctl\n";

struct Asked {
  std::vector<std::string> words;
  std::vector<std::string> files;
  std::string run_dir, token, name, ttl, config_dir = config::kDefaultDropIns;
  bool json = false, help = false;
};

Result<Asked> parse(const std::vector<std::string>& args) {
  Asked a;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const auto& arg = args[i];
    std::string* value = arg == "--run-dir"      ? &a.run_dir
                         : arg == "--token"      ? &a.token
                         : arg == "--name"       ? &a.name
                         : arg == "--ttl"        ? &a.ttl
                         : arg == "--config-dir" ? &a.config_dir
                                                 : nullptr;
    if ((value || arg == "--config") && i + 1 >= args.size()) return fail(Errc::invalid, "missing value after {}", arg);
    if (value)
      *value = args[++i];
    else if (arg == "--config")
      a.files.push_back(args[++i]);
    else if (arg == "--json")
      a.json = true;
    else if (arg == "--help" || arg == "-h")
      a.help = true;
    else if (arg.starts_with("-"))
      return fail(Errc::invalid, "unknown option {}", arg);
    else
      a.words.push_back(arg);
  }
  return a;
}

int usage_error(std::string_view what) {
  fmt::print(stderr, "calico-node join: {}; calico-node join --help\n", what);
  return 2;
}

int failed(const Error& e) {
  fmt::print(stderr, "calico-node join: {}\n", e.what);
  switch (e.code) {
    case Errc::invalid:
      return 2;
    case Errc::no_permission:
    case Errc::conflict:
      return 1;
    default:
      return 3;
  }
}

int ask(const Asked& a, const std::string& method, const std::string& target, json::value* out) {
  const auto run_dir = a.run_dir.empty() ? process_config(a.files).text("node.run_dir") : a.run_dir;
  return node::ask({run_dir, "join", a.json}, method, target, out);
}

int new_token(const Asked& a) {
  std::string target = "/join/token?name=" + http::percent_encode(a.name);
  if (!a.ttl.empty()) {
    auto ttl = config::parse_duration(a.ttl);
    if (!ttl) return usage_error("--ttl: " + ttl.error().what);
    target += fmt::format("&ttl={}", std::chrono::duration_cast<std::chrono::seconds>(*ttl).count());
  }
  json::value v;
  if (const int code = ask(a, "POST", target, &v); code != 0 || a.json) return code;
  fmt::print("{}\n", text_at(v, "token"));
  std::string url = "https://CONTROLLER:2379";
  if (const auto* urls = at(v, "urls").if_array(); urls && !urls->empty()) url = text_of(urls->front());
  std::fflush(stdout);
  fmt::print(stderr, "for one node, {}: calico-node join {} --token T{}\n",
             a.name.empty() ? "any name that is free" : a.name, url, a.name.empty() ? "" : " --name " + a.name);
  return 0;
}

int list_tokens(const Asked& a) {
  json::value v;
  if (const int code = ask(a, "GET", "/join/tokens", &v); code != 0 || a.json) return code;
  fmt::print("{:<18} {:<26} {:<22} {}\n", "id", "for", "until", "used by");
  for (const auto& row : at(v, "tokens").as_array()) {
    const auto& t = row.as_object();
    const auto name = text_at(t, "name"), used = text_at(t, "used_by");
    fmt::print("{:<18} {:<26} {:<22} {}\n", text_at(t, "id"), name.empty() ? "any" : name, text_at(t, "expires"),
               used.empty() ? "-" : used);
  }
  return 0;
}

int drop_token(const Asked& a) {
  json::value v;
  const auto code = ask(a, "POST", "/join/token/revoke?id=" + http::percent_encode(a.words[2]), &v);
  if (code == 0 && !a.json) fmt::print("token {} is no longer valid\n", a.words[2]);
  return code;
}

int list(const Asked& a) {
  json::value v;
  if (const int code = ask(a, "GET", "/join/list", &v); code != 0 || a.json) return code;
  fmt::print("{:<26} {:<34} {:<22} {}\n", "name", "serial", "until", "state");
  for (const auto& row : at(v, "certificates").as_array()) {
    const auto& c = row.as_object();
    fmt::print("{:<26} {:<34} {:<22} {}\n", text_at(c, "name"), text_at(c, "serial"), text_at(c, "not_after"),
               text_at(c, "state"));
  }
  return 0;
}

int revoke(const Asked& a) {
  json::value v;
  const auto code = ask(a, "POST", "/join/revoke?name=" + http::percent_encode(a.words[1]), &v);
  if (code == 0 && !a.json)
    for (const auto& s : at(v, "serials").as_array())
      fmt::print("revoked {} of {}\n", std::string_view(s.as_string()), a.words[1]);
  return code;
}

Result<std::vector<http::Endpoint>> endpoints_of(const std::string& urls) {
  std::vector<http::Endpoint> out;
  for (std::size_t from = 0; from <= urls.size();) {
    const auto comma = std::min(urls.find(',', from), urls.size());
    auto url = urls.substr(from, comma - from);
    from = comma + 1;
    if (url.find("://") == std::string::npos) url = "https://" + url;
    auto endpoint = http::Endpoint::parse(url, 2379);
    if (!endpoint) return wrap(endpoint.error(), "URL");
    out.push_back(std::move(*endpoint));
  }
  return out;
}

Result<std::string> token_text(const Asked& a) {
  if (a.token != "-") return a.token;
  std::string line;
  for (int c = 0; line.size() < 1024 && (c = std::getchar()) != EOF && c != '\n';) line += static_cast<char>(c);
  if (line.ends_with('\r')) line.pop_back();
  if (line.empty()) return fail(Errc::invalid, "--token -: stdin has no first line");
  return line;
}

/// conf.d's file; unchanged when it says the same already.
Status write_config(const std::string& path, const std::string& text) {
  if (auto there = membership::read_small(path); there && *there == text) return {};
  std::error_code ec;
  const auto dir = fs::path(path).parent_path();
  fs::create_directories(dir, ec);
  if (ec) return fail(Errc::no_permission, "{}: cannot be made: {}", dir.string(), ec.message());
  return http::write_file(path, text, 0644);
}

int join(const Asked& a) {
  if (a.token.empty()) return usage_error("--token is missing: on the controller, calico-node join token");
  auto endpoints = endpoints_of(a.words[0]);
  if (!endpoints) return failed(endpoints.error());
  auto text = token_text(a);
  if (!text) return failed(text.error());
  auto token = membership::parse_token(*text);
  if (!token) return failed(token.error());
  if (!a.config_dir.starts_with('/')) return usage_error("--config-dir: an absolute path is needed");
  const auto config = process_config(a.files);
  membership::JoinOptions options;
  options.endpoints = std::move(*endpoints);
  options.token = std::move(*token);
  options.name = a.name.empty() ? config.text("node.name") : a.name;
  options.pki_dir = config.text("node.state_dir") + "/pki";
  auto joined = membership::join(options);
  if (!joined) return failed(joined.error());
  const auto path = a.config_dir + "/50-join.conf";
  if (auto s = write_config(path, membership::config_text(options, !a.name.empty())); !s)
    return failed(
        wrap(s.error(), "the certificate is there, its configuration is not; mend it and run the same again").value());
  if (a.json)
    fmt::print("{}\n", json::serialize(json::object{{"name", joined->name},
                                                    {"serial", joined->serial},
                                                    {"not_after", membership::time_text(joined->not_after)},
                                                    {"already", joined->already},
                                                    {"cert_file", joined->files.cert_file},
                                                    {"config_file", path}}));
  else
    fmt::print("{} {}: certificate {} valid until {}, configuration {}\n",
               joined->already ? "is a member already:" : "joined as", joined->name, joined->serial,
               membership::time_text(joined->not_after), path);
  return 0;
}

}  // namespace

int join_main(const Invocation& in) {
  auto asked = parse(in.args);
  if (!asked) return usage_error(asked.error().what);
  if (asked->help) {
    fmt::print("{}", kUsage);
    return 0;
  }
  const auto& w = asked->words;
  if (w.empty()) return usage_error("what? a URL, or token, list, revoke");
  if (w[0] == "token") {
    if (w.size() == 1) return new_token(*asked);
    if (w[1] == "list" && w.size() == 2) return list_tokens(*asked);
    if (w[1] == "revoke" && w.size() == 3) return drop_token(*asked);
    return usage_error("token takes nothing, list, or revoke ID");
  }
  if (w[0] == "list") return w.size() == 1 ? list(*asked) : usage_error("list takes no argument");
  if (w[0] == "revoke") return w.size() == 2 ? revoke(*asked) : usage_error("revoke takes 1 argument");
  if (w.size() != 1) return usage_error("one URL is taken; several by commas");
  return join(*asked);
}

}  // namespace calico::node
