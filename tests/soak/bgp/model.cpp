#include "tests/soak/bgp/model.hpp"

#include <fmt/core.h>

#include <algorithm>

namespace calico::soak {

Model::Model(std::uint32_t clients, std::uint32_t prefixes)
    : prefixes_(prefixes), sets_(clients), present_(clients, 1), owners_{clients}, paths_(prefixes) {}

Bytes Model::attributes(std::uint32_t client, std::uint32_t version) {
  Bytes out, value;
  const Bytes igp = {0}, none;
  bench::put_attribute(out, 0x40, bench::kOrigin, igp);
  bench::put_attribute(out, 0x40, bench::kAsPath, none);
  bench::put32(value, client_address(client));
  bench::put_attribute(out, 0x40, bench::kNextHop, value);
  value.clear();
  bench::put32(value, 100);
  bench::put_attribute(out, 0x40, bench::kLocalPref, value);
  value.clear();
  bench::put32(value, kCommunity + version);
  bench::put_attribute(out, 0xc0, bench::kCommunities, value);
  return out;
}

Bytes Model::announce(std::uint32_t client, const std::vector<std::uint32_t>& prefixes) {
  Bytes out;
  if (prefixes.empty()) return out;
  const auto version = static_cast<std::uint32_t>(owners_.size());
  owners_.push_back(client);
  std::vector<bench::Nlri> list;
  list.reserve(prefixes.size());
  for (auto p : prefixes) {
    list.push_back(nlri(p));
    sets_[client][p] = version;
    if (present_[client]) paths_[p][client] = version;
  }
  bench::pack_announce(out, attributes(client, version), std::nullopt, list);
  return out;
}

Bytes Model::withdraw(std::uint32_t client, const std::vector<std::uint32_t>& prefixes) {
  Bytes out;
  std::vector<bench::Nlri> list;
  for (auto p : prefixes) {
    list.push_back(nlri(p));
    sets_[client].erase(p);
    paths_[p].erase(client);
  }
  bench::pack_withdraw(out, false, list);
  return out;
}

Bytes Model::greeting(std::uint32_t client, bool fresh) {
  Bytes out;
  std::map<std::uint32_t, std::vector<std::uint32_t>> by_version;
  for (const auto& [prefix, version] : sets_[client]) by_version[fresh ? 0 : version].push_back(prefix);
  for (const auto& [version, prefixes] : by_version) {
    if (fresh) {
      out = announce(client, prefixes);
      continue;
    }
    std::vector<bench::Nlri> list;
    for (auto p : prefixes) list.push_back(nlri(p));
    bench::pack_announce(out, attributes(client, version), std::nullopt, list);
  }
  const auto end = bench::end_of_rib(false);
  out.insert(out.end(), end.begin(), end.end());
  return out;
}

void Model::set_present(std::uint32_t client, bool present) {
  if (present_[client] == static_cast<char>(present)) return;
  present_[client] = present;
  for (const auto& [prefix, version] : sets_[client]) {
    if (present)
      paths_[prefix][client] = version;
    else
      paths_[prefix].erase(client);
  }
}

std::uint32_t Model::expected(std::uint32_t viewer, std::uint32_t prefix) const {
  const auto& paths = paths_[prefix];
  if (paths.empty() || paths.begin()->first == viewer) return 0;  // nobody's, or its own: not sent back
  return paths.begin()->second;
}

std::string Model::difference(const Swarm& swarm, SessionId session, std::uint32_t viewer) const {
  std::string first;
  std::uint32_t n = 0;
  const auto said = [&](std::uint32_t version) {
    return version == 0 ? std::string("nothing") : fmt::format("version {} of client {}", version, owner(version));
  };
  for (std::uint32_t p = 0; p < prefixes_; ++p) {
    const auto want = expected(viewer, p), got = swarm.holds(session, p);
    if (want == got) continue;
    if (n++ == 0) first = fmt::format("prefix {} is {}, not {}", p, said(got), said(want));
  }
  if (swarm.foreign(session) > 0) first += fmt::format(" {} prefixes of others", swarm.foreign(session));
  if (first.empty()) return {};
  return fmt::format("session {} of client {}: {} differences: {}", session, viewer, n, first);
}

std::uint32_t Model::alive() const {
  return static_cast<std::uint32_t>(
      std::count_if(paths_.begin(), paths_.end(), [](const auto& p) { return !p.empty(); }));
}

std::string settle(Swarm& swarm, const Model& model, const std::vector<Viewer>& viewers, Clock::duration limit) {
  std::size_t at = 0, right = 0;
  std::string wrong;
  const auto done = [&] {
    // A round in which nobody is wrong; a wrong one is looked at again the next time.
    for (right = 0; right < viewers.size(); ++right) {
      const auto& v = viewers[at];
      wrong = swarm.established(v.session) ? model.difference(swarm, v.session, v.client)
                                           : fmt::format("session {} of client {} is not up", v.session, v.client);
      if (!wrong.empty()) return false;
      at = (at + 1) % viewers.size();
    }
    return true;
  };
  swarm.run_until(done, limit);
  return wrong;
}

}  // namespace calico::soak
