#pragma once
/// YAML read into JSON values with the line of each, and JSON values written as YAML. JSON texts are read as the YAML
/// they are.
///
///   auto docs = read_yaml(text);                    // Result<std::vector<YamlDocument>>
///   int line = line_of(docs->at(0), "spec.ports[1]");
///   std::string text = to_yaml(value);              // read_yaml(text) gives value again
///
/// Plain scalars mean what YAML 1.2's core schema says. What 1.1 and 1.2 readers understand differently is refused with
/// what to write instead: yes/no/on/off, 0777, 0x1f, 1_000, .inf, merge keys (<<), tags other than !!str, !!map, !!seq.
/// Bounds: 8 MiB of text, 32 levels, 1,000,000 values, 10,000 documents, 1 MiB of anchored and as much of aliased
/// content. Keys are text; a key given twice is refused. Thread: any, pure. Errors: invalid, one line that begins
/// "line N: ".
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"

namespace calico::resources {

inline constexpr std::size_t kMaxYaml = 8U << 20U;
inline constexpr std::size_t kMaxYamlDepth = 32;

struct YamlDocument {
  boost::json::value value;          ///< null for an empty document
  std::vector<std::uint32_t> lines;  ///< of each value, in the order it is met; of a member the line of its key
};

[[nodiscard]] Result<std::vector<YamlDocument>> read_yaml(std::string_view text);

/// Line of "a.b[2].c": members by ".", elements by "[n]". The nearest part that is there when `path` is not.
[[nodiscard]] std::uint32_t line_of(const YamlDocument& document, std::string_view path);

/// Block style. Text that some reader might take for anything else is quoted.
[[nodiscard]] std::string to_yaml(const boost::json::value& v);
/// Indented JSON, numbers as people write them.
[[nodiscard]] std::string to_pretty_json(const boost::json::value& v);
/// Equal but for the order of members, null against absent members, and 1 against 1.0.
[[nodiscard]] bool same_value(const boost::json::value& a, const boost::json::value& b);

}  // namespace calico::resources
