// `calico-node store …` and `calico-node node …`: questions to the running process over its control socket.
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>

#include "core/http/message.hpp"
#include "core/module/control_client.hpp"
#include "core/node/commands.hpp"
#include "core/node/move_command.hpp"
#include "core/node/operator_ask.hpp"
#include "core/store/backup.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;

constexpr const char* kStoreUsage =
    "usage: calico-node store status [--json]\n"
    "       calico-node store get KEY [--prefix] [--local] [--json]\n"
    "       calico-node store watch [KEY] [--prefix] [--json]\n"
    "       calico-node store accept [--json]\n"
    "       calico-node store save FILE [--json]\n"
    "       calico-node store restore FILE [--json]\n"
    "       calico-node store move [--to URL[,URL...]|embedded [--check] [--force]] [--json]\n"
    "  status     state of this node's mirror and of what it reports; exit 1 unless in sync\n"
    "  get        a key's value, or with --prefix every key below it and its value; --local: this node's mirror\n"
    "             instead of the datastore\n"
    "  watch      changes of a key, or with --prefix of all below it (default: all of /calico/), a line each, until\n"
    "             interrupted: REVISION put KEY VALUE, REVISION delete KEY\n"
    "  accept     take the datastore as it is after `refusing mass removal`\n"
    "  save       a checked copy of the embedded datastore and the API's tables, from the running controller or, when\n"
    "             it is stopped, from its state.db\n"
    "  restore    puts such a copy (or a daily one of <state_dir>/backup) in place of state.db, which is kept aside;\n"
    "             with the controller stopped. Every node then lists and compares\n"
    "  move       on the controller: the running cloud goes to an etcd cluster, or back into the embedded datastore,\n"
    "             without a packet lost; every node's certificate, user and password must fit the new one before, and\n"
    "             each tries. --check: only see whether it could; --force: leave those behind that cannot follow.\n"
    "             Without --to: where the datastore is and which nodes follow\n";
constexpr const char* kNodeUsage =
    "usage: calico-node node list [--json]\n"
    "       calico-node node drain NAME [--off] [--json]\n"
    "       calico-node node delete NAME [--json]\n"
    "  list       the Nodes, their roles, and whether their agent reports itself alive\n"
    "  drain      before maintenance: the Node's routes become everybody's last choice (RFC 8326), also after its\n"
    "             restart, until --off\n"
    "  delete     the Node goes, and with it the BGP sessions that followed from it; on the controller its "
    "certificates\n"
    "             are revoked\n";
constexpr const char* kCommon =
    "  options of each: --config FILE (repeatable), --run-dir DIR: where the process has its control.ctl\n";

struct Asked {
  std::vector<std::string> words;
  std::vector<std::string> files;
  std::string run_dir;
  std::string to;
  bool json = false, prefix = false, local = false, off = false, help = false, check = false, force = false;
};

Result<Asked> parse(const std::vector<std::string>& args) {
  Asked a;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const auto& arg = args[i];
    const bool takes_value = arg == "--config" || arg == "--run-dir" || arg == "--to";
    if (takes_value && i + 1 >= args.size()) return fail(Errc::invalid, "missing value after {}", arg);
    if (arg == "--config")
      a.files.push_back(args[++i]);
    else if (arg == "--run-dir")
      a.run_dir = args[++i];
    else if (arg == "--to")
      a.to = args[++i];
    else if (arg == "--check")
      a.check = true;
    else if (arg == "--force")
      a.force = true;
    else if (arg == "--json")
      a.json = true;
    else if (arg == "--prefix")
      a.prefix = true;
    else if (arg == "--local")
      a.local = true;
    else if (arg == "--off")
      a.off = true;
    else if (arg == "--help" || arg == "-h")
      a.help = true;
    else if (arg.starts_with("-"))
      return fail(Errc::invalid, "unknown option {}", arg);
    else
      a.words.push_back(arg);
  }
  return a;
}

std::string run_dir_of(const Asked& a) {
  return a.run_dir.empty() ? process_config(a.files).text("node.run_dir") : a.run_dir;
}

int usage_error(const char* command, std::string_view what) {
  fmt::print(stderr, "calico-node {}: {}; calico-node {} --help\n", command, what, command);
  return 2;
}

