#include "core/resources/manifest.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <map>

#include "core/model/bgp_resources.hpp"
#include "core/model/keys.hpp"
#include "core/resources/members.hpp"
#include "core/resources/scalar.hpp"
#include "core/resources/yaml.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;

constexpr std::string_view kApiVersion = "projectcalico.org/v3";
constexpr const char* kNameAnnotation = "projectcalico.org/metadata";
constexpr std::size_t kMaxFaults = 1000;

std::string text_of(const json::value& v) {
  const auto* s = v.if_string();
  return s ? std::string(s->data(), s->size()) : std::string();
}

json::value without_nulls(const json::value& v) {
  if (const auto* o = v.if_object()) {
    json::object out;
    for (const auto& m : *o)
      if (!m.value().is_null()) out[m.key()] = without_nulls(m.value());
    return out;
  }
  if (const auto* a = v.if_array()) {
    json::array out;
    for (const auto& e : *a) out.push_back(without_nulls(e));
    return out;
  }
  return v;
}

std::string title_of(std::string_view kind, std::string_view ns, std::string_view name) {
  return fmt::format("{} {}{}{}", kind, ns, ns.empty() ? "" : "/", name);
}

/// What upstream's client sets for its users.
void complete(const Kind& kind, json::object& metadata, const json::object& spec) {
  const std::string_view k = kind.name;
  if (k == "WorkloadEndpoint") {
    const model::WorkloadEndpointName id{text_of(at(spec, "node")), text_of(at(spec, "orchestrator")),
                                         text_of(at(spec, "workload")), text_of(at(spec, "endpoint"))};
    const bool whole = !id.host.empty() && !id.orchestrator.empty() && !id.workload.empty() && !id.endpoint.empty();
    if (whole && text_of(at(metadata, "name")).empty()) metadata["name"] = model::format_wep_name(id);
    auto labels = at(metadata, "labels").is_object() ? at(metadata, "labels").get_object() : json::object();
    const auto label = [&](std::string_view name, const std::string& value) {
      const json::string_view key(name.data(), name.size());
      if (!labels.contains(key) && !value.empty()) labels[key] = value;
    };
    label(model::kLabelNamespace, text_of(at(metadata, "namespace")));
    label(model::kLabelOrchestrator, id.orchestrator);
    if (!labels.empty() && (at(metadata, "labels").is_object() || at(metadata, "labels").is_null()))
      metadata["labels"] = std::move(labels);
    return;
  }
  const auto given = text_of(at(metadata, "name"));
  const auto name = stored_name(kind, given, text_of(at(spec, "tier")));
  if (name == given) return;
  metadata["name"] = name;
  // Upstream's own way to remember what the user called it.
  const auto& old = at(metadata, "annotations");
  if (!old.is_object() && !old.is_null()) return;
  auto annotations = old.is_object() ? old.get_object() : json::object();
  if (!annotations.contains(kNameAnnotation))
    annotations[kNameAnnotation] = json::serialize(json::object{{"name", given}});
  metadata["annotations"] = std::move(annotations);
}

void add_notes(const Item& i, std::vector<std::string>& notes) {
  const auto note = [&](std::string text) { notes.push_back(fmt::format("{}: {}", i.title(), text)); };
  if (i.kind->unused) note(i.kind->unused);
  if (is_generated(*i.kind, i.name))
    note("written by the controller from Neutron's objects, which puts its own back at its next change or resync");
  const std::string_view k = i.kind->name;
  if (k == "FelixConfiguration" && i.name != "default" && !i.name.starts_with("node.")) {
    if (text_at(object_at(i.resource, "spec"), "nodeSelector").empty())
      note("without spec.nodeSelector it is for nobody: 'default' is for all, 'node.NAME' for one");
  }
  if (k == "BGPConfiguration" && i.name != "default" && !i.name.starts_with("node."))
    note("roles of this version read 'default' and 'node.NAME' only");
  if (k == "BGPConfiguration")
    if (const auto c = model::parse_bgp_configuration(json::serialize(i.resource)))
      for (const auto& n : c->notes) note(n);
  if (k == "BGPPeer")
    if (const auto p = model::parse_bgp_peer(json::serialize(i.resource)))
      for (const auto& n : p->notes) note(n);
}

class Reader {
 public:
  Reader(std::string_view source, const ReadOptions& options, Manifest& out)
      : source_(source), options_(options), out_(out) {}

  void fault(std::uint32_t line, std::string object, Problem p) {
    if (out_.faults.size() > kMaxFaults) return;
    if (out_.faults.size() == kMaxFaults)
      p = {"", "", fmt::format("more than {} faults; the rest is not told", kMaxFaults)};
    out_.faults.push_back(
        {source_, line, document_, std::move(object), std::move(p.path), std::move(p.value), std::move(p.accepted)});
  }

