#pragma once
/// Takes BGP out of files of others: pcap and pcapng (TCP port 179 put together by sequence number) and MRT (RFC 6396,
/// and the older forms of 1999). For tests with recorded messages; what cannot be read is left out, never guessed.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "core/bgp/codec/update.hpp"

namespace calico::bgp::test {

inline Bytes read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string s((std::istreambuf_iterator<char>(in)), {});
  const auto v = wire::as_bytes(s);
  return {v.begin(), v.end()};
}

/// Through `gzip -dc`, so that the build needs no library for one test.
inline Bytes read_gzip(const std::string& path) {
  Bytes out;
  FILE* pipe = ::popen(("gzip -dc '" + path + "'").c_str(), "r");
  if (pipe == nullptr) return out;
  std::vector<std::byte> chunk(1 << 16);
  for (std::size_t n; (n = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;)
    out.insert(out.end(), chunk.begin(), chunk.begin() + static_cast<std::ptrdiff_t>(n));
  ::pclose(pipe);
  return out;
}

/// The payloads of TCP connections on port 179, one stream a direction; a gap ends a stream.
class Streams {
 public:
  void packet(std::uint32_t link_type, View p) {
    std::size_t at = 0;
    std::uint16_t ether = 0;
    const auto u16 = [&](std::size_t i) -> std::uint16_t { return wire::Reader(p.subspan(i, 2)).be<std::uint16_t>(); };
    switch (link_type) {
      case 1:  // Ethernet
        if (p.size() < 14) return;
        for (at = 12; at + 4 < p.size() && (u16(at) == 0x8100 || u16(at) == 0x88a8);) at += 4;
        ether = u16(at);
        at += 2;
        break;
      case 113:  // Linux cooked
        if (p.size() < 16) return;
        ether = u16(14);
        at = 16;
        break;
      case 101:  // IP alone
        if (p.empty()) return;
        ether = std::to_integer<unsigned>(p[0]) >> 4 == 6 ? 0x86dd : 0x0800;
        break;
      default:
        return raw_.push_back({p.begin(), p.end()});
    }
    if (ether == 0x0800) {
      if (p.size() < at + 20 || p[at + 9] != std::byte{6}) return;
      const std::size_t header = (std::to_integer<std::size_t>(p[at]) & 15) * 4;
      const auto total = std::min<std::size_t>(at + u16(at + 2), p.size());
      tcp(p.subspan(at + 12, 8), p.first(std::max(total, at + header)), at + header);
    } else if (ether == 0x86dd) {
      if (p.size() < at + 40 || p[at + 6] != std::byte{6}) return;
      tcp(p.subspan(at + 8, 32), p.first(std::min<std::size_t>(at + 40U + u16(at + 4), p.size())), at + 40);
    }
  }
  void each(const std::function<void(View)>& f) const {
    for (const auto& [key, segments] : connections_) {
      Bytes stream;
      std::uint32_t next = 0;
      for (const auto& [seq, payload] : segments) {
        if (!stream.empty() && static_cast<std::int32_t>(seq - next) > 0) {
          f(stream);
          stream.clear();
        }
        const std::size_t known = stream.empty() ? 0 : next - seq;
        if (known >= payload.size()) continue;
        stream.insert(stream.end(), payload.begin() + static_cast<std::ptrdiff_t>(known), payload.end());
        next = seq + static_cast<std::uint32_t>(payload.size());
      }
      if (!stream.empty()) f(stream);
    }
    for (const auto& packet : raw_) f(packet);
  }

 private:
  void tcp(View addresses, View p, std::size_t at) {
    if (p.size() < at + 20) return;
    wire::Reader r(p.subspan(at));
    const auto from = r.be<std::uint16_t>(), to = r.be<std::uint16_t>();
    if (from != 179 && to != 179) return;
    const auto seq = r.be<std::uint32_t>();
    const std::size_t header = (std::to_integer<std::size_t>(p[at + 12]) >> 4) * 4;
    if (p.size() <= at + header) return;
    const auto payload = p.subspan(at + header);
    const std::string key = std::string(wire::as_text(addresses)) + std::to_string(from) + ">" + std::to_string(to);
    auto& slot = connections_[key][seq];
    if (slot.size() < payload.size()) slot.assign(payload.begin(), payload.end());
  }
  std::map<std::string, std::map<std::uint32_t, Bytes>> connections_;
  std::vector<Bytes> raw_;  // of links we do not take apart: whole packets
};

namespace detail {
inline std::uint32_t number(View v, std::size_t at, std::size_t width, bool little) {
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < width && at + i < v.size(); ++i)
    out |= std::to_integer<std::uint32_t>(v[at + i]) << 8 * (little ? i : width - 1 - i);
  return out;
}
}  // namespace detail

