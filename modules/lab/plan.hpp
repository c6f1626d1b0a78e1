#pragma once
/// What a lab consists of, before any of it exists, and the file that remembers what was made. The plan is pure: names
/// and addresses follow from the options. The record is written before each thing is made, so that `lab down` knows of
/// everything whatever happened to the process that made it.
/// Thread: one at a time (a lab's lock). Errors: invalid (options, names), corrupt (a record that does not parse).
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/ip.hpp"
#include "modules/lab/process.hpp"

namespace calico::lab {

inline constexpr std::string_view kDefaultRoot = "/run/calico-node/lab";
inline constexpr std::size_t kMaxComputes = 60;
inline constexpr std::size_t kMaxReflectors = 8;

struct Node {
  std::string name;
  std::string roles;  ///< "controller,route-reflector", "route-reflector", "compute", "" for the border
  Ip mgmt4;
  Ip mgmt6;
  Ip public4;
  Ip public6;
  ProcessId process;

  bool has_role(std::string_view role) const;
  bool is_reflector() const { return has_role("route-reflector"); }
  bool is_compute() const { return has_role("compute"); }
  bool is_controller() const { return has_role("controller"); }
};

struct Vm {
  std::string name;
  std::string compute;
  std::string security_group;
  std::string port_id;  ///< its first 11 characters name the interface
  std::string device_id;
  std::string mac;
  std::vector<std::string> ips;  ///< as Neutron gave them
  ProcessId listener;
  ProcessId dhcp;

  std::string tap() const { return "tap" + port_id.substr(0, 11); }
};

struct Options {
  std::string name = "lab";
  std::string dir;  ///< default: kDefaultRoot/<name>
  std::size_t computes = 3;
  std::size_t reflectors = 2;
  bool ipv6 = false;
  bool network_only = false;  ///< namespaces and links, no node processes
  std::string log_level = "info";
  std::vector<std::string> set;  ///< further `--set section.key=value`; "compute-1:section.key=value" for one node
};

/// What is in <dir>/lab.json.
struct Record {
  Options options;
  std::vector<Node> nodes;
  std::vector<Vm> vms;
  std::string network_id;

  Node* node(std::string_view name);
  const Node* node(std::string_view name) const;
  Vm* vm(std::string_view name);
  const Node& controller() const;

  std::string to_json() const;
  [[nodiscard]] static Result<Record> from_json(std::string_view text);
};

/// Letters, digits and '-', at most 24 characters: they go into host names, file names and certificates.
[[nodiscard]] Status check_name(std::string_view name);
[[nodiscard]] Status check_options(const Options& options);
/// Those of `options.set` that concern a node, without its name.
std::vector<std::string> settings_for(const Options& options, std::string_view node);
/// Management 192.168.0.0/24, public 172.18.203.0/24 as in the Fuel document: controller .2, further reflectors from
/// .3, computes from .11; the border router is .1 on both.
Record make_plan(const Options& options);

/// Where things are.
struct Paths {
  std::string dir;
  std::string record() const { return dir + "/lab.json"; }
  std::string lock() const { return dir + "/lab.lock"; }
  std::string pki() const { return dir + "/pki"; }
  std::string netns(std::string_view name) const { return fmt::format("{}/ns/{}", dir, name); }
  std::string node(std::string_view name) const { return fmt::format("{}/nodes/{}", dir, name); }
  std::string vm(std::string_view name) const { return fmt::format("{}/vms/{}", dir, name); }
};
/// The namespace that holds the two switches.
inline constexpr std::string_view kFabric = "fabric";
inline constexpr std::string_view kBorder = "border";

/// True if a directory holds nothing but what a lab makes: only such a one is ever filled or removed.
[[nodiscard]] Status check_is_lab(const Paths& paths);

/// The right to change a lab, held by one process at a time. Released by the kernel if its holder dies.
class Lock {
 public:
  /// Makes the directory when `create`. Waits up to `limit`. Errors: not_found (no such lab), busy (names the holder).
  [[nodiscard]] static Result<Lock> take(const Paths& paths, bool create, Millis limit);

 private:
  Fd fd_;
};

}  // namespace calico::lab
