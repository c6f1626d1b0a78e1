#pragma once
/// The table of Calico v3 kinds that commands know: names, key, fields, what else is checked, columns.
///
///   const Kind* kind = find_kind("gnp");                       // also "GlobalNetworkPolicy", "globalnetworkpolicies"
///   auto key = key_of(*kind, "", "default.deny-all");          // /calico/resources/v3/projectcalico.org/global…
///   std::vector<Problem> problems = check_spec(*kind, object);
///
/// Thread: any, pure.
#include <boost/json/object.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/resources/schema.hpp"

namespace calico::resources {

struct Column {
  const char* title;
  const char* path;   ///< "spec.order"; a list prints its elements, "spec.ports[].port" one member of each
  bool wide = false;  ///< with -o wide only
};

struct Kind {
  const char* name;    ///< "NetworkPolicy"
  const char* plural;  ///< as in the key: "networkpolicies"
  std::span<const std::string_view> short_names;
  bool namespaced = false;
  bool read_only = false;
  /// What roles of this version make of it; nullptr = used.
  const char* unused = nullptr;
  Fields spec;
  std::span<const Column> columns;
  /// Beyond the fields: one fault at most, "path: what is wrong".
  Status (*check)(const boost::json::object& resource) = nullptr;
};

[[nodiscard]] std::span<const Kind> kinds();
/// By name, plural or short name, in any case. nullptr: not known.
[[nodiscard]] const Kind* find_kind(std::string_view word);
/// By the name a file must use, exactly.
[[nodiscard]] const Kind* find_exact(std::string_view name);
/// "unknown kind 'Foo'; did you mean …": also why a kind of Calico is not among ours.
[[nodiscard]] std::string unknown_kind(std::string_view word);

/// Below it are the keys of one namespace, or of the kind ("" or a global kind).
[[nodiscard]] std::string prefix_of(const Kind& kind, std::string_view ns);
[[nodiscard]] std::string key_of(const Kind& kind, std::string_view ns, std::string_view name);

/// All faults of the spec and of `name` as this kind takes it (stored_name() was applied).
[[nodiscard]] std::vector<Problem> check_resource(const Kind& kind, const boost::json::object& resource);

/// Policies are filed under "TIER.name"; names of Kubernetes and of the OpenStack driver ("ossg.default.…") stay.
[[nodiscard]] std::string stored_name(const Kind& kind, std::string_view name, std::string_view tier);
/// The controller or upstream's driver writes it: what is put there by hand will be put back.
[[nodiscard]] bool is_generated(const Kind& kind, std::string_view name);

}  // namespace calico::resources
