// `calico-node apply|create|replace|delete|get|validate`: Calico v3 resources from files and by name.
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "core/config/load.hpp"
#include "core/model/keys.hpp"
#include "core/module/control_client.hpp"
#include "core/node/commands.hpp"
#include "core/node/operator_ask.hpp"
#include "core/node/resource_client.hpp"
#include "core/resources/yaml.hpp"

namespace calico::node {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using resources::Item;
using resources::Kind;
using resources::Manifest;

constexpr const char* kUsage =
    "usage: calico-node apply|create|replace|delete|validate -f FILE…\n"
    "       calico-node get KIND [NAME…] | -f FILE…\n"
    "       calico-node delete KIND NAME…\n"
    "  apply      what is not there is made, what differs is changed, what is as wanted is left alone; annotations\n"
    "             of commands (calico-node/..., such as `node drain`) stay unless the file says otherwise\n"
    "  create     what is there already is refused      replace    what is not there is refused\n"
    "  validate   the file alone, without a datastore\n"
    "  -f FILE    YAML or JSON: documents, lists; - = stdin; a folder = its *.yaml, *.yml and *.json. The whole is\n"
    "             checked before anything is written. metadata.resourceVersion: changed only if that is still it\n"
    "  -n NS      namespace of what names none; for get and delete by name the default is that of the region\n"
    "  -A         get: of all namespaces\n"
    "  -o FORMAT  yaml, json, or wide (more columns); what get -o yaml prints may be applied again\n"
    "  --dry-run  say what would be done      --skip-exists, --skip-not-exists   create, delete: that is no fault\n"
    "  --config FILE (repeatable), --run-dir DIR: where the process has its control.ctl\n"
    "exit codes: 0 well; 1 refused: a conflict, there already, not there; 2 usage or a faulty file, one line a fault;\n"
    "3 the process or the datastore does not answer\n";

struct Asked {
  std::string command;
  std::vector<std::string> words, sources, files;
  std::string ns, format, run_dir;
  bool all = false, dry_run = false, skip_exists = false, skip_absent = false, help = false;
  bool machine() const { return format == "json" || format == "yaml"; }
};

int usage_error(const Asked& a, std::string_view what) {
  fmt::print(stderr, "calico-node {}: {}; calico-node {} --help\n", a.command, what, a.command);
  return 2;
}

int failed(const Asked& a, int code, std::string_view what) {
  fmt::print(stderr, "calico-node {}: {}\n", a.command, what);
  return code;
}

Result<Asked> parse(const char* command, const std::vector<std::string>& args) {
  Asked a;
  a.command = command;
  for (std::size_t i = 0; i < args.size(); ++i) {
    auto arg = args[i];
    std::optional<std::string> value;
    if (const auto eq = arg.find('='); arg.starts_with("--") && eq != std::string::npos) {
      value = arg.substr(eq + 1);
      arg.resize(eq);
    }
    const auto is = [&](const char* brief, const char* name) { return arg == brief || arg == name; };
    const bool takes = is("-f", "--filename") || is("-n", "--namespace") || is("-o", "--output") || arg == "--config" ||
                       arg == "--run-dir";
    if (takes && !value) {
      if (i + 1 >= args.size()) return fail(Errc::invalid, "missing value after {}", arg);
      value = args[++i];
    }
    if (!takes && value) return fail(Errc::invalid, "unknown option {}", args[i]);
    if (is("-f", "--filename"))
      a.sources.push_back(*value);
    else if (is("-n", "--namespace"))
      a.ns = *value;
    else if (is("-o", "--output"))
      a.format = *value;
    else if (arg == "--config")
      a.files.push_back(*value);
    else if (arg == "--run-dir")
      a.run_dir = *value;
    else if (arg == "--json")
      a.format = "json";
    else if (is("-A", "--all-namespaces"))
      a.all = true;
    else if (arg == "--dry-run")
      a.dry_run = true;
    else if (arg == "--skip-exists")
      a.skip_exists = true;
    else if (arg == "--skip-not-exists")
      a.skip_absent = true;
    else if (is("-h", "--help"))
      a.help = true;
    else if (arg.starts_with("-") && arg != "-")
      return fail(Errc::invalid, "unknown option {}", arg);
    else
      a.words.push_back(arg);
  }
  if (!a.format.empty() && a.format != "yaml" && a.format != "json" && a.format != "wide")
    return fail(Errc::invalid, "-o {}: accepted: yaml, json, wide", a.format);
  return a;
}

/// Of the same configuration the process reads: where it is, and the region. What else is wrong is its business.
struct Configured {
  std::string run_dir, region;
};
Configured configured(const Asked& a) {
  Configured out;
  const auto config = process_config(a.files);
  out.run_dir = config.text("node.run_dir");
  if (config.is_set("openstack.region")) out.region = config.text("openstack.region");
  if (!a.run_dir.empty()) out.run_dir = a.run_dir;
  return out;
}

Ask asker(const Asked& a) {
  return [run_dir = configured(a).run_dir](const std::string& method, const std::string& target, std::string body) {
    return module::control_call(run_dir, method, target, std::move(body));
  };
}

std::string namespace_of(const Asked& a) { return a.ns.empty() ? model::region_namespace(configured(a).region) : a.ns; }

// --- files
// ------------------------------------------------------------------------------------------------------------

/// At most one byte more than may be read: the reader says that it is too much.
Result<std::string> slurp(const std::string& source) {
  std::ifstream file;
  if (source != "-") {
    std::error_code ec;
    if (!fs::is_regular_file(source, ec) && !fs::is_character_file(source, ec) && !fs::is_fifo(source, ec))
      return fail(Errc::not_found, "{}: no such file", source);
    file.open(source, std::ios::binary);
    if (!file) return fail(Errc::no_permission, "{}: cannot be opened", source);
  }
  std::istream& in = source == "-" ? std::cin : file;
  std::string text(resources::kMaxYaml + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return fail(Errc::unavailable, "{}: cannot be read", source);
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

/// A folder stands for the files in it, by name.
Result<std::vector<std::string>> expanded(const std::vector<std::string>& sources) {
  std::vector<std::string> out;
  for (const auto& s : sources) {
    std::error_code ec;
    if (s == "-" || !fs::is_directory(s, ec)) {
      out.push_back(s);
      continue;
    }
    std::vector<std::string> inside;
    for (fs::directory_iterator it(s, ec), end; !ec && it != end; it.increment(ec))
      if (const auto ext = it->path().extension(); ext == ".yaml" || ext == ".yml" || ext == ".json")
        inside.push_back(it->path().string());
    if (ec) return fail(Errc::no_permission, "{}: {}", s, ec.message());
    if (inside.empty()) return fail(Errc::not_found, "{}: no *.yaml, *.yml or *.json in this folder", s);
    std::sort(inside.begin(), inside.end());
    out.insert(out.end(), inside.begin(), inside.end());
  }
  return out;
}

json::object fault_json(const resources::Fault& f) {
  return {{"file", f.source}, {"line", f.line},   {"document", f.document}, {"object", f.object},
          {"field", f.path},  {"value", f.value}, {"accepted", f.accepted}};
}

void print_document(const Asked& a, const json::value& v) {
  const auto text = a.format == "json" ? resources::to_pretty_json(v) : resources::to_yaml(v);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

/// 0, or the exit code after the faults were printed.
int read_files(const Asked& a, resources::ReadOptions options, Manifest& m) {
  auto sources = expanded(a.sources);
  if (!sources) return failed(a, 2, sources.error().what);
  options.default_namespace = a.ns;
  for (const auto& s : *sources) {
    auto text = slurp(s);
    if (!text) return failed(a, 2, text.error().what);
    resources::read_manifest(s, *text, options, m);
  }
  resources::check_duplicates(m);
  for (const auto& f : m.faults) fmt::print(stderr, "{}\n", f.to_string());
  if (!m.faults.empty() && a.machine()) {
    json::array faults;
    for (const auto& f : m.faults) faults.push_back(fault_json(f));
    print_document(a, json::object{{"valid", false}, {"faults", std::move(faults)}});
  }
  return m.faults.empty() ? 0 : 2;
}

void print_notes(const Manifest& m) {
  constexpr std::size_t kMost = 20;
  for (std::size_t i = 0; i < m.notes.size() && i < kMost; ++i) fmt::print(stderr, "note: {}\n", m.notes[i]);
  if (m.notes.size() > kMost) fmt::print(stderr, "note: and {} more\n", m.notes.size() - kMost);
}

// --- writing
// ----------------------------------------------------------------------------------------------------------

std::string counted(std::size_t n) { return fmt::format("{} resource{}", n, n == 1 ? "" : "s"); }

int write(const Asked& a, const std::vector<Item>& items, resources::Verb verb) {
  if (verb == resources::Verb::remove &&
      std::any_of(items.begin(), items.end(), [](const Item& i) { return std::string_view(i.kind->name) == "Node"; }))
    fmt::print(stderr,
               "note: the certificate of a Node stays good; `calico-node node delete NAME` takes it back as well\n");
  const auto report =
      write_items(asker(a), items, {verb, a.dry_run, verb == resources::Verb::create ? a.skip_exists : a.skip_absent});
  std::size_t written = 0, not_known = 0, not_written = 0;
  json::array results;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto& r = report.results[i];
    not_known += r.action == "not known";
    not_written += r.action == "not written" || r.action == "refused";
    written += r.action == "created" || r.action == "updated" || r.action == "deleted";
    if (a.machine()) {
      json::object o{{"kind", items[i].kind->name}, {"name", items[i].name}, {"action", r.action}};
      if (!items[i].ns.empty()) o["namespace"] = items[i].ns;
      if (r.revision != 0) o["resourceVersion"] = std::to_string(r.revision);
      if (!r.why.empty()) o["why"] = r.why;
      results.push_back(std::move(o));
      continue;
    }
    fmt::print(r.action == "refused" ? stderr : stdout, "{}: {}{}{}\n", items[i].title(), r.action,
               a.dry_run && r.action != "refused" ? " (dry run)" : "", r.why.empty() ? "" : ": " + r.why);
  }
  if (a.machine()) {
    json::object out{{"results", std::move(results)}, {"dryRun", a.dry_run}};
    if (!report.error.empty()) out["error"] = report.error;
    print_document(a, out);
  }
  std::fflush(stdout);
  if (report.code == 0) return 0;
  std::string state = a.dry_run || (written == 0 && not_known == 0)
                          ? "nothing was written"
                          : fmt::format("{} written, {} not written", counted(written), not_written);
  if (not_known != 0) state += fmt::format(", of {} it is not known (apply again to see)", not_known);
  return failed(a, report.code, report.error == "refused" ? state : fmt::format("{}; {}", report.error, state));
}

// --- reading
// ----------------------------------------------------------------------------------------------------------

/// Texts at "a.b", of "a[].b" one member of each element; "" when absent.
std::string cell(const json::value& v, std::string_view path) {
  if (const auto* list = v.if_array()) {
    std::string out;
    for (const auto& e : *list) {
      const auto text = cell(e, path);
      if (!text.empty()) out += (out.empty() ? "" : ",") + text;
    }
    return out;
  }
  if (path.empty()) {
    if (v.is_null()) return {};
    if (v.is_string()) return std::string(v.get_string());
    return v.is_double() ? fmt::format("{}", v.get_double()) : json::serialize(v);
  }
  const auto dot = path.find('.');
  auto name = path.substr(0, dot);
  if (name.ends_with("[]")) name.remove_suffix(2);
  const auto* o = v.if_object();
  const auto* next = o ? o->if_contains(json::string_view(name.data(), name.size())) : nullptr;
  return next ? cell(*next, dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1)) : std::string();
}

void print_table(const Kind& kind, const std::vector<json::object>& items, bool wide, bool namespaces) {
  std::vector<std::vector<std::string>> rows(1);
  std::vector<const char*> paths;
  if (namespaces && kind.namespaced) {
    rows[0].emplace_back("NAMESPACE");
    paths.push_back("metadata.namespace");
  }
  for (const auto& c : kind.columns) {
    if (c.wide && !wide) continue;
    rows[0].emplace_back(c.title);
    paths.push_back(c.path);
  }
  for (const auto& o : items) {
    auto& row = rows.emplace_back();
    for (const char* path : paths) {
      auto text = cell(o, path);
      for (auto& c : text)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
      row.push_back(std::move(text));
    }
  }
  std::vector<std::size_t> widths(paths.size());
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i)
      line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}   ", row[i], widths[i]);
    fmt::print("{}\n", line);
  }
}

