#pragma once
/// What a resource may look like, as tables, and the check of a JSON value against them that finds every fault.
///
///   std::vector<Problem> problems;
///   check_fields(spec, kPolicySpec, "spec", problems);
///
/// Types follow what upstream's API writes and our readers (core/model) read; where both a number and a text are
/// written (ports, protocols, AS numbers) both are taken. Thread: any, pure.
#include <boost/json/value.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"

namespace calico::resources {

/// One fault of one value.
struct Problem {
  std::string path;      ///< "spec.ingress[0].protocol"
  std::string value;     ///< as written, cut, "" when absent
  std::string accepted;  ///< what is wrong and what would be right
};

/// More are counted, not kept: a file of another kind altogether must not print a book.
inline constexpr std::size_t kMaxProblems = 100;

enum class Is : std::uint8_t {
  text,        ///< accepts: "" or the longest length
  choice,      ///< accepts: "A|B|C"
  boolean,     ///<
  integer,     ///< accepts: "low:high"
  number,      ///< any finite number
  scalar,      ///< text, number or boolean
  any,         ///< not looked into
  ip,          ///<
  network,     ///< address or address/length
  cidr,        ///< address/length
  address_in,  ///< an interface's address with its network's length, host bits kept
  mac,         ///<
  selector,    ///< accepts: prefix of the labels' names ("pcns.")
  as_number,   ///< number, "64512" or "1.10"
  protocol,    ///< name or number
  port,        ///< number, "first:last" or name
  name,        ///< lower-case DNS name
  label_map,   ///< names and values of labels
  text_map,    ///< names and any texts
  object,      ///< inner
};

struct Field;
using Fields = std::span<const Field>;

struct Field {
  std::string_view name;
  Is is = Is::text;
  std::string_view accepts = {};
  Fields inner = {};
  bool list = false;
  bool required = false;
};

/// Every fault of `value`, which should be an object of these fields. A member that is null counts as absent.
void check_fields(const boost::json::value& value, Fields fields, const std::string& path,
                  std::vector<Problem>& problems);
/// As above for one value of one field.
void check_field(const boost::json::value& value, const Field& field, const std::string& path,
                 std::vector<Problem>& problems);

/// The nearest of the names, "" when none is near: for "did you mean".
[[nodiscard]] std::string_view nearest(std::string_view word, std::span<const std::string_view> names);
/// A value in an error line: short, printable.
[[nodiscard]] std::string brief(const boost::json::value& v);
/// DNS label or subdomain in lower case, as upstream demands of names.
[[nodiscard]] bool is_dns_name(std::string_view text);

}  // namespace calico::resources
