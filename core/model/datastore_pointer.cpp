#include "core/model/datastore_pointer.hpp"

#include "core/model/keys.hpp"
#include "core/model/readers.hpp"

namespace calico::model {
namespace {

using detail::Object;
using detail::read_document;
namespace json = boost::json;

constexpr std::size_t kMostEndpoints = 16;
constexpr std::int64_t kMost = 1000000000000000;  // what a double of JSON keeps exactly

std::vector<std::string> read_endpoints(const Object& spec, std::string_view key) {
  auto out = spec.texts(key);
  if (out.size() > kMostEndpoints) spec.bad(spec.at(key), fmt::format("more than {} endpoints", kMostEndpoints));
  for (const auto& e : out)
    if (e.size() > 300 || (!e.starts_with("https://") && !e.starts_with("http://")))
      spec.bad(spec.at(key), fmt::format("{} is no https://host:port", quoted(e)));
  return out;
}

json::array texts(const std::vector<std::string>& all) {
  json::array out;
  for (const auto& t : all) out.emplace_back(t);
  return out;
}

}  // namespace

Result<DatastorePointer> parse_datastore_pointer(std::string_view text) {
  return read_document<DatastorePointer>(text, [](const Object& root, DatastorePointer& p) {
    if (root.text("kind") != "DatastorePointer") root.bad("kind", "need DatastorePointer");
    const auto spec = root.object("spec");
    const auto generation = spec.integer("generation", 1, kMost);
    if (!generation) spec.bad(spec.at("generation"), "missing");
    p.generation = generation.value_or(0);
    p.endpoints = read_endpoints(spec, "endpoints");
    if (p.endpoints.empty()) spec.bad(spec.at("endpoints"), "missing");
    p.cluster_guid = spec.text("clusterGUID");
  });
}

std::string to_json(const DatastorePointer& p, bool next) {
  json::object spec;
  spec["generation"] = p.generation;
  spec["endpoints"] = texts(p.endpoints);
  spec["clusterGUID"] = p.cluster_guid;
  json::object o;
  o["kind"] = "DatastorePointer";
  o["apiVersion"] = "projectcalico.org/v3";
  o["metadata"] = json::object{{"name", next ? "next" : "default"}};
  o["spec"] = std::move(spec);
  return json::serialize(o);
}

std::string datastore_report_key(std::string_view region, std::string_view host) {
  return felix_host_prefix(region, host) + "datastore";
}

Result<DatastoreReport> parse_datastore_report(std::string_view text) {
  return read_document<DatastoreReport>(text, [](const Object& root, DatastoreReport& r) {
    r.generation = root.integer("generation", 0, kMost).value_or(0);
    r.tried = root.integer("tried", 0, kMost).value_or(0);
    r.error = shown(root.text("error"), 500);
  });
}

std::string to_json(const DatastoreReport& r) {
  return json::serialize(json::object{{"generation", r.generation}, {"tried", r.tried}, {"error", r.error}});
}

}  // namespace calico::model