const Kind& kind_of(const json::object& o, const Kind& otherwise) {
  const auto* k = o.if_contains("kind");
  const auto* found = k && k->is_string() ? resources::find_exact(std::string_view(k->get_string())) : nullptr;
  return found ? *found : otherwise;
}

void print_resources(const Asked& a, const Kind& kind, const std::vector<json::object>& items, bool one, bool mixed,
                     std::int64_t revision) {
  if (a.machine()) {
    if (one) return print_document(a, items.front());
    json::array list(items.begin(), items.end());
    json::object out{{"kind", mixed ? std::string("List") : fmt::format("{}List", kind.name)},
                     {"apiVersion", mixed ? "v1" : "projectcalico.org/v3"}};
    if (revision != 0) out["metadata"] = json::object{{"resourceVersion", std::to_string(revision)}};
    out["items"] = std::move(list);
    return print_document(a, out);
  }
  if (!mixed) return print_table(kind, items, a.format == "wide", a.all);
  // A table a kind, in the order they came in.
  std::vector<const Kind*> order;
  for (const auto& o : items)
    if (const auto* k = &kind_of(o, kind); std::find(order.begin(), order.end(), k) == order.end()) order.push_back(k);
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::vector<json::object> own;
    for (const auto& o : items)
      if (&kind_of(o, kind) == order[i]) own.push_back(o);
    fmt::print("{}{}\n", i == 0 ? "" : "\n", order[i]->name);
    print_table(*order[i], own, a.format == "wide", true);
  }
}

