/// Peer: routes. From a received UPDATE into the RIB, and from the update group to the connection.
#include <fmt/format.h>

#include <boost/asio/post.hpp>

#include "core/bgp/policy/route_policy.hpp"
#include "core/bgp/session/peer.hpp"

namespace calico::bgp {

using std::chrono::seconds;

namespace {
constexpr Family kFamilies[] = {Family::v4, Family::v6};
constexpr std::size_t kAhead = 8;         // look-ups prepared ahead of the one at work
constexpr seconds kUpdateErrorPause{10};  // between two reports of bad UPDATEs of one peer
constexpr seconds kMaxPrefixWait{60};

/// Prefixes nobody may announce: they would take traffic of the host itself or of groups.
bool acceptable(const Prefix& p) {
  if (p.len == 0) return true;
  if (p.addr.is_multicast() || p.addr.is_loopback()) return false;
  if (p.family() == Family::v4) {
    const auto first = p.addr.to_v4() >> 24;
    return first != 0 && first != 127 && first < 240;
  }
  return !p.addr.is_link_local();
}
}  // namespace

// --- routes in ------------------------------------------------------------------------------------------------------

void Peer::handle_update(View body) {
  ++counters_.updates_in;
  auto& u = core_.update_space();
  auto& s = *session_;
  if (auto decoded = decode_update(body, s.codec, u); !decoded)
    return feed(event::FaultFound{s.slot, std::move(decoded.error())});
  if (u.end_of_rib) {
    for (auto family : kFamilies)
      if (*u.end_of_rib == unicast(family) && s.families[fam(family)]) end_of_rib(family);
    return;
  }
  auto& rib = core_.rib();
  for (std::size_t i = 0; i < u.withdrawn.size(); ++i) {
    if (i + kAhead < u.withdrawn.size()) rib.prefetch(u.withdrawn[i + kAhead].prefix);
    const auto& w = u.withdrawn[i];
    ++counters_.import_withdraws;
    counters_.v6.import_withdraws += w.prefix.family() == Family::v6;
    rib.withdraw(rib_id_, w.prefix, w.path_id);
  }
  counters_.attributes_discarded += u.attributes_discarded;
  if (u.treat_as_withdraw) {
    const auto n = u.announced.size() + u.announced_mp.size();
    counters_.treated_as_withdraw += n;
    for (const auto* list : {&u.announced, &u.announced_mp})
      for (const auto& route : *list) {
        counters_.v6.treated_as_withdraw += route.prefix.family() == Family::v6;
        rib.withdraw(rib_id_, route.prefix, route.path_id);
      }
    const auto now = core_.now();
    if (!last_update_error_ || now - *last_update_error_ > kUpdateErrorPause) {
      last_update_error_ = now;
      core_.report(PeerEvent::Kind::update_error, config_.name,
                   fmt::format("{}; {} routes treated as withdrawn", u.reason, n));
    }
  } else {
    if (!u.announced_mp.empty()) {
      auto attrs = u.announced.empty() ? std::move(u.attrs) : u.attrs;
      attrs.next_hop = u.mp_next_hop;
      announce(u.announced_mp, std::move(attrs));
    }
    if (!u.announced.empty()) announce(u.announced, std::move(u.attrs));
  }
  const auto& rp = rib.peer(rib_id_);
  if (config_.max_prefix != 0 && rp.paths[0] + rp.paths[1] > config_.max_prefix) {
    core_.report(PeerEvent::Kind::max_prefix, config_.name, fmt::format("more than {} routes", config_.max_prefix));
    const auto& gr = s.remote.caps.graceful_restart;
    return feed(event::Restart{cease(notify::kMaxPrefixes, gr && gr->notification), kMaxPrefixWait});
  }
  core_.schedule_flush();
}

void Peer::announce(const std::vector<Nlri>& routes, Attrs attrs) {
  const auto family = routes.front().prefix.family();
  auto& rib = core_.rib();
  const auto& s = *session_;
  if (!s.families[fam(family)]) return;
  counters_.import_updates += routes.size();
  if (family == Family::v6) counters_.v6.import_updates += routes.size();
  const auto refuse = [&](const Nlri& route) {
    ++counters_.import_rejected;
    counters_.v6.import_rejected += route.prefix.family() == Family::v6;
    rib.withdraw(rib_id_, route.prefix, route.path_id);
  };
  if (!imports() || import_route(attrs, core_.speaker(), internal(),
                                 family == Family::v4 ? s.target.self_v4 : s.target.self_v6, config_.allow_own_as)) {
    for (const auto& route : routes) refuse(route);
    return;
  }
  auto& store = core_.attrs();
  const auto now = core_.now_ms();
  const auto& filter = config_.import_filter;
  auto id = kNoAttr;  // the set as it came, made when a route needs it
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (i + kAhead < routes.size()) rib.prefetch(routes[i + kAhead].prefix);
    const auto& route = routes[i];
    if (!acceptable(route.prefix)) {
      refuse(route);
      continue;
    }
    std::optional<Attrs> changed;
    if (filter && !filter
                       ->evaluate({.prefix = route.prefix,
                                   .source = internal() ? RouteSource::internal : RouteSource::external,
                                   .peer = internal() ? PeerKind::internal : PeerKind::external},
                                  attrs, changed)
                       .accept) {
      refuse(route);
      continue;
    }
    if (changed) {
      rib.announce(rib_id_, route.prefix, store.intern(*changed), now, route.path_id);
      continue;
    }
    if (id == kNoAttr) id = store.intern(attrs);
    store.ref(id);
    rib.announce(rib_id_, route.prefix, id, now, route.path_id);
  }
  store.unref(id);
}

