#pragma once
/// An immutable snapshot of the configuration. Built by load() (core/config/load.hpp) from the declared rows; modules
/// get `const Config&`.
///
///   auto hold = config.duration("bgp.hold_time");
///   for (const auto& name : config.sections("bgp.peer")) config.ip("bgp.peer." + name + ".address");
///
/// Thread: any (immutable). A name that no row declares is a programming error and aborts.
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/base/ip.hpp"
#include "core/config/param.hpp"

namespace calico::config {

struct IpPort {
  Ip ip;
  std::uint16_t port = 0;
  /// "127.0.0.1:2379" or "[::1]:2379". Errors: invalid.
  [[nodiscard]] static Result<IpPort> parse(std::string_view text);
  std::string to_string() const;
  auto operator<=>(const IpPort&) const = default;
};

/// One fault in what the user gave: printed as one line "file:line: [section] key = value: what; accepted: …".
struct Fault {
  std::string where;  ///< "file:12", "environment CALICO_NODE_BGP_HOLD_TIME", "--set"
  std::string key;    ///< "section.key"
  std::string what;
  std::string to_string() const;
};
using Faults = std::vector<Fault>;

/// The rows of core and of every module found, by name.
class Schema {
 public:
  /// Errors: exists (a name declared twice).
  [[nodiscard]] Status add(Params rows);
  /// "bgp.peer.border-1.address" finds the row "bgp.peer.*.address".
  const Param* find(std::string_view name) const;
  const Param* find_felix(std::string_view upstream_name) const;  ///< case-insensitive
  const std::vector<const Param*>& rows() const { return rows_; }
  /// True for "bgp" (rows directly below) and "bgp.peer.x" (a named section).
  bool has_section(std::string_view section) const;

 private:
  std::vector<const Param*> rows_;
};

struct Value {
  std::string text;
  std::string where;      ///< "default" or as in Fault
  int layer = 0;          ///< 0 default … higher wins; see load.hpp
  bool upstream = false;  ///< given by upstream's name: what is wrong with it is a warning, never a fault
};

class Config {
 public:
  Config() = default;
  Config(std::shared_ptr<const Schema> schema, std::map<std::string, Value, std::less<>> values)
      : schema_(std::move(schema)), values_(std::move(values)) {}

  /// Text as given, "" when unset.
  const std::string& text(std::string_view name) const;
  bool is_set(std::string_view name) const { return !text(name).empty(); }
  /// True when the user gave it in some layer above the default.
  bool is_given(std::string_view name) const;
  std::string where(std::string_view name) const;
  bool is_upstream(std::string_view name) const;
  bool boolean(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  std::uint64_t size(std::string_view name) const;
  Duration duration(std::string_view name) const;
  std::optional<Ip> ip(std::string_view name) const;
  std::optional<Prefix> prefix(std::string_view name) const;
  std::optional<IpPort> ip_port(std::string_view name) const;
  std::vector<std::string> list(std::string_view name) const;
  std::vector<IpPort> ip_ports(std::string_view name) const;
  /// Names of the sections [<kind>.NAME], sorted: sections("bgp.peer").
  std::vector<std::string> sections(std::string_view kind) const;
  /// The numbers given of a numbered key, ascending: numbers("bgp.filter.out.rule") for rule.10, rule.20.
  std::vector<std::uint32_t> numbers(std::string_view key) const;

  const Schema& schema() const { return *schema_; }
  const std::map<std::string, Value, std::less<>>& values() const { return values_; }
  /// A copy where the values of a FelixConfiguration (upstream name → text) lie between the default and everything
  /// else; a second call lies above the first. Values of names we do not use, or that do not parse, are ignored, and
  /// named in `ignored`, one line each: "FelixConfiguration default: IptablesBackend is not used here: …".
  Config with_felix(const std::map<std::string, std::string>& upstream, const std::string& resource,
                    std::vector<std::string>* ignored) const;
  /// INI text that, read back, gives the same configuration; comments carry where each value came from.
  std::string print() const;

 private:
  const Value& value(std::string_view name) const;
  std::shared_ptr<const Schema> schema_;
  std::map<std::string, Value, std::less<>> values_;  // every declared plain name, and the given ones of named sections
};

/// "bgp.peer.x" of "bgp.peer.x.address", "bgp.filter.x" of "bgp.filter.x.rule.10".
[[nodiscard]] std::string_view section_of(const Param& row, std::string_view name);
/// Parses `text` as the row says; the value's accepted range in the error. Errors: invalid.
[[nodiscard]] Status check_value(const Param& row, std::string_view text);
[[nodiscard]] Result<Duration> parse_duration(std::string_view text);
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);

/// Rows of core: node, openstack, datastore, bgp (with peers and ranges), metrics.
Params core_params();
/// Cross-field checks of core's rows.
void check_core(const Config& config, Faults& faults);

}  // namespace calico::config
