#pragma once
/// Health of this host against what its roles require. Judging is pure: what was seen goes in as values, findings come
/// out; looking is in observe.hpp.
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace calico::diag {

enum class Verdict : std::uint8_t {
  good,
  bad,     ///< a required element is missing or broken: exit 1
  benign,  ///< something not required for Calico that does no harm
};
[[nodiscard]] std::string_view to_string(Verdict v);

struct Finding {
  Verdict verdict = Verdict::good;
  std::string role;     ///< whose requirement; "host" for the process itself
  std::string element;  ///< "bgp session to rr-1"
  std::string detail;   ///< what was seen
  std::string advice;   ///< what to do; empty when good
};

struct Session {
  std::string name, address, state, last_error;
  bool from_datastore = false;
};

struct Endpoint {
  std::string interface, status, error;
};

/// What was seen on the host. Absent = could not be asked.
struct Observed {
  std::optional<std::string> process_error;  ///< why the control socket did not answer
  std::vector<std::string> roles;
  std::string name, version;
  bool ready = false;
  std::map<std::string, std::string> status;  ///< module → its line
  std::optional<std::string> sync_phase;      ///< "in sync", …
  std::string sync_reason;
  std::optional<std::vector<Session>> sessions;
  std::optional<std::vector<Endpoint>> endpoints;
  std::optional<bool> dhcp_running;
  std::size_t dhcp_ports = 0;
  std::optional<bool> api_serving;  ///< controller: the Neutron API; absent = switched off
  std::string api_detail;
  std::map<std::string, std::string> sysctls;  ///< path → value
  std::vector<std::string> processes;          ///< names of other programs that run here
  std::vector<std::string> links;              ///< names of interfaces
};

/// One finding for each element the roles require, then the benign leftovers seen.
[[nodiscard]] std::vector<Finding> judge(const Observed& seen);
/// True when nothing is bad.
[[nodiscard]] bool healthy(const std::vector<Finding>& findings);

}  // namespace calico::diag
