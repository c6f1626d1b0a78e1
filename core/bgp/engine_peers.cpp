/// EngineCore: who the peers are. Listeners and who connects to them, the configuration of peers and ranges, what we
/// offer a peer, the operator's hand.
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <set>

#include "core/bgp/engine_core.hpp"
#include "core/bgp/session/peer.hpp"
#include "core/bgp/session/socket_options.hpp"

namespace calico::bgp {

using asio::ip::tcp;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {
constexpr int kBacklog = 4096;  // a reflector's clients come back all at once
constexpr milliseconds kAcceptPause{100};
constexpr seconds kLongestStale{(1 << 24) - 1};  // RFC 9494 3

bool out_of_means(const boost::system::error_code& ec) {
  return ec.category() == boost::system::system_category() &&
         (ec.value() == EMFILE || ec.value() == ENFILE || ec.value() == ENOBUFS || ec.value() == ENOMEM);
}

/// The longest one that holds the address.
const RangeConfig* range_of(const std::vector<RangeConfig>& ranges, const Ip& ip) {
  const RangeConfig* best = nullptr;
  for (const auto& r : ranges)
    if (r.prefix.contains(ip) && (best == nullptr || r.prefix.len > best->prefix.len)) best = &r;
  return best;
}

PeerConfig member_of(const RangeConfig& range, const Ip& ip) {
  PeerConfig config;
  static_cast<PeerOptions&>(config) = range;
  config.name = fmt::format("{}_{}", range.name, ip);
  std::replace_if(
      config.name.begin(), config.name.end(), [](char c) { return c == '.' || c == ':'; }, '_');
  config.address = ip;
  config.passive = true;
  return config;
}

Status check_options(const std::string& name, const PeerOptions& o) {
  if (o.remote_as && o.remote_as->value == 0) return fail(Errc::invalid, "BGP peer {}: AS 0 is reserved", name);
  if (o.multihop < 0 || o.multihop > 255)
    return fail(Errc::invalid, "BGP peer {}: multihop {} (0 to 255)", name, o.multihop);
  if (o.hold_time && (o.hold_time->count() < 0 || o.hold_time->count() > 65535 ||
                      (o.hold_time->count() > 0 && o.hold_time->count() < 3)))
    return fail(Errc::invalid, "BGP peer {}: hold time {} s (0, or 3 to 65535)", name, o.hold_time->count());
  if (o.keepalive_time && (o.keepalive_time->count() < 1 || o.keepalive_time->count() > 21845))
    return fail(Errc::invalid, "BGP peer {}: keepalive time {} s (1 to 21845)", name, o.keepalive_time->count());
  if (o.restart_time && (o.restart_time->count() < 1 || o.restart_time->count() > 4095))
    return fail(Errc::invalid, "BGP peer {}: restart time {} s (1 to 4095)", name, o.restart_time->count());
  if (o.long_lived_stale_time && (o.long_lived_stale_time->count() < 0 || *o.long_lived_stale_time > kLongestStale))
    return fail(Errc::invalid, "BGP peer {}: long-lived stale time {} s (0 to {})", name,
                o.long_lived_stale_time->count(), kLongestStale.count());
  if (o.password.size() > 80) return fail(Errc::invalid, "BGP peer {}: password of more than 80 characters", name);
  if (!o.ipv4 && !o.ipv6) return fail(Errc::invalid, "BGP peer {}: no address family", name);
  return {};
}

Status check(const std::vector<PeerConfig>& peers, const std::vector<RangeConfig>& ranges) {
  std::set<Ip> addresses;
  std::set<std::string> names;
  for (const auto& p : peers) {
    if (p.name.empty()) return fail(Errc::invalid, "BGP peer {} has no name", p.address);
    if (!names.insert(p.name).second) return fail(Errc::invalid, "two BGP peers have the name {}", p.name);
    if (!addresses.insert(p.address).second) return fail(Errc::invalid, "two BGP peers have the address {}", p.address);
    if (p.address.is_unspecified() || p.address.is_multicast())
      return fail(Errc::invalid, "BGP peer {}: {} is not a host's address", p.name, p.address);
    if (p.local_address && p.local_address->family() != p.address.family())
      return fail(Errc::invalid, "BGP peer {}: source {} and address {} are of different families", p.name,
                  *p.local_address, p.address);
    if (auto s = check_options(p.name, p); !s) return s;
  }
  for (const auto& r : ranges) {
    if (r.name.empty() || !names.insert(r.name).second)
      return fail(Errc::invalid, "BGP range {} has no name of its own", r.prefix);
    if (auto s = check_options(r.name, r); !s) return s;
  }
  return {};
}
}  // namespace

// --- what we offer --------------------------------------------------------------------------------------------------

seconds EngineCore::long_lived_stale_time(const PeerOptions& peer) const {
  return std::clamp(peer.long_lived_stale_time.value_or(options_.long_lived_stale_time), seconds(0), kLongestStale);
}

Capabilities EngineCore::capabilities(const PeerOptions& peer) const {
  Capabilities caps;
  if (peer.ipv4) caps.families.push_back(kIpv4Unicast);
  if (peer.ipv6) caps.families.push_back(kIpv6Unicast);
  caps.as4 = options_.local_as;
  caps.refresh = true;
  caps.enhanced_refresh = true;
  caps.extended_message = peer.extended_messages;
  if (peer.add_path_receive || peer.add_path_send)
    for (auto f : caps.families) caps.add_path.push_back({f, peer.add_path_receive, peer.add_path_send});
  if (peer.extended_next_hop && peer.ipv4) caps.next_hops.push_back({kIpv4Unicast, kIpv6Unicast.afi});
  if (options_.graceful_restart) {
    GracefulRestartCapability gr;
    gr.restarting = restarting_;
    gr.notification = true;
    gr.time_s = static_cast<std::uint16_t>(
        std::clamp<std::int64_t>(peer.restart_time.value_or(options_.restart_time).count(), 0, 4095));
    for (auto f : caps.families) gr.families.push_back({f, preserved_});
    caps.graceful_restart = std::move(gr);
    if (const auto time = long_lived_stale_time(peer); time.count() > 0) {
      auto& ll = caps.long_lived.emplace();
      for (auto f : caps.families) ll.families.push_back({f, preserved_, static_cast<std::uint32_t>(time.count())});
    }
  }
  return caps;
}

// --- listeners ------------------------------------------------------------------------------------------------------

Status EngineCore::open_listener(const Endpoint& at) {
  boost::system::error_code ec;
  const tcp::endpoint endpoint(to_asio(at.address), at.port);
  tcp::acceptor acceptor(loop_.executor());
  const auto bad = [&](std::string_view what) {
    const auto code = ec.category() == boost::system::system_category() ? errc_of_errno(ec.value()) : Errc::unavailable;
    return fail(code, "[bgp] listen {} port {}: {}: {}", at.address, at.port, what, ec.message());
  };
  acceptor.open(endpoint.protocol(), ec);
  if (ec) return bad("socket");
  acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (ec) return bad("reuse address");
  if (at.address.is_v6()) acceptor.set_option(boost::asio::ip::v6_only(true), ec);
  // The address may come after us at boot; a TTL of 255 serves peers with TTL security.
  if (auto s = set_free_bind(acceptor.native_handle(), at.address.family()); !s) return s;
  if (auto s = set_ttl(acceptor.native_handle(), at.address.family(), 255); !s) return s;
  if (auto s = set_save_syn(acceptor.native_handle()); !s) return s;
  acceptor.bind(endpoint, ec);
  if (ec) return bad("bind");
  acceptor.listen(kBacklog, ec);
  if (ec) return bad("listen");
  acceptor.non_blocking(true, ec);
  if (ec) return bad("non-blocking");
  listeners_.push_back({std::move(acceptor), at.address.family(), asio::steady_timer(loop_.executor())});
  return {};
}

Status EngineCore::set_listener_password(const Prefix& peer, const std::string& password) {
  for (auto& l : listeners_)
    if (l.family == peer.family())
      if (auto s = set_md5(l.acceptor.native_handle(), peer, password); !s) return s;
  return {};
}

void EngineCore::wait_accept(std::size_t index) {
  listeners_[index].acceptor.async_wait(
      tcp::acceptor::wait_read, [this, index, alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
        if (ec || alive.expired() || stopping_) return;
        // A bounded number a turn; the rest waits in the backlog.
        for (int i = 0; i < 64; ++i) {
          boost::system::error_code error;
          tcp::socket socket(loop_.executor());
          listeners_[index].acceptor.accept(socket, error);
          if (out_of_means(error)) return pause_accept(index, error);
          if (error) break;
          accept_paused_ = false;
          accepted(std::move(socket));
        }
        wait_accept(index);
      });
}

// What waits stays in the backlog and the listener readable: waiting for that would be spinning.
void EngineCore::pause_accept(std::size_t index, const boost::system::error_code& why) {
  if (!std::exchange(accept_paused_, true))
    report(PeerEvent::Kind::refused, "listener", fmt::format("connections wait: {}; raise LimitNOFILE", why.message()));
  auto& pause = listeners_[index].pause;
  pause.expires_after(kAcceptPause);
  pause.async_wait([this, index, alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
    if (!ec && !alive.expired() && !stopping_) wait_accept(index);
  });
}

void EngineCore::accepted(tcp::socket socket) {
  boost::system::error_code ec;
  const auto remote = socket.remote_endpoint(ec);
  if (ec) return;
  const auto ip = to_ip(remote.address());
  if (auto it = peers_.find(ip); it != peers_.end()) return it->second->accept(std::move(socket));
  const auto* range = range_of(ranges_, ip);
  if (range == nullptr) return report(PeerEvent::Kind::refused, ip.to_string(), "not a configured peer");
  const auto members = std::count_if(peers_.begin(), peers_.end(), [&](const auto& p) {
    return p.second->dynamic() && range->prefix.contains(p.first);
  });
  if (static_cast<std::uint64_t>(members) >= range->max_peers)
    return report(PeerEvent::Kind::refused, ip.to_string(), fmt::format("range {} is full", range->name));
  auto peer = std::make_shared<Peer>(*this, member_of(*range, ip), true);
  peers_.emplace(ip, peer);
  peer->start();
  peer->accept(std::move(socket));
}

void EngineCore::retire(const Peer& peer) {
  auto it = peers_.find(peer.config().address);
  if (it == peers_.end() || it->second.get() != &peer) return;
  graveyard_.push_back(std::move(it->second));
  peers_.erase(it);
  asio::post(loop_.executor(), [this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) graveyard_.clear();
  });
}