/// pcap or pcapng; false: neither.
inline bool read_capture(View file, Streams& out) {
  const auto magic = detail::number(file, 0, 4, false);
  const bool pcap_little = magic == 0xd4c3b2a1 || magic == 0x4d3cb2a1;
  if (pcap_little || magic == 0xa1b2c3d4 || magic == 0xa1b23c4d) {
    const auto link = detail::number(file, 20, 4, pcap_little) & 0xffff;
    for (std::size_t at = 24; at + 16 <= file.size();) {
      const auto size = std::min<std::size_t>(detail::number(file, at + 8, 4, pcap_little), file.size() - at - 16);
      out.packet(link, file.subspan(at + 16, size));
      at += 16 + size;
    }
    return true;
  }
  if (magic != 0x0a0d0d0a || file.size() < 12) return false;
  const bool little = detail::number(file, 8, 4, true) == 0x1a2b3c4d;
  std::vector<std::uint32_t> links;
  for (std::size_t at = 0; at + 12 <= file.size();) {
    const auto type = detail::number(file, at, 4, little), size = detail::number(file, at + 4, 4, little);
    if (size < 12 || size > file.size() - at) break;
    const auto block = file.subspan(at, size);
    if (type == 1) links.push_back(detail::number(block, 8, 2, little));
    if (type == 6 && size >= 32) {
      const auto interface = detail::number(block, 8, 4, little);
      const auto captured = std::min<std::size_t>(detail::number(block, 20, 4, little), size - 32);
      if (interface < links.size()) out.packet(links[interface], block.subspan(28, captured));
    }
    at += size;
  }
  return true;
}

/// What an MRT file holds of BGP.
struct MrtHandler {
  std::function<void(std::uint8_t type, View body, const CodecContext& context)> message;  ///< without its header
  std::function<void(View block, const CodecContext& context)> attributes;                 ///< of a table's entry
};

