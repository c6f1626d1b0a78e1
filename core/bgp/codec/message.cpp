#include "core/bgp/codec/message.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace calico::bgp {

using wire::Reader;
using wire::Writer;

namespace detail {

void begin_message(Writer& w, MessageType type) {
  for (int i = 0; i < 2; ++i) w.be<std::uint64_t>(~std::uint64_t{0});
  w.be<std::uint16_t>(0);
  w.be<std::uint8_t>(static_cast<std::uint8_t>(type));
}

void finish_message(Writer& w) { w.patch(16, w.size(), 2); }

Fault fault(std::uint8_t code, std::uint8_t subcode, std::string what, View data) {
  return {code, subcode, Bytes(data.begin(), data.end()), std::move(what)};
}

}  // namespace detail

using detail::begin_message;
using detail::fault;
using detail::finish_message;

namespace {

enum Cap : std::uint8_t {
  kCapMultiprotocol = 1,
  kCapRefresh = 2,
  kCapExtendedNextHop = 5,
  kCapExtendedMessage = 6,
  kCapGracefulRestart = 64,
  kCapAs4 = 65,
  kCapAddPath = 69,
  kCapEnhancedRefresh = 70,
  kCapLongLived = 71,
};
constexpr std::uint8_t kParamCapabilities = 2, kParamExtended = 255;
constexpr std::uint16_t kAsTrans = 23456;

tl::unexpected<Fault> open_fault(std::uint8_t subcode, std::string what, View data = {}) {
  return tl::unexpected(fault(notify::kOpen, subcode, std::move(what), data));
}

AfiSafi family_of(Reader& r) {
  AfiSafi f;
  f.afi = r.be<std::uint16_t>();
  f.safi = r.be<std::uint8_t>();
  return f;
}

/// One capability; false if its length does not fit its code.
bool decode_capability(std::uint8_t code, Reader r, Capabilities& caps) {
  const std::size_t length = r.left();
  switch (code) {
    case kCapMultiprotocol: {
      if (length != 4) return false;
      AfiSafi family;
      family.afi = r.be<std::uint16_t>();
      (void)r.be<std::uint8_t>();
      family.safi = r.be<std::uint8_t>();
      if (!caps.has(family)) caps.families.push_back(family);
      return true;
    }
    case kCapRefresh:
      caps.refresh = true;
      return length == 0;
    case kCapExtendedMessage:
      caps.extended_message = true;
      return length == 0;
    case kCapEnhancedRefresh:
      caps.enhanced_refresh = true;
      return length == 0;
    case kCapAs4:
      if (length != 4) return false;
      caps.as4 = Asn{r.be<std::uint32_t>()};
      return true;
    case kCapGracefulRestart: {
      if (length < 2 || (length - 2) % 4 != 0) return false;
      GracefulRestartCapability gr;
      const auto head = r.be<std::uint16_t>();
      gr.restarting = (head & 0x8000) != 0;
      gr.notification = (head & 0x4000) != 0;
      gr.time_s = head & 0x0fff;
      while (r.left() > 0) {
        GracefulRestartCapability::Entry e;
        e.family = family_of(r);
        e.preserved = (r.be<std::uint8_t>() & 0x80) != 0;
        gr.families.push_back(e);
      }
      caps.graceful_restart = std::move(gr);
      return true;
    }
    case kCapLongLived: {
      if (length % 7 != 0) return false;
      LongLivedCapability ll;
      while (r.left() > 0) {
        LongLivedCapability::Entry e;
        e.family = family_of(r);
        e.preserved = (r.be<std::uint8_t>() & 0x80) != 0;
        e.stale_s = static_cast<std::uint32_t>(r.be<std::uint8_t>()) << 16;
        e.stale_s |= r.be<std::uint16_t>();
        ll.families.push_back(e);
      }
      caps.long_lived = std::move(ll);
      return true;
    }
    case kCapAddPath: {
      if (length % 4 != 0) return false;
      while (r.left() > 0) {
        Capabilities::AddPath e;
        e.family = family_of(r);
        const auto mode = r.be<std::uint8_t>();
        if (mode < 1 || mode > 3) continue;  // RFC 7911 4: not understood, so not there
        e.receive = (mode & 1) != 0;
        e.send = (mode & 2) != 0;
        std::erase_if(caps.add_path, [&](const auto& other) { return other.family == e.family; });
        caps.add_path.push_back(e);
      }
      return true;
    }
    case kCapExtendedNextHop: {
      if (length % 6 != 0) return false;
      while (r.left() > 0) {
        Capabilities::NextHop e;
        e.family.afi = r.be<std::uint16_t>();
        const auto safi = r.be<std::uint16_t>();
        e.next_hop_afi = r.be<std::uint16_t>();
        if (safi > 255) continue;  // no such family
        e.family.safi = static_cast<std::uint8_t>(safi);
        std::erase(caps.next_hops, e);
        caps.next_hops.push_back(e);
      }
      return true;
    }
    default: {
      auto v = r.rest();
      caps.unknown.push_back({code, Bytes(v.begin(), v.end())});
      return true;
    }
  }
}

void encode_capability(Writer& w, std::uint8_t code, const auto& body) {
  w.be<std::uint8_t>(code);
  auto m = w.open(1);
  body();
  w.close(m);
}

/// A list of entries of `size` bytes, in as many capabilities as its 255 bytes ask for.
template <class Entry>
void encode_list(Writer& w, std::uint8_t code, const std::vector<Entry>& list, std::size_t size, const auto& put) {
  const std::size_t most = 255 / size;
  for (std::size_t at = 0; at < list.size(); at += most)
    encode_capability(w, code, [&] {
      for (std::size_t i = at; i < std::min(at + most, list.size()); ++i) put(list[i]);
    });
}

void encode_capabilities(Writer& w, const Capabilities& caps) {
  const auto put_family = [&](AfiSafi f) {
    w.be<std::uint16_t>(f.afi);
    w.be<std::uint8_t>(f.safi);
  };
  for (const auto& f : caps.families)
    encode_capability(w, kCapMultiprotocol, [&] {
      w.be<std::uint16_t>(f.afi);
      w.be<std::uint8_t>(0);
      w.be<std::uint8_t>(f.safi);
    });
  const auto none = [] {};
  if (caps.refresh) encode_capability(w, kCapRefresh, none);
  encode_list(w, kCapExtendedNextHop, caps.next_hops, 6, [&](const Capabilities::NextHop& e) {
    w.be<std::uint16_t>(e.family.afi);
    w.be<std::uint16_t>(e.family.safi);
    w.be<std::uint16_t>(e.next_hop_afi);
  });
  if (caps.extended_message) encode_capability(w, kCapExtendedMessage, none);
  if (caps.graceful_restart)
    encode_capability(w, kCapGracefulRestart, [&] {
      const auto& gr = *caps.graceful_restart;
      w.be<std::uint16_t>((gr.restarting ? 0x8000U : 0U) | (gr.notification ? 0x4000U : 0U) |
                          std::min<std::uint32_t>(gr.time_s, 0x0fff));
      for (const auto& e : gr.families) {
        put_family(e.family);
        w.be<std::uint8_t>(e.preserved ? 0x80 : 0);
      }
    });
  if (caps.as4) encode_capability(w, kCapAs4, [&] { w.be<std::uint32_t>(caps.as4->value); });
  encode_list(w, kCapAddPath, caps.add_path, 4, [&](const Capabilities::AddPath& e) {
    put_family(e.family);
    w.be<std::uint8_t>((e.receive ? 1U : 0U) | (e.send ? 2U : 0U));
  });
  if (caps.enhanced_refresh) encode_capability(w, kCapEnhancedRefresh, none);
  if (caps.long_lived)
    encode_capability(w, kCapLongLived, [&] {
      for (const auto& e : caps.long_lived->families) {
        put_family(e.family);
        w.be<std::uint8_t>(e.preserved ? 0x80 : 0);
        const auto time = std::min<std::uint32_t>(e.stale_s, 0xffffff);
        w.be<std::uint8_t>(time >> 16);
        w.be<std::uint16_t>(time & 0xffff);
      }
    });
  for (const auto& u : caps.unknown) encode_capability(w, u.code, [&] { w.put(u.value); });
}

constexpr std::size_t kLongestText = 255;  // RFC 9003 2

/// Length of the well-formed UTF-8 character at the front, 0 if there is none.
std::size_t character(View v) {
  const auto at = [&](std::size_t i) { return i < v.size() ? std::to_integer<unsigned>(v[i]) : 0U; };
  const auto tail = [&](std::size_t i) { return (at(i) & 0xc0) == 0x80; };
  const auto first = at(0);
  if (v.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first < 0xe0) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first < 0xf0) {
    const bool shortest = first != 0xe0 || at(1) >= 0xa0, surrogate = first == 0xed && at(1) >= 0xa0;
    return shortest && !surrogate && tail(1) && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first < 0xf5) {
    const bool fits = (first != 0xf0 || at(1) >= 0x90) && (first != 0xf4 || at(1) < 0x90);
    return fits && tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

/// What a terminal would obey instead of show: controls, line separators, marks and overrides of direction.
bool commands_a_terminal(View c) {
  const auto at = [&](std::size_t i) { return std::to_integer<unsigned>(c[i]); };
  if (c.size() == 1) return at(0) < 0x20 || at(0) == 0x7f;
  if (c.size() == 2) return at(0) == 0xc2 && at(1) < 0xa0;
  if (c.size() == 3 && at(0) == 0xe2)
    return (at(1) == 0x80 && ((at(2) >= 0x8b && at(2) <= 0x8f) || (at(2) >= 0xa8 && at(2) <= 0xae))) ||
           (at(1) == 0x81 && at(2) >= 0xa0 && at(2) <= 0xaf);
  return c.size() == 3 && at(0) == 0xef && at(1) == 0xbb && at(2) == 0xbf;
}

/// Text from a peer, safe to show.
std::string printable(View v) {
  std::string out;
  while (!v.empty()) {
    const auto n = character(v);
    const auto c = v.first(std::max<std::size_t>(n, 1));
    if (n == 0 || commands_a_terminal(c))
      out += '?';
    else
      out += wire::as_text(c);
    v = v.subspan(c.size());
  }
  return out;
}

/// RFC 9003: one length byte, then UTF-8. Empty: none, or a length that lies.
View communication(const Notification& n) {
  if (n.code != notify::kCease || (n.subcode != notify::kShutdown && n.subcode != notify::kReset) || n.data.empty())
    return {};
  const auto length = std::to_integer<std::size_t>(n.data[0]);
  if (length > n.data.size() - 1) return {};
  return View(n.data).subspan(1, length);
}

}  // namespace

bool Capabilities::has(AfiSafi family) const {
  return std::find(families.begin(), families.end(), family) != families.end();
}

Capabilities::AddPath Capabilities::add_path_of(AfiSafi family) const {
  for (const auto& e : add_path)
    if (e.family == family) return e;
  return {family, false, false};
}

bool Capabilities::ipv4_over_ipv6() const {
  return std::find(next_hops.begin(), next_hops.end(), NextHop{kIpv4Unicast, kIpv6Unicast.afi}) != next_hops.end();
}

Decoded<Header> decode_header(View first19, std::size_t max_message) {
  Reader r(first19);
  const auto marker = r.take(16);
  Header h;
  const auto raw_length = first19.size() >= 18 ? first19.subspan(16, 2) : View{};
  h.length = r.be<std::uint16_t>();
  const auto type = r.be<std::uint8_t>();
  if (!r.ok()) return tl::unexpected(fault(notify::kHeader, 2, "message header is short"));
  if (!std::all_of(marker.begin(), marker.end(), [](std::byte b) { return b == std::byte{0xff}; }))
    return tl::unexpected(fault(notify::kHeader, 1, "marker is not all ones"));
  if (h.length < kHeaderSize || h.length > max_message)
    return tl::unexpected(fault(notify::kHeader, 2, fmt::format("message length {}", h.length), raw_length));
  bool fits = true;
  switch (static_cast<MessageType>(type)) {
    case MessageType::open:
      fits = h.length >= 29 && h.length <= kMaxMessage;
      break;
    case MessageType::update:
      fits = h.length >= 23;
      break;
    case MessageType::notification:
      fits = h.length >= 21;
      break;
    case MessageType::keepalive:
      fits = h.length == kHeaderSize;
      break;
    case MessageType::route_refresh:
      fits = h.length >= 23;
      break;
    default:
      return tl::unexpected(fault(notify::kHeader, 3, fmt::format("message type {}", type), first19.subspan(18, 1)));
  }
  if (!fits)
    return tl::unexpected(
        fault(notify::kHeader, 2, fmt::format("message length {} does not fit type {}", h.length, type), raw_length));
  h.type = static_cast<MessageType>(type);
  return h;
}

Decoded<Open> decode_open(View body) {
  Reader r(body);
  const auto version = r.be<std::uint8_t>();
  Open o;
  o.as = Asn{r.be<std::uint16_t>()};
  o.hold_time_s = r.be<std::uint16_t>();
  o.router_id = r.be<std::uint32_t>();
  std::size_t params_length = r.be<std::uint8_t>();
  if (!r.ok()) return tl::unexpected(fault(notify::kHeader, 2, "OPEN is short"));
  if (version != 4) {
    const std::array<std::byte, 2> ours{std::byte{0}, std::byte{4}};
    return open_fault(1, fmt::format("version {}", version), ours);
  }
  bool wide = false;  // RFC 9072: 16-bit parameter lengths
  if (params_length != 0 && r.left() > 0 && body[10] == std::byte{kParamExtended}) {
    (void)r.be<std::uint8_t>();
    params_length = r.be<std::uint16_t>();
    wide = true;
  }
  Reader params = r.sub(params_length);
  if (!params.ok() || r.left() != 0) return open_fault(0, "optional parameters do not fit the OPEN");
  while (params.left() > 0) {
    const auto type = params.be<std::uint8_t>();
    Reader value = params.sub(wide ? params.be<std::uint16_t>() : params.be<std::uint8_t>());
    if (!value.ok()) return open_fault(0, fmt::format("optional parameter {} overruns", type));
    if (type != kParamCapabilities) return open_fault(4, fmt::format("optional parameter {}", type));
    while (value.left() > 0) {
      const auto code = value.be<std::uint8_t>();
      Reader cap = value.sub(value.be<std::uint8_t>());
      if (!cap.ok()) return open_fault(0, fmt::format("capability {} overruns", code));
      if (!decode_capability(code, cap, o.caps)) return open_fault(0, fmt::format("capability {} is malformed", code));
    }
  }
  if (o.caps.as4) o.as = *o.caps.as4;
  if (o.as.value == 0) return open_fault(2, "AS 0");  // RFC 7607
  if (o.hold_time_s == 1 || o.hold_time_s == 2) return open_fault(6, fmt::format("hold time {} s", o.hold_time_s));
  if (o.router_id == 0) return open_fault(3, "identifier 0.0.0.0");
  return o;
}

Bytes encode_open(const Open& open) {
  Writer caps(kMaxMessage);
  encode_capabilities(caps, open.caps);
  Writer w(kMaxMessage);
  begin_message(w, MessageType::open);
  w.be<std::uint8_t>(4);
  w.be<std::uint16_t>(open.as.value > 0xffff ? kAsTrans : open.as.value);
  w.be<std::uint16_t>(open.hold_time_s);
  w.be<std::uint32_t>(open.router_id);
  if (caps.size() == 0) {
    w.be<std::uint8_t>(0);
  } else if (caps.size() <= 253) {
    w.be<std::uint8_t>(caps.size() + 2);
    w.be<std::uint8_t>(kParamCapabilities);
    w.be<std::uint8_t>(caps.size());
    w.put(caps.view());
  } else {
    w.be<std::uint8_t>(kParamExtended);
    w.be<std::uint8_t>(kParamExtended);
    w.be<std::uint16_t>(caps.size() + 3);
    w.be<std::uint8_t>(kParamCapabilities);
    w.be<std::uint16_t>(caps.size());
    w.put(caps.view());
  }
  finish_message(w);
  return w.take();
}

Decoded<Notification> decode_notification(View body) {
  Reader r(body);
  Notification n;
  n.code = r.be<std::uint8_t>();
  n.subcode = r.be<std::uint8_t>();
  const auto data = r.rest();
  if (!r.ok()) return tl::unexpected(fault(notify::kHeader, 2, "NOTIFICATION is short"));
  n.data.assign(data.begin(), data.end());
  return n;
}

Bytes encode_notification(const Notification& n) {
  Writer w(kMaxMessage);
  begin_message(w, MessageType::notification);
  w.be<std::uint8_t>(n.code);
  w.be<std::uint8_t>(n.subcode);
  w.put(View(n.data).first(std::min(n.data.size(), kMaxMessage - kHeaderSize - 2)));
  finish_message(w);
  return w.take();
}

Notification cease(std::uint8_t subcode, bool hard, std::string_view text) {
  Notification n{notify::kCease, subcode, {}};
  if (!text.empty() && (subcode == notify::kShutdown || subcode == notify::kReset)) {
    auto v = wire::as_bytes(text);
    if (v.size() > kLongestText) {
      std::size_t fits = 0;
      for (std::size_t next = 0; (next = character(v.subspan(fits))) != 0 && fits + next <= kLongestText;) fits += next;
      v = v.first(fits);
    }
    Writer w(kLongestText + 1);
    w.be<std::uint8_t>(v.size());
    w.put(v);
    n.data = w.take();
  }
  return hard ? hard_reset(n) : n;
}

Notification hard_reset(const Notification& n) {
  Writer w(n.data.size() + 2);
  w.be<std::uint8_t>(n.code);
  w.be<std::uint8_t>(n.subcode);
  w.put(n.data);
  return {notify::kCease, notify::kHardReset, w.take()};
}

std::string describe(const Notification& n) {
  static constexpr std::array<std::string_view, 9> kCodes{"",
                                                          "Message header error",
                                                          "OPEN error",
                                                          "UPDATE error",
                                                          "Hold timer expired",
                                                          "Finite state machine error",
                                                          "Cease",
                                                          "ROUTE-REFRESH error",
                                                          "Send hold timer expired"};
  static constexpr std::array<std::string_view, 12> kOpen{"",
                                                          "Unsupported version",
                                                          "Bad peer AS",
                                                          "Bad BGP identifier",
                                                          "Unsupported optional parameter",
                                                          "",
                                                          "Unacceptable hold time",
                                                          "Unsupported capability",
                                                          "",
                                                          "",
                                                          "",
                                                          "Role mismatch"};
  static constexpr std::array<std::string_view, 12> kUpdate{"",
                                                            "Malformed attribute list",
                                                            "Unrecognized well-known attribute",
                                                            "Missing well-known attribute",
                                                            "Attribute flags error",
                                                            "Attribute length error",
                                                            "Invalid ORIGIN",
                                                            "",
                                                            "Invalid NEXT_HOP",
                                                            "Optional attribute error",
                                                            "Invalid network field",
                                                            "Malformed AS_PATH"};
  static constexpr std::array<std::string_view, 11> kCease{"",
                                                           "Maximum number of prefixes reached",
                                                           "Administrative shutdown",
                                                           "Peer de-configured",
                                                           "Administrative reset",
                                                           "Connection rejected",
                                                           "Other configuration change",
                                                           "Connection collision resolution",
                                                           "Out of resources",
                                                           "Hard reset",
                                                           "BFD down"};
  static constexpr std::array<std::string_view, 4> kHeader{"", "Connection not synchronized", "Bad message length",
                                                           "Bad message type"};
  std::string out =
      n.code < kCodes.size() && n.code > 0 ? std::string(kCodes[n.code]) : fmt::format("Error {}", n.code);
  const auto sub = [&](auto& names) {
    if (n.subcode == 0) return;
    if (n.subcode < names.size() && !names[n.subcode].empty())
      out += fmt::format(": {}", names[n.subcode]);
    else
      out += fmt::format(": {}", n.subcode);
  };
  switch (n.code) {
    case notify::kHeader:
      sub(kHeader);
      break;
    case notify::kOpen:
      sub(kOpen);
      break;
    case notify::kUpdate:
      sub(kUpdate);
      break;
    case notify::kCease:
      sub(kCease);
      break;
    default:
      if (n.subcode != 0) out += fmt::format(": {}", n.subcode);
  }
  if (n.code == notify::kCease && n.subcode == notify::kHardReset && n.data.size() >= 2) {
    Notification inner{std::to_integer<std::uint8_t>(n.data[0]), std::to_integer<std::uint8_t>(n.data[1]),
                       Bytes(n.data.begin() + 2, n.data.end())};
    // One level only: a hard reset inside a hard reset says nothing more.
    if (inner.subcode != notify::kHardReset) out += fmt::format(" ({})", describe(inner));
  }
  if (const auto text = communication(n); !text.empty()) out += fmt::format(" \"{}\"", printable(text));
  return out;
}

Decoded<RouteRefresh> decode_route_refresh(View body) {
  Reader r(body);
  RouteRefresh m;
  m.family.afi = r.be<std::uint16_t>();
  m.subtype = r.be<std::uint8_t>();
  m.family.safi = r.be<std::uint8_t>();
  if (!r.ok()) return tl::unexpected(fault(notify::kHeader, 2, "ROUTE-REFRESH is short"));
  if (r.left() != 0) {
    // RFC 7313 5: the complete message is the data, as far as a NOTIFICATION holds it.
    Writer whole(kMaxExtendedMessage);
    begin_message(whole, MessageType::route_refresh);
    whole.put(body);
    finish_message(whole);
    return tl::unexpected(
        fault(notify::kRefresh, 1, fmt::format("ROUTE-REFRESH of {} bytes", whole.size()), whole.view()));
  }
  return m;
}

Bytes encode_route_refresh(const RouteRefresh& m) {
  Writer w(kMaxMessage);
  begin_message(w, MessageType::route_refresh);
  w.be<std::uint16_t>(m.family.afi);
  w.be<std::uint8_t>(m.subtype);
  w.be<std::uint8_t>(m.family.safi);
  finish_message(w);
  return w.take();
}

Bytes encode_keepalive() {
  Writer w(kMaxMessage);
  begin_message(w, MessageType::keepalive);
  finish_message(w);
  return w.take();
}

}  // namespace calico::bgp
