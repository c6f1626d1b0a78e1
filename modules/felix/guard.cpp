#include "modules/felix/guard.hpp"

#include <algorithm>
#include <memory>
#include <string_view>

#include "core/config/load.hpp"
#include "core/nft/connection.hpp"
#include "modules/felix/settings.hpp"
#include "modules/felix/tables.hpp"

namespace calico::felix {
namespace {

constexpr const char* kUsage =
    "usage: calico-node guard [--config FILE]...\n"
    "Drops what endpoints' interfaces send, forwarded or to this host, except DHCP, until felix has programmed the\n"
    "host; felix's first change removes the guard. Does nothing when felix's table is there.\n";

/// Only [felix] interface_prefix matters, and a guard comes up even when the rest of a file is wrong.
std::vector<std::string> prefixes(const std::vector<std::string>& files) {
  auto schema = std::make_shared<config::Schema>();
  if (!schema->add(config::core_params()) || !schema->add(params())) return Settings{}.interface_prefixes;
  config::Sources sources;
  sources.files = files;
  sources.environment = config::process_environment();
  const auto loaded = config::load(schema, sources);
  return settings_of(loaded.config).interface_prefixes;
}

}  // namespace

int guard_main(int argc, char** argv) {
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string_view a = argv[i];
    if (a == "--help" || a == "-h") {
      fmt::print("{}", kUsage);
      return 0;
    }
    if (a == "--config" && i + 1 < argc) {
      files.emplace_back(argv[++i]);
      continue;
    }
    fmt::print(stderr, "calico-node guard: unknown argument '{}'\n{}", a, kUsage);
    return 2;
  }
  auto nft = nft::Connection::open();
  if (!nft) {
    fmt::print(stderr, "calico-node guard: {}\n", nft.error().what);
    return 3;
  }
  auto tables = nft->tables();
  if (!tables) {
    fmt::print(stderr, "calico-node guard: {}\n", tables.error().what);
    return 3;
  }
  const auto there = [&](const nft::TableRef& ref) {
    return std::any_of(tables->begin(), tables->end(), [&](const auto& t) { return t.table.ref == ref; });
  };
  if (there(kInet) || there(kGuard) || there(kGuardArp)) return 0;
  if (auto ok = nft->apply(guard_batch(prefixes(files))); !ok) {
    fmt::print(stderr, "calico-node guard: {}\n", ok.error().what);
    return 3;
  }
  return 0;
}

}  // namespace calico::felix
