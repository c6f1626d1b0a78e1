#pragma once
/// What the configuration and the host's addresses say about the speaker: a function of both, so that it is tested
/// without a kernel. Password files are read here.
#include <functional>
#include <string>
#include <vector>

#include "core/bgp/engine.hpp"
#include "core/bgp/kernel.hpp"
#include "core/config/config.hpp"

namespace calico::bgp {

struct SpeakerSettings {
  Options engine;
  KernelOptions kernel;
  std::vector<PeerConfig> peers;
  std::vector<RangeConfig> ranges;
  std::optional<Ip> ipv4, ipv6;  ///< our ends of sessions
  bool from_datastore = true;    ///< peers follow from the Nodes
  std::string bird_dir;          ///< where BIRD 1's sockets are served; empty: nowhere
  std::string secrets_dir;       ///< passwords of BGPPeer resources; empty: they cannot have one
};

struct SpeakerRole {
  bool compute = false;
  bool reflector = false;
  std::string state_dir;
  std::string run_dir;
};

/// The host, as far as the default of source_address needs it.
struct HostLook {
  /// The source the kernel takes towards an address. Errors: not_found.
  std::function<Result<Ip>(const Ip&)> source_towards;
  std::vector<Ip> global_addresses;
};

/// What is wrong with the filters and with who names them, each fault with its line. Without I/O; for `--check` and
/// before any reload.
void check_bgp(const config::Config& config, config::Faults& faults);

/// The first line of a password file. Errors: no_permission, invalid; `name` says what it is for.
[[nodiscard]] Result<std::string> read_password_file(const std::string& path, std::string_view name);

/// Errors: invalid (no address to peer from; no IPv4 router id), not_found, no_permission (a password file).
[[nodiscard]] Result<SpeakerSettings> speaker_settings(const config::Config& config, const SpeakerRole& role,
                                                       const HostLook& host);

}  // namespace calico::bgp