// --- configuration --------------------------------------------------------------------------------------------------

Status EngineCore::set_peers(std::vector<PeerConfig> peers, std::vector<RangeConfig> ranges) {
  if (!started_) return fail(Errc::internal, "BGP peers before the engine is started");
  if (auto s = check(peers, ranges); !s) return s;
  std::set<Ip> addresses;
  for (const auto& p : peers) addresses.insert(p.address);
  reconfigured_ = std::chrono::system_clock::now();

  // Ranges first, so that a peer that moves from a range to its own section finds its address free.
  const auto range_has = [&](const Peer& p) {
    const auto *old = range_of(ranges_, p.config().address), *now = range_of(ranges, p.config().address);
    return old != nullptr && now != nullptr && old->name == now->name;
  };
  std::vector<std::shared_ptr<Peer>> gone;
  for (auto it = peers_.begin(); it != peers_.end();) {
    auto& p = *it->second;
    const bool stays = p.dynamic() ? !addresses.contains(it->first) && range_has(p) : addresses.contains(it->first);
    if (stays) {
      ++it;
      continue;
    }
    gone.push_back(std::move(it->second));
    it = peers_.erase(it);
  }
  for (auto& p : gone) {
    p->remove(cease(notify::kDeconfigured, false));
    if (!p->config().password.empty() && !p->dynamic())
      (void)set_listener_password(Prefix::host(p->config().address), "");
  }
  for (const auto& r : ranges_)
    if (!r.password.empty()) (void)set_listener_password(r.prefix, "");
  ranges_ = std::move(ranges);
  for (const auto& r : ranges_)
    if (!r.password.empty())
      if (auto s = set_listener_password(r.prefix, r.password); !s)
        report(PeerEvent::Kind::refused, r.name, s.error().what);
  // Members follow their range as named peers do: many changes need no new session. (One that ends is erased
  // meanwhile.)
  std::vector<std::shared_ptr<Peer>> members;
  for (const auto& [_, p] : peers_)
    if (p->dynamic()) members.push_back(p);
  for (const auto& p : members)
    if (const auto* range = range_of(ranges_, p->config().address))
      p->reconfigure(member_of(*range, p->config().address));

  for (auto& config : peers) {
    auto it = peers_.find(config.address);
    const bool key_changed =
        it == peers_.end() ? !config.password.empty() : it->second->config().password != config.password;
    if (key_changed)
      if (auto s = set_listener_password(Prefix::host(config.address), config.password); !s)
        report(PeerEvent::Kind::refused, config.name, s.error().what);
    if (it != peers_.end()) {
      it->second->reconfigure(std::move(config));
      continue;
    }
    const auto address = config.address;
    auto peer = std::make_shared<Peer>(*this, std::move(config), false);
    peers_.emplace(address, peer);
    peer->start();
  }
  for (auto& p : gone) graveyard_.push_back(std::move(p));
  asio::post(loop_.executor(), [this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) graveyard_.clear();
  });
  peers_set_ = true;
  peer_changed();
  schedule_flush();
  return {};
}

