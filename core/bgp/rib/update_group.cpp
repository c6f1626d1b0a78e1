#include "core/bgp/rib/update_group.hpp"

#include <algorithm>
#include <cassert>

#include "core/bgp/codec/update.hpp"

namespace calico::bgp {

namespace {
constexpr std::size_t kCatchUp = 4096;  // prefixes sent to a slow member at once
constexpr Family kFamilies[] = {Family::v4, Family::v6};
}  // namespace

Segment::~Segment() {
  // A long journal would end in as many nested destructors.
  for (auto n = std::move(next); n && n.use_count() == 1;) n = std::exchange(n->next, nullptr);
}

UpdateGroup::UpdateGroup(Rib& rib, AttrStore& attrs, const LocalSpeaker& speaker, Target target, Limits limits)
    : rib_(rib),
      attrs_(attrs),
      speaker_(speaker),
      target_(std::move(target)),
      limits_(limits),
      tail_(std::make_shared<Segment>()) {}

UpdateGroup::~UpdateGroup() {
  for (auto* m : lagging_) release(*m->lag);
  for (; queue_at_ < queue_.size(); ++queue_at_) rib_.unpin(queue_[queue_at_]);
  for (PrefixId id = 0; id < sent_.size(); ++id) {
    if (sent_[id].attr == kNoAttr) continue;
    attrs_.unref(sent_[id].attr);
    rib_.unpin(id);
  }
  for (auto& [id, list] : paths_) {
    for (const auto& p : list) attrs_.unref(p.sent.attr);
    rib_.unpin(id);
  }
}

void UpdateGroup::begin() {
  for (PrefixId id = 0; id < rib_.id_limit(); ++id)
    if (rib_.used(id) && rib_.best(id) != kNone) queue(id);
}

// --- members --------------------------------------------------------------------------------------------------------

UpdateGroup::Member* UpdateGroup::join(RibPeerId peer, std::uint32_t router_id) {
  auto& m = *members_.emplace_back(std::make_unique<Member>());
  m.peer = peer;
  m.router_id = router_id;
  if (counts_.v[0] + counts_.v[1] == 0) {
    m.at = tail_;
  } else {
    m.wants_dump[0] = target_.families[0];
    m.wants_dump[1] = target_.families[1];
  }
  return &m;
}

UpdateGroup::Member* UpdateGroup::join_from(UpdateGroup& former, const Member& was) {
  auto& m = *members_.emplace_back(std::make_unique<Member>());
  m.peer = was.peer;
  m.router_id = was.router_id;
  m.at = tail_;
  m.lag = std::make_unique<Lag>();
  lagging_.push_back(&m);
  former.mark_sent(*m.lag, std::nullopt);
  mark_sent(*m.lag, std::nullopt);
  if (was.lag) {
    for (PrefixId id = 0; id < was.lag->pending.size(); ++id)
      if (was.lag->pending[id]) mark(*m.lag, id);
    for (auto f : {0, 1}) m.lag->ends_dump[f] = was.lag->ends_dump[f];
  } else if (was.at) {
    former.mark_unread(was, *m.lag);
  }
  for (auto f : {0, 1}) m.lag->ends_dump[f] |= was.dumping[f];
  return &m;
}

void UpdateGroup::leave(Member* member) {
  if (member->lag) release(*member->lag);
  std::erase(lagging_, member);
  std::erase_if(members_, [&](const auto& m) { return m.get() == member; });
}

void UpdateGroup::refresh(Member& m, Family family) {
  if (!m.lag) {
    m.wants_dump[fam(family)] = true;
    return;
  }
  m.lag->ends_dump[fam(family)] = true;
  mark_sent(*m.lag, family);
}

bool UpdateGroup::in_sync(const Member& m) const {
  return m.at == tail_ && !m.lag && queue_at_ == queue_.size() && !m.dumping[0] && !m.dumping[1] && !m.wants_dump[0] &&
         !m.wants_dump[1];
}

bool UpdateGroup::sends(const Member& m, PrefixId id) const {
  bool any = false;
  each_sent(id, [&](std::uint32_t, const Sent& sent) { any |= !excludes(sent, m); });
  return any;
}

void UpdateGroup::count_for(const Member& m, std::uint32_t out[2]) const {
  const auto source = by_source_.find(m.peer);
  const auto originator = by_originator_.find(m.router_id);
  for (auto f : {0, 1}) {
    out[f] = counts_.v[f];
    if (source != by_source_.end()) out[f] += source->second.own[f] - source->second.v[f];
    if (originator != by_originator_.end()) out[f] -= originator->second.v[f];
  }
}

std::size_t UpdateGroup::journal_bytes() const {
  auto oldest = tail_->end_offset;
  for (const auto& m : members_)
    if (m->at) oldest = std::min(oldest, m->at->end_offset);
  return tail_->end_offset - oldest;
}

// --- the journal -----------------------------------------------------------------------------------------------------

void UpdateGroup::append(std::shared_ptr<Segment> segment) {
  if (segment->runs.empty()) return;
  segment->bytes->shrink_to_fit();
  segment->end_offset = tail_->end_offset + segment->bytes->size();
  tail_->next = segment;
  tail_ = std::move(segment);
}

void UpdateGroup::append_mark(Run::For what) {
  auto s = std::make_shared<Segment>();
  s->runs.emplace_back().audience = what;
  append(std::move(s));
}

UpdateGroup::Pace UpdateGroup::pace() const {
  constexpr auto kNobody = ~std::uint64_t{0};
  Pace p;
  p.fastest = p.fastest_joiner = kNobody;
  for (const auto& m : members_) {
    const bool reads_dump = m->promised || m->dumping[0] || m->dumping[1];
    p.waiting |= (m->wants_dump[0] || m->wants_dump[1]) && !m->promised;
    if (m->lag) p.fastest = 0;  // it holds nothing of the journal
    if (m->lag || !m->at) continue;
    p.fastest = std::min(p.fastest, lag_of(*m));
    if (reads_dump) p.fastest_joiner = std::min(p.fastest_joiner, lag_of(*m));
    p.joining |= reads_dump;
  }
  if (p.fastest == kNobody) p.fastest = 0;
  // A dump copies what was sent; while that waits to be changed, its source may be gone.
  p.settled = queue_at_ == queue_.size() && !rib_.dirty();
  return p;
}

bool UpdateGroup::has_work() const {
  const auto p = pace();
  if (queue_at_ < queue_.size()) return p.fastest < limits_.window;
  if (!p.settled) return false;  // the RIB's own turn comes first
  return dump_active_ ? !p.joining || p.fastest_joiner < limits_.window : p.waiting;
}

void UpdateGroup::produce(std::size_t budget) {
  auto p = pace();
  if (queue_at_ < queue_.size() && p.fastest < limits_.window) {
    const auto limit = tail_->end_offset + limits_.window;
    while (budget > 0 && queue_at_ < queue_.size() && tail_->end_offset < limit) produce_some(budget);
    p = pace();
  }
  if (dump_active_ && !p.joining) {
    dump_active_ = false;
    append_mark(Run::For::dump_end);
  }
  if (!p.settled) return;
  if (!dump_active_ && p.waiting) {
    begin_dump();
    p.fastest_joiner = 0;
  }
  if (dump_active_ && p.fastest_joiner < limits_.window) dump_window();
}

/// One segment of the journal.
void UpdateGroup::produce_some(std::size_t& budget) {
  items_.clear();
  decoded_.first = kNoAttr;
  const auto from = queue_at_;
  std::size_t bytes = 0;
  auto last = kNoAttr;
  while (budget > 0 && queue_at_ < queue_.size() && bytes < limits_.segment) {
    const auto id = queue_[queue_at_++];
    --budget;
    queued_[id] = false;
    const auto before = items_.size();
    multi(fam(rib_.family(id))) ? update_paths(id, items_) : update(id, items_);
    for (auto i = before; i < items_.size(); ++i) {
      bytes += 5;
      if (items_[i].attr != kNoAttr && items_[i].attr != last) bytes += attrs_.at(last = items_[i].attr).size + 64;
    }
  }
  auto segment = std::make_shared<Segment>();
  emit(items_, *segment);
  append(std::move(segment));
  for (auto i = from; i < queue_at_; ++i) rib_.unpin(queue_[i]);  // their names were needed until here
  // Under a load that never ends the front is cut off now and then.
  if (queue_at_ == queue_.size() || queue_at_ > 65536) {
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(queue_at_));
    queue_at_ = 0;
  }
}