int get(const Asked& a) {
  const auto ask = asker(a);
  if (!a.sources.empty()) {
    if (!a.words.empty()) return usage_error(a, "either -f or a kind");
    Manifest m;
    if (const int code = read_files(a, {.identity_only = true, .read_only_kinds = true}, m); code != 0) return code;
    std::vector<json::object> found;
    int code = 0;
    for (const auto& i : m.items) {
      auto one = get_resource(ask, *i.kind, i.ns, i.name);
      if (one)
        found.push_back(std::move(*one));
      else if (code = failed(a, one.error().code, one.error().what); code != 1)
        return code;
    }
    const bool one = m.items.size() == 1;
    if (!found.empty()) print_resources(a, *m.items.front().kind, found, one, !one, 0);
    return code;
  }
  if (a.words.empty()) return usage_error(a, "what? a kind, or -f FILE");
  const auto* kind = resources::find_kind(a.words[0]);
  if (!kind) return usage_error(a, resources::unknown_kind(a.words[0]));
  const auto ns = kind->namespaced ? namespace_of(a) : std::string();
  if (a.words.size() > 1) {
    if (a.all) return usage_error(a, "-A takes no name");
    std::vector<json::object> found;
    int code = 0;
    for (std::size_t i = 1; i < a.words.size(); ++i) {
      auto one = get_resource(ask, *kind, ns, a.words[i]);
      if (one)
        found.push_back(std::move(*one));
      else if (code = failed(a, one.error().code, one.error().what); code != 1)
        return code;
    }
    if (!found.empty()) print_resources(a, *kind, found, a.words.size() == 2, false, 0);
    return code;
  }
  auto listed = list_resources(ask, *kind, a.all ? std::string() : ns);
  if (!listed) return failed(a, listed.error().code, listed.error().what);
  for (const auto& key : listed->broken) fmt::print(stderr, "calico-node get: {}: not a resource\n", key);
  print_resources(a, *kind, listed->items, false, false, listed->revision);
  return 0;
}

