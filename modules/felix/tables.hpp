#pragma once
/// The shape of felix's nf_tables objects: the tables, the hooks that are written once, and the translation of the
/// model's chains, sets and elements. Pure.
///
///   inet calico                                    arp calico
///     raw-prerouting (-300)  src4; tap* → source     input  tap* → source
///     nat-prerouting (-100)  metadata
///     input (0)              tap* → to-host
///     forward-from (0)       tap* → from-tap → class → policies
///     forward-to (1)         → tap*: to-tap → class → policies
///   and only while an endpoint needs them:
///     floating-prerouting, floating-output (-100), floating-postrouting (100)   floating IPs; who calls its own
///     qos-from (-299), qos-forward (2)                                          limits
///     host-*                                                                    host endpoints: hosts.hpp
///
/// Egress and ingress are two base chains, so that "accept" ends one judgement and the packet goes on to the next: no
/// packet mark is needed, and the kernel's loop check walks each policy once a class, not once a pair of classes.
#include <map>
#include <string>
#include <vector>

#include "core/model/ruleset.hpp"
#include "core/nft/batch.hpp"
#include "core/nft/types.hpp"
#include "modules/felix/settings.hpp"

namespace calico::felix {

inline const nft::TableRef kInet{nft::TableFamily::inet, "calico"};
inline const nft::TableRef kArp{nft::TableFamily::arp, "calico"};
/// Loaded at boot by `calico-node guard`, removed by felix's first batch.
inline const nft::TableRef kGuard{nft::TableFamily::inet, "calico-guard"};
inline const nft::TableRef kGuardArp{nft::TableFamily::arp, "calico-guard"};

/// Set on packets that a host endpoint allowed early (doNotTrack, preDNAT), for its later chains; cleared from all
/// others that such a hook sees. Of the bits Calico's agents claim since ever (0xffff0000), so that a host that has
/// marks of its own leaves it free.
inline constexpr std::uint32_t kAcceptedEarly = 0x00010000;

struct StaticChain {
  nft::Chain chain;
  std::vector<nft::Rule> rules;
};
/// Base chains and the chains they lead to.
[[nodiscard]] std::vector<StaticChain> static_chains(const Settings& settings);
/// Sets that static chains look into and that are no part of the policy: cut4 and cut6, what would bring a connection
/// back that was cut (source, port, destination, port).
[[nodiscard]] std::vector<nft::Set> static_sets(const Settings& settings);

/// What endpoints need beyond policy: a hook nobody needs is not there, because every packet would pay for it.
struct ExtraHooks {
  bool from = false;           ///< limits of packets or bytes from an endpoint
  bool forward = false;        ///< of packets to one, of connections either way
  bool floating = false;       ///< floating IPs
  bool hosts = false;          ///< host endpoints
  bool hosts_forward = false;  ///< that are asked of what is forwarded
  bool hosts_raw = false;      ///< before connections are tracked
  bool hosts_pre = false;      ///< before addresses are translated
  bool operator==(const ExtraHooks&) const = default;
};
[[nodiscard]] ExtraHooks extra_hooks(const model::Ruleset& ruleset);
[[nodiscard]] std::vector<StaticChain> extra_chains(const ExtraHooks& hooks,
                                                    const std::vector<std::string>& interface_prefixes);

/// Text of tenants as a comment that `nft list` prints safely and reads back: printable ASCII, no double quote, at most
/// 123 bytes.
[[nodiscard]] std::string comment_of(std::string_view text);
[[nodiscard]] nft::Set to_nft(const std::string& name, const model::SetContent& set);
[[nodiscard]] nft::Element to_nft(model::SetKind kind, const model::Element& e);
[[nodiscard]] nft::Rule to_nft(const model::MatchRule& r);

/// The boot guard: what interfaces of endpoints send is dropped, forwarded or to the host, but DHCP.
[[nodiscard]] nft::Batch guard_batch(const std::vector<std::string>& interface_prefixes);

}  // namespace calico::felix
