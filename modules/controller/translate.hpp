#pragma once
/// Neutron's state as Calico's datastore model: keys and JSON exactly as the Neutron driver of Calico writes them, so
/// that either can follow the other on one datastore. Pure.
///
/// An Intent is one key's desired content without uid and creationTimestamp; merge() makes the value from it and from
/// what the key holds now: uid and creationTimestamp survive updates, equal content is not written again.
#include <boost/json/object.hpp>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "modules/controller/state.hpp"

namespace calico::controller {

namespace json = boost::json;

/// Name and parent of projects, as far as the tokens file tells them; others get no such labels.
struct Project {
  std::string name;
  std::string parent;
};
using Projects = std::map<std::string, Project, std::less<>>;

/// "" or a region's name to the datastore's spellings.
struct Region {
  std::string string = "no-region";  ///< in /calico/felix/v2/<string>/ and /calico/dhcp/v2/<string>/
  std::string space = "openstack";   ///< metadata.namespace
  static Region named(std::string_view name);
};

struct Intent {
  std::string key;
  bool resource = true;                 ///< has metadata; false: plain JSON (subnets)
  bool once = false;                    ///< written only if the key is absent (cluster defaults)
  std::optional<json::object> desired;  ///< none: the key is to be absent
};

struct Stamp {
  std::string time;  ///< creationTimestamp for a new object
  std::string uid;
};

/// The value to write, nullopt when `existing` has that content already. Broken JSON in `existing` is replaced.
std::optional<std::string> merge(const Intent& intent, std::optional<std::string_view> existing,
                                 const std::function<Stamp()>& stamp);

/// `max` code points; others than [-_.A-Za-z0-9] become '_'; the ends are alphanumeric.
std::string sanitise_label(std::string_view text, std::size_t max);

class Translator {
 public:
  Translator(const State& state, Region region, Projects projects = {})
      : state_(state), region_(std::move(region)), projects_(std::move(projects)) {}

  /// A port that an agent programs: an instance's, bound to a host.
  static bool wanted(const Port& port);
  /// Where nova is moving the port's instance (binding:profile's migrating_to); "" = nowhere, or it is there already.
  static std::string migrating_to(const Port& port);
  std::string endpoint_key(const Port& port) const;
  std::string policy_key(std::string_view group) const;
  std::string subnet_key(std::string_view subnet) const;
  const Region& region() const { return region_; }
  void set_projects(Projects projects) { projects_ = std::move(projects); }

  Intent endpoint(const Port& port) const;
  /// All a wanted port stands for: its endpoint and, while it migrates, the LiveMigration and the endpoint of the target
  /// host, in the order they are to be written.
  std::vector<Intent> endpoints(const Port& port) const;
  Intent policy(std::string_view group) const;
  Intent subnet(const Subnet& subnet) const;
  Intent removal(std::string key) const;

  /// What a request's changes mean for the datastore; policies before the endpoints that use them, each key once.
  std::vector<Intent> of(const std::vector<Touched>& touched) const;
  /// The whole state, as a restart compares it: every group's policy, used or not.
  std::vector<Intent> all() const;
  /// ClusterInformation and FelixConfiguration of an empty datastore. `guid` is 32 hex digits.
  static std::vector<Intent> defaults(std::string_view guid);

 private:
  Intent migration(const Port& port, const Port& target) const;
  const State& state_;
  Region region_;
  Projects projects_;
};

/// The element of a NetworkPolicy's ingress or egress list for one rule.
json::object policy_rule(const Rule& rule);

}  // namespace calico::controller
