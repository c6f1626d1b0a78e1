#include "core/model/qos.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/model/json.hpp"

namespace calico::model {
namespace {

using detail::Object;

constexpr std::int64_t kBandwidthMax = 1'000'000'000'000'000;  // bit/s
constexpr std::int64_t kBurstMax = 34'359'738'360;             // bits: 32 bits of bytes
constexpr std::int64_t kBurstDefault = 4'294'967'296;

/// What the model knows; upstream's Kubernetes annotations are not written by anybody here.
constexpr std::array<std::string_view, 14> kKnown = {
    "ingressBandwidth",   "ingressBurst",          "ingressPeakrate",   "ingressMinburst",     "ingressPacketRate",
    "ingressPacketBurst", "ingressMaxConnections", "egressBandwidth",   "egressBurst",         "egressPeakrate",
    "egressMinburst",     "egressPacketRate",      "egressPacketBurst", "egressMaxConnections"};

/// The controls of one direction.
struct Direction {
  const boost::json::object* o;
  std::string_view name;
  std::vector<std::string>& notes;

  /// Zero is not set, as in Neutron; out of range is a note.
  std::optional<std::int64_t> get(std::string_view field, std::int64_t low, std::int64_t high) const {
    std::string error;
    const Object q(o, "qosControls", error);
    const auto key = fmt::format("{}{}", name, field);
    if (const auto zero = q.integer(key, 0, 0)) return {};
    error.clear();
    const auto v = q.integer(key, low, high);
    if (!error.empty()) notes.push_back(fmt::format("{}; not limited by it", error));
    return v;
  }

  std::optional<Bandwidth> bandwidth() const {
    const auto rate = get("Bandwidth", 1000, kBandwidthMax);
    const auto burst = get("Burst", 1000, kBurstMax);
    const auto peak = get("Peakrate", 1010, kBandwidthMax / 100 * 101);
    const auto min_burst = get("Minburst", 1000, 100'000'000);
    if (!rate) {
      if (peak) notes.push_back(fmt::format("qosControls.{0}Peakrate: needs {0}Bandwidth; not limited by it", name));
      return {};
    }
    Bandwidth b;
    b.rate = static_cast<std::uint64_t>(*rate) / 8;
    b.burst = static_cast<std::uint32_t>(burst.value_or(kBurstDefault) / 8);
    if (peak && *peak / 8 > *rate / 8) {
      b.peak = static_cast<std::uint64_t>(*peak) / 8;
      b.min_burst = static_cast<std::uint32_t>(min_burst.value_or(0));
    } else if (peak) {
      notes.push_back(fmt::format("qosControls.{0}Peakrate: not above {0}Bandwidth; not limited by it", name));
    }
    return b;
  }

  std::optional<PacketRate> packets() const {
    const auto rate = get("PacketRate", 1, 10'000);
    const auto burst = get("PacketBurst", 1, 10'000);
    if (!rate) return {};
    return PacketRate{static_cast<std::uint32_t>(*rate), static_cast<std::uint32_t>(burst.value_or(5))};
  }

  std::optional<std::uint32_t> connections() const {
    const auto n = get("MaxConnections", 1, UINT32_MAX);
    if (!n) return {};
    return static_cast<std::uint32_t>(*n);
  }
};

}  // namespace

QosControls parse_qos(std::string_view text, std::vector<std::string>& notes) {
  QosControls q;
  if (text.empty()) return q;
  const auto v = detail::parse_object(text);
  if (!v) {
    notes.push_back("qosControls: not an object; nothing is limited");
    return q;
  }
  const Direction in{&v->as_object(), "ingress", notes};
  const Direction out{&v->as_object(), "egress", notes};
  q.ingress = in.bandwidth();
  q.ingress_packets = in.packets();
  q.ingress_connections = in.connections();
  q.egress = out.bandwidth();
  q.egress_packets = out.packets();
  q.egress_connections = out.connections();
  std::size_t unknown = 0;
  for (const auto& kv : v->as_object())
    unknown += std::find(kKnown.begin(), kKnown.end(), std::string_view(kv.key())) == kKnown.end();
  if (unknown != 0) notes.push_back(fmt::format("qosControls: {} unknown controls are not enforced", unknown));
  return q;
}

std::string to_string(const QosControls& q) {
  std::string out;
  const auto add = [&](const std::string& s) { out += (out.empty() ? "" : ", ") + s; };
  const auto direction = [&](std::string_view name, const std::optional<Bandwidth>& b,
                             const std::optional<PacketRate>& p, const std::optional<std::uint32_t>& c) {
    if (b)
      add(fmt::format("{} {} B/s burst {}{}", name, b->rate, b->burst,
                      b->peak ? fmt::format(" peak {} min burst {}", b->peak, b->min_burst) : ""));
    if (p) add(fmt::format("{} {} packets/s burst {}", name, p->rate, p->burst));
    if (c) add(fmt::format("{} {} connections", name, *c));
  };
  direction("in", q.ingress, q.ingress_packets, q.ingress_connections);
  direction("out", q.egress, q.egress_packets, q.egress_connections);
  return out;
}

}  // namespace calico::model