void Peer::handle_refresh(const RouteRefresh& m) {
  auto& s = *session_;
  for (auto family : kFamilies) {
    const auto f = fam(family);
    if (unicast(family) != m.family || !s.families[f]) continue;
    switch (m.subtype) {
      case 0:
        s.group->refresh(*s.member, family);
        break;
      case 1:
        s.refreshing[f] = true;
        core_.rib().begin_refresh(rib_id_, family);
        break;
      case 2:
        if (std::exchange(s.refreshing[f], false)) core_.rib().end_refresh(rib_id_, family);
        break;
      default:  // RFC 7313 5: others are ignored
        break;
    }
  }
  core_.schedule_flush();
}

// --- routes out -----------------------------------------------------------------------------------------------------

bool Peer::ready() const {
  const auto* const c = connection();
  return c != nullptr && c->is_open() && c->pending() < Connection::kHighWater;
}

void Peer::put(std::shared_ptr<const Bytes> bytes, std::size_t begin, std::size_t end) {
  const auto part = View(*bytes).subspan(begin, end - begin);
  connection()->queue({std::move(bytes), part});
}

void Peer::dump_began(Family family) { say_refresh(family, 1); }

void Peer::dump_ended(Family family) { say_refresh(family, 2); }

/// Begin (1) and end (2) of what a peer asked for again (RFC 7313); the first dump of a session is not one.
void Peer::say_refresh(Family family, std::uint8_t subtype) {
  const auto& s = *session_;
  if (s.enhanced_refresh && s.eor_out[fam(family)])
    connection()->queue(Connection::Piece(encode_route_refresh({unicast(family), subtype})));
}

void Peer::give_up() {
  // Not from here: the group is at work.
  asio::post(core_.executor(), [weak = weak_from_this()] {
    if (auto self = weak.lock(); self && self->session_)
      self->feed(event::Restart{cease(notify::kOutOfResources, false), seconds(1)});
  });
}

bool Peer::push_out() {
  auto* const c = connection();
  if (c == nullptr) return false;
  auto& s = *session_;
  s.group->hand_out(*s.member, *this);
  counters_.export_updates += std::exchange(s.member->announced, 0);
  counters_.export_withdraws += std::exchange(s.member->withdrawn, 0);
  counters_.v6.export_updates += std::exchange(s.member->announced_v6, 0);
  counters_.v6.export_withdraws += std::exchange(s.member->withdrawn_v6, 0);
  auto messages = std::exchange(s.member->messages, 0);
  if ((!s.eor_out[0] || !s.eor_out[1]) && core_.may_end_rib() && s.group->in_sync(*s.member))
    for (auto family : kFamilies) {
      const auto f = fam(family);
      if (!s.families[f] || s.eor_out[f]) continue;
      s.eor_out[f] = true;
      Bytes message;
      encode_end_of_rib(message, unicast(family));
      c->queue(Connection::Piece(std::move(message)));
      ++messages;
    }
  counters_.messages_out += messages;
  counters_.updates_out += messages;
  c->flush();
  if (c->stuck_since()) arm_timer();
  return ready() && s.group->behind(*s.member);
}

}  // namespace calico::bgp