// --- the operator's hand -------------------------------------------------------------------------------------------

Peer* EngineCore::find_peer(std::string_view name) const {
  for (const auto& [ip, peer] : peers_)
    if (peer->config().name == name) return peer.get();
  return nullptr;
}

Status EngineCore::set_enabled(std::string_view name, bool enabled, std::string_view communication) {
  auto* const peer = find_peer(name);
  if (peer == nullptr) return fail(Errc::not_found, "{} is not a BGP peer", name);
  if (peer->disabled() != enabled) return {};
  report(PeerEvent::Kind::administrative, peer->config().name, enabled ? "enabled" : "disabled");
  if (enabled) {
    peer->enable();
  } else {
    auto say = cease(notify::kShutdown, false);
    if (!communication.empty()) {
      auto size = std::min<std::size_t>(communication.size(), 255);
      // No half character at the end (RFC 9003 2 wants UTF-8).
      while (size < communication.size() && size > 0 && (communication[size] & 0xc0) == 0x80) --size;
      say.data.push_back(static_cast<std::byte>(size));
      for (char c : communication.substr(0, size)) say.data.push_back(static_cast<std::byte>(c));
    }
    peer->disable(say);
  }
  return {};
}

Status EngineCore::restart(std::string_view name) {
  auto* const peer = find_peer(name);
  if (peer == nullptr) return fail(Errc::not_found, "{} is not a BGP peer", name);
  if (peer->disabled()) return fail(Errc::conflict, "{} is disabled; enable it", name);
  report(PeerEvent::Kind::administrative, peer->config().name, "restarted");
  peer->restart();
  return {};
}

Status EngineCore::refresh(std::string_view name, Engine::Refresh what) {
  auto* const peer = find_peer(name);
  if (peer == nullptr) return fail(Errc::not_found, "{} is not a BGP peer", name);
  return peer->refresh(what != Engine::Refresh::out, what != Engine::Refresh::in);
}

void EngineCore::drain(bool on) {
  if (speaker_.draining == on) return;
  speaker_.draining = on;
  drained_at_ = on ? std::optional(now() + options_.drain_time) : std::nullopt;
  report(PeerEvent::Kind::administrative, "all",
         on ? "draining: routes are announced as the last choice" : "not draining");
  for (auto& group : groups_) group->resend_all();
  schedule_flush();
}

}  // namespace calico::bgp
