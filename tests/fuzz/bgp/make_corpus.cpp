// Writes the seeds of the fuzz targets with our own encoders: make_corpus FOLDER. Deterministic; what is there under
// other names (inputs that once failed) stays.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/bgp/codec/communities.hpp"
#include "core/bgp/codec/update.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {

std::filesystem::path folder;

void put(const char* target, const std::string& name, View bytes) {
  std::filesystem::create_directories(folder / target);
  std::ofstream out(folder / target / name, std::ios::binary);
  out << wire::as_text(bytes);
  if (!out.flush()) {
    std::fprintf(stderr, "cannot write %s\n", (folder / target / name).c_str());
    std::exit(1);
  }
}

View body(View message) { return message.subspan(kHeaderSize); }

Capabilities all_capabilities() {
  Capabilities c;
  c.families = {kIpv4Unicast, kIpv6Unicast};
  c.as4 = Asn{4200000000};
  c.refresh = c.enhanced_refresh = c.extended_message = true;
  c.graceful_restart = GracefulRestartCapability{true, true, 120, {{kIpv4Unicast, true}, {kIpv6Unicast, false}}};
  c.long_lived = LongLivedCapability{{{kIpv4Unicast, true, 86400}, {kIpv6Unicast, false, 0xffffff}}};
  c.add_path = {{kIpv4Unicast, true, true}, {kIpv6Unicast, true, false}};
  c.next_hops = {{kIpv4Unicast, 2}};
  c.unknown = {{73, Bytes(5, std::byte{'h'})}};
  return c;
}

void opens() {
  Open o;
  o.as = Asn{64512};
  o.hold_time_s = 90;
  o.router_id = 0x0a000001;
  const auto one = [&](const std::string& name, Capabilities caps) {
    o.caps = std::move(caps);
    o.as = o.caps.as4.value_or(Asn{64512});
    const auto m = encode_open(o);
    put("open", "made-" + name, body(m));
    // Behind version, AS, hold time, identifier, length, parameter type and length.
    if (m.size() > kHeaderSize + 12) put("capabilities", "made-" + name, body(m).subspan(12));
  };
  const auto all = all_capabilities();
  one("all", all);
  one("none", {});
  Capabilities c;
  c.add_path = all.add_path;
  one("add-path", c);
  c = {};
  c.long_lived = all.long_lived;
  c.graceful_restart = all.graceful_restart;
  one("restart", c);
  c = {};
  c.next_hops = all.next_hops;
  c.families = all.families;
  one("next-hops", c);
  c = all;
  for (std::uint16_t afi = 100; afi < 180; ++afi) c.add_path.push_back({{afi, 1}, true, false});
  one("long", c);
}

void messages() {
  put("message", "made-hold", body(encode_notification({notify::kHoldTimer, 0, {}})));
  put("message", "made-send-hold", body(encode_notification({notify::kSendHold, 0, {}})));
  put("message", "made-text", body(encode_notification(cease(notify::kShutdown, false, "back at 10:00, für alle"))));
  put("message", "made-hard", body(encode_notification(cease(notify::kReset, true, "new kernel"))));
  for (std::uint8_t subtype : {0, 1, 2})
    put("message", "made-refresh-" + std::to_string(subtype), body(encode_route_refresh({kIpv6Unicast, subtype})));
  put("message", "made-header", encode_keepalive());
}

Attrs all_attributes() {
  Attrs a;
  a.origin = 2;
  a.as_path = AsPath::sequence(std::vector<Asn>{Asn{64512}, Asn{4200000001}, Asn{23456}});
  a.next_hop = Ip::v4(0x0a000009);
  a.med = 5;
  a.local_pref = 100;
  a.atomic_aggregate = true;
  a.aggregator = Aggregator{Asn{4200000001}, 0x0a000001};
  (void)add(a.communities, well_known::kNoExport);
  (void)add(a.communities, *Community::parse("64512:7"));
  a.originator_id = 0x0a000002;
  a.cluster_list = {0x0a000003, 0x0a000004};
  (void)add(a.ext_communities, *ExtCommunity::parse("rt 65000:1"));
  (void)add(a.ext_communities, *ExtCommunity::parse("ro 10.0.0.1:9"));
  (void)add(a.large_communities, LargeCommunity{64512, 1, 2});
  a.unknown = {{11, 0xe0, Bytes(3)}, {99, 0xe0, Bytes(300, std::byte{7})}};
  return a;
}

void updates() {
  const std::vector<Nlri> v4{{*Prefix::parse("10.65.0.1/32"), 1}, {*Prefix::parse("10.66.0.0/17"), 2}, {{}, 3}};
  const std::vector<Nlri> v6{{*Prefix::parse("2001:db8::1/128"), 1}, {*Prefix::parse("2001:db8:8000::/33"), 2}};
  const auto ipv6 = *Ip::parse("2001:db8::9");
  wire::Writer path(64);  // 256 { 512 513 }
  for (const unsigned b : {2, 1, 0, 0, 1, 0, 1, 2, 0, 0, 2, 0, 0, 0, 2, 1}) path.be<std::uint8_t>(b);
  const auto set = path.take();
  for (unsigned bits = 0; bits < 64; bits += 2) {
    // As in update_fuzz.cpp, without the first bit: eBGP and iBGP are made in turn below.
    const bool as4 = (bits & 2) != 0, paths4 = (bits & 4) != 0, paths6 = (bits & 8) != 0, over6 = (bits & 16) != 0;
    const bool sets = (bits & 32) != 0;
    if (sets && (paths4 || paths6)) continue;
    for (const auto family : {Family::v4, Family::v6}) {
      auto a = all_attributes();
      const bool v6_hop = family == Family::v6 || over6;
      if (v6_hop) a.next_hop = ipv6;
      if (sets) a.as_path = *AsPath::decode(set, 4);
      const EncodeContext out{family, family == Family::v4 ? paths4 : paths6, over6};
      const auto& routes = family == Family::v4 ? v4 : v6;
      Bytes block, announce, withdraw;
      std::size_t n = 0;
      if (!encode_attributes(block, a, as4) || !encode_announce(announce, n, out, block, a.next_hop, routes)) continue;
      encode_withdraw(withdraw, n, out, routes);
      const auto one = [&](const std::string& what, View m) {
        Bytes b{static_cast<std::byte>(bits | (as4 || sets ? 1U : 0U))};
        b.insert(b.end(), m.begin(), m.end());
        put("update", "made-" + what + (family == Family::v4 ? "-v4-" : "-v6-") + std::to_string(bits), b);
      };
      one("announce", body(announce));
      if (bits < 16) one("withdraw", body(withdraw));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  folder = argv[1];
  opens();
  messages();
  updates();
  return 0;
}
