#pragma once
/// Files of Calico v3 resources in calicoctl's format, read and checked whole: every fault is found before anybody
/// writes anything.
///
///   Manifest m;
///   read_manifest("web.yaml", text, {}, m);
///   check_duplicates(m);
///   for (const auto& f : m.faults) print(f.to_string());     // not empty: nothing of it may be used
///   for (const auto& item : m.items) …                       // normalised, with its key
///
/// A file holds documents ("---"), each a resource, or a list (`kind: List`, `kind: NetworkPolicyList`, or a bare
/// sequence) of them; JSON is the same. Normalised means: the policy's name with its tier, an endpoint's name from its
/// spec, no null members, metadata without resourceVersion. Thread: any, pure.
#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/resources/kinds.hpp"

namespace calico::resources {

struct Fault {
  std::string source;        ///< file; "-" = stdin
  std::uint32_t line = 0;    ///< 0 = of no line
  std::size_t document = 0;  ///< from 1; 0 = the only one
  std::string object;        ///< "NetworkPolicy openstack/default.web", "" when not known
  std::string path;          ///< "spec.order"
  std::string value;         ///< as written, "" when absent
  std::string accepted;      ///< what is wrong, what would be right
  std::string to_string() const;
};

struct Item {
  const Kind* kind = nullptr;
  std::string ns;
  std::string name;  ///< as stored
  std::string key;
  boost::json::object resource;
  std::optional<std::int64_t> resource_version;  ///< given: only this revision of it is changed
  std::string source;
  std::uint32_t line = 0;
  /// "NetworkPolicy openstack/default.web".
  std::string title() const;
};

struct Manifest {
  std::vector<Item> items;
  std::vector<Fault> faults;
  std::vector<std::string> notes;  ///< worth saying, no fault
};

struct ReadOptions {
  std::string default_namespace;  ///< for those that name none; "" = a fault
  bool identity_only = false;     ///< kind, name and namespace are enough (delete, get)
  bool read_only_kinds = false;   ///< also those nobody may write (validate, get)
};

/// Adds what is in `text`. With identity_only nothing else is checked.
void read_manifest(std::string_view source, std::string_view text, const ReadOptions& options, Manifest& out);
/// Adds a fault for every item whose key was there before.
void check_duplicates(Manifest& m);

/// One resource (of a control request): the item or its faults. Errors: invalid, the first fault.
[[nodiscard]] Result<Item> read_item(const boost::json::value& value, const ReadOptions& options);

/// The members in the order all writers of this data model use.
[[nodiscard]] boost::json::object ordered(const Kind& kind, const boost::json::object& resource);

}  // namespace calico::resources
