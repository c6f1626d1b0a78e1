/// Peer: its snapshot for people and programs. Reads only.
#include "core/bgp/session/peer.hpp"

namespace calico::bgp {

using std::chrono::milliseconds;
using std::chrono::seconds;

CapabilityInfo Peer::info_of(const Capabilities& caps) {
  CapabilityInfo i;
  i.ipv4 = caps.families.empty() || caps.has(kIpv4Unicast);
  i.ipv6 = caps.has(kIpv6Unicast);
  i.as4 = caps.as4.has_value();
  i.refresh = caps.refresh;
  i.enhanced_refresh = caps.enhanced_refresh;
  i.extended_message = caps.extended_message;
  if (const auto& gr = caps.graceful_restart) {
    i.graceful_restart = true;
    i.restarting = gr->restarting;
    i.notification_gr = gr->notification;
    i.restart_time = seconds(gr->time_s);
    for (const auto& e : gr->families) {
      if (e.family == kIpv4Unicast) i.gr_ipv4 = true, i.preserved_ipv4 = e.preserved;
      if (e.family == kIpv6Unicast) i.gr_ipv6 = true, i.preserved_ipv6 = e.preserved;
    }
  }
  const auto v4 = caps.add_path_of(kIpv4Unicast), v6 = caps.add_path_of(kIpv6Unicast);
  i.add_path_rx_ipv4 = v4.receive, i.add_path_tx_ipv4 = v4.send;
  i.add_path_rx_ipv6 = v6.receive, i.add_path_tx_ipv6 = v6.send;
  i.extended_next_hop = caps.ipv4_over_ipv6();
  if (const auto& ll = caps.long_lived) {
    i.llgr = true;
    for (const auto& e : ll->families) {
      if (e.family == kIpv4Unicast)
        i.llgr_ipv4 = true, i.llgr_preserved_ipv4 = e.preserved, i.llgr_time_ipv4 = seconds(e.stale_s);
      if (e.family == kIpv6Unicast)
        i.llgr_ipv6 = true, i.llgr_preserved_ipv6 = e.preserved, i.llgr_time_ipv6 = seconds(e.stale_s);
    }
  }
  for (const auto& u : caps.unknown) i.unknown.push_back(u.code);
  return i;
}

PeerStatus Peer::status() const {
  PeerStatus st;
  st.config = config_;
  if (!st.config.password.empty()) st.config.password = "[secret]";
  st.dynamic = dynamic_;
  st.imports = imports();
  st.exports = exports();
  st.disabled = disabled_;
  st.state = fsm_.state();
  st.passive_wait = st.state == PeerState::active && fsm_.config().passive;
  st.since = since_;
  st.counters = counters_;
  st.last_error = last_error_;
  const auto now = core_.now();
  const auto left = [&](const std::optional<TimePoint>& t) {
    return t && *t > now ? std::chrono::duration_cast<milliseconds>(*t - now) : milliseconds(0);
  };
  const auto& rp = core_.rib().peer(rib_id_);
  std::uint32_t exported[2] = {0, 0};
  if (session_) session_->group->count_for(*session_->member, exported);
  for (auto family : {Family::v4, Family::v6}) {
    auto& fs = family == Family::v4 ? st.v4 : st.v6;
    const auto f = fam(family);
    fs.imported = rp.paths[f];
    fs.stale = rp.stale[f];
    fs.preferred = rp.preferred[f];
    fs.exported = exported[f];
    fs.long_lived = long_lived_[f].active;
    if (fs.long_lived) fs.long_lived_left = left(long_lived_[f].until);
    if (session_) {
      fs.negotiated = session_->families[f];
      fs.eor_received = session_->eor_in[f];
      fs.eor_sent = session_->eor_out[f];
    }
  }
  if (session_) {
    st.neighbor_id = Ip::v4(session_->remote.router_id);
    st.local = session_->local_caps;
    st.neighbor = info_of(session_->remote.caps);
    st.hold_time = seconds(fsm_.hold_time_s());
    st.keepalive_time = seconds(fsm_.keepalive_s());
    st.hold_left = left(fsm_.hold_deadline());
    st.keepalive_left = left(fsm_.keepalive_deadline());
    if (const auto& c = conns_[session_->slot]) {
      if (c->local()) st.local_address = to_ip(c->local()->address());
      if (c->remote()) st.remote_port = c->remote()->port();
    }
  }
  if (session_) {
    const auto behind = session_->group->backlog(*session_->member);
    const auto* const c = connection();
    st.backlog_bytes = behind.bytes + (c != nullptr ? c->pending() : 0);
    st.backlog_routes = behind.prefixes;
  }
  st.gr_active = has_stale();
  st.gr_left = held_ ? milliseconds(0) : left(stale_deadline_);
  return st;
}

}  // namespace calico::bgp