/// `out` is set when the code is 0.
int ask(const Asked& a, const std::string& command, const std::string& method, const std::string& target,
        json::value* out) {
  return node::ask({run_dir_of(a), command, a.json}, method, target, out);
}

int store_status(const Asked& a) {
  json::value v;
  if (const int code = ask(a, "store status", "GET", "/store/status", &v); code != 0) return code;
  if (!a.json) {
    const auto row = [](const char* name, const std::string& text) {
      if (!text.empty() && text != "-") fmt::print("{:<13}{}\n", name, text);
    };
    row("state", text_of(at(v, "phase")));
    row("why", text_of(at(v, "reason")));
    row("revision", text_of(at(v, "revision")));
    row("cluster", text_of(at(v, "cluster_guid")));
    const auto endpoint = text_of(at(at(v, "server"), "endpoint"));
    row("server", fmt::format("{}, version {}", endpoint.empty() ? "in this process" : endpoint,
                              text_of(at(at(v, "server"), "version"))));
    row("error", text_of(at(v, "last_error")));
    row("mirror", fmt::format("{} keys, {} bytes{}{}", text_of(at(at(v, "mirror"), "keys")),
                              text_of(at(at(v, "mirror"), "bytes")),
                              text_of(at(at(v, "mirror"), "file")).empty() ? ", in memory" : " in ",
                              text_of(at(at(v, "mirror"), "file"))));
    row("note", text_of(at(at(v, "mirror"), "note")));
    row("reports", fmt::format("{} keys, {} not yet written", text_of(at(at(v, "reports"), "total")),
                               text_of(at(at(v, "reports"), "pending"))));
    row("report error", text_of(at(at(v, "reports"), "error")));
    // Of the embedded datastore only.
    const auto kept = module::control_call(run_dir_of(a), "GET", "/store/backups");
    boost::system::error_code ec;
    const auto b = kept && kept->status == 200 ? json::parse(kept->json, ec) : json::value();
    if (!b.is_null() && !ec) {
      const auto* files = at(b, "files").if_array();
      row("disk", text_of(at(b, "disk")));
      row("backup", files && !files->empty() ? text_of(files->front()) : "none yet");
      row("backup error", text_of(at(b, "error")));
    }
  }
  return text_of(at(v, "phase")) == "in sync" ? 0 : 1;
}

int store_get(const Asked& a) {
  json::value v;
  const auto target = fmt::format("/store/get?key={}{}{}", http::percent_encode(a.words[1]),
                                  a.prefix ? "&prefix=yes" : "", a.local ? "&local=yes" : "");
  if (const int code = ask(a, "store get", "GET", target, &v); code != 0) return code;
  if (a.json) return 0;
  for (const auto& kv : at(v, "kvs").as_array()) {
    if (a.prefix) fmt::print("{}\n", text_of(at(kv, "key")));
    fmt::print("{}\n", text_of(at(kv, "value")));
  }
  return 0;
}

int store_watch(const Asked& a) {
  const auto key = a.words.size() > 1 ? a.words[1] : std::string();
  const auto target =
      fmt::format("/store/watch?key={}{}", http::percent_encode(key), a.prefix || key.empty() ? "&prefix=yes" : "");
  std::string last_error;
  const auto print = [&](const std::string& line) {
    boost::system::error_code ec;
    const auto v = json::parse(line, ec);
    if (!at(v, "error").is_null()) last_error = text_of(at(v, "error"));
    if (a.json) {
      fmt::print("{}\n", line);
    } else if (const auto type = text_of(at(v, "type")); type == "put" || type == "delete") {
      fmt::print("{} {} {}{}\n", text_of(at(v, "revision")), type, text_of(at(v, "key")),
                 type == "put" ? " " + text_of(at(v, "value")) : std::string());
    } else if (!at(v, "watching").is_null()) {
      fmt::print(stderr, "watching {} from revision {} on\n", text_of(at(v, "watching")), text_of(at(v, "revision")));
    } else if (!at(v, "lost").is_null()) {
      fmt::print(stderr, "calico-node store watch: {}; waiting for it\n", text_of(at(v, "lost")));
    }
    // Whoever reads through a pipe wants it now, and a pipe nobody reads any more ends us.
    return std::fflush(stdout) == 0;
  };
  auto ended = module::control_lines(run_dir_of(a), target, print);
  if (!ended) last_error = ended.error().what;
  if (last_error.empty()) return 0;
  fmt::print(stderr, "calico-node store watch: {}\n", last_error);
  return 3;
}