/// Items of `delete KIND NAME…`, each under the name it is stored with.
int named(const Asked& a, std::vector<Item>& items) {
  const auto* kind = resources::find_kind(a.words[0]);
  if (!kind) return usage_error(a, resources::unknown_kind(a.words[0]));
  if (a.words.size() < 2) return usage_error(a, "which? delete KIND NAME");
  const auto ns = kind->namespaced ? namespace_of(a) : std::string();
  const auto ask = asker(a);
  for (std::size_t i = 1; i < a.words.size(); ++i) {
    auto found = get_resource(ask, *kind, ns, a.words[i]);
    if (!found && found.error().code == 1 && a.skip_absent) {
      fmt::print("{} {}{}{}: skipped\n", kind->name, ns, ns.empty() ? "" : "/", a.words[i]);
      continue;
    }
    if (!found) return failed(a, found.error().code, found.error().what + "; nothing was written");
    resources::ReadOptions options{.identity_only = true};
    json::object identity{{"apiVersion", "projectcalico.org/v3"}, {"kind", kind->name}};
    json::object meta{{"name", cell(*found, "metadata.name")}};
    if (!ns.empty()) meta["namespace"] = ns;
    identity["metadata"] = std::move(meta);
    auto item = resources::read_item(identity, options);
    if (!item) return failed(a, 1, item.error().what);
    items.push_back(std::move(*item));
  }
  return 0;
}