  void document(const YamlDocument& d, std::size_t number) {
    document_ = number;
    if (const auto* list = d.value.if_array()) return elements(d, *list, "", {});
    const auto* o = d.value.if_object();
    if (!o) {
      if (!d.value.is_null())
        fault(line_of(d, ""), "", {"", brief(d.value), "need a resource: apiVersion, kind, metadata, spec"});
      return;
    }
    const auto kind = text_of(at(*o, "kind"));
    if (!kind.ends_with("List")) return resource(d, *o, "", {});
    const auto of = kind.substr(0, kind.size() - 4);
    if (!of.empty() && !find_exact(of)) return fault(line_of(d, "kind"), "", {"kind", "", unknown_kind(of)});
    static constexpr Field kListMetadata[] = {
        {"resourceVersion", Is::any}, {"continue", Is::any}, {"selfLink", Is::any}};
    static constexpr Field kList[] = {{"apiVersion", Is::choice, "projectcalico.org/v3|v1"},
                                      {"kind"},
                                      {"metadata", Is::object, {}, kListMetadata},
                                      {"items", Is::any}};
    std::vector<Problem> problems;
    check_fields(*o, kList, "", problems);
    for (auto& p : problems) {
      const auto line = line_of(d, p.path);
      fault(line, kind, std::move(p));
    }
    const auto& items = at(*o, "items");
    if (items.is_null()) return;
    if (!items.is_array()) return fault(line_of(d, "items"), kind, {"items", brief(items), "need a list of resources"});
    elements(d, items.get_array(), "items", of);
  }

  void resource(const YamlDocument& d, const json::object& given, const std::string& path, std::string_view implied) {
    const auto full = [&](const std::string& p) { return path.empty() ? p : p.empty() ? path : path + "." + p; };
    const auto line = [&](const std::string& p) { return line_of(d, full(p)); };
    std::vector<Problem> problems;
    auto item = read(given, implied, problems);
    const auto title = item.kind ? item.title() : std::string();
    for (auto& p : problems) {
      const auto n = line(p.path);
      fault(n, title, std::move(p));
    }
    if (!problems.empty()) return;
    item.source = source_;
    item.line = line("");
    if (!options_.identity_only) add_notes(item, out_.notes);
    out_.items.push_back(std::move(item));
  }

  Item read(const json::object& given, std::string_view implied, std::vector<Problem>& problems) {
    Item item;
    const auto said = at(given, "kind").is_null() ? std::string(implied) : text_of(at(given, "kind"));
    if (said.empty()) return problems.push_back({"kind", "", "missing"}), item;
    item.kind = find_exact(said);
    if (!item.kind) return problems.push_back({"kind", "", unknown_kind(said)}), item;
    if (!implied.empty() && said != implied)
      problems.push_back({"kind", quoted(said), fmt::format("this is a list of {}", implied)});
    json::object r = without_nulls(given).get_object();
    if (text_of(at(r, "apiVersion")) != kApiVersion && !(at(r, "apiVersion").is_null() && !implied.empty()))
      problems.push_back({"apiVersion", at(r, "apiVersion").is_null() ? "" : brief(at(r, "apiVersion")),
                          fmt::format("need {}", kApiVersion)});
    r["apiVersion"] = json::string_view(kApiVersion.data(), kApiVersion.size());
    r["kind"] = item.kind->name;
    check_members(*item.kind, r, problems);
    if (const auto& meta = at(r, "metadata"); !meta.is_object()) {
      problems.push_back({"metadata", meta.is_null() ? "" : brief(meta), "need an object with a name"});
      return item;
    }
    auto& m = r["metadata"].get_object();
    if (item.kind->namespaced && at(m, "namespace").is_null() && !options_.default_namespace.empty())
      m["namespace"] = options_.default_namespace;
    static const json::object none;
    complete(*item.kind, m, at(r, "spec").is_object() ? at(r, "spec").get_object() : none);
    item.ns = item.kind->namespaced ? text_of(at(m, "namespace")) : std::string();
    item.name = text_of(at(m, "name"));
    version(m, item, problems);
    if (item.kind->read_only && !options_.read_only_kinds)
      problems.push_back({"kind", "", fmt::format("a {} is read only here: the cluster's identity hangs on it", said)});
    auto found = check_resource(*item.kind, r);
    if (options_.identity_only)
      std::erase_if(found,
                    [](const Problem& p) { return p.path != "metadata.name" && p.path != "metadata.namespace"; });
    for (auto& p : found) problems.push_back(std::move(p));
    item.key = key_of(*item.kind, item.ns, item.name);
    item.resource = ordered(*item.kind, r);
    return item;
  }

 private:
  void elements(const YamlDocument& d, const json::array& list, const std::string& path, std::string_view implied) {
    std::size_t i = 0;
    for (const auto& e : list) {
      const auto here = fmt::format("{}[{}]", path, i++);
      if (const auto* o = e.if_object())
        resource(d, *o, here, implied);
      else
        fault(line_of(d, here), "", {here, brief(e), "need a resource"});
    }
  }

