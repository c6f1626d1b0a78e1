#pragma once
/// Who peers with whom, all sources together: the local configuration, BGPPeer resources, Nodes. Pure but for the
/// lookup of secrets, which the caller gives.
///
///   auto all = sessions_of({local, nodes, resources, self, secret}, cache);
///   engine.set_peers(all.peers, ranges);
///   for (auto& line : all.ignored) …     // what could not be used, and why; in a stable order
///
/// One session an address. The configuration wins over a BGPPeer, that over a Node; of two BGPPeers the one for this
/// Node alone wins over one with a nodeSelector, that over a global one, then the first by name. The answer depends on
/// the content only, never on the order of arrival.
///
/// What cannot be used costs its own session only. A BGPPeer whose password is not to be had has none (never one
/// without its password); one that names a filter which is not there has a session on which no route passes. Thread:
/// the owner's loop.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/bgp/node_sessions.hpp"
#include "core/bgp/policy/bgp_filter.hpp"
#include "core/model/bgp_resources.hpp"

namespace calico::bgp {

/// By name, as in the key.
struct BgpResources {
  std::map<std::string, FilterRules, std::less<>> filters;
  std::map<std::string, model::BgpPeer, std::less<>> peers;
  std::map<std::string, model::BgpConfiguration, std::less<>> configurations;  ///< "default", "node.<name>"
};

/// What BGPConfiguration says, as far as sessions go: `default`, and over it `node.<name>`.
[[nodiscard]] CloudSettings cloud_settings(const BgpResources& resources);

using SecretLookup = std::function<Result<std::string>(const model::BgpPeer::Secret&)>;

struct SessionSources {
  const std::vector<PeerConfig>& configured;
  const Nodes& nodes;
  const BgpResources& resources;
  const Self& self;
  const SecretLookup& secret;
};

/// Policies of the former answer: equal content keeps its object, so that comparing a thousand sessions is comparing
/// pointers. Belongs to the caller, who looks at nothing in it.
struct PolicyCache {
  std::map<std::vector<std::string>, PolicyRef> import, exports;
};

struct Sessions {
  std::vector<PeerConfig> peers;
  std::vector<std::string> ignored;
};
[[nodiscard]] Sessions sessions_of(const SessionSources& from, PolicyCache& cache);

}  // namespace calico::bgp
