/// Peer: sessions. What begins with one, which routes outlive it, and when those go (graceful restart, long-lived,
/// isolation: see peer.hpp).
#include <fmt/format.h>

#include <algorithm>

#include "core/bgp/codec/negotiate.hpp"
#include "core/bgp/session/peer.hpp"

namespace calico::bgp {

using std::chrono::seconds;

namespace {
constexpr Family kFamilies[] = {Family::v4, Family::v6};
constexpr seconds kSettle{10};  // a peer without graceful restart sends no End-of-RIB
}  // namespace

bool Peer::in_sync() const {
  if (!session_) return false;
  for (auto f : {0, 1})
    if (session_->families[f] && !session_->eor_in[f]) return false;
  return true;
}

bool Peer::awaited() const {
  // RFC 4724 4.1: not for those that restart themselves, nor for those that will never say it.
  return !session_ || (session_->remote.caps.graceful_restart && !session_->remote_restarting && !in_sync());
}

bool Peer::has_stale() const {
  const auto& rp = core_.rib().peer(rib_id_);
  return rp.stale[0] + rp.stale[1] > 0;
}

// --- begin and end ---------------------------------------------------------------------------------------------------

void Peer::session_up(Slot slot, const Open& remote) {
  auto& s = session_.emplace();
  s.slot = slot;
  s.remote = remote;
  const auto ours = core_.capabilities(config_);
  s.local_caps = info_of(ours);
  const auto both = negotiate(ours, remote.caps, internal());
  s.codec = both.in;
  s.enhanced_refresh = both.enhanced_refresh;
  conns_[slot]->set_max_message(both.in.max_message);
  s.target.internal = internal();
  s.target.client = config_.route_reflector_client;
  s.target.next_hop = config_.next_hop;
  s.target.self_v4 = core_.options().next_hop_v4;
  s.target.self_v6 = core_.options().next_hop_v6;
  if (auto local = conns_[slot]->local()) {
    const auto ip = to_ip(local->address());
    (ip.is_v4() ? s.target.self_v4 : s.target.self_v6) = ip;
  }
  s.target.exports = exports();
  s.target.filter = config_.export_filter;
  s.target.as4 = both.as4_out;
  s.target.max_message = both.out[0].max_message;
  s.target.extended_next_hop = both.out[0].extended_next_hop;
  s.target.long_lived = remote.caps.graceful_restart && remote.caps.long_lived;
  for (auto f : {0, 1}) {
    s.families[f] = s.target.families[f] = both.families[f];
    s.target.add_path[f] = both.out[f].add_path;
  }
  const auto& gr = remote.caps.graceful_restart;
  s.remote_restarting = gr && gr->restarting;
  auto& rp = core_.rib().peer(rib_id_);
  // Another identifier is another router (and would be another ORIGINATOR_ID): what the former one said goes.
  if (rp.router_id != remote.router_id) drop_all_routes();
  rp.router_id = remote.router_id;
  s.group = &core_.group_for(s.target);
  s.member = s.group->join(rib_id_, remote.router_id);

  const bool was_held = held_;
  bool stale = false;
  for (auto family : kFamilies) {
    const auto f = fam(family);
    if (rp.stale[f] == 0) {
      long_lived_[f] = {};
      continue;
    }
    bool preserved = was_held;
    if (gr && !long_lived_[f].active)
      for (const auto& e : gr->families) preserved |= e.family == unicast(family) && e.preserved;
    if (gr && remote.caps.long_lived && long_lived_[f].active)
      for (const auto& e : remote.caps.long_lived->families) preserved |= e.family == unicast(family) && e.preserved;
    if (s.families[f] && preserved)
      stale = true;
    else if (core_.rib().drop(rib_id_, family, true) > 0)  // RFC 4724 4.2, 9494 4.2
      long_lived_[f] = {};
  }
  // A peer that lost all memory ends its RIB before it has heard the others: what we keep waits for them too.
  s.late_sweep = stale && was_held && !s.remote_restarting;
  stale_deadline_.reset();
  sweep_at_.reset();
  held_ = false;
  const seconds wait = gr ? std::max({core_.options().restart_time, seconds(gr->time_s), kSettle}) : seconds(kSettle);
  eor_deadline_ = core_.now() + wait;
  last_error_.clear();
  core_.report(PeerEvent::Kind::established, config_.name,
               fmt::format("{} AS {} id {}{}", config_.address, remote.as.value, Ip::v4(remote.router_id),
                           s.remote_restarting ? " restarting" : ""));
  core_.peer_changed();
  core_.schedule_flush();
}

bool Peer::keeps_routes(const Down& down) const {
  if (!core_.options().graceful_restart || removed_) return false;
  const auto& gr = session_->remote.caps.graceful_restart;
  const bool n = gr && gr->notification;
  const auto& m = down.notification;
  switch (down.cause) {
    case Down::Cause::tcp:
    case Down::Cause::replaced:
    case Down::Cause::hold_expired:
      return true;
    case Down::Cause::notification_received:
      // A collision that was resolved a moment too late says nothing about the peer.
      if (m.code == notify::kCease && m.subcode == notify::kCollision) return true;
      return n && !(m.code == notify::kCease && m.subcode == notify::kHardReset);  // RFC 8538 4
    case Down::Cause::notification_sent:
      return keep_on_restart_ || (n && m.code != notify::kCease);
    case Down::Cause::stopped:
      return false;
  }
  return false;
}

void Peer::session_down(const Down& down) {
  if (!session_) return;
  ++counters_.flaps;
  const bool keep = keeps_routes(down);
  const auto gr = session_->remote.caps.graceful_restart;
  const auto long_lived = session_->remote.caps.long_lived;
  const bool isolation = core_.options().keep_when_isolated.count() > 0;
  leave_group();
  session_.reset();
  eor_deadline_.reset();
  sweep_at_.reset();
  last_error_ = down.text;
  core_.report(PeerEvent::Kind::down, config_.name, down.text);
  if (core_.stopping()) return;  // the routes stay where they are
  if (keep) {
    for (auto family : kFamilies) {
      bool listed = false;
      if (gr)
        for (const auto& e : gr->families) listed |= e.family == unicast(family);
      auto& ll = long_lived_[fam(family)];
      ll.allowed = seconds(0);
      if (gr && long_lived)
        for (const auto& e : long_lived->families)
          if (e.family == unicast(family))
            ll.allowed = std::min(seconds(e.stale_s), core_.long_lived_stale_time(config_));
      const bool spent = ll.until && *ll.until <= core_.now();  // RFC 9494 4.2: it ran out before the End-of-RIB
      // RFC 4724 4.2: what is stale for the second time goes, unless it may be all we have, or its time still runs.
      if (!isolation && (!ll.until || spent)) core_.rib().drop(rib_id_, family, true);
      if (isolation || (!spent && (listed || ll.allowed.count() > 0)))
        core_.rib().mark_stale(rib_id_, family);
      else
        core_.rib().drop(rib_id_, family, false);
      // RFC 9494 4.2: for a family without graceful restart its time has ended already.
      if (!listed && !isolation && !spent && ll.allowed.count() > 0) begin_long_lived(family);
      if (core_.rib().peer(rib_id_).stale[fam(family)] == 0) ll = {};
    }
    if (has_stale()) stale_deadline_ = core_.now() + seconds(gr ? gr->time_s : 0);
  } else {
    drop_all_routes();
    stale_deadline_.reset();
  }
  core_.peer_changed();
  core_.schedule_flush();
}

void Peer::leave_group() {
  if (!session_ || session_->group == nullptr) return;
  session_->group->leave(std::exchange(session_->member, nullptr));
  core_.drop_if_empty(*std::exchange(session_->group, nullptr));
}

void Peer::change_group() {
  auto& s = *session_;
  if (s.target.add_path[0] || s.target.add_path[1]) return give_up();  // what it holds only the journal knows
  auto& group = core_.group_for(s.target);
  auto* const member = group.join_from(*s.group, *s.member);
  leave_group();
  s.group = &group;
  s.member = member;
}

// --- stale routes ---------------------------------------------------------------------------------------------------

void Peer::drop_all_routes() {
  for (auto family : kFamilies) {
    core_.rib().drop(rib_id_, family, false);
    long_lived_[fam(family)] = {};
  }
  held_ = false;
}

void Peer::end_of_rib(Family family) {
  auto& s = *session_;
  const auto f = fam(family);
  if (s.eor_in[f]) return;
  s.eor_in[f] = true;
  long_lived_[f] = {};
  if (!s.late_sweep) core_.rib().drop(rib_id_, family, true);
  if (in_sync()) {
    eor_deadline_.reset();
    if (s.late_sweep && has_stale()) sweep_at_ = core_.now() + core_.options().deferral;
  }
  core_.peer_changed();
  core_.schedule_flush();
}

void Peer::expire_stale() {
  stale_deadline_.reset();
  // The long-lived time begins here, held or not: it counts from the loss, and being held does not make it longer.
  for (auto& ll : long_lived_)
    if (ll.allowed.count() > 0 && !ll.until) ll.until = core_.now() + ll.allowed;
  if (hold_while_isolated()) return;
  std::size_t n = 0;
  for (auto family : kFamilies) n += begin_long_lived(family);
  went(n);
}

/// Keeping what may be all we have comes before any time of the peer's.
bool Peer::hold_while_isolated() {
  held_ = false;
  if (const auto since = core_.isolated_since(remote_as())) {
    const auto end = *since + core_.options().keep_when_isolated;
    if (core_.now() < end) {
      held_ = true;
      stale_deadline_ = end;
    }
  }
  return held_;
}

/// The restart time of the family is over. How many routes went.
std::size_t Peer::begin_long_lived(Family family) {
  auto& ll = long_lived_[fam(family)];
  const auto now = core_.now();
  if (ll.allowed.count() > 0 && !ll.until) ll.until = now + ll.allowed;
  ll.active = ll.until && now < *ll.until;
  return ll.active ? core_.rib().make_long_lived(rib_id_, family) : core_.rib().drop(rib_id_, family, true);
}

void Peer::end_long_lived(Family family) {
  long_lived_[fam(family)].active = false;
  if (session_ ? session_->late_sweep : hold_while_isolated()) return;
  went(core_.rib().drop(rib_id_, family, true));
}

void Peer::went(std::size_t stale) {
  if (stale > 0)
    core_.report(PeerEvent::Kind::stale_expired, config_.name, fmt::format("{} stale routes removed", stale));
  core_.schedule_flush();
  if (dynamic_ && !session_ && !has_stale() && fsm_.state() == PeerState::active) core_.retire(*this);
}

void Peer::isolation_ended(bool grace) {
  if (!held_ || session_) return;
  held_ = false;
  stale_deadline_ = core_.now() + (grace ? core_.options().deferral : seconds(0));
  arm_timer();
}

}  // namespace calico::bgp
