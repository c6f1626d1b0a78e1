#pragma once
/// What `lab demo` found, and its two forms: tables for people, one JSON document for scripts (its fields are a promise
/// to users). Pure: values in, text out.
#include <string>
#include <vector>

#include "modules/lab/probe.hpp"

namespace calico::lab {

struct BgpRow {
  std::string reflector;
  std::string peer;
  std::string state;  ///< "Established" or what the reflector says instead
};
struct InstanceRow {
  std::string name;
  std::string compute;
  std::string interface;
  std::string mac;
  std::string security_group;
  std::vector<std::string> ips;
  double active_ms = -1;   ///< POST of the port to ACTIVE; -1 = never
  double address_ms = -1;  ///< guest running to address configured by DHCP
};
struct NodeRow {
  std::string name;
  std::string role;
  std::string address;
  bool running = false;
};
struct RuleStep {
  std::string step;  ///< "deleted", "added"
  Matrix ping;
  double followed_ms = 0;  ///< answer of the API to the first round that was as expected
};

struct Findings {
  std::vector<NodeRow> nodes;
  std::vector<BgpRow> bgp;
  std::vector<InstanceRow> instances;
  std::vector<Guest> guests;  ///< names for the rows below
  Matrix ping;
  Matrix ssh;
  Matrix refused;
  Matrix refused_control;  ///< the refused port from inside its own machine
  std::vector<SpoofAttempt> spoof;
  std::vector<RuleStep> rule_change;
  std::string error;  ///< what kept the demonstration from being finished
  std::string rule_change_group;
  double setup_s = 0;
  double total_s = 0;

  bool bgp_ok() const;
  bool instances_ok() const;
  bool spoof_ok() const;
  bool ok() const;
};

std::string to_json(const Findings& f);

/// Tables, each with its own verdict.
std::string nodes_table(const Findings& f);
std::string bgp_table(const Findings& f);
std::string instances_table(const Findings& f);
/// Expected beside got, one block a family.
std::string matrix_table(const std::vector<Guest>& guests, const Matrix& m);
std::string spoof_table(const Findings& f);

}  // namespace calico::lab