int store_accept(const Asked& a) {
  json::value v;
  if (const int code = ask(a, "store accept", "POST", "/store/accept", &v); code != 0) return code;
  if (!a.json) fmt::print("accepted: {}\n", text_of(at(v, "accepted")));
  return 0;
}

int outside(const char* command, const Error& e) {
  fmt::print(stderr, "calico-node {}: {}\n", command, e.what);
  return e.code == Errc::exists || e.code == Errc::corrupt || e.code == Errc::invalid ? 1 : 3;
}

/// Asks the running controller, and looks again while it writes.
int save_of_running(const Asked& a, const std::string& file) {
  json::value v;
  auto method = std::string("POST");
  auto target = "/store/save?file=" + http::percent_encode(file);
  for (;;) {
    auto reply = module::control_call(run_dir_of(a), method, target);
    if (!reply) return outside("store save", reply.error());
    boost::system::error_code ec;
    v = json::parse(reply->json, ec);
    if (reply->status == 202) {
      method = "GET";
      target = "/store/save";
      continue;
    }
    if (a.json) fmt::print("{}\n", reply->json);
    if (reply->status != 200) {
      if (!a.json) fmt::print(stderr, "calico-node store save: {}\n", text_of(at(v, "error")));
      return reply->status == 400 ? 2 : reply->status == 409 ? 1 : 3;
    }
    if (!a.json)
      fmt::print("saved {}: revision {}, {} keys, {} bytes\n", text_of(at(v, "file")), text_of(at(v, "revision")),
                 text_of(at(v, "keys")), text_of(at(v, "bytes")));
    return 0;
  }
}

int store_save(const Asked& a) {
  std::error_code ec;
  const auto file = std::filesystem::absolute(a.words[1], ec).string();
  if (ec || a.words[1].empty()) return usage_error("store", "which file?");
  if (module::control_call(run_dir_of(a), "GET", "/status")) return save_of_running(a, file);
  // Nobody there: the file itself, if nobody has it open all the same.
  const auto state_dir = process_config(a.files).text("node.state_dir");
  auto lock = store::StateLock::acquire(state_dir, "calico-node store save");
  if (!lock) return outside("store save", lock.error());
  auto saved = store::save_stopped_store(state_dir + "/state.db", file);
  if (!saved) return outside("store save", saved.error());
  const json::object out{
      {"file", saved->path}, {"revision", saved->revision}, {"keys", saved->keys}, {"bytes", saved->bytes}};
  if (a.json)
    fmt::print("{}\n", json::serialize(out));
  else
    fmt::print("saved {} of the stopped controller: revision {}, {} keys, {} bytes\n", saved->path, saved->revision,
               saved->keys, saved->bytes);
  return 0;
}

int store_restore(const Asked& a) {
  const auto config = process_config(a.files);
  if (config.is_set("datastore.endpoints"))
    return usage_error("store", fmt::format("the datastore is at {} and not on this host: restore it there",
                                            config.text("datastore.endpoints")));
  const auto state_dir = config.text("node.state_dir");
  auto lock = store::StateLock::acquire(state_dir, "calico-node store restore");
  if (!lock) {
    auto e = lock.error();
    if (e.code == Errc::busy) e.what += "; stop it first";
    return outside("store restore", e);
  }
  auto done = store::restore_store(a.words[1], state_dir + "/state.db", std::chrono::system_clock::now());
  if (!done) return outside("store restore", done.error());
  if (a.json) {
    fmt::print("{}\n", json::serialize(json::object{{"file", done->file.path},
                                                    {"revision", done->file.revision},
                                                    {"keys", done->file.keys},
                                                    {"aside", done->aside},
                                                    {"note", done->old_note}}));
    return 0;
  }
  fmt::print("restored {}: {} keys as of revision {}\n", done->file.path, done->file.keys, done->file.revision);
  if (!done->aside.empty())
    fmt::print("the former file is {}{}\n", done->aside,
               done->old_note.empty() ? "" : fmt::format(" ({})", done->old_note));
  fmt::print("start the controller: its revision goes far beyond the former one, and every node lists and compares\n");
  return 0;
}