// --- dumps ----------------------------------------------------------------------------------------------------------

void UpdateGroup::begin_dump() {
  for (auto& m : members_) {
    if (m->lag || (!m->wants_dump[0] && !m->wants_dump[1])) continue;
    if (!m->at) m->at = tail_;
    m->promised = true;
  }
  append_mark(Run::For::dump_begin);
  dump_active_ = true;
  dump_at_ = 0;
}

void UpdateGroup::dump_window() {
  items_.clear();
  const auto end = std::min<std::size_t>(rib_.id_limit(), dump_at_ + limits_.dump_window);
  for (; dump_at_ < end; ++dump_at_)
    each_sent(dump_at_, [&](std::uint32_t path_id, const Sent& sent) {
      items_.push_back(announcement(dump_at_, path_id, sent));
      items_.back().audience = Run::For::joiners;
    });
  auto segment = std::make_shared<Segment>();
  emit(items_, *segment);
  append(std::move(segment));
  if (dump_at_ < rib_.id_limit()) return;
  dump_active_ = false;
  append_mark(Run::For::dump_end);
}

// --- handing out ----------------------------------------------------------------------------------------------------

bool UpdateGroup::hears(const Member& m, const Run& run) const {
  if (run.only != kNone) return run.only == m.peer;
  if (run.skip == m.peer || (run.skip_router != 0 && run.skip_router == m.router_id)) return false;
  if (run.audience == Run::For::joiners) return m.dumping[run.family];
  if (run.audience == Run::For::members) return !m.dumping[run.family];
  return true;
}

