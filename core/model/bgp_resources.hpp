#pragma once
/// Calico's BGP resources as structs: BGPFilter, BGPConfiguration, BGPPeer (all global). Read from the datastore's
/// JSON.
///
///   auto filter = parse_bgp_filter(value);   // Result<BgpFilter>
///
/// Unlike elsewhere a field that is not known is an error where it would change which routes pass or who is spoken to
/// (rules of a filter, spec of a peer): a condition that is not understood must not be read as "always". What is
/// understood but has no effect here is listed in `notes`, one line each. Beyond 10,000 rules a list, 64 filters a
/// peer, 256 communities: invalid. Thread: any, pure. Errors: invalid, unsupported (known, and refused with the
/// reason).
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/resources.hpp"

namespace calico::model {

inline constexpr std::string_view kBgpFilters = "/calico/resources/v3/projectcalico.org/bgpfilters/";
inline constexpr std::string_view kBgpConfigurations = "/calico/resources/v3/projectcalico.org/bgpconfigurations/";
inline constexpr std::string_view kBgpPeers = "/calico/resources/v3/projectcalico.org/bgppeers/";

struct BgpFilterOperation {
  enum class Kind : std::uint8_t { add_community, prepend_as_path, set_priority } kind = Kind::add_community;
  std::string community;  ///< "65000:1", "1:2:3"
  std::vector<Asn> ases;
  std::uint32_t priority = 0;
  bool operator==(const BgpFilterOperation&) const = default;
};

/// All given fields must hold.
struct BgpFilterRule {
  enum class Operator : std::uint8_t { equal, not_equal, in, not_in };
  bool accept = true;
  std::optional<Prefix> cidr;
  Operator match = Operator::in;  ///< with cidr
  std::optional<std::uint8_t> min_length, max_length;
  bool remote_peers = false;  ///< source: RemotePeers
  std::string interface;      ///< "" = any; `*` for any text
  std::optional<bool> external_peer;
  std::vector<std::string> communities;  ///< each must be there
  std::vector<Asn> as_path_prefix;
  std::optional<std::uint32_t> priority;  ///< the kernel's metric
  std::vector<BgpFilterOperation> operations;
  bool operator==(const BgpFilterRule&) const = default;
};

struct BgpFilter {
  Metadata meta;
  std::vector<BgpFilterRule> import_v4, export_v4, import_v6, export_v6;
  bool operator==(const BgpFilter&) const = default;
};
[[nodiscard]] Result<BgpFilter> parse_bgp_filter(std::string_view json);

struct BgpConfiguration {
  struct Advertisement {
    Prefix cidr;
    std::vector<std::string> communities;  ///< values; names are resolved already
    bool operator==(const Advertisement&) const = default;
  };
  Metadata meta;
  std::optional<bool> node_to_node_mesh;
  std::optional<Asn> as_number;
  std::optional<std::uint16_t> listen_port;
  std::optional<std::chrono::seconds> mesh_restart_time;
  std::vector<Advertisement> advertisements;
  std::vector<std::string> notes;
  bool operator==(const BgpConfiguration&) const = default;
};
[[nodiscard]] Result<BgpConfiguration> parse_bgp_configuration(std::string_view json);

struct BgpPeer {
  enum class NextHop : std::uint8_t { automatic, self, keep };
  struct Secret {
    std::string name, key;
    bool operator==(const Secret&) const = default;
  };
  Metadata meta;
  std::string node;                       ///< of this Node only
  std::optional<Selector> node_selector;  ///< of these; neither: of all
  std::optional<Ip> peer_ip;
  std::uint16_t port = 179;
  std::optional<Asn> as_number;  ///< with peer_ip
  std::optional<Selector> peer_selector;
  NextHop next_hop = NextHop::automatic;
  std::optional<Secret> password;
  std::optional<std::chrono::seconds> restart_time, keepalive_time;
  std::uint8_t allow_own_as = 0;
  std::optional<std::uint8_t> ttl_security;  ///< hops
  std::vector<std::string> filters;          ///< names of BGPFilters, in order
  std::vector<std::string> notes;
  bool operator==(const BgpPeer&) const = default;
};
[[nodiscard]] Result<BgpPeer> parse_bgp_peer(std::string_view json);

}  // namespace calico::model
