#include "modules/felix/boxes.hpp"

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "modules/felix/tables.hpp"

namespace calico::felix {
namespace {

using model::MatchRule;
using model::Verdict;

/// Those whose ports stand where TCP's do.
bool has_ports(std::uint8_t protocol) {
  return protocol == 6 || protocol == 17 || protocol == 33 || protocol == 132 || protocol == 136;
}

struct Candidate {
  std::optional<Prefix> net;
  bool source = false;  // which side `net` is of
  std::optional<Family> family;
  std::uint8_t protocol = 0;
  model::PortRange ports{0, 65535};
};

/// What the rule is, when it is a box and nothing else.
std::optional<Candidate> candidate(const MatchRule& m) {
  if (m.verdict != Verdict::accept || !m.protocol || !has_ports(*m.protocol)) return {};
  if (m.src.net && m.dst.net) return {};
  MatchRule only;
  only.verdict = Verdict::accept;
  only.family = m.family;
  only.protocol = m.protocol;
  only.src.net = m.src.net;
  only.dst.net = m.dst.net;
  only.dst.ports = m.dst.ports;
  if (!(only == m)) return {};
  Candidate c;
  c.net = m.src.net ? m.src.net : m.dst.net;
  c.source = m.src.net.has_value();
  c.family = c.net ? c.net->family() : m.family;
  if (c.net && m.family && *m.family != c.net->family()) return {};
  c.protocol = *m.protocol;
  if (m.dst.ports) c.ports = *m.dst.ports;
  return c;
}

Box box_of(const Candidate& c, Family family) {
  static const Prefix all4 = *Prefix::parse("0.0.0.0/0");
  static const Prefix all6 = *Prefix::parse("::/0");
  const Prefix net = c.net ? c.net->masked() : family == Family::v4 ? all4 : all6;
  return {net.addr, net.last(), c.protocol, c.ports.first, c.ports.last};
}

std::string name_of(const BoxSet& s) {
  std::string text;
  for (const auto& b : s.boxes)
    text += fmt::format("{}-{} {} {}-{}\n", b.first, b.last, b.protocol, b.port, b.port_end);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> d{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), d.data());
  std::string out = s.family == Family::v4 ? "boxes4-" : "boxes6-";
  for (std::size_t i = 0; i < 10; ++i) out += fmt::format("{:02x}", d[i]);
  return out;
}

/// The boxes in layers of disjoint ones, the fullest first; what is left did not fit into few of them.
std::vector<std::vector<Box>> layers_of(std::vector<Box> boxes) {
  std::sort(boxes.begin(), boxes.end());
  boxes.erase(std::unique(boxes.begin(), boxes.end()), boxes.end());
  std::vector<Box> outer;
  for (const auto& b : boxes)
    if (std::none_of(boxes.begin(), boxes.end(), [&](const Box& o) { return !(o == b) && o.contains(b); }))
      outer.push_back(b);
  std::vector<std::vector<Box>> layers;
  for (const auto& b : outer) {
    auto fits = std::find_if(layers.begin(), layers.end(), [&](const auto& layer) {
      return std::none_of(layer.begin(), layer.end(), [&](const Box& o) { return o.overlaps(b); });
    });
    if (fits == layers.end()) fits = layers.emplace(layers.end());
    fits->push_back(b);
  }
  std::stable_sort(layers.begin(), layers.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  return layers;
}

}  // namespace

bool Box::contains(const Box& o) const {
  return protocol == o.protocol && first <= o.first && o.last <= last && port <= o.port && o.port_end <= port_end;
}

bool Box::overlaps(const Box& o) const {
  return protocol == o.protocol && first <= o.last && o.first <= last && port <= o.port_end && o.port <= port_end;
}

Flat flatten(const model::ChainRules& rules) {
  const auto end = std::find_if(rules.begin(), rules.end(), [](const auto& m) { return m.verdict != Verdict::accept; });
  std::vector<std::pair<Candidate, const MatchRule*>> found;
  std::size_t sources = 0, destinations = 0;
  for (auto m = rules.begin(); m != end; ++m)
    if (auto c = candidate(*m)) {
      if (c->net) ++(c->source ? sources : destinations);
      found.emplace_back(std::move(*c), &*m);
    }
  Flat out;
  if (found.size() < kFewBoxes) {
    out.rest = rules;
    return out;
  }
  // One without an address goes with the side that the others speak of: the peers'.
  for (auto& [c, m] : found)
    if (!c.net) c.source = sources >= destinations;

  std::vector<const MatchRule*> flat;
  for (const bool source : {true, false}) {
    std::vector<Box> covered;  // by lookups of this side, of both families
    for (const auto family : {Family::v4, Family::v6}) {
      std::vector<Box> boxes;
      for (const auto& [c, m] : found)
        if (c.source == source && (!c.family || *c.family == family)) boxes.push_back(box_of(c, family));
      auto layers = layers_of(std::move(boxes));
      for (std::size_t i = 0; i < layers.size() && i < kMaxLayers && layers[i].size() >= kFewBoxes; ++i) {
        covered.insert(covered.end(), layers[i].begin(), layers[i].end());
        BoxSet s{.name = {}, .source = source, .family = family, .boxes = std::move(layers[i])};
        s.name = name_of(s);
        out.lookups.push_back(std::move(s));
      }
    }
    for (const auto& [c, m] : found) {
      if (c.source != source) continue;
      const auto in = [&](Family family) {
        const auto b = box_of(c, family);
        return std::any_of(covered.begin(), covered.end(),
                           [&](const Box& o) { return o.first.family() == family && o.contains(b); });
      };
      const bool all = c.family ? in(*c.family) : in(Family::v4) && in(Family::v6);
      if (all) flat.push_back(m);
    }
  }
  std::sort(flat.begin(), flat.end());
  for (const auto& m : rules)
    if (!std::binary_search(flat.begin(), flat.end(), &m)) out.rest.push_back(m);
  return out;
}

nft::Set to_nft(const BoxSet& s) {
  nft::Set out;
  out.table = kInet;
  out.name = s.name;
  out.key = {s.family == Family::v4 ? nft::Type::ipv4_addr : nft::Type::ipv6_addr, nft::Type::inet_proto,
             nft::Type::inet_service};
  out.interval = true;
  return out;
}

nft::Element to_nft(const Box& b) {
  return nft::interval(nft::Key().ip(b.first).proto(b.protocol).port(b.port),
                       nft::Key().ip(b.last).proto(b.protocol).port(b.port_end));
}

nft::Rule lookup_rule(const BoxSet& s) {
  using nft::Field;
  const bool v4 = s.family == Family::v4;
  const Field ip = s.source ? (v4 ? Field::ip_saddr : Field::ip6_saddr) : (v4 ? Field::ip_daddr : Field::ip6_daddr);
  return std::move(nft::Rule().family(s.family).in({ip, Field::l4proto, Field::th_dport}, s.name).accept());
}

}  // namespace calico::felix