void UpdateGroup::hand_out(Member& m, Outlet& outlet) {
  if (!m.lag && m.at && lag_of(m) > limits_.max_lag && !outlet.ready()) {
    if (multi(0) || multi(1)) {
      outlet.give_up();
      return;
    }
    detach(m, outlet);
  }
  if (m.lag) {
    catch_up(m, outlet);
    if (m.lag) return;
  }
  if (!m.at) return;
  while (outlet.ready()) {
    auto next = m.at->next;
    if (!next) return;
    // Runs that follow each other are one piece.
    std::size_t begin = 0, end = 0;
    const auto flush = [&] {
      if (end > begin) outlet.put(next->bytes, begin, end);
      begin = end = 0;
    };
    for (const auto& run : next->runs) {
      switch (run.audience) {
        case Run::For::dump_begin:
          m.promised = false;
          for (auto family : kFamilies)
            if (std::exchange(m.wants_dump[fam(family)], false)) {
              m.dumping[fam(family)] = true;
              outlet.dump_began(family);
            }
          continue;
        case Run::For::dump_end:
          for (auto family : kFamilies)
            if (std::exchange(m.dumping[fam(family)], false)) outlet.dump_ended(family);
          continue;
        default:
          break;
      }
      if (!hears(m, run)) continue;
      m.given(run);
      if (run.begin != end) flush();
      if (end == 0) begin = run.begin;
      end = run.end;
    }
    flush();
    m.at = std::move(next);
  }
}

bool UpdateGroup::behind(const Member& m) const {
  return m.lag ? m.lag->count > 0 && queue_at_ == queue_.size() : m.at && m.at != tail_;
}

UpdateGroup::Backlog UpdateGroup::backlog(const Member& m) const {
  if (m.lag) return {0, m.lag->count};
  return {m.at ? lag_of(m) : 0, queue_.size() - queue_at_};
}

// --- slow members ---------------------------------------------------------------------------------------------------

void UpdateGroup::mark(Lag& lag, PrefixId id) {
  if (id >= lag.pending.size()) lag.pending.resize(std::max<std::size_t>(id + 1, rib_.id_limit()));
  if (lag.pending[id]) return;
  lag.pending[id] = true;
  ++lag.count;
  rib_.pin(id);
}

void UpdateGroup::release(Lag& lag) {
  for (PrefixId id = 0; id < lag.pending.size() && lag.count > 0; ++id) {
    if (!lag.pending[id]) continue;
    lag.pending[id] = false;
    --lag.count;
    rib_.unpin(id);
  }
}