namespace detail {

/// RFC 6396 4.3.4: in tables MP_REACH_NLRI is only the next hop; as the codec knows it again.
inline Bytes whole_reach(View block) {
  wire::Writer w(2 * 65535);
  wire::Reader r(block);
  while (r.left() > 0) {
    const auto flags = r.be<std::uint8_t>(), type = r.be<std::uint8_t>();
    const auto value = r.take((flags & kFlagExtended) != 0 ? r.be<std::uint16_t>() : r.be<std::uint8_t>());
    if (!r.ok()) return {block.begin(), block.end()};
    const bool short_form =
        type == kAttrMpReach && !value.empty() && std::to_integer<std::size_t>(value[0]) + 1 == value.size();
    w.be<std::uint8_t>(flags | kFlagExtended);
    w.be<std::uint8_t>(type);
    w.be<std::uint16_t>(value.size() + (short_form ? 4 : 0));
    if (short_form) {
      w.be<std::uint16_t>(value.size() == 5 ? 1 : 2);
      w.be<std::uint8_t>(1);
    }
    w.put(value);
    if (short_form) w.be<std::uint8_t>(0);
  }
  return w.take();
}

inline void mrt_bgp4mp(std::uint16_t subtype, wire::Reader r, const MrtHandler& to) {
  CodecContext context;
  context.as4 = subtype == 4 || subtype == 7 || subtype == 9 || subtype == 11;
  if (subtype >= 8) context.add_path_rx[0] = context.add_path_rx[1] = true;
  (void)r.take(context.as4 ? 8 : 4);
  (void)r.be<std::uint16_t>();  // interface
  const auto afi = r.be<std::uint16_t>();
  (void)r.take(afi == 1 ? 8 : 32);
  if (subtype == 2) {  // the obsolete BGP4MP_ENTRY
    (void)r.take(8);   // view, status, time
    const auto family = r.be<std::uint16_t>();
    (void)r.be<std::uint8_t>();
    (void)r.take(r.be<std::uint8_t>());
    (void)r.take((r.be<std::uint8_t>() + 7U) / 8);
    const auto block = r.take(r.be<std::uint16_t>());
    if (r.ok() && family <= 2) to.attributes(whole_reach(block), context);
    return;
  }
  const auto header = decode_header(r.take(kHeaderSize), kMaxExtendedMessage);
  if (header) to.message(static_cast<std::uint8_t>(header->type), r.rest(), context);
}

inline void mrt_table_v2(std::uint16_t subtype, wire::Reader r, const MrtHandler& to) {
  const bool paths = subtype == 8 || subtype == 10;
  if (!paths && subtype != 2 && subtype != 4) return;
  (void)r.be<std::uint32_t>();
  (void)r.take((r.be<std::uint8_t>() + 7U) / 8);
  for (auto n = r.be<std::uint16_t>(); n > 0 && r.ok(); --n) {
    (void)r.take(paths ? 10 : 6);
    const auto block = r.take(r.be<std::uint16_t>());
    if (r.ok()) to.attributes(whole_reach(block), {});
  }
}

}  // namespace detail

/// The number of records read.
inline std::size_t read_mrt(View file, const MrtHandler& to) {
  std::size_t records = 0;
  CodecContext old;
  old.as4 = false;
  while (file.size() >= 12) {
    wire::Reader head(file.first(12));
    (void)head.be<std::uint32_t>();
    const auto type = head.be<std::uint16_t>(), subtype = head.be<std::uint16_t>();
    std::size_t length = head.be<std::uint32_t>();
    if (type < 5 || type > 17 || length > file.size() - 12) return records;
    if (type == 12 && subtype <= 2) {
      // RFC 6396 4.2 has one entry a record. Dumps of 2000 have many, and leave the view and sequence out of the
      // length.
      wire::Reader r(file.subspan(12));
      const std::size_t all = r.left();
      (void)r.be<std::uint32_t>();
      while (r.ok() && all - r.left() < length) {
        (void)r.take((subtype == 1 ? 4U : 16U) + 2 + 4);
        (void)r.take((subtype == 1 ? 4U : 16U) + 2);
        const auto block = r.take(r.be<std::uint16_t>());
        if (!r.ok()) return records;
        to.attributes(detail::whole_reach(block), old);
      }
      length = std::max(length, all - r.left());
    } else if (type == 13) {
      detail::mrt_table_v2(subtype, wire::Reader(file.subspan(12, length)), to);
    } else if (type == 16 && (subtype == 1 || subtype == 2 || subtype == 4 || subtype >= 6)) {
      detail::mrt_bgp4mp(subtype, wire::Reader(file.subspan(12, length)), to);
    } else if (type == 5 && subtype == 1 && length > 12) {
      // AS and address of both ends, then the body (RFC 6396 appendix B.2).
      to.message(2, file.subspan(12 + 12, length - 12), old);
    }
    ++records;
    file = file.subspan(12 + std::min(length, file.size() - 12));
  }
  return records;
}

}  // namespace calico::bgp::test
