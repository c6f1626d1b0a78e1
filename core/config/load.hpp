#pragma once
/// Builds a Config from all its sources, lowest to highest:
///   default < FelixConfiguration (Config::with_felix, at run time) < felix.cfg < files in order < environment < --set
/// Every fault is collected; a configuration with faults is never used.
#include <string>
#include <utility>
#include <vector>

#include "core/config/config.hpp"

namespace calico::config {

inline constexpr int kLayerDefault = 0, kLayerFelixConfiguration = 1, kLayerFelixCfg = 2, kLayerFile = 3,
                     kLayerEnvironment = 4, kLayerSet = 5;
inline constexpr const char* kDefaultFile = "/etc/calico-node/calico-node.conf";
inline constexpr const char* kDefaultDropIns = "/etc/calico-node/conf.d";

struct Sources {
  /// In order. Empty = kDefaultFile if it is there, then kDefaultDropIns/*.conf by name.
  std::vector<std::string> files;
  std::vector<std::string> sets;                                 ///< "section.key=value"
  std::vector<std::pair<std::string, std::string>> environment;  ///< FELIX_* and CALICO_NODE_* are looked at
  std::string host_name;                                         ///< default of node.name
};

struct Loaded {
  Config config;
  Faults faults;                      ///< empty = usable
  std::vector<std::string> warnings;  ///< upstream names we do not use or whose value is bad, once each
};

/// Thread: any. Reads files; no other side effect.
[[nodiscard]] Loaded load(std::shared_ptr<const Schema> schema, const Sources& sources);

/// FELIX_* and CALICO_NODE_* of this process' environment.
std::vector<std::pair<std::string, std::string>> process_environment();

}  // namespace calico::config