/// What the journal still holds for the member becomes ids; the bytes tell which.
void UpdateGroup::mark_unread(const Member& member, Lag& lag) {
  Member m;  // hears() as it will be at each place
  m.peer = member.peer;
  m.router_id = member.router_id;
  for (auto f : {0, 1}) {
    m.wants_dump[f] = member.wants_dump[f];
    m.dumping[f] = member.dumping[f];
  }
  Update update;
  CodecContext context{target_.internal, target_.as4};
  context.extended_next_hop = target_.extended_next_hop;
  context.max_message = target_.max_message;
  for (auto s = member.at->next; s; s = s->next)
    for (const auto& run : s->runs) {
      if (run.audience == Run::For::dump_begin)
        for (auto f : {0, 1}) m.dumping[f] |= std::exchange(m.wants_dump[f], false);
      if (run.audience == Run::For::dump_end) m.dumping[0] = m.dumping[1] = false;
      if (!hears(m, run)) continue;
      for (auto bytes = View(*s->bytes).subspan(run.begin, run.end - run.begin); bytes.size() >= kHeaderSize;) {
        const auto length = std::to_integer<std::size_t>(bytes[16]) << 8 | std::to_integer<std::size_t>(bytes[17]);
        const auto ok = decode_update(bytes.subspan(kHeaderSize, length - kHeaderSize), context, update);
        assert(ok);
        if (!ok) break;
        for (const auto* list : {&update.withdrawn, &update.announced, &update.announced_mp})
          for (const auto& route : *list) mark(lag, rib_.find_or_add(route.prefix));
        bytes = bytes.subspan(length);
      }
    }
}

void UpdateGroup::mark_sent(Lag& lag, std::optional<Family> family) {
  for (PrefixId id = 0; id < sent_.size(); ++id)
    if (sent_[id].attr != kNoAttr && (!family || rib_.family(id) == *family)) mark(lag, id);
}

void UpdateGroup::detach(Member& m, Outlet& outlet) {
  auto lag = std::make_unique<Lag>();
  mark_unread(m, *lag);
  for (auto family : kFamilies) {
    const auto f = fam(family);
    if (!m.dumping[f] && !m.wants_dump[f]) continue;
    if (m.wants_dump[f]) outlet.dump_began(family);
    m.dumping[f] = m.wants_dump[f] = m.promised = false;
    lag->ends_dump[f] = true;
    mark_sent(*lag, family);
  }
  m.at = tail_;
  m.lag = std::move(lag);
  lagging_.push_back(&m);
}

void UpdateGroup::catch_up(Member& m, Outlet& outlet) {
  auto& lag = *m.lag;
  m.at = tail_;
  // What is queued is not in sent_ yet: a group that is new would take everything away first.
  while (lag.count > 0 && outlet.ready() && queue_at_ == queue_.size()) {
    items_.clear();
    if (lag.at >= lag.pending.size()) lag.at = 0;
    std::size_t bytes = 0;
    for (; lag.at < lag.pending.size() && items_.size() < kCatchUp && bytes < limits_.segment; ++lag.at) {
      const auto id = lag.at;
      if (!lag.pending[id]) continue;
      lag.pending[id] = false;
      --lag.count;
      Item i;
      i.id = id;
      i.family = static_cast<std::uint8_t>(fam(rib_.family(id)));
      const auto sent = id < sent_.size() ? sent_[id] : Sent{};
      if (sent.attr != kNoAttr && !excludes(sent, m)) {
        i.attr = sent.attr;
        i.source = sent.source;
        i.variant = sent.variant;
        bytes += attrs_.at(sent.attr).size;
      }
      if (target_.families[i.family])
        items_.push_back(i);
      else
        rib_.unpin(id);
    }
    auto segment = std::make_shared<Segment>();
    emit(items_, *segment);
    for (const auto& i : items_) rib_.unpin(i.id);  // their names were needed until here
    for (const auto& run : segment->runs) m.given(run);
    if (!segment->bytes->empty()) outlet.put(segment->bytes, 0, segment->bytes->size());
  }
  if (lag.count > 0 || queue_at_ < queue_.size()) return;
  for (auto family : kFamilies)
    if (lag.ends_dump[fam(family)]) outlet.dump_ended(family);
  std::erase(lagging_, &m);
  m.lag.reset();
}

}  // namespace calico::bgp
