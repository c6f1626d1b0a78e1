#pragma once
/// Blackhole routes for Neutron's subnets: what an address of a tenant's network belongs to nobody, or whose host has
/// not told its route yet, ends here instead of following the default route out of the cloud and back.
///
///   Blackholes holes(rtnl);
///   holes.configure(settings);        // [felix] blackhole_subnets, off unless wanted
///   holes.update(key, json);          // subnets of the region, nodes; other keys are ignored
///   holes.load();                     // ours in the kernel
///   holes.program();                  // writes what differs
///
/// Routes of our protocol, type blackhole, the weakest metric: every other route of the block wins, and an endpoint's
/// is longer anyway. Left out, told by left_out(): a block with an address of a node or of this host in it (a mistake
/// in Neutron must not cut nodes off), and one wider than /8 or /32 (IPv6). Thread: loop. Owns: nothing; `nl` outlives
/// it. Errors: of the conversation with the kernel; what it refuses stays pending. Source: subnet keys of the driver,
/// core/model/keys.hpp.
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/netlink/rtnl.hpp"
#include "core/reconcile/delta_tracker.hpp"
#include "modules/felix/settings.hpp"

namespace calico::felix {

/// Subnets of every region.
inline constexpr std::string_view kSubnets = "/calico/dhcp/v2/";
inline constexpr std::uint32_t kBlackholeMetric = 1'000'000;

class Blackholes {
 public:
  explicit Blackholes(netlink::Rtnl& nl) : nl_(nl) {}

  void configure(const Settings& settings);
  /// A key of the datastore with its JSON, absent = gone. Errors: invalid: the value cannot be read; what was there
  /// under the key is gone.
  [[nodiscard]] Status update(std::string_view key, std::optional<std::string_view> value);
  /// This host's own addresses, as those of a node.
  void set_host_addresses(const std::vector<Ip>& addresses) { set_addresses("", addresses); }
  [[nodiscard]] Status load();
  void on_route(const netlink::Route& route, bool gone);
  [[nodiscard]] Status program();
  bool pending() const { return !routes_.in_sync(); }
  /// Subnet → why it has no route, one line.
  const std::map<Prefix, std::string>& left_out() const { return left_out_; }

 private:
  struct Subnet {
    Prefix net;
    std::optional<Ip> gateway;
    bool operator==(const Subnet&) const = default;
  };
  bool ours(const netlink::Route& r) const;
  void set_addresses(const std::string& owner, const std::vector<Ip>& addresses);
  void set_subnet(const std::string& key, std::optional<Subnet> subnet);
  void decide(const Prefix& net);
  std::string why_not(const Prefix& net) const;

  netlink::Rtnl& nl_;
  bool on_ = false;
  std::uint8_t protocol_ = 88;
  std::string subnets_prefix_;
  std::map<std::string, Subnet> subnets_;                  // by key, of every region
  std::map<Prefix, std::set<std::string>> asked_;          // block → keys of our region
  std::map<Prefix, std::vector<Prefix>> covered_;          // block → what covers it
  std::map<Prefix, int> covers_;                           // of how many blocks; they may overlap
  std::map<std::string, std::vector<Ip>> node_addresses_;  // by key, "" = this host
  std::map<Ip, int> spared_;                               // how many say so
  std::map<Prefix, std::string> left_out_;
  DeltaTracker<netlink::RouteKey, netlink::Route> routes_;
};

/// `net` without the addresses in `holes`, as the fewest blocks.
[[nodiscard]] std::vector<Prefix> without(const Prefix& net, const std::set<Ip>& holes);

}  // namespace calico::felix