int main_of(const char* command, const Invocation& in) {
  auto asked = parse(command, in.args);
  if (!asked) {
    Asked a;
    a.command = command;
    return usage_error(a, asked.error().what);
  }
  const auto& a = *asked;
  if (a.help) {
    fmt::print("{}", kUsage);
    return 0;
  }
  const std::string_view name = command;
  if (a.all && name != "get") return usage_error(a, "-A is for get");
  if (name == "get") return get(a);
  if (name == "delete" && a.sources.empty() && !a.words.empty()) {
    std::vector<Item> items;
    if (const int code = named(a, items); code != 0) return code;
    return items.empty() ? 0 : write(a, items, resources::Verb::remove);
  }
  if (!a.words.empty()) return usage_error(a, fmt::format("'{}' is not understood", a.words[0]));
  if (a.sources.empty()) return usage_error(a, name == "delete" ? "what? -f FILE, or KIND NAME" : "what? -f FILE");
  const auto verb = resources::parse_verb(name);
  Manifest m;
  const resources::ReadOptions options{.identity_only = name == "delete", .read_only_kinds = name == "validate"};
  if (const int code = read_files(a, options, m); code != 0) return code;
  print_notes(m);
  if (verb) return write(a, m.items, *verb);
  if (a.machine())
    print_document(a,
                   json::object{{"valid", true}, {"resources", m.items.size()}, {"notes", json::value_from(m.notes)}});
  else
    fmt::print("{}, well\n", counted(m.items.size()));
  return 0;
}

}  // namespace

int apply_main(const Invocation& in) { return main_of("apply", in); }
int create_main(const Invocation& in) { return main_of("create", in); }
int replace_main(const Invocation& in) { return main_of("replace", in); }
int delete_main(const Invocation& in) { return main_of("delete", in); }
int get_main(const Invocation& in) { return main_of("get", in); }
int validate_main(const Invocation& in) { return main_of("validate", in); }

}  // namespace calico::node