int store_move(const Asked& a) {
  if (a.to.empty() && (a.check || a.force)) return usage_error("store", "move --check and --force need --to");
  return move_main({.run_dir = run_dir_of(a), .to = a.to, .check = a.check, .force = a.force, .json = a.json});
}

int node_list(const Asked& a) {
  json::value v;
  if (const int code = ask(a, "node list", "GET", "/node/list", &v); code != 0) return code;
  if (a.json) return 0;
  fmt::print("{:<24} {:<28} {:<16} {:<26} {:<10} {:<16} {}\n", "name", "roles", "ipv4", "ipv6", "as", "cluster id",
             "agent");
  for (const auto& n : at(v, "nodes").as_array()) {
    const auto& alive = at(n, "alive");
    fmt::print("{:<24} {:<28} {:<16} {:<26} {:<10} {:<16} {}{}\n", text_of(at(n, "name")), text_of(at(n, "roles")),
               text_of(at(n, "ipv4")), text_of(at(n, "ipv6")), text_of(at(n, "as")), text_of(at(n, "cluster_id")),
               alive.is_bool() ? (alive.get_bool() ? "alive" : "silent") : "-",
               at(n, "draining") == json::value(true) ? ", draining" : "");
  }
  if (const auto* ignored = at(v, "ignored").if_array())
    for (const auto& line : *ignored) fmt::print(stderr, "calico-node node list: ignored {}\n", text_of(line));
  return 0;
}

int node_drain(const Asked& a) {
  json::value v;
  const auto target = fmt::format("/node/drain?name={}{}", http::percent_encode(a.words[1]), a.off ? "&off=yes" : "");
  if (const int code = ask(a, "node drain", "POST", target, &v); code != 0) return code;
  if (a.json) return 0;
  const bool changed = at(v, "changed") == json::value(true);
  if (a.off)
    fmt::print("{}: {}\n", a.words[1], changed ? "announces its routes as before" : "was not drained");
  else
    fmt::print("{}: {}; stop it after its [bgp] drain_time (10s by default), or take it back with --off\n", a.words[1],
               changed ? "draining" : "is draining already");
  return 0;
}

int node_delete(const Asked& a) {
  json::value v;
  const auto target = "/node/delete?name=" + http::percent_encode(a.words[1]);
  if (const int code = ask(a, "node delete", "POST", target, &v); code != 0) return code;
  if (!a.json) fmt::print("deleted Node {}, {} certificates revoked\n", a.words[1], text_of(at(v, "revoked")));
  return 0;
}

struct Verb {
  const char* name;
  std::size_t words;
  int (*run)(const Asked&);
  std::size_t optional = 0;  ///< one more word is allowed
};

int run_verb(const char* command, const Invocation& in, const char* usage, std::initializer_list<Verb> verbs) {
  auto asked = parse(in.args);
  if (!asked) return usage_error(command, asked.error().what);
  if (asked->help) {
    fmt::print("{}{}", usage, kCommon);
    return 0;
  }
  if (asked->words.empty()) return usage_error(command, "what?");
  for (const auto& v : verbs) {
    if (asked->words[0] != v.name) continue;
    if (asked->words.size() != v.words && asked->words.size() != v.words + v.optional) {
      const auto most = v.words - 1 + v.optional;
      return usage_error(command, fmt::format("{} takes {}{} argument{}", v.name, v.optional ? "at most " : "", most,
                                              most == 1 ? "" : "s"));
    }
    return v.run(*asked);
  }
  return usage_error(command, fmt::format("unknown '{}'", asked->words[0]));
}

}  // namespace

int store_main(const Invocation& in) {
  return run_verb("store", in, kStoreUsage,
                  {{"status", 1, store_status},
                   {"get", 2, store_get},
                   {"watch", 1, store_watch, 1},
                   {"accept", 1, store_accept},
                   {"save", 2, store_save},
                   {"restore", 2, store_restore},
                   {"move", 1, store_move}});
}

int node_main(const Invocation& in) {
  return run_verb("node", in, kNodeUsage,
                  {{"list", 1, node_list}, {"drain", 2, node_drain}, {"delete", 2, node_delete}});
}

}  // namespace calico::node