  void check_members(const Kind& kind, const json::object& r, std::vector<Problem>& problems) {
    static constexpr Field kMembers[] = {
        {"apiVersion", Is::any}, {"kind", Is::any}, {"metadata", Is::any}, {"spec", Is::any}};
    static constexpr Field kNodeMembers[] = {
        {"apiVersion", Is::any}, {"kind", Is::any}, {"metadata", Is::any}, {"spec", Is::any}, {"status", Is::any}};
    if (options_.identity_only) return;
    check_fields(r, std::string_view(kind.name) == "Node" ? Fields(kNodeMembers) : Fields(kMembers), "", problems);
  }

  /// metadata.resourceVersion, a number or the text of one; "" and absent are the same.
  void version(json::object& m, Item& item, std::vector<Problem>& problems) {
    const auto given = at(m, "resourceVersion");
    m.erase("resourceVersion");
    if (given.is_null()) return;
    const auto text = given.is_string() ? text_of(given) : json::serialize(given);
    if (text.empty()) return;
    std::int64_t n = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (ec != std::errc{} || end != text.data() + text.size() || n <= 0)
      return problems.push_back(
          {"metadata.resourceVersion", brief(given), "need the number that get printed, or leave it out"});
    item.resource_version = n;
  }

  std::string source_;
  const ReadOptions& options_;
  Manifest& out_;
  std::size_t document_ = 0;
};

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) out.push_back(static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c);
  return out;
}

}  // namespace

std::string Item::title() const { return printable(title_of(kind ? kind->name : "?", ns, name)); }

std::string Fault::to_string() const {
  std::string out = source;
  if (line != 0) out += fmt::format(":{}", line);
  if (document != 0) out += fmt::format(" (document {})", document);
  for (const auto* part : {&object, &path, &value, &accepted})
    if (!part->empty()) out += ": " + *part;
  return printable(out);
}

void read_manifest(std::string_view source, std::string_view text, const ReadOptions& options, Manifest& out) {
  Reader reader(source, options, out);
  auto docs = read_yaml(text);
  if (!docs) {
    // "line N: what": the number goes to its own place.
    const std::string_view what = docs.error().what;
    std::uint32_t line = 0;
    const auto colon = what.find(": ");
    if (what.starts_with("line ") && colon != std::string_view::npos)
      std::from_chars(what.data() + 5, what.data() + colon, line);
    return reader.fault(line, "", {"", "", std::string(line == 0 ? what : what.substr(colon + 2))});
  }
  const auto before = out.items.size() + out.faults.size();
  for (std::size_t i = 0; i < docs->size(); ++i) reader.document((*docs)[i], docs->size() == 1 ? 0 : i + 1);
  const bool lists = std::any_of(docs->begin(), docs->end(), [](const auto& d) { return !d.value.is_null(); });
  if (out.items.size() + out.faults.size() == before && !lists) reader.fault(0, "", {"", "", "no resource in it"});
}

void check_duplicates(Manifest& m) {
  std::map<std::string_view, const Item*> seen;
  std::vector<Fault> twice;
  for (const auto& i : m.items)
    if (const auto [it, fresh] = seen.emplace(i.key, &i); !fresh && twice.size() < kMaxFaults)
      twice.push_back({i.source, i.line, 0, i.title(), "metadata.name", "",
                       fmt::format("is given before, at {}:{}", it->second->source, it->second->line)});
  for (auto& f : twice) m.faults.push_back(std::move(f));
}

Result<Item> read_item(const json::value& v, const ReadOptions& options) {
  Manifest unused;
  Reader reader("", options, unused);
  if (!v.is_object()) return fail(Errc::invalid, "need a resource");
  std::vector<Problem> problems;
  auto item = reader.read(v.get_object(), "", problems);
  if (problems.empty()) return item;
  const auto& p = problems.front();
  return fail(Errc::invalid, "{}",
              printable(fmt::format("{}{}{}: {}{}{}", item.kind ? item.title() : "", item.kind ? ": " : "", p.path,
                                    p.value, p.value.empty() ? "" : ": ", p.accepted)));
}

json::object ordered(const Kind& kind, const json::object& r) {
  json::object out, m;
  out["kind"] = kind.name;
  out["apiVersion"] = json::string_view(kApiVersion.data(), kApiVersion.size());
  static const json::object none;
  const auto& given = at(r, "metadata").is_object() ? at(r, "metadata").get_object() : none;
  for (const char* name : {"name", "namespace", "creationTimestamp", "uid", "annotations", "labels"}) {
    const auto& v = at(given, name);
    const bool empty = v.is_null() || (v.is_object() && v.get_object().empty());
    if (!empty) m[name] = v;
  }
  out["metadata"] = std::move(m);
  out["spec"] = at(r, "spec").is_null() ? json::value(json::object()) : at(r, "spec");
  if (!at(r, "status").is_null()) out["status"] = at(r, "status");
  return out;
}

}  // namespace calico::resources
