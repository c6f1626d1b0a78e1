#pragma once
/// One row declares a configuration key: parsing, range check, default, help and reload rule all come from it
/// (core/config/README.md). Core's own rows are in core_params.cpp, a module's in its folder.
///
///   constexpr Param kParams[] = {
///     {.name = "bgp.hold_time", .type = Type::duration, .range = "0s|3s:65535s", .def = "90s",
///      .reload = Reload::session, .help = "Hold time offered in OPEN; 0s turns keepalives off (RFC 4271 4.2)."},
///   };
#include <cstdint>
#include <span>

namespace calico::config {

enum class Type : std::uint8_t {
  string,        ///< any text; range: "" or alternatives "a|b|c" (then it is an enumeration)
  boolean,       ///< yes/no, true/false, on/off, 1/0
  integer,       ///< decimal; range "1:65535", alternatives by "|"
  duration,      ///< number and unit: ms, s, m, h, d; range "0s|3s:65535s"
  size,          ///< number and unit: B, KiB, MiB, GiB
  ip,            ///< IPv4 or IPv6 address
  prefix,        ///< address/length
  ip_port,       ///< 127.0.0.1:2379, [::1]:2379
  list,          ///< comma separated words
  ip_port_list,  ///< comma separated ip_port
  path,          ///< absolute path
  secret_file,   ///< absolute path of a file whose content is secret; the path prints, the content never
};

/// What a changed value needs to take effect on SIGHUP.
enum class Reload : std::uint8_t {
  live,     ///< taken at once
  session,  ///< the sessions or listeners concerned are restarted
  restart,  ///< the process must be restarted; SIGHUP says so and keeps the old value
};

struct Param {
  const char* name;  ///< "section.key"; "bgp.peer.*.address" is a key of the named sections [bgp.peer.NAME],
                     ///< "bgp.filter.*.rule.*" a numbered key of theirs: rule.10, rule.20
  Type type = Type::string;
  const char* range = "";
  const char* def = "";  ///< empty = unset
  Reload reload = Reload::restart;
  const char* help = "";
  const char* felix_name = "";  ///< upstream Felix's name for it (felix.cfg, FELIX_*, FelixConfiguration), "" = none
  bool required = false;        ///< named sections: must be given
};

using Params = std::span<const Param>;

}  // namespace calico::config
